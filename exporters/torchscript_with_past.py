"""TorchScript with keys and values: a step of generation, traced and frozen; one file for prompt and single tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.cached import EARLIER, NEW, ROWS, cache_tensors, example_step, names_of, open_stepping, stepping_module
from exporters.checkpoint import outputs_of
from exporters.torchscript import LIBRARIES, trace_and_freeze

VERSION = 1

__all__ = ["LIBRARIES", "VERSION", "export", "recipe_fields"]


def recipe_fields(*, precision: str, device: str) -> dict[str, Any]:
    """As for a whole pass: tracing bakes the device into the graph."""
    return {"precision": precision, "device": device, "trace_shape": [ROWS, EARLIER, NEW]}


def export(checkpoint: Path, folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Trace and freeze on `recipe["device"]` in `recipe["precision"]`; writes model.pt.

    Raises ModelError for a model without keys and values.
    """
    device = recipe["device"]
    module = open_stepping(checkpoint, device, recipe["precision"])
    cache = cache_tensors(module, device)
    inputs, presents = names_of(len(cache))
    trace_and_freeze(stepping_module(module), example_step(module, device), folder)
    return {"inputs": inputs, "outputs": [*outputs_of(checkpoint), *presents], "cache": cache}
