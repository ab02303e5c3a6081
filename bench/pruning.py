"""What grows under the artifact folder, and what of it `bench artifacts prune` removes.

Exported models and references are made again when they are next needed, and so is compiled code. Runs are results and
environments are asked for by name, so neither is touched; what is known of the machine is a few kilobytes.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from exporters.store import ArtifactStore

#: Folders under the root that hold compiled code, each as (folder, whether its files stand for themselves).
CACHES = (("cache/inductor", False), ("cache/tensorrt", True))
#: Folders under the root that are never pruned, and whose they are.
UNTOUCHED = {"runs": "results", "environments": "`bench env remove` removes one", "machine": "this machine's limits"}


@dataclass(frozen=True)
class Entry:
    """Something that can be made again: an artifact, or compiled code."""

    path: Path
    bytes: int
    used_ns: int


@dataclass
class Pruned:
    """What became of an artifact folder."""

    removed: list[str] = field(default_factory=list)
    """A line for each thing that is gone."""
    left: list[Path] = field(default_factory=list)
    """What should be gone and cannot be removed."""
    kept_bytes: int = 0
    """Of artifacts and compiled code."""


def prune(store: ArtifactStore, limit_bytes: int | None) -> Pruned:
    """Remove what is damaged or left over, and what was used longest ago until `limit_bytes` hold the rest.

    Nobody may be using the store (`ArtifactStore.users`).
    """
    done = Pruned()

    def remove(path: Path, line: str) -> bool:
        if is_gone := store.remove(path):
            done.removed.append(line)
        else:
            done.left.append(path)
        return is_gone

    for path in store.leftovers():
        remove(path, f"{path.name}: left over by a killed process")
    entries = []
    for path, damage in store.damages(store.paths()).items():
        if damage:
            remove(path, f"{path.name}: {damage}")
        elif (artifact := store.read(path)) is not None:
            entries.append(Entry(path, artifact.bytes, path.lstat().st_mtime_ns))
    entries += compiled(store.root)
    done.kept_bytes = sum(entry.bytes for entry in entries)
    for entry in sorted(entries, key=lambda entry: (entry.used_ns, entry.path)):
        if limit_bytes is None or done.kept_bytes <= limit_bytes:
            break
        home = store.folder if entry.path.parent == store.folder else store.root
        if remove(entry.path, f"{entry.path.relative_to(home)}: least recently used"):
            done.kept_bytes -= entry.bytes
    if locks := sum(clear_locks(folder) for folder in (store.folder, store.root / "machine")):
        done.removed.append(f"lock files that nobody holds: {locks}")
    return done


def compiled(root: Path) -> list[Entry]:
    """Compiled code under `root`: torch's as a whole, as its files name each other, TensorRT's one by one."""
    paths = [
        path
        for name, files_stand_alone in CACHES
        for path in (sorted((root / name).glob("*")) if files_stand_alone else [root / name])
    ]
    return [Entry(path, *found) for path in paths if (found := measured(path))[0]]


def untouched(root: Path) -> dict[str, int]:
    """Bytes of each folder in `UNTOUCHED` that holds anything."""
    sizes = {name: measured(root / name)[0] for name in UNTOUCHED}
    return {name: size for name, size in sizes.items() if size}


def measured(path: Path) -> tuple[int, int]:
    """Bytes of the files at or under `path`, and when the newest of them was written, in nanoseconds since 1970."""
    size = newest_ns = 0
    folders = () if path.is_symlink() else os.walk(path)
    inner = (Path(folder, name) for folder, names, files in folders for name in (*names, *files))
    for one in (path, *inner):
        with suppress(FileNotFoundError):  # gone meanwhile
            told = one.lstat()
            if not stat.S_ISDIR(told.st_mode):
                size, newest_ns = size + told.st_size, max(newest_ns, told.st_mtime_ns)
    return size, newest_ns


def clear_locks(folder: Path) -> int:
    """Remove the lock files in `folder` that nobody holds; returns how many.

    Each is held while it is removed. Who waits for it opens the path anew with every try, and filelock gives up a lock
    whose file is gone, so no two processes can come to hold one lock.
    """
    from filelock import FileLock, Timeout

    count = 0
    for path in sorted(folder.glob(".lock-*")):
        with suppress(Timeout, OSError), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
            count += 1
    return count
