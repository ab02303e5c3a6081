"""Regret and its bound on rounds with known answers."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from statistics import fmean, stdev

import pytest

from bench.regret import Stakes, each_confidence, figure, ratio, regrets, rounds_to_settle
from bench.statistics import student

Series = Sequence[float | None]


def stakes(**rounds: Series) -> Stakes:
    """Candidates in one cell, "c", that is called once."""
    return Stakes({name: {"c": 1.0} for name in rounds}, {"c": rounds})


def noisy(seed: int, centre: float, count: int, width: float = 0.02) -> list[float]:
    draw = random.Random(seed)
    return [centre * math.exp(draw.gauss(0, width)) for _ in range(count)]


def test_a_candidate_alone_has_no_regret() -> None:
    assert regrets(stakes(a=[100.0]))["a"].bound == 0.0


def test_the_bound_of_two_in_one_cell_is_the_paired_students_t() -> None:
    a, b = noisy(1, 104, 6), noisy(2, 100, 6)
    found = regrets(stakes(a=a, b=b))
    parts = [x / fmean(a) - y / fmean(b) for x, y in zip(a, b, strict=True)]
    expected = math.exp(math.log(fmean(a) / fmean(b)) + student(0.9, 5) * stdev(parts) / math.sqrt(6)) - 1
    assert found["a"].expected == pytest.approx(fmean(a) / fmean(b) - 1)
    assert found["a"].bound == pytest.approx(expected)
    assert found["b"].expected == 0.0


def test_what_hits_both_in_a_round_widens_nothing() -> None:
    slow = [1.0, 3.0, 1.5, 0.7]
    found = regrets(stakes(a=[101 * each for each in slow], b=[100 * each for each in slow]))
    assert found["a"].bound == pytest.approx(0.01)


def test_fewer_than_three_rounds_that_count_for_both_bound_nothing() -> None:
    for a, b in (([100.0] * 2, [50.0] * 2), ([100.0, None, 100.0, 100.0], [None, 50.0, 50.0, 50.0]), ([100.0], [])):
        found = regrets(stakes(a=a, b=b))
        assert (found["a"].bound, found["b"].bound) == (math.inf, math.inf)
    assert regrets(stakes(a=[100.0] * 3, b=[50.0] * 3))["b"].bound == 0.0


def test_a_candidate_that_was_not_measured_may_be_the_best() -> None:
    found = regrets(stakes(a=[100.0] * 5, b=[101.0] * 5, c=[None] * 5))
    assert found["a"].expected == 0.0
    assert found["a"].bound == found["c"].bound == found["c"].expected == math.inf


def test_more_candidates_make_every_bound_wider() -> None:
    a, b = noisy(1, 100, 6), noisy(2, 100, 6)
    two = stakes(a=a, b=b)
    twelve = stakes(a=a, b=b, **{f"slow{n}": [1000.0] * 6 for n in range(10)})
    assert each_confidence(two) == pytest.approx(0.95)
    assert each_confidence(twelve) == pytest.approx(1 - 0.05 / 11)
    assert regrets(twelve)["a"].bound > regrets(two)["a"].bound


def test_cells_are_strata_whose_variances_add_up() -> None:
    first, second = noisy(1, 100, 8), noisy(2, 400, 8, 0.01)
    weights: dict[Hashable, dict[Hashable, float]] = {"a": {"x": 3.0, "y": 1.0}, "b": {"x": 3.0, "y": 1.0}}
    shared = Stakes(weights, {"x": {"a": first, "b": [100.0] * 8}, "y": {"a": second, "b": [400.0] * 8}})
    assert figure(shared, "a") == pytest.approx(3 * fmean(first) + fmean(second))
    found = ratio(shared, "b", "a", 0.9)
    assert found is not None
    assert found.interval is not None
    parts = [9 * stdev(first) ** 2 / 8, stdev(second) ** 2 / 8]
    error = math.sqrt(sum(parts)) / figure(shared, "a")
    freedom = sum(parts) ** 2 / sum(part**2 / 7 for part in parts)
    assert math.log(found.value / found.interval.low) == pytest.approx(student(0.9, freedom) * error)
    assert found.value == pytest.approx(700 / figure(shared, "a"))


def test_cells_that_two_do_not_share_make_them_independent() -> None:
    times = noisy(1, 100, 8)
    weights: dict[Hashable, dict[Hashable, float]] = {"a": {"one": 1.0}, "b": {"two": 1.0}}
    apart = regrets(Stakes(weights, {"one": {"a": times}, "two": {"b": times}}))
    assert regrets(stakes(a=times, b=times))["a"].bound == 0.0
    assert apart["a"].expected == 0.0
    assert apart["a"].bound > 0.01


def test_without_traffic_the_figure_is_a_geometric_mean() -> None:
    rounds = {"x": {"a": [100.0] * 4, "b": [200.0] * 4}, "y": {"a": [800.0] * 4, "b": [400.0] * 4}}
    weights: dict[Hashable, dict[Hashable, float]] = {name: {"x": 0.5, "y": 0.5} for name in ("a", "b")}
    geometric = Stakes(weights, rounds, is_geometric=True)
    assert figure(geometric, "a") == pytest.approx(figure(geometric, "b"))
    assert regrets(geometric)["a"].bound == pytest.approx(0, abs=1e-9)
    assert regrets(Stakes(weights, rounds))["a"].bound == pytest.approx(0.5)


def test_a_constant_counts_in_figure_and_regret() -> None:
    both = stakes(a=[100.0] * 4, b=[100.0] * 4)
    with_start = Stakes(both.weights, both.rounds, {"a": 25.0})
    assert figure(with_start, "a") == 125.0
    assert regrets(with_start)["a"].bound == pytest.approx(0.25)


def test_correlated_rounds_widen_the_bound() -> None:
    alone = stakes(a=noisy(1, 100, 6), b=noisy(2, 100, 6))
    correlated = Stakes(alone.weights, alone.rounds, rho=0.25)
    one, other = (ratio(each, "a", "b") for each in (alone, correlated))
    assert one is not None
    assert other is not None
    assert one.interval is not None
    assert other.interval is not None
    wide, narrow = (math.log(each.high / each.low) for each in (other.interval, one.interval))
    assert wide / narrow == pytest.approx(math.sqrt(1.25 / 0.75))


def test_the_rounds_that_settle_it_settle_it() -> None:
    a, b = noisy(2, 100, 5, 0.05), noisy(1, 101, 5, 0.05)
    found = rounds_to_settle(stakes(a=a, b=b), "a", {"c": 1.0})
    assert found is not None
    assert found["c"] > 5, "noise of 5 % needs more than twice the rounds"
    copies = 1 + found["c"] // 5
    assert regrets(stakes(a=a, b=b))["a"].bound > 0.03
    assert regrets(stakes(a=a * (copies + 1), b=b * (copies + 1)))["a"].bound <= 0.03
    assert rounds_to_settle(stakes(a=[100.0] * 3, b=[110.0] * 3), "a", {"c": 1.0}) == {}


def test_the_slower_one_is_never_settled() -> None:
    assert rounds_to_settle(stakes(a=noisy(1, 110, 5), b=noisy(2, 100, 5)), "a", {"c": 1.0}) is None


def test_what_was_not_measured_is_asked_for_first() -> None:
    halves = stakes(a=[100.0, None, 101.0, 99.0], b=[120.0, 121.0, None, 119.0])
    assert rounds_to_settle(halves, "a", {"c": 1.0}) == {"c": 1}
    assert rounds_to_settle(stakes(a=[100.0] * 3, b=[]), "a", {"c": 1.0}) == {"c": 3}
    assert rounds_to_settle(stakes(a=[100.0] * 3, b=[]), "a", {}) is None


def test_rounds_go_where_they_take_most_variance_away_in_a_second() -> None:
    weights: dict[Hashable, dict[Hashable, float]] = {name: {"noisy": 1.0, "quiet": 1.0} for name in ("a", "b")}
    loud, calm = [90.0, 110.0, 95.0, 105.0, 100.0], [100.0, 100.2, 99.8, 100.1, 99.9]
    rounds = {"noisy": {"a": loud, "b": [104.0] * 5}, "quiet": {"a": calm, "b": [100.0] * 5}}
    found = rounds_to_settle(Stakes(weights, rounds), "a", {"noisy": 1.0, "quiet": 1.0}, limit=0.0)
    assert found is not None
    assert set(found) == {"noisy"}
    rounds["quiet"] = {"a": loud, "b": [100.0] * 5}
    cheap = rounds_to_settle(Stakes(weights, rounds), "a", {"noisy": 1.0, "quiet": 25.0}, limit=0.0)
    assert cheap is not None
    assert cheap["noisy"] > 2 * cheap.get("quiet", 0)
