"""A bundle's manifest: checksums and sizes of every file, and where all of it came from; and what is wrong with one.

Schema 2: as in `Manifest`; `checksum` is over everything else in the file, whose every byte is told by its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.bundle.samples import Samples
from bench.errors import UserError
from bench.spec import Candidate
from exporters.store import file_checksum

FILE = "manifest.json"
KIND = "bundle"
SCHEMA = 2
CERTIFICATE = "certificate.jsonl"
#: Faults that are told one by one; the rest are counted.
MOST_FAULTS = 12


@dataclass(frozen=True)
class Entry:
    """One file of a bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle is and where it came from."""

    model: str
    task: str
    weights: str
    origin: str
    """Where the weights came from, in one line."""
    checkpoint: str
    """Key of the checkpoint, the same as the run's."""
    weights_checksum: str
    candidate: Candidate
    device: str
    threads: int
    artifact_folder: str
    """Where in the bundle the artifact lies."""
    artifact: dict[str, str]
    """Its format, key and checksum."""
    verdict: str
    """The certificate's."""
    chosen: tuple[str, ...]
    """Why this runtime."""
    run: dict[str, Any]
    """File name, SHA-256, command and start of the run that it was chosen from, and whether anything disturbed it."""
    command: str
    made: str
    """UTC, ISO 8601."""
    fingerprint: dict[str, Any]
    """Of the machine that the run measured on."""
    requirements: dict[str, str]
    made_with: dict[str, str]
    """Versions of what made the bundle."""
    source: dict[str, Any]
    """What decides the model's inputs."""
    samples: Samples
    model_repository: str | None = None
    """Folder for `tritonserver --model-repository`, if there is one."""
    files: dict[str, Entry] = field(default_factory=dict)
    """By path in the bundle."""

    @property
    def label(self) -> str:
        """`onnx fp32`."""
        return f"{self.candidate.label} {self.candidate.precision}"

    def text(self) -> str:
        """The file's content."""
        return sealed({"kind": KIND, "schema": SCHEMA, **msgspec.to_builtins(self)})


def sealed(body: Mapping[str, Any]) -> str:
    """The content of a manifest's file: `body` and its checksum."""
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "checksum": checksum}, indent=1) + "\n"


def files_under(folder: Path) -> Iterator[tuple[str, str]]:
    """Path within `folder` and kind ("file", "link" or "other") of all that is no folder, and of empty folders."""
    for place, folders, names in os.walk(folder):
        for name in sorted([*names, *(name for name in folders if (Path(place) / name).is_symlink())]):
            path = Path(place) / name
            mode = path.lstat().st_mode
            kind = "file" if stat.S_ISREG(mode) else "link" if stat.S_ISLNK(mode) else "other"
            yield path.relative_to(folder).as_posix(), kind
        if not folders and not names and Path(place) != folder:
            yield Path(place).relative_to(folder).as_posix(), "empty folder"


def checksums(folder: Path) -> dict[str, Entry]:
    """Every file under `folder` but the manifest."""
    names = sorted(name for name, _ in files_under(folder) if name != FILE)
    return {name: Entry(file_checksum(folder / name), (folder / name).stat().st_size) for name in names}


def read(folder: Path, expected: str | None = None) -> tuple[Manifest | None, list[str]]:
    """The manifest of the bundle in `folder`, and everything that differs from it; no faults for a sound bundle.

    `expected` is the manifest's SHA-256, if the user has it from elsewhere. The manifest is None if it was
    altered. Raises UserError if there is no bundle.
    """
    name = repr(str(folder))
    if not folder.is_dir():
        raise UserError(f"bundle {name} is no folder; give one that bench deploy --output wrote")
    if not (folder / FILE).is_file():
        raise UserError(f"{name} is no bundle: it has no {FILE}; give a folder that bench deploy --output wrote")
    raw = (folder / FILE).read_bytes()
    if expected is not None and hashlib.sha256(raw).hexdigest() != expected.lower():
        return None, [f"altered: {FILE} is not the one of SHA-256 {expected[:16]}…"]
    try:
        data = json.loads(raw)
        del data["checksum"]
        is_sound = raw.decode() == sealed(data)
    except (ValueError, KeyError, TypeError, RecursionError):
        is_sound = False
    if not is_sound:
        return None, [f"altered: {FILE} does not fit its own checksum"]
    kind, schema = data.get("kind"), data.get("schema")
    if (kind, schema) != (KIND, SCHEMA):
        raise UserError(
            f"{name} has a manifest of kind {kind!r} and schema {schema!r}, and this bench reads {KIND!r} of schema "
            f"{SCHEMA}; deploy it again"
        )
    try:
        manifest = msgspec.convert(data, Manifest)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter for half of a surrogate pair
        return None, [f"altered: {FILE} lacks or mistakes a field ({error})"]
    return manifest, faults(folder, manifest)


def faults(folder: Path, manifest: Manifest) -> list[str]:
    """What of the files under `folder` is not as the manifest says, one line each."""
    found = []
    present = dict(files_under(folder))
    for name, kind in present.items():
        entry = manifest.files.get(name)
        if name == FILE and kind == "file":
            continue
        if entry is None:
            hint = " (Python made it; remove it)" if "__pycache__" in name else ""
            found.append(f"extra: {name} is not in the manifest{hint}")
        elif kind != "file":
            found.append(f"altered: {name} is a {kind} and no file")
        elif (size := (folder / name).stat().st_size) != entry.bytes:
            found.append(f"altered: {name} has {size} bytes instead of {entry.bytes}")
        elif file_checksum(folder / name) != entry.sha256:
            found.append(f"altered: {name} fails its checksum")
    found += [f"missing: {name}" for name in manifest.files if name not in present]
    if len(found) > MOST_FAULTS:
        found = [*found[:MOST_FAULTS], f"and {len(found) - MOST_FAULTS} further files"]
    return found
