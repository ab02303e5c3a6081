"""What taking a candidate costs at most: bounds of its time over the best one's, from rounds. Pure functions.

The figure of a candidate is the time of one unit of work: the sum over cells of calls times the mean over rounds of
the round's time. Without traffic it is the geometric mean over cells. Two candidates are compared in the cells of
both by the rounds that count for both, as what disturbed a round disturbed both; a cell that only one of them needs
adds its own variance. Cells are strata: their variances add up, and the degrees of freedom are those of Welch (1947,
Biometrika 34, 28-35) and Satterthwaite (1946, Biometrics Bulletin 2, 110-114). The interval stands on the logarithm
of the quotient, by the delta method: beside Fieller's (1954, JRSS B 16, 175-185) it never has an open end.

Rounds need not be normal. A candidate that has two speeds may have shown one of them alone: n rounds of one cell do so
with probability 2**-n, and their spread says nothing of it. As long as that is more than the level allows, the bound is
at least `UNSEEN` above the figure. Bursts widen the interval until they have been averaged out: they cost rounds.
"""

from __future__ import annotations

import math
import statistics as _stdlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.statistics import UNSEEN, Interval, Ratio, freedom, student, widening

#: Anything hashable.
Candidate = Any
#: What was timed in turns, round by round: a point, with its run where there are several, and with the candidate
#: where it was timed apart. So candidates that no cell holds together are compared as independent.
Cell = Any
Rounds = Mapping[Cell, Mapping[Candidate, Sequence[float | None]]]

#: A candidate may be taken if its time is known to exceed the best one's by at most this share.
MOST_REGRET = 0.03
#: Level of the bound, for all candidates together.
CONFIDENCE = 0.95
#: Rounds that must count for two candidates in a cell before anything is said of the two.
LEAST_ROUNDS = 3
#: Relative variance of a round of a cell whose rounds were all alike, by which extra rounds are shared out.
_LEAST_VARIANCE = 1e-12
#: Extra rounds of one cell beyond which a decision is not to be had by measuring on.
MOST_ROUNDS = 10_000


@dataclass(frozen=True)
class Stakes:
    """What candidates are weighed by."""

    weights: Mapping[Candidate, Mapping[Cell, float]]
    """Calls of each cell in a unit of work, by candidate; a geometric mean's weights add up to 1."""
    rounds: Rounds
    """Nanoseconds (the median of a round's samples), by the round's place; None if the round does not count."""
    constants: Mapping[Candidate, float] = field(default_factory=dict)
    """Nanoseconds that a unit of work takes beside its calls, known without error, by candidate."""
    is_geometric: bool = False
    """True if the figure is the weighted mean of logarithms, as nothing says how often each cell is called."""
    rho: float = 0.0
    """Correlation between neighbouring rounds (`statistics.correlation`)."""


@dataclass(frozen=True)
class Regret:
    """A candidate's time over the best one's, less one."""

    expected: float
    bound: float
    """Upper 95 % bound, for all candidates together; infinite if it is not known."""


@dataclass(frozen=True)
class Part:
    """What one cell adds to a contrast."""

    variance: float
    """Of one round's contribution."""
    count: int
    """Rounds."""
    share: float
    """Of the time of whichever spends more of it there."""


@dataclass(frozen=True)
class Contrast:
    """Logarithm of one candidate's figure over another's."""

    log: float
    """Infinite if a cell of either has no round that counts."""
    parts: Mapping[Cell, Part]

    def error(self, rho: float = 0.0) -> tuple[float, float]:
        """Standard error of `log`, widened for correlation, and its degrees of freedom."""
        variances = [(part.variance / part.count, freedom(part.count, rho)) for part in self.parts.values()]
        total = sum(variance for variance, _ in variances)
        squares = sum(variance**2 / free for variance, free in variances if variance)
        return widening(rho) * math.sqrt(total), total**2 / squares if squares else math.inf

    @property
    def effective_rounds(self) -> float:
        """Rounds of one cell that would say as much of an unseen speed as these of all cells (Kish 1965, 11.7)."""
        return 1 / sum(part.share**2 / part.count for part in self.parts.values())

    def half(self, confidence: float, rho: float = 0.0) -> float:
        """Half-width of the two-sided interval of `log`; infinite with too few rounds in any cell.

        At least `UNSEEN` while all rounds may have missed a second speed.
        """
        if any(part.count < LEAST_ROUNDS for part in self.parts.values()):
            return math.inf
        error, free = self.error(rho)
        found = error and error * student(confidence, free)
        return found if 2**-self.effective_rounds <= (1 - confidence) / 2 + 1e-12 else max(found, math.log1p(UNSEEN))

    def bound(self, confidence: float, rho: float = 0.0) -> float:
        """Upper bound of `log` at a one-sided `confidence`; infinite with too few rounds in any cell."""
        return self.log + self.half(2 * confidence - 1, rho)


