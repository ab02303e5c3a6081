"""benchmarks/every_gpu_backend.py: what is exported in which order, what is measured, and what there is no time for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.run.file import read_run
from bench.spec import parse_candidates

SCRIPT = "every_gpu_backend"


def test_tf32_is_a_comparison_of_its_own_behind_each_models_precisions(script: ModuleType) -> None:
    wanted = script.measurements(["bert", "gpt"], ["fp32", "bf16"])
    assert [str(one) for one in wanted] == ["bert fp32,bf16", "bert TF32", "gpt fp32,bf16", "gpt TF32"]
    assert [str(one) for one in script.measurements(["bert"], ["fp16"])] == ["bert fp16"]


def test_every_name_is_a_variant_of_this_version(script: ModuleType) -> None:
    assert [c.label for c in parse_candidates(script.BACKENDS, ["fp32"])] == list(script.BACKENDS)


def test_a_fused_file_is_exported_behind_the_file_that_it_is_made_from(script: ModuleType) -> None:
    candidates = parse_candidates(["eager", "onnx", "onnx:fused", "torchscript", "openvino"], ["fp32", "fp16"])
    found = script.chains(candidates, "cpu")
    assert [("onnx", "fp32"), ("onnx-fused", "fp32")] in found
    assert [("onnx", "fp16"), ("onnx-fused", "fp16")] in found
    assert sorted(chain[0] for chain in found if len(chain) == 1) == [("torchscript", "fp16"), ("torchscript", "fp32")]


def test_what_runs_nowhere_here_is_told_with_its_reason(script: ModuleType) -> None:
    kept, refused = script.runnable(["eager", "onnx:cuda-graphs", "tensorrt"], ["fp32", "bf16"], "cpu")
    assert kept == ["eager"]
    assert "does not run on cpu" in refused["onnx:cuda-graphs"]
    assert "does not run on cpu" in refused["tensorrt"]


def test_nothing_is_begun_with_too_little_time_left(script: ModuleType) -> None:
    now = iter([0.0, 0.0, 100.0, 241.0])
    wanted = script.measurements(["bert", "gpt", "gpt2"], ["fp16"])
    assert list(script.in_time(wanted, 300.0, lambda: next(now))) == wanted[:2]


@pytest.mark.slow
def test_it_exports_then_measures(root: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(root / "benchmarks" / "every_gpu_backend.py"),
        "--device",
        "cpu",
        "--models",
        "bert-tiny",
    ]
    command += ["--backends", "eager,torchscript,tensorrt", "--precisions", "fp32", "--batches", "1", "--lengths", "8"]
    command += ["--rounds", "2", "--max-seconds-per-cell", "0.1", "--artifacts", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert any(line.startswith("not here: tensorrt: ") for line in lines)
    exported = next(at for at, line in enumerate(lines) if "exported torchscript fp32" in line)
    assert exported < next(at for at, line in enumerate(lines) if line.startswith("measuring; 2 workers"))
    (path,) = (tmp_path / "runs").glob("*.jsonl")
    assert lines[-1] == f"bert-tiny fp32: {path}"
    assert [record.status for record in read_run(path).records] == ["ok", "ok"]
