"""A bundle's manifest: every altered byte, missing file and extra file is found, and an altered manifest too."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.bundle import manifest as manifests
from bench.bundle.manifest import FILE, MOST_FAULTS, Manifest, checksums, read
from bench.bundle.samples import Samples
from bench.errors import UserError
from bench.spec import Candidate, Shape

FILES = {
    "run.py": b"print('hello')\n", "model/model.onnx": bytes(range(256)), "model/artifact.json": b"{}\n",
    "certificate.jsonl": b"{}\n", "empty": b"",
}  # fmt: skip


def manifest_of(folder: Path) -> Manifest:
    return Manifest(
        model="bert", task="base", weights="random", origin="seeded random (seed 0)", checkpoint="c0ffee",
        weights_checksum="ab", candidate=Candidate("onnx", "default", "fp32"), device="cpu", threads=2,
        artifact_folder="model", artifact={"format": "onnx", "key": "k", "checksum": "c"}, verdict="equivalent",
        chosen=("named",), run={"file": "run.jsonl"}, command="bench deploy", made="2026-01-01T00:00:00+00:00",
        fingerprint={"cpu": "A CPU", "memory_bytes": 2**40}, requirements={"numpy": "2.0"}, made_with={}, source={},
        samples=Samples((Shape(1, 8),), ("random",), ("full",)), files=checksums(folder),
    )  # fmt: skip


def bundle_in(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / FILE).write_text(manifest_of(folder).text())
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundle_in(tmp_path / "bundle")


def faults_in(folder: Path, expected: str | None = None) -> list[str]:
    return read(folder, expected)[1]


def test_a_sound_bundle_has_no_faults_and_reads_back_what_was_written(bundle: Path) -> None:
    found, faults = read(bundle)
    assert faults == []
    assert found == manifest_of(bundle)
    assert set(found.files) == set(FILES)
    assert found.files["model/model.onnx"] == {"sha256": hashlib.sha256(bytes(range(256))).hexdigest(), "bytes": 256}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_in(tmp_path_factory.mktemp("shared"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_altered_byte_of_any_file_is_found(shared: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([FILE, *(name for name, content in FILES.items() if content)]))
    original = (shared / name).read_bytes()
    altered = bytearray(original)
    altered[data.draw(st.integers(0, len(altered) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        (shared / name).write_bytes(altered)
        faults = faults_in(shared)
        assert faults
        assert all(fault.startswith("altered: ") and name in fault for fault in faults)
    finally:
        (shared / name).write_bytes(original)


def link(bundle: Path) -> None:
    shutil.move(bundle / "run.py", bundle.parent / "run.py")
    (bundle / "run.py").symlink_to(bundle.parent / "run.py")


def folder_in_place(bundle: Path) -> None:
    (bundle / "run.py").unlink()
    (bundle / "run.py").mkdir()


def linked_folder(bundle: Path) -> None:
    (bundle / "more").symlink_to(bundle / "model")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda b: (b / "run.py").unlink(), "missing: run.py"),
        (lambda b: shutil.rmtree(b / "model"), "missing: model/model.onnx"),
        (lambda b: (b / "empty").unlink(), "missing: empty"),
        (lambda b: (b / "extra.py").write_text(""), "extra: extra.py is not in the manifest"),
        (lambda b: (b / "model" / ".hidden").write_text(""), "extra: model/.hidden is not in the manifest"),
        (lambda b: (b / "drawer").mkdir(), "extra: drawer is not in the manifest"),
        (lambda b: (b / "run.py").write_bytes(b"print('hello')"), "altered: run.py has 14 bytes instead of 15"),
        (lambda b: (b / "empty").write_bytes(b"x"), "altered: empty has 1 bytes instead of 0"),
        (lambda b: os.rename(b / "run.py", b / "go.py"), "missing: run.py"),
        (link, "altered: run.py is a link and no file"),
        (linked_folder, "extra: more is not in the manifest"),
        (folder_in_place, "altered: run.py is a empty folder and no file"),
        (lambda b: os.mkfifo(b / "pipe"), "extra: pipe is not in the manifest"),
        (lambda b: (b / FILE).write_text((b / FILE).read_text() + " "), f"altered: {FILE} does not fit its own"),
        (lambda b: (b / FILE).write_text("{"), f"altered: {FILE} does not fit its own checksum"),
        (lambda b: (b / FILE).write_text("[]"), f"altered: {FILE} does not fit its own checksum"),
        (lambda b: (b / FILE).write_text("[" * 10_000), f"altered: {FILE} does not fit its own checksum"),
        (lambda b: (b / FILE).write_bytes(b"\xff\xfe"), f"altered: {FILE} does not fit its own checksum"),
    ],
)  # fmt: skip
def test_what_is_not_as_deployed_is_told(bundle: Path, change: Callable[[Path], object], fault: str) -> None:
    change(bundle)
    assert any(found.startswith(fault) for found in faults_in(bundle)), faults_in(bundle)


def test_what_python_left_is_extra_and_named_so(bundle: Path) -> None:
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "run.cpython-311.pyc").write_bytes(b"other code")
    (fault,) = faults_in(bundle)
    assert fault.startswith("extra: __pycache__/run.cpython-311.pyc")
    assert "remove it" in fault


def test_an_edited_value_is_found_by_the_manifests_own_checksum(bundle: Path) -> None:
    text = (bundle / FILE).read_text()
    (bundle / FILE).write_text(text.replace('"verdict": "equivalent"', '"verdict": "exact"'))
    assert read(bundle) == (None, [f"altered: {FILE} does not fit its own checksum"])


def test_a_manifest_made_up_to_fit_is_found_by_its_sha256_alone(bundle: Path) -> None:
    genuine = hashlib.sha256((bundle / FILE).read_bytes()).hexdigest()
    assert faults_in(bundle, genuine) == faults_in(bundle, genuine.upper()) == []
    (bundle / "run.py").write_text("print('other')\n")
    (bundle / FILE).write_text(manifest_of(bundle).text())
    assert faults_in(bundle) == []
    manifest, (fault,) = read(bundle, genuine)
    assert manifest is None
    assert fault.startswith(f"altered: {FILE} is not the one of SHA-256 {genuine[:16]}")


def test_a_path_out_of_the_bundle_is_missing_and_not_read(bundle: Path) -> None:
    outside = {"../outside": {"sha256": "0" * 64, "bytes": 1}, "/etc/hostname": {"sha256": "0" * 64, "bytes": 1}}
    made = manifest_of(bundle)
    (bundle / FILE).write_text(replace(made, files={**made.files, **outside}).text())
    assert faults_in(bundle) == ["missing: ../outside", "missing: /etc/hostname"]


def test_many_faults_are_counted(bundle: Path) -> None:
    for index in range(30):
        (bundle / f"extra{index:02}").write_text("")
    faults = faults_in(bundle)
    assert len(faults) == MOST_FAULTS + 1
    assert faults[-1] == "and 18 further files"


@pytest.mark.parametrize(("field", "value"), [("kind", "parity"), ("schema", 99)])
def test_another_kind_or_schema_is_no_bundle_of_this_bench(bundle: Path, field: str, value: object) -> None:
    data = json.loads((bundle / FILE).read_text()) | {field: value}
    data["checksum"] = manifests._checksum({name: entry for name, entry in data.items() if name != "checksum"})
    (bundle / FILE).write_text(manifests._canonical(data))
    with pytest.raises(UserError, match="deploy it again"):
        read(bundle)


def test_a_field_that_is_missing_is_a_fault(bundle: Path) -> None:
    data = json.loads((bundle / FILE).read_text())
    del data["candidate"], data["checksum"]
    (bundle / FILE).write_text(manifests._canonical(data | {"checksum": manifests._checksum(data)}))
    manifest, (fault,) = read(bundle)
    assert manifest is None
    assert "lacks or mistakes a field" in fault


def test_what_is_no_bundle_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"it has no {FILE}"):
        read(tmp_path)
