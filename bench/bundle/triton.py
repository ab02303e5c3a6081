"""A Triton Inference Server model repository within a bundle: MODEL/config.pbtxt and MODEL/1/ with the artifact.

By Triton's documentation of model configurations and of its ONNX Runtime and PyTorch backends. A TorchScript file has
no names of outputs, so there they are NAME__INDEX; docs/adr/0024-bundle.md says what was tried and what was not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.bundle.samples import folder_of, tensors_in
from bench.bundle.selection import plain
from bench.errors import UserError
from bench.parity.judging import inputs_file, outputs_file
from bench.run.record import Run
from bench.spec import Candidate, Shape

FOLDER = "triton"
VERSION = "1"
BACKENDS = {"onnx": ("onnxruntime", "onnxruntime_onnx"), "torchscript": ("pytorch", "pytorch_libtorch")}
#: Names of Triton's element types by NumPy's.
TYPES = {
    "float64": "TYPE_FP64", "float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64",
    "int32": "TYPE_INT32", "int16": "TYPE_INT16", "int8": "TYPE_INT8", "uint8": "TYPE_UINT8", "bool": "TYPE_BOOL",
}  # fmt: skip

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def check(candidate: Candidate) -> None:
    """Raise UserError for a runtime that Triton has no backend of its own for."""
    if candidate.backend not in BACKENDS:
        raise UserError(
            f"--layout triton is for {' and '.join(BACKENDS)}, and {candidate.label} was chosen; "
            "--choose one of them, or leave --layout out"
        )


def name_of(model: str) -> str:
    """The model's name in Triton, which is its folder's too."""
    return plain(model)


def artifact_folder(model: str) -> str:
    """Where in the bundle the artifact lies."""
    return f"{FOLDER}/{name_of(model)}/{VERSION}"


def config_file(model: str) -> str:
    """Where in the bundle the configuration lies."""
    return f"{FOLDER}/{name_of(model)}/config.pbtxt"


def config_text(
    candidate: Candidate, run: Run, metadata: Mapping[str, Any], folder: Path, shapes: Sequence[Shape]
) -> str:
    """config.pbtxt for the artifact with the exporter's `metadata`; its tensors are those of the samples in `folder`.

    The largest batch is the largest that was measured, and threads are those that it was measured with.
    """
    backend, platform = BACKENDS[candidate.backend]
    cases = {shape: folder / folder_of(shape, "eager") for shape in shapes}
    case = _case(next(iter(cases.values())))
    inputs = _tensors(cases, lambda place: tensors_in(inputs_file(place, case)))
    outputs = _tensors(cases, lambda place: tensors_in(outputs_file(place, case)))
    is_named = candidate.backend == "onnx"
    wants_inputs = metadata["inputs"] if is_named else [f"INPUT__{index}" for index in range(len(inputs))]
    wants_outputs = metadata["outputs"] if is_named else [f"OUTPUT__{index}" for index in range(len(outputs))]
    lines = [
        f"name: {_quoted(name_of(run.model.name))}",
        f"backend: {_quoted(backend)}",
        f"platform: {_quoted(platform)}",
        f"max_batch_size: {max(shape.batch for shape in run.workload.points())}",
    ]
    for name, own in zip(wants_inputs, metadata["inputs"], strict=True):
        lines += _entry("input", name, own, *inputs[own], shapes, "fp32")
    for name, own in zip(wants_outputs, metadata["outputs"], strict=True):
        lines += _entry("output", name, own, *outputs[own], shapes, candidate.precision)
    kind = "KIND_GPU" if run.options.kind == "cuda" else "KIND_CPU"
    lines.append(f"instance_group [ {{ count: 1 kind: {kind} }} ]")
    for key, value in _parameters(candidate, run.options.settled_threads).items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    return "\n".join(lines) + "\n"


def _case(place: Path) -> str:
    """Name of a stored case without padding."""
    names = sorted(path.name.removesuffix(".inputs.npz") for path in place.glob("*-full.inputs.npz"))
    return names[0]


def _tensors(cases: Mapping[Shape, Path], read: Any) -> dict[str, tuple[str, list[tuple[int, ...]]]]:
    """Name -> element type, and the shape in each of the sampled shapes."""
    found: dict[str, tuple[str, list[tuple[int, ...]]]] = {}
    for place in cases.values():
        for name, (kind, shape) in read(place).items():
            found.setdefault(name, (kind, []))[1].append(shape)
    return found


def _entry(
    what: str, name: str, own: str, kind: str, found: list[tuple[int, ...]], shapes: Sequence[Shape], precision: str
) -> list[str]:
    """One `input` or `output`; the batch is left out of its dims, as max_batch_size stands for it."""
    if kind not in TYPES:
        raise UserError(f"{own} has elements of {kind}, which Triton has no type for; leave --layout out")
    # NumPy has no bf16, so the samples hold it as float32.
    triton_type = "TYPE_BF16" if precision == "bf16" and kind == "float32" else TYPES[kind]
    dims = []
    for axis in range(1, len(found[0])):
        sizes = {shape[axis] for shape in found}
        follows_length = all(of.length == shape[axis] for of, shape in zip(shapes, found, strict=True))
        dims.append(-1 if len(sizes) > 1 or follows_length else sizes.pop())
    remark = "" if own == name else f"  # {plain(own)}"
    values = f"name: {_quoted(name)} data_type: {triton_type} dims: [ {', '.join(map(str, dims))} ]"
    return [f"{what} [ {{ {values} }} ]{remark}"]


def _parameters(candidate: Candidate, threads: int) -> dict[str, str]:
    if candidate.backend == "onnx":
        return {"intra_op_thread_count": str(threads), "inter_op_thread_count": "1"}
    return {"INFERENCE_MODE": "true", "INTRA_OP_THREAD_COUNT": str(threads)}


def _quoted(text: str) -> str:
    return json.dumps(text)
