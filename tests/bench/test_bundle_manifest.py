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

from bench.bundle.manifest import FILE, MOST_FAULTS, Entry, Manifest, checksums, read, sealed
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_in(tmp_path_factory.mktemp("shared"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_altered_byte_of_any_file_is_found(shared: Path, data: st.DataObject) -> None:
    assert read(shared) == (manifest_of(shared), [])
    name = data.draw(st.sampled_from([FILE, *(name for name, content in FILES.items() if content)]))
    original = (shared / name).read_bytes()
    altered = bytearray(original)
    altered[data.draw(st.integers(0, len(altered) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        (shared / name).write_bytes(altered)
        _, faults = read(shared)
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


def left_by_python(bundle: Path) -> None:
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "run.pyc").write_bytes(b"other code")


def edited(**changes: object) -> Callable[[Path], object]:
    """Other values in the manifest, with a checksum that fits; None takes one away."""

    def edit(bundle: Path) -> None:
        data = json.loads((bundle / FILE).read_text()) | changes
        kept = {name: value for name, value in data.items() if name != "checksum" and value is not None}
        (bundle / FILE).write_text(sealed(kept))

    return edit


def outside(bundle: Path) -> None:
    entry = Entry("0" * 64, 1)
    made = manifest_of(bundle)
    files = {**made.files, "../outside": entry, "/etc/hostname": entry}
    (bundle / FILE).write_text(replace(made, files=files).text())


UNFIT = f"altered: {FILE} does not fit its own checksum"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: (b / "run.py").unlink(), ["missing: run.py"]),
        (lambda b: shutil.rmtree(b / "model"), ["missing: model/artifact.json", "missing: model/model.onnx"]),
        (lambda b: (b / "empty").unlink(), ["missing: empty"]),
        (lambda b: (b / "extra.py").write_text(""), ["extra: extra.py is not in the manifest"]),
        (lambda b: (b / "model" / ".hidden").write_text(""), ["extra: model/.hidden is not in the manifest"]),
        (lambda b: (b / "drawer").mkdir(), ["extra: drawer is not in the manifest"]),
        (lambda b: (b / "run.py").write_bytes(b"print('hello')"), ["altered: run.py has 14 bytes instead of 15"]),
        (lambda b: (b / "empty").write_bytes(b"x"), ["altered: empty has 1 bytes instead of 0"]),
        (lambda b: os.rename(b / "run.py", b / "go.py"), ["extra: go.py is not in the manifest", "missing: run.py"]),
        (link, ["altered: run.py is a link and no file"]),
        (lambda b: (b / "more").symlink_to(b / "model"), ["extra: more is not in the manifest"]),
        (folder_in_place, ["altered: run.py is a empty folder and no file"]),
        (lambda b: os.mkfifo(b / "pipe"), ["extra: pipe is not in the manifest"]),
        (left_by_python, ["extra: __pycache__/run.pyc is not in the manifest (Python made it; remove it)"]),
        (lambda b: (b / FILE).write_text((b / FILE).read_text() + " "), [UNFIT]),
        (lambda b: (b / FILE).write_text((b / FILE).read_text().replace('"equivalent"', '"exact"')), [UNFIT]),
        (lambda b: (b / FILE).write_text("{"), [UNFIT]),
        (lambda b: (b / FILE).write_text("[]"), [UNFIT]),
        (lambda b: (b / FILE).write_text("[" * 10_000), [UNFIT]),
        (lambda b: (b / FILE).write_bytes(b"\xff\xfe"), [UNFIT]),
        (outside, ["missing: ../outside", "missing: /etc/hostname"]),  # and neither is read
        (edited(candidate=None), [f"altered: {FILE} lacks or mistakes a field (Object missing required field `candidate`)"]),
        (edited(threads="2"), [f"altered: {FILE} lacks or mistakes a field (Expected `int`, got `str` - at `$.threads`)"]),
        (
            lambda b: [(b / f"extra{index:02}").write_text("") for index in range(30)],
            [*(f"extra: extra{index:02} is not in the manifest" for index in range(MOST_FAULTS)), "and 18 further files"],
        ),
    ],
)  # fmt: skip
def test_what_is_not_as_deployed_is_told(bundle: Path, change: Callable[[Path], object], told: list[str]) -> None:
    change(bundle)
    assert read(bundle)[1] == told


def test_a_manifest_made_up_to_fit_is_found_by_its_sha256_alone(bundle: Path) -> None:
    genuine = hashlib.sha256((bundle / FILE).read_bytes()).hexdigest()
    assert read(bundle, genuine)[1] == read(bundle, genuine.upper())[1] == []
    (bundle / "run.py").write_text("print('other')\n")
    (bundle / FILE).write_text(manifest_of(bundle).text())
    assert read(bundle)[1] == []
    manifest, (fault,) = read(bundle, genuine)
    assert manifest is None
    assert fault.startswith(f"altered: {FILE} is not the one of SHA-256 {genuine[:16]}")


@pytest.mark.parametrize("value", ["\ud800", 7, None])
def test_a_field_of_another_type_is_told_though_the_checksum_fits(bundle: Path, value: object) -> None:
    """Half of a surrogate pair is a text that no file and no terminal takes."""
    body = json.loads((bundle / FILE).read_text())
    del body["checksum"]
    (bundle / FILE).write_text(sealed(body | {"requirements": value}))
    manifest, (fault,) = read(bundle)
    assert manifest is None
    assert fault.startswith(f"altered: {FILE} lacks or mistakes a field")
    fault.encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited(kind="parity"), "deploy it again"),
        (edited(schema=99), "of kind 'bundle' and schema 99"),
        (lambda b: (b / FILE).unlink(), f"it has no {FILE}"),
        (shutil.rmtree, "is no folder"),
    ],
)
def test_what_is_no_bundle_is_the_users_mistake(bundle: Path, change: Callable[[Path], object], words: str) -> None:
    change(bundle)
    with pytest.raises(UserError, match=words):
        read(bundle)
