"""TorchScript: a traced and frozen module, run by torch's JIT interpreter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backends._torch import TorchBackend
from backends.base import Options


class TorchScript(TorchBackend):
    """Trace + freeze; needs torch alone, not the model's code. Deprecated upstream in favour of torch.export."""

    name = "torchscript"
    format = "torchscript"

    def open(self, path: Path, precision: str, options: Options) -> Any:
        import torch

        return torch.jit.load(str(path / "model.pt"), map_location=self.device)

    def parameters(self) -> Iterable[Any]:
        """Freezing turns parameters and buffers into constants of the graph."""
        import torch

        constants = (node.output() for node in self.module.graph.findAllNodes("prim::Constant"))
        values = (value.toIValue() for value in constants)
        tensors = (value for value in values if isinstance(value, torch.Tensor))
        return {tensor.data_ptr(): tensor for tensor in tensors}.values()
