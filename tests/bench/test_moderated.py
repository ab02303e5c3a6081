"""Variances of few rounds held together: the functions, the fit on draws whose truth is known, and what it does."""

from __future__ import annotations

import math
import random
from statistics import fmean, variance

import pytest

from bench import statistics
from bench.moderated import LEAST, NONE, Prior, digamma, prior, prior_of, trigamma

EULER = 0.5772156649015329


def test_digamma_and_trigamma_are_those_of_the_tables() -> None:
    assert digamma(1) == pytest.approx(-EULER, abs=1e-9)
    assert digamma(0.5) == pytest.approx(-EULER - 2 * math.log(2), abs=1e-9)
    assert trigamma(1) == pytest.approx(math.pi**2 / 6, abs=1e-9)
    assert trigamma(0.5) == pytest.approx(math.pi**2 / 2, abs=1e-9)
    for x in (0.3, 2.5, 40.0):
        assert digamma(x + 1) == pytest.approx(digamma(x) + 1 / x, rel=1e-9)
        assert trigamma(x + 1) == pytest.approx(trigamma(x) - 1 / x**2, rel=1e-9)


def drawn(seed: int, cells: int, worth: float, rounds: int = 4) -> list[tuple[float, float]]:
    """Sample variances with their freedom; each cell's own is 0.01 times `worth` over a chi-square of `worth`."""
    draw, found = random.Random(seed), []
    for _ in range(cells):
        own = 0.01 * (worth / draw.gammavariate(worth / 2, 2) if worth < math.inf else 1.0)
        found.append((variance([draw.gauss(0, math.sqrt(own)) for _ in range(rounds)]), rounds - 1.0))
    return found


@pytest.mark.parametrize("worth", [4.0, 10.0])
def test_the_fit_finds_what_variances_have_in_common(worth: float) -> None:
    found = [prior(drawn(seed, 2000, worth)) for seed in range(3)]
    assert fmean(one.freedom for one in found) == pytest.approx(worth, rel=0.25)
    assert fmean(one.variance for one in found) == pytest.approx(0.01, rel=0.1)


def test_alike_ones_are_worth_much_and_unlike_ones_little() -> None:
    alike, unlike = prior(drawn(0, 12, math.inf)), prior([(0.01 * 10 ** (4 * n / 11), 3.0) for n in range(12)])
    assert alike.freedom > 10 > 2 > unlike.freedom
    assert prior(drawn(0, 6, math.inf)).freedom <= 5 * 3.0


def test_too_few_and_rounds_that_were_all_alike_say_nothing() -> None:
    assert prior(drawn(0, LEAST - 1, math.inf)) == NONE
    assert prior([(0.0, 3.0)] * 10) == NONE
    assert NONE.moderate(0.3, 2.0) == (0.3, 2.0)
    assert Prior(0.1, 6.0).moderate(0.3, 2.0) == (pytest.approx(0.15), 8.0)
    assert prior_of([[0.1, None, 0.2], [0.1, 0.2], []]) == NONE


def test_three_rounds_say_more_beside_others_that_are_as_noisy() -> None:
    """An interval at the level of a page; a cell that is noisier than the others is not taken for one of them."""
    draw = random.Random(1)
    cells = [[draw.gauss(0.3, 0.03) for _ in range(3)] for _ in range(10)]
    common = prior_of(cells)
    ratios = [math.exp(log) for log in cells[0]]
    alone, beside = (statistics.ratio_interval(ratios, 0.999, 1.0, each) for each in (NONE, common))
    assert alone is not None and beside is not None
    assert beside.low / beside.high > (alone.low / alone.high) ** 0.3
    assert statistics.verdict(alone) == "undecided" and statistics.verdict(beside) == "faster"
    noisy = [math.exp(log) for log in (-0.3, 0.3, 0.9)]
    wide = statistics.ratio_interval(noisy, 0.999, 1.0, common)
    assert wide is not None and statistics.verdict(wide) == "undecided"
