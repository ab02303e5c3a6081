"""Every backend keeps the contract, and the contract notices a backend that does not."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import backends
from backends.base import Backend, UnsupportedError
from backends.eager import Eager
from backends.null import Null
from bench.process import abilities
from bench.testing import ContractError, check_backend

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # in-process torch, transformers and their exporters warn about themselves


@pytest.mark.parametrize("name", ["null", "eager", "torchscript", "onnx"])
def test_backend_keeps_the_contract(name: str, artifacts: Path) -> None:
    assert len(check_backend(name, artifacts=artifacts)) == 8


@pytest.mark.parametrize("model", ["gpt-tiny", "gpt2-tiny"])
@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_decoders_keep_the_contract(name: str, model: str, artifacts: Path) -> None:
    assert len(check_backend(name, model=model, artifacts=artifacts)) == 8


@pytest.mark.parametrize(("name", "precision"), [("eager", "bf16"), ("torchscript", "bf16"), ("onnx", "fp16")])
def test_lower_precisions_keep_the_contract(name: str, precision: str, artifacts: Path) -> None:
    assert len(check_backend(name, precision=precision, artifacts=artifacts)) == 8


@pytest.mark.parametrize(
    ("name", "variant", "model"),
    [("eager", "sdpa", "bert-tiny"), ("eager", "math", "gpt2-tiny"), ("torchscript", "optimized", "bert-tiny")],
)
def test_variants_keep_the_contract(name: str, variant: str, model: str, artifacts: Path) -> None:
    assert len(check_backend(name, variant=variant, model=model, artifacts=artifacts)) == 8


@pytest.mark.parametrize(("variant", "kernel"), [("sdpa", "flash"), ("math", "math")])
def test_attention_is_computed_by_the_kernel_that_was_asked_for(variant: str, kernel: str, artifacts: Path) -> None:
    import torch

    from bench import testing
    from bench.parity import inputs

    bench = testing._Workbench(Eager, variant, "bert-tiny", "cpu", "fp32", artifacts)
    backend = bench._loaded()
    _, facts = backend.run_watched(backend.prepare(inputs.make_batch(bench._inputs((2, 16)), "timed")))
    backend.close()
    assert facts["attention_kernels"]
    assert all(kernel in name for name in facts["attention_kernels"]), facts["attention_kernels"]
    assert torch.backends.cuda.flash_sdp_enabled(), "the switch is the whole process's, and set back"


def test_a_model_with_attention_of_its_own_is_refused(artifacts: Path) -> None:
    from bench import testing

    bench = testing._Workbench(Eager, "math", "gpt-tiny", "cpu", "fp32", artifacts)
    with pytest.raises(UnsupportedError, match="computes attention by its own code"):
        bench._loaded()


@pytest.mark.slow
def test_one_dynamic_graph_serves_many_shapes(artifacts: Path) -> None:
    from bench import testing
    from bench.parity import inputs

    assert len(check_backend("compile", variant="dynamic", artifacts=artifacts)) == 8
    bench = testing._Workbench(backends.load_class("compile"), "dynamic", "bert-tiny", "cpu", "fp32", artifacts)
    backend = bench._loaded()
    backend.keep_shapes(1)  # forgets what was compiled before, counts as well
    graphs = []
    for shape in ((2, 8), (3, 16), (4, 5), (2, 8)):
        backend.run(backend.prepare(inputs.make_batch(bench._inputs(shape), "timed")))
        graphs.append(backend.facts()["graphs"])
    backend.close()
    assert graphs == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("variant", "model", "precision"),
    [
        ("default", "bert-tiny", "int8"), ("default", "gpt2-tiny", "int8"), ("fused", "bert-tiny", "fp32"),
        ("fused", "gpt2-tiny", "fp32"), ("fused", "gpt-tiny", "fp32"), ("fused", "bert-tiny", "int8"),
        ("fused", "bert-tiny", "fp16"), ("attention23", "gpt2-tiny", "fp32"),
        pytest.param("fused", "gpt2-tiny", "int8", marks=pytest.mark.slow),
        pytest.param("fused", "gpt2-tiny", "fp16", marks=pytest.mark.slow),
        pytest.param("attention23", "bert-tiny", "fp32", marks=pytest.mark.slow),
        pytest.param("attention23", "gpt-tiny", "fp32", marks=pytest.mark.slow),
        pytest.param("attention23", "gpt2-tiny", "fp16", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_variants_of_onnx_keep_the_contract(variant: str, model: str, precision: str, artifacts: Path) -> None:
    assert len(check_backend("onnx", variant=variant, model=model, precision=precision, artifacts=artifacts)) == 8


@pytest.mark.slow
def test_compile_keeps_the_contract_at_every_shape(artifacts: Path) -> None:
    assert len(check_backend("compile", artifacts=artifacts)) == 8


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["freezing", "max-autotune"])
def test_variants_of_compile_keep_the_contract(variant: str, artifacts: Path) -> None:
    """At two shapes: each shape compiles anew, and what differs from the default is not its shapes."""
    assert len(check_backend("compile", variant=variant, artifacts=artifacts, shapes=((1, 1), (2, 16)))) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "model", "precision"),
    [
        ("default", "bert-tiny", "fp32"), ("default", "gpt-tiny", "fp32"), ("default", "gpt2-tiny", "fp32"),
        ("default", "bert-tiny", "bf16"), ("max-autotune", "bert-tiny", "fp32"),
    ],
)  # fmt: skip
def test_aoti_keeps_the_contract(variant: str, model: str, precision: str, artifacts: Path) -> None:
    """Its one package is right at batches 1 to 3 and lengths 1 to 128, with padding."""
    assert len(check_backend("aoti", variant=variant, model=model, precision=precision, artifacts=artifacts)) == 8


def test_aoti_is_compiled_for_the_instructions_of_one_cpu(tmp_path: Path) -> None:
    from exporters import aoti

    told = {}
    for name, line in (
        ("one", "flags : sse avx2"),
        ("same", "flags : avx2 sse"),
        ("other", "flags : sse avx2 avx512f"),
    ):
        (tmp_path / name).write_text(f"processor : 0\n{line}\n")
        told[name] = aoti.instructions(tmp_path / name)
    assert told["one"] == told["same"] != told["other"]
    assert "instructions" in aoti.recipe_fields(precision="fp32", device="cpu")
    assert "instructions" not in aoti.recipe_fields(precision="fp32", device="cuda")


def test_aoti_of_another_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from backends.aoti import Aoti

    metadata = {"weight_bytes": 1, "settings": {}, "capability": [9, 0], "outputs": ["logits"], "inputs": ["ids"]}
    (tmp_path / "artifact.json").write_text(json.dumps({"metadata": metadata}))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    backend = Aoti()
    backend.device = "cuda"
    with pytest.raises(UnsupportedError, match=r"compute capability 9\.0, and this GPU has 8\.0; use"):
        backend.open(tmp_path, "fp32", {})


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["eager", "torchscript", "onnx", "compile", "aoti", "tensorrt"])
def test_backend_keeps_the_contract_on_a_gpu(name: str, precision: str, artifacts: Path) -> None:
    if reason := backends.load_class(name).supports("default", "cuda", precision):
        pytest.skip(reason)
    assert len(check_backend(name, device="cuda", precision=precision, artifacts=artifacts)) == 8


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["eager", "torchscript", "onnx", "compile", "aoti", "tensorrt"])
def test_synchronize_waits_for_the_device(name: str, artifacts: Path) -> None:
    """Synchronised wall time of a call covers the device time that its events report."""
    from bench import testing
    from bench.parity import inputs

    if reason := backends.load_class(name).supports("default", "cuda", "fp32"):
        pytest.skip(reason)
    bench = testing._Workbench(backends.load_class(name), "default", "bert-tiny", "cuda", "fp32", artifacts)
    backend = bench._loaded()
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


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("model", ["bert-tiny", "gpt2-tiny"])
@pytest.mark.parametrize("variant", ["fused", "attention23", "tensorrt", "cuda-graphs", "fused-cuda-graphs"])
def test_variants_of_onnx_keep_the_contract_on_a_gpu(variant: str, model: str, precision: str, artifacts: Path) -> None:
    if reason := backends.load_class("onnx").supports(variant, "cuda", precision):
        pytest.skip(reason)
    made = check_backend("onnx", variant=variant, model=model, device="cuda", precision=precision, artifacts=artifacts)
    assert len(made) == 8


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("eager", "sdpa"), ("eager", "math"), ("torchscript", "optimized"), ("compile", "dynamic"),
        ("compile", "reduce-overhead"), ("compile", "freezing"), ("compile", "max-autotune"), ("aoti", "max-autotune"),
    ],
)  # fmt: skip
def test_variants_of_torch_keep_the_contract_on_a_gpu(name: str, variant: str, artifacts: Path) -> None:
    """At two shapes: a static one compiles anew for each."""
    shapes = ((1, 1), (2, 16))
    assert len(check_backend(name, variant=variant, device="cuda", artifacts=artifacts, shapes=shapes)) == 8


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["gpt-tiny", "gpt2-tiny"])
@pytest.mark.parametrize("name", ["torchscript", "onnx", "aoti"])
def test_decoders_keep_the_contract_on_a_gpu(name: str, model: str, artifacts: Path) -> None:
    if reason := backends.load_class(name).supports("default", "cuda", "fp32"):
        pytest.skip(reason)
    assert len(check_backend(name, model=model, device="cuda", artifacts=artifacts)) == 8


def test_every_backend_has_what_it_is_asked_for_and_nothing_halfway() -> None:
    """A renamed method of a protocol would make its ability disappear in silence."""
    found = {
        name: {
            protocol.__name__ for protocol in abilities.PROTOCOLS if isinstance(backends.load_class(name)(), protocol)
        }
        for name in backends.BUILT_IN
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


class Forgetful(Null):
    """Ignores its inputs."""

    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"checksum": outputs.sum(keepdims=True) * 0}


class Drifting(Null):
    """Never returns the same twice."""

    calls = 0

    def fetch(self, outputs: Any) -> dict[str, Any]:
        Drifting.calls += 1
        return {"checksum": outputs.sum(keepdims=True) + Drifting.calls}


class Unsettled(Null):
    """Computes something else in the first call at a shape, and declares that it only settles there."""

    spec = replace(Null.spec, settling_calls={"cpu": 2})

    def __init__(self, *arguments: Any, **named: Any) -> None:
        Null.__init__(self, *arguments, **named)
        self.seen = set[Any]()

    def fetch(self, outputs: Any) -> dict[str, Any]:
        is_new = outputs.shape not in self.seen
        self.seen.add(outputs.shape)
        return {"checksum": outputs.sum(keepdims=True) * (2 if is_new else 1)}


class Rounding(Unsettled):
    """Is off by rounding in the first call at a shape, and says so."""

    def fetch(self, outputs: Any) -> dict[str, Any]:
        is_new = outputs.shape not in self.seen
        self.seen.add(outputs.shape)
        return {"checksum": outputs.sum(keepdims=True) * (1 + 1e-6 * is_new)}


class Undeclared(Null):
    """The same without a word."""

    __init__, fetch = Rounding.__init__, Rounding.fetch


class Vandal(Null):
    """Changes its inputs."""

    def run(self, prepared: Any) -> Any:
        prepared += 1
        return prepared * 0 + prepared.shape[1]


class Willing(Null):
    """Accepts whatever it is asked for."""

    @classmethod
    def supports(cls, variant: str, device: str, precision: str) -> str | None:
        return None


class Halved(Null):
    """Has half of a device clock."""

    def mark(self) -> Any:
        return 0


class Boastful(Null):
    """Declares a variant that compiles every shape, and has nothing to hold shapes with."""

    spec = replace(Null.spec, compiled_per_shape=("default",))


class Unspecified(Null):
    """Has attributes of its own in place of a spec."""

    spec = {"name": "null"}  # type: ignore[assignment]  # noqa: RUF012


class Skewed(Eager):
    """A model that is slightly another one."""

    def run(self, prepared: Any) -> Any:
        return super().run(prepared) * 1.001


class MaskBlind(Eager):
    """Ignores the mask."""

    def run(self, prepared: Any) -> Any:
        import torch

        ids, mask = prepared
        return super().run((ids, torch.ones_like(mask)))


def test_a_declared_call_may_settle_by_rounding(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "load_class", lambda name: Rounding)
    assert len(check_backend("null", artifacts=artifacts)) == 8


def test_nothing_but_torchscript_on_a_gpu_declares_that_it_settles() -> None:
    declared = {name: backends.load_class(name).spec.settling_calls for name in backends.names()}
    assert {name: calls for name, calls in declared.items() if calls} == {"torchscript": {"cuda": 2}}


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (Forgetful, "returns the same for other inputs"),
        (Drifting, "does not repeat itself|differs from its own"),
        (Unsettled, "first calls at .* are off its later ones by"),
        (Undeclared, "does not repeat itself|differs from its own"),
        (Vandal, "changes its inputs|does not repeat itself"),
        (Willing, "accepts fp32 on abacus"),
        (Halved, "has some of DeviceClock and lacks elapsed_ns"),
        (Boastful, "declares compiled_per_shape and is no ShapeCompiler"),
        (Unspecified, r"has no backends\.base\.Spec"),
        (Skewed, "is broken at"),
        (MaskBlind, "is broken at .* padded"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_contract_notices(
    planted: type[Null], message: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = planted.__mro__[1].spec.name
    monkeypatch.setattr(backends, "load_class", lambda name: planted)
    with pytest.raises(ContractError, match=message):
        check_backend(real, artifacts=artifacts)
