"""TorchScript: the checkpoint's module, traced and frozen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.checkpoint import EXAMPLE_SHAPE, example_inputs, input_names, open_checkpoint, outputs_of

VERSION = 1
LIBRARIES = ("torch", "transformers")


def recipe_fields(*, precision: str, device: str) -> dict[str, Any]:
    """Tracing bakes the device of every tensor that the model creates into the graph, so both count."""
    return {"precision": precision, "device": device, "trace_shape": list(EXAMPLE_SHAPE)}


def export(checkpoint: Path, folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Trace and freeze on `recipe["device"]` in `recipe["precision"]`; writes model.pt."""
    module = open_checkpoint(checkpoint, recipe["device"], recipe["precision"])
    return export_module(module, folder, outputs_of(checkpoint), recipe["device"])


def export_module(module: Any, folder: Path, outputs: list[str], device: str) -> dict[str, Any]:
    """Write `module`, on `device` and in eval mode, whose outputs are called `outputs`; returns the metadata."""
    trace_and_freeze(module, example_inputs(device, module), folder)
    return {"inputs": input_names(module), "outputs": outputs}


def trace_and_freeze(module: Any, example: tuple[Any, ...], folder: Path) -> None:
    """Write `module`, traced on `example` and frozen, as model.pt."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        # The traced branches depend on which arguments are given and never on the shape; parity
        # at other shapes than the traced one is judged for every cell.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, example, check_trace=False)
        torch.jit.freeze(traced).save(str(folder / "model.pt"))
