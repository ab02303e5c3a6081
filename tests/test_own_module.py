"""A module of the user's own from the command line and from Python; the example that the guide names."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import bench
from backends.base import OutOfMemoryError
from bench.errors import UserError
from bench.parity import evaluation
from bench.run import model as introduction
from bench.spec import Shape
from bench.workloads.judgements import judgements
from exporters import checkpoint, sources
from exporters.store import Artifact, ArtifactStore
from tests.in_process import preparation

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


def quick(tmp_path: Path) -> dict[str, Any]:
    """Options of a short run with records under `tmp_path`."""
    return {
        "device": "cpu", "threads": 1, "rounds": 1, "max_seconds_per_cell": "30ms", "warmup": "1ms",
        "max_warmup": "5ms", "batches": "2", "lengths": "8", "output": tmp_path / "run.jsonl",
    }  # fmt: skip


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


@pytest.mark.usefixtures("in_this_process")
def test_the_example_goes_through_exporters_a_corpus_and_has_its_memory_told(artifacts: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"module": f"{EXAMPLE}:tiny", "device": "cpu", "threads": 1, "artifacts": artifacts}
    parity = bench.check_parity(
        backends="torchscript,onnx", batches="3", lengths="21", output=tmp_path / "parity.jsonl", **options
    )
    found = judgements(parity)
    assert {judgement.verdict for judgement in found} <= {"exact", "equivalent"}
    assert [judgement.candidate.backend for judgement in found] == ["torchscript", "onnx"]
    corpus = {"synthetic": 6, "batches": "3", "orders": "sorted", "rounds": 1, "output": tmp_path / "corpus.jsonl"}
    passes = bench.measure_corpus(backends="eager", **corpus, **options)
    assert [record.status for record in passes.records] == ["ok"]
    assert passes.records[0].verdict in ("original", "exact", "equivalent")
    assert passes.command.startswith("bench corpus --module ")
    held = bench.measure_memory(backends="eager", output=tmp_path / "memory.jsonl", **options)
    assert held.records[0].status == "ok"
    assert " --module " in held.command


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("backend", ["torchscript", pytest.param("compile", marks=pytest.mark.slow)])
def test_the_example_from_the_command_line(
    backend: str, cli_here: Callable[..., Any], artifacts: Path, tmp_path: Path
) -> None:
    options = (
        "--batches 2 --lengths 8 --rounds 1 --max-seconds-per-cell 50ms --warmup 1ms --max-warmup 10ms --device cpu"
    )
    options += f" --artifacts {artifacts} --output {tmp_path / 'run.jsonl'} --backends {backend}"
    done = cli_here("compare", "--module", f"{EXAMPLE}:tiny", *options.split())
    assert done.returncode == 0, done.stderr
    run = bench.read_run(tmp_path / "run.jsonl")
    (record,) = run.records
    assert record.verdict in ("exact", "equivalent", "lossy")
    assert set(record.parity["cases"]) == {"timed", "padded"}
    assert (run.model.weights, run.model.origin) == ("module", f"module {EXAMPLE}:tiny (seed 0)")
    assert f"--module {EXAMPLE}:tiny" in run.repeat(record)
    assert not any(option in run.repeat(record) for option in ("--model ", "--weights", "--task"))
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

    options = quick(tmp_path) | {"artifacts": artifacts}
    run = bench.compare(Net(), make_inputs=make_inputs, backends="eager,null", **options)
    assert [record.status for record in run.records] == ["ok", "ok"]
    assert [record.verdict for record in run.records] == ["original", ""]
    assert run.model.name.startswith("Net@")
    assert any("no padded case" in warning for warning in run.workload.warnings(run, run.records[0]))
    assert bench.resume(tmp_path / "run.jsonl", artifacts=artifacts).records == run.records


def test_the_guides_module_is_one(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "own-model.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "def tagger" in block)
    (tmp_path / "own_tagger.py").write_text(code)
    metadata = checkpoint.export(sources.resolve(f"{tmp_path / 'own_tagger.py'}:tagger"), tmp_path)
    told = {name: metadata[name] for name in ("inputs", "outputs", "whole_outputs", "output_width", "makes_inputs")}
    assert told == {
        "inputs": ["ids", "prior"], "outputs": ["output"], "whole_outputs": [], "output_width": 12, "makes_inputs": True,
    }  # fmt: skip


# What a command is told


@pytest.mark.usefixtures("in_this_process")
def test_a_factory_is_settled_before_anything_is_planned(tmp_path: Path) -> None:
    said: list[str] = []
    first = introduction.find_source(f"{CASES}:two", ArtifactStore(tmp_path), say=said.append)
    again = introduction.find_source(f"{CASES}:two", ArtifactStore(tmp_path), say=said.append)
    assert first == again
    assert (first.outputs, first.makes_inputs, said) == (("states", "pooled"), True, ["exporting checkpoint"])
    prepared = preparation(tmp_path, module=f"{CASES}:two", backends="eager")
    assert prepared.missing_exports() == []
    (asked,) = prepared.workload.cases(Shape(3, 8), prepared.source).values()
    assert (asked.plan.cases, asked.plan.whole_outputs) == (("timed",), ("pooled",))
    assert prepared.run.command.startswith(f"bench compare --module {CASES}:two ")
    assert not any(option in prepared.run.command for option in ("--model", "--weights", "--task"))


@pytest.mark.usefixtures("in_this_process")
def test_a_module_in_memory_is_kept_in_the_store(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    network = torch.nn.Linear(4, 3)

    def make_inputs(batch: int, length: int, seed: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((batch, length, 4), float(seed))}

    said: list[str] = []
    source = introduction.find_source(network, store, make_inputs=make_inputs, say=said.append)
    assert source.name.startswith("Linear@")
    assert source.origin == f"module {source.name}, handed over in memory"
    assert [path.name.partition("-")[0] for path in store.paths()] == ["checkpoint"]
    assert store.leftovers() == []
    assert not list(store.folder.glob(".making-module-*"))
    by_name = introduction.find_source(source.name, store, weights="module", say=said.append)
    assert by_name.traits == source.traits  # type: ignore[attr-defined]
    assert said == ["exporting checkpoint"]
    (artifact,) = (store.read(path) for path in store.paths())
    assert artifact is not None
    opened = checkpoint.open_checkpoint(artifact.path, "cpu", "fp32")
    assert torch.equal(opened.model.weight, network.weight)
    assert opened.make_inputs(1, 2, 5)["x"].tolist() == [[[5.0] * 4] * 2]


@pytest.mark.parametrize(
    ("model", "make_inputs", "message"),
    [
        (7, None, "int is no model"),
        (torch.nn.Linear, None, "type is no model"),
        ("bert-tiny", lambda batch, length, seed: {}, "make_inputs goes with a module in memory"),
        (torch.nn.Linear(2, 2), "text", "make_inputs is str"),
        (f"{CASES}:raises", None, "no weights here"),
    ],
)
@pytest.mark.usefixtures("in_this_process")
def test_what_is_no_model(model: Any, make_inputs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        introduction.find_source(model, ArtifactStore(tmp_path), make_inputs=make_inputs)
    assert ArtifactStore(tmp_path).paths() == []


@pytest.mark.usefixtures("in_this_process")
def test_a_certificates_module_is_known_where_it_moved_to_and_not_when_it_changed(tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "threads": 1, "artifacts": tmp_path / "store"}
    certificate = tmp_path / "two.jsonl"
    modules = {"module": f"{CASES}:two", "backends": "eager,torchscript,onnx", "batches": "2", "lengths": "8"}
    run = bench.check_parity(output=certificate, **modules, **options)
    assert {judgement.verdict for judgement in judgements(run)} <= {"original", "exact", "equivalent"}
    assert len(judgements(run)) == 3
    (artifact,) = (path for path in ArtifactStore(tmp_path / "store").paths() if path.name.startswith("checkpoint-"))
    moved = tmp_path / CASES.name
    moved.write_bytes(CASES.read_bytes())
    for name in (f"{CASES}:two", f"{moved}:two"):
        assert bench.verify(certificate, artifact, module=name, **options).holds
    moved.write_text(moved.read_text() + "# more\n")
    with pytest.raises(UserError, match="has other weights than the certificate's"):
        bench.verify(certificate, artifact, module=f"{moved}:two", **options)


@pytest.mark.usefixtures("in_this_process")
def test_a_resumed_run_imports_no_module_that_it_names(tmp_path: Path, cli_here: Callable[..., Any]) -> None:
    file, marker = tmp_path / "own_marked.py", tmp_path / "ran"
    file.write_text(CASES.read_text() + f"\nimport pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    given = {**quick(tmp_path), "artifacts": tmp_path / "store"}
    bench.compare(module=f"{file}:two", backends="torchscript", **given)
    lines = (tmp_path / "run.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run.jsonl").write_text(lines[0])
    shutil.rmtree(tmp_path / "store")  # as on the machine of whoever was sent the file
    marker.unlink()
    done = cli_here("compare", "--resume", "run.jsonl", "--artifacts", "store")
    assert done.returncode == 2
    assert f"is not imported because a file names it; if it is yours, give it again: --module {file}:two" in done.stderr
    assert not marker.exists()
    done = cli_here("compare", "--resume", "run.jsonl", "--artifacts", "store", "--module", f"{file}:two")
    assert done.returncode == 0, done.stderr
    assert marker.exists()


def test_a_named_model_keeps_its_keys(tmp_path: Path) -> None:
    """What modules of a user's own added to plans and recipes is in no key of another model."""
    prepared = preparation(tmp_path, model="bert-tiny", weights="random")
    (asked,) = prepared.workload.cases(Shape(3, 8), prepared.source).values()
    assert set(asked.plan.to_json()) == {
        "batch", "length", "vocab_size", "pad_token_id", "seed", "output_width", "cases", "most_rows",
    }  # fmt: skip
    assert set(checkpoint.recipe(prepared.source)) == {"format", "exporter_version", "libraries", "source"}


