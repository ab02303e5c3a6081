"""Bundles that an attacker made, with every checksum recomputed: `bench verify DIR` runs and reads nothing of theirs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import UserError, deploy, machine, verify_bundle
from bench.bundle import carried
from bench.bundle import envelope as envelopes
from bench.bundle.api import Bundle
from bench.bundle.manifest import CERTIFICATE, FILE, Manifest, checksums
from bench.bundle.verify import BundleVerification
from bench.errors import BenchError
from bench.run.file import read_run
from bench.spec import Candidate
from bench.verify import read_certificate
from bench.workloads.parity import Parity
from exporters import pickled
from exporters.store import MANIFEST, ArtifactStore, _checksum, file_checksum
from tests.bench.bundle_cases import EAGER, ONNX, TORCHSCRIPT, forged, in_this_process, resealed, run_of

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints without the fifth of a second for which the machine is watched."""
    monkeypatch.setattr(machine, "busy_share", lambda: 0.0)


@pytest.fixture(scope="module")
def deployed(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Candidate], Bundle]:
    """The bundle of a candidate, made once."""
    folder, found = tmp_path_factory.mktemp("deployed"), dict[Candidate, Bundle]()

    def made(candidate: Candidate) -> Bundle:
        if candidate not in found:
            run, name = run_of(candidates=(candidate,)), candidate.backend
            with in_this_process():
                found[candidate] = deploy(run, folder / name, choose=name, artifacts=artifacts)
        return found[candidate]

    return made


@pytest.fixture
def copy(deployed: Callable[[Candidate], Bundle], tmp_path: Path) -> Callable[[Candidate], Path]:
    def copied(candidate: Candidate) -> Path:
        return Path(shutil.copytree(deployed(candidate).folder, tmp_path / "bundle"))

    return copied


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What is there if code of the attacker's ran."""
    return tmp_path / "ran"


def verified(folder: Path, **options: Any) -> BundleVerification:
    with in_this_process():
        return verify_bundle(folder, **{"envelope": "off", **options})


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*rest: Any, **more: Any) -> Any:
        raise AssertionError("a process was started")

    monkeypatch.setattr("bench.process.channel.Worker.__init__", refuse)


def assert_refused(folder: Path, words: str, **options: Any) -> None:
    found = verify_bundle(folder, **options)
    assert (found.exit_code, found.judgement, found.kept) == (3, None, [])
    assert words in found.faults[0]


def recertified(folder: Path, artifact_folder: str = "model", **metadata: Any) -> None:
    """Have the artifact's manifest, certificate and bundle fit the artifact's files as they are now."""
    place = folder / artifact_folder
    artifact = json.loads((place / MANIFEST).read_text())
    artifact.pop("checksum")
    artifact["metadata"] |= metadata
    files = {name: entry for name, entry in checksums(place).items() if name != MANIFEST}
    artifact["files"] = {name: msgspec.to_builtins(entry) for name, entry in files.items()}
    (place / MANIFEST).write_text(json.dumps(artifact | {"checksum": _checksum(artifact)}))
    now = ArtifactStore(folder).read(place)
    assert now is not None
    papers = read_certificate(folder / CERTIFICATE)
    papers.notes["artifacts"]["0"] |= {
        "checksum": now.checksum, "files": {name: entry.sha256 for name, entry in files.items()},
    }  # fmt: skip
    resealed(papers)
    made = msgspec.json.decode((folder / FILE).read_bytes(), type=Manifest)
    forged(folder, artifact=made.artifact | {"checksum": now.checksum})


@dataclass
class Payload:
    """Makes a folder when it is unpickled."""

    marker: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


# Code.


