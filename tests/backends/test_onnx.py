"""ONNX Runtime without a GPU: what each variant's session is asked for, what is refused, and how graphs are replayed."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import _onnx_graphs, _onnx_providers
from backends._onnx_providers import providers
from backends.base import BackendError
from backends.onnx import Onnx, executed_nodes

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and onnxruntime warn about themselves
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


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
        *((variant, "cpu", precision, None) for variant in ("default", "fused") for precision in ("fp32", "int8")),
        ("default", "cuda", "fp32", None),
        ("attention23", "cpu", "fp16", None),
        ("cuda-graphs", "cuda", "bf16", None),
        ("fused-cuda-graphs", "cuda", "fp16", None),
    ],
)
def test_a_variant_that_cannot_run_says_why_and_what_helps(
    variant: str, device: str, precision: str, words: str | None
) -> None:
    reason = Onnx.supports(variant, device, precision)
    assert reason is None if words is None else words in str(reason)


def test_what_a_build_lacks_is_named_step_by_step(monkeypatch: pytest.MonkeyPatch, cuda_build: Path) -> None:
    monkeypatch.setattr(_onnx_providers, "is_installed", lambda module: False)
    assert "needs an onnxruntime-gpu with the TensorRT provider" in str(Onnx.supports("tensorrt", "cuda", "fp32"))
    (cuda_build / "capi" / "libonnxruntime_providers_tensorrt.so").touch()
    assert str(Onnx.supports("tensorrt", "cuda", "fp32")).endswith("run: pip install tensorrt")
    monkeypatch.setattr(_onnx_providers, "is_installed", lambda module: module == "tensorrt")
    assert Onnx.supports("tensorrt", "cuda", "fp32") is None
    for version, is_refused in (("1.22.1", True), ("1.23.0", False), ("2.0", False), (None, True)):
        monkeypatch.setattr(_onnx_providers, "distribution_version", lambda module, version=version: version)
        assert ("needs onnxruntime 1.23" in str(Onnx.supports("attention23", "cpu", "fp32"))) is is_refused
    monkeypatch.setattr("backends._torch.torch_cuda_version", lambda: None)
    assert "needs a CUDA build of torch" in str(Onnx.supports("default", "cuda", "fp32"))
    (cuda_build / "capi" / "libonnxruntime_providers_cuda.so").unlink()
    assert "needs onnxruntime-gpu" in str(Onnx.supports("default", "cuda", "fp32"))


def test_each_variant_asks_for_its_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    (name, options), (second, cuda), last = providers("cuda", "fp16", 1234, {"provider": "tensorrt"})
    assert (name, second, last) == ("TensorrtExecutionProvider", CUDA, CPU)
    assert options == {"device_id": "0", "user_compute_stream": "1234", "trt_fp16_enable": "1"}
    assert cuda["user_compute_stream"] == "1234"
    assert _onnx_providers.os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert providers("cuda", "fp32", 1, {"provider": "tensorrt"})[0][1]["trt_fp16_enable"] == "0"
    assert "enable_cuda_graph" not in providers("cuda", "fp32", 1, {})[0][1]
    assert providers("cpu", "fp32", 0, {}) == [CPU]


class Session:
    """Stands for onnxruntime.InferenceSession with a GPU; notes what it was asked for and each run's graph."""

    def __init__(self, path: str = "", options: Any = None, providers: Any = ()) -> None:
        self.asked, self.options = providers, []

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.options.append(options)

    @property
    def ran(self) -> list[str]:
        return [options.get_run_config_entry(_onnx_graphs.GRAPH_ID) for options in self.options]

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]


class Binding:
    """Notes which outputs are bound to stay."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def get_outputs(self) -> list[str]:
        return ["the value of logits"]

    def bind_ortvalue_output(self, name: str, value: str) -> None:
        self.kept[name] = value


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Loads the backend with the options given, on a torch with one stream of its own."""
    import onnxruntime
    import torch

    streams = [SimpleNamespace(cuda_stream=0)]
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=1234))
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    (tmp_path / "artifact.json").write_text('{"metadata": {"inputs": ["input_ids"], "outputs": ["logits"]}}')

    def load(**options: Any) -> Any:
        backend = Onnx()
        backend.load(tmp_path, device="cuda", precision="fp32", threads=1, options=options)
        return backend

    return load


def test_onnx_on_cuda_runs_on_torchs_stream_without_tf32(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    backend = gpu()
    (name, options), fallback = backend.session.asked
    assert (name, fallback) == (CUDA, CPU)
    assert options == {"device_id": "0", "use_tf32": "0", "user_compute_stream": "1234"}
    backend.run("a binding")
    assert backend.session.options[0].get_run_config_entry("disable_synchronize_execution_providers") == "1"
    limited = gpu(memory_limit_bytes=3 * 2**30)
    assert limited.session.asked[0][1]["gpu_mem_limit"] == str(3 * 2**30)
    monkeypatch.setattr(Session, "get_providers", lambda self: [CPU])
    with pytest.raises(BackendError, match=f"{CUDA} was asked for and ONNX Runtime took {CPU}"):
        gpu()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    with pytest.raises(BackendError, match="no stream of its own"):
        gpu()


def test_cuda_graphs_are_captured_once_a_call_is_prepared(gpu: Any) -> None:
    backend = gpu(**Onnx.spec.variants["cuda-graphs"])
    assert backend.session.asked[0][1]["enable_cuda_graph"] == "1"
    assert backend.run_options.get_run_config_entry("gpu_graph_id") == "-1"
    prepared = backend.prepare_binding(Binding())
    assert backend.run(prepared) is prepared.binding
    assert backend.session.ran == ["-1", "1"]
    assert backend.facts()["captured_graphs"] == 1
    backend.release(prepared.binding)  # its outputs stay where the graph writes


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


def test_what_ran_is_that_of_the_last_run_after_fusion() -> None:
    def node(ts: int, provider: str, operator: str) -> dict[str, Any]:
        told = {"provider": provider, "op_name": operator}
        return {"cat": "Node", "name": f"x{ts}_kernel_time", "ts": ts, "args": told}

    first = [{"cat": "Session", "name": "model_run", "ts": 0}, node(1, CPU, "Softmax")]
    last = [{"cat": "Session", "name": "model_run", "ts": 10}, node(11, CUDA, "MemcpyFromHost"), node(12, CPU, "Shape")]
    last += [node(13, CUDA, "MultiHeadAttention"), node(14, CUDA, "MatMul")]
    assert executed_nodes([*first, *last], "cuda") == {
        "nodes_per_provider": {CUDA: 3, CPU: 1},
        "nodes_on_cpu": 1,
        "operators_on_cpu": {"Shape": 1},
        "copies_inserted": 1,
        "attention_kernels": {"MultiHeadAttention": 1},
    }
    on_cpu = executed_nodes(first, "cpu")
    assert (on_cpu["attention_kernels"], on_cpu["nodes_on_cpu"]) == ({"unfused": 1}, None)


def test_a_binding_holds_what_its_inputs_lie_in() -> None:
    """ONNX Runtime 1.22 does not: it read freed memory once the caller had let its arrays go."""
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
