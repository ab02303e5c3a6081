"""A queue before one server against theory on a fake clock, in one slice or in many; arrivals and figures."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import accumulate, pairwise
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.process import serving
from bench.process.levels import KEPT, MISSED, UNJUDGED
from bench.process.queue import Batching, Slice, called_shapes, next_slice, next_step, parse_batching, serve
from bench.process.served import Slices
from bench.spec import Shape
from bench.traffic import Slo, Traffic, arrivals

MS = 1_000_000
ONE = Traffic({Shape(1, 8): 1.0}, "single sequences")


class FakeClock:
    """Nanoseconds that pass only while somebody waits or is served."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[tuple[int, int, int]] = []
        """Start, first request and count of each call."""

    def read(self) -> int:
        return self.now_ns

    def wait_until(self, moment_ns: int) -> None:
        assert moment_ns > self.now_ns, "a wait that is over already would never end"
        self.now_ns = moment_ns

    def serve(
        self,
        due_ns: list[int],
        service_ns: Callable[[int, int], int],
        batching: Batching = Batching(),  # noqa: B008 - frozen
        rows: list[int] | None = None,
        most_ns: int = 10**18,
    ) -> Slice:
        def call(first: int, count: int) -> None:
            self.calls.append((self.now_ns, first, count))
            self.now_ns += service_ns(first, count)

        return serve(due_ns, rows or [1] * len(due_ns), batching, call, self.read, self.wait_until, most_ns)


def in_slices(
    due_ns: list[int],
    service_ns: Callable[[int, int], int],
    slices: int,
    batching: Batching = Batching(),  # noqa: B008
) -> list[Slice]:
    """The same requests as of one slice, each slice served by a clock of its own, as other turns come between."""
    found: list[Slice] = []
    for _ in range(slices):
        due, place, most_ns = next_slice(due_ns, found, slices, 10**18)

        def service(first: int, count: int, place: int = place) -> int:
            return service_ns(place + first, count)

        found.append(FakeClock().serve(due, service, batching, most_ns=most_ns))
    return found


# The queue.


def test_a_stall_delays_every_request_that_was_due_meanwhile() -> None:
    """Counted from each call's start instead, one latency in ten would be long: coordinated omission."""
    due = [10 * MS * place for place in range(10)]
    served = FakeClock().serve(due, lambda first, count: 100 * MS if first == 0 else MS)
    assert served.latency_ns == [100 * MS, *(100 * MS + place * MS - due[place] for place in range(1, 10))]
    assert min(served.latency_ns) == 19 * MS
    assert served.waits_ns == [
        latency - (100 * MS if not place else MS) for place, latency in enumerate(served.latency_ns)
    ]
    ended = FakeClock().serve([0, 1, 2, 3], lambda first, count: 100, most_ns=150)  # too much for its time
    assert ended.latency_ns == [100, 199]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 60)), min_size=1, max_size=60))
def test_without_batching_waits_follow_lindleys_recursion(gaps_and_services: list[tuple[int, int]]) -> None:
    due = [*accumulate(gap for gap, _ in gaps_and_services)]
    services = [service for _, service in gaps_and_services]
    served = FakeClock().serve(due, lambda first, count: services[first])
    wait = 0
    for place, found in enumerate(served.waits_ns):
        assert found == wait
        if place + 1 < len(due):
            wait = max(0, wait + services[place] - (due[place + 1] - due[place]))


@pytest.mark.parametrize("slices", [1, 1000])
@pytest.mark.parametrize(("services", "factor"), [("deterministic", 0.5), ("exponential", 1.0)])
def test_mean_waits_are_those_of_pollaczek_and_khinchine(services: str, factor: float, slices: int) -> None:
    """Mean wait = factor · ρ / (1 - ρ) of a service time: M/D/1 and M/M/1, at ρ = 0.7, within 4 % for 60,000 requests,
    though only 60 of them are served at a time: that many from an empty queue wait 10 to 18 % too little.
    """
    load, count = 0.7, 60_000
    draw = random.Random(7)
    durations = [MS if services == "deterministic" else round(draw.expovariate(1) * MS) for _ in range(count)]
    due = arrivals(ONE, load * 1e9 / MS, count, seed=5, draw=0)[0]
    served = in_slices(due, lambda first, _: durations[first], slices)
    mean_ms = sum(sum(one.waits_ns) for one in served) / count / MS
    assert mean_ms == pytest.approx(factor * load / (1 - load), rel=0.04)


