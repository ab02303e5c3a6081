"""The clock, with time injected: what is timed, in which order, and for how long."""

from __future__ import annotations

from bench.spec import TimingPlan
from bench.timing import SETTLE_NS, Samples, Step, take_turn, warm_up

MS = 1_000_000


class Machine:
    """A fake clock, and a device that needs `device_ns` after a call returns at once."""

    def __init__(self, device_ns: list[int]) -> None:
        self.now, self.busy_until, self.durations, self.calls, self.log = 0, 0, device_ns, 0, []

    def clock(self) -> int:
        self.log.append("clock")
        return self.now

    def call(self) -> None:
        self.log.append("call")
        self.now += 1000  # the time it takes to queue the work
        self.busy_until = self.now + self.durations[min(self.calls, len(self.durations) - 1)]
        self.calls += 1

    def synchronize(self) -> None:
        self.log.append("synchronize")
        self.now = max(self.now, self.busy_until)

    def step(self) -> Step:
        return Step(self.call, self.synchronize)


def test_the_device_is_idle_at_both_ends_of_a_sample() -> None:
    machine = Machine([5 * MS])
    samples = Samples()
    assert machine.step().timed(samples, machine.clock) == 5 * MS + 1000
    assert machine.log == ["synchronize", "clock", "call", "synchronize", "clock"]
    assert samples.wall_ns == [5 * MS + 1000]
    assert samples.device_ns == []


def test_work_queued_before_is_not_charged_to_a_sample() -> None:
    machine = Machine([50 * MS, MS])
    machine.call()
    samples = Samples()
    machine.step().timed(samples, machine.clock)
    assert samples.wall_ns == [MS + 1000]


def test_device_time_is_beside_wall_time() -> None:
    machine, marks = Machine([MS]), iter(range(100))
    step = Step(machine.call, machine.synchronize, lambda: next(marks), lambda start, end: (end - start) * 7)
    samples = Samples()
    step.timed(samples, machine.clock)
    assert samples.device_ns == [7]


def test_warm_up_keeps_the_first_call_apart_and_reaches_both_floors() -> None:
    machine = Machine([100 * MS, 10 * MS])
    first, rest = warm_up(machine.step(), TimingPlan(warmup_calls=2, warmup_seconds=0.05), machine.clock)
    assert first == 100 * MS + 1000
    assert rest == [10 * MS + 1000] * 5
    slow = Machine([5000 * MS])
    _, rest = warm_up(slow.step(), TimingPlan(warmup_calls=2, warmup_seconds=0.05), slow.clock)
    assert len(rest) == 2


def test_a_turn_of_slow_calls_takes_one_sample_and_does_not_settle() -> None:
    machine = Machine([3000 * MS])
    samples = take_turn(machine.step(), 1.0, 3000 * MS, 1000, machine.clock)
    assert (len(samples.wall_ns), machine.calls) == (1, 1)


def test_a_turn_of_short_calls_settles_first_and_fills_its_time() -> None:
    machine = Machine([10 * MS])
    samples = take_turn(machine.step(), 1.0, 10 * MS, 1000, machine.clock)
    settling = machine.calls - len(samples.wall_ns)
    assert (settling - 1) * 10 * MS < SETTLE_NS <= settling * (10 * MS + 1000)
    assert 0.95e9 < sum(samples.wall_ns) <= 1e9


def test_a_turn_is_capped_in_samples() -> None:
    machine = Machine([MS])
    assert len(take_turn(machine.step(), 60.0, MS, 40, machine.clock).wall_ns) == 40
