"""What traffic asks of one runtime in one run: which cells, how often; and what they say together. No judgement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from bench import statistics
from bench.choose.grid import Place
from bench.choose.mixture import Mixture
from bench.run.record import Record
from bench.spec import Shape
from bench.statistics import Interval


@dataclass(frozen=True)
class Demand:
    """Calls by shape, and where each shape's time is read off the grid."""

    calls: tuple[tuple[Shape, float, Place], ...]
    """Shape, calls of it for one unit of work (a request, or a sequence), and its place."""

    @cached_property
    def cells(self) -> dict[Shape, float]:
        """Measured shapes with their weights: the time of one unit of work is the sum of their times by these."""
        found: dict[Shape, float] = {}
        for _, calls, place in self.calls:
            for shape, share in place.cells:
                found[shape] = found.get(shape, 0.0) + calls * share
        return found

    def share_of(self, basis: str) -> float:
        """Share of the calls whose time is known in that way."""
        return math.fsum(calls for _, calls, place in self.calls if place.basis == basis) / self._all_calls

    @cached_property
    def _all_calls(self) -> float:
        return math.fsum(calls for _, calls, _ in self.calls)

    def time_ns(self, records: Mapping[Shape, Record]) -> float:
        """Nanoseconds that one unit of work takes, from the medians of the cells."""
        return math.fsum(weight * statistics.median(records[shape].samples) for shape, weight in self.cells.items())

    def least_rounds(self, records: Mapping[Shape, Record]) -> int:
        """Rounds of the cell that has the fewest."""
        return min(len(records[shape].rounds) for shape in self.cells)

    def rounds_ns(self, records: Mapping[Shape, Record], count: int) -> list[float]:
        """The same in `count` rounds, at most the least of any cell; a cell's further rounds are pooled into those.

        Rounds of different cells have nothing in common but their number, so adding them up by it pairs at random,
        while two runtimes that took turns keep what they shared in each cell.
        """
        cells = self.cells
        folded = {shape: _folded(records[shape].rounds, count) for shape in cells}
        return [math.fsum(weight * folded[shape][r] for shape, weight in cells.items()) for r in range(count)]

    def mixture(self, records: Mapping[Shape, Record], is_bounded: bool = False) -> Mixture:
        """All calls as one distribution."""
        return Mixture(self.calls, records, is_bounded)

    def are_single_calls(self, records: Mapping[Shape, Record]) -> bool:
        """True if every sample is one call, so that there are percentiles of calls."""
        return all(records[shape].once.calls_per_sample == 1 for shape in self.cells)


def _folded(rounds: Sequence[Sequence[int]], count: int) -> list[float]:
    """Medians of `rounds`, taken together into `count` groups of neighbours."""
    ends = [len(rounds) * index // count for index in range(count + 1)]
    return [statistics.median(statistics.pooled(rounds[start:end])) for start, end in pairwise(ends)]


def interval_of(rounds_ns: Sequence[float]) -> Interval | None:
    """95 % interval of the time of one unit of work; None with a single round."""
    return statistics.median_interval([[value] for value in rounds_ns])


def as_requests(shares: Sequence[tuple[Shape, float]], places: Mapping[Shape, Place]) -> Demand:
    """Every request is one call, as it comes: the unit of work is a request."""
    return Demand(tuple((shape, share, places[shape]) for shape, share in shares))


def as_sequences(
    shares: Sequence[tuple[Shape, float]], batches: Mapping[int, tuple[int, Place]]
) -> tuple[Demand, Mapping[int, int]]:
    """The requests' sequences in batches of our own: the unit of work is a sequence.

    `batches` has the batch for each length, with its place. Returns the demand and the batch by length.
    """
    sequences: dict[int, float] = {}
    for shape, share in shares:
        sequences[shape.length] = sequences.get(shape.length, 0.0) + share * shape.batch
    total = math.fsum(sequences.values())
    calls = tuple(
        (Shape(batches[length][0], length), count / total / batches[length][0], batches[length][1])
        for length, count in sequences.items()
    )
    return Demand(calls), {length: batches[length][0] for length in sequences}
