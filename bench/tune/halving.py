"""Successive halving: short measurements of many, longer ones of those that are left. Pure functions.

Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization (AISTATS 2016); but
what is near the best stays, whatever its rank, as a short measurement on a noisy machine may err by that much.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Rung:
    """How one round of the search measures, and what goes on from it."""

    seconds_per_cell: float
    rounds: int
    share_kept: float
    """Of those measured, the best such share goes on."""
    least_kept: int
    near: float
    """What takes at most this many times the best one's time goes on as well."""
    most_kept: int
    until: float
    """Share of the budget after which nothing more begins in this rung."""


RUNGS = (
    Rung(0.5, 3, 0.5, 3, 1.3, 12, 0.6),
    Rung(1.5, 7, 0.5, 2, 1.1, 5, 0.8),
)
#: Share of the budget that one export may take; a slower one is given up.
EXPORT_SHARE = 0.25
#: The last rung is a run under the usual rules, and none is dropped.
FINAL_SECONDS_PER_CELL, FINAL_ROUNDS = 5.0, 10
#: How often groups of finalists that differ in threads take turns, as one run has one number of threads.
FINAL_TURNS = 3


def survivors(scores: Mapping[T, float], rung: Rung) -> list[T]:
    """What goes on, best first: the best share, what is near the best, never below or above the rung's numbers."""
    order = sorted(scores, key=lambda one: scores[one])
    count = max(math.ceil(rung.share_kept * len(order)), rung.least_kept)
    near = [one for at, one in enumerate(order) if at < count or scores[one] <= rung.near * scores[order[0]]]
    return near[: rung.most_kept]
