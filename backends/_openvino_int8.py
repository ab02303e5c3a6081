"""int8 for OpenVINO: weights that are rounded when the file is loaded."""

from __future__ import annotations

from typing import Any

INT8_LARGEST = 127


def compress_weights(model: Any) -> int:
    """Round the constant matrix of every MatMul to int8, one scale per output channel; returns how many there were.

    It is what `nncf.compress_weights` does in its mode INT8_SYM, without the need for NNCF and torch in the worker:
    w ≈ scale · q with scale = max |w| / 127 over the axis that is summed.
    """
    import numpy as np
    from openvino import opset13

    count = 0
    for op in model.get_ordered_ops():
        if op.get_type_name() != "MatMul" or (found := _matrix(op.input_value(1).get_node())) is None:
            continue
        matrix, is_transposed = found
        attributes = op.get_attributes()
        weights = matrix if attributes["transpose_b"] != is_transposed else matrix.T
        scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / INT8_LARGEST
        rounded = np.rint(weights / scales).astype(np.int8)
        product = opset13.matmul(
            op.input_value(0),
            opset13.multiply(opset13.convert(opset13.constant(rounded), "f32"), opset13.constant(scales)),
            attributes["transpose_a"],
            True,
        )
        product.set_friendly_name(op.get_friendly_name())
        product.output(0).set_names(op.output(0).get_names())
        op.output(0).replace(product.output(0))
        count += 1
    return count


def _matrix(node: Any) -> tuple[Any, bool] | None:
    """Weights [rows, columns] that `node` hands on, and whether it transposes them; None where it is no constant."""
    is_transposed = node.get_type_name() == "Transpose"
    source = node.input_value(0).get_node() if is_transposed else node
    if source.get_type_name() != "Constant" or source.get_element_type().to_string() != "f32":
        return None
    weights = source.data
    return (weights, is_transposed) if weights.ndim == 2 else None
