"""Processes that a worker started and left in sessions of their own, found by a mark in their environment (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

#: Environment variable that a worker and all that it starts have in common.
MARK = "BENCH_WORKER"


def kill_marked(mark: str) -> None:
    """End every process of this user's whose environment holds `mark`, until no further one is found.

    One that cleared its environment is not found. Without /proc nothing is.
    """
    wanted, killed = f"{MARK}={mark}".encode(), set[int]()
    while new := {pid for pid in _pids() - killed if _killed(pid, wanted)}:
        killed |= new


def _pids() -> set[int]:
    return {int(folder.name) for folder in Path("/proc").glob("[0-9]*")}


def _killed(pid: int, wanted: bytes) -> bool:
    """True if a process that lived had the mark; it does no more."""
    with contextlib.suppress(OSError):
        environment = Path(f"/proc/{pid}/environ")
        if wanted not in environment.read_bytes().split(b"\0"):
            return False
        process = os.pidfd_open(pid)  # unlike its number, not another process's by now
        try:
            if wanted in environment.read_bytes().split(b"\0"):
                signal.pidfd_send_signal(process, signal.SIGKILL)
                return True
        finally:
            os.close(process)
    return False
