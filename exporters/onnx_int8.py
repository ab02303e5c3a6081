"""int8 for ONNX files: ONNX Runtime's own dynamic quantisation of an fp32 artifact of the same store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exporters
from exporters.store import Artifact, ArtifactStore

#: Raise when the same file would be quantised otherwise.
VERSION = 1
#: Weights are symmetric with a scale a column; activations get theirs in every call.
SETTINGS = {"weights": "QInt8", "per_channel": True}


def recipe_fields() -> dict[str, Any]:
    """What decides the quantised file beside the recipe of the fp32 one."""
    return {"quantised": {"version": VERSION, "onnxruntime": runtime_version(), **SETTINGS}}


def runtime_version() -> str:
    """Version of the installed ONNX Runtime, whichever build; "missing" where there is none."""
    found = exporters.library_versions(("onnxruntime", "onnxruntime-gpu"))
    return next((version for version in found.values() if version != "missing"), "missing")


def fp32_artifact(format: str, checkpoint: Path, precision: str = "fp32") -> Artifact:
    """The artifact of `format` from the same checkpoint, of the store that it lies in; made where it is missing.

    So a model is exported once for all that is made of that file.
    """
    store = ArtifactStore(checkpoint.parent.parent)
    key = checkpoint.name.rpartition("-")[2]
    module = exporters.load_module(format)
    recipe = exporters.recipe(format, key, precision=precision, device="cpu")
    store.drop_damaged([path] if (path := store.path_of(recipe)).exists() else [])
    return store.make(recipe, lambda folder: module.export(checkpoint, folder, recipe))


def export(format: str, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Quantise the weights of `format`'s fp32 artifact; writes model.onnx and model.onnx.data.

    Raises RuntimeError where nothing in the graph could be quantised.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = fp32_artifact(format, checkpoint)
    quantize_dynamic(
        source.path / "model.onnx",
        folder / "model.onnx",
        per_channel=bool(SETTINGS["per_channel"]),
        weight_type=QuantType[str(SETTINGS["weights"])],
        use_external_data_format=True,
        # Behind fused operators the tool infers no types, and without one it stops.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    quantised = sum(kind in ("MatMulInteger", "QAttention", "ConvInteger") for kind in kinds)
    if not quantised:
        raise RuntimeError("nothing in the graph could be quantised: it has no product of an input with weights")
    return {**source.metadata, **made_from(source), "nodes": len(kinds), "quantised_products": quantised}


def made_from(source: Artifact) -> dict[str, Any]:
    """Metadata that says which artifact another one was made from; its seconds are not within the other's own."""
    return {"made_from": {"format": source.format, "key": source.key, "export_seconds": source.export_seconds}}
