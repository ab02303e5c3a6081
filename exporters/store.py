"""The artifact store: exported files under a key that hashes their whole recipe.

Layout: ROOT/store/FORMAT-KEY/ with the exporter's files and `artifact.json`, the manifest. An
artifact is written aside, in ROOT/store/.making-*, and renamed into place while a lock on its key
is held, so two processes may use one store and a killed one leaves nothing under a key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from exporters import compiled

MANIFEST = "artifact.json"
SCHEMA = 1
_ASIDE = ".making-"
_USER = ".user-"
#: Folders of artifacts that this process uses at present.
_IN_USE = set[Path]()
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*-[0-9a-f]{16}")


class StoreError(Exception):
    """The artifact folder cannot be used; the message names it, the cause and the remedy."""

    exit_code = 2


class StoreFullError(StoreError):
    """Writing an artifact failed half-way; nothing of it was left behind."""

    exit_code = 1


#: With less than this left on the disk, whatever an exporter raised is put down to that.
FULL_BELOW_BYTES = 2**20


@dataclass(frozen=True)
class Artifact:
    """One exported model in the store."""

    format: str
    key: str
    path: Path
    recipe: Mapping[str, Any]
    metadata: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    """File name -> {"sha256", "bytes"}."""
    export_seconds: float

    @property
    def bytes(self) -> int:
        """Size of the exporter's files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())

    @property
    def checksum(self) -> str:
        """Of names and contents of the exporter's files; the same wherever the artifact lies."""
        return files_checksum({name: entry["sha256"] for name, entry in self.files.items()})


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the recipe as canonical JSON."""
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class ArtifactStore:
    """Artifacts under one root folder; raises StoreError when it cannot be written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "store"

    def prepare(self) -> None:
        """Make the folder and see that a file can be written there."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f"{_ASIDE}probe-{os.getpid()}"
            try:
                probe.write_bytes(b"x")
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"artifact folder {str(self.root)!r} cannot be written ({error.strerror}); "
                "use --artifacts with a folder of yours"
            ) from error

    def path_of(self, recipe: Mapping[str, Any]) -> Path:
        """Where the artifact of `recipe` is or would be."""
        return self.folder / f"{recipe['format']}-{recipe_key(recipe)}"

    def find(self, recipe: Mapping[str, Any]) -> Artifact | None:
        """The stored artifact of `recipe`, not yet verified; None when there is none or its manifest is damaged."""
        return self.read(self.path_of(recipe))

    def read(self, path: Path) -> Artifact | None:
        """The artifact in folder `path`, or None when its manifest is missing, damaged or names files elsewhere."""
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            if manifest.pop("checksum") != _checksum(manifest) or not _is_typed(manifest):
                return None
            if not all(map(_stays_within, manifest["files"])):
                return None
            return Artifact(
                format=manifest["format"],
                key=manifest["key"],
                path=path,
                recipe=manifest["recipe"],
                metadata=manifest["metadata"],
                files=manifest["files"],
                export_seconds=manifest["export_seconds"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def damage(self, path: Path) -> str | None:
        """What is wrong with the artifact in folder `path`, checksums included; None when it is sound."""
        artifact = self.read(path)
        if artifact is None:
            return "its manifest is missing, unreadable or altered"
        if path.name != f"{artifact.format}-{recipe_key(artifact.recipe)}":
            return "recipe does not match the key"
        for name, entry in artifact.files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            if file_checksum(file) != entry["sha256"]:
                return f"{name} fails its checksum"
        return None

    def damages(self, paths: list[Path]) -> dict[Path, str | None]:
        """`damage` of several artifacts, hashed in parallel."""
        with ThreadPoolExecutor() as pool:
            return dict(zip(paths, pool.map(self.damage, paths), strict=True))

    def drop_damaged(self, paths: list[Path]) -> dict[Path, str]:
        """Remove those of `paths` that are damaged, and say what was wrong; waits for whoever is writing one."""
        dropped = {}
        for path, damage in self.damages(paths).items():
            if damage:
                with self._locked(path.name.rpartition("-")[2]):
                    # Another process may have made it again meanwhile.
                    if still := self.damage(path):
                        self.remove(path)
                        dropped[path] = still
        return dropped

    def is_full(self) -> bool:
        """True when the disk under the store has no room left."""
        return shutil.disk_usage(self.folder).free < FULL_BELOW_BYTES

    def make(self, recipe: Mapping[str, Any], write: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        """The artifact of `recipe`: the stored one, or what `write(folder) -> metadata` makes now.

        Another process making the same one is waited for. Whatever `write` raises leaves nothing behind.
        """
        self.prepare()
        with self._locked(recipe_key(recipe)):
            if (found := self.find(recipe)) is not None:
                return found
            final = self.path_of(recipe)
            aside = self.folder / f"{_ASIDE}{final.name}-{os.getpid()}"
            # The lock is ours, so nobody is at work there.
            for abandoned in self.folder.glob(f"{_ASIDE}{final.name}-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            try:
                aside.mkdir()
                started = time.monotonic()
                metadata = write(aside)
                self._write_manifest(aside, recipe, metadata, time.monotonic() - started)
                shutil.rmtree(final, ignore_errors=True)
                aside.rename(final)
            except Exception as error:
                # Libraries report a full disk in exceptions of their own.
                is_full = self.is_full()
                if not is_full and not isinstance(error, OSError):
                    raise
                cause = "No space left on device" if is_full else getattr(error, "strerror", None) or error
                raise StoreFullError(
                    f"artifact {final.name} cannot be written ({cause}); free some space or use --artifacts"
                ) from error
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            artifact = self.read(final)
            assert artifact is not None
            return artifact

    def _write_manifest(
        self, folder: Path, recipe: Mapping[str, Any], metadata: Mapping[str, Any], seconds: float
    ) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = {
            "schema": SCHEMA,
            "format": recipe["format"],
            "key": recipe_key(recipe),
            "recipe": recipe,
            "metadata": metadata,
            "files": {
                str(p.relative_to(folder)): {"sha256": file_checksum(p), "bytes": p.stat().st_size} for p in files
            },
            "export_seconds": round(seconds, 3),
        }
        manifest = json.loads(json.dumps(manifest))
        path = folder / MANIFEST
        path.write_text(json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=1))
        for file in (*files, path):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())

    def remove(self, path: Path) -> bool:
        """Delete an artifact of this store, or whatever stands in its place; False if something of it is left."""
        if path.is_symlink() or path.is_file():
            with suppress(OSError):
                path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
        return not os.path.lexists(path)

    def paths(self) -> list[Path]:
        """Folders of all artifacts, damaged ones included, oldest use first; what is named otherwise is not ours."""
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(folders, key=lambda path: (path.lstat().st_mtime_ns, path.name))

    def leftovers(self) -> list[Path]:
        """What processes that are gone left half-written."""
        if not self.folder.is_dir():
            return []
        marked = [*self.folder.glob(f"{_ASIDE}*"), *self.folder.glob(f"{_USER}*")]
        return [path for path in marked if not _is_alive(path.name.rpartition("-")[2])]

    def touch(self, artifact: Artifact) -> None:
        """Note that the artifact was used now, which `prune` goes by."""
        os.utime(artifact.path)

    @contextmanager
    def aside(self, name: str) -> Iterator[Path]:
        """An empty folder beside the artifacts, gone at the end of the block."""
        folder = self.folder / f"{_ASIDE}{name}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def in_use(self, say: Callable[[str], None]) -> Iterator[None]:
        """Keep `prune` away for as long as the block runs; compiled code that others changed since the last is dropped.

        The first of several users looks at the code, and the last one notes its checksums. Within another such block of
        this process it does nothing.
        """
        if (folder := self.folder.resolve()) in _IN_USE:
            yield
            return
        marker = self.folder / f"{_USER}{os.getpid()}"
        with self._locked("cache"):
            if not self.users():
                try:
                    compiled.drop_unknown(self.root, file_checksum, say)
                except OSError as error:
                    raise StoreError(
                        f"changed code in {str(self.root / compiled.CACHE)!r} cannot be dropped ({error.strerror}); "
                        "remove that folder"
                    ) from error
            marker.touch()
            _IN_USE.add(folder)
        try:
            yield
        finally:
            _IN_USE.discard(folder)
            with self._locked("cache"):
                marker.unlink(missing_ok=True)
                if not self.users():
                    compiled.note(self.root, file_checksum)

    def users(self) -> list[int]:
        """Processes that are using the store now."""
        found = [path.name.rpartition("-")[2] for path in self.folder.glob(f"{_USER}*")]
        return sorted(int(pid) for pid in found if _is_alive(pid))

    @contextmanager
    def alone_with(self, path: Path) -> Iterator[bool]:
        """True inside the block when no other process works on the file `path` in this way; never waits."""
        from filelock import FileLock, Timeout

        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
        lock = FileLock(self.folder / f".lock-run-{name}")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        from filelock import FileLock

        with FileLock(self.folder / f".lock-{key}"):
            yield


def _is_typed(manifest: Mapping[str, Any]) -> bool:
    """True if each field is of its type."""
    recipe, metadata, files = (manifest[name] for name in ("recipe", "metadata", "files"))
    return (
        all(isinstance(one, dict) for one in (recipe, metadata, files, recipe.get("inputs", {})))
        and all(isinstance(manifest[name], str) for name in ("format", "key"))
        and isinstance(manifest["export_seconds"], int | float)
        and all(type(one["bytes"]) is int and isinstance(one["sha256"], str) for one in files.values())
    )


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _stays_within(name: str) -> bool:
    """True for the path of a file that lies in the folder that it is relative to."""
    return not (path := PurePosixPath(name)).is_absolute() and ".." not in path.parts


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def files_checksum(checksums: Mapping[str, str]) -> str:
    """SHA-256 over the names of an artifact's files and their own checksums."""
    return hashlib.sha256(json.dumps(dict(checksums), sort_keys=True).encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
