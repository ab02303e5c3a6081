"""Statistics on data with known answers, and properties that hold for any."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import statistics
from bench.statistics import (
    Interval,
    correlation,
    drift,
    holm,
    is_stable,
    median,
    median_interval,
    outliers,
    percentile,
    precision,
    quartiles,
    ratio_interval,
    ratio_of_runs,
    ratio_within_rounds,
    spread,
    student,
    verdict,
    widening,
)

positive = st.integers(min_value=1, max_value=10**12)
rounds_of_samples = st.lists(st.lists(positive, min_size=1, max_size=5), min_size=1, max_size=20)


def noisy(seed: int, rounds: int, centre: float = 1e6, width: float = 0.03, per_round: int = 3) -> list[list[float]]:
    """Log-normal samples around `centre`, in rounds."""
    draw = random.Random(seed)
    return [[centre * math.exp(draw.gauss(0, width)) for _ in range(per_round)] for _ in range(rounds)]


def test_quartiles_and_spread_of_known_samples() -> None:
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)
    assert quartiles([1, 2, 3, 4]) == (1.75, 2.5, 3.25)
    assert quartiles([7]) == (7, 7, 7)
    assert spread([8, 9, 10, 11, 12]) == pytest.approx(0.2)
    for of_nothing in (quartiles, median):
        with pytest.raises(ValueError, match="no samples"):
            of_nothing([])


@pytest.mark.parametrize(("rank", "needed"), [(90, 64), (95, 130), (99, 662)])
def test_a_percentile_needs_its_samples(rank: int, needed: int) -> None:
    samples = list(range(1, needed + 1))
    assert percentile(samples[:-1], rank) is None
    found = percentile(samples, rank)
    assert found == pytest.approx(1 + rank / 100 * (needed - 1))


def test_outliers_are_named_by_where_they_are_and_how_far() -> None:
    # Quartiles 10 and 12, so the fences stand at 7 and 15 (mild), 4 and 18 (severe).
    samples = [10, 10, 10, 11, 11, 12, 12, 12, 16, 30, 6, 1]
    q1, _, q3 = quartiles(samples)
    assert (q1, q3) == (9.5 + 0.5, 12)
    assert [(found.index, found.kind) for found in outliers(samples)] == [
        (8, "high mild"), (9, "high severe"), (10, "low mild"), (11, "low severe"),
    ]  # fmt: skip
    assert outliers([1, 2, 1000]) == []
    assert outliers([5] * 20) == []


@given(st.lists(positive, min_size=1, max_size=50))
def test_quartiles_are_ordered_and_outliers_lie_outside_of_them(samples: list[int]) -> None:
    q1, q2, q3 = quartiles(samples)
    assert min(samples) <= q1 <= q2 <= q3 <= max(samples)
    assert q2 == median(samples)
    for found in outliers(samples):
        assert samples[found.index] == found.value
        assert found.value < q1 or found.value > q3
    assert len(outliers(samples)) <= len(samples) / 2


# Intervals.


@pytest.mark.parametrize(
    ("medians", "low", "high"),
    [
        # 10 values: the 2nd and the 9th hold the median at 1 - 2·11/1024 = 97.9 %; the 3rd and 8th only at 89 %.
        (range(1, 11), 2, 9),
        # 6 values: only the outermost do, at 96.9 %.
        ((3, 1, 2, 6, 5, 4), 1, 6),
        # Few rounds get the wide interval of Student.
        ((100, 110), math.sqrt(11000) * 1.1**-6.353, math.sqrt(11000) * 1.1**6.353),
        # Constant rounds have one of no width, and bimodal ones span both modes.
        ((7,) * 4, 7, 7),
        ((10.0, 20.0) * 6, 10, 20),
    ],
)
def test_the_interval_of_a_median_is_that_of_order_statistics(medians: Any, low: float, high: float) -> None:
    rounds = [[value] for value in medians]
    assert median_interval(rounds) == Interval(pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))
    assert precision(rounds) == pytest.approx((high - low) / 2 / median(list(medians)), rel=1e-3)


def test_what_has_no_interval() -> None:
    assert median_interval([[5]]) is None
    assert median_interval([]) is None
    assert ratio_interval([2.0] * 10) == Interval(2, 2)
    assert ratio_interval([float(one) for one in range(1, 13)], 0.99) == Interval(2.0, 11.0)  # its ends left out


@given(rounds_of_samples)
def test_the_interval_of_a_median_holds_it_and_lies_within_the_samples_from_six_rounds_on(
    rounds: list[list[int]],
) -> None:
    interval, samples = median_interval(rounds), statistics.pooled(rounds)
    if len(rounds) < 2:
        assert interval is None
        return
    assert interval is not None
    assert median(samples) in interval
    if len(rounds) >= 6:
        assert min(samples) <= interval.low
        assert interval.high <= max(samples)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=20), st.floats(0.01, 100))
def test_the_interval_of_a_ratio_holds_it_repeats_itself_and_by_ranks_scales(
    ratios: list[float], factor: float
) -> None:
    interval, scaled = ratio_interval(ratios), ratio_interval([ratio * factor for ratio in ratios])
    assert interval is not None
    assert scaled is not None
    assert median(ratios) in interval
    assert interval == ratio_interval(ratios)
    if len(ratios) >= 8:
        assert (scaled.low, scaled.high) == (interval.low * factor, interval.high * factor)
        assert interval.low in ratios


@pytest.mark.parametrize("count", [3, 5, 7, 8, 10, 20])
def test_the_interval_of_a_ratio_holds_the_truth_as_often_as_it_says(count: int) -> None:
    """200 draws with a known centre: at 99 % confidence two misses are expected, and six are less likely than 2 %."""
    draw = random.Random(count)
    misses = sum(1.0 not in ratio_interval([math.exp(draw.gauss(0, 0.03)) for _ in range(count)]) for _ in range(200))  # type: ignore[operator]
    assert misses <= 6


# Joint levels, and correlation between rounds.


@pytest.mark.parametrize(
    ("confidence", "freedom", "expected"),
    [(0.99, 1, 63.657), (0.95, 2, 4.303), (0.95, 30, 2.042), (0.999, 9, 4.781), (0.95, math.inf, 1.960)],
)
def test_students_t_is_that_of_the_tables(confidence: float, freedom: float, expected: float) -> None:
    assert student(confidence, freedom) == pytest.approx(expected, abs=6e-4)


def test_students_t_falls_between_whole_degrees_of_freedom() -> None:
    assert student(0.99, 3) < student(0.99, 2.5) < student(0.99, 2)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (None, "undecided"),
        (Interval(1.0, 1.0), "same"),
        (Interval(0.975, 1.029), "same"),
        (Interval(1.015, 1.025), "same"),  # no more than 3 %, however sure
        (Interval(1.02, 1.04), "faster"),
        (Interval(1.009, 1.04), "undecided"),
        (Interval(0.8, 0.98), "slower"),
        (Interval(0.8, 0.995), "undecided"),
        (Interval(0.8, 1.2), "undecided"),
    ],
)
def test_an_interval_says_one_of_four_verdicts(interval: Interval | None, expected: str) -> None:
    assert verdict(interval) == expected


def test_those_that_are_decided_make_room_for_the_rest() -> None:
    sure, near, far = (lambda level, most=most: level <= most for most in (1.0, 0.9959, 0.98))
    assert holm([]) == []
    assert holm([sure]) == [pytest.approx(0.99)]
    # All three at 1 - 0.01/3 first; the sure one leaves, and the near one is decided among two.
    assert holm([far, near, sure]) == [pytest.approx(level) for level in (0.99, 0.995, 1 - 0.01 / 3)]
    assert holm([far, far]) == [pytest.approx(0.995)] * 2


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("count", [4, 12])
def test_the_correlation_of_many_series_is_found(rho: float, count: int) -> None:
    draw = random.Random(count)
    series: list[list[float | None]] = []
    for _ in range(800):
        one: list[float] = [draw.gauss(0, 1)]
        for _ in range(count - 1):
            one.append(rho * one[-1] + math.sqrt(1 - rho**2) * draw.gauss(0, 1))
        series.append([*one[:2], None, *one[3:]] if count > 4 else [*one])
    assert correlation(series) == pytest.approx(rho, abs=0.06)


def test_few_rounds_are_taken_to_be_correlated_as_usual() -> None:
    assert correlation([]) == correlation([[0.1, 0.2]]) == correlation([[0.1] * 9]) == 0.2
    assert 0 <= correlation([[0.1, 0.3, 0.2]]) <= 0.4


def test_intervals_are_widened_for_correlated_rounds() -> None:
    assert (widening(0), widening(-0.3)) == (1, 1)
    assert widening(0.25) == pytest.approx(math.sqrt(1.25 / 0.75))
    assert widening(1.0) < 5
    for count in (4, 12):
        ratios = [math.exp(random.Random(count).gauss(0, 0.03)) for _ in range(count)]
        plain, wide = ratio_interval(ratios), ratio_interval(ratios, widening=1.5)
        assert plain is not None
        assert wide is not None
        middle = median(ratios)
        assert math.log(wide.high / middle) == pytest.approx(1.5 * math.log(plain.high / middle))
        assert math.log(wide.low / middle) == pytest.approx(1.5 * math.log(plain.low / middle))


# Ratios and verdicts.


def test_a_drift_between_rounds_cancels_in_the_ratio() -> None:
    baseline = [[100, 102], [200, 204], [400, 408]]
    other = [[50, 51], [100, 102], [200, 204]]
    ratio = ratio_within_rounds(baseline, other)
    assert ratio is not None
    assert (ratio.value, ratio.verdict, ratio.rounds) == (2.0, "faster", 3)
    assert ratio.interval == Interval(pytest.approx(2), pytest.approx(2))


def test_rounds_that_one_lacks_are_left_out() -> None:
    ratio = ratio_within_rounds([[10], [20]], [[5]])
    assert ratio is not None
    assert (ratio.value, ratio.interval, ratio.verdict) == (2.0, None, "tie")
    assert ratio_within_rounds([], [[5]]) is None
    assert ratio_within_rounds([[10]], [[]]) is None


@given(rounds_of_samples)
def test_a_run_against_itself_is_a_tie_of_ratio_one(rounds: list[list[int]]) -> None:
    for ratio in (ratio_within_rounds(rounds, rounds), ratio_of_runs(rounds, rounds)):
        if ratio is not None:
            assert ratio.value == 1.0
            assert ratio.verdict == "tie"


@given(rounds_of_samples, st.floats(1.05, 50))
def test_a_constant_factor_is_found_whatever_the_rounds(rounds: list[list[int]], factor: float) -> None:
    slower = [[sample * factor for sample in round_] for round_ in rounds]
    ratio, inverse = ratio_within_rounds(slower, rounds), ratio_within_rounds(rounds, slower)
    assert ratio is not None
    assert inverse is not None
    assert ratio.value == pytest.approx(factor)
    if len(rounds) > 1:
        assert (ratio.verdict, inverse.verdict) == ("faster", "slower")


def test_verdicts_of_planted_differences() -> None:
    base, sure = noisy(1, 10), [[1000]] * 20
    stalled = [[sample * 100 for sample in round_] if place == 3 else round_ for place, round_ in enumerate(base)]
    for baseline, other, expected in (
        (base, noisy(2, 10), "tie"),
        (base, noisy(2, 10, centre=0.85e6), "faster"),
        (base, noisy(2, 10, centre=1.2e6), "slower"),
        (sure, [[995]] * 20, "tie"),  # below the margin, however sure
        (sure, [[950]] * 20, "faster"),
        (stalled, noisy(2, 10), "tie"),  # one stalled round makes no verdict
    ):
        found = ratio_within_rounds(baseline, other)
        assert found is not None
        assert found.verdict == expected
        assert 0.8 < found.value < 1.25


def test_runs_apart_are_told_from_each_other_by_their_own_intervals() -> None:
    assert ratio_of_runs(noisy(1, 20), noisy(2, 20)).verdict == "tie"  # type: ignore[union-attr]
    assert ratio_of_runs(noisy(1, 20), noisy(2, 20, centre=0.8e6)).verdict == "faster"  # type: ignore[union-attr]
    assert ratio_of_runs([[1]], noisy(1, 5)) is None


# Change over time.


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([100, 101, 100, 102], True),
        ([100, 100], False),  # too short to show anything
        ([200, 180, 100, 100], False),  # still becoming faster
        ([100, 100, 180, 200], False),  # becoming slower
        ([100, 150, 90, 140, 95, 160, 92, 130], True),  # noise without a trend
        ([1000 - 50 * step for step in range(16)], False),
        *(([7] * count, True) for count in (4, 5, 30)),
    ],
)
def test_a_warm_up_is_stable_when_its_halves_are_alike(durations: list[float], expected: bool) -> None:
    assert is_stable(durations) is expected


def test_a_planted_drift_is_found_with_its_size() -> None:
    rounds = [[100 * (1 + 0.02 * index)] for index in range(10)]
    found = drift(rounds)
    assert found == pytest.approx(0.18 / 1.09, rel=1e-6)
    assert drift(list(reversed(rounds))) == pytest.approx(-found)


def test_noise_and_constants_do_not_drift() -> None:
    assert drift([[100]] * 10) is None
    assert drift([[100], [120], [80]]) is None  # too few to tell
    falsely = sum(drift(noisy(seed, 10)) is not None for seed in range(300))
    assert falsely <= 9  # 1 % of 300, and what chance adds
    rounds = noisy(3, 12)
    rounds[-1] = [sample * 50 for sample in rounds[-1]]
    assert drift(rounds) is None  # outliers make none
