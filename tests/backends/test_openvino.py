"""OpenVINO: what the plugin was really told, outputs that are shared but not lost, static shapes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import base
from backends.base import UnsupportedError
from backends.openvino import OpenVino
from bench.parity.inputs import make_batch
from bench.testing import _Workbench

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch, transformers and their exporters warn


def has_bf16() -> bool:
    """What the plugin says of this CPU; some that CI meets have none."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Bench(_Workbench):
    """OpenVINO with bert-tiny, loaded."""

    def __init__(self, artifacts: Path, variant: str = "default", precision: str = "fp32") -> None:
        super().__init__(OpenVino, variant, "bert-tiny", "cpu", precision, artifacts)
        self.backend: Any = self._loaded()

    def batch(self, shape: tuple[int, int], seed: int = 0) -> Any:
        return make_batch(self._inputs(shape, seed), "timed")

    def prepared(self, shape: tuple[int, int], seed: int = 0) -> Any:
        return self.backend.prepare(self.batch(shape, seed))


def test_what_was_asked_of_the_plugin_holds_after_compiling(artifacts: Path) -> None:
    """Left alone it takes bf16 where the machine has it, pins its threads, and counts two CPUs of a core as one."""
    held = {}
    for precision in ("fp32", *(["bf16"] if has_bf16() else []), "int8"):
        bench = Bench(artifacts, precision=precision)
        facts, held[precision] = bench.backend.facts(), bench.backend.memory()["parameters_bytes"]
        _, watched = bench.backend.run_watched(bench.prepared((2, 16)))
        asked = {"threads": 1, "streams": 1, "performance_hint": "LATENCY", "cpu_pinning": False, "model_cache": False}
        asked |= {"execution_devices": ["CPU"], "computes_in": "bf16" if precision == "bf16" else "f32"}
        products, group = (12, 32) if precision == "int8" else (0, 0)
        asked |= {"matmuls_compressed": products, "activation_group": group}
        assert {name: facts[name] for name in asked} == asked
        assert sum(watched["attention_kernels"].values()) == 2
        assert sum(watched["products"].values()) == 16
        assert all(name.endswith("bf16") == (precision == "bf16") for name in watched["products"])
        bench.backend.close()
    assert held["fp32"] == held.get("bf16", held["fp32"]) > 1.5 * held["int8"]


def test_outputs_are_a_calls_own_and_shared_without_a_copy(artifacts: Path) -> None:
    bench = Bench(artifacts)
    backend, one, other = bench.backend, bench.prepared((2, 16)), bench.prepared((2, 16), seed=1)
    first = backend.run(one)
    fetched = backend.fetch(first)["last_hidden_state"]
    second = backend.run(other)
    assert np.array_equal(backend.fetch(first)["last_hidden_state"], fetched)
    assert not np.array_equal(backend.fetch(second)["last_hidden_state"], fetched)
    (shared,) = backend.tensors(first)
    assert shared.data_ptr() == first.request.get_output_tensor(0).data.ctypes.data != fetched.ctypes.data
    backend.release(first)
    assert first.request.get_output_tensor(0).data.size == 0
    assert np.array_equal(backend.fetch(backend.run(one))["last_hidden_state"], fetched)
    backend.close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"INFERENCE_PRECISION_HINT": "f32"}, "openvino has no bf16 on this CPU: it would compute in f32"),
        ({"EXECUTION_DEVICES": ["GPU.0"]}, "the CPU was asked for and OpenVINO took GPU.0"),
        ({"INFERENCE_NUM_THREADS": 2}, "openvino takes 2 threads where 4 were asked for; use --threads 2"),
    ],
)
def test_a_plugin_that_does_something_else_is_refused(changed: dict[str, Any], message: str) -> None:
    said = {"INFERENCE_PRECISION_HINT": "bf16", "EXECUTION_DEVICES": ["CPU"], "INFERENCE_NUM_THREADS": 4} | changed
    said["INFERENCE_PRECISION_HINT"] = SimpleNamespace(to_string=lambda name=said["INFERENCE_PRECISION_HINT"]: name)
    backend = OpenVino()
    backend.compiled = SimpleNamespace(get_property=said.__getitem__)
    with pytest.raises(base.BackendError, match=message):
        backend._check("bf16", 4)


