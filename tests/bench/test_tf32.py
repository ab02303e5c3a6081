"""TF32 by `--tf32` alone: what is refused, what each library is asked for, and where it is told. No GPU is needed."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from bench.records import Record, Run
from bench.rows import row
from bench.workers import Workers
from tests.bench.test_records import record, run_of

import backends
import bench
from backends import _onnx_providers
from backends.base import Backend
from backends.null import Null
from bench import comparison, machine
from bench.bundle import runtimes
from bench.errors import UserError
from bench.machine.roofline import Peaks
from bench.measuring import generate, measure_corpus, measure_load
from bench.parity import check, examination
from bench.parity.matrix import Matrix
from bench.parity.references import References
from bench.parity.verdict import TOLERANCES, tolerance_of
from bench.preparation import Preparation
from bench.process.channel import Worker
from bench.process.loop import parser
from bench.process.session import Session
from bench.report import diff, markdown, parity, table
from bench.spec import Candidate, Grid, Shape, TimingPlan, command_of
from bench.tune.api import tune
from exporters import sources
from exporters.store import ArtifactStore
from tests.bench.test_certificate import certificate as a_certificate

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and onnxruntime warn about themselves

GRID = Grid("bert-tiny", (Candidate("eager", "default", "fp32"),), (Shape(1, 8),), "cuda", 2, tf32=True)


@pytest.fixture
def torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch, whose switches are set back afterwards."""
    import torch

    before, cudnn, threads = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.get_num_threads(),
    )
    yield torch
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = cudnn
    torch.set_num_threads(threads)


@pytest.mark.parametrize("call", [bench.compare, check.check_parity, generate, measure_corpus, measure_load, tune])
def test_the_cpu_has_no_tf32(call: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--tf32: cpu has no TF32, only NVIDIA GPUs do; leave it out") as refused:
        call("gpt2-tiny" if call is generate else "bert-tiny", device="cpu", tf32=True, artifacts=tmp_path)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["compare", "parity", "generate", "corpus", "load", "tune"])
def test_the_command_line_refuses_it_in_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", command, "--model", "bert-tiny", "--tf32", "--device", "cpu"])
    monkeypatch.setattr("signal.signal", lambda *rest: None)
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert "--tf32: cpu has no TF32" in captured.err


def test_an_environment_that_forbids_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(UserError, match="NVIDIA_TF32_OVERRIDE=0 forbids TF32"):
        machine.check_tf32(True, "cuda")
    machine.check_tf32(False, "cuda")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    machine.check_tf32(True, "cuda")


def test_a_bisection_is_not_made_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "settle_device", lambda asked: "cuda")
    with pytest.raises(UserError, match="--bisect looks for a fault, and --tf32 rounds every product"):
        check.check_parity("bert-tiny", tf32=True, bisect=True, artifacts=tmp_path)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_torch_is_told_in_products_and_in_cudnn(
    is_wanted: bool, torch_as_it_was: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = backends.load_class("eager")
    monkeypatch.setattr(eager, "open", lambda *rest: None)
    (tmp_path / "artifact.json").write_text('{"metadata": {"outputs": ["logits"]}}')
    loaded = eager()
    options = {"tf32": True} if is_wanted else {}
    loaded.load(tmp_path, device="cpu", precision="fp32", threads=1, options=options)
    told = torch_as_it_was.get_float32_matmul_precision()
    assert told == ("high" if is_wanted else "highest")
    assert torch_as_it_was.backends.cuda.matmul.allow_tf32 is is_wanted
    assert torch_as_it_was.backends.cudnn.allow_tf32 is is_wanted
    facts = super(eager, loaded).facts()
    assert (facts["tf32"], facts["tf32_cudnn"]) == (is_wanted, is_wanted)


def test_onnx_runtimes_providers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    for options, wanted in (({}, "0"), ({"tf32": False}, "0"), ({"tf32": True}, "1")):
        assert _onnx_providers.providers("cuda", "fp32", 1, options)[0][1]["use_tf32"] == wanted
    engines, cuda, _ = _onnx_providers.providers("cuda", "fp32", 1, {"provider": "tensorrt", "tf32": True})
    assert (engines[0], cuda[1]["use_tf32"]) == ("TensorrtExecutionProvider", "1")
    assert "NVIDIA_TF32_OVERRIDE" not in _onnx_providers.os.environ


def test_backends_with_a_switch_take_it() -> None:
    for name in ("eager", "compile", "torchscript", "onnx", "optimum", "tensorrt"):
        assert backends.load_class(name).spec.takes_tf32, name
    assert not backends.load_class("openvino").spec.takes_tf32


class Silent(Null):
    """Computes no model, on a GPU too."""

    spec = replace(Null.spec, precisions={"cuda": ("fp32",)})


class Deaf(Null):
    """Computes a model, and has no such switch."""

    spec = replace(Null.spec, computes_the_model=True, precisions={"cpu": ("fp32",), "cuda": ("fp32",)})


@pytest.mark.parametrize(
    ("tf32", "backend", "is_refused"), [(True, Deaf, True), (False, Deaf, False), (True, Silent, False)]
)
def test_a_backend_without_a_switch_is_unsupported(
    tf32: bool, backend: type[Backend], is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "load_class", lambda name: backend)
    grid = replace(GRID, contestants=(Candidate("null", "default", "fp32"),), tf32=tf32)
    prepared = Preparation(grid, sources.resolve("bert-tiny"), ArtifactStore(tmp_path), 1.0, lambda line: None)
    reasons = [(refusal.status, refusal.reason) for refusal in prepared.refused.values()]
    assert reasons == ([("unsupported", "null does not take --tf32; leave --tf32 out, or null")] if is_refused else [])


def session_of(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], *more: str) -> Session:
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    session = Session(parser().parse_args(["--backend", "null", *more]))
    session.answer({"op": "hello"})
    return session


