"""What OpenVINO's CPU plugin made of a model: the layers of the compiled graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

#: Layers of the compiled graph that stand for several of the file's nodes.
FUSED = ("ScaledDotProductAttention", "MHA", "Subgraph", "RoPE")


def executed(compiled: Any) -> dict[str, Any]:
    """The compiled graph: its attention, and its layers with matrix products by what they multiply."""
    layers, products, compiled_alike = Counter[str](), Counter[str](), 0
    for layer in graph_layers(compiled):
        layers[layer["layerType"]] += 1
        compiled_alike += is_attention(layer)
        if layer["layerType"] in ("FullyConnected", "MatMul"):
            products[layer["primitiveType"]] += 1
    attention = {name: layers[name] for name in ("ScaledDotProductAttention", "MHA") if layers[name]}
    if compiled_alike:
        attention["Subgraph"] = compiled_alike
    if not attention and layers["Softmax"]:  # each unfused attention has one softmax
        attention = {"unfused": layers["Softmax"]}
    return {"attention_kernels": attention, "products": dict(sorted(products.items()))}


def graph_layers(compiled: Any) -> Iterator[dict[str, Any]]:
    """Each layer of the compiled graph, as the plugin describes it: `layerType`, `primitiveType`, precisions."""
    for op in compiled.get_runtime_model().get_ordered_ops():
        yield {name: value.value for name, value in op.get_rt_info().items()}


def is_attention(layer: Mapping[str, Any]) -> bool:
    """True for a layer that the plugin compiled from a softmax and what was around it, as one kernel."""
    return layer["layerType"] == "Subgraph" and "softmax" in str(layer.get("originalLayersNames", "")).lower()


def fused_layers(compiled: Any) -> Counter[str]:
    """Number of the compiled graph's layers, by type, that stand for several of the file's nodes."""
    return Counter(layer["layerType"] for layer in graph_layers(compiled) if layer["layerType"] in FUSED)