def regrets(stakes: Stakes, confidence: float = CONFIDENCE) -> dict[Candidate, Regret]:
    """Expected regret and its upper bound of every candidate.

    Whoever is the best, each of the k - 1 others is held against it at 1 - (1 - `confidence`) / (k - 1), so that all
    bounds hold together (Bonferroni); as the best is not known, a candidate's bound is the largest against any.
    """
    level = each_confidence(stakes, confidence)
    found = {}
    for one in stakes.weights:
        against = [contrast(stakes, one, other) for other in stakes.weights if other != one]
        known = [each.log for each in against if each.log < math.inf]
        expected = max(known, default=math.inf if against else 0.0)
        bound = max((each.bound(level, stakes.rho) for each in against), default=0.0)
        found[one] = Regret(_share(expected), _share(max(expected, bound)))
    return found


def each_confidence(stakes: Stakes, confidence: float = CONFIDENCE) -> float:
    """One-sided confidence of each comparison, by which those with the best hold together."""
    return 1 - (1 - confidence) / max(1, len(stakes.weights) - 1)


def _share(log: float) -> float:
    return max(0.0, math.expm1(min(log, 700.0))) if log < math.inf else math.inf


def figure(stakes: Stakes, candidate: Candidate) -> float:
    """Nanoseconds of one unit of work, by the mean of the rounds that count for `candidate`; infinite if a cell has
    none.
    """
    weights = stakes.weights[candidate]
    times = {cell: _own(stakes, cell, candidate) for cell in weights}
    if not all(times.values()):
        return math.inf
    return _figure(stakes, candidate, times)


def _figure(stakes: Stakes, candidate: Candidate, times: Mapping[Cell, Sequence[float]]) -> float:
    weights = stakes.weights[candidate]
    if stakes.is_geometric:
        total = sum(weights.values())
        mean = math.fsum(weights[cell] / total * _stdlib.fmean(map(math.log, times[cell])) for cell in weights)
        return math.exp(mean) + stakes.constants.get(candidate, 0.0)
    of_cells = math.fsum(weights[cell] * _stdlib.fmean(times[cell]) for cell in weights)
    return of_cells + stakes.constants.get(candidate, 0.0)


def _own(stakes: Stakes, cell: Cell, candidate: Candidate) -> list[float]:
    """Rounds of a cell that count for one candidate."""
    return [time for time in stakes.rounds.get(cell, {}).get(candidate, ()) if time is not None]


def contrast(stakes: Stakes, one: Candidate, other: Candidate) -> Contrast:
    """`one`'s figure over `other`'s: by cells of both within rounds, and by those of either alone."""
    mine, its = stakes.weights[one], stakes.weights[other]
    times: tuple[dict[Cell, list[float]], dict[Cell, list[float]]] = ({}, {})
    for cell in dict.fromkeys((*mine, *its)):
        if cell in mine and cell in its:
            of_both = [stakes.rounds.get(cell, {}).get(each, ()) for each in (one, other)]
            pairs = [(a, b) for a, b in zip(*of_both, strict=False) if a is not None and b is not None]
            times[0][cell], times[1][cell] = [a for a, _ in pairs], [b for _, b in pairs]
        else:
            times[cell not in mine][cell] = _own(stakes, cell, one if cell in mine else other)
    if not all(times[0].values()) or not all(times[1].values()):
        return Contrast(math.inf, {cell: Part(0.0, len(of), 1.0) for each in times for cell, of in each.items()})
    figures = [_figure(stakes, each, of) for each, of in zip((one, other), times, strict=True)]
    contributions = [_contributions(stakes, *each) for each in zip((one, other), figures, times, strict=True)]
    parts = {}
    for cell in dict.fromkeys((*mine, *its)):
        own, against = (each.get(cell) for each in contributions)
        if own is None or against is None:
            values = own or against or []
        else:
            values = [a - b for a, b in zip(own, against, strict=True)]
        variance = _stdlib.variance(values) if len(values) > 1 else 0.0
        share = max(_cell_share(stakes, *each, cell) for each in zip((one, other), figures, times, strict=True))
        parts[cell] = Part(variance, len(values), share)
    return Contrast(math.log(figures[0] / figures[1]), parts)


def _cell_share(
    stakes: Stakes, candidate: Candidate, total: float, times: Mapping[Cell, Sequence[float]], cell: Cell
) -> float:
    weights = stakes.weights[candidate]
    if cell not in times:
        return 0.0
    if stakes.is_geometric:
        return weights[cell] / sum(weights.values())
    return weights[cell] * _stdlib.fmean(times[cell]) / total