@pytest.mark.usefixtures("in_this_process")
def test_a_timed_cell_takes_the_inputs_that_the_module_made(tmp_path: Path) -> None:
    run = bench.compare(module=f"{CASES}:two", backends="eager,null", artifacts=tmp_path / "store", **quick(tmp_path))
    eager, null = run.records
    assert (eager.status, eager.verdict, set(eager.parity["cases"])) == ("ok", "original", {"timed"})
    assert eager.operations["flops"] == 2 * 2 * 8 * 12 * 8
    assert (null.status, null.operations) == ("ok", {})
    given = {key: value for key, value in quick(tmp_path).items() if key in ("device", "threads", "timeout")}
    given |= {"artifacts": tmp_path / "store", "output": tmp_path / "started.jsonl"}
    started = bench.measure_coldstart(module=f"{CASES}:two", backends="eager", rounds=1, caches="warm", **given)
    assert [(one.status, one.verdict) for one in started.records] == [("ok", "original")]


@pytest.mark.usefixtures("in_this_process")
def test_without_the_inputs_that_the_module_makes_only_who_computes_nothing_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*rest: Any, **request: Any) -> Any:
        raise OutOfMemoryError("out of memory", {})

    monkeypatch.setattr(evaluation, "evaluate", refuse)
    run = bench.compare(module=f"{CASES}:two", backends="eager,null", artifacts=tmp_path / "store", **quick(tmp_path))
    eager, null = run.records
    assert (eager.status, null.status) == ("failed", "ok")
    assert "the module's own inputs are not there: eager at fp64 on cpu: out of memory" in eager.reason


