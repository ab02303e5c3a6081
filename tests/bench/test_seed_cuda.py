"""What the seed asks for on a GPU: generation by every way, corpora, memory, presets. Skips where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench

pytestmark = pytest.mark.gpu

QUICK = {"rounds": 2, "max_seconds_per_cell": 0.2, "warmup": 0.001, "max_warmup": 0.01, "timeout": 600}
WAYS = "eager,eager:static,compile,compile:reduce-overhead,onnx,torchscript,eager:no-cache,onnx:no-cache"


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
