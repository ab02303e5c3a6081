"""Cells of one run that differ in backend and batch alone, or in backend and length alone; and ratios of two."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from bench import statistics
from bench.run.pairs import are_paired, has_quiet_rounds, ratio_between
from bench.run.record import Run
from bench.statistics import Interval, Ratio
from bench.study.cells import PRECISION, Cell
from bench.study.findings import CONFIRMED, every, judged

#: Runtimes are together if none is more than this many times faster than another.
TOGETHER = 1.10
#: A padded batch of this length stands in for sentences, which are of about that many tokens.
STAND_IN_LENGTH = 32
Pair = tuple[Cell, Cell, Ratio | None]


@dataclass(frozen=True)
class Series:
    """Sound cells of one run and setting, by backend and by batch or length."""

    run: Run
    setting: str
    """E.g. "length 32", "unsorted sentences" or "batch 1"."""
    cells: Mapping[tuple[str, int], Cell]
    name: str
    """Device, model, setting, and the number of its file if the rest is not unique."""

    @property
    def backends(self) -> list[str]:
        """Backends that it has, in the order of the run."""
        return list(dict.fromkeys(backend for backend, _ in self.cells))

    @property
    def sizes(self) -> list[int]:
        """Batches or lengths, rising."""
        return sorted({size for _, size in self.cells})

    @property
    def any_cell(self) -> Cell:
        """One of its cells, for what all of them share."""
        return next(iter(self.cells.values()))

    def pick(self, backends: Sequence[str] | None = None, low: float = 0, high: float = math.inf) -> list[Cell]:
        """Cells of `backends` at sizes from `low` to `high`, by size and then in the order of `backends`."""
        names = self.backends if backends is None else backends
        sizes = [size for size in self.sizes if low <= size <= high]
        return [self.cells[name, size] for size in sizes for name in names if (name, size) in self.cells]


def series(cells: Iterable[Cell], over: Literal["batch", "length"]) -> list[Series]:
    """Every series of `cells` over batches or over lengths, in the order of the files."""
    groups: dict[tuple[int, str], dict[tuple[str, int], Cell]] = {}
    for cell in cells:
        is_sentences = cell.order is not None
        if cell.fault or cell.precision != PRECISION or cell.backend == "eager:grad":
            continue
        if cell.batch is None or not (is_sentences or cell.length):
            continue
        if over == "batch":
            setting, size = f"{cell.order} sentences" if is_sentences else f"length {cell.length}", cell.batch
        elif cell.length is not None:
            setting, size = f"batch {cell.batch}", cell.length
        else:
            continue
        groups.setdefault((cell.file, setting), {})[cell.backend, size] = cell
    found = []
    for (_, setting), group in groups.items():
        cell = next(iter(group.values()))
        found.append(Series(cell.run, setting, group, f"{cell.device}, {cell.model}, {setting}"))
    counts = Counter(one.name for one in found)
    return [
        one if counts[one.name] == 1 else replace(one, name=f"{one.name}, file {one.any_cell.file}") for one in found
    ]


def weight(one: Series) -> tuple[int, str]:
    """Of two series of one setting that with more cells tells more, and the later one is of what is installed now."""
    return len(one.cells), one.run.started


def deciding(cells: Iterable[Cell], order: str = "") -> Series | None:
    """The series that claims over batches are judged by: sentences in `order`, of the run with the most cells.

    Without an order they are unsorted ones, or, if there are none, padded batches of the length nearest to
    `STAND_IN_LENGTH`.
    """

    def rank(one: Series) -> tuple[bool, float, tuple[int, str]]:
        length = one.any_cell.length or STAND_IN_LENGTH
        return one.any_cell.order is not None, -abs(math.log(length / STAND_IN_LENGTH)), weight(one)

    orders = (order,) if order else ("unsorted", None)
    return max((one for one in series(cells, "batch") if one.any_cell.order in orders), key=rank, default=None)


def times_faster(slow: Cell, fast: Cell) -> Ratio | None:
    """Time a sample of `slow` over that of `fast`; within rounds if both were timed in turns, else of medians apart.

    None if nothing gives an interval, or fewer than 3 quiet rounds do.
    """
    ratio = None
    if slow.run is fast.run and are_paired(slow.record, fast.record):
        ratio = ratio_between(slow.record, fast.record)
    elif has_quiet_rounds(slow.record) and has_quiet_rounds(fast.record):
        ratio = statistics.ratio_of_runs(slow.samples_ms, fast.samples_ms)
    return None if ratio is None or ratio.interval is None else ratio


def pairs(cells: Iterable[Cell]) -> list[Pair]:
    """Every pair of cells, the slower one first, with times faster."""
    found: list[Pair] = []
    for one, other in combinations(cells, 2):
        ratio = times_faster(one, other)
        is_slower = ratio is None or ratio.value >= 1
        found.append((one, other, ratio) if is_slower else (other, one, times_faster(other, one)))
    return found


def exponents(one: Series, backends: Iterable[str], least_span: float) -> dict[str, tuple[float, Interval | None]]:
    """The exponent p of time ~ length^p of each backend that has lengths `least_span` times apart.

    p = log(time of the longest / time of the shortest) / log(longest / shortest), its interval from that of the ratio.
    """
    found = {}
    for backend in backends:
        lengths = [length for name, length in one.cells if name == backend]
        if not lengths or max(lengths) < min(lengths) * least_span:
            continue
        longest, shortest = one.cells[backend, max(lengths)], one.cells[backend, min(lengths)]
        span = math.log(max(lengths) / min(lengths))
        ratio = times_faster(longest, shortest)
        ends = None if ratio is None or ratio.interval is None else (ratio.interval.low, ratio.interval.high)
        interval = None if ends is None else Interval(*(math.log(end) / span for end in ends))
        found[backend] = math.log(longest.sample_ms.middle / shortest.sample_ms.middle) / span, interval
    return found


@dataclass(frozen=True)
class Crossover:
    """From which batch on all runtimes of one series are within `TOGETHER` of each other, and stay so."""

    series: Series
    batch: int | None
    """None if they are not at the largest batch, or these runs do not decide it."""
    outcomes: Mapping[int, str]
    """By batch; batches with fewer than two runtimes are left out."""


def crossover(one: Series) -> Crossover | None:
    """Where the runtimes of a series come together; None if fewer than two batches have two runtimes."""
    within = {"inside": (1 / TOGETHER, TOGETHER)}
    found = {batch: pairs(one.pick(None, batch, batch)) for batch in one.sizes}
    outcomes = {
        batch: every(judged(ratio.interval if ratio else None, within) for _, _, ratio in here)
        for batch, here in found.items()
        if here
    }
    if len(outcomes) < 2:
        return None
    reached = None
    for batch in reversed(outcomes):
        if outcomes[batch] != CONFIRMED:
            break
        reached = batch
    return Crossover(one, reached, outcomes)
