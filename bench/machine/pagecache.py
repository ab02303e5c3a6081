"""The page cache: evict files from it one by one, and count what of them stays; nobody else's pages are touched."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def files_below(folders: Iterable[Path]) -> Iterator[Path]:
    """Every regular file in some folders, links left out."""
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                if path.is_file() and not path.is_symlink():
                    yield path


def evict(folders: Iterable[Path]) -> dict[str, int]:
    """Drop the pages of every file in `folders`; returns `file_bytes`, and `cached_bytes` that stay (mapped pages)."""
    sizes = cached = 0
    for path in files_below(folders):
        with contextlib.suppress(OSError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            sizes += size
            cached += min(cached_bytes(file.fileno(), size), size)
    return {"file_bytes": sizes, "cached_bytes": cached}


def cached_bytes(descriptor: int, size: int) -> int:
    """Bytes of an open file of `size` bytes that lie in the page cache, in whole pages (mincore(2))."""
    if not size:
        return 0
    pages = -(-size // mmap.PAGESIZE)
    present = (ctypes.c_ubyte * pages)()
    with mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        view = ctypes.c_char.from_buffer(mapped)
        try:
            found = ctypes.CDLL(None, use_errno=True).mincore(
                ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), present
            )
        finally:
            del view
    if found != 0:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return sum(byte & 1 for byte in present) * mmap.PAGESIZE
