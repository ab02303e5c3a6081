"""What the page shows of each cell: its record beside the figures of its columns, and the name of its series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import statistics
from bench.columns import DASH, Column, milliseconds
from bench.report.page.tables import Cell, number
from bench.run.record import Record, Run
from bench.run.sections import iter_points

#: Panels of one kind of plot; the tables hold what lies between them.
MOST_PANELS = 6


@dataclass(frozen=True)
class Entry:
    """One record of one of the runs."""

    run: Run
    record: Record
    name: str
    """Of its series: the candidate, and with several runs which of them it is."""
    place: int
    """Of its point among those of all runs."""
    figures: Mapping[str, Any]
    """By the names of the columns."""

    @property
    def point(self) -> Any:
        """Where it was measured."""
        return self.record.point

    @property
    def at(self) -> str:
        """Its point as text."""
        return self.run.workload.row_title(self.record.point)

    @property
    def at_cell(self) -> Cell:
        """Its point as a cell that is sorted in the order of the points."""
        return number(self.place, self.at)

    @property
    def is_measured(self) -> bool:
        """True for a cell that was measured."""
        return self.record.status == "ok"

    @property
    def is_timed(self) -> bool:
        """True for a cell with samples of wall time."""
        return self.is_measured and bool(self.record.samples)

    @property
    def is_sound(self) -> bool:
        """True if its figures count: the same model, and no time below the roofline."""
        is_same = self.record.is_comparable or not self.record.is_judged or not self.record.verdict
        return self.is_measured and is_same and not self.run.is_implausible(self.record)

    @cached_property
    def median_ms(self) -> float:
        """Median of a timed cell."""
        return statistics.median(self.record.samples) / 1e6

    @property
    def median_text(self) -> str:
        """The median of a timed cell in ms."""
        return milliseconds(self.median_ms * 1e6)

    def value(self, column: Column) -> float | None:
        """The figure of a column if it is a finite number."""
        return as_number(self.figures[column.name])

    def ends(self, column: Column) -> tuple[float, float] | None:
        """Both ends of a figure's interval; None if it has none."""
        if column.interval is None:
            return None
        low, high = (as_number(self.figures.get(name)) for name in column.interval)
        return None if low is None or high is None else (low, high)

    def text(self, column: Column) -> str:
        """The figure of a column as in tables."""
        return column.text(self.run, self.record)

    def interval_text(self, column: Column) -> str:
        """`1.21–1.34`, or a dash."""
        ends = self.ends(column)
        return DASH if ends is None else "–".join(column.show(end) for end in ends)

    def shown(self) -> dict[str, Any]:
        """What every plot shows of a cell on hover."""
        return {"name": self.name, "at": self.at, "parity": self.record.verdict or DASH, "is_sound": self.is_sound}


def as_number(value: Any) -> float | None:
    """A finite number; None for all else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < float("inf") else None


def labels(runs: Sequence[Run]) -> list[str]:
    """What the runs are called on the page: nothing for a single one."""
    return [""] if len(runs) == 1 else [f"run {number}" for number in range(1, len(runs) + 1)]


def series_name(run: Run, record: Record, label: str) -> str:
    """The series that a record belongs to."""
    name = run.name(record.candidate)
    return f"{name} · {label}" if label else name


def entries(runs: Sequence[Run]) -> list[Entry]:
    """Every record of `runs` that is not of sections alone, by run, point and candidate."""
    places = {point: place for place, point in enumerate(points(runs))}
    return [
        Entry(run, record, series_name(run, record, label), places[point], figures_of(run, record))
        for run, label in zip(runs, labels(runs), strict=True)
        for point, records in iter_points(run)
        for record in records
    ]


def figures_of(run: Run, record: Record) -> dict[str, Any]:
    """The figures of all columns by their names."""
    return {column.name: column.value(run, record) for column in run.workload.all_columns}


def points(runs: Sequence[Run]) -> list[Any]:
    """Every point once: as the run has them; those of several runs by their own order, if they have one."""
    found = list(dict.fromkeys(point for run in runs for point, _ in run.by_point()))
    try:
        return sorted(found) if len(runs) > 1 else found
    except TypeError:
        return found


def names(of: Sequence[Entry]) -> list[str]:
    """Every series once, in the order in which its run has its candidates."""
    ranks: dict[str, tuple[int, int]] = {}
    runs: list[Run] = []
    for entry in of:
        if not any(entry.run is run for run in runs):
            runs.append(entry.run)
        place = next(index for index, run in enumerate(runs) if run is entry.run)
        ranks.setdefault(entry.name, (place, entry.run.candidates.index(entry.record.candidate)))
    return sorted(ranks, key=lambda name: ranks[name])


def places(of: Sequence[Entry]) -> list[Entry]:
    """One entry of each point, in the order of the points."""
    first: dict[int, Entry] = {}
    for entry in of:
        first.setdefault(entry.place, entry)
    return [first[place] for place in sorted(first)]


def plotted(run: Run) -> list[Column]:
    """The columns whose figures are plotted."""
    known = {column.name: column for column in run.workload.all_columns}
    if run.workload.plotted:
        return [known[name] for name in run.workload.plotted]
    titled = (column for column in run.workload.columns if column.title and not column.is_left)
    return [column for column in titled if not column.is_on_request][:1]


def evenly(sizes: Sequence[Any], most: int = MOST_PANELS) -> list[Any]:
    """At most `most` of `sizes`, first and last included."""
    if len(sizes) <= most:
        return list(sizes)
    return [sizes[round(index * (len(sizes) - 1) / (most - 1))] for index in range(most)]
