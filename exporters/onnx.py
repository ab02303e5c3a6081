"""ONNX: the checkpoint's module through torch's dynamo exporter, batch and length dynamic, weights external.

In int8 it is the fp32 file with its weights quantised.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters import onnx_int8
from exporters.checkpoint import dynamic_shapes, example_inputs, input_names, open_checkpoint, outputs_of

VERSION = 1
LIBRARIES = ("torch", "transformers", "onnx", "onnxscript")


def recipe_fields(*, precision: str, device: str) -> dict[str, Any]:
    """The file is the same for every device."""
    return {"precision": precision, **(onnx_int8.recipe_fields() if precision == "int8" else {})}


def export(checkpoint: Path, folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Export in `recipe["precision"]`; writes model.onnx and model.onnx.data, and records the opset.

    int8 comes from the fp32 artifact of the store that `checkpoint` lies in, which is made where it is missing.
    """
    if recipe["precision"] == "int8":
        return onnx_int8.export("onnx", checkpoint, folder)
    module = open_checkpoint(checkpoint, "cpu", recipe["precision"])
    return export_module(module, folder, outputs_of(checkpoint))


def export_module(module: Any, folder: Path, outputs: list[str], opset: int | None = None) -> dict[str, Any]:
    """Write `module`, on the CPU and in eval mode, whose outputs are called `outputs`; returns the metadata."""
    return write(_translate(module, outputs, opset=opset), folder, input_names(module), outputs)


def write(program: Any, folder: Path, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    """Write a translated program, weights beside it, into `folder`; returns the metadata."""
    program.save(str(folder / "model.onnx"), external_data=True)
    return {
        "inputs": inputs,
        "outputs": outputs,
        "opset": program.model.opset_imports[""],
        "nodes": sum(1 for _ in program.model.graph),
    }


def save_program(checkpoint: Path, precision: str, path: Path) -> None:
    """Write the torch program that `export` translates into nodes, without its weights; its values bear their names."""
    import torch

    module = open_checkpoint(checkpoint, "cpu", precision)
    program = _translate(module, outputs_of(checkpoint), optimize=False).exported_program
    # The program's own dictionary: the file needs the names of the weights, and whoever runs it has them.
    for name, tensor in program.state_dict.items():
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        program.state_dict[name] = torch.nn.Parameter(torch.empty(0), False) if is_parameter else torch.empty(0)
    torch.export.save(program, path)


def _translate(module: Any, outputs: list[str], optimize: bool = True, opset: int | None = None) -> Any:
    """The ONNX program of `module`, at torch's own choice of `opset` where none is given."""
    example, names = example_inputs("cpu", module), input_names(module)
    return translate(module, example, dynamic_shapes(module), names, outputs, optimize, opset)


def translate(
    module: Any,
    example: tuple[Any, ...],
    dynamic_shapes: Any,
    inputs: list[str],
    outputs: list[str],
    optimize: bool = True,
    opset: int | None = None,
) -> Any:
    """The ONNX program of `module`, traced on `example`, whose inputs and outputs are named so."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=inputs,
            output_names=outputs,
            opset_version=opset,
            optimize=optimize,
            verbose=False,
        )
    assert program is not None
    return program