@settings(max_examples=80, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 50), min_size=4, max_size=50),
    service=st.integers(1, 90),
    slices=st.integers(1, 4),
    batching=st.sampled_from([Batching(), Batching(4, 10)]),
)
def test_slices_are_one_queue(gaps: list[int], service: int, slices: int, batching: Batching) -> None:
    """Whatever is served meanwhile, no request waits longer or shorter, and busy periods go on."""
    due = [*accumulate(gaps)]
    (whole,) = in_slices(due, lambda first, count: service + first % 3, 1, batching)
    parts = in_slices(due, lambda first, count: service + first % 3, slices, batching)
    assert [ns for one in parts for ns in one.latency_ns] == whole.latency_ns
    assert [ns for one in parts for ns in one.waits_ns] == whole.waits_ns
    both = [Slices(one, len(due), 1e7) for one in ([whole], parts)]
    assert both[0].calls_ns == both[1].calls_ns
    assert both[0].elapsed_ns == both[1].elapsed_ns
    assert [*both[0]._busy_periods()] == [*both[1]._busy_periods()]


def test_littles_law_holds_for_what_was_served() -> None:
    """The mean number in the system, from a sweep of arrivals and departures, is rate times mean latency."""
    due = arrivals(ONE, 800, 5000, seed=1, draw=0)[0]
    served = FakeClock().serve(due, lambda first, count: (500 + 400 * count) * 1000, Batching(4, MS))
    done = sorted(start + latency for start, latency in zip(due, served.latency_ns, strict=True))
    inside = area = before = 0
    for at, change in heapq.merge(((at, 1) for at in due), ((at, -1) for at in done)):
        area, before, inside = area + inside * (at - before), at, inside + change
    rate = len(due) / done[-1]
    assert area / done[-1] == pytest.approx(rate * sum(served.latency_ns) / len(due), rel=1e-9)


DYNAMIC = Batching(4, 10)


@pytest.mark.parametrize(
    ("due", "rows", "now", "wanted"),
    [
        ([5, 6], [1, 1], 0, (0, 5)),  # nobody is there
        ([5, 6], [1, 1], 5, (0, 6)),  # one is, and may wait for the next
        ([5, 40], [1, 1], 5, (0, 15)),  # but only so long
        ([5], [1], 5, (0, 15)),  # nor does the server know that nobody comes any more
        ([5, 40], [1, 1], 15, (1, 0)),
        ([0, 0, 0, 0, 0], [1] * 5, 0, (4, 0)),  # full
        ([0, 0], [3, 2], 0, (1, 0)),  # the next does not fit and is not passed by
        ([0, 0, 0], [3, 2, 1], 0, (1, 0)),
        ([0, 0], [9, 1], 0, (1, 0)),  # larger than a batch: alone, at once
        ([0, 0, 0], [2, 1, 1], 0, (3, 0)),
        ([0, 1, 2], [1, 1, 1], 30, (3, 0)),  # the server was busy for longer than the delay
    ],
)
def test_what_is_joined_and_how_long_it_waits(
    due: list[int], rows: list[int], now: int, wanted: tuple[int, int]
) -> None:
    assert next_step(due, rows, 0, now, DYNAMIC) == wanted


