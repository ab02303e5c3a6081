"""The clock: warm a step up and take samples of it. No torch; time and device events are injected."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import statistics

if TYPE_CHECKING:
    from backends.base import Backend

Clock = Callable[[], int]

#: At a turn's start, caches are cold and the previous worker's threads may still spin; calls in
#: this span are made and not counted, unless a single call takes longer than it.
SETTLE_NS = 50_000_000
#: A sample lasts at least this long; shorter calls are timed several at a time.
LEAST_SAMPLE_NS = 1_000_000
#: Fewest calls of a sliding window of the warm-up that can show it to be stable.
LEAST_WINDOW = 4
#: Calls above this are warmed up by the first call and one more: a ceiling of seconds holds too few of them to tell
#: whether they are stable, and a trend over the timed rounds shows what a longer warm-up would have.
SLOW_CALL_NS = 750_000_000
#: Share of a turn's seconds that each further kind of time gets beside the primary one.
SHARE_OF_OTHER_TIMES = 0.25


#: What `Samples` holds, in nanoseconds a call; `wall` is the headline.
KINDS_OF_TIME = ("wall", "device", "enqueue", "pipelined", "naive")


@dataclass(frozen=True)
class Sampling:
    """How a cell is warmed up and sampled."""

    warmup_calls: int = 1
    warmup_seconds: float = 0.3
    warmup_most_seconds: float = 3.0
    """Ceiling of a warm-up that does not become stable."""
    samples_per_turn: int = 1000
    naive_timer: bool = False
    """True to time calls without any synchronisation too, which explains figures that were taken so."""


@dataclass
class Samples:
    """Nanoseconds a call, one list a kind of time."""

    wall_ns: list[int] = field(default_factory=list)
    """From before a call until the device is done with it: the primary figure."""
    device_ns: list[int] = field(default_factory=list)
    """Between two events on the device, around a call."""
    enqueue_ns: list[int] = field(default_factory=list)
    """Until the same call returned to the host, the device still at work."""
    pipelined_ns: list[int] = field(default_factory=list)
    """Of a train of calls with one synchronisation at its end, divided by their number."""
    naive_ns: list[int] = field(default_factory=list)
    """Of a train of calls that are never waited for: wrong on a device that works on its own."""


@dataclass
class Step:
    """A call that can be timed and how to wait for it; `mark` and `elapsed_ns` give device time where there is any."""

    call: Callable[[], Any]
    synchronize: Callable[[], None]
    mark: Callable[[], Any] | None = None
    elapsed_ns: Callable[[Any, Any], int] | None = None
    outputs: Any = None
    """What the last call returned."""

    def wall_ns(self, clock: Clock, calls: int = 1) -> int:
        """Synchronised wall time of one call, the mean of `calls` calls that are each waited for.

        The device is idle when the clock starts and idle again when it stops, and the outputs of
        earlier calls are let go before it starts.
        """
        self.outputs = outputs = None
        call, synchronize = self.call, self.synchronize
        synchronize()
        started = clock()
        for _ in range(calls):
            outputs = call()
            synchronize()
        spent = clock() - started
        self.outputs = outputs
        return spent if calls == 1 else round(spent / calls)

    def device_and_enqueue_ns(self, clock: Clock) -> tuple[int, int]:
        """Device time of one call by its events, and host time until the call returned."""
        assert self.mark is not None
        assert self.elapsed_ns is not None
        self.outputs = None
        self.synchronize()
        start = self.mark()
        started = clock()
        self.outputs = self.call()
        enqueued = clock() - started
        end = self.mark()
        self.synchronize()
        return self.elapsed_ns(start, end), enqueued

    def pipelined_ns(self, clock: Clock, calls: int) -> int:
        """Time a call of `calls` calls in a row with one synchronisation at the end."""
        self.outputs = None
        self.synchronize()
        started = clock()
        for _ in range(calls):
            self.call()
        self.synchronize()
        return round((clock() - started) / calls)

    def naive_ns(self, clock: Clock, calls: int) -> list[int]:
        """Times of `calls` calls in a row as a clock without any synchronisation shows them."""
        self.outputs = None
        self.synchronize()
        found = []
        for _ in range(calls):
            started = clock()
            self.call()
            found.append(clock() - started)
        self.synchronize()
        return found


@dataclass(frozen=True)
class WarmUp:
    """How a step was warmed up."""

    warmup_ns: list[int]
    """Each sample of it, nanoseconds a call."""
    is_stable: bool
    """False where it ended at its ceiling of seconds with the first half of its window unlike the second, and for slow
    calls.
    """
    calls_per_sample: int
    """Calls in each sample from here on, so that one lasts a millisecond."""
    call_ns: int
    """What a call is expected to take."""


def warm_up(step: Step, plan: Sampling, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Call until the sliding window of the last calls is stable, within floor and ceiling; a slow call once."""
    samples: list[int] = []
    lasted: list[int] = []
    calls = 1
    while True:
        sample = step.wall_ns(clock, calls)
        samples.append(sample)
        lasted.append(max(1, sample * calls))
        if lasted[-1] < LEAST_SAMPLE_NS:
            calls *= 2
        spent = sum(lasted) / 1e9
        is_enough = len(samples) >= plan.warmup_calls and spent >= plan.warmup_seconds
        is_stable = is_enough and statistics.is_stable(samples[-_window(lasted, plan.warmup_seconds) :])
        has_calls = len(samples) >= plan.warmup_calls
        if is_stable or (has_calls and (spent >= plan.warmup_most_seconds or min(lasted) > SLOW_CALL_NS)):
            break
    call_ns = max(1, round(statistics.median(samples[-LEAST_WINDOW:])))
    return WarmUp(samples, is_stable, math.ceil(LEAST_SAMPLE_NS / call_ns), call_ns)


