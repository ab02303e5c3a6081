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


class _MallInfo2(ctypes.Structure):
    """glibc's struct mallinfo2 (mallinfo(3))."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def resident_bytes(status: Path = STATUS) -> dict[str, int]:
    """`process_bytes` (resident now) and `peak_process_bytes` (the most since the mark was set back)."""
    try:
        text = status.read_text()
    except OSError:
        return {}
    fields = {"process_bytes": "VmRSS", "peak_process_bytes": "VmHWM"}
    found = {name: re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE) for name, key in fields.items()}
    return {name: int(match.group(1)) * 1024 for name, match in found.items() if match}


def data_bytes(status: Path = STATUS) -> int | None:
    """Private writable memory, touched or not: heap, privately mapped weights, stacks of threads (VmData).

    It is what RLIMIT_DATA bounds (setrlimit(2); since Linux 4.7 with mapped memory); None where it is not told.
    """
    try:
        found = re.search(r"^VmData:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def limit_data(limit_bytes: int) -> None:
    """Have the kernel refuse this process, from now on, private writable memory beyond `limit_bytes`.

    Raises OSError or ValueError where the system has no such limit, or a lower one.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def mapped_bytes(folder: Path, smaps: Path = SMAPS) -> dict[str, int]:
    """`mapped_bytes` of files in `folder`, and `mapped_resident_bytes`, those that are in memory (proc_pid_smaps(5)).

    Empty where the system does not tell.
    """
    try:
        text = smaps.read_text(errors="replace")
    except OSError:
        return {}
    found = {"mapped_bytes": 0, "mapped_resident_bytes": 0}
    names = {"Size": "mapped_bytes", "Rss": "mapped_resident_bytes"}
    is_ours = False
    for line in text.splitlines():
        key, colon, rest = line.partition(":")
        if " " in key or not colon:  # a mapping's own line: addresses, permissions, offset, device, inode, path
            path = (line.split(maxsplit=5) + [""] * 6)[5]
            is_ours = path.startswith(f"{folder.resolve()}/")
        elif is_ours and key in names:
            found[names[key]] += int(rest.split()[0]) * 1024
    return found


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
    """`allocated_bytes` and `reserved_bytes` of the C library's allocator: in use, and taken from the system.

    Empty where the C library has no mallinfo2 (glibc has it since 2.33).
    """
    if sys.platform != "linux":
        return {}
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return {}
    mallinfo2.restype = _MallInfo2
    info = mallinfo2()
    return {"allocated_bytes": info.uordblks + info.hblkhd, "reserved_bytes": info.arena + info.hblkhd}
