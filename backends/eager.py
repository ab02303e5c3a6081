"""PyTorch as it is: the module, called."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from backends._torch import TorchBackend
from backends.base import BackendError, Options


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

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"attention": self.attention, "grad": self.has_grad}
