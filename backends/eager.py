"""PyTorch as it is: the module, called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from backends import _layers
from backends._torch import TorchBackend
from backends.base import BackendError, Batch, InnerValue, Options


class Eager(TorchBackend):
    """The checkpoint's module, called without compilation; also computes the float64 reference.

    Variant `grad` runs with autograd on, as a call outside `torch.inference_mode` does, and keeps what a
    backward pass would need: it shows what forgetting that costs.
    """

    name = "eager"
    variants: ClassVar = {"default": {}, "grad": {"grad": True}}
    format = "checkpoint"
    requires = ("torch", "transformers")
    install = "runtimebench"

    def open(self, path: Path, precision: str, options: Options) -> Any:
        if self.open_checkpoint is None:
            raise BackendError(f"{self.name} needs open_checkpoint to build the module of a checkpoint")
        module = self.open_checkpoint(path, self.device, precision)
        self.attention = getattr(module, "attention_implementation", None)
        self.has_grad = bool(options.get("grad"))
        return module.requires_grad_(True) if self.has_grad else module

    def run(self, prepared: Any) -> Any:
        return self.module(*prepared) if self.has_grad else super().run(prepared)

    def has_cache(self) -> bool:
        return bool(getattr(self.module, "keeps_keys_and_values", False))

    def step(self, prepared: Any, cache: Any) -> tuple[Any, Any]:
        import torch

        with torch.inference_mode():
            return self.module.step(*prepared, cache)

    def inner_values(self) -> dict[str, InnerValue]:
        return {name: InnerValue(kind) for name, kind in _layers.states(self._layered_module()).items()}

    def run_inner(self, batch: Batch, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        inner = [name for name in names if name not in self.output_names]
        if not inner:
            found = self.fetch(self.run(self.prepare(batch)))
            return {name: found[name] for name in names}, {"undone": {}, "notes": []}
        with _layers.with_states(self._layered_module(), inner) as module, torch.inference_mode():
            outputs, states = self._callable_with_states(module)(*self.prepare(batch))
        taken = {name: self.to_host(state) for name, state in zip(inner, states, strict=True)}
        found = self.fetch(outputs) | taken
        return {name: found[name] for name in names}, {"undone": {}, "notes": self._notes()}

    def _layered_module(self) -> Any:
        """The module whose layers are asked for their hidden states."""
        return self.module

    def _callable_with_states(self, module: Any) -> Any:
        """What to call for the outputs and states of `module`."""
        return module

    def _notes(self) -> list[str]:
        """What handing out states changed."""
        return []

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"attention": self.attention, "grad": self.has_grad}