def test_a_command_line_that_names_no_factory_is_one_line_and_exit_code_2(cli_here: Callable[..., Any]) -> None:
    for arguments, message in (
        (["compare", "--module", "own.py:f", "--weights", "random"], "--weights cannot be given with --module"),
        (["compare", "--module", "own.py:f", "--task", "lm"], "--task cannot be given with --module"),
        (["parity", "--module", "own.py:f", "--weights", "random"], "--weights cannot be given with --module"),
        (["parity", "--module", "own.py:f", "--task", "lm"], "--task cannot be given with --module"),
        (["compare", "--module", "nowhere.py:f"], "module file 'nowhere.py' does not exist"),
        (["compare", "--module", "nowhere.py"], "--module 'nowhere.py' names no factory"),
    ):
        done = cli_here(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert message in done.stderr


@pytest.mark.usefixtures("in_this_process")
def test_a_module_without_a_mask_is_no_subject_of_a_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes no attention mask, so sentences cannot be padded for it"):
        bench.measure_corpus(module=f"{CASES}:maskless", synthetic=4, device="cpu", artifacts=tmp_path)


def test_a_module_that_loops_at_import_is_not_waited_for(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "loop.py").write_text("while True: pass\n")
    given = ["--module", "loop.py:model", "--backends", "eager", "--timeout", "1s", "--quiet"]
    done = cli("compare", *given, "--batches", "1", "--lengths", "4", "--output", "run.jsonl")
    assert done.returncode == 1
    assert done.stderr == (
        "bench: the checkpoint export failed: not done in 4 s; the worker was killed; a larger --timeout gives it more time\n"
    )
    assert not (tmp_path / "run.jsonl").exists()
