"""The clock, with time injected: what is timed, in which order, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.process.timing import (
    LEAST_SAMPLE_NS,
    SETTLE_NS,
    Sampling,
    Step,
    WarmUp,
    take_turn,
    warm_up,
)

MS = 1_000_000
QUEUE_NS = 1000
PLAN = Sampling()


class Machine:
    """A fake clock, and a device that needs `durations` after a call returns at once."""

    def __init__(self, durations: list[int]) -> None:
        self.now, self.busy_until, self.durations, self.calls = 0, 0, durations, 0
        self.log: list[str] = []

    def clock(self) -> int:
        self.log.append("clock")
        return self.now

    def call(self) -> str:
        self.log.append("call")
        self.now += QUEUE_NS  # the time it takes to queue the work
        duration = self.durations[min(self.calls, len(self.durations) - 1)]
        self.busy_until = max(self.now, self.busy_until) + duration
        self.calls += 1
        return f"outputs {self.calls}"

    def synchronize(self) -> None:
        self.log.append("synchronize")
        self.now = max(self.now, self.busy_until)

    def step(self) -> Step:
        return Step(self.call, self.synchronize)

    def step_with_device_clock(self) -> Step:
        """Marks are what the device has reached when the work before them is done."""
        return Step(
            self.call, self.synchronize, lambda: max(self.now, self.busy_until), lambda start, end: int(end - start)
        )


def warmed(call_ns: int, calls_per_sample: int = 1) -> WarmUp:
    return WarmUp([call_ns], True, calls_per_sample, call_ns)


@pytest.mark.parametrize(
    ("durations", "queued", "calls", "sample"),
    [
        ([5 * MS], 0, 1, 5 * MS + QUEUE_NS),  # the device is idle at both ends of a sample
        ([10_000], 0, 3, 11_000),  # every call of an inner loop is waited for
        ([50 * MS, MS], 1, 1, MS + QUEUE_NS),  # work queued before is not charged to a sample
    ],
)
def test_a_sample_is_synchronised_wall_time(durations: list[int], queued: int, calls: int, sample: int) -> None:
    machine = Machine(durations)
    for _ in range(queued):
        machine.call()
    assert machine.step().wall_ns(machine.clock, calls=calls) == sample
    assert machine.log[queued:] == ["synchronize", "clock", *["call", "synchronize"] * calls, "clock"]


def test_the_last_outputs_are_kept_and_earlier_ones_let_go_before_the_clock_starts() -> None:
    machine = Machine([MS])
    step = machine.step()
    seen: list[object] = []
    step.synchronize = lambda: seen.append(step.outputs)
    step.wall_ns(machine.clock)
    step.wall_ns(machine.clock)
    assert step.outputs == "outputs 2"
    assert seen == [None] * 4


def test_a_pipelined_call_hides_the_host_and_a_naive_one_hides_the_device() -> None:
    machine = Machine([5 * MS])
    step = machine.step_with_device_clock()
    assert step.device_and_enqueue_ns(machine.clock) == (5 * MS + QUEUE_NS, QUEUE_NS)
    assert step.pipelined_ns(machine.clock, 10) == pytest.approx(5 * MS, rel=0.01)
    assert step.naive_ns(machine.clock, 3) == [QUEUE_NS] * 3
    assert machine.log[-1] == "synchronize"  # what was queued is not left to the next sample


# Warm-up.


def test_warm_up_goes_on_until_its_window_is_stable() -> None:
    falling = [100 * MS - 8 * MS * index for index in range(10)]
    machine = Machine([*falling, *[20 * MS] * 50])
    warm = warm_up(machine.step(), PLAN, clock=machine.clock)
    assert warm.is_stable
    assert warm.warmup_ns[-4:] == [20 * MS + QUEUE_NS] * 4
    assert (warm.calls_per_sample, warm.call_ns) == (1, 20 * MS + QUEUE_NS)


def test_warm_up_ends_at_its_ceiling_and_says_that_it_was_not_stable() -> None:
    machine = Machine([740 * MS - 100 * MS * index for index in range(7)] + [MS] * 100)
    warm = warm_up(machine.step(), replace(PLAN, warmup_most_seconds=2.0), clock=machine.clock)
    assert not warm.is_stable
    assert sum(warm.warmup_ns[:-1]) < 2e9 <= sum(warm.warmup_ns)


@pytest.mark.parametrize(
    ("call_ns", "plan", "calls", "is_stable"),
    [
        (5000 * MS, {}, 1, False),  # longer than the ceiling: once, and not called stable
        (760 * MS, {}, 1, False),  # a slow call: the first one and this
        (740 * MS, {}, 4, True),
        (10 * MS, {"warmup_seconds": 0.5}, 50, True),
        (1000 * MS, {"warmup_calls": 7}, 7, True),
    ],
)
def test_warm_up_reaches_its_floors_and_no_more(call_ns: int, plan: dict, calls: int, is_stable: bool) -> None:
    machine = Machine([call_ns])
    warm = warm_up(machine.step(), replace(PLAN, **plan), clock=machine.clock)
    assert (len(warm.warmup_ns), warm.is_stable) == (calls, is_stable)


def test_short_calls_are_timed_several_at_a_time() -> None:
    machine = Machine([9_000])
    warm = warm_up(machine.step(), PLAN, clock=machine.clock)
    assert warm.call_ns == 10_000
    assert warm.calls_per_sample == LEAST_SAMPLE_NS / 10_000
    calls = machine.calls
    samples = take_turn(machine.step(), 0.01, warm, PLAN, machine.clock)
    assert samples.wall_ns == [10_000] * 10
    assert machine.calls - calls == 100 * (10 + SETTLE_NS // MS)


# Turns.


@pytest.mark.parametrize(
    ("call_ns", "seconds", "most", "samples"),
    [
        (3000 * MS, 1.0, 1000, 1),  # a turn of slow calls takes one sample and does not settle
        (10 * MS, 1.0, 1000, 99),
        (MS, 60.0, 40, 40),
    ],
)
def test_a_turn_of_short_calls_settles_first_and_fills_its_time(
    call_ns: int, seconds: float, most: int, samples: int
) -> None:
    machine = Machine([call_ns])
    plan = replace(PLAN, samples_per_turn=most)
    found = take_turn(machine.step(), seconds, warmed(call_ns), plan, machine.clock)
    assert found.wall_ns == [call_ns + QUEUE_NS] * samples
    assert not (found.device_ns or found.enqueue_ns or found.pipelined_ns or found.naive_ns)
    settling = machine.calls - samples
    assert (settling - 1) * call_ns < SETTLE_NS <= settling * (
        call_ns + QUEUE_NS
    ) or call_ns > SETTLE_NS > settling == 0


def test_a_device_with_a_clock_gives_three_times_and_the_naive_one_when_asked() -> None:
    """The outputs left for parity are those of a call timed as the headline is."""
    machine = Machine([10 * MS])
    step = machine.step_with_device_clock()
    samples = take_turn(step, 0.2, warmed(10 * MS), replace(PLAN, naive_timer=True), machine.clock)
    assert set(samples.wall_ns) == {10 * MS + QUEUE_NS}
    assert samples.device_ns == [10 * MS + QUEUE_NS] * 5
    assert samples.enqueue_ns == samples.naive_ns == [QUEUE_NS] * 5
    assert samples.pipelined_ns == [pytest.approx(10 * MS, rel=0.01)]
    assert step.outputs == f"outputs {machine.calls}"
    assert machine.log[-5:] == ["synchronize", "clock", "call", "synchronize", "clock"]
