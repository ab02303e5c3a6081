"""What the page shows of each cell: its record beside the figures of its columns, and the name of its series."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import statistics
from bench.columns import DASH, Column, Table, milliseconds, shown
from bench.report import parts
from bench.report.page import charts
from bench.report.page.charts import Axis, Chart, Key, Names
from bench.run.record import Record, Run
from bench.run.sections import iter_points

#: Panels of one kind of plot; the tables hold what lies between them.
MOST_PANELS = 6
#: How a verdict of parity, or a status, reads at a glance.
TONES = {
    **dict.fromkeys(("original", "exact", "equivalent"), "good"),
    **dict.fromkeys(("lossy", "unjudged"), "doubtful"),
    **dict.fromkeys(("broken", "failed", "oom", "timeout", "unsupported", "skipped"), "bad"),
}


class Number(str):
    """A cell's text, with the value that a reader sorts it by."""

    value: float

    def __new__(cls, text: str, value: float) -> Number:
        made = super().__new__(cls, text)
        made.value = value
        return made

    @property
    def sorted_by(self) -> str:
        """The value as JavaScript reads it."""
        return "Infinity" if math.isinf(self.value) else f"{self.value:.12g}"


def number(value: float | None, text: str | None = None) -> str:
    """A value with about four digits, or as `text` has it; a dash for None."""
    return DASH if value is None else Number(shown(value) if text is None else text, float(value))


def as_number(value: Any) -> float | None:
    """A finite number; None for all else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < float("inf") else None


@dataclass(frozen=True)
class Entry:
    """One record of one of the runs."""

    run: Run
    record: Record
    name: str
    """Of its series: the candidate, and with several runs which of them it is."""
    place: int
    """Of its point among those of all runs."""
    rank: tuple[int, int]
    """Of its series: the place of its run, and that of its candidate in the run."""

    @cached_property
    def figures(self) -> Mapping[str, Any]:
        """The figures of all columns by their names."""
        return {column.name: column.value(self.run, self.record) for column in self.run.workload.all_columns}

    @property
    def point(self) -> Any:
        """Where it was measured."""
        return self.record.point

    @property
    def at(self) -> str:
        """Its point as text, as a number that is sorted in the order of the points."""
        return Number(self.run.workload.row_title(self.record.point), self.place)

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
    def median(self) -> str:
        """The median of a timed cell in ms, as text."""
        return number(self.median_ms, milliseconds(self.median_ms * 1e6))

    def value(self, column: Column) -> float | None:
        """The figure of a column if it is a finite number."""
        return as_number(self.figures[column.name])

    def ends(self, column: Column) -> tuple[float, float] | None:
        """Both ends of a figure's interval; None if it has none."""
        low, high = (as_number(self.figures.get(name)) for name in column.interval or ("", ""))
        return None if low is None or high is None else (low, high)

    def text(self, column: Column) -> str:
        """The figure of a column as in tables."""
        text, value = column.text(self.run, self.record), self.value(column)
        return text if value is None else Number(text, value)

    def interval_text(self, column: Column) -> str:
        """`1.21–1.34`, or a dash."""
        ends = self.ends(column)
        return DASH if ends is None else "–".join(column.show(end) for end in ends)

    def mark(self, **figures: Any) -> dict[str, Any]:
        """A point of a plot: what every plot shows of a cell on hover, and its `figures`."""
        of_every = {"name": self.name, "at": self.at, "parity": self.record.verdict or DASH, "is_sound": self.is_sound}
        return of_every | figures


def labels(runs: Sequence[Run]) -> list[str]:
    """What the runs are called on the page: nothing for a single one."""
    return [""] if len(runs) == 1 else [f"run {number}" for number in range(1, len(runs) + 1)]


def series_name(run: Run, record: Record, label: str) -> str:
    """The series that a record belongs to."""
    name = run.name(record.candidate)
    return f"{name} · {label}" if label else name


def entries(runs: Sequence[Run]) -> list[Entry]:
    """Every record of `runs` that is not of sections alone, by run, point and candidate."""
    found = list(dict.fromkeys(point for run in runs for point, _ in run.by_point()))
    if len(runs) > 1:
        with suppress(TypeError):  # points without an order of their own stay as the runs have them
            found = sorted(found)
    return [
        Entry(run, one, series_name(run, one, label), found.index(point), (at, run.candidates.index(one.candidate)))
        for at, (run, label) in enumerate(zip(runs, labels(runs), strict=True))
        for point, records in iter_points(run)
        for one in records
    ]


def names(of: Sequence[Entry]) -> list[str]:
    """Every series once, in the order in which its run has its candidates."""
    ranks = {entry.name: entry.rank for entry in of}
    return sorted(ranks, key=lambda name: ranks[name])


def places(of: Sequence[Entry]) -> list[Entry]:
    """One entry of each point, in the order of the points."""
    first = {entry.place: entry for entry in reversed(of)}
    return [first[place] for place in sorted(first)]


def evenly(sizes: Sequence[Any], most: int = MOST_PANELS) -> list[Any]:
    """At most `most` of `sizes`, first and last included."""
    if len(sizes) <= most:
        return list(sizes)
    return [sizes[round(index * (len(sizes) - 1) / (most - 1))] for index in range(most)]


# Chapters.


@dataclass(frozen=True)
class Chapter:
    """A part of the page: a section with the plots of it."""

    anchor: str
    title: str
    about: str = ""
    """How to read it, in a sentence or two."""
    charts: Sequence[Chart] = ()
    table: Table | None = None
    table_title: str = "the figures"
    helps: Sequence[str] = ()
    """What the table's titles mean, shown on hover; "" if it says so itself."""
    lines: Sequence[str] = ()

    @property
    def legend(self) -> list[Key]:
        """Series of all its plots."""
        return list(dict.fromkeys(key for chart in self.charts for key in chart.legend))

    @property
    def is_number(self) -> list[bool]:
        """By column of the table: True if it has figures."""
        found = self.table or Table((), ())
        return [any(isinstance(row[at], Number) for row in found.rows) for at in range(len(found.titles))]


def point_title(of: Sequence[Entry]) -> str:
    """Heading of a column of points, on hover too."""
    return parts.point_title(of[0].run)


def table_of(of: Sequence[Entry], columns: Mapping[str, Callable[[Entry], str]]) -> Table:
    """A row a cell: its point, its series, and what `columns` make of it."""
    rows = tuple((entry.at, entry.name, *(cell(entry) for cell in columns.values())) for entry in of)
    return Table((point_title(of), "backend", *columns), rows)


def hover(of: Sequence[Entry], fields: Mapping[str, str]) -> dict[str, str]:
    """What a plot shows of a cell on hover, by field: series and point, and then `fields`."""
    return {"name": "backend", "at": point_title(of), **fields}


def over_points(
    name: str,
    text: str,
    of: Sequence[Entry],
    data: Sequence[Mapping[str, Any]],
    keys: Sequence[Key],
    y: Axis,
    fields: Mapping[str, str],
    beneath: Sequence[Mapping[str, Any]] = (),
) -> Chart:
    """A chart over the names of the points of cells, series beside each other; `fields` are on hover."""
    x = Names("at", point_title(of), [entry.at for entry in places(of)])
    is_wide = len(x.order) > 4
    return charts.chart(name, text, data, keys, x, y, hover(of, fields), beneath=beneath, is_wide=is_wide)
