"""The search for the largest rate, and the tests on fresh draws that its range comes from."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bench.process.levels import KEPT, MISSED, UNJUDGED
from bench.process.queue import Slice
from bench.process.served import Slices
from bench.run.search import (
    DISTANCES,
    MOST_REQUESTS,
    RESOLUTION,
    Evidence,
    Trial,
    Tried,
    bracket,
    evidence_of,
    line,
    next_rate,
    requests_to_test,
    shown,
)
from bench.spec import Shape
from bench.traffic import Slo, arrivals, even

MS = 1_000_000
SLO = Slo(95, 20 * MS)


def searched(keeps: Callable[[float], bool], first: float, **marks: Any) -> list[Trial]:
    trials: list[Trial] = []
    while (rate := next_rate(trials, first, 200)) is not None:
        trials.append(Trial(rate, keeps(rate), **marks))
        assert len(trials) < 40
    return trials


@pytest.mark.parametrize("largest", [3.0, 40.0, 41.0, 777.0])
def test_bisection_brackets_the_largest_rate(largest: float) -> None:
    trials = searched(lambda rate: rate <= largest, 40.0)
    found = bracket(trials)
    assert found.is_settled
    assert found.kept is not None and found.missed is not None
    assert found.kept <= largest < found.missed <= found.kept * RESOLUTION
    assert len(trials) <= 11


def test_a_search_ends_where_no_rate_helps_or_none_could_be_awaited() -> None:
    hopeless = searched(lambda rate: False, 40.0, is_hopeless=True)
    assert hopeless == [Trial(40.0, False, True)]
    assert (bracket(hopeless).kept, bracket(hopeless).is_settled) == (None, True)
    slow = searched(lambda rate: False, 40.0)
    assert min(trial.rate for trial in slow) >= 200 / 600
    assert not bracket(slow).is_settled
    # A rate that missed bounds the search though a higher one kept.
    found = bracket([Trial(10, True), Trial(40, True), Trial(20, False)])
    assert (found.kept, found.missed) == (10, 20)


# Tests.

ENDED = (Trial(100.0, True), Trial(102.0, False))


def after_tests(judge: Callable[[float], str], trials: tuple[Trial, ...] = ENDED, most: float = math.inf) -> Evidence:
    """All the tests of a search that has ended, none of them above the rate `most`."""
    found: dict[float, str] = {}
    while test := Evidence(trials, found).next_test(lambda rate, is_above: None if rate > most else 500):
        assert test[0] not in found
        found[test[0]] = judge(test[0])
    return Evidence(trials, found)


def test_rates_around_the_found_one_are_tested_until_one_is_judged_on_each_side() -> None:
    centre = math.sqrt(100 * 102)
    found = after_tests(lambda rate: KEPT if rate < 85 else MISSED if rate > 120 else UNJUDGED)
    assert [*found.tested] == pytest.approx([centre / 1.1, centre / 1.25, centre * 1.1, centre * 1.25])
    assert (found.kept, found.missed) == pytest.approx((centre / 1.25, centre * 1.25))
    assert found.is_decided
    assert shown(found) == "80.8–126.2/s"
    assert line(found, "p95 20 ms") == "80.8/s keeps p95 20 ms, 126.2/s misses it (6 rates tried)"


def test_a_test_that_contradicts_the_search_moves_the_range() -> None:
    """The search was lucky: its rate misses, and so does one below it. What is not below a miss is not kept."""
    found = after_tests(lambda rate: KEPT if rate < 60 else MISSED)
    assert found.missed == pytest.approx(math.sqrt(100 * 102) / 1.5)
    assert found.kept == pytest.approx(math.sqrt(100 * 102) / 2)
    assert len(found.tested) == 4
    assert Evidence(ENDED, {90.0: MISSED, 110.0: KEPT}).kept is None


def test_a_range_that_is_open_says_so() -> None:
    found = after_tests(lambda rate: KEPT, most=100)
    assert found.kept == pytest.approx(100.995 / 1.1)
    assert (found.missed, found.is_decided) == (None, False)
    assert shown(found) == "≥ 91.81/s"
    assert "no higher rate was judged missed" in line(found, "p95 20 ms")
    nothing = after_tests(lambda rate: UNJUDGED)
    assert len(nothing.tested) == 2 * len(DISTANCES)
    assert (shown(nothing), nothing.is_decided) == ("not judged", False)
    assert "the search ended at 100/s and 102/s, which its own samples do not prove" in line(nothing, "p95 20 ms")
    above = Evidence(ENDED, {120.0: MISSED})
    assert shown(above) == "< 120/s"
    assert line(above, "p95 20 ms").startswith(
        "120/s misses p95 20 ms, no lower rate was judged kept; the search ended"
    )


def test_a_level_that_calls_alone_miss_is_missed_at_every_rate() -> None:
    """Only a miss that was judged says that there is no rate; what the search saw is tested where it saw it."""
    trials = (Trial(40.0, False, True),)
    found = after_tests(lambda rate: MISSED, trials)
    assert [*found.tested] == [40.0]
    assert (found.is_hopeless, found.is_decided, shown(found)) == (True, True, "none")
    assert line(found, "p95 1 µs").startswith("no rate keeps p95 1 µs: calls that no request waits for miss it already")
    assert not after_tests(lambda rate: UNJUDGED, trials).is_decided


# What is tried.


def served(rate: float, service_ns: int, count: int = 400) -> Slices:
    """Poisson arrivals, each request served alone in as long."""
    found, free = Slice(arrivals(even([Shape(1, 8)]), rate, count, 0, 0)[0]), 0
    for at in found.due_ns:
        start = max(at, free)
        free = start + service_ns
        found.waits_ns.append(start - at)
        found.latency_ns.append(free - at)
    return Slices([found], count, rate)


def test_what_a_search_picked_is_a_trial_and_the_rest_is_judged() -> None:
    slow, fast = served(100, 9 * MS), served(10, MS)
    found = evidence_of([Tried(fast), Tried(slow, is_evidence=False)], [SLO])
    assert found.trials == [Trial(10, True, True), Trial(100, False)]
    assert found.tested == {10: KEPT}
    assert evidence_of([Tried(slow, is_trial=False)], [SLO]).trials == []
    missed = Tried(served(100, 30 * MS))
    assert missed.outcome([SLO]) == MISSED
    assert missed.outcome([SLO, Slo(50, 10**12)]) == MISSED
    assert Tried(fast).outcome([SLO, Slo(99, MS * 2)]) == UNJUDGED


def test_a_miss_beside_other_work_proves_nothing() -> None:
    """A search tries its rate once more, and goes by it then; a test stays unjudged. What is kept is kept all the same."""
    slow = Tried(served(100, 30 * MS), is_evidence=False, is_disturbed=True)
    assert evidence_of([slow], [SLO]).trials == []
    assert [one.is_kept for one in evidence_of([slow, slow], [SLO]).trials] == [False]
    assert Tried(served(100, 30 * MS), is_disturbed=True).outcome([SLO]) == UNJUDGED
    assert Tried(served(10, MS), is_disturbed=True).outcome([SLO]) == KEPT


def test_a_test_has_the_requests_that_its_load_needs() -> None:
    """Calls of 1 ms: at 500/s requests tell as much as one in five, and a third of the overruns is judged by 259."""
    tried = [Tried(served(400, MS)), Tried(served(10, MS))]

    def requests(rate: float, is_above: bool = False, seconds: float = 0.1) -> int | None:
        return requests_to_test(tried, [SLO], rate, is_above, 200, seconds)

    assert [requests(10.0), requests(500.0)] == [pytest.approx(259, rel=0.1), pytest.approx(259 * 5, rel=0.05)]
    assert requests(990.0) is None
    assert requests(1100.0, is_above=True) == 200  # more than can be served: soon seen
    assert requests(10.0, seconds=60.0) == 600
    assert requests(0.4) is None  # 259 would take longer than ten minutes
    assert requests(500.0, seconds=1e9) == MOST_REQUESTS


def test_ranges_of_searches_hold_the_largest_rate() -> None:
    """M/M/1 with calls of 1 ms at a level that it keeps up to 600/s. By the searches' own samples few would."""
    draw = random.Random(2)
    slo = Slo(95, -math.log(0.05) / 0.4 * MS)

    def queued(source: random.Random, rate: float, count: int) -> Slices:
        at, free, found = 0.0, 0, Slice([])
        due: list[int] = []
        for _ in range(count):
            at += source.expovariate(rate) * 1e9
            start = max(round(at), free)
            free = start + round(source.expovariate(1) * MS)
            due.append(round(at))
            found.waits_ns.append(start - due[-1])
            found.latency_ns.append(free - due[-1])
        found.due_ns = due
        return Slices([found], count, rate)

    inside = narrow = 0
    for _ in range(5):
        common, tried = draw.random(), list[Tried]()
        while (evidence := evidence_of(tried, [slo])) is not None:
            if (rate := next_rate(evidence.trials, 200.0, 260)) is not None:
                tried.append(Tried(queued(random.Random(common), rate, 260), is_evidence=not tried))
                continue
            test = evidence.next_test(partial(requests_to_test, tried, [slo], least=260, seconds=2.0))
            if test is None:
                break
            tried.append(Tried(queued(draw, *test), is_trial=False))
        seems = bracket(evidence.trials)
        narrow += seems.kept is not None and seems.missed is not None and seems.kept <= 600 < seems.missed
        inside += (evidence.kept or 0) <= 600 < (evidence.missed or math.inf)
        assert evidence.kept is not None or evidence.missed is not None
    assert (inside, narrow <= 2) == (5, True)
