"""What traffic asks of one runtime in one run: its calls, the cells that they rest on, and what those say together.

Percentiles are those of all calls as one distribution, each cell's taken from its samples. Pure functions.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from operator import itemgetter

from bench.grid import Place
from bench.run.deciding import mean_ns
from bench.run.record import Record
from bench.spec import Shape

#: Quantiles that stand for a cell's calls: the middles of steps of 2 % up to 90 %, and of 0.1 % in the tail, where
#: service levels lie; each weighs as much as its step is wide.
_EDGES = [index / 50 for index in range(45)] + [0.9 + index / 1000 for index in range(101)]
STEPS = [((low + high) / 2, high - low) for low, high in pairwise(_EDGES)]


@dataclass(frozen=True)
class Demand:
    """Calls by shape, and where each shape's time is read off the grid."""

    calls: tuple[tuple[Shape, float, Place], ...]
    """Shape, calls of it for one unit of work (a request, or a sequence), and its place."""
    measured: Mapping[Shape, Record]
    """What was measured of the runtime, asked for or not."""

    @cached_property
    def cells(self) -> dict[Shape, float]:
        """Shapes of the grid with their weights: the time of one unit of work is the sum of their times by these."""
        found: dict[Shape, float] = {}
        for _, calls, place in self.calls:
            for shape, share in place.cells.items():
                found[shape] = found.get(shape, 0.0) + calls * share
        return found

    @property
    def missing(self) -> list[Shape]:
        """Cells that were not measured."""
        return [shape for shape in self.cells if shape not in self.measured]

    @cached_property
    def records(self) -> dict[Shape, Record]:
        """Of the cells; empty if one of them was not measured."""
        return {} if self.missing else {shape: self.measured[shape] for shape in self.cells}

    @cached_property
    def all_calls(self) -> float:
        """Calls for one unit of work."""
        return math.fsum(calls for _, calls, _ in self.calls)

    def share_of(self, basis: str) -> float:
        """Share of the calls whose time is known in that way."""
        return math.fsum(calls for _, calls, place in self.calls if place.basis == basis) / self.all_calls

    @cached_property
    def time_ns(self) -> float:
        """Nanoseconds that one unit of work takes, from the means of the cells' rounds."""
        return math.fsum(self.cells[at] * mean_ns(record) for at, record in self.records.items())

    @property
    def are_single_calls(self) -> bool:
        """True if every sample is one call, so that there are percentiles of calls."""
        return all(record.once.calls_per_sample == 1 for record in self.records.values())


class Mixture:
    """The distribution of all calls of a demand that was measured.

    Between cells a distribution is interpolated as the time is: quantile by quantile. With `is_bounded` a sample that
    is the mean of several calls stands for calls that each took all of its time: none of them can have taken longer.
    """

    def __init__(self, demand: Demand, is_bounded: bool = False) -> None:
        self.demand = demand
        self.ordered: dict[Shape, tuple[list[float], list[float]]] = {}
        for cell, record in demand.records.items():
            factor = record.once.calls_per_sample if is_bounded else 1
            samples = sorted(float(sample * factor) for sample in record.samples) * (
                2 if len(record.samples) < 2 else 1
            )
            self.ordered[cell] = samples, [index / (len(samples) - 1) for index in range(len(samples))]

    @cached_property
    def _points(self) -> tuple[list[float], list[float]]:
        """Values in order, and the share of all calls up to the middle of each."""
        steps = {
            cell: [_interpolated(at, shares, samples) for at, _ in STEPS]
            for cell, (samples, shares) in self.ordered.items()
        }
        found: list[tuple[float, float]] = []
        for _, weight, place in self.demand.calls:
            columns = [(share, steps[cell]) for cell, share in place.cells.items()]
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
        return _interpolated(rank / 100, shares, values)

    def effective_samples(self, rank: float) -> int:
        """Single calls that the `rank`-th percentile rests on, as if they had all been drawn from the mixture.

        The lower of Kish's size, (Σw)²/Σ(w²/n) (Survey Sampling, 1965, 11.7), and of p(1-p)/Σ(w²·F(1-F)/n), where F is
        a cell's share of calls below the percentile, kept off 0 and 1: it is lower if that lies within one rare cell.
        """
        value, p = self.percentile_ns(rank), rank / 100
        cells = self.demand.cells
        total = math.fsum(cells.values())
        kish = tail = 0.0
        for cell, record in self.demand.records.items():
            count = len(record.samples) * record.once.calls_per_sample
            below = _interpolated(value, *self.ordered[cell])
            below = min(max(below, 1 / (count + 2)), (count + 1) / (count + 2))
            kish += (cells[cell] / total) ** 2 / count
            tail += (cells[cell] / total) ** 2 * below * (1 - below) / count
        return math.floor(min(1 / kish, p * (1 - p) / tail if len(cells) > 1 else 1 / kish) + 1e-9)


def _interpolated(at: float, known: Sequence[float], values: Sequence[float]) -> float:
    """The value at `at`: linear between places that are `known`, in ascending order, and level beyond them."""
    above = bisect_left(known, at)
    if above in (0, len(known)):
        return values[min(above, len(known) - 1)]
    low, high = known[above - 1], known[above]
    return values[above - 1] + (at - low) / (high - low) * (values[above] - values[above - 1])
