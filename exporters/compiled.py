"""Native code that runtimes keep under ROOT/cache: what changed since bench last used it is dropped unloaded.

The list of checksums lies beside the files. It finds damage, and what other programs left there; it is no proof against
someone who may write to the store, who could write the list too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

CACHE, CHECKSUMS = "cache", "checksums.json"
#: What names files of its own, so that it is dropped as a whole if one was changed.
TORCH = "inductor"


def drop_unknown(root: Path, checksum: Callable[[Path], str], say: Callable[[str], None]) -> None:
    """Drop what is not as `note` found it, and say so; nobody may be using the store.

    Raises OSError if something cannot be dropped.
    """
    cache = root / CACHE
    if cache.is_symlink():
        cache.unlink()
        say("compiled code: cache is a link and was dropped; it is compiled again")
        return
    known, found = _known(cache), _checksums(cache, checksum)
    changed = {name for name, one in found.items() if name in known and known[name] != one}
    new = {name for name in found if name not in known}
    for name in changed | new:
        (cache / name).unlink()
    if any(name.startswith(f"{TORCH}/") for name in changed):
        shutil.rmtree(cache / TORCH)
    if changed:
        say(f"compiled code: {sorted(changed)[0]} was changed since it was last used; dropped, and compiled again")
    elif new:
        say(f"compiled code: {len(new)} files are of a killed run or another program; dropped, and compiled again")


def note(root: Path, checksum: Callable[[Path], str]) -> None:
    """Write down the checksums of all files, which the next use goes by; without room it keeps the old ones."""
    cache = root / CACHE
    if not cache.is_dir():
        return
    aside = cache / f"{CHECKSUMS}.{os.getpid()}"
    with suppress(OSError):
        aside.write_text(json.dumps(_checksums(cache, checksum)))
        aside.replace(cache / CHECKSUMS)


def _known(cache: Path) -> dict[str, str]:
    """Checksums by name; none if the list is missing or damaged."""
    try:
        found = json.loads((cache / CHECKSUMS).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _checksums(cache: Path, checksum: Callable[[Path], str]) -> dict[str, str]:
    """Of every file that holds anything, by its name under `cache`; a link has none that is ever known."""
    paths = list(_files(cache))
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda path: "" if path.is_symlink() else checksum(path), paths)
        names = [path.relative_to(cache).as_posix() for path in paths]
        return {name: one or os.urandom(8).hex() for name, one in zip(names, found, strict=True)}


def _files(cache: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(cache):
        for name in [*files, *(one for one in names if Path(folder, one).is_symlink())]:
            path = Path(folder, name)
            if path != cache / CHECKSUMS and (path.is_symlink() or path.stat().st_size):
                yield path
