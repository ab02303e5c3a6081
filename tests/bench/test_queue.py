"""A queue before one server against theory on a fake clock; arrivals, service levels and the search for a rate."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.process import serving
from bench.process.queue import (
    KEPT,
    MISSED,
    UNJUDGED,
    Batching,
    Slice,
    Slices,
    called_shapes,
    next_step,
    parse_batching,
    serve,
)
from bench.run.search import RESOLUTION, Trial, bracket, next_rate
from bench.spec import Shape
from bench.traffic import Slo, Traffic, arrivals, parse_slo

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


@pytest.mark.parametrize(("services", "factor"), [("deterministic", 0.5), ("exponential", 1.0)])
def test_mean_waits_are_those_of_pollaczek_and_khinchine(services: str, factor: float) -> None:
    """Mean wait = factor · ρ / (1 - ρ) of a service time: M/D/1 and M/M/1, at ρ = 0.7, within 4 % for 60,000 requests."""
    load, count = 0.7, 60_000
    draw = random.Random(7)
    durations = [MS if services == "deterministic" else round(draw.expovariate(1) * MS) for _ in range(count)]
    due = arrivals(ONE, load * 1e9 / MS, count, seed=5, slice_=0)[0]
    served = FakeClock().serve(due, lambda first, _: durations[first])
    mean_ms = sum(served.waits_ns) / count / MS
    assert mean_ms == pytest.approx(factor * load / (1 - load), rel=0.04)


def test_littles_law_holds_for_what_was_served() -> None:
    """The mean number in the system, from a sweep of arrivals and departures, is rate times mean latency."""
    due = arrivals(ONE, 800, 5000, seed=1, slice_=0)[0]
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
    return Slices([Slice(*one) for one in zip(due, waits, latencies, strict=True)], sum(map(len, due)))


def served_by(due: list[int], service_ns: int) -> Slices:
    return Slices([FakeClock().serve(due, lambda first, count: service_ns)], len(due))


def test_figures_of_a_queue_that_is_known() -> None:
    made = made_of([[10, 20, 25, 26], [5]], [[0, 20, 15, 34], [0]], [[30, 40, 35, 54], [10]])
    # Calls: 10-40 (one), 40-60 (two), 60-80 (one); 5-15. They take 80 ns for what came within 31.
    assert (made.calls_ns, made.elapsed_ns, made.keeps_up) == ([30, 20, 20, 10], 95, False)
    assert (made.busy_share, made.served_rate) == pytest.approx((80 / 95, 5 / 95e-9))
    assert (made.requests_per_call, made.largest_queue, made.unserved) == (5 / 4, 3, 0)
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


def test_a_service_level_needs_its_samples_a_percentile_within_it_and_a_queue_that_ends() -> None:
    p95, p99 = parse_slo("p95=20ms,p99=20ms")
    due = [100 * MS * place for place in range(1, 201)]
    made = served_by(due, 5 * MS)
    assert (made.level(p95), made.level(p99)) == (KEPT, UNJUDGED)
    assert made.outcome((p95, p99)) == UNJUDGED
    assert made.level(Slo(95, 4 * MS)) == MISSED
    assert made.outcome((Slo(95, 4 * MS), p99)) == MISSED
    few = served_by(due[:129], 5 * MS)
    assert (few.level(p95), few.percentile(95)) == (UNJUDGED, None)
    assert served_by([MS * place for place in range(200)], 2 * MS).level(Slo(95, 10**12)) == MISSED


# Searches.


def searched(keeps: Callable[[float], bool], first: float, **marks: Any) -> list[Trial]:
    trials: list[Trial] = []
    while (rate := next_rate(trials, first, 200)) is not None:
        trials.append(Trial(rate, keeps(rate), **marks))
        assert len(trials) < 40
    return trials


@pytest.mark.parametrize("largest", [3.0, 40.0, 41.0, 777.0])
def test_bisection_brackets_the_largest_rate(largest: float) -> None:
    found = bracket(searched(lambda rate: rate <= largest, 40.0))
    assert found.is_settled
    assert found.kept is not None and found.missed is not None
    assert found.kept <= largest < found.missed <= found.kept * RESOLUTION
    assert found.trials <= 11


def test_a_search_ends_where_no_rate_helps_or_none_could_be_awaited() -> None:
    hopeless = searched(lambda rate: False, 40.0, is_hopeless=True)
    assert bracket(hopeless) == bracket([Trial(40.0, False, True)])
    assert (len(hopeless), bracket(hopeless).kept, bracket(hopeless).is_settled) == (1, None, True)
    slow = searched(lambda rate: False, 40.0)
    assert min(trial.rate for trial in slow) >= 200 / 600
    assert not bracket(slow).is_settled
    # A rate that missed bounds the search though a higher one kept.
    found = bracket([Trial(10, True), Trial(40, True), Trial(20, False)])
    assert (found.kept, found.missed) == (10, 20)
