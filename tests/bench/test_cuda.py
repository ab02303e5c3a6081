"""Every workload on a GPU: device times, rooflines, TF32, memory, parity, generation. Skips where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

import backends
import bench
from backends.base import OutOfMemoryError, runtime_errors
from bench import statistics
from bench.process import peaks
from bench.workloads.judgements import judgements

pytestmark = pytest.mark.gpu

QUICK = {"rounds": 3, "max_seconds_per_cell": 0.3, "warmup": 0.001, "max_warmup": 0.2, "timeout": 600}
WAYS = "eager,eager:static,compile,compile:reduce-overhead,onnx,torchscript,eager:no-cache,onnx:no-cache"
HAS_ONNX = backends.load_class("onnx").supports("default", "cuda", "fp32") is None
BACKENDS = "eager,torchscript,compile,compile:reduce-overhead" + (",onnx,onnx:cuda-graphs" if HAS_ONNX else "")


def measured(artifacts: Path, output: Path, **options: object) -> bench.Run:
    run = bench.compare(
        "bert-tiny", batches=(4,), lengths=(32,), device="cuda", artifacts=artifacts, output=output,
        **{"backends": BACKENDS, **QUICK, **options},
    )  # fmt: skip
    assert {record.status: record.reason for record in run.records} == {"ok": ""}
    return run


@pytest.mark.parametrize("tf32", [False, True])
def test_every_record_has_what_a_gpu_tells(artifacts: Path, tmp_path: Path, tf32: bool) -> None:
    run = measured(artifacts, tmp_path / "run.jsonl", tf32=tf32)
    assert run.fingerprint["gpus"]
    for record in run.records:
        label = record.candidate.label
        assert record.verdict in ("original", "exact", "equivalent"), (label, record.parity)
        wall = statistics.median(record.samples)
        device, enqueue = (
            statistics.median(statistics.pooled(record.rounds_ns(kind))) for kind in ("device", "enqueue")
        )
        assert 0 < device <= 1.5 * wall, label
        assert 0 < enqueue <= 1.5 * wall, label
        assert record.rounds_ns("pipelined"), label
        assert record.facts["tf32"] is tf32, label
        assert not record.facts.get("copies_inserted"), (label, record.facts)
        assert not record.facts.get("recompiles_while_timing"), label
        share = run.roofline_share(record)
        assert share is not None, label
        assert 0 < share < 1, label
        assert record.conditions["gpu"]["min_sm_clock_mhz"] > 0
        assert record.memory["loaded"]["device_process_bytes"] > record.memory["loaded"]["parameters_bytes"]
        assert record.memory["peak"]["peak_device_process_bytes"] > record.memory["loaded"]["parameters_bytes"]
    assert run.peaks is not None
    assert ("tf32" in run.peaks.flops_per_second) is tf32


def test_half_precisions_have_rooflines_of_their_own(artifacts: Path, tmp_path: Path) -> None:
    run = measured(artifacts, tmp_path / "run.jsonl", backends="eager", precisions="fp32,fp16,bf16")
    assert run.peaks is not None
    rates = run.peaks.flops_per_second
    assert rates["fp16"] > rates["fp32"] < rates["bf16"]
    assert all(run.roofline_share(record) for record in run.records)


def test_host_arrays_cost_copies_on_a_gpu(artifacts: Path, tmp_path: Path) -> None:
    run = measured(artifacts, tmp_path / "run.jsonl", backends="eager", boundary="host")
    assert not run.records[0].rounds_ns("device")


def test_a_clock_that_does_not_wait_is_shown_beside_the_right_one(artifacts: Path, tmp_path: Path) -> None:
    run = bench.compare(
        "bert-tiny", backends="eager", batches=(512,), lengths=(128,), device="cuda", artifacts=artifacts,
        output=tmp_path / "plain.jsonl", **QUICK,
    )  # fmt: skip
    assert not run.records[0].rounds_ns("naive")
    run = bench.compare(
        "bert-tiny", backends="eager", batches=(512,), lengths=(128,), device="cuda", naive_timer=True, rounds=3,
        max_seconds_per_cell=1, artifacts=artifacts, output=tmp_path / "naive.jsonl",
    )  # fmt: skip
    assert statistics.pooled(run.records[0].rounds_ns("naive"))


def test_tf32_multiplies_faster_than_fp32(tmp_path: Path) -> None:
    found = peaks.measure(tmp_path, "cuda", ("tf32",), 1, 120, lambda line: None)
    assert found.flops_per_second["tf32"] > 1.5 * found.flops_per_second["fp32"]


@pytest.mark.parametrize("name", ["eager", "onnx"])
def test_a_limit_of_the_allocator_is_kept_and_told_as_out_of_memory(name: str, artifacts: Path) -> None:
    import torch

    from bench import testing
    from bench.parity import inputs

    if reason := backends.load_class(name).supports("default", "cuda", "fp32"):
        pytest.skip(reason)
    workbench = testing._Workbench(backends.load_class(name), "default", "bert-tiny", "cuda", "fp32", artifacts)
    workbench.options = {**workbench.options, "memory_limit_bytes": 128 * 2**20}
    backend = workbench._loaded()
    try:
        backend.fetch(backend.run(backend.prepare(inputs.make_batch(workbench._inputs((1, 16)), "timed"))))
        with pytest.raises(OutOfMemoryError), runtime_errors():
            backend.run(backend.prepare(inputs.make_batch(workbench._inputs((4096, 128)), "timed")))
            backend.synchronize()
    finally:
        backend.close()
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_tuning_searches_what_a_gpu_has(artifacts: Path, tmp_path: Path) -> None:
    found = bench.tune(
        "bert-tiny", batches=1, lengths=16, budget="120s", backends="eager,torchscript", device="cuda", artifacts=artifacts,
        output=tmp_path / "tuning.jsonl",
    )  # fmt: skip
    assert found.winner is not None


def test_load_is_served_on_a_gpu(artifacts: Path, tmp_path: Path) -> None:
    run = bench.measure_load(
        "bert-tiny", backends="eager", rate=50, duration="2s", device="cuda", artifacts=artifacts,
        output=tmp_path / "run.jsonl",
    )  # fmt: skip
    assert [record.status for record in run.records] == ["ok"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("model", "task"), [("bert-tiny", "base"), ("gpt2-tiny", "lm")])
def test_backends_are_the_same_model_on_a_gpu(artifacts: Path, model: str, task: str, precision: str) -> None:
    found = bench.check_parity(
        model, backends="eager,torchscript,onnx", precisions=precision, task=task, device="cuda", artifacts=artifacts
    )
    judged = [judgement for judgement in judgements(found) if judgement.cases]
    assert judged
    for judgement in judged:
        assert judgement.verdict in ("original", "exact", "equivalent"), judgement.reason


@pytest.mark.parametrize("decoding", ["greedy", "sample", "beam:3"])
def test_every_way_writes_eagers_tokens_on_a_gpu(artifacts: Path, tmp_path: Path, decoding: str) -> None:
    run = bench.generate(
        "gpt2-tiny", backends=WAYS, new_tokens=12, batches=(2,), decoding=decoding, device="cuda",
        artifacts=artifacts, output=tmp_path / "run.jsonl", **QUICK,
    )  # fmt: skip
    for record, row in zip(run.records, run.rows(), strict=True):
        if record.status == "unsupported":  # a CPU build of onnxruntime
            assert record.candidate.backend == "onnx"
            continue
        assert record.status == "ok", record.reason
        assert record.verdict in ("original", "exact", "equivalent"), record.parity
        assert not record.facts.get("copies_inserted")
        assert not record.facts.get("recompiles_while_timing")
        assert row["tokens_as_eager"] == 12


def test_bf16_generates_on_a_gpu(artifacts: Path, tmp_path: Path) -> None:
    run = bench.generate(
        "gpt2-tiny", backends="eager,eager:static,torchscript", precisions="bf16", new_tokens=8, device="cuda",
        artifacts=artifacts, output=tmp_path / "run.jsonl", **QUICK,
    )  # fmt: skip
    assert [record.status for record in run.records] == ["ok"] * 3
    assert all(record.verdict in ("original", "exact", "equivalent", "lossy") for record in run.records)


def test_a_corpus_passes_through_every_backend_on_a_gpu(artifacts: Path, tmp_path: Path) -> None:
    run = bench.measure_corpus(
        "bert-tiny", backends="eager,compile,torchscript", synthetic=24, batches="8", orders="bucketed", rounds=2,
        device="cuda", artifacts=artifacts, output=tmp_path / "run.jsonl",
    )  # fmt: skip
    assert [record.status for record in run.records] == ["ok"] * 3
    assert all(record.verdict in ("original", "exact", "equivalent") for record in run.records)


def test_four_figures_of_memory_on_a_gpu(artifacts: Path, tmp_path: Path) -> None:
    run = bench.measure_memory(
        "gpt2-tiny", backends="eager,torchscript", device="cuda", artifacts=artifacts, output=tmp_path / "run.jsonl"
    )
    for entry in run.records:
        assert entry.status == "ok", entry.reason
        held = entry.memory["loaded"]
        assert 0 < held["parameters_bytes"] <= held["allocated_bytes"] <= held["reserved_bytes"]
        assert held["reserved_bytes"] < held["device_process_bytes"]
