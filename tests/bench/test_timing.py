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


def test_the_device_is_idle_at_both_ends_of_a_sample() -> None:
    machine = Machine([5 * MS])
    assert machine.step().wall_ns(machine.clock) == 5 * MS + QUEUE_NS
    assert machine.log == ["synchronize", "clock", "call", "synchronize", "clock"]


def test_every_call_of_an_inner_loop_is_waited_for() -> None:
    machine = Machine([10_000])
    assert machine.step().wall_ns(machine.clock, calls=3) == 11_000
    assert machine.log == ["synchronize", "clock", *["call", "synchronize"] * 3, "clock"]


def test_work_queued_before_is_not_charged_to_a_sample() -> None:
    machine = Machine([50 * MS, MS])
    machine.call()
    assert machine.step().wall_ns(machine.clock) == MS + QUEUE_NS


def test_the_last_outputs_are_kept_and_earlier_ones_let_go_before_the_clock_starts() -> None:
    machine = Machine([MS])
    step = machine.step()
    seen: list[object] = []
    step.synchronize = lambda: seen.append(step.outputs)
    step.wall_ns(machine.clock)
    step.wall_ns(machine.clock)
    assert step.outputs == "outputs 2"
    assert seen == [None] * 4


def test_device_time_and_enqueue_time_are_those_of_one_call() -> None:
    machine = Machine([5 * MS])
    assert machine.step_with_device_clock().device_and_enqueue_ns(machine.clock) == (5 * MS + QUEUE_NS, QUEUE_NS)


def test_a_pipelined_call_hides_the_host_and_a_naive_one_hides_the_device() -> None:
    machine = Machine([5 * MS])
    step = machine.step()
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
    machine = Machine([1000 * MS - 150 * MS * index for index in range(6)] + [MS] * 100)
    warm = warm_up(machine.step(), replace(PLAN, warmup_most_seconds=2.0), clock=machine.clock)
    assert not warm.is_stable
    assert sum(warm.warmup_ns[:-1]) < 2e9 <= sum(warm.warmup_ns)


def test_a_call_longer_than_the_ceiling_is_warmed_up_once_and_not_called_stable() -> None:
    machine = Machine([5000 * MS])
    warm = warm_up(machine.step(), PLAN, clock=machine.clock)
    assert (len(warm.warmup_ns), warm.is_stable) == (1, False)


def test_warm_up_reaches_its_floors_of_calls_and_seconds() -> None:
    machine = Machine([10 * MS])
    warm = warm_up(machine.step(), replace(PLAN, warmup_seconds=0.5), clock=machine.clock)
    assert 0.5e9 <= sum(warm.warmup_ns) < 0.52e9
    machine = Machine([1000 * MS])
    assert len(warm_up(machine.step(), replace(PLAN, warmup_calls=7), clock=machine.clock).warmup_ns) == 7


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


def test_a_turn_of_slow_calls_takes_one_sample_and_does_not_settle() -> None:
    machine = Machine([3000 * MS])
    samples = take_turn(machine.step(), 1.0, warmed(3000 * MS), PLAN, machine.clock)
    assert (len(samples.wall_ns), machine.calls) == (1, 1)


def test_a_turn_of_short_calls_settles_first_and_fills_its_time() -> None:
    machine = Machine([10 * MS])
    samples = take_turn(machine.step(), 1.0, warmed(10 * MS), PLAN, machine.clock)
    settling = machine.calls - len(samples.wall_ns)
    assert (settling - 1) * 10 * MS < SETTLE_NS <= settling * (10 * MS + QUEUE_NS)
    assert 0.95e9 < sum(samples.wall_ns) <= 1e9


def test_a_turn_is_capped_in_samples() -> None:
    machine = Machine([MS])
    plan = replace(PLAN, samples_per_turn=40)
    assert len(take_turn(machine.step(), 60.0, warmed(MS), plan, machine.clock).wall_ns) == 40


def test_a_device_with_a_clock_gives_three_times_and_the_naive_one_when_asked() -> None:
    machine = Machine([10 * MS])
    plan = replace(PLAN, naive_timer=True)
    samples = take_turn(machine.step_with_device_clock(), 0.2, warmed(10 * MS), plan, machine.clock)
    assert set(samples.wall_ns) == {10 * MS + QUEUE_NS}
    assert samples.device_ns == [10 * MS + QUEUE_NS] * 5
    assert samples.enqueue_ns == [QUEUE_NS] * 5
    assert len(samples.pipelined_ns) == 1
    assert samples.pipelined_ns[0] == pytest.approx(10 * MS, rel=0.01)
    assert samples.naive_ns == [QUEUE_NS] * 5


def test_the_outputs_left_for_parity_are_those_of_a_call_timed_as_the_headline_is() -> None:
    machine = Machine([10 * MS])
    step = machine.step_with_device_clock()
    take_turn(step, 0.05, warmed(10 * MS), replace(PLAN, naive_timer=True), machine.clock)
    assert step.outputs == f"outputs {machine.calls}"
    assert machine.log[-5:] == ["synchronize", "clock", "call", "synchronize", "clock"]


def test_without_a_device_clock_there_is_one_time() -> None:
    machine = Machine([10 * MS])
    samples = take_turn(machine.step(), 0.05, warmed(10 * MS), PLAN, machine.clock)
    assert not (samples.device_ns or samples.enqueue_ns or samples.pipelined_ns or samples.naive_ns)
