"""Statistics over samples: pure functions, no state, no numpy (the parent process stays light)."""

from __future__ import annotations

import statistics as _stdlib
from collections.abc import Sequence


def median(samples: Sequence[float]) -> float:
    """Middle value; mean of the two middle ones where the count is even. Raises ValueError on no samples."""
    if not samples:
        raise ValueError("the median of no samples is undefined")
    return float(_stdlib.median(samples))


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile by linear interpolation (Hyndman and Fan's type 7)."""
    if not samples:
        raise ValueError("the quartiles of no samples are undefined")
    if len(samples) == 1:
        return float(samples[0]), float(samples[0]), float(samples[0])
    q1, q2, q3 = _stdlib.quantiles(samples, n=4, method="inclusive")
    return q1, q2, q3


def round_ratios(baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """Median of `baseline` over median of `other`, round by round; rounds that either lacks are left out."""
    return [median(b) / median(o) for b, o in zip(baseline, other, strict=False) if b and o and median(o) > 0]


def ratio_within_rounds(baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float | None:
    """How many times faster `other` is than `baseline`: the median of the rounds' ratios; None without rounds.

    A drift of the machine that is slow against a round hits both alike and cancels. A stall of one turn
    does not; `disagreement` shows it.
    """
    ratios = round_ratios(baseline, other)
    return median(ratios) if ratios else None


def disagreement(baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float | None:
    """Largest of the rounds' ratios over their smallest: 1 where all rounds agree; None without rounds."""
    ratios = round_ratios(baseline, other)
    return max(ratios) / min(ratios) if ratios else None


def spread(samples: Sequence[float]) -> float:
    """Interquartile range as a share of the median."""
    q1, q2, q3 = quartiles(samples)
    return (q3 - q1) / q2


def is_tie(baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    """True unless every round agrees on which of the two is faster."""
    ratios = round_ratios(baseline, other)
    return not ratios or not (all(ratio > 1 for ratio in ratios) or all(ratio < 1 for ratio in ratios))
