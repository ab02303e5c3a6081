"""A module of the user's own from the command line and from Python; the example that the README names."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bench
from backends.base import BackendError
from bench import preparation
from bench.errors import UserError
from bench.parity import check as parity_check
from bench.parity import judging, verdict
from bench.parity import verify as parity_verify
from bench.parity.inputs import InputPlan
from bench.parity.references import References
from bench.passes import Passes
from bench.preparation import Preparation
from bench.process import export
from bench.run import model as introduction
from bench.spec import Candidate, Grid, Shape, command_of
from exporters import checkpoint, onnx, sources, torchscript
from exporters.store import Artifact, ArtifactStore

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "own_gpt2.py"
CASES = ROOT / "tests" / "exporters" / "own_cases.py"


@pytest.fixture(autouse=True)
def _same_path() -> Iterator[None]:
    """What a factory's folder adds to the import path is of this test alone."""
    before, loaded = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - loaded:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.fixture
def exports_here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The exporting process's work done in this one; returns the command lines that were asked for."""
    asked: list[list[str]] = []

    class Here:
        def __init__(self, options: list[str]) -> None:
            self.options, self.args = options, export.parser().parse_args(options)

        def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
            asked.append(message.get("options", self.options))
            reply = export.answer(self.args, message.get("options"))
            if "error" in reply:
                raise preparation.WorkerError(reply["error"]["status"], reply["error"]["reason"])
            return dict(reply["ok"])

        def kill(self) -> None:
            pass

    def start(root: Path, options: list[str], threads: int, python: Path | None = None) -> Here:
        assert python is None
        return Here(options)

    monkeypatch.setattr(preparation.export, "start", start)
    return asked


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactStore, sources.ModelSource, Artifact]:
    """The example's checkpoint, settled."""
    store = ArtifactStore(tmp_path_factory.mktemp("gpt2"))
    source = sources.resolve(f"{EXAMPLE}:tiny")
    weights = store.make(checkpoint.recipe(source), lambda folder: checkpoint.export(source, folder))
    return store, source.settled(weights.metadata), weights


# The example


def test_the_example_is_a_language_model_that_generates(
    gpt2: tuple[ArtifactStore, sources.ModelSource, Artifact],
) -> None:
    _, source, weights = gpt2
    assert (source.task, source.vocab_size, source.positions, source.inputs) == ("lm", 1024, 128, sources.INPUTS)
    named = sources.resolve("gpt2-tiny", weights="random", task="lm")
    assert source.generates
    assert source.key_value_bytes(12, "fp32") == named.key_value_bytes(12, "fp32")
    parameters = torch.nn.Module.parameters(checkpoint.open_checkpoint(weights.path, "cpu", "fp32"))
    assert weights.metadata["parameters"] == sum(parameter.numel() for parameter in parameters)


def test_the_example_has_the_logits_of_transformers_gpt2(
    gpt2: tuple[ArtifactStore, sources.ModelSource, Artifact],
) -> None:
    from exporters import models

    ours = checkpoint.open_checkpoint(gpt2[2].path, "cpu", "fp64")
    theirs = models.build(sources.resolve("gpt2-tiny", weights="random", task="lm", seed=3)).double()
    given = theirs.state_dict()
    names = {"attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out", "mlp.c_fc": "feed_forward.0",
             "mlp.c_proj": "feed_forward.2", "ln_1": "norm_1", "ln_2": "norm_2"}  # fmt: skip
    taken = {"token_table.weight": given["transformer.wte.weight"], "head.weight": given["transformer.wte.weight"]}
    taken["position_table.weight"] = given["transformer.wpe.weight"]
    for kind in ("weight", "bias"):
        taken[f"norm.{kind}"] = given[f"transformer.ln_f.{kind}"]
        for layer in range(2):
            for one, other in names.items():
                value = given[f"transformer.h.{layer}.{one}.{kind}"]
                taken[f"blocks.{layer}.{other}.{kind}"] = value.T if value.ndim == 2 else value
    ours.model.load_state_dict(taken)
    theirs = models.wrap(theirs)
    ids = torch.arange(3 * 11).reshape(3, 11) * 7 % 1024
    mask = torch.ones_like(ids)
    mask[1, 8:], mask[2, :3] = 0, 0
    with torch.inference_mode():
        one, other = ours(ids, mask), theirs(ids, mask)
        assert (one - other)[mask.bool()].abs().max() < 1e-12 < other.abs().max()
        cache = None
        for start, end in ((0, 4), (4, 5), (5, 11)):
            last, cache = ours.step(ids[:, start:end], mask[:, :end], cache)
            assert (last - other[:, end - 1])[mask[:, end - 1].bool()].abs().max() < 1e-12


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_the_example_goes_through_an_exporter(
    name: str, gpt2: tuple[ArtifactStore, sources.ModelSource, Artifact], tmp_path: Path
) -> None:
    import backends

    store, source, weights = gpt2
    exporter, recipe = {"torchscript": torchscript, "onnx": onnx}[name], {"precision": "fp32", "device": "cpu"}
    artifact = store.make({"format": name}, lambda folder: exporter.export(weights.path, folder, recipe))
    plan = InputPlan(
        3, 21, source.vocab_size, 0, 0, source.output_width, ("random-full", "random-right", "random-left", "zipf-holes")
    )  # fmt: skip
    request = {"yardstick": str(tmp_path / "fp32"), "precision": "fp32", "atol": 0.0, "rtol": 0.0}
    for precision in ("fp64", "fp32"):
        eager = backends.load_class("eager")(open_checkpoint=checkpoint.open_checkpoint)
        eager.load(weights.path, device="cpu", precision=precision, threads=1, options={})
        (tmp_path / precision).mkdir()
        judging.evaluate(eager, plan, tmp_path / precision, None)
    backend = backends.load_class(name)()
    backend.load(artifact.path, device="cpu", precision="fp32", threads=1, options={})
    found = judging.check(backend, plan, tmp_path / "fp64", request)
    assert len(found) == 4
    for figures in found.values():
        assert figures[0]["output"] == "logits"
        assert verdict.judge(figures, verdict.TOLERANCES["fp32"])["verdict"] in ("exact", "equivalent")
    backend.close()


