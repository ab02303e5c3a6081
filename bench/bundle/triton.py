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


def check(candidate: Candidate) -> None:
    """Raise UserError for a runtime that Triton has no backend of its own for."""
    if candidate.backend not in BACKENDS:
        raise UserError(
            f"--layout triton is for {' and '.join(BACKENDS)}, and {candidate.label} was chosen; "
            "--choose one of them, or leave --layout out"
        )


def folder_in(model: str) -> str:
    """Where in the bundle the model lies: its configuration, and the artifact in the folder `VERSION`."""
    return f"{FOLDER}/{plain(model)}"


def config_text(
    candidate: Candidate, run: Run, metadata: Mapping[str, Any], folder: Path, shapes: Sequence[Shape]
) -> str:
    """config.pbtxt for the artifact with the exporter's `metadata`; its tensors are those of the samples in `folder`.

    The largest batch is the largest that was measured, and threads are those that it was measured with.
    """
    (backend, platform), threads = BACKENDS[candidate.backend], str(run.options.settled_threads)
    values = {"name": plain(run.model.name), "backend": backend, "platform": platform}
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    lines.append(f"max_batch_size: {max(shape.batch for shape in run.workload.points())}")
    places = [folder / folder_of(shape, "eager") for shape in shapes]
    case = min(path.name for path in places[0].glob("*-full.inputs.npz")).removesuffix(".inputs.npz")
    for what, file_of, precision in (("input", inputs_file, "fp32"), ("output", outputs_file, candidate.precision)):
        stored = [tensors_in(file_of(place, case)) for place in places]
        for index, own in enumerate(metadata[f"{what}s"]):
            name = own if candidate.backend == "onnx" else f"{what.upper()}__{index}"
            remark = "" if own == name else f"  # {plain(own)}"
            entry = _entry(name, own, [tensors[own] for tensors in stored], shapes, precision)
            lines.append(f"{what} [ {{ {entry} }} ]{remark}")
    kind = "KIND_GPU" if run.options.kind == "cuda" else "KIND_CPU"
    lines.append(f"instance_group [ {{ count: 1 kind: {kind} }} ]")
    parameters = {"INFERENCE_MODE": "true", "INTRA_OP_THREAD_COUNT": threads}
    if candidate.backend == "onnx":
        parameters = {"intra_op_thread_count": threads, "inter_op_thread_count": "1"}
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}")
    return "\n".join(lines) + "\n"


def _entry(
    name: str, own: str, stored: Sequence[tuple[str, tuple[int, ...]]], shapes: Sequence[Shape], precision: str
) -> str:
    """Fields of one `input` or `output`; the batch is left out of its dims, as max_batch_size stands for it."""
    kind = stored[0][0]
    if kind not in TYPES:
        raise UserError(f"{own} has elements of {kind}, which Triton has no type for; leave --layout out")
    # NumPy has no bf16, so the samples hold it as float32.
    triton_type = "TYPE_BF16" if precision == "bf16" and kind == "float32" else TYPES[kind]
    dims = []
    for sizes in list(zip(*(shape for _, shape in stored), strict=True))[1:]:
        follows_length = list(sizes) == [shape.length for shape in shapes]
        dims.append(-1 if len(set(sizes)) > 1 or follows_length else sizes[0])
    return f"name: {json.dumps(name)} data_type: {triton_type} dims: [ {', '.join(map(str, dims))} ]"
