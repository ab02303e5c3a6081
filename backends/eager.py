"""PyTorch as it is: the module, called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends._torch import TorchBackend
from backends.base import BackendError, Options


class Eager(TorchBackend):
    """The checkpoint's module, called without compilation; also computes the float64 reference."""

    name = "eager"
    format = "checkpoint"
    requires = ("torch", "transformers")
    install = "runtimebench"

    def open(self, path: Path, precision: str, options: Options) -> Any:
        if self.open_checkpoint is None:
            raise BackendError(f"{self.name} needs open_checkpoint to build the module of a checkpoint")
        module = self.open_checkpoint(path, self.device, precision)
        self.attention = getattr(module, "attention_implementation", None)
        return module

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"attention": self.attention}
