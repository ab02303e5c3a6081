"""TF32 by `--tf32` alone: what is refused, what each library is asked for, and where it is told. No GPU is needed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import backends
import bench
from backends import _onnx_providers
from backends.base import Backend
from backends.null import Null
from bench import diff, machine
from bench.bundle import runtimes
from bench.errors import UserError
from bench.machine.roofline import Peaks
from bench.parity import inputs
from bench.parity.reference import Inputs, References, Setting
from bench.parity.verdict import TOLERANCES, tolerance_of
from bench.process import pool
from bench.process.loop import Loop, parser
from bench.report import console, documents
from bench.report import diff as diff_report
from bench.run import alike
from bench.run.file import read_run
from bench.run.preparation import Preparation
from bench.run.record import Record, Run
from exporters import sources
from exporters.store import ArtifactStore
from tests.made import record, run_of, write

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and onnxruntime warn about themselves


def tf32_run(*records: Record, tf32: bool = True, **values: Any) -> Run:
    """A run on a GPU that needs none."""
    return run_of(records or (record("eager"),), device="cuda", tf32=tf32, **values)


@pytest.fixture
def torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch, whose switches are set back afterwards."""
    import torch

    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    threads = torch.get_num_threads()
    yield torch
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = cudnn
    torch.set_num_threads(threads)


def test_the_cpu_has_no_tf32(
    cli_here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    store = tmp_path / "store"
    store.mkdir()
    calls = (bench.compare, bench.generate, bench.measure_corpus, bench.measure_load, bench.measure_memory, bench.tune)
    for call in calls:
        with pytest.raises(UserError, match="--tf32: cpu has no TF32, only NVIDIA GPUs do; leave it out") as refused:
            call("gpt2-tiny" if call is bench.generate else "bert-tiny", device="cpu", tf32=True, artifacts=store)
        assert "\n" not in str(refused.value)
    for command in ("compare", "parity", "generate", "corpus", "load", "tune"):
        done = cli_here(command, "--model", "bert-tiny", "--tf32", "--device", "cpu", "--artifacts", str(store))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "--tf32: cpu has no TF32" in done.stderr
    assert not list(store.iterdir())


def test_an_environment_that_forbids_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(UserError, match="NVIDIA_TF32_OVERRIDE=0 forbids TF32"):
        machine.check_tf32(True, "cuda")
    machine.check_tf32(False, "cuda")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    machine.check_tf32(True, "cuda")


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
    refused = prepared_for(tmp_path, tf32, "null").refused.values()
    reasons = [(refusal.status, refusal.reason) for refusal in refused]
    assert reasons == ([("unsupported", "null does not take --tf32; leave --tf32 out, or null")] if is_refused else [])


def test_the_worker_hands_it_on_or_says_that_the_card_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen: list[Any] = []
    monkeypatch.setattr(Null, "load", lambda self, path, *, options, **rest: seen.append(options))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")

    def loaded(capability: tuple[int, int], *more: str) -> Any:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        loop = Loop(parser().parse_args(["--backend", "null", *more]))
        loop.answer({"op": "hello"})
        return loop.answer({"op": "load"})

    assert "ok" in loaded((8, 0), "--tf32")
    assert "ok" in loaded((8, 0))
    assert [options.get("tf32") for options in seen] == [True, None]
    error = loaded((7, 5), "--tf32")["error"]
    assert (error["status"], error["reason"]) == ("unsupported", "a card has no TF32; leave --tf32 out")
    assert len(seen) == 2


def prepared_for(tmp_path: Path, tf32: bool, backend: str = "eager") -> Preparation:
    run = tf32_run(record(backend), tf32=tf32)
    return Preparation(run, sources.resolve("bert-tiny"), ArtifactStore(tmp_path), lambda line: None)


def test_a_runs_workers_files_and_commands_carry_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(pool.channel, "Worker", lambda command, *rest: commands.append(command))
    for tf32 in (True, False):
        prepared = prepared_for(tmp_path, tf32)
        prepared.start(prepared.run.candidates[0])
        assert ("--tf32" in commands[-1]) is tf32
        run = tf32_run(tf32=tf32)
        assert read_run(write(run, tmp_path / f"{tf32}.jsonl")).options.tf32 is tf32
        for command in (run.command, run.repeat(run.records[0])):
            assert shlex.split(command).count("--tf32") == tf32


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

    def start(precision: str, device: str, path: Path, tf32: bool) -> Any:
        started[precision] = tf32
        nothing: dict[str, Any] = {}
        return SimpleNamespace(
            send=lambda message: None, receive=lambda seconds: nothing, request=lambda *rest: nothing,
            work=lambda *rest: nothing, kill=lambda: None, close=lambda *rest: None,
        )  # fmt: skip

    setting = Setting("cuda", 2, 0, tf32, 100, False)
    references = References(setting, ArtifactStore(tmp_path), start, 1.0, said.append)
    weights: Any = SimpleNamespace(path=tmp_path, key="0", recipe={"libraries": {}})
    wanted = {"timed": Inputs(inputs.plan_of(sources.resolve("bert-tiny"), 1, 8, 0, ("timed",)))}
    references.make(weights, ["fp32", "fp16"], wanted)
    assert started == {"fp64": False, "fp32": tf32, "fp16": False}
    assert any(f"eager's own error at fp32{' with TF32' if tf32 else ''}" in line for line in said)
    reference, eager_error = references.pair("fp32", "timed")
    assert (reference.recipe.get("tf32"), eager_error.recipe.get("tf32")) == (None, True if tf32 else None)


def test_it_is_told_wherever_a_run_is_shown() -> None:
    run, with_tf32 = tf32_run(tf32=False), tf32_run()
    for show in (console.render, documents.as_markdown):
        assert "2 threads, TF32" in " ".join(show(with_tf32).split())
        assert "TF32" not in show(run)
    with_tf32.started = "2026-01-02T00:00:00+00:00"
    assert "differ in tf32 (False and True)" in alike.obstacles([run, with_tf32])[0]
    two = diff.compare_runs([with_tf32, tf32_run(record("eager", ms=9))])
    assert "2 threads, TF32" in " ".join(diff_report._heading(two))


def test_fp32_in_tf32_has_the_roofline_of_tf32s_peak_and_no_bundle() -> None:
    operations = {"flops": 10**9, "weight_bytes": 10**6}
    entry, half = record("eager", operations=operations), record("eager", operations=operations, precision="bf16")
    rates = {"fp32": 1e12, "tf32": 4e12, "bf16": 8e12}

    def ns_of(one: Record, tf32: bool, rates: dict[str, float]) -> float | None:
        peaks = Peaks("cuda", 1, rates, ((1, 1e13),))
        floor = tf32_run(entry, half, tf32=tf32, notes={"peaks": peaks.to_json()}).floor(one)
        assert floor is None or floor.bound == "compute"
        return None if floor is None else floor.ns

    assert (ns_of(entry, False, rates), ns_of(entry, True, rates), ns_of(half, True, rates)) == (1e6, 0.25e6, 0.125e6)
    without = {"fp32": 1e12, "bf16": 8e12}  # of a run before TF32 was measured
    assert ns_of(entry, True, without) is None
    with pytest.raises(UserError, match="measured with --tf32, which a bundle's"):
        runtimes.check(entry.candidate, tf32_run(entry))
