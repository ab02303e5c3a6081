"""What else computes on this machine now: processes by name, or only that there are some."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.machine.conditions import Disturbance

#: Share of all CPU time that other work may take while nothing of this process runs.
BUSY_SHARE = 0.1
#: The same for one process, as a share of one CPU.
BUSY_PROCESS_SHARE = 0.2
WATCHED_SECONDS = 0.5
MOST_PROCESSES = 3


def other_work(busy_share: float) -> Iterator[Disturbance]:
    """Processes that compute now, busiest first; or, where none is to be seen, what the whole machine shows."""
    busy = busy_processes()
    for pid, name, share, owner in busy[:MOST_PROCESSES]:
        remedy = f"pause it: kill -STOP {pid} (goes on with: kill -CONT {pid}), or end it"
        if owner:
            remedy = f"it belongs to {owner}, so ask before anything is done to it"
        yield Disturbance(f"{name} (process {pid}) keeps {share:.1f} CPUs busy", remedy)
    if not busy and busy_share > BUSY_SHARE:
        what = f"work that is not to be seen from here takes {busy_share:.0%} of all CPUs"
        yield Disturbance(what, "stop it on the host, or outside of this container")


def busy_processes(sleep: Callable[[float], None] = time.sleep) -> list[tuple[int, str, float, str]]:
    """Id, name, share of one CPU and owner ("" for this process's) of every other process above `BUSY_PROCESS_SHARE`,
    busiest first.
    """
    import psutil

    def share_since(process: Any) -> float:
        with contextlib.suppress(psutil.Error):  # gone, or not to be seen
            return float(process.cpu_percent()) / 100
        return 0.0

    others = [process for process in psutil.process_iter(["name"]) if process.pid != os.getpid()]
    for process in others:
        share_since(process)
    sleep(WATCHED_SECONDS)
    shares = [(share, one) for one in others if (share := share_since(one)) > BUSY_PROCESS_SHARE]
    shares.sort(key=lambda one: -one[0])
    return [(one.pid, _printable(one.info["name"] or "?"), share, _owner(one)) for share, one in shares]


def _owner(process: Any) -> str:
    """Whose a process is: "" if it is the user's own."""
    import psutil

    with contextlib.suppress(psutil.Error):
        if process.uids().real != os.getuid():
            return f"user {_printable(process.username())}"
        return ""
    return "another user"


def _printable(name: str) -> str:
    """A process chooses its own name, which could be anything that a terminal obeys."""
    return "".join(character if character.isprintable() else "?" for character in name)
