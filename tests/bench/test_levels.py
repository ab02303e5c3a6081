"""Service levels: exact tails of the binomial, what an exact coin shows, and servers exactly at their limit."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.process.levels import KEPT, MISSED, RISK, UNJUDGED, binomial_cdf, inflation_of, judged, requests_needed
from bench.process.queue import Slice
from bench.process.served import Slices
from bench.traffic import RANKS, Slo

MS = 1_000_000
SHARES = [Slo(rank, 1.0).share for rank in RANKS]


def exact(count: int, share: Fraction) -> list[Fraction]:
    """P(X = h) of each number of overruns."""
    return [math.comb(count, h) * share**h * (1 - share) ** (count - h) for h in range(count + 1)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.fractions(Fraction(1, 100), Fraction(99, 100)))
def test_the_tail_is_that_of_exact_fractions(count: int, share: Fraction) -> None:
    for most, wanted in enumerate(accumulate(exact(count, share))):
        assert binomial_cdf(most, count, float(share)) == pytest.approx(float(wanted), rel=1e-9, abs=1e-12)
    assert binomial_cdf(-1, count, float(share)) == 0


@pytest.mark.parametrize("share", SHARES)
def test_the_tail_of_millions_is_smooth_and_whole(share: float) -> None:
    """Near the mean of five million requests; one half is Berry and Esseen's bound, 1e-7 the promise."""
    count = 5_000_000
    mean, deviation = round(count * share), math.sqrt(count * share * (1 - share))
    assert binomial_cdf(mean, count, share) == pytest.approx(0.5, abs=0.56 / deviation / share)
    around = [binomial_cdf(mean + place, count, share) for place in range(-5, 6)]
    assert around == sorted(around)
    for most in (mean - round(3 * deviation), mean, mean + round(3 * deviation)):
        upper = binomial_cdf(count - most - 1, count, 1 - share)
        assert binomial_cdf(most, count, share) + upper == pytest.approx(1, abs=1e-7)
    assert binomial_cdf(mean - round(2.326 * deviation), count, share) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("count", [1, 7, 44, 89, 90, 130, 459])
@pytest.mark.parametrize("rank", RANKS)
def test_an_exact_coin_is_kept_and_missed_in_at_most_one_run_of_a_hundred(count: int, rank: int) -> None:
    """By enumeration of every outcome; and one overrun more would be called so too often."""
    weights = [math.comb(count, h) * (100 - rank) ** h * rank ** (count - h) for h in range(count + 1)]
    outcomes = [judged(overruns, count, Slo(rank, 1.0).share) for overruns in range(count + 1)]
    for outcome, ordered in ((KEPT, outcomes), (MISSED, outcomes[::-1])):
        number = ordered.count(outcome)
        assert ordered[:number] == [outcome] * number
        tail = weights if outcome == KEPT else weights[::-1]
        assert 100 * sum(tail[:number]) <= 100**count <= 100 * sum(tail[: number + 1])


