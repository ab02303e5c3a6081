"""Cells of one run that differ in backend and batch alone, or in backend and length alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from bench.statistics import Interval, Ratio
from bench.study.figures import CORPUS, PRECISION, Figure, Figures, Source, times_faster
from bench.study.findings import CONFIRMED, every, inside

#: Runtimes are together if none is more than this many times faster than another.
TOGETHER = 1.10
#: A padded batch of this length stands in for sentences, which are of about that many tokens.
STAND_IN_LENGTH = 32


@dataclass(frozen=True)
class Series:
    """Usable cells of one model, run and setting, by backend and by batch or length."""

    source: Source
    model: str
    setting: str
    """E.g. "length 32", "unsorted sentences" or "batch 1"."""
    cells: Mapping[tuple[str, int], Figure]
    file: int | None = None
    """Number of its file, from 1, if another file has a series of the same name."""

    @property
    def backends(self) -> tuple[str, ...]:
        """Backends that it has, in the order of the run."""
        return tuple(dict.fromkeys(backend for backend, _ in self.cells))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batches or lengths, rising."""
        return tuple(sorted({size for _, size in self.cells}))

    @property
    def any_cell(self) -> Figure:
        """One of its cells, for what all of them share."""
        return next(iter(self.cells.values()))

    @property
    def name(self) -> str:
        """Device, model, setting, and the number of its file if the rest is not unique."""
        told = "" if self.file is None else f", file {self.file}"
        return f"{self.source.device}, {self.model}, {self.setting}{told}"

    def at(self, size: int) -> dict[str, Figure]:
        """The cells of one batch or length, by backend."""
        return {backend: cell for (backend, at), cell in self.cells.items() if at == size}

    def ratios(self, size: int, backends: Collection[str] | None = None) -> list[tuple[str, str, Ratio | None]]:
        """Every pair of backends at one batch or length: the slower one's name, the faster one's, times faster."""
        here = [cell for backend, cell in self.at(size).items() if backends is None or backend in backends]
        found = []
        for one, other in combinations(here, 2):
            ratio = times_faster(one, other)
            if ratio is not None and ratio.value < 1:
                one, other, ratio = other, one, times_faster(other, one)
            found.append((one.backend, other.backend, ratio))
        return found

    def together(self, size: int, backends: Collection[str] | None = None) -> str:
        """Whether all backends are within `TOGETHER` of each other at one batch or length, as an outcome."""
        return every(
            inside(ratio.interval if ratio else None, 1 / TOGETHER, TOGETHER)
            for _, _, ratio in self.ratios(size, backends)
        )


def over_batches(figures: Figures, device: str | None = None, models: Collection[str] | None = None) -> list[Series]:
    """Every series over batches, in the order of the files; of `device` and `models` alone if they are given."""
    return list(_series(figures, device, models, over="batch"))


def over_lengths(figures: Figures, device: str | None = None, models: Collection[str] | None = None) -> list[Series]:
    """Every series over lengths, one a batch."""
    return list(_series(figures, device, models, over="length"))


def _series(figures: Figures, device: str | None, models: Collection[str] | None, over: str) -> Iterator[Series]:
    groups: dict[tuple[str, str, str], dict[tuple[str, int], Figure]] = {}
    for cell in figures.cells:
        if not cell.is_usable or cell.precision != PRECISION or cell.backend == "eager:grad":
            continue
        if (device is not None and cell.device != device) or (models is not None and cell.model not in models):
            continue
        if over == "batch":
            setting, size = f"{cell.order} sentences" if cell.kind == CORPUS else f"length {cell.length}", cell.batch
        elif cell.length is not None:
            setting, size = f"batch {cell.batch}", cell.length
        else:
            continue
        groups.setdefault((cell.source.path, cell.model, setting), {})[cell.backend, size] = cell
    paths = [source.path for source in figures.sources]
    found = [Series(next(iter(cells.values())).source, group[1], group[2], cells) for group, cells in groups.items()]
    names = [series.name for series in found]
    for series in found:
        is_told = names.count(series.name) == 1
        yield series if is_told else replace(series, file=paths.index(series.source.path) + 1)


def deciding(figures: Figures, device: str, models: Collection[str], order: str = "unsorted") -> Series | None:
    """The series that claims over batches are judged by: sentences in `order`, of the run with the most cells.

    Where there are none and `order` is "unsorted", padded batches of the length nearest to `STAND_IN_LENGTH`.
    """
    found = over_batches(figures, device, models)
    sentences = [series for series in found if series.setting == f"{order} sentences"]
    if sentences:
        return max(sentences, key=_weight)
    padded = [(series, cell.length) for series in found if (cell := series.any_cell).length is not None]
    if order != "unsorted" or not padded:
        return None
    distance = {id(series): abs(math.log((length or 1) / STAND_IN_LENGTH)) for series, length in padded}
    nearest = min(distance.values())
    return max((series for series, _ in padded if distance[id(series)] == nearest), key=_weight)


def _weight(series: Series) -> tuple[int, str]:
    """Of two series of one setting that with more cells tells more, and the later one is of what is installed now."""
    return len(series.cells), series.source.started


@dataclass(frozen=True)
class Growth:
    """The exponent p of time ~ length^p between the shortest and the longest length, by backend."""

    series: Series
    exponents: Mapping[str, tuple[float, Interval | None]]


def growth(series: Series, least_span: float) -> Growth | None:
    """How time grows with length; None if no backend has lengths `least_span` times apart.

    p = log(time of the longest / time of the shortest) / log(longest / shortest), its interval from that of the ratio.
    """
    found = {}
    for backend in series.backends:
        lengths = [length for name, length in series.cells if name == backend]
        span = max(lengths) / min(lengths)
        if span < least_span:
            continue
        longest, shortest = series.cells[backend, max(lengths)], series.cells[backend, min(lengths)]
        ratio = times_faster(longest, shortest)
        interval = None
        if ratio is not None and ratio.interval is not None:
            ends = (math.log(end) / math.log(span) for end in (ratio.interval.low, ratio.interval.high))
            interval = Interval(*ends)
        found[backend] = (math.log(longest.ms / shortest.ms) / math.log(span), interval)
    return Growth(series, found) if found else None


@dataclass(frozen=True)
class Crossover:
    """From which batch on all runtimes of one series are within `TOGETHER` of each other, and stay so."""

    series: Series
    batch: int | None
    """None if they are not at the largest batch, or these runs do not decide it."""
    outcomes: Mapping[int, str]
    """By batch; batches with fewer than two runtimes are none."""


def crossover(series: Series) -> Crossover | None:
    """Where the runtimes of `series` come together; None if fewer than two batches have two runtimes."""
    outcomes = {batch: series.together(batch) for batch in series.sizes if len(series.at(batch)) > 1}
    if len(outcomes) < 2:
        return None
    found = None
    for batch in reversed(outcomes):
        if outcomes[batch] != CONFIRMED:
            break
        found = batch
    return Crossover(series, found, outcomes)
