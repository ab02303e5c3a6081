"""What grows under the artifact folder, and what of it `bench artifacts prune` removes.

Exported models and references are made again when they are next needed, and so is compiled code. Runs are results and
environments are asked for by name, so neither is touched; what is known of the machine is a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    kept_bytes: int = 0
    """Of artifacts and compiled code."""


def prune(store: ArtifactStore, limit_bytes: int | None) -> Pruned:
    """Remove what is damaged or left over, and what was used longest ago until `limit_bytes` hold the rest.

    Nobody may be using the store (`ArtifactStore.users`).
    """
    done = Pruned()
    for path in store.leftovers():
        store.remove(path)
        done.removed.append(f"{path.name}: left over by a killed process")
    entries = []
    for path, damage in store.damages(store.paths()).items():
        if damage:
            store.remove(path)
            done.removed.append(f"{path.name}: {damage}")
        elif (artifact := store.read(path)) is not None:
            entries.append(Entry(path, artifact.bytes, path.lstat().st_mtime_ns))
    entries += compiled(store.root)
    done.kept_bytes = sum(entry.bytes for entry in entries)
    for entry in sorted(entries, key=lambda entry: (entry.used_ns, entry.path)):
        if limit_bytes is None or done.kept_bytes <= limit_bytes:
            break
        store.remove(entry.path)
        done.kept_bytes -= entry.bytes
        done.removed.append(f"{entry.path.relative_to(_home(store, entry.path))}: least recently used")
    if locks := sum(clear_locks(folder) for folder in (store.folder, store.root / "machine")):
        done.removed.append(f"lock files that nobody holds: {locks}")
    return done


def compiled(root: Path) -> list[Entry]:
    """Compiled code under `root`: torch's as a whole, as its files name each other, TensorRT's one by one."""
    found = []
    for name, files_stand_alone in CACHES:
        folder = root / name
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()) if files_stand_alone else [folder]:
            size, used_ns = measured(path)
            if size:
                found.append(Entry(path, size, used_ns))
    return found


def untouched(root: Path) -> dict[str, int]:
    """Bytes of each folder in `UNTOUCHED` that holds anything."""
    sizes = {name: measured(root / name)[0] for name in UNTOUCHED}
    return {name: size for name, size in sizes.items() if size}


def measured(path: Path) -> tuple[int, int]:
    """Bytes of the files at or under `path`, and when the newest of them was written, in nanoseconds since 1970."""
    size = newest_ns = 0
    for file in _files(path):
        try:
            told = file.lstat()
        except FileNotFoundError:  # gone meanwhile
            continue
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
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        try:
            path.unlink(missing_ok=True)
            count += 1
        finally:
            lock.release()
    return count


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or path.is_file():
        yield path
    elif path.is_dir():
        for inner in _inner(path):
            yield from _files(inner)


def _inner(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # removed meanwhile, or not ours to read
        return []


def _home(store: ArtifactStore, path: Path) -> Path:
    return store.folder if path.parent == store.folder else store.root