@settings(max_examples=80, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), min_size=1, max_size=40),
    service=st.integers(1, 60),
)
def test_every_request_is_in_one_call_in_order(requests: list[tuple[int, int]], service: int) -> None:
    due = [*accumulate(gap for gap, _ in requests)]
    rows = [count for _, count in requests]
    clock = FakeClock()
    served = clock.serve(due, lambda first, count: service, DYNAMIC, rows)
    assert [place for _, first, count in clock.calls for place in range(first, first + count)] == [*range(len(due))]
    assert len(served.latency_ns) == len(due)
    free_ns = 0
    for start, first, count in clock.calls:
        assert sum(rows[first : first + count]) <= DYNAMIC.most_rows or count == 1
        assert due[first + count - 1] <= start <= max(free_ns, due[first] + DYNAMIC.most_delay_ns)
        free_ns = start + service


def test_waiting_sleeps_until_shortly_before_and_spins_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [1_000_000], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += round(seconds * 1e9)

    def tick() -> int:
        now[0] += 1000
        return now[0]

    monkeypatch.setattr(serving, "time", mock.Mock(sleep=sleep, perf_counter_ns=tick))
    serving.wait_until(6_000_000)
    assert slept == [pytest.approx(5e-3 - serving.SPIN_NS / 1e9, abs=1e-5)]
    assert 6_000_000 <= now[0] <= 6_003_000
    serving.wait_until(now[0] + 100_000)
    assert len(slept) == 1


# Schedules.


def test_every_rate_gets_the_same_draws_scaled_and_longer_slices_begin_alike() -> None:
    traffic = Traffic({Shape(1, 8): 3, Shape(2, 16): 1}, "two shapes")
    short, long, fast = (arrivals(traffic, rate, count, 3, 1) for rate, count in ((10, 50), (10, 400), (40, 400)))
    assert short == (long[0][:50], long[1][:50])
    assert fast[1] == long[1]
    assert fast[0] == [pytest.approx(ns / 4, abs=1) for ns in long[0]]
    assert arrivals(traffic, 10, 50, 3, 2)[0] != short[0]
    assert arrivals(traffic, 10, 50, 4, 1)[1] != short[1]
    assert long[0][-1] / 1e9 == pytest.approx(40, rel=0.15)
    assert sum(shape == Shape(1, 8) for shape in long[1]) == pytest.approx(300, rel=0.1)


def test_on_the_same_draws_a_higher_rate_never_waits_less() -> None:
    """What the search rests on, where calls last equally long and each request is served by itself."""
    waits = []
    for rate in (300, 500, 700, 900):
        due, _ = arrivals(ONE, rate, 800, 0, 0)
        waits.append(FakeClock().serve(due, lambda first, count: MS).waits_ns)
    for slower, faster in pairwise(waits):
        assert all(one <= other + 800 for one, other in zip(slower, faster, strict=True))  # each gap is rounded to a ns


def test_shapes_that_a_call_can_have() -> None:
    rule, padded = parse_batching("dynamic:6:5ms"), {9: 16, 20: 32}
    shapes = [Shape(1, 9), Shape(2, 20), Shape(8, 9)]
    found = called_shapes(shapes, padded, rule, is_static=True)
    assert found == [[6, 32], [4, 32], [8, 16], [6, 16], [2, 32], [4, 16], [1, 32], [2, 16], [1, 16]]
    assert {rows for rows, _ in called_shapes(shapes, padded, rule, is_static=False)} == {1, 2, 3, 4, 5, 6, 8}
    alone = called_shapes(shapes, {9: 9, 20: 20}, Batching(), is_static=True)
    assert alone == [[8, 9], [2, 20], [1, 9]]
    assert [rule.padded_rows(rows) for rows in (1, 2, 3, 4, 5, 6, 8)] == [1, 2, 4, 4, 6, 6, 8]


@pytest.mark.parametrize("text", ["dynamic", "dynamic:8", "dynamic:0:5ms", "dynamic:8:5", "dynamic:8:60s", "nome", ""])
def test_a_batching_rule_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"--batching .*; write none, or dynamic:MAX_BATCH:MAX_DELAY"):
        parse_batching(text)


