"""Outcomes of a claim, drawn from whole intervals: if a threshold lies within one, the runs do not decide."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.statistics import Interval, Ratio

CONFIRMED, REFUTED = "confirmed", "refuted"
UNDECIDED = "not decided by these runs"
NOT_TESTED = "not tested"
OUTCOMES = (CONFIRMED, REFUTED, UNDECIDED, NOT_TESTED)
#: A figure that a claim gives as "about", or that somebody read off another machine, holds within this factor.
ABOUT = 1.25


@dataclass(frozen=True)
class Finding:
    """What became of a claim."""

    outcome: str
    """One of `OUTCOMES`."""
    evidence: tuple[str, ...] = ()
    """The figures that decide it, one line each."""
    note: str = ""
    """What a reader must know beside them, e.g. that the card is another one."""


def not_tested(*evidence: str) -> Finding:
    """Nothing that was given can say."""
    return Finding(NOT_TESTED, evidence)


def judged(interval: Interval | None, holds: Mapping[str, Any]) -> str:
    """The outcome of an interval that must lie `inside` or `outside` two ends, `above` one, or `about` a figure.

    Confirmed if all of it lies there, refuted if none of it does.
    """
    match holds:
        case {"about": value}:
            return judged(interval, {"inside": (value / ABOUT, value * ABOUT)})
        case {"above": limit}:
            return judged(interval, {"outside": (-math.inf, limit)})
        case {"outside": ends}:
            found = judged(interval, {"inside": ends})
            return {CONFIRMED: REFUTED, REFUTED: CONFIRMED}.get(found, found)
    low, high = holds["inside"]
    if interval is None:
        return UNDECIDED
    if low <= interval.low and interval.high <= high:
        return CONFIRMED
    return REFUTED if interval.high < low or interval.low > high else UNDECIDED


def every(outcomes: Iterable[str]) -> str:
    """Refuted if one is, else not decided if one is not, else confirmed; not tested if there is none."""
    found = set(outcomes)
    return next((outcome for outcome in (REFUTED, UNDECIDED, CONFIRMED) if outcome in found), NOT_TESTED)


def factor(ratio: Ratio | None) -> str:
    """`1.23× (1.10–1.40)`."""
    return "an unknown multiple of" if ratio is None else f"{shown(ratio.value)}×{span(ratio.interval)}"


def span(interval: Interval | None, scale: float = 1.0) -> str:
    """` (1.10–1.40)`, or a word that there is none."""
    if interval is None:
        return " (no interval)"
    return f" ({shown(interval.low * scale)}–{shown(interval.high * scale)})"


def shown(value: float) -> str:
    """Three significant digits, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"
