"""What traffic asks of one runtime in one run: which cells, how often; and what they say together. No judgement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench import statistics
from bench.choice.grid import MEASURED, Place
from bench.records import Record
from bench.spec import Shape
from bench.statistics import Interval

#: Quantiles of a shape's calls that stand for all of them in the percentile of a mixture.
POINTS = 100


@dataclass(frozen=True)
class Workload:
    """Calls by shape, and where each shape's time is read off the grid."""

    calls: tuple[tuple[Shape, float, Place], ...]
    """Shape, calls of it for one unit of work (a request, or a sequence), and its place."""

    @property
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

    @property
    def _all_calls(self) -> float:
        return math.fsum(calls for _, calls, _ in self.calls)

    def time_ns(self, records: Mapping[Shape, Record]) -> float:
        """Nanoseconds that one unit of work takes, from the medians of the cells."""
        return math.fsum(weight * statistics.median(records[shape].samples) for shape, weight in self.cells.items())

    def rounds_ns(self, records: Mapping[Shape, Record]) -> list[float]:
        """The same, once for each round of the cell that has the fewest; a cell's further rounds are pooled into those.

        Rounds of different cells have nothing in common but their number, so adding them up by it pairs at random,
        while two runtimes that took turns keep what they shared in each cell.
        """
        cells = self.cells
        count = min(len(records[shape].rounds) for shape in cells)
        folded = {shape: _folded(records[shape].rounds, count) for shape in cells}
        return [math.fsum(weight * folded[shape][r] for shape, weight in cells.items()) for r in range(count)]

    def percentile_ns(self, records: Mapping[Shape, Record], rank: int) -> float:
        """The `rank`-th percentile of all calls, in nanoseconds: of the mixture of the shapes' distributions.

        Between cells a distribution is interpolated as the time is: quantile by quantile.
        """
        ordered = {shape: sorted(records[shape].samples) for shape in self.cells}
        points = [
            (
                math.fsum(share * _quantile(ordered[shape], (point + 0.5) / POINTS) for shape, share in place.cells),
                calls,
            )
            for _, calls, place in self.calls
            for point in range(POINTS)
        ]
        wanted = rank / 100 * math.fsum(weight for _, weight in points)
        passed = 0.0
        for value, weight in sorted(points):
            passed += weight
            if passed >= wanted * (1 - 1e-9):
                return value
        return max(points)[0]

    def effective_samples(self, records: Mapping[Shape, Record]) -> int:
        """Single calls that the percentile of the mixture rests on: Kish's effective size, (Σw)²/Σ(w²/n).

        (Kish 1965, Survey Sampling, 11.7: a cell of n calls that stands for a share w of the traffic.)
        """
        cells = self.cells
        spread = math.fsum(weight**2 / len(records[shape].samples) for shape, weight in cells.items())
        return math.floor(math.fsum(cells.values()) ** 2 / spread + 1e-9)

    def longest_call_ns(self, records: Mapping[Shape, Record]) -> float:
        """No call that was timed took longer, even if all of a sample's time, where it is several calls', was one's."""
        return max(max(records[shape].samples) * records[shape].calls_per_sample for shape in self.cells)

    def are_single_calls(self, records: Mapping[Shape, Record]) -> bool:
        """True where every sample is one call, so that there are percentiles of calls."""
        return all(records[shape].calls_per_sample == 1 for shape in self.cells)


def _folded(rounds: Sequence[Sequence[int]], count: int) -> list[float]:
    """Medians of `rounds`, taken together into `count` groups of neighbours."""
    ends = [len(rounds) * index // count for index in range(count + 1)]
    return [statistics.median(statistics.pooled(rounds[start:end])) for start, end in pairwise(ends)]


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def interval_of(rounds_ns: Sequence[float]) -> Interval | None:
    """95 % interval of the time of one unit of work; None with a single round."""
    return statistics.median_interval([[value] for value in rounds_ns])


def as_requests(shares: Sequence[tuple[Shape, float]], places: Mapping[Shape, Place]) -> Workload:
    """Every request is one call, as it comes: the unit of work is a request."""
    return Workload(tuple((shape, share, places[shape]) for shape, share in shares))


def as_sequences(
    shares: Sequence[tuple[Shape, float]], batches: Mapping[int, tuple[int, Place]]
) -> tuple[Workload, Mapping[int, int]]:
    """The requests' sequences in batches of our own: the unit of work is a sequence.

    `batches` has the batch for each length, with its place. Returns the workload and the batch by length.
    """
    sequences: dict[int, float] = {}
    for shape, share in shares:
        sequences[shape.length] = sequences.get(shape.length, 0.0) + share * shape.batch
    total = math.fsum(sequences.values())
    calls = tuple(
        (Shape(batches[length][0], length), count / total / batches[length][0], batches[length][1])
        for length, count in sequences.items()
    )
    return Workload(calls), {length: batches[length][0] for length in sequences}


def is_exact(workload: Workload) -> bool:
    """True where every shape was measured itself."""
    return all(place.basis == MEASURED for _, _, place in workload.calls)
