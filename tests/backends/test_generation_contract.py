"""Every backend that generates with a cache keeps the contract of it, and the contract notices one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import backends
from backends.base import UnsupportedError
from backends.eager import Eager
from backends.null import Null
from bench.testing import ContractError
from bench.testing_generation import check_generation

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch, transformers and their exporters warn


@pytest.mark.parametrize(
    ("name", "variant"),
    [("null", "instant"), ("eager", "default"), ("eager", "static"), ("torchscript", "default"), ("onnx", "default")],
)
def test_backend_generates_by_the_contract(name: str, variant: str, artifacts: Path) -> None:
    assert len(check_generation(name, variant=variant, artifacts=artifacts)) == 4


@pytest.mark.parametrize("name", ["eager", "torchscript"])
def test_lower_precisions_generate_by_the_contract(name: str, artifacts: Path) -> None:
    assert len(check_generation(name, precision="bf16", artifacts=artifacts)) == 4


@pytest.mark.slow
def test_half_precision_of_onnx_generates_by_the_contract(artifacts: Path) -> None:
    assert len(check_generation("onnx", precision="fp16", artifacts=artifacts)) == 4


@pytest.mark.slow
def test_compile_generates_by_the_contract(artifacts: Path) -> None:
    """At one size and by one variant: each compiles anew, for half a minute."""
    assert len(check_generation("compile", artifacts=artifacts, sizes=((3, 7),))) == 4


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("name", "variant"), [(name, way) for name in ("eager", "compile", "torchscript", "onnx") for way in backends.load_class(name).spec.generation]
)  # fmt: skip
def test_backend_generates_by_the_contract_on_a_gpu(name: str, variant: str, precision: str, artifacts: Path) -> None:
    if reason := backends.load_class(name).supports("default", "cuda", precision):
        pytest.skip(reason)
    made = check_generation(name, variant=variant, device="cuda", precision=precision, artifacts=artifacts)
    assert len(made) == 4


class Forgetful(Eager):
    """Loses its oldest token, but not the place of it."""

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        if cache is not None:
            tensors = [tensor.clone() for tensor in self.module.flatten(cache)]
            for tensor in tensors:
                tensor[:, :, 0] = 0
            cache = self.module.unflatten(tensors)
        return super().step(ids, mask, cache)


class MaskBlind(Eager):
    """Ignores the padding."""

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        return super().step(ids, mask * 0 + 1, cache)


class Remembering(Null):
    """Goes on where the last generation ended."""

    last = 0

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        logits, longer = super().step(ids, mask, cache)
        Remembering.last += 1
        return logits + Remembering.last, longer


class Unordered(Eager):
    """Says that its sequences are in another order, and leaves them."""

    def reorder(self, cache: Any, rows: Any) -> Any:
        return cache


class Unwilling(Eager):
    """Has no order but its own."""

    def reorder(self, cache: Any, rows: Any) -> Any:
        raise UnsupportedError("eager keeps its order")


class Countless(Eager):
    """Its growing cache does not grow."""

    def cache_bytes(self, cache: Any) -> int:
        return 1


class Cacheless(Eager):
    """Declares variants to generate with and has no cache."""

    def has_cache(self) -> bool:
        return False


class Counting(Null):
    """Writes into the ids that it is given."""

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        found = super().step(ids, mask, cache)
        ids += 1
        return found


@pytest.mark.parametrize(
    ("planted", "variant", "message"),
    [
        (Forgetful, "default", "steps are broken"),
        (MaskBlind, "default", "steps are broken"),
        (MaskBlind, "static", "steps are broken"),
        (Remembering, "instant", "continues 1 prompts of 1 otherwise the second time"),
        (Unordered, "default", "mixes up its sequences"),
        (Unordered, "static", "mixes up its sequences"),
        (Unwilling, "static", "does not put 3 in order"),
        (Countless, "default", "holds 1 bytes and a token later 1"),
        (Cacheless, "default", "has no cache after a load"),
        (Counting, "instant", "changes its inputs"),
    ],
)
def test_the_contract_of_generation_notices(
    planted: type[Null], variant: str, message: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = planted.spec.name
    monkeypatch.setattr(backends, "load_class", lambda name: planted)
    with pytest.raises(ContractError, match=message):
        check_generation(real, variant=variant, artifacts=artifacts)