def test_a_pickle_in_a_forged_bundle_is_not_opened(
    copy: Callable[[Candidate], Path], marker: Path, nothing_starts: None
) -> None:
    folder = copy(EAGER)
    (folder / "model" / pickled.STRUCTURE).write_bytes(pickle.dumps(Payload(marker)))
    recertified(folder, weights="module", file="", model="Mine", checksums={}, whole_outputs=[], makes_inputs=False)
    assert_refused(folder, "forged: no bundle holds 'model/module.pkl'")
    assert_refused(folder, "forged: no bundle holds 'model/module.pkl'", trust=True)
    assert not marker.exists()


def test_a_file_that_a_forged_artifact_names_is_not_imported(
    copy: Callable[[Candidate], Path], marker: Path, tmp_path: Path, nothing_starts: None
) -> None:
    folder, file = copy(EAGER), tmp_path / "evil.py"
    file.write_text(f"import os\nos.mkdir({str(marker)!r})\ndef made(): ...\n")
    named: dict[str, Any] = {"file": str(file), "factory": "made", "model": f"{file}:made", "seed": 0}
    recertified(folder, weights="module", checksums={file.name: file_checksum(file)}, **named)
    assert_refused(folder, "the artifact is a module's, which runs code that no bundle carries", trust=True)
    assert not marker.exists()


@pytest.mark.parametrize("paper", [CERTIFICATE, envelopes.FILE])
def test_no_interpreter_that_a_bundle_names_is_started(
    copy: Callable[[Candidate], Path], marker: Path, tmp_path: Path, nothing_starts: None, paper: str
) -> None:
    folder, python = copy(ONNX), tmp_path / "python"
    python.write_text(f"#!/bin/sh\nmkdir {marker}\n")
    python.chmod(0o755)
    run = read_run(folder / paper)
    run.workload.options = replace(run.options, python=(f"onnx={python}",))
    resealed(run)
    forged(folder)
    assert_refused(folder, "ran in an environment of its own")
    assert not marker.exists()


def test_code_beside_the_files_of_a_bundle_is_refused(
    copy: Callable[[Candidate], Path], monkeypatch: pytest.MonkeyPatch, nothing_starts: None
) -> None:
    folder = copy(ONNX)
    for name in ("numpy.py", "model/sitecustomize.py", "samples/1x16/eager/x.py", "model/model.pt"):
        (folder / name).write_text("raise SystemExit\n")
        forged(folder)
        assert_refused(folder, f"forged: no bundle holds {name!r}")
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidate": Candidate("aoti", "default", "fp32")}, "forged: no bundle carries 'aoti fp32'"),
        ({"candidate": Candidate("tensorrt", "default", "fp32")}, "forged: no bundle carries 'tensorrt fp32'"),
        ({"candidate": Candidate("evil", "default", "fp32")}, "forged: no bundle carries 'evil fp32'"),
        ({"candidate": replace(ONNX, variant="evil")}, "forged: no bundle carries 'onnx:evil fp32'"),
        ({"candidate": replace(ONNX, environment="evil")}, "forged: no bundle carries 'onnx@evil fp32'"),
        ({"candidate": replace(ONNX, precision="../fp32")}, "forged: no bundle carries"),
        ({"device": "../cpu"}, "forged: 1 threads on '../cpu'"),
        ({"threads": -1}, "forged: -1 threads on 'cpu'"),
        ({"source": {"weights": "random", "vocab_size": "many"}}, "certificate or envelope do not fit"),
        ({"source": {}}, "certificate or envelope do not fit"),
    ],
)
def test_what_deploy_never_writes_is_refused(
    copy: Callable[[Candidate], Path], nothing_starts: None, changes: dict[str, Any], words: str
) -> None:
    folder = copy(ONNX)
    forged(folder, **changes)
    assert_refused(folder, words)


