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
    for pid, name, share in busy[:MOST_PROCESSES]:
        remedy = f"pause it: kill -STOP {pid} (goes on with: kill -CONT {pid}), or end it"
        yield Disturbance(f"{name} (process {pid}) keeps {share:.1f} CPUs busy", remedy)
    if not busy and busy_share > BUSY_SHARE:
        what = f"work that is not to be seen from here takes {busy_share:.0%} of all CPUs"
        yield Disturbance(what, "stop it on the host, or outside of this container")


def busy_processes(sleep: Callable[[float], None] = time.sleep) -> list[tuple[int, str, float]]:
    """Id, name and share of one CPU of every other process above `BUSY_PROCESS_SHARE`, busiest first."""
    import psutil

    def share_since(process: Any) -> float:
        with contextlib.suppress(psutil.Error):  # gone, or not to be seen
            return float(process.cpu_percent()) / 100
        return 0.0

    others = [process for process in psutil.process_iter(["name"]) if process.pid != os.getpid()]
    for process in others:
        share_since(process)
    sleep(WATCHED_SECONDS)
    shares = [(one.pid, _printable(one.info["name"] or "?"), share_since(one)) for one in others]
    return sorted((one for one in shares if one[2] > BUSY_PROCESS_SHARE), key=lambda one: -one[2])


def _printable(name: str) -> str:
    """A process chooses its own name, which could be anything that a terminal obeys."""
    return "".join(character if character.isprintable() else "?" for character in name)
