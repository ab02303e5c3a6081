"""What taking a candidate costs at most: bounds of its time over the best one's, from rounds. Pure functions.

The figure of a candidate is the time of one unit of work: the sum over cells of calls times the mean over rounds of
the round's time. Without traffic it is the geometric mean over cells. Two candidates are compared in the cells of
both by the rounds that count for both, as what disturbed a round disturbed both; a cell that only one of them needs
adds its own variance. Cells are strata: their variances add up, and the degrees of freedom are those of Welch (1947,
Biometrika 34, 28-35) and Satterthwaite (1946, Biometrics Bulletin 2, 110-114). The interval stands on the logarithm
of the quotient, by the delta method: beside Fieller's (1954, JRSS B 16, 175-185) it never has an open end.
"""

from __future__ import annotations

import math
import statistics as _stdlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.statistics import Interval, Ratio, student, widening

Candidate = Hashable
#: What was timed in turns, round by round: a point, with its run where there are several, and with the candidate
#: where it was timed apart. So candidates that no cell holds together are compared as independent.
Cell = Hashable
Rounds = Mapping[Cell, Mapping[Candidate, Sequence[float | None]]]

#: A candidate may be taken if its time is known to exceed the best one's by at most this share.
MOST_REGRET = 0.03
#: Level of the bound, for all candidates together.
CONFIDENCE = 0.95
#: Rounds that must count for two candidates in a cell before anything is said of the two.
LEAST_ROUNDS = 3
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
class Contrast:
    """Logarithm of one candidate's figure over another's."""

    log: float
    """Infinite if a cell of either has no round that counts."""
    variances: Mapping[Cell, tuple[float, int]]
    """Variance of one round's contribution, and how many rounds there are, by cell."""

    def error(self, rho: float = 0.0) -> tuple[float, float]:
        """Standard error of `log`, widened for correlation, and its degrees of freedom."""
        parts = [(variance / count, count - 1) for variance, count in self.variances.values()]
        total = sum(part for part, _ in parts)
        squares = sum(part**2 / freedom for part, freedom in parts if part)
        return widening(rho) * math.sqrt(total), total**2 / squares if squares else math.inf

    def bound(self, confidence: float, rho: float = 0.0) -> float:
        """Upper bound of `log` at a one-sided `confidence`; infinite with too few rounds in any cell."""
        if any(count < LEAST_ROUNDS for _, count in self.variances.values()):
            return math.inf
        error, freedom = self.error(rho)
        return self.log + (error and error * student(2 * confidence - 1, freedom))


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
        return Contrast(math.inf, {cell: (0.0, len(of)) for each in times for cell, of in each.items()})
    figures = [_figure(stakes, each, of) for each, of in zip((one, other), times, strict=True)]
    contributions = [_contributions(stakes, *each) for each in zip((one, other), figures, times, strict=True)]
    variances = {}
    for cell in dict.fromkeys((*mine, *its)):
        own, against = (each.get(cell) for each in contributions)
        if own is None or against is None:
            values = own or against or []
        else:
            values = [a - b for a, b in zip(own, against, strict=True)]
        variances[cell] = (_stdlib.variance(values) if len(values) > 1 else 0.0, len(values))
    return Contrast(math.log(figures[0] / figures[1]), variances)


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
    half = found.bound((1 + confidence) / 2, stakes.rho) - found.log
    ends = None if half == math.inf else [math.exp(min(max(found.log + way * half, -700), 700)) for way in (-1, 1)]
    interval = Interval(*ends) if ends else None
    return Ratio(math.exp(found.log), interval, min(count for _, count in found.variances.values()), confidence)


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
    extra = dict.fromkeys((cell for cell in seconds if any(cell in each.variances for each in against)), 0)
    for cell in extra:
        counts = [each.variances[cell][1] for each in against if cell in each.variances]
        extra[cell] = max(0, LEAST_ROUNDS - min(counts))
    known = [each for each in against if each.log < math.inf]
    if any(each.log >= goal for each in known):
        return None
    if any(cell not in seconds for each in against for cell, (_, count) in each.variances.items() if count < 3):
        return None
    filled = [_filled(each) for each in known]
    while True:
        ahead = [(_expected(each, extra).bound(level, stakes.rho), each) for each in filled]
        far, worst = max(ahead, key=lambda one: one[0], default=(goal, None))
        if far <= goal or worst is None:
            return {cell: count for cell, count in extra.items() if count}
        gains = {
            cell: (_step_gain(*worst.variances[cell], extra[cell]) / seconds[cell])
            for cell in extra
            if worst.variances.get(cell, (0.0, 0))[0] > 0
        }
        best = max(gains, key=lambda cell: gains[cell], default=None)
        if best is None or extra[best] > MOST_ROUNDS:
            return None
        extra[best] += _step(worst.variances[best][1] + extra[best])


def _step(count: int) -> int:
    """Rounds that are added at a time: one, and of many a hundredth."""
    return max(1, count // 100)


def _step_gain(variance: float, count: int, extra: int) -> float:
    have = count + extra
    return variance / have - variance / (have + 1)


def _filled(found: Contrast) -> Contrast:
    """With the mean variance of the other cells, where a cell has too few rounds to have its own."""
    known = [variance for variance, count in found.variances.values() if count >= LEAST_ROUNDS]
    usual = _stdlib.fmean(known) if known else 0.0
    cells = {
        cell: (variance if count >= LEAST_ROUNDS else max(variance, usual), count)
        for cell, (variance, count) in found.variances.items()
    }
    return replace(found, variances=cells)


def _expected(found: Contrast, extra: Mapping[Cell, int]) -> Contrast:
    """With `extra` more rounds of the same variance."""
    cells = {cell: (variance, count + extra.get(cell, 0)) for cell, (variance, count) in found.variances.items()}
    return replace(found, variances=cells)