def test_a_torchscript_bundle_asks_for_its_manifests_checksum_or_trust(
    deployed: Callable[[Candidate], Bundle], copy: Callable[[Candidate], Path], cli_here: Callable[..., Any]
) -> None:
    made, folder = deployed(TORCHSCRIPT), copy(TORCHSCRIPT)
    with pytest.raises(UserError, match="holds a TorchScript program, which runs as code when it is loaded"):
        verified(folder)
    assert verified(folder, manifest_sha256=made.manifest_sha256).exit_code == 0
    assert verified(folder, trust=True).exit_code == 0
    assert verified(folder, manifest_sha256="0" * 64, trust=True).exit_code == 3
    done = cli_here("verify", str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert "give --manifest-sha256 as bench deploy printed it, or --trust" in done.stderr
    with in_this_process():
        assert cli_here("verify", str(folder), "--trust", "--envelope", "off").returncode == 0


@pytest.mark.parametrize("candidate", [ONNX, EAGER], ids=["onnx", "eager"])
def test_a_bundle_without_code_asks_for_neither(deployed: Callable[[Candidate], Bundle], candidate: Candidate) -> None:
    assert verified(deployed(candidate).folder).exit_code == 0


def test_every_runtime_of_a_bundle_has_its_files_named() -> None:
    from bench.bundle.runtimes import RUNTIMES

    assert set(carried.ARTIFACT_FILES) == set(RUNTIMES)


# Places.


@pytest.mark.parametrize("how", ["relative", "absolute", "link"])
def test_nothing_outside_a_bundle_is_judged(
    copy: Callable[[Candidate], Path], tmp_path: Path, nothing_starts: None, how: str
) -> None:
    folder, outside = copy(ONNX), tmp_path / "outside"
    shutil.move(folder / "model", outside / "a")
    if how == "link":
        (folder / "model").symlink_to(outside / "a")
        assert_refused(folder, "extra: model is not in the manifest")
        made = msgspec.json.decode((folder / FILE).read_bytes(), type=Manifest)
        kept = {name: entry for name, entry in made.files.items() if not name.startswith("model/")}
        (folder / FILE).write_text(replace(made, files=kept).text())
        return assert_refused(folder, "extra: model is not in the manifest")
    papers = read_certificate(folder / CERTIFICATE)
    papers.notes["artifacts"]["0"]["files"] = {}  # else they would have to lie in the bundle
    resealed(papers)
    there = "../outside/a" if how == "relative" else str(outside / "a")
    forged(folder, artifact_folder=there)
    return assert_refused(folder, f"forged: the artifact lies in {there!r:.80}")


def test_a_link_among_the_files_of_a_bundle_is_refused(
    copy: Callable[[Candidate], Path], tmp_path: Path, nothing_starts: None
) -> None:
    folder = copy(ONNX)
    shutil.move(folder / "model" / "model.onnx.data", tmp_path / "secret")
    (folder / "model" / "model.onnx.data").symlink_to(tmp_path / "secret")
    forged(folder)
    assert_refused(folder, "altered: model/model.onnx.data is a link and no file")


def test_an_artifacts_own_manifest_names_no_file_elsewhere(
    copy: Callable[[Candidate], Path], tmp_path: Path, nothing_starts: None
) -> None:
    folder = copy(ONNX)
    for name in ("../run.py", str(folder / "run.py"), "x/../../run.py"):
        artifact = json.loads((folder / "model" / MANIFEST).read_text())
        artifact.pop("checksum")
        artifact["files"][name] = {"sha256": file_checksum(folder / "run.py"), "bytes": 1}
        (folder / "model" / MANIFEST).write_text(json.dumps(artifact | {"checksum": _checksum(artifact)}))
        assert ArtifactStore(tmp_path).read(folder / "model") is None
        forged(folder)
        assert_refused(folder, "the artifact's own manifest is unreadable or names files outside the bundle")


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": ("../../../../outside",)}, {"ids": ("/outside/random",)}, {"tokenizer": "/outside/tokenizer.json"},
        {"output": "/outside/run.jsonl"}, {"atol": 1e9}, {"new_tokens": 3}, {"bisect": True}, {"artifacts": "/outside"},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_a_certificate_has_no_options_that_lead_elsewhere(
    copy: Callable[[Candidate], Path], nothing_starts: None, changes: dict[str, Any]
) -> None:
    folder = copy(ONNX)
    papers = read_certificate(folder / CERTIFICATE)
    papers.workload = Parity(replace(papers.options, **changes))  # type: ignore[type-var]
    resealed(papers)
    forged(folder)
    assert_refused(folder, "certificate or envelope do not fit the manifest (the certificate")


@pytest.mark.parametrize(
    "changes", [{"preset": "/outside/grid.toml"}, {"output": "/outside"}, {"artifacts": "/outside"}]
)
def test_an_envelope_has_no_options_that_lead_elsewhere(
    copy: Callable[[Candidate], Path], nothing_starts: None, changes: dict[str, Any]
) -> None:
    folder = copy(ONNX)
    run = read_run(folder / envelopes.FILE)
    run.workload.options = replace(run.options, **changes)
    resealed(run)
    forged(folder)
    assert_refused(folder, "the envelope has options that no bundle's has")


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("how", ["relative", "absolute", "link"])
def test_external_data_outside_the_folder_is_not_loaded(tmp_path: Path, backend: str, how: str) -> None:
    """ONNX Runtime and OpenVINO see to that; a version that did not would have to be refused."""
    import onnx
    from onnx import TensorProto, helper

    import backends

    inside, outside = tmp_path / "model", tmp_path / "weights"
    inside.mkdir()
    weights = np.ones((64, 64), np.float32)
    outside.write_bytes(weights.tobytes())
    (inside / "link").symlink_to(outside)
    (inside / "weights").write_bytes(weights.tobytes())

    def load(location: str) -> None:
        tensor = TensorProto(name="w", data_type=1, dims=[64, 64], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        ends = [helper.make_tensor_value_info(name, 1, ["batch", 64]) for name in "xy"]
        graph = helper.make_graph([node], "g", ends[:1], ends[1:], [tensor])
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), inside / "model.onnx"
        )
        (inside / MANIFEST).write_text(json.dumps({"metadata": {"inputs": ["x"], "outputs": ["y"]}}))
        backends.load_class(backend)().load(inside, device="cpu", precision="fp32", threads=1, options={})

    load("weights")
    with pytest.raises(Exception, match=r"escapes model directory|[Aa]bsolute path|outside the base directory"):
        load({"relative": "../weights", "absolute": str(outside), "link": "link"}[how])