def test_the_worker_hands_it_on_or_says_that_the_card_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(Null, "load", lambda self, path, *, options, **rest: seen.append(options))
    assert "ok" in session_of(monkeypatch, (8, 0), "--tf32").answer({"op": "load"})
    assert "ok" in session_of(monkeypatch, (8, 0)).answer({"op": "load"})
    assert [options.get("tf32") for options in seen] == [True, None]
    error = session_of(monkeypatch, (7, 5), "--tf32").answer({"op": "load"})["error"]
    assert (error["status"], error["reason"]) == ("unsupported", "a card has no TF32; leave --tf32 out")
    assert len(seen) == 2


@pytest.mark.parametrize("tf32", [True, False])
def test_a_runs_workers_are_started_with_it(tf32: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def note(self: Any, command: list[str], *rest: Any) -> None:
        commands.append(command)

    monkeypatch.setattr(Worker, "__init__", note)
    monkeypatch.setattr(Worker, "send", lambda self, message: None)
    monkeypatch.setattr(Worker, "receive", lambda self, seconds: {"versions": {}})
    monkeypatch.setattr(Worker, "request", lambda self, message, seconds: {"seconds": 0.0, "memory": {}})
    prepared: Any = SimpleNamespace(
        grid=replace(GRID, tf32=tf32), say=print, artifacts={}, store=SimpleNamespace(root=tmp_path), refused={},
        generates_by=lambda who: "", python_of=lambda who: None, versions=lambda who, told: told,
    )  # fmt: skip
    Workers(prepared, 1.0).load(GRID.contestants)
    assert [("--tf32" in command) for command in commands] == [tf32]


@pytest.mark.parametrize("tf32", [True, False])
def test_parity_examines_with_it(tf32: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []

    def start(*rest: Any, tf32: bool = False, **more: Any) -> Any:
        started.append(tf32)
        return SimpleNamespace(request=lambda message, seconds: {"versions": {}})

    monkeypatch.setattr(examination.session, "start", start)
    prepared: Any = SimpleNamespace(
        grid=replace(GRID, tf32=tf32), store=SimpleNamespace(root=tmp_path), timeout_seconds=1.0,
        python_of=lambda who: None, versions=lambda who, told: told, artifacts={}, refused={},
    )  # fmt: skip
    artifact: Any = SimpleNamespace(path=tmp_path, format="checkpoint", checksum="c0ffee", key="0", files={}, recipe={})
    examination.Examination(prepared, GRID.contestants[0], TOLERANCES["fp32"], artifact)._start()
    assert started == [tf32]


def test_parity_allows_what_tf32_rounds_and_no_other_precision_more() -> None:
    with_tf32 = tolerance_of("fp32", tf32=True)
    assert with_tf32.eager_factor == TOLERANCES["fp16"].eager_factor
    assert (with_tf32.max_rms_share, with_tf32.max_kl, with_tf32.min_top1) == (0.02, 1e-3, 0.99)
    assert (with_tf32.atol, with_tf32.rtol) == (TOLERANCES["fp32"].atol, TOLERANCES["fp32"].rtol)
    for precision, stated in TOLERANCES.items():
        assert tolerance_of(precision) == stated
        assert precision == "fp32" or tolerance_of(precision, tf32=True) == stated


@pytest.mark.parametrize("tf32", [True, False])
def test_the_eager_that_fp32_is_held_against_has_it_and_the_reference_never(
    tf32: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, bool] = {}
    said: list[str] = []

    def start(backend: str, variant: str, precision: str, *rest: Any, tf32: bool = False) -> Any:
        started[precision] = tf32
        nothing: dict[str, Any] = {}
        return SimpleNamespace(
            send=lambda message: None, receive=lambda seconds: nothing, request=lambda *rest: nothing, kill=lambda: None
        )

    monkeypatch.setattr("bench.parity.references.session.start", start)
    source = sources.resolve("bert-tiny")
    store = ArtifactStore(tmp_path)
    references = References(replace(GRID, tf32=tf32), source, store, 1.0, said.append, Matrix(ids=("random",)))
    weights: Any = SimpleNamespace(path=tmp_path, key="0", recipe={"libraries": {}})
    references.make(weights, ["fp32", "fp16"])
    assert started == {"fp64": False, "fp32": tf32, "fp16": False}
    assert [line.split(" for ")[0] for line in said[1:]] == [
        f"computing eager's own error at fp32{' with TF32' if tf32 else ''}", "computing eager's own error at fp16",
    ]  # fmt: skip
    reference, yardstick = references.pair("fp32", GRID.shapes[0])
    assert (reference.recipe.get("tf32"), yardstick.recipe.get("tf32")) == (None, True if tf32 else None)


def test_it_survives_the_disk_and_older_files_have_none() -> None:
    data = json.loads(json.dumps(GRID.to_json()))
    assert Grid.from_json(data) == GRID
    del data["tf32"]
    assert Grid.from_json(data).tf32 is False


def test_the_commands_that_repeat_it_carry_it() -> None:
    for grid, count in ((GRID, 1), (replace(GRID, tf32=False), 0)):
        words = shlex.split(command_of(grid, TimingPlan(), grid.contestants, grid.shapes))
        assert words.count("--tf32") == count
        stated = replace(a_certificate(), grid=grid)
        assert shlex.split(check._command_of(stated, None)).count("--tf32") == count


def test_it_is_told_wherever_a_run_is_shown() -> None:
    run = run_of(record(), record("onnx", ms=5))
    with_tf32 = replace(run, grid=replace(run.grid, tf32=True), started="2026-01-02T00:00:00+00:00")
    assert [row(one, one.records[0])["tf32"] for one in (run, with_tf32)] == [False, True]
    assert with_tf32.header()["grid"]["tf32"] is True
    for show in (table.render, markdown.render):
        assert "2 threads, TF32" in " ".join(show(with_tf32).split())
        assert "TF32" not in show(run)
    assert "differ in tf32 (False and True)" in comparison.obstacles([run, with_tf32])[0]
    two = comparison.compare_runs(
        [with_tf32, replace(with_tf32, started="2026-01-03T00:00:00+00:00", records=[record(ms=9)])]
    )
    assert "2 threads, TF32" in next(diff._legend(two))
    stated = a_certificate()
    assert parity.heading(replace(stated, grid=replace(stated.grid, tf32=True)))[0].endswith(", TF32")
    assert "TF32" not in parity.heading(stated)[0]


def test_fp32_in_tf32_has_the_floor_of_tf32s_peak_and_no_bundle() -> None:
    entry = record(operations={"flops": 10**9, "weight_bytes": 10**6})
    run = run_of(entry, half := record(operations={"flops": 10**9, "weight_bytes": 10**6}, precision="bf16"))
    rates = {"fp32": 1e12, "tf32": 4e12, "bf16": 8e12}
    run.peaks = Peaks("cuda", 1, rates, ((1, 1e13),))
    assert ns_of(run, entry) == 1e6
    run.grid = replace(run.grid, tf32=True)
    assert ns_of(run, entry) == 0.25e6
    assert ns_of(run, half) == 0.125e6
    run.peaks = replace(run.peaks, flops_per_second={"fp32": 1e12, "bf16": 8e12})  # of a run before TF32 was measured
    assert (run.floor(entry), run.is_implausible(entry)) == (None, False)
    with pytest.raises(UserError, match="measured with --tf32, which a bundle's"):
        runtimes.check(entry.contestant, run.grid)


def ns_of(run: Run, entry: Record) -> float:
    floor = run.floor(entry)
    assert floor is not None
    assert floor.bound == "compute"
    return floor.ns
