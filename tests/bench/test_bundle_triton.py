"""config.pbtxt, whole: its fields are those of Triton's model_config.proto, by which protobuf's own parser read them.

The file is in triton-inference-server/common; no server has read it. docs/adr/0024-bundle.md says what was tried.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import UserError, deploy, machine, verify_bundle
from bench.bundle import triton
from bench.bundle.samples import folder_of
from bench.spec import Candidate, Shape
from tests.bench.bundle_cases import ONNX, TORCHSCRIPT, in_this_process, run_of

SHAPES = (Shape(1, 16), Shape(2, 37))
METADATA = {"inputs": ["features", "ids"], "outputs": ["states", "pooled"]}
OF_ONNX = """\
name: "My_model"
backend: "onnxruntime"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "features" data_type: TYPE_FP16 dims: [ -1, 4 ] } ]
input [ { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "states" data_type: TYPE_FP32 dims: [ -1, 8 ] } ]
output [ { name: "pooled" data_type: TYPE_FP32 dims: [ 8 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value { string_value: "3" } }
parameters { key: "inter_op_thread_count" value { string_value: "1" } }
"""
#: Names by position, features first, as forward takes them.
OF_TORCHSCRIPT = """\
name: "My_model"
backend: "pytorch"
platform: "pytorch_libtorch"
max_batch_size: 8
input [ { name: "INPUT__0" data_type: TYPE_FP16 dims: [ -1, 4 ] } ]  # features
input [ { name: "INPUT__1" data_type: TYPE_INT64 dims: [ -1 ] } ]  # ids
output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ -1, 8 ] } ]  # states
output [ { name: "OUTPUT__1" data_type: TYPE_FP32 dims: [ 8 ] } ]  # pooled
instance_group [ { count: 1 kind: KIND_GPU } ]
parameters { key: "INFERENCE_MODE" value { string_value: "true" } }
parameters { key: "INTRA_OP_THREAD_COUNT" value { string_value: "3" } }
"""


@pytest.fixture(autouse=True)
def machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints without the fifth of a second for which the machine is watched."""
    monkeypatch.setattr(machine, "busy_share", lambda: 0.0)


def config_of(candidate: Candidate, folder: Path, kind: str = "float32", device: str = "cpu") -> str:
    """Of samples of a model with ids, features and two outputs, whose elements are of `kind`."""
    for shape in SHAPES:
        place = folder / folder_of(shape, "eager")
        place.mkdir(parents=True)
        batch = (shape.batch, shape.length)
        np.savez(place / "random-full.inputs.npz", ids=np.zeros(batch, np.int64), features=np.zeros((*batch, 4), "f2"))
        pooled = np.zeros((shape.batch, 8), kind)
        np.savez(place / "random-full.npz", states=np.zeros((*batch, 8), kind), pooled=pooled)
    run = run_of(shapes=(Shape(8, 16), Shape(1, 64)), threads=3, device=device)
    run.model = replace(run.model, name="org/My model")
    return triton.config_text(candidate, run, METADATA, folder, SHAPES)


@pytest.mark.parametrize(
    ("candidate", "device", "wanted"), [(ONNX, "cpu", OF_ONNX), (TORCHSCRIPT, "cuda", OF_TORCHSCRIPT)]
)
def test_the_configuration_is_of_the_run(tmp_path: Path, candidate: Candidate, device: str, wanted: str) -> None:
    assert config_of(candidate, tmp_path, device=device) == wanted


@pytest.mark.parametrize(
    ("precision", "stored", "wanted"), [("fp16", "float16", "TYPE_FP16"), ("bf16", "float32", "TYPE_BF16")]
)
def test_outputs_have_the_precisions_type(tmp_path: Path, precision: str, stored: str, wanted: str) -> None:
    found = config_of(replace(TORCHSCRIPT, precision=precision), tmp_path, stored)
    assert [line.split()[6] for line in found.splitlines() if line.startswith("output")] == [wanted, wanted]


def test_what_triton_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="elements of uint16"):
        config_of(ONNX, tmp_path, "uint16")
    for backend in ("eager", "compile"):
        with pytest.raises(UserError, match="--layout triton is for onnx and torchscript"):
            triton.check(Candidate(backend, "default", "fp32"))


@pytest.mark.parametrize("candidate", [ONNX, TORCHSCRIPT], ids=["onnx", "torchscript"])
def test_a_model_repository_is_a_bundle_too(artifacts: Path, tmp_path: Path, candidate: Candidate) -> None:
    with in_this_process():
        made = deploy(
            run_of(candidates=(candidate,)), tmp_path / "out", choose=candidate.backend, layout="triton",
            artifacts=artifacts,
        )  # fmt: skip
        found = verify_bundle(tmp_path / "out", envelope="off", manifest_sha256=made.manifest_sha256)
    assert found.exit_code == 0
    assert made.manifest.model_repository == "triton"
    (model,) = (tmp_path / "out" / "triton").iterdir()
    assert (model.name, made.manifest.artifact_folder) == ("bert-tiny", "triton/bert-tiny/1")
    names = {path.name for path in (model / "1").iterdir()}
    assert names == {"artifact.json"} | (
        {"model.pt"} if candidate == TORCHSCRIPT else {"model.onnx", "model.onnx.data"}
    )
    config = (model / "config.pbtxt").read_text().splitlines()
    assert config[0] == f'name: "{model.name}"'
    dims = [line.split("dims: ")[1].split(" }")[0] for line in config if line.startswith(("input", "output"))]
    assert dims == ["[ -1 ]", "[ -1 ]", "[ -1, 64 ]"]
    known = f" --manifest-sha256 {made.manifest_sha256}" if candidate == TORCHSCRIPT else ""
    assert f"prove it: bench verify {tmp_path / 'out'}{known}" in made.lines
    assert any(line.startswith("serve it: tritonserver --model-repository=") for line in made.lines)