def test_a_deployed_run_imports_no_module_that_it_names(tmp_path: Path, marker: Path, nothing_starts: None) -> None:
    """`bench deploy RUN` asks for --module."""
    file = tmp_path / "evil.py"
    file.write_text(f"import os\nos.mkdir({str(marker)!r})\ndef made(): ...\n")
    run = run_of()
    run.path = tmp_path / "run.jsonl"
    run.workload.options = replace(run.options, module=f"{file}:made")
    with pytest.raises(
        BenchError, match=r"is not imported because a file names it; .* --module .*evil\.py:made"
    ) as told:
        deploy(run, tmp_path / "out", choose="onnx", artifacts=tmp_path / "artifacts")
    assert told.value.exit_code == 2
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_no_file_is_read_in_a_way_that_can_run_it(root: Path) -> None:
    """NumPy's and torch's readers say that they take no pickles, and pickles have one place."""
    import re

    for folder in ("bench", "backends", "exporters", "benchmarks", "examples"):
        for file in [*(root / folder).rglob("*.py"), *(root / folder).rglob("*.template")]:
            text = file.read_text()
            for call in re.finditer(r"\bnp\.load\((.*)", text):
                assert "allow_pickle=False" in call[1], f"{file}: {call[0]}"
            assert "torch.load(" not in text or "weights_only=True" in text, file
            assert "trust_remote_code=True" not in text, file
            if file.name != "pickled.py":
                assert not re.search(
                    r"\b(pickle|joblib|dill|marshal|shelve)\.(load|Unpickler)|yaml\.(unsafe_)?load\(", text
                ), file
