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
