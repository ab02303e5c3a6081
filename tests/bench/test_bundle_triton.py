"""config.pbtxt: what protobuf's own parser reads of it, by the part of Triton's ModelConfig that it uses.

The fields and their numbers are those of model_config.proto in triton-inference-server/common; no server has read it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import UserError, deploy, machine, verify_bundle
from bench.bundle import triton
from bench.bundle.samples import folder_of
from bench.spec import Candidate, Shape
from tests.bench.bundle_cases import ONNX, TORCHSCRIPT, in_this_process, run_of

SHAPES = (Shape(1, 16), Shape(2, 37))
DATA_TYPES = {
    "TYPE_INVALID": 0, "TYPE_BOOL": 1, "TYPE_UINT8": 2, "TYPE_INT8": 6, "TYPE_INT16": 7, "TYPE_INT32": 8,
    "TYPE_INT64": 9, "TYPE_FP16": 10, "TYPE_FP32": 11, "TYPE_FP64": 12, "TYPE_BF16": 14,
}  # fmt: skip
KINDS = {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3}
#: Message -> field -> number, type ("", or that of an enumeration or message), and whether it repeats.
MESSAGES = {
    "ModelInput": {"name": (1, "string", 0), "data_type": (2, "DataType", 0), "dims": (4, "int64", 1)},
    "ModelOutput": {"name": (1, "string", 0), "data_type": (2, "DataType", 0), "dims": (3, "int64", 1)},
    "ModelInstanceGroup": {"kind": (4, "Kind", 0), "count": (2, "int32", 0)},
    "ModelParameter": {"string_value": (1, "string", 0)},
    "ModelConfig": {
        "name": (1, "string", 0), "platform": (2, "string", 0), "backend": (17, "string", 0),
        "max_batch_size": (4, "int32", 0), "input": (5, "ModelInput", 1), "output": (6, "ModelOutput", 1),
        "instance_group": (7, "ModelInstanceGroup", 1), "parameters": (14, "ParametersEntry", 1),
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints without the fifth of a second for which the machine is watched."""
    monkeypatch.setattr(machine, "busy_share", lambda: 0.0)


