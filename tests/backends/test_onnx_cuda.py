"""ONNX Runtime on CUDA, as far as it can be seen without a GPU: what the session is asked for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from backends.base import BackendError
from backends.onnx import Onnx

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and onnxruntime warn about themselves


class FakeSession:
    """Stands for onnxruntime.InferenceSession on a machine without a GPU; notes what it was asked for."""

    active: ClassVar[list[str]] = []
    asked: ClassVar[list[Any]] = []

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        FakeSession.asked = providers

    def get_providers(self) -> list[str]:
        return self.active


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    import onnxruntime
    import torch

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=1234))
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


def test_asking_for_cuda_and_getting_the_cpu_is_an_error(fake_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "active", ["CPUExecutionProvider"])
    with pytest.raises(
        BackendError, match="CUDAExecutionProvider was asked for and ONNX Runtime took CPUExecutionProvider"
    ):
        Onnx().load(fake_cuda, device="cuda", precision="fp32", threads=1, options={})
