"""Every backend keeps the contract, and the contract notices a backend that does not."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
from backends.base import Backend, UnsupportedError
from backends.eager import Eager
from backends.null import Null
from bench.parity import inputs
from bench.process import abilities
from bench.testing import SHAPES, ContractError, _Workbench, check_backend
from tests.backends.test_openvino import has_bf16

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch, transformers and their exporters warn
#: For variants that compile each shape anew, at each change of shapes.
TWO_SHAPES = ((1, 1), (2, 16))
#: For those whose compilation takes longest.
ONE_SHAPE = ((2, 16), (2, 16))
#: What is checked on the CPU: models and precisions by backend and variant.
ON_CPU = {
    "null": "bert fp32",
    "eager": "bert fp32, bert bf16",
    "eager:sdpa": "bert fp32",
    "eager:math": "gpt2 fp32",
    "torchscript": "bert fp32, bert bf16, gpt fp32, gpt2 fp32",
    "torchscript:optimized": "bert fp32",
    "onnx": "bert fp32, bert fp16, bert int8, gpt fp32, gpt2 fp32, gpt2 int8",
    "onnx:fused": "bert fp32, bert fp16, bert int8, gpt fp32, gpt2 fp32, gpt2 int8",
    "onnx:attention23": "bert fp16, gpt2 fp32",
    "openvino": "bert fp32, bert bf16, bert int8, gpt fp32, gpt2 fp32",
    "openvino:attention23": "bert int8, gpt2 fp32",
    "openvino:group128": "bert int8",
    "openvino:static": "bert fp32, bert int8, gpt fp32, gpt2 bf16",
}
COMPILED_ON_CPU = {
    "compile": "bert fp32",
    "compile:freezing": "bert fp32",
    "compile:max-autotune": "bert fp32",
    "aoti": "gpt fp32, gpt2 bf16",
    "aoti:max-autotune": "bert fp32",
}
#: On a GPU, what its backend refuses there is skipped.
ON_GPU = {
    **dict.fromkeys(("eager", "compile", "tensorrt"), "bert fp32, bert fp16, bert bf16"),
    **dict.fromkeys(("torchscript", "onnx", "aoti"), "bert fp32, bert fp16, bert bf16, gpt fp32, gpt2 fp32"),
    **dict.fromkeys(
        ("onnx:fused", "onnx:attention23", "onnx:tensorrt", "onnx:cuda-graphs", "onnx:fused-cuda-graphs"),
        "bert fp32, bert fp16, bert bf16, gpt2 fp32, gpt2 fp16, gpt2 bf16",
    ),
    **dict.fromkeys(("eager:sdpa", "eager:math", "torchscript:optimized", "compile:dynamic"), "bert fp32"),
    **dict.fromkeys(("compile:reduce-overhead", "compile:freezing", "compile:max-autotune"), "bert fp32"),
    "aoti:max-autotune": "bert fp32",
}


def rows(table: dict[str, str], *marks: pytest.MarkDecorator) -> list[Any]:
    return [pytest.param(label, *one.split(), marks=marks) for label in table for one in table[label].split(", ")]


@pytest.mark.parametrize(("label", "model", "precision"), [*rows(ON_CPU), *rows(COMPILED_ON_CPU, pytest.mark.slow)])
def test_a_backend_keeps_the_contract(label: str, model: str, precision: str, artifacts: Path) -> None:
    name, _, variant = label.partition(":")
    shapes = {"compile": TWO_SHAPES, "compile:freezing": ONE_SHAPE, "compile:max-autotune": ONE_SHAPE}.get(
        label, SHAPES
    )
    options: dict[str, Any] = {"variant": variant or "default", "model": f"{model}-tiny", "precision": precision}
    if (name, precision) == ("openvino", "bf16") and not has_bf16():
        with pytest.raises(UnsupportedError, match="openvino has no bf16 on this CPU: it would compute in f32"):
            check_backend(name, artifacts=artifacts, **options)
        return
    assert len(check_backend(name, artifacts=artifacts, shapes=shapes, **options)) == 8


@pytest.mark.gpu
@pytest.mark.parametrize(("label", "model", "precision"), rows(ON_GPU))
def test_a_backend_keeps_the_contract_on_a_gpu(label: str, model: str, precision: str, artifacts: Path) -> None:
    name, _, variant = label.partition(":")
    variant = variant or "default"
    if reason := backends.load_class(name).supports(variant, "cuda", precision):
        pytest.skip(reason)
    shapes = SHAPES if variant in ("default", "optimized") or name == "onnx" else TWO_SHAPES
    options: dict[str, Any] = {"variant": variant, "model": f"{model}-tiny", "precision": precision}
    assert len(check_backend(name, device="cuda", artifacts=artifacts, shapes=shapes, **options)) == 8


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["eager", "torchscript", "onnx", "compile", "aoti", "tensorrt"])
def test_synchronize_waits_for_the_device(name: str, artifacts: Path) -> None:
    """Synchronised wall time of a call covers the device time that its events report."""
    if reason := backends.load_class(name).supports("default", "cuda", "fp32"):
        pytest.skip(reason)
    bench = _Workbench(backends.load_class(name), "default", "bert-tiny", "cuda", "fp32", artifacts)
    backend: Any = bench._loaded()
    prepared = backend.prepare(inputs.make_batch(bench._inputs((64, 128)), "timed"))
    for _ in range(3):
        backend.run(prepared)
    backend.synchronize()
    started, start = time.perf_counter_ns(), backend.mark()
    backend.run(prepared)
    end = backend.mark()
    backend.synchronize()
    wall_ns = time.perf_counter_ns() - started
    backend.close()
    assert 0 < backend.elapsed_ns(start, end) <= wall_ns


@pytest.mark.parametrize(("variant", "kernel"), [("sdpa", "flash"), ("math", "math")])
def test_attention_is_computed_by_the_kernel_that_was_asked_for(variant: str, kernel: str, artifacts: Path) -> None:
    import torch

    bench = _Workbench(Eager, variant, "bert-tiny", "cpu", "fp32", artifacts)
    backend: Any = bench._loaded()
    prepared, calls = backend.prepare(inputs.make_batch(bench._inputs((2, 16)), "timed")), list[int]()
    _, facts = backend.run_watched(prepared, lambda: calls.append(1) or backend.run(prepared))
    assert calls == [1]
    backend.close()
    assert facts["attention_kernels"]
    assert all(kernel in name for name in facts["attention_kernels"]), facts["attention_kernels"]
    assert torch.backends.cuda.flash_sdp_enabled(), "the switch is the whole process's, and set back"
    with pytest.raises(UnsupportedError, match="computes attention by its own code"):
        _Workbench(Eager, variant, "gpt-tiny", "cpu", "fp32", artifacts)._loaded()


@pytest.mark.slow
def test_one_dynamic_graph_serves_many_shapes(artifacts: Path) -> None:
    assert len(check_backend("compile", variant="dynamic", artifacts=artifacts, shapes=TWO_SHAPES)) == 8
    bench = _Workbench(backends.load_class("compile"), "dynamic", "bert-tiny", "cpu", "fp32", artifacts)
    backend: Any = bench._loaded()
    backend.keep_shapes(1)  # forgets what was compiled before, counts as well
    graphs = []
    for shape in ((2, 8), (3, 16), (4, 5), (2, 8)):
        backend.run(backend.prepare(inputs.make_batch(bench._inputs(shape), "timed")))
        graphs.append(backend.facts()["graphs"])
    backend.close()
    assert graphs == [1, 1, 1, 1]


def test_aoti_is_for_the_cpu_or_gpu_that_it_was_compiled_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from backends.aoti import Aoti
    from exporters import aoti

    told = []
    for flags in ("sse avx2", "avx2 sse", "sse avx2 avx512f"):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
        told.append(aoti.instructions(tmp_path / "cpuinfo"))
    assert told[0] == told[1] != told[2]
    assert "instructions" in aoti.recipe_fields(precision="fp32", device="cpu")
    assert "instructions" not in aoti.recipe_fields(precision="fp32", device="cuda")
    metadata = {"weight_bytes": 1, "settings": {}, "capability": [9, 0], "outputs": ["logits"], "inputs": ["ids"]}
    (tmp_path / "artifact.json").write_text(json.dumps({"metadata": metadata}))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    backend = Aoti()
    backend.device = "cuda"
    with pytest.raises(UnsupportedError, match=r"compute capability 9\.0, and this GPU has 8\.0; use"):
        backend.open(tmp_path, "fp32", {})


def test_every_backend_has_what_it_is_asked_for_and_nothing_halfway() -> None:
    """A renamed method of a protocol would make its ability disappear in silence."""
    loaded = {name: backends.load_class(name)() for name in backends.BUILT_IN}
    found = {
        name: {protocol.__name__ for protocol in abilities.PROTOCOLS if isinstance(backend, protocol)}
        for name, backend in loaded.items()
    }
    torch = {"DeviceClock", "MemoryGauge", "Watched", "DeviceTensors"}
    eager = torch | {"Generator", "InnerValues"}
    assert found == {
        "eager": eager,
        "compile": eager | {"ShapeCompiler"},
        "torchscript": eager,
        "aoti": torch,
        "onnx": eager | {"Releasing"},
        "openvino": eager - {"DeviceClock"} | {"ShapeCompiler", "Releasing"},
        "tensorrt": torch - {"Watched"} | {"ShapeCompiler", "Releasing"},
        "optimum": {"MemoryGauge", "DeviceTensors"},
        "null": {"Generator"},
    }


def test_the_core_of_a_backend_is_eight_methods() -> None:
    core = {name for name in vars(Backend) if not name.startswith("_")}
    assert core == {"supports", "load", "prepare", "run", "synchronize", "fetch", "facts", "close"}


def planted(kind: type[Backend], **changed: Any) -> type[Backend]:
    """A backend that does `changed` otherwise."""
    return type("Planted", (kind,), changed)


def first_calls_off_by(share: float) -> Any:
    """A `fetch` whose values are off by a share in the first call at a shape."""
    seen = set()

    def fetch(self: Null, outputs: Any) -> dict[str, Any]:
        is_new = outputs.shape not in seen
        seen.add(outputs.shape)
        return {"checksum": outputs.sum(keepdims=True) * (1 + share * is_new)}

    return fetch


CALLS = itertools.count()
SETTLING = replace(Null.spec, settling_calls={"cpu": 2})
NO_REPEAT = "does not repeat itself|differs from its own"
PLANTED = {
    "the same whatever the inputs": (
        planted(Null, fetch=lambda self, outputs: {"checksum": outputs.sum(keepdims=True) * 0}),
        "returns the same for other inputs",
    ),
    "never the same twice": (
        planted(Null, fetch=lambda self, outputs: {"checksum": outputs.sum(keepdims=True) + next(CALLS)}),
        NO_REPEAT,
    ),
    "the first call is another": (
        planted(Null, fetch=first_calls_off_by(1.0), spec=SETTLING),
        "first calls at .* are off its later ones by",
    ),
    "a settling call that is not declared": (planted(Null, fetch=first_calls_off_by(1e-6)), NO_REPEAT),
    "inputs are changed": (
        planted(Null, run=lambda self, prepared: np.add(prepared, 1, out=prepared) * 0 + prepared.shape[1]),
        "changes its inputs|does not repeat itself",
    ),
    "accepts every device": (planted(Null, supports=lambda *asked: None), "accepts fp32 on abacus"),
    "half of a device clock": (planted(Null, mark=lambda self: 0), "has some of DeviceClock and lacks elapsed_ns"),
    "declares what it has no methods for": (
        planted(Null, spec=replace(Null.spec, compiled_per_shape=("default",))),
        "declares compiled_per_shape and is no ShapeCompiler",
    ),
    "no spec": (planted(Null, spec={"name": "null"}), r"has no backends\.base\.Spec"),
    "slightly another model": (
        planted(Eager, run=lambda self, prepared: Eager.run(self, prepared) * 1.001),
        "is broken at",
    ),
    "the mask is ignored": (
        planted(Eager, run=lambda self, prepared: Eager.run(self, (prepared[0], prepared[1] * 0 + 1))),
        "is broken at .* padded",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_the_contract_notices(fault: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, message = PLANTED[fault]
    monkeypatch.setattr(backends, "load_class", lambda name: backend)
    with pytest.raises(ContractError, match=message):
        check_backend("eager" if issubclass(backend, Eager) else "null", artifacts=artifacts)


def test_only_torchscript_on_a_gpu_settles_and_a_declared_call_may_be_off_by_rounding(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = {name: backends.load_class(name).spec.settling_calls for name in backends.names()}
    assert {name: calls for name, calls in declared.items() if calls} == {"torchscript": {"cuda": 2}}
    monkeypatch.setattr(
        backends, "load_class", lambda name: planted(Null, fetch=first_calls_off_by(1e-6), spec=SETTLING)
    )
    assert len(check_backend("null", artifacts=artifacts)) == 8
