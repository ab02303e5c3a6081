"""Memory of this process, read from the kernel and the C library between calls. Runs in workers; Linux, else empty.

No process or thread samples anything: the kernel keeps the high-water mark by itself, and writing 5 to
/proc/self/clear_refs sets it back (proc(5)).
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
SMAPS = Path("/proc/self/smaps")
CLEAR_REFS = Path("/proc/self/clear_refs")
#: Fields of glibc's struct mallinfo2.
MALLINFO2 = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


def _told(status: Path, **names: str) -> dict[str, int]:
    """Bytes under the name that a field of `status` goes by, for the fields that are there."""
    try:
        text = status.read_text()
    except OSError:
        return {}
    found = {name: re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE) for name, field in names.items()}
    return {name: int(match[1]) * 1024 for name, match in found.items() if match}


def resident_bytes(status: Path = STATUS) -> dict[str, int]:
    """`process_bytes` (resident now) and `peak_process_bytes` (the most since the mark was set back)."""
    return _told(status, process_bytes="VmRSS", peak_process_bytes="VmHWM")


def data_bytes(status: Path = STATUS) -> int | None:
    """Bytes that RLIMIT_DATA bounds (VmData): heap, private mappings, stacks, touched or not; None if not told."""
    return _told(status, data="VmData").get("data")


def limit_data(limit_bytes: int) -> None:
    """Have the kernel refuse private writable memory beyond `limit_bytes`; raises OSError or ValueError."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def mapped_bytes(folder: Path, smaps: Path = SMAPS) -> dict[str, int]:
    """`mapped_bytes` of files in `folder`, and `mapped_resident_bytes`, those in memory; {} if not told."""
    try:
        lines = smaps.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    found = {"Size": 0, "Rss": 0}
    is_ours = False
    for line in lines:
        key, colon, rest = line.partition(":")
        if " " in key or not colon:  # a mapping's own line: addresses, permissions, offset, device, inode, path
            is_ours = (line.split(maxsplit=5) + [""] * 6)[5].startswith(f"{folder.resolve()}/")
        elif is_ours and key in found:
            found[key] += int(rest.split()[0]) * 1024
    return {"mapped_bytes": found["Size"], "mapped_resident_bytes": found["Rss"]}


def survey(folder: Path | None) -> dict[str, int]:
    """`data_bytes`, and `mapped_bytes` and `mapped_resident_bytes` of files in `folder`, each if it is known."""
    data = data_bytes()
    return ({} if data is None else {"data_bytes": data}) | (mapped_bytes(folder) if folder else {})


def set_peak_back(clear_refs: Path = CLEAR_REFS) -> bool:
    """Give free memory back to the system and set the high-water mark to what is resident; False where refused."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
    try:
        clear_refs.write_text("5")
    except OSError:
        return False
    return True


def heap_bytes() -> dict[str, int]:
    """`allocated_bytes` (in use) and `reserved_bytes` of the C library's allocator; {} before glibc 2.33."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if mallinfo2 is None:
        return {}

    class MallInfo2(ctypes.Structure):  # mallinfo(3)
        _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO2]

    mallinfo2.restype = MallInfo2
    info = mallinfo2()
    return {"allocated_bytes": info.uordblks + info.hblkhd, "reserved_bytes": info.arena + info.hblkhd}
