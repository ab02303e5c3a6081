"""All calls of a workload as one distribution: its percentiles, and how many calls those rest on. Pure functions."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from operator import itemgetter

from bench.choose.grid import Place
from bench.run.record import Record
from bench.spec import Shape

#: Quantiles that stand for a cell's calls: the middles of steps of 2 % up to 90 %, and of 0.1 % in the tail, where
#: service levels lie; each weighs as much as its step is wide.
_EDGES = [index / 50 for index in range(45)] + [0.9 + index / 1000 for index in range(101)]
STEPS = [((low + high) / 2, high - low) for low, high in pairwise(_EDGES)]


class Mixture:
    """The distribution of `calls` (shape, weight, place), each cell's taken from its samples.

    Between cells a distribution is interpolated as the time is: quantile by quantile. With `is_bounded` a sample that
    is the mean of several calls stands for calls that each took all of its time: none of them can have taken longer.
    """

    def __init__(
        self,
        calls: Sequence[tuple[Shape, float, Place]],
        records: Mapping[Shape, Record],
        is_bounded: bool = False,
    ) -> None:
        self.calls = calls
        self.records = records
        cells = {cell for _, _, place in calls for cell, _ in place.cells}
        factors = {cell: records[cell].once.calls_per_sample if is_bounded else 1 for cell in cells}
        self.ordered = {cell: sorted(sample * factors[cell] for sample in records[cell].samples) for cell in cells}

    @cached_property
    def _points(self) -> tuple[list[float], list[float]]:
        """Values in order, and the share of all calls up to the middle of each."""
        steps = {cell: [_quantile(samples, at) for at, _ in STEPS] for cell, samples in self.ordered.items()}
        found: list[tuple[float, float]] = []
        for _, weight, place in self.calls:
            columns = [(share, steps[cell]) for cell, share in place.cells]
            for index, (_, width) in enumerate(STEPS):
                found.append((math.fsum(share * column[index] for share, column in columns), weight * width))
        found.sort(key=itemgetter(0))
        total = math.fsum(weight for _, weight in found)
        shares, passed = [], 0.0
        for _, weight in found:
            shares.append((passed + weight / 2) / total)
            passed += weight
        return [value for value, _ in found], shares

    def percentile_ns(self, rank: float) -> float:
        """The `rank`-th percentile of all calls, in nanoseconds, linear between neighbouring points."""
        values, shares = self._points
        above = bisect_left(shares, rank / 100)
        if above == 0:
            return values[0]
        if above == len(shares):
            return values[-1]
        below = above - 1
        part = (rank / 100 - shares[below]) / (shares[above] - shares[below])
        return values[below] + part * (values[above] - values[below])

    def effective_samples(self, rank: float) -> int:
        """Single calls that the `rank`-th percentile rests on, as if they had all been drawn from the mixture.

        The lower of Kish's size, (Σw)²/Σ(w²/n) (Survey Sampling, 1965, 11.7), and of p(1-p)/Σ(w²·F(1-F)/n), from the
        variance of the share of calls below the percentile, each cell's share F being estimated from its own n calls.
        The second is the lower one where a percentile lies within one rare cell. F is kept off 0 and 1, which n calls
        cannot show.
        """
        value, p = self.percentile_ns(rank), rank / 100
        weights: dict[Shape, float] = {}
        for _, weight, place in self.calls:
            for cell, share in place.cells:
                weights[cell] = weights.get(cell, 0.0) + weight * share
        total = math.fsum(weights.values())
        kish = tail = 0.0
        for cell, weight in weights.items():
            count = len(self.ordered[cell]) * self.records[cell].once.calls_per_sample
            below = _share_below(self.ordered[cell], value)
            below = min(max(below, 1 / (count + 2)), (count + 1) / (count + 2))
            kish += (weight / total) ** 2 / count
            tail += (weight / total) ** 2 * below * (1 - below) / count
        return math.floor(min(1 / kish, p * (1 - p) / tail if len(weights) > 1 else 1 / kish) + 1e-9)


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _share_below(ordered: Sequence[float], value: float) -> float:
    """The inverse of `_quantile`: the share of a cell's calls that lie below `value`."""
    above = bisect_left(ordered, value)
    if above == 0:
        return 0.0
    if above == len(ordered):
        return 1.0
    below = above - 1
    part = (value - ordered[below]) / (ordered[above] - ordered[below])
    return (below + part) / (len(ordered) - 1)
