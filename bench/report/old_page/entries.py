"""What the page shows of each cell: its record beside the figures that the CSV has, and what its series is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records import Record, Run
from bench.report import summary
from bench.report.table import TAINTED, milliseconds
from bench.rows import row
from bench.spec import Shape

#: Panels of one kind of plot; the tables hold what lies between them.
MOST_PANELS = 6


@dataclass(frozen=True)
class Entry:
    """One record of one of the runs."""

    run: Run
    record: Record
    name: str
    """Of its series: who was measured, and with several runs which of them it is."""
    figures: Mapping[str, Any]
    """Under the names of `rows.COLUMNS`."""

    @property
    def is_measured(self) -> bool:
        """True where there is a time to show."""
        return self.record.status == "ok"

    @property
    def is_sound(self) -> bool:
        """True where that time counts: nothing below the floor, and no other model."""
        same = self.record.is_comparable or not self.record.judged
        return self.is_measured and same and not self.run.is_implausible(self.record)

    @property
    def shape(self) -> Shape:
        """What on."""
        return self.record.shape

    @property
    def median_ms(self) -> float:
        """Of a measured cell."""
        return float(self.figures["median_ms"])

    @property
    def median_text(self) -> str:
        """The median in ms, marked where the cell is tainted; what became of it where there is none."""
        if not self.is_measured:
            return self.record.status
        return (TAINTED if self.figures["tainted"] else "") + milliseconds(self.median_ms * 1e6)

    @property
    def interval_text(self) -> str:
        """The 95 % interval of the median in ms, or a dash."""
        low, high = self.figures["median_low_ms"], self.figures["median_high_ms"]
        return "–" if low is None else f"{milliseconds(low * 1e6)}–{milliseconds(high * 1e6)}"

    @property
    def speedup_text(self) -> str:
        """As the tables print it."""
        return summary.speedup_cell(self.run, self.record) if self.is_measured else "–"


def labels(runs: Sequence[Run]) -> list[str]:
    """What the runs are called on the page: nothing for a single one."""
    return [""] if len(runs) == 1 else [f"run {number}" for number in range(1, len(runs) + 1)]


def series_name(run: Run, record: Record, label: str) -> str:
    """Of the series that a record belongs to."""
    name = summary.name(run, record)
    return f"{name} · {label}" if label else name


def entries(runs: Sequence[Run]) -> list[Entry]:
    """Every record of `runs`, by run, shape and contestant; what a budget left out is left out."""
    return [
        Entry(run, record, series_name(run, record, label), row(run, record))
        for run, label in zip(runs, labels(runs), strict=True)
        for _, records in summary.shapes(run)
        for record in records
        if not run.is_left_out(record)
    ]


def names(of: Sequence[Entry]) -> list[str]:
    """Every series once, in the order in which its run has its contestants."""
    ranks: dict[str, tuple[int, int]] = {}
    runs: list[Run] = []
    for entry in of:
        if not any(entry.run is run for run in runs):
            runs.append(entry.run)
        place = next(index for index, run in enumerate(runs) if run is entry.run)
        ranks.setdefault(entry.name, (place, entry.run.grid.contestants.index(entry.record.contestant)))
    return sorted(ranks, key=lambda name: ranks[name])


def shapes(of: Sequence[Entry]) -> list[Shape]:
    """Every shape once, the smallest first."""
    return sorted({entry.shape for entry in of})


def evenly(sizes: Sequence[Any], most: int = MOST_PANELS) -> list[Any]:
    """At most `most` of `sizes`, first and last included."""
    if len(sizes) <= most:
        return list(sizes)
    return [sizes[round(index * (len(sizes) - 1) / (most - 1))] for index in range(most)]
