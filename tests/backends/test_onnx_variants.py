"""ONNX Runtime's variants without a GPU: what each session is asked for, what is refused, and how graphs are replayed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import backends
from backends import _onnx_graphs, _onnx_providers
from backends._onnx_providers import providers
from backends.onnx import Onnx

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and onnxruntime warn about themselves


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """ONNX Runtime's folder, as if it and torch were built for CUDA."""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    monkeypatch.setattr(_onnx_providers, "module_folder", lambda module: tmp_path)
    monkeypatch.setattr("backends._torch.torch_cuda_version", lambda: "13.0")
    return tmp_path


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("variant", "device", "precision", "words"),
    [
        ("tensorrt", "cpu", "fp32", "onnx:tensorrt does not run on cpu; use --device cuda"),
        ("cuda-graphs", "cpu", "fp32", "onnx:cuda-graphs does not run on cpu; use --device cuda"),
        ("fused-cuda-graphs", "cpu", "fp32", "onnx:fused-cuda-graphs does not run on cpu; use --device cuda"),
        ("fused-cuda-graphs", "cuda", "bf16", "onnx:fused-cuda-graphs has no bf16; use --precisions fp32,fp16"),
        ("tensorrt", "cuda", "bf16", "onnx:tensorrt has no bf16; use --precisions fp32,fp16"),
        ("attention23", "cpu", "int8", "onnx:attention23 has no int8; use onnx or onnx:fused"),
        ("fused", "cuda", "bf16", "onnx:fused has no bf16"),
    ],
)
def test_a_variant_that_cannot_run_says_why_and_what_helps(
    variant: str, device: str, precision: str, words: str
) -> None:
    assert words in str(backends.load_class("onnx").supports(variant, device, precision))


@pytest.mark.usefixtures("cuda_build")
def test_variants_that_can_run_are_not_refused() -> None:
    onnx = backends.load_class("onnx")
    for variant, precision in (("default", "int8"), ("fused", "fp32"), ("fused", "int8"), ("attention23", "fp16")):
        assert onnx.supports(variant, "cpu", precision) is None
    assert onnx.supports("cuda-graphs", "cuda", "bf16") is None
    assert onnx.supports("fused-cuda-graphs", "cuda", "fp16") is None
    assert onnx.spec.format_of("fused-cuda-graphs") == "onnx-fused"


def test_tensorrt_names_what_is_missing_step_by_step(monkeypatch: pytest.MonkeyPatch, cuda_build: Path) -> None:
    monkeypatch.setattr(_onnx_providers, "is_installed", lambda module: False)
    onnx = backends.load_class("onnx")
    assert "needs an onnxruntime-gpu with the TensorRT provider" in str(onnx.supports("tensorrt", "cuda", "fp32"))
    (cuda_build / "capi" / "libonnxruntime_providers_tensorrt.so").touch()
    assert str(onnx.supports("tensorrt", "cuda", "fp32")).endswith("run: pip install tensorrt")
    monkeypatch.setattr(_onnx_providers, "is_installed", lambda module: module == "tensorrt")
    assert onnx.supports("tensorrt", "cuda", "fp32") is None


@pytest.mark.parametrize(("version", "is_refused"), [("1.22.1", True), ("1.23.0", False), ("2.0", False), (None, True)])
def test_an_old_runtime_has_no_attention_operator(
    version: str | None, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_onnx_providers, "distribution_version", lambda module: version)
    reason = backends.load_class("onnx").supports("attention23", "cpu", "fp32")
    assert (reason is not None) is is_refused
    assert reason is None or "needs onnxruntime 1.23" in reason


def test_tensorrt_stands_before_cuda_on_torchs_stream_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    (name, options), (second, cuda), last = providers("cuda", "fp16", 1234, {"provider": "tensorrt"})
    assert (name, second, last) == ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"device_id": "0", "user_compute_stream": "1234", "trt_fp16_enable": "1"}
    assert cuda["user_compute_stream"] == "1234"
    assert _onnx_providers.os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert providers("cuda", "fp32", 1, {"provider": "tensorrt"})[0][1]["trt_fp16_enable"] == "0"


def test_cuda_graphs_are_asked_for_only_by_their_variant() -> None:
    assert providers("cuda", "fp32", 1, {"cuda_graphs": True})[0][1]["enable_cuda_graph"] == "1"
    assert "enable_cuda_graph" not in providers("cuda", "fp32", 1, {})[0][1]
    assert providers("cpu", "fp32", 0, {}) == ["CPUExecutionProvider"]


class Session:
    """Notes each run's graph, and gives a binding the outputs that a run makes."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        self.ran.append(options.get_run_config_entry(_onnx_graphs.GRAPH_ID))


class Binding:
    """Notes which outputs are bound to stay."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def get_outputs(self) -> list[str]:
        return ["the value of logits"]

    def bind_ortvalue_output(self, name: str, value: str) -> None:
        self.kept[name] = value


def test_each_prepared_input_has_a_graph_of_its_own_over_outputs_that_stay() -> None:
    session, graphs = Session(), _onnx_graphs.Graphs(["logits"])
    plain = _onnx_graphs.run_options(_onnx_graphs.NO_GRAPH)
    first, second = (graphs.prepared(session, Binding(), plain) for _ in range(2))
    assert first.binding.kept == {"logits": "the value of logits"}
    assert session.ran == ["-1", "-1"]  # sizes are seen without a graph
    for prepared in (first, second, first):
        assert graphs.run(session, prepared) is prepared.binding
    assert session.ran[2:] == ["1", "2", "1"]
    graphs.run_uncaptured(session, first)  # a replay has no nodes to tell of
    assert session.ran[-1] == "-1"
    assert graphs.count == 2
    assert first.captured.get_run_config_entry("disable_synchronize_execution_providers") == "1"


def test_the_variant_is_loaded_with_graphs_and_runs_outside_them_until_one_is_prepared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from types import SimpleNamespace

    import onnxruntime
    import torch

    from backends.onnx import Onnx

    asked: list[Any] = []

    class Fake(Session):
        def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
            super().__init__()
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    stream = SimpleNamespace(cuda_stream=1234)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda given: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fake)
    (tmp_path / "artifact.json").write_text('{"metadata": {"inputs": ["input_ids"], "outputs": ["logits"]}}')
    backend = Onnx()
    backend.load(tmp_path, device="cuda", precision="fp32", threads=1, options=Onnx.spec.variants["cuda-graphs"])
    assert asked[0][1]["enable_cuda_graph"] == "1"
    assert backend.run_options.get_run_config_entry("gpu_graph_id") == "-1"
    prepared = backend.prepare_binding(Binding())
    assert backend.run(prepared) is prepared.binding
    assert backend.session.ran == ["-1", "1"]
    assert backend.facts()["captured_graphs"] == 1
    backend.release(prepared.binding)  # its outputs stay where the graph writes


def test_a_binding_holds_what_its_inputs_lie_in() -> None:
    """ONNX Runtime 1.22 does not: it read freed memory once the caller had let its arrays go."""
    import gc
    import weakref

    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    backend = Onnx()
    backend.session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    backend.output_names, backend.device, backend.graphs, backend.run_options = ["y"], "cpu", None, None
    first = np.arange(4)
    kept = weakref.ref(first)
    prepared = backend.prepare({"x": first})
    other = backend.prepare({"x": np.zeros(4, dtype=np.int64)})
    del first
    gc.collect()
    assert kept() is not None
    (held,) = prepared.kept
    assert any(one is kept() for one in held)
    assert other.kept[0] is not held
    del prepared, held
    gc.collect()
    assert kept() is None
