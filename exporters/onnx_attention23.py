"""ONNX at opset 23, the first with an Attention operator, which torch's exporter then writes for each attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters import onnx
from exporters.checkpoint import open_checkpoint, outputs_of
from exporters.onnx import LIBRARIES

VERSION = 1
OPSET = 23

__all__ = ["LIBRARIES", "VERSION", "export", "recipe_fields"]


def recipe_fields(*, precision: str, device: str) -> dict[str, Any]:
    """The file is the same for every device."""
    return {"precision": precision, "opset": OPSET}


def export(checkpoint: Path, folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Export in `recipe["precision"]`; writes model.onnx and model.onnx.data, and counts the Attention operators.

    Raises RuntimeError where torch's exporter writes another opset.
    """
    import onnx as library

    module = open_checkpoint(checkpoint, "cpu", recipe["precision"])
    metadata = onnx.export_module(module, folder, outputs_of(checkpoint), recipe["opset"])
    if metadata["opset"] != recipe["opset"]:
        raise RuntimeError(f"torch's exporter writes opset {metadata['opset']} and not {recipe['opset']}; update torch")
    model = library.load(folder / "model.onnx", load_external_data=False)
    count = sum(node.op_type == "Attention" for node in model.graph.node)
    return {**metadata, "fused_operators": {"Attention": count} if count else {}, "fused_attention": count}