@pytest.mark.slow
def test_the_example_from_the_command_line(cli: Callable[..., Any], artifacts: Path, tmp_path: Path) -> None:
    options = ["--batches", "2", "--lengths", "8", "--rounds", "1", "--max-seconds-per-cell", "0.05"]
    backends = "compile"  # the others are judged in this process
    where = ["--artifacts", str(artifacts), "--device", "cpu", "--output", str(tmp_path / "run.jsonl")]
    done = cli("compare", "--module", f"{EXAMPLE}:tiny", "--backends", backends, *options, *where)
    run = bench.read_run(tmp_path / "run.jsonl")
    assert done.returncode == 0, done.stderr
    assert [record.verdict for record in run.records].count("broken") == 0
    assert {record.status for record in run.records} == {"ok"}
    assert {record.weights for record in run.records} == {"module"}
    assert run.origin == f"module {EXAMPLE}:tiny (seed 0)"
    assert all(f"--module {EXAMPLE}:tiny" in record.repeat for record in run.records)
    assert all(set(record.parity["cases"]) == {"timed", "padded"} for record in run.records)
    assert max(len(line) for line in done.stdout.splitlines() if str(tmp_path) not in line) <= 80


@pytest.mark.slow
def test_a_module_in_memory_is_timed_and_judged_on_its_own_inputs(artifacts: Path, tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(4, 6)

        def forward(self, signal: torch.Tensor) -> torch.Tensor:
            return self.line(signal).relu()

    def make_inputs(batch: int, length: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"signal": torch.rand(batch, length, 4, generator=generator)}

    network = Net()
    options: dict[str, Any] = {"device": "cpu", "artifacts": artifacts, "batches": [2], "lengths": [8]}
    plan = bench.TimingPlan(rounds=1, seconds_per_cell=0.05)
    output = tmp_path / "run.jsonl"
    run = bench.compare(network, make_inputs=make_inputs, backends="eager,null", plan=plan, output=output, **options)
    assert [record.status for record in run.records] == ["ok", "ok"]
    assert [record.verdict for record in run.records] == ["exact", ""]
    assert run.grid.model.startswith("Net@")
    assert any("no padded case" in warning for warning in run.records[0].warnings)
    assert bench.resume(output, artifacts=artifacts).records == run.records


def test_the_readmes_module_is_one(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "def tagger" in block)
    (tmp_path / "own_tagger.py").write_text(code)
    metadata = checkpoint.export(sources.resolve(f"{tmp_path / 'own_tagger.py'}:tagger"), tmp_path)
    told = {name: metadata[name] for name in ("inputs", "outputs", "whole_outputs", "output_width", "makes_inputs")}
    assert told == {
        "inputs": ["ids", "prior"], "outputs": ["output"], "whole_outputs": [], "output_width": 12, "makes_inputs": True,
    }  # fmt: skip


# What a command is told


def test_a_factory_is_settled_before_anything_is_planned(exports_here: list[list[str]], tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    said: list[str] = []
    first = introduction.find_source(f"{CASES}:two", store, say=said.append)
    again = introduction.find_source(f"{CASES}:two", store, say=said.append)
    assert first == again
    assert (first.outputs, first.makes_inputs, said) == (("states", "pooled"), True, ["exporting checkpoint"])
    assert len(exports_here) == 1
    grid = Grid(first.name, (Candidate("eager", "default", "fp32"),), (Shape(2, 8),), "cpu", 1, first.weights)
    assert Preparation(grid, first, store, 60.0, said.append).missing_exports() == []
    asked = References(grid, first, store, 60.0, said.append, parity_check.Matrix()).inputs(Shape(2, 8))
    assert asked["cases"] == ("timed",)
    assert InputPlan.from_json(asked).whole_outputs == ("pooled",)
    assert f"--module {CASES}:two" in command_of(grid, bench.TimingPlan(), grid.contestants, grid.shapes)
    assert "--weights" not in command_of(grid, bench.TimingPlan(), grid.contestants, grid.shapes)


def test_a_module_in_memory_is_kept_in_the_store(exports_here: list[list[str]], tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    network = torch.nn.Linear(4, 3)

    def make_inputs(batch: int, length: int, seed: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((batch, length, 4), float(seed))}

    source = introduction.find_source(network, store, make_inputs=make_inputs)
    assert source.name.startswith("Linear@")
    assert source.origin == f"module {source.name}, handed over in memory"
    assert [path.name.partition("-")[0] for path in store.paths()] == ["checkpoint"]
    assert store.leftovers() == []
    assert not list(store.folder.glob(".making-module-*"))
    by_name = introduction.find_source(source.name, store, weights="module")
    assert by_name.traits == source.traits  # type: ignore[attr-defined]
    assert len(exports_here) == 1
    (artifact,) = (store.read(path) for path in store.paths())
    assert artifact is not None
    opened = checkpoint.open_checkpoint(artifact.path, "cpu", "fp32")
    assert torch.equal(opened.model.weight, network.weight)
    assert opened.make_inputs(1, 2, 5)["x"].tolist() == [[[5.0] * 4] * 2]


def test_a_mistake_in_the_module_is_the_users(exports_here: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights here"):
        introduction.find_source(f"{CASES}:raises", ArtifactStore(tmp_path))
    assert ArtifactStore(tmp_path).paths() == []


@pytest.mark.parametrize(
    ("model", "make_inputs", "message"),
    [
        (7, None, "int is no model"),
        (torch.nn.Linear, None, "type is no model"),
        ("bert-tiny", lambda batch, length, seed: {}, "make_inputs goes with a module in memory"),
        (torch.nn.Linear(2, 2), "text", "make_inputs is str"),
    ],
)
def test_what_is_no_model(model: Any, make_inputs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        introduction.find_source(model, ArtifactStore(tmp_path), make_inputs=make_inputs)


def test_a_certificates_module_is_known_where_it_moved_to_and_not_when_it_changed(
    exports_here: list[list[str]], tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "store")
    source = introduction.find_source(f"{CASES}:two", store)
    grid = Grid(source.name, (Candidate("eager", "default", "fp32"),), (Shape(2, 8),), "cpu", 1, source.weights)
    stated: Any = SimpleNamespace(
        grid=grid, weights_checksum=source.weights_checksum(), tokenizer=None, ids=("own",), masks=("full",), new_tokens=0
    )  # fmt: skip
    moved = tmp_path / CASES.name
    moved.write_bytes(CASES.read_bytes())
    for name in (None, f"{moved}:two"):
        found, matrix = parity_verify._model_of(stated, name, None, store, print)
        assert (found.outputs, matrix.cases(Shape(2, 8), False)) == (source.outputs, ("own-full",))
    moved.write_text(moved.read_text() + "# more\n")
    with pytest.raises(UserError, match="has other weights than the certificate's"):
        parity_verify._model_of(stated, f"{moved}:two", None, store, print)


@pytest.mark.parametrize("found", ["a folder", "eager at fp64: out of memory", None])
def test_workers_are_told_where_the_modules_own_inputs_lie(found: str | None, tmp_path: Path) -> None:
    stored: Any = SimpleNamespace(path=tmp_path) if found == "a folder" else found
    judged_by = SimpleNamespace(inputs=lambda shape: {}, stored_inputs=lambda shape: stored)
    passes: Any = SimpleNamespace(
        prepared=SimpleNamespace(judged_by=judged_by), plan=bench.TimingPlan(), grid=SimpleNamespace(boundary="device")
    )
    told = set(Passes.begin_request(passes, Shape(1, 8))) - {"op", "inputs_plan", "plan", "boundary"}
    assert told == {None: set(), "a folder": {"stored_inputs"}}.get(found, {"no_inputs"})


def test_an_artifact_of_a_named_model_keeps_its_key(tmp_path: Path) -> None:
    source = sources.resolve("bert-tiny", weights="random")
    grid = Grid("bert-tiny", (Candidate("eager", "default", "fp32"),), (Shape(2, 8),), "cpu", 1)
    asked = References(grid, source, ArtifactStore(tmp_path), 60.0, print, parity_check.Matrix()).inputs(Shape(2, 8))
    assert set(asked) == {
        "batch", "length", "vocab_size", "pad_token_id", "seed", "output_width", "cases", "most_rows",
    }  # fmt: skip
    assert set(checkpoint.recipe(source)) == {"format", "exporter_version", "libraries", "source"}


def test_a_timed_cell_takes_the_inputs_that_the_module_made(
    gpt2: tuple[ArtifactStore, sources.ModelSource, Artifact], tmp_path: Path
) -> None:
    from bench.process.loop import parser
    from bench.process.session import Session

    store = ArtifactStore(tmp_path)
    source = sources.resolve(f"{CASES}:two")
    weights = store.make(checkpoint.recipe(source), lambda folder: checkpoint.export(source, folder))
    source = source.settled(weights.metadata)
    plan = InputPlan(
        2, 8, 1, 0, 0, source.output_width, ("timed",),
        inputs=source.inputs, makes_inputs=True, whole_outputs=source.whole_outputs,
    )  # fmt: skip
    sessions = {}
    for precision in ("fp64", "fp32"):
        args = ["--backend", "eager", "--precision", precision, f"--artifact={weights.path}"]
        session = sessions[precision] = Session(parser().parse_args(args))
        (tmp_path / precision).mkdir()
        session.do_hello()
        session.do_load()
        told = session.do_evaluate(plan.to_json(), str(tmp_path / precision))
    assert told == {"rows": [0, 1]}
    assert sessions["fp64"].do_evaluate(plan.to_json(), str(tmp_path / "fp64"))["flops"] == 2 * 2 * 8 * 12 * 8
    timing = {"rounds": 1, "seconds_per_cell": 0.01, "warmup_seconds": 0.0}
    with pytest.raises(BackendError, match="own inputs are not there: out of memory"):
        session.do_begin(plan.to_json(), timing, no_inputs="out of memory")
    session.do_begin(plan.to_json(), timing, stored_inputs=str(tmp_path / "fp64"))
    session.do_turn(0.001)
    judged = session.do_judge(str(tmp_path / "fp64"), str(tmp_path / "fp32"), 0.0, 0.0)
    session.do_end()
    (figures,) = judged["cases"].values()
    assert [entry["identical_to_eager"] for entry in figures] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--module", "own.py:f", "--model", "bert"], "--model cannot be given with --module"),
        (["parity", "--module", "own.py:f", "--weights", "random"], "--weights cannot be given with --module"),
        (["parity", "--module", "own.py:f", "--task", "lm"], "--task cannot be given with --module"),
        (["compare", "--module", "nowhere.py:f"], "module file 'nowhere.py' does not exist"),
        (["compare", "--module", "nowhere.py"], "--module 'nowhere.py' names no factory"),
    ],
)
def test_a_command_line_that_cannot_be_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    from bench.cli import main

    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--artifacts", str(tmp_path)])
    monkeypatch.setattr("bench.cli.signal.signal", lambda number, function: None)
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.slow
def test_the_example_goes_through_a_corpus_and_has_its_memory_told(artifacts: Path, tmp_path: Path) -> None:
    which = f"{EXAMPLE}:tiny"
    options: dict[str, Any] = {"device": "cpu", "threads": 1, "artifacts": artifacts}
    passes = bench.measure_corpus(
        which, backends="eager", synthetic=6, batches="3", orders="sorted", rounds=1, output=tmp_path / "corpus.jsonl",
        **options,
    )  # fmt: skip
    assert [record.status for record in passes.records] == ["ok"]
    assert passes.records[0].verdict in ("exact", "equivalent")
    assert passes.command.startswith("bench corpus --module ")
    held = bench.measure_memory(which, backends="eager", output=tmp_path / "memory.jsonl", **options)
    assert held.records[0].status == "ok"
    assert " --module " in held.command


def test_a_module_without_a_mask_is_no_subject_of_a_corpus(exports_here: list[list[str]], tmp_path: Path) -> None:
    class Unmasked(torch.nn.Module):
        vocab_size = 8

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(8, 4)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.table(input_ids)

    with pytest.raises(UserError, match="takes no attention mask, so sentences cannot be padded for it"):
        bench.measure_corpus(Unmasked(), synthetic=4, device="cpu", artifacts=tmp_path)
