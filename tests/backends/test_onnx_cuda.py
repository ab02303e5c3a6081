"""ONNX Runtime on CUDA, as far as it can be seen without a GPU: what the session is asked for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from backends.base import BackendError
from backends.onnx import Onnx, executed_nodes

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and onnxruntime warn about themselves


class FakeSession:
    """Stands for onnxruntime.InferenceSession on a machine without a GPU; notes what it was asked for."""

    active: ClassVar[list[str]] = []
    asked: ClassVar[list[Any]] = []
    run_options: ClassVar[Any] = None

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        FakeSession.asked = providers

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        FakeSession.run_options = options

    def get_providers(self) -> list[str]:
        return self.active


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    import onnxruntime
    import torch

    streams = [SimpleNamespace(cuda_stream=0)]
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=1234))
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    (tmp_path / "artifact.json").write_text('{"metadata": {"inputs": ["input_ids"], "outputs": ["logits"]}}')
    return tmp_path


def test_onnx_on_cuda_runs_on_torchs_stream_without_tf32(fake_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "active", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    backend = Onnx()
    backend.load(fake_cuda, device="cuda", precision="fp32", threads=1, options={})
    (name, options), fallback = FakeSession.asked
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"device_id": "0", "use_tf32": "0", "user_compute_stream": "1234"}
    backend.run("a binding")
    assert FakeSession.run_options.get_run_config_entry("disable_synchronize_execution_providers") == "1"


def test_onnx_on_cuda_is_kept_within_a_limit(fake_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "active", ["CUDAExecutionProvider"])
    Onnx().load(fake_cuda, device="cuda", precision="fp32", threads=1, options={"memory_limit_bytes": 3 * 2**30})
    assert FakeSession.asked[0][1]["gpu_mem_limit"] == str(3 * 2**30)


def test_the_default_stream_is_no_stream_to_onnx_runtime(fake_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    with pytest.raises(BackendError, match="no stream of its own"):
        Onnx().load(fake_cuda, device="cuda", precision="fp32", threads=1, options={})


def test_what_ran_is_that_of_the_last_run_after_fusion() -> None:
    def node(ts: int, provider: str, operator: str) -> dict[str, Any]:
        return {
            "cat": "Node",
            "name": f"x{ts}_kernel_time",
            "ts": ts,
            "args": {"provider": provider, "op_name": operator},
        }

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    first = [{"cat": "Session", "name": "model_run", "ts": 0}, node(1, cpu, "Softmax")]
    last = [{"cat": "Session", "name": "model_run", "ts": 10}, node(11, cuda, "MemcpyFromHost"), node(12, cpu, "Shape")]
    last += [node(13, cuda, "MultiHeadAttention"), node(14, cuda, "MatMul")]
    assert executed_nodes([*first, *last], "cuda") == {
        "nodes_per_provider": {cuda: 3, cpu: 1},
        "nodes_on_cpu": 1,
        "operators_on_cpu": {"Shape": 1},
        "copies_inserted": 1,
        "attention_kernels": {"MultiHeadAttention": 1},
    }
    assert executed_nodes(first, "cpu")["attention_kernels"] == {"unfused": 1}
    assert executed_nodes(first, "cpu")["nodes_on_cpu"] is None


def test_asking_for_cuda_and_getting_the_cpu_is_an_error(fake_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "active", ["CPUExecutionProvider"])
    with pytest.raises(
        BackendError, match="CUDAExecutionProvider was asked for and ONNX Runtime took CPUExecutionProvider"
    ):
        Onnx().load(fake_cuda, device="cuda", precision="fp32", threads=1, options={})
