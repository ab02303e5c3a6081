"""Memory of the process, from the kernel and the C library."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from bench.machine import memory

MIB = 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and glibc")


def test_what_the_kernel_does_not_tell_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    assert memory.resident_bytes(tmp_path / "status") == {"process_bytes": MIB, "peak_process_bytes": 2 * MIB}
    assert memory.resident_bytes(tmp_path / "missing") == {}
    assert memory.set_peak_back(tmp_path / "no" / "clear_refs") is False


@linux
def test_the_peak_is_that_of_what_follows() -> None:
    """64 MiB that are touched and freed raise the peak and not what is held; setting it back forgets them."""
    assert memory.set_peak_back()
    before = memory.resident_bytes()
    block = bytearray(64 * MIB)
    del block
    after = memory.resident_bytes()
    assert after["peak_process_bytes"] >= before["process_bytes"] + 60 * MIB
    assert memory.set_peak_back()
    assert memory.resident_bytes()["peak_process_bytes"] <= after["peak_process_bytes"] - 50 * MIB


@linux
def test_the_heap_holds_what_is_allocated() -> None:
    before = memory.heap_bytes()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(32 * MIB))
    held = memory.heap_bytes()
    libc.free(ctypes.c_void_p(block))
    assert held["allocated_bytes"] - before["allocated_bytes"] == pytest.approx(32 * MIB, rel=0.01)
    assert held["reserved_bytes"] >= held["allocated_bytes"]
