"""Variances of a few rounds each, held together: how much those of one run have in common, by empirical Bayes.

Three rounds say next to nothing of their own variance, and a page has many such cells. If the variances of a run's
comparisons are alike, as they come from one machine, each is drawn towards what they have in common, and has more
degrees of freedom; if they are not, little is (G. K. Smyth, Linear models and empirical Bayes methods for assessing
differential expression in microarray experiments, Statistical Applications in Genetics and Molecular Biology 3, 2004,
sections 4 and 6.2). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from bench.student import freedom

#: Variances of one run that must be known before anything is said of what they have in common.
LEAST = 4


@dataclass(frozen=True)
class Prior:
    """What the variances of one run have in common."""

    variance: float
    freedom: float
    """Degrees of freedom that it is worth; 0 if they have nothing in common."""

    def moderate(self, own: float, freedom: float) -> tuple[float, float]:
        """Variance and degrees of freedom of one of them, whose `own` estimate has `freedom`."""
        total = self.freedom + freedom
        return (self.freedom * self.variance + freedom * own) / total, total


#: Nothing in common.
NONE = Prior(0.0, 0.0)


def prior(variances: Sequence[tuple[float, float]]) -> Prior:
    """What `variances`, each with its degrees of freedom, have in common: Smyth's fit of a scaled F distribution.

    As few of them hardly show that they differ, the prior is worth at most the mean degrees of freedom times one less
    than their number. Those of 0 (rounds that were all alike) are left out.
    """
    known = [(own, free) for own, free in variances if own > 0]
    if len(known) < LEAST:
        return NONE
    logs = [math.log(own) - digamma(free / 2) + math.log(free / 2) for own, free in known]
    centre, most = fmean(logs), (len(known) - 1) * fmean(free for _, free in known)
    left = variance(logs, centre) - fmean(trigamma(free / 2) for _, free in known)
    worth = most if left <= 0 else min(most, 2 * _inverse_trigamma(left))
    return Prior(math.exp(centre + digamma(worth / 2) - math.log(worth / 2)), worth)


def prior_of(series: Iterable[Sequence[float | None]], rho: float = 0.0) -> Prior:
    """What the variances of one run's log ratios have in common; each series is one comparison's, by round, None for a
    round that does not count.
    """
    known = ([value for value in one if value is not None] for one in series)
    return prior([(variance(one), freedom(len(one), rho)) for one in known if len(one) > 2])


def digamma(x: float) -> float:
    """Derivative of the logarithm of the gamma function, for x > 0 (Abramowitz and Stegun 6.3.5, 6.3.18)."""
    found = 0.0
    while x < 10:
        found -= 1 / x
        x += 1
    square = 1 / x**2
    return found + math.log(x) - 1 / (2 * x) - square * (1 / 12 - square * (1 / 120 - square / 252))


def trigamma(x: float) -> float:
    """Derivative of `digamma`, for x > 0 (Abramowitz and Stegun 6.4.6, 6.4.12)."""
    found = 0.0
    while x < 10:
        found += 1 / x**2
        x += 1
    square = 1 / x**2
    return found + 1 / x + square / 2 + square / x * (1 / 6 - square * (1 / 30 - square / 42))


def _inverse_trigamma(value: float) -> float:
    """The x > 0 whose trigamma is `value`, by bisection of its logarithm: trigamma falls."""
    low, high = math.log(1e-9), math.log(1e9)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if trigamma(math.exp(middle)) > value else (low, middle)
    return math.exp(low)
