"""Machines for tests: what else went on during turns, as a test has it and not as this machine did."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from bench.machine.conditions import Snapshot, Source
from bench.machine.host import CpuSeconds
from tests.made import QUIET


class Scripted(Source):
    """`is_busy(n)` says whether other work takes part in the n-th turn, from 0; waiting takes no time.

    While a run waits, other work goes on as long as `is_busy_when_idle` says.
    """

    def __init__(self, is_busy: Callable[[int], bool] = lambda turn: False, is_busy_when_idle: bool = False) -> None:
        self.is_busy, self.is_busy_when_idle = is_busy, is_busy_when_idle
        self.turns, self.waited_seconds, self.has_waited = 0, 0.0, False

    def snapshot(self, device: str, own_pids: Collection[int] = ()) -> Snapshot:
        return Snapshot(0, 0.0, CpuSeconds(0.0, 0.0, 0.0))

    def between(self, *of_turn: Any) -> dict[str, Any]:
        if self.has_waited:
            self.has_waited, is_busy = False, self.is_busy_when_idle
        else:
            self.turns, is_busy = self.turns + 1, self.is_busy(self.turns)
        return QUIET | {"queue_delay_seconds": 0.4 if is_busy else 0.0001}

    def pause(self, seconds: float) -> None:
        self.waited_seconds += seconds
        self.has_waited = True