@cache
def model_config() -> Any:
    """The class of Triton's ModelConfig, as far as it is used here."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    plain = {"string": field.TYPE_STRING, "int32": field.TYPE_INT32, "int64": field.TYPE_INT64}
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in (("DataType", DATA_TYPES), ("Kind", KINDS)):
        enumeration = file.enum_type.add(name=name)
        for label, number in values.items():
            enumeration.value.add(name=label, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for label, (number, kind, repeats) in fields.items():
            entry = message.field.add(name=label, number=number, label=3 if repeats else 1)
            if kind in plain:
                entry.type = plain[kind]
            else:
                entry.type = field.TYPE_ENUM if kind in ("DataType", "Kind") else field.TYPE_MESSAGE
                nested = ".ModelConfig" if kind == "ParametersEntry" else ""
                entry.type_name = f".inference{nested}.{kind}"
        if name == "ModelConfig":
            pairs = message.nested_type.add(name="ParametersEntry")
            pairs.options.map_entry = True
            pairs.field.add(name="key", number=1, label=1, type=field.TYPE_STRING)
            pairs.field.add(
                name="value", number=2, label=1, type=field.TYPE_MESSAGE, type_name=".inference.ModelParameter"
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def parsed(text: str) -> Any:
    from google.protobuf import text_format

    return text_format.Parse(text, model_config()())


def samples_in(folder: Path, kind: str = "float32") -> Path:
    """Samples of a model with ids, features and two outputs."""
    for shape in SHAPES:
        place = folder / folder_of(shape, "eager")
        place.mkdir(parents=True)
        batch = (shape.batch, shape.length)
        np.savez(place / "random-full.inputs.npz", ids=np.zeros(batch, np.int64), features=np.zeros((*batch, 4), "f2"))
        pooled = np.zeros((shape.batch, 8), kind)
        np.savez(place / "random-full.npz", states=np.zeros((*batch, 8), kind), pooled=pooled)
    return folder


METADATA = {"inputs": ["features", "ids"], "outputs": ["states", "pooled"]}


def config_of(candidate: Candidate, folder: Path, model: str = "bert-tiny", **options: Any) -> Any:
    run = run_of(shapes=(Shape(8, 16), Shape(1, 64)), threads=3, **options)
    run.model = replace(run.model, name=model)
    return parsed(triton.config_text(candidate, run, METADATA, folder, SHAPES))


def test_onnx_keeps_its_own_names(tmp_path: Path) -> None:
    found = config_of(ONNX, samples_in(tmp_path), model="org/My model")
    assert (found.name, found.backend, found.platform) == ("My_model", "onnxruntime", "onnxruntime_onnx")
    assert found.max_batch_size == 8
    inputs = [(entry.name, entry.data_type, list(entry.dims)) for entry in found.input]
    assert inputs == [("features", DATA_TYPES["TYPE_FP16"], [-1, 4]), ("ids", DATA_TYPES["TYPE_INT64"], [-1])]
    outputs = [(entry.name, entry.data_type, list(entry.dims)) for entry in found.output]
    assert outputs == [("states", DATA_TYPES["TYPE_FP32"], [-1, 8]), ("pooled", DATA_TYPES["TYPE_FP32"], [8])]
    assert [(group.count, group.kind) for group in found.instance_group] == [(1, KINDS["KIND_CPU"])]
    told = {key: value.string_value for key, value in found.parameters.items()}
    assert told == {"intra_op_thread_count": "3", "inter_op_thread_count": "1"}


def test_torchscript_gets_names_by_position(tmp_path: Path) -> None:
    found = config_of(TORCHSCRIPT, samples_in(tmp_path), device="cuda")
    assert (found.backend, found.platform) == ("pytorch", "pytorch_libtorch")
    assert [entry.name for entry in found.input] == ["INPUT__0", "INPUT__1"]
    assert [list(entry.dims) for entry in found.input] == [[-1, 4], [-1]]  # features first, as forward takes them
    assert [entry.name for entry in found.output] == ["OUTPUT__0", "OUTPUT__1"]
    assert found.instance_group[0].kind == KINDS["KIND_GPU"]
    assert found.parameters["INTRA_OP_THREAD_COUNT"].string_value == "3"
    assert found.parameters["INFERENCE_MODE"].string_value == "true"


@pytest.mark.parametrize(
    ("precision", "stored", "wanted"),
    [("fp16", "float16", "TYPE_FP16"), ("bf16", "float32", "TYPE_BF16"), ("fp32", "float32", "TYPE_FP32")],
)
def test_outputs_have_the_precisions_type(tmp_path: Path, precision: str, stored: str, wanted: str) -> None:
    found = config_of(replace(TORCHSCRIPT, precision=precision), samples_in(tmp_path, stored))
    assert {entry.data_type for entry in found.output} == {DATA_TYPES[wanted]}


def test_what_triton_has_no_type_for_is_refused(tmp_path: Path) -> None:
    folder = samples_in(tmp_path, "uint16")
    with pytest.raises(UserError, match="elements of uint16"):
        config_of(ONNX, folder)


@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_only_runtimes_with_a_backend_of_tritons_own(backend: str) -> None:
    with pytest.raises(UserError, match="--layout triton is for onnx and torchscript"):
        triton.check(Candidate(backend, "default", "fp32"))


@pytest.mark.parametrize("candidate", [ONNX, TORCHSCRIPT], ids=["onnx", "torchscript"])
def test_a_model_repository_is_a_bundle_too(artifacts: Path, tmp_path: Path, candidate: Candidate) -> None:
    with in_this_process():
        made = deploy(
            run_of(candidates=(candidate,)), tmp_path / "out", choose=candidate.backend, layout="triton",
            artifacts=artifacts,
        )  # fmt: skip
        found = verify_bundle(tmp_path / "out", envelope="off")
    assert found.exit_code == 0
    assert made.manifest.model_repository == "triton"
    (model,) = (tmp_path / "out" / "triton").iterdir()
    assert (model.name, made.manifest.artifact_folder) == ("bert-tiny", "triton/bert-tiny/1")
    names = {path.name for path in (model / "1").iterdir()}
    assert names == {"artifact.json"} | (
        {"model.pt"} if candidate == TORCHSCRIPT else {"model.onnx", "model.onnx.data"}
    )
    config = parsed((model / "config.pbtxt").read_text())
    assert config.name == model.name
    assert [list(entry.dims) for entry in (*config.input, *config.output)] == [[-1], [-1], [-1, 64]]
    assert any(line.startswith("serve it: tritonserver --model-repository=") for line in made.lines)
