"""PyTorch as it is: the module, called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends import _caches, _layers
from backends._torch import TorchBackend, TorchSpec
from backends.base import BackendError, Batch, Options, UnsupportedError
from backends.protocols import InnerValue


class Eager(TorchBackend):
    """The checkpoint's module, called without compilation; also computes the float64 reference.

    Variant `grad` runs with autograd on, as a call outside `torch.inference_mode` does, and keeps what a
    backward pass would need: it shows what forgetting that costs. `sdpa` and `math` take torch's
    scaled_dot_product_attention for certain, with whichever kernel torch picks, or with its plain one alone.
    """

    spec = TorchSpec(
        name="eager",
        format="checkpoint",
        requires=("torch", "transformers"),
        install="runtimebench",
        variants={
            "default": {},
            "sdpa": {"attention": "sdpa"},
            "math": {"attention": "math"},
            "grad": {"grad": True},
        },
        not_for_deployment=("sdpa", "math", "grad"),  # sdpa is what the default takes, where there is one
        generation={"default": {}, "static": {"static_cache": True}},
    )
    cache_is_static = False
    #: True as long as torch's switches keep its fused attention from the whole process.
    takes_plain_attention = False
    #: Rows and room of the last static cache, and itself.
    static: tuple[tuple[int, int], Any] | None = None

    def open(self, path: Path, precision: str, options: Options) -> Any:
        if self.open_checkpoint is None:
            raise BackendError(f"{self.spec.name} needs open_checkpoint to build the module of a checkpoint")
        module = self.open_checkpoint(path, self.device, precision)
        self.attention = getattr(module, "attention_implementation", None)
        self.has_grad = bool(options.get("grad"))
        if wanted := options.get("attention"):
            self._take_attention(wanted)
            self.takes_plain_attention = wanted == "math"
        self.cache_is_static = bool(options.get("static_cache"))
        return module.requires_grad_(True) if self.has_grad else module

    def _take_attention(self, wanted: str) -> None:
        """Have torch's scaled_dot_product_attention use all of its kernels, or for "math" the plain one alone.

        Raises UnsupportedError where the model computes its attention by itself.
        """
        import torch

        if self.attention != "sdpa":
            its = f"by its own code ({self.attention})" if self.attention else "by its own code"
            raise UnsupportedError(
                f"{self.spec.name}:{wanted} needs torch's scaled_dot_product_attention, and this model computes "
                f"attention {its}; use {self.spec.name}"
            )
        _allow_fused_attention(wanted != "math")
        torch.backends.cuda.enable_math_sdp(True)

    def run(self, prepared: Any) -> Any:
        return self.module(*prepared) if self.has_grad else super().run(prepared)

    def has_cache(self) -> bool:
        module = self.plain_module()
        keeps = bool(getattr(module, "keeps_keys_and_values", False))
        return keeps and (not self.cache_is_static or bool(getattr(module, "has_static_cache", False)))

    def plain_module(self) -> Any:
        """The module as the checkpoint has it: it makes caches, takes them apart, and has layers."""
        return self.module

    def new_cache(self, rows: int, room: int) -> Any:
        import torch

        if not self.has_cache():
            kind = "static cache" if self.cache_is_static else "cache"
            raise UnsupportedError(f"{self.spec.name}: this model has no {kind} of keys and values; use full passes")
        if not self.cache_is_static:
            return None
        module = self.plain_module()
        with torch.inference_mode():
            # The same tensors again, where they can be emptied: a graph that was recorded over them stays valid.
            if self.static is not None and self.static[0] == (rows, room) and hasattr(module, "reset_cache"):
                module.reset_cache(self.static[1])
            else:
                self.static = None  # two caches at once would hold twice the memory
                self.static = (rows, room), module.static_cache(rows, room)
        return self.static[1]

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        import torch

        with torch.inference_mode():
            found: tuple[Any, Any] = self.module.step(ids, mask, cache)
            return found

    def step_watched(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any, dict[str, Any]]:
        (logits, longer), facts = self.watched_call(lambda: self.step(ids, mask, cache))
        return logits, longer, facts

    def reorder(self, cache: Any, rows: Any) -> Any:
        import torch

        if cache is None:
            return None
        module = self.plain_module()
        with torch.inference_mode():
            if not self.cache_is_static and hasattr(module, "reorder"):
                return module.reorder(cache, rows)
            tensors = module.flatten(cache)
            if not self.cache_is_static:
                return module.unflatten(_caches.reordered(tensors, rows))
            if len(rows) != len(tensors[0]):
                raise UnsupportedError(
                    f"a static cache of {len(tensors[0])} sequences cannot hold {len(rows)}; begin with as many"
                )
            for tensor in tensors:
                tensor.copy_(tensor.index_select(0, rows))
            return cache

    def cache_bytes(self, cache: Any) -> int:
        return 0 if cache is None else _caches.size_bytes(self.plain_module().flatten(cache))

    def inner_values(self) -> dict[str, InnerValue]:
        return {name: InnerValue(kind) for name, kind in _layers.states(self.plain_module()).items()}

    def run_inner(self, batch: Batch, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        def call(inner: Sequence[str]) -> Any:
            with _layers.with_states(self.plain_module(), inner) as module, torch.inference_mode():
                return self._callable_with_states(module)(*self.prepare(batch))

        return self.values_of(batch, names, call, self._notes())

    def close(self) -> None:
        self.static = None
        if self.takes_plain_attention:
            _allow_fused_attention(True)
            self.takes_plain_attention = False
        super().close()

    def _callable_with_states(self, module: Any) -> Any:
        """What to call for the outputs and states of `module`."""
        return module

    def _notes(self) -> list[str]:
        """What handing out states changed."""
        return []

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"attention": self.attention, "grad": self.has_grad}


def _allow_fused_attention(is_allowed: bool) -> None:
    """Set torch's switches of this process for all kernels but the plain one."""
    import torch

    for kernel in ("flash", "mem_efficient", "cudnn"):  # the CPU's flash kernel goes by the same switch
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(is_allowed)