def slow(call_ns: int) -> WarmUp:
    """Of a step that was warmed up by its first call and one more, of `call_ns`."""
    return WarmUp([call_ns], False, math.ceil(LEAST_SAMPLE_NS / call_ns), call_ns)


def _window(lasted: list[int], seconds: float) -> int:
    """How many of the last samples took `seconds` together; at least `LEAST_WINDOW`."""
    spent, count = 0, 0
    while count < len(lasted) and (spent < seconds * 1e9 or count < LEAST_WINDOW):
        count += 1
        spent += lasted[-count]
    return count


def take_turn(step: Step, seconds: float, warm: WarmUp, plan: Sampling, clock: Clock = time.perf_counter_ns) -> Samples:
    """One turn: at least one sample, at most the plan's, for about `seconds` of the primary time.

    A turn of short calls first settles. The other kinds of time are taken after the primary one,
    by calls of their own, since an event's record would stand within it.
    """
    calls, spent = warm.calls_per_sample, 0
    while warm.call_ns < SETTLE_NS and spent < SETTLE_NS:
        spent += max(1, step.wall_ns(clock, calls) * calls)
    samples, spent, last = Samples(), 0, 0
    while not samples.wall_ns or (spent + last <= seconds * 1e9 and len(samples.wall_ns) < plan.samples_per_turn):
        sample = step.wall_ns(clock, calls)
        samples.wall_ns.append(sample)
        last = sample * calls
        spent += last
    wanted = min(round(SHARE_OF_OTHER_TIMES * seconds * 1e9 / warm.call_ns), plan.samples_per_turn)
    train = max(2, wanted)  # one call alone is no train
    if step.mark is not None:
        for _ in range(max(1, wanted)):
            device_ns, enqueue_ns = step.device_and_enqueue_ns(clock)
            samples.device_ns.append(device_ns)
            samples.enqueue_ns.append(enqueue_ns)
        samples.pipelined_ns.append(step.pipelined_ns(clock, train))
    if plan.naive_timer:
        samples.naive_ns += step.naive_ns(clock, train)
    # The outputs that parity judges are those of a call that was timed as the headline is.
    if step.mark is not None or plan.naive_timer:
        samples.wall_ns.append(step.wall_ns(clock, calls))
    return samples


def step(backend: Backend, call: Callable[[], Any], has_clock: bool = True) -> Step:
    """A step of `call` on a backend; with its device clock, if it has one and `has_clock`."""
    from bench.process import abilities

    clock = abilities.clock_of(backend) if has_clock else None
    return Step(call, backend.synchronize, clock.mark, clock.elapsed_ns) if clock else Step(call, backend.synchronize)
