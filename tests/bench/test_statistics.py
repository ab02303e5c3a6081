"""Statistics on data with known answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.statistics import disagreement, is_tie, median, quartiles, ratio_within_rounds, spread

positive = st.integers(min_value=1, max_value=10**12)


def test_quartiles_of_known_samples() -> None:
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)
    assert quartiles([1, 2, 3, 4]) == (1.75, 2.5, 3.25)
    assert quartiles([7]) == (7, 7, 7)
    with pytest.raises(ValueError, match="no samples"):
        quartiles([])
    with pytest.raises(ValueError, match="no samples"):
        median([])


@given(st.lists(positive, min_size=1, max_size=50))
def test_quartiles_are_ordered_and_within_the_samples(samples: list[int]) -> None:
    q1, q2, q3 = quartiles(samples)
    assert min(samples) <= q1 <= q2 <= q3 <= max(samples)
    assert q2 == median(samples)


def test_a_drift_between_rounds_cancels_in_the_ratio() -> None:
    baseline = [[100, 102], [200, 204], [400, 408]]
    other = [[50, 51], [100, 102], [200, 204]]
    assert ratio_within_rounds(baseline, other) == pytest.approx(2.0)
    assert median([s for r in baseline for s in r]) / median([s for r in other for s in r]) == pytest.approx(2.0)
    shuffled = [[50, 51], [400, 408], [100, 102]]
    assert ratio_within_rounds(baseline, shuffled) == pytest.approx(2.0)


def test_rounds_that_one_lacks_are_left_out() -> None:
    assert ratio_within_rounds([[10], [20]], [[5]]) == 2.0
    assert ratio_within_rounds([], [[5]]) is None
    assert ratio_within_rounds([[10]], [[]]) is None


@given(st.lists(st.lists(positive, min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_run_against_itself_is_a_tie_of_ratio_one(rounds: list[list[int]]) -> None:
    assert ratio_within_rounds(rounds, rounds) == 1.0
    assert is_tie(rounds, rounds)


def test_disagreement_and_spread_of_known_samples() -> None:
    assert disagreement([[10], [10], [40]], [[5], [10], [10]]) == 4.0
    assert disagreement([[10]], [[5]]) == 1.0
    assert disagreement([], []) is None
    assert spread([8, 9, 10, 11, 12]) == pytest.approx(0.2)


def test_a_tie_is_where_the_rounds_disagree() -> None:
    assert not is_tie([[10], [10], [10]], [[9], [8], [9]])
    assert not is_tie([[9], [8], [9]], [[10], [10], [10]])
    assert is_tie([[10], [10], [10]], [[9], [11], [9]])
    assert is_tie([], [])