# Figures.


def made_of(due: list[list[int]], waits: list[list[int]], latencies: list[list[int]]) -> Slices:
    """Requests that arrive at one in 10 ns."""
    return Slices([Slice(*one) for one in zip(due, waits, latencies, strict=True)], sum(map(len, due)), 1e8)


def served_by(due: list[int], service_ns: int, rate: float = 1.0) -> Slices:
    return Slices([FakeClock().serve(due, lambda first, count: service_ns)], len(due), rate)


def test_figures_of_a_queue_that_is_known() -> None:
    made = made_of([[10, 20, 25, 26], [5]], [[0, 20, 15, 34], [0]], [[30, 40, 35, 54], [10]])
    # Calls: 10-40 (one), 40-60 (two, and one is left waiting), 60-80 (one); 5-15.
    assert (made.calls_ns, made.elapsed_ns) == ([30, 20, 20, 10], 95)
    assert (made.busy_share, made.served_rate) == pytest.approx((80 / 95, 5 / 95e-9))
    assert (made.requests_per_call, made.largest_queue, made.unserved) == (5 / 4, 3, 0)
    # Where requests are joined, a call is full if it leaves some waiting: two in 20 ns, so one in 10 ns is the most.
    assert made.load == pytest.approx(1.0)
    assert (made.keeps_up, made.is_overloaded) == (True, False)
    faster = Slices(made.slices, made.requests, 1.01e8)
    assert (faster.keeps_up, faster.is_overloaded) == (False, True)
    cut = made_of([[0, 1, 2, 3]], [[0, 9]], [[10, 19]])
    assert (cut.unserved, cut.keeps_up, cut.percentile(50), cut.largest_queue) == (2, False, None, 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 90))
def test_the_largest_queue_is_that_of_a_count(gaps: list[int], service: int) -> None:
    due = [*accumulate(gaps)]
    made = served_by(due, service)
    starts = [one + wait for one, wait in zip(due, made.slices[0].waits_ns, strict=True)]
    counted = max(
        sum(one <= at for one in due) - sum(one < at or (one == at and place < own) for place, one in enumerate(starts))
        for own, at in enumerate(starts)
    )
    assert made.largest_queue == counted


def test_an_overload_is_certain_or_seems_so() -> None:
    """Calls of 2 ms are too long for 600 requests a second. Calls that vary as much as their mean may be just too long."""
    due = [round(MS / 0.6) * place for place in range(200)]
    assert served_by(due, 2 * MS, 600).level(Slo(95, 10**12)) == MISSED
    varied = Slices([FakeClock().serve(due, lambda first, _: MS // 20 if first % 2 else 34 * MS // 10)], 200, 600)
    assert (varied.keeps_up, varied.is_overloaded) == (False, False)
    assert varied.level(Slo(95, 10**12)) == UNJUDGED
    assert varied.needed(Slo(95, 10**12)) is None


def test_a_service_level_is_judged_by_what_a_server_at_its_limit_would_show() -> None:
    """Twenty calls a second of 1 ms never queue; so many requests take long, all apart from each other."""
    due = [50 * MS * place for place in range(400)]

    def found(slow: int, count: int = 400) -> str:
        made = FakeClock().serve(
            due[:count], lambda first, _: MS if first % (count // max(slow, 1)) or not slow else 9 * MS
        )
        return Slices([made], count, 20.0).level(Slo(95, 5 * MS))

    # At most 5 % of 400 is 20; 10 or fewer have a probability below 1 % (0.9 %; 11: 1.8 %), 32 or more (0.8 %) too.
    assert [found(slow) for slow in (0, 8, 20, 40, 400)] == [KEPT, KEPT, UNJUDGED, MISSED, MISSED]
    # 90 requests without one that takes longer show as much (0.95 to the 90th power), 80 do not.
    assert [found(0, count) for count in (80, 100)] == [UNJUDGED, KEPT]
