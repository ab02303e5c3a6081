"""Every backend that generates with a cache keeps the contract of it, and the contract notices one that does not."""

from __future__ import annotations

import itertools
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
    ("name", "variant", "precision"),
    [
        ("null", "instant", "fp32"), ("eager", "default", "fp32"), ("eager", "static", "fp32"), ("eager", "default", "bf16"),
        ("torchscript", "default", "fp32"), ("torchscript", "default", "bf16"), ("onnx", "default", "fp32"),
        ("openvino", "default", "fp32"), pytest.param("onnx", "default", "fp16", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_backend_generates_by_the_contract(name: str, variant: str, precision: str, artifacts: Path) -> None:
    assert len(check_generation(name, variant=variant, precision=precision, artifacts=artifacts)) == 4


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


def planted(kind: type[Eager], **changed: Any) -> type[Eager]:
    """A backend that does `changed` otherwise."""
    return type("Planted", (kind,), changed)


def forgetful(self: Any, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
    """Loses its oldest token, but not the place of it."""
    if cache is not None:
        tensors = [tensor.clone() for tensor in self.module.flatten(cache)]
        for tensor in tensors:
            tensor[:, :, 0] = 0
        cache = self.module.unflatten(tensors)
    return Eager.step(self, ids, mask, cache)


def counting(self: Any, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
    """Writes into the ids that it is given."""
    found = Null.step(self, ids, mask, cache)
    ids += 1
    return found


def remembering(self: Any, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
    """Goes on where the last generation ended."""
    logits, longer = Null.step(self, ids, mask, cache)
    return logits + next(CALLS), longer


def unwilling(self: Any, cache: Any, rows: Any) -> Any:
    raise UnsupportedError("eager keeps its order")


CALLS = itertools.count(1)
MASK_BLIND = planted(Eager, step=lambda self, ids, mask, cache: Eager.step(self, ids, mask * 0 + 1, cache))
UNORDERED = planted(Eager, reorder=lambda self, cache, rows: cache)


@pytest.mark.parametrize(
    ("backend", "variant", "message"),
    [
        (planted(Eager, step=forgetful), "default", "steps are broken"),
        (MASK_BLIND, "default", "steps are broken"),
        (MASK_BLIND, "static", "steps are broken"),
        (planted(Null, step=remembering), "instant", "continues 1 prompts of 1 otherwise the second time"),
        (UNORDERED, "default", "mixes up its sequences"),
        (UNORDERED, "static", "mixes up its sequences"),
        (planted(Eager, reorder=unwilling), "static", "does not put 3 in order"),
        (planted(Eager, cache_bytes=lambda self, cache: 1), "default", "holds 1 bytes and a token later 1"),
        (planted(Eager, has_cache=lambda self: False), "default", "has no cache after a load"),
        (planted(Null, step=counting), "instant", "changes its inputs"),
    ],
)
def test_the_contract_of_generation_notices(
    backend: type[Eager], variant: str, message: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "load_class", lambda name: backend)
    with pytest.raises(ContractError, match=message):
        check_generation(backend.spec.name, variant=variant, artifacts=artifacts)