def test_what_counts_for_less_proves_less() -> None:
    """Of ten times as many requests that tell a tenth each: the same, and never more."""
    for overruns in range(0, 1001, 10):
        alone, together = judged(overruns // 10, 100, 0.05), judged(overruns, 1000, 0.05, 10.0)
        assert alone == together
        assert together in (UNJUDGED, judged(overruns, 1000, 0.05))
    assert judged(0, 1000, 0.05, 1001.0) == judged(0, 10**6, 0.05, math.inf) == UNJUDGED


def test_requests_that_are_lacking() -> None:
    """Without any overrun 0.95 to the 90th power is below 1 %; a share that is the level's own is never judged."""
    assert [requests_needed(0, share) for share in SHARES] == [7, 44, 90, 459]
    assert requests_needed(0, 0.05, 4.0) == 360
    assert requests_needed(0.05, 0.05) is None
    assert requests_needed(0.02, 0.05, math.inf) is None
    for found in (0.01, 0.04, 0.06, 0.2):
        needed = requests_needed(found, 0.05, 2.5)
        assert needed is not None
        rounded = math.ceil if found < 0.05 else math.floor
        assert judged(rounded(found * needed), needed, 0.05, 2.5) == (KEPT if found < 0.05 else MISSED)
        assert judged(rounded(found * (needed - 1)), needed - 1, 0.05, 2.5) == UNJUDGED


# Queues.


def served(draw: random.Random, load: float, count: int) -> Slices:
    """M/M/1 with calls of 1 ms on average, from an empty queue."""
    due = [round(at * MS) for at in accumulate(draw.expovariate(load) for _ in range(count))]
    found, free = Slice(due), 0
    for at in due:
        start = max(at, free)
        free = start + round(draw.expovariate(1) * MS)
        found.waits_ns.append(start - at)
        found.latency_ns.append(free - at)
    return Slices([found], count, load * 1e3)


def at_limit(load: float, rank: int) -> Slo:
    """The level that an endless M/M/1 is exactly at: its latencies are exponential with mean 1/(1 - load)."""
    return Slo(rank, -math.log(1 - rank / 100) / (1 - load) * MS)


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_a_queue_tells_as_little_as_its_inflation_says(load: float) -> None:
    """The variance of overruns over 100 batches of 1500 requests, over that of independent requests."""
    slo, draw = at_limit(load, 95), random.Random(3)
    made = served(draw, load, 150_000)
    counts = [sum(ns > slo.limit_ns for ns in made.latencies_ns[at : at + 1500]) for at in range(0, 150_000, 1500)]
    mean = sum(counts) / 100
    found = sum((one - mean) ** 2 for one in counts) / 99 / (1500 * 0.05 * 0.95)
    assert found == pytest.approx(((1 + load) / (1 - load)) ** 2, rel=0.3)
    assert made.load == pytest.approx(load, rel=0.01)
    assert made.inflation() == pytest.approx(((1 + load) / (1 - load)) ** 2, rel=0.05)
    assert made.inflation(2 * made.rate) == (math.inf if load > 0.5 else pytest.approx(inflation_of(0.8, 1.0), rel=0.1))


def test_a_server_exactly_at_its_limit_is_hardly_ever_kept_or_missed() -> None:
    """As independent requests, or by the percentile alone, many of these 200 runs would be."""
    slo, draw = at_limit(0.6, 95), random.Random(5)
    runs = [served(draw, 0.6, 500) for _ in range(200)]
    today = [one.level(slo) for one in runs]
    independent = [judged(one.overruns(slo), 500, slo.share) for one in runs]
    assert max(today.count(KEPT), today.count(MISSED)) <= RISK * 200
    assert min(independent.count(KEPT), independent.count(MISSED)) > 20
    assert 60 < sum(one.seems_kept([slo]) is True for one in runs) < 180
    assert [one.level(Slo(95, 4 * slo.limit_ns)) for one in runs].count(
        KEPT
    ) == 0  # 500 of a load of 0.6 tell too little
    longer = served(draw, 0.6, 20_000)
    assert (longer.level(Slo(95, 1.5 * slo.limit_ns)), longer.level(Slo(95, slo.limit_ns / 1.5))) == (KEPT, MISSED)


def test_requests_of_one_stall_count_as_one() -> None:
    """A stall of 100 ms in 2000 requests at 1 % load delays ten of them, which are one busy period."""
    due = [10 * MS * place for place in range(2000)]
    latency = [MS] * 2000
    for stall in range(0, 2000, 200):
        latency[stall : stall + 10] = [100 * MS - 10 * MS * place for place in range(10)]
    waits = [max(0, ns - MS) for ns in latency]
    together = Slices([Slice(due, waits, latency)], 2000, 100.0)
    apart = Slices([Slice(due, [0] * 2000, [5 * MS if place % 22 == 0 else MS for place in range(2000)])], 2000, 100.0)
    slo = Slo(95, 2 * MS)
    assert together.overruns(slo) == pytest.approx(apart.overruns(slo), abs=10)
    assert together._inflation_for(slo) > 3 * apart._inflation_for(slo)