def _contributions(
    stakes: Stakes, candidate: Candidate, total: float, times: Mapping[Cell, Sequence[float]]
) -> dict[Cell, list[float]]:
    """What each round adds to the logarithm of the figure `total`, to first order, by cell."""
    weights = stakes.weights[candidate]
    if not stakes.is_geometric:
        return {cell: [weights[cell] * time / total for time in of] for cell, of in times.items()}
    share = (total - stakes.constants.get(candidate, 0.0)) / total / sum(weights.values())
    return {cell: [weights[cell] * share * math.log(time) for time in of] for cell, of in times.items()}


def ratio(stakes: Stakes, one: Candidate, other: Candidate, confidence: float = CONFIDENCE) -> Ratio | None:
    """How many times faster `other` is than `one`, with the two-sided interval at `confidence`; None if not known."""
    found = contrast(stakes, one, other)
    if found.log == math.inf:
        return None
    half = found.half(confidence, stakes.rho)
    ends = None if half == math.inf else [math.exp(min(max(found.log + way * half, -700), 700)) for way in (-1, 1)]
    interval = Interval(*ends) if ends else None
    return Ratio(math.exp(found.log), interval, min(part.count for part in found.parts.values()), confidence)


# What would settle it.


def rounds_to_settle(
    stakes: Stakes,
    candidate: Candidate,
    seconds: Mapping[Cell, float],
    limit: float = MOST_REGRET,
    confidence: float = CONFIDENCE,
) -> dict[Cell, int] | None:
    """Extra rounds of each cell after which `candidate`'s bound is expected within `limit`, at the least cost.

    `seconds` is what one more round of a cell takes. Rounds go, a few at a time, to the cell that takes most variance
    away in a second from the comparison that is furthest off. Empty if the bound is within `limit` already; None if
    more rounds would not bring it there: another is expected to be more than `limit` faster, or one with a cell that
    is not in `seconds` was not measured. A cell that has fewer than `LEAST_ROUNDS` gets those first, at the variance
    of the others.
    """
    level, goal = each_confidence(stakes, confidence), math.log1p(limit)
    against = [contrast(stakes, candidate, other) for other in stakes.weights if other != candidate]
    if all(each.bound(level, stakes.rho) <= goal for each in against):
        return {}
    extra = dict.fromkeys((cell for cell in seconds if any(cell in each.parts for each in against)), 0)
    for cell in extra:
        counts = [each.parts[cell].count for each in against if cell in each.parts]
        extra[cell] = max(0, LEAST_ROUNDS - min(counts))
    known = [each for each in against if each.log < math.inf]
    if any(each.log >= goal for each in known):
        return None
    lacking = (cell for each in against for cell, part in each.parts.items() if part.count < LEAST_ROUNDS)
    if any(cell not in seconds for cell in lacking):
        return None
    filled = [_filled(each) for each in known]
    while True:
        ahead = [(_expected(each, extra).bound(level, stakes.rho), each) for each in filled]
        far, worst = max(ahead, key=lambda one: one[0], default=(goal, None))
        if far <= goal or worst is None:
            return {cell: count for cell, count in extra.items() if count}
        gains = {
            cell: _gain(part.variance or _LEAST_VARIANCE * part.share**2, part.count + extra[cell]) / seconds[cell]
            for cell, part in worst.parts.items()
            if cell in extra
        }
        best = max(gains, key=lambda cell: gains[cell], default=None)
        if best is None or extra[best] > MOST_ROUNDS:
            return None
        extra[best] += max(1, (worst.parts[best].count + extra[best]) // 100)


def _gain(variance: float, count: int) -> float:
    """Variance of the mean that one more round than `count` takes away."""
    return variance / count - variance / (count + 1)


def _filled(found: Contrast) -> Contrast:
    """With the mean variance of the other cells, where a cell has too few rounds to have its own."""
    known = [part.variance for part in found.parts.values() if part.count >= LEAST_ROUNDS]
    usual = _stdlib.fmean(known) if known else 0.0
    cells = {
        cell: part if part.count >= LEAST_ROUNDS else replace(part, variance=max(part.variance, usual))
        for cell, part in found.parts.items()
    }
    return replace(found, parts=cells)


def _expected(found: Contrast, extra: Mapping[Cell, int]) -> Contrast:
    """With `extra` more rounds of the same variance."""
    cells = {cell: replace(part, count=part.count + extra.get(cell, 0)) for cell, part in found.parts.items()}
    return replace(found, parts=cells)
