"""What the scheduler counts for the threads of this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.machine.host import ROOT, read

SCHEDSTAT = "proc/self/task"


def queue_delays_ns(root: Path = ROOT) -> dict[str, int]:
    """Nanoseconds that each thread of this process was ready to run and waited for a CPU so far, by its number; {} if
    the kernel does not count them (Documentation/scheduler/sched-stats.rst: the second number of `schedstat`).
    """
    found, has_run = {}, False
    try:
        numbers = [path.name for path in (root / SCHEDSTAT).iterdir()]
    except OSError:
        return {}
    for number in numbers:
        counts = (read(root, f"{SCHEDSTAT}/{number}/schedstat") or "").split()  # "" of a thread that has ended
        if len(counts) == 3 and all(count.isdigit() for count in counts):
            found[number] = int(counts[1])
            has_run = has_run or counts[0] != "0"  # a kernel that counts nothing says 0 0 0
    return found if has_run else {}


def queue_delay_seconds(before: Mapping[str, int], root: Path = ROOT) -> float | None:
    """Seconds that threads of this process waited for a CPU since `before`, together; None if that is not counted.

    A thread that ended meanwhile counts nothing, one that began all that it waited.
    """
    after = queue_delays_ns(root)
    return sum(max(0, ns - before.get(number, 0)) for number, ns in after.items()) / 1e9 if after else None
