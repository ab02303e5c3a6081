"""The largest rate that keeps every service level, by bisection over rates. Pure functions.

What it rests on: whoever keeps the levels at a rate keeps them at every lower one. With common random numbers that
holds on the very same draws where each request is served by itself and calls last equally long (Lindley's recursion:
shorter gaps, longer waits), and as far as the machine's noise allows; where requests are joined, a low rate may wait
for company longer than a middle one. A level that was missed bounds the search even if a higher rate kept it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Rates are tried until the lowest that missed is within this factor of the largest that kept.
RESOLUTION = 1.05
#: Rates of one search at most, those that are tried again included.
MOST_STEPS = 24
#: A rate whose requests would take longer than this to arrive is not tried.
MOST_TRIAL_SECONDS = 600.0


@dataclass(frozen=True)
class Trial:
    """One rate that was served."""

    rate: float
    is_kept: bool
    is_hopeless: bool = False
    """True for a miss that no lower rate would mend."""


@dataclass(frozen=True)
class Found:
    """What a search came to; rates in requests a second."""

    kept: float | None
    """The largest that kept the levels and lies below every one that missed; None where none did."""
    missed: float | None
    """The lowest that did not."""
    trials: int
    is_settled: bool
    """True when the two are within `RESOLUTION`, or no lower rate could help."""


def bracket(trials: Sequence[Trial]) -> Found:
    """What `trials` say of the largest rate so far."""
    missed = min((trial.rate for trial in trials if not trial.is_kept), default=None)
    below = [trial.rate for trial in trials if trial.is_kept and (missed is None or trial.rate < missed)]
    kept = max(below, default=None)
    is_near = kept is not None and missed is not None and missed / kept <= RESOLUTION
    return Found(kept, missed, len(trials), is_near or _is_hopeless(trials))


def _is_hopeless(trials: Sequence[Trial]) -> bool:
    """True when the lowest rate missed for what no lower one would mend."""
    missed = [trial for trial in trials if not trial.is_kept]
    if not missed:
        return False
    lowest = min(missed, key=lambda trial: trial.rate)
    has_kept_below = any(trial.is_kept and trial.rate < lowest.rate for trial in trials)
    return not has_kept_below and lowest.is_hopeless


def next_rate(trials: Sequence[Trial], first: float, requests: int) -> float | None:
    """The rate to try next, each with so many `requests`, or None when the search has ended.

    From `first` doubled or halved until one rate keeps and one misses, then the geometric mean of the two.
    """
    if not trials:
        return first
    found = bracket(trials)
    if found.is_settled:
        return None
    if found.missed is None:
        assert found.kept is not None
        rate = 2 * found.kept
    elif found.kept is None:
        rate = found.missed / 2
    else:
        rate = math.sqrt(found.kept * found.missed)
    return rate if requests / rate <= MOST_TRIAL_SECONDS else None