def test_a_model_without_matrix_products_has_no_int8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from backends import openvino

    (tmp_path / "artifact.json").write_text('{"metadata": {"inputs": ["x"], "outputs": ["y"]}}')
    monkeypatch.setattr(openvino, "compress_weights", lambda model: 0)
    monkeypatch.setattr("openvino.Core", lambda: SimpleNamespace(read_model=lambda path: None))
    with pytest.raises(UnsupportedError, match="rounds the weights of MatMul, and this model has none"):
        OpenVino().load(tmp_path, device="cpu", precision="int8", threads=1, options={})


def test_openvino_says_what_it_is_not_for_and_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenVino.supports("default", "cpu", "fp32") is None
    assert OpenVino.supports("default", "cuda", "fp32") == "openvino does not run on cuda; use --device cpu"
    assert OpenVino.supports("group128", "cpu", "int8") is None
    assert "which fp32 does not; use openvino, or int8" in str(OpenVino.supports("group128", "cpu", "fp32"))
    monkeypatch.setattr(base, "is_installed", lambda module: False)
    assert OpenVino.supports("default", "cpu", "fp32") == (
        "openvino needs openvino, not installed; run: pip install 'runtimebench[openvino]'"
    )


def test_a_kernel_compiled_around_a_softmax_is_told_as_attention() -> None:
    from backends._openvino_graph import is_attention

    around = "node_transpose,Multiply_6048,Add_6051,Softmax_6052,ScaledDotProductAttention_108,"
    assert is_attention({"layerType": "Subgraph", "originalLayersNames": around})
    assert not is_attention({"layerType": "Subgraph", "originalLayersNames": "node_add,node_mul"})
    assert not is_attention({"layerType": "Softmax", "originalLayersNames": "node_softmax"})


def test_a_static_shape_is_compiled_within_its_first_call_and_kept_as_asked(artifacts: Path) -> None:
    bench = Bench(artifacts, "static")
    backend = bench.backend
    assert backend.has_static_shapes
    assert [OpenVino.spec.compiles_every_shape(variant) for variant in ("static", "attention23")] == [True, False]

    def compiled_by(shape: tuple[int, int]) -> tuple[int, int]:
        """Graphs that are held once a call is prepared, and once it has run twice."""
        prepared = bench.prepared(shape)
        before = backend.graphs
        backend.run(backend.run(prepared))
        return before, backend.facts()["graphs"]

    assert backend.facts().keys() == {"openvino"}
    assert [compiled_by(shape) for shape in ((1, 8), (1, 8), (2, 8), (2, 8))] == [(0, 1), (1, 1), (0, 1), (1, 1)]
    backend.keep_shapes(2)
    counts = [compiled_by(shape) for shape in ((1, 8), (2, 8), (1, 8), (2, 8), (3, 8), (1, 8))]
    assert counts == [(0, 1), (1, 2), (2, 2), (2, 2), (0, 1), (1, 2)]
    assert backend.facts()["compile_seconds"] > 0
    backend.keep_shapes(1)
    first, other = backend.run(bench.prepared((1, 8))), bench.prepared((2, 16))
    backend.run(other)
    backend.release(first)
    assert backend.fetch(backend.run(first))["last_hidden_state"].shape[:2] == (1, 8)
    assert backend.graphs == 1, "a call that outlives another shape is not compiled again"
    backend.close()


def test_inner_values_of_a_static_shape_are_compared_with_the_graph_of_that_shape(artifacts: Path) -> None:
    bench = Bench(artifacts, "static")
    backend = bench.backend
    name = next(name for name, value in backend.inner_values().items() if value.operation == "MatMul")
    for shape in ((1, 2), (2, 16)):
        found, changed = backend.run_inner(bench.batch(shape), [name, "last_hidden_state"])
        assert found["last_hidden_state"].shape[:2] == shape
        assert set(changed) == {"undone", "notes"}
    assert len(backend.layers_unmarked) == 2
    plain = backend.fetch(backend.run(bench.prepared((2, 16))))
    assert np.allclose(plain["last_hidden_state"], found["last_hidden_state"], atol=1e-5)
    backend.close()
