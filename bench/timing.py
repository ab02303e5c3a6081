"""The clock: warm a step up and take samples of it. No torch; time and device events are injected."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.spec import TimingPlan

Clock = Callable[[], int]

#: At a turn's start, caches are cold and the previous worker's threads may still spin; calls in
#: this span are made and not counted, unless a single call takes longer than it.
SETTLE_NS = 50_000_000


@dataclass
class Samples:
    """Nanoseconds of each call: synchronised wall time, and device time where the device has a clock."""

    wall_ns: list[int] = field(default_factory=list)
    device_ns: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One timed call and how to wait for it; `mark` and `elapsed_ns` give device time where there is any."""

    call: Callable[[], Any]
    synchronize: Callable[[], None]
    mark: Callable[[], Any] | None = None
    elapsed_ns: Callable[[Any, Any], int] | None = None

    def timed(self, samples: Samples, clock: Clock) -> int:
        """Call once, add its times to `samples` and return its wall time.

        The device is idle when the clock starts and idle again when it stops.
        """
        self.synchronize()
        start_mark = self.mark() if self.mark else None
        started = clock()
        self.call()
        end_mark = self.mark() if self.mark else None
        self.synchronize()
        wall_ns = clock() - started
        samples.wall_ns.append(wall_ns)
        if self.elapsed_ns and start_mark is not None:
            samples.device_ns.append(self.elapsed_ns(start_mark, end_mark))
        return wall_ns


def warm_up(step: Step, plan: TimingPlan, clock: Clock = time.perf_counter_ns) -> tuple[int, list[int]]:
    """First call's nanoseconds, and those of the calls that follow until the plan's warm-up is done."""
    first_ns = step.timed(Samples(), clock)
    rest, spent_ns = Samples(), 0
    while len(rest.wall_ns) < plan.warmup_calls or spent_ns < plan.warmup_seconds * 1e9:
        spent_ns += step.timed(rest, clock)
    return first_ns, rest.wall_ns


def take_turn(
    step: Step, seconds: float, call_ns: float, most_samples: int, clock: Clock = time.perf_counter_ns
) -> Samples:
    """Samples of at least one call, at most `most_samples`, for about `seconds`.

    `call_ns` is what a call is expected to take; a turn of short calls first settles.
    """
    spent_ns = 0
    while call_ns < SETTLE_NS and spent_ns < SETTLE_NS:
        spent_ns += max(1, step.timed(Samples(), clock))
    samples, spent_ns, last_ns = Samples(), 0, 0
    while not samples.wall_ns or (spent_ns + last_ns <= seconds * 1e9 and len(samples.wall_ns) < most_samples):
        last_ns = step.timed(samples, clock)
        spent_ns += last_ns
    return samples
