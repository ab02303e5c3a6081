"""ONNX with keys and values as inputs and outputs: a step of generation; one graph serves prompt and single tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters import onnx_int8
from exporters.cached import cache_tensors, example_step, names_of, open_stepping, stepping_module
from exporters.checkpoint import outputs_of
from exporters.onnx import LIBRARIES, recipe_fields, translate, write

VERSION = 1

__all__ = ["LIBRARIES", "VERSION", "export", "recipe_fields"]


def export(checkpoint: Path, folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Export in `recipe["precision"]`; writes model.onnx and model.onnx.data, and records opset and cache.

    In int8 weights alone are quantised, keys and values stay fp32. Raises ModelError for a model without them.
    """
    if recipe["precision"] == "int8":
        return onnx_int8.export("onnx-with-past", checkpoint, folder)
    module = open_stepping(checkpoint, "cpu", recipe["precision"])
    cache = cache_tensors(module, "cpu")
    inputs, presents = names_of(len(cache))
    outputs = [*outputs_of(checkpoint), *presents]
    shapes = {
        "input_ids": {0: "rows", 1: "new"},
        "attention_mask": {0: "rows", 1: "earlier_and_new"},
        "past": tuple({0: "rows", entry["grows"]: "earlier"} for entry in cache),
    }
    program = translate(stepping_module(module), example_step(module, "cpu"), shapes, inputs, outputs)
    return write(program, folder, inputs, outputs) | {"cache": cache}
