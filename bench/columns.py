"""What reports are made of: a column of figures and a section of lines, tables and charts. Renderers know no more.

A workload declares its columns and yields its sections; console, Markdown, page, CSV and JSON render the same ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.run.record import Record, Run

DASH = "–"
#: Half-width of an interval as a share of its middle beyond which its ends are told in place of it.
MOST_SHARE = 0.5


def shown(value: Any) -> str:
    """A figure of any kind as text; numbers have about four significant digits: `0.0123`, `1.234`, `123.4`, `12346`."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if abs(value) >= 1e7:
        return f"{value:.2e}"
    limits = {0.1: 4, 10: 3, 100: 2, 1e4: 1}
    digits = next((digits for limit, digits in limits.items() if abs(value) < limit), 0)
    return f"{value:.{digits}f}"


@dataclass(frozen=True)
class Column:
    """One figure of every record: a key of CSV and JSON, and with a `title` a column of tables."""

    name: str
    value: Callable[[Run, Record], Any]
    """The figure as a JSON value; None if the record has none."""
    title: str = ""
    """Heading in tables; "" for a column of CSV and JSON alone."""
    show: Callable[[Any], str] = shown
    """The figure as a cell of a table."""
    cell: Callable[[Run, Record], str] | None = None
    """In place of `show`, for a cell that says more than its figure."""
    style: Callable[[Run, Record], str] | None = None
    """Colour of the cell on a terminal, as rich names it."""
    is_left: bool = False
    """True for text."""
    drop: int = 0
    """Order in which columns are dropped if a table is too wide; 0 is never dropped."""
    fold: int = 0
    """Order in which cells are broken at blanks if a table is too wide, among the drops; 0 is never folded."""
    is_wide: bool = False
    """True for a column that tables have from 108 columns on."""
    is_on_request: bool = False
    """True for a column that tables have only if it is asked for."""
    is_optional: bool = False
    """True for a column that tables leave out if no record has its figure."""
    interval: tuple[str, str] | None = None
    """Names of the columns that hold the ends of its interval."""
    help: str = ""
    """What the figure is, with its unit, for the reference page and the page's tooltips."""

    def text(self, run: Run, record: Record) -> str:
        """The cell of one record; a dash without a figure."""
        if self.cell is not None:
            return self.cell(run, record)
        value = self.value(run, record)
        return DASH if value is None else self.show(value)


@dataclass(frozen=True)
class Table:
    """Cells that are text already."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_left: tuple[bool, ...] = ()
    """Which columns hold text; the first alone if empty."""
    styles: tuple[tuple[str, ...], ...] = ()
    """Colours of the cells on a terminal, by row, as rich names them."""

    def holds_text(self, column: int) -> bool:
        """True for a column of text, which is aligned to the left."""
        return self.is_left[column] if self.is_left else column == 0


@dataclass(frozen=True)
class Mark:
    """One figure of a plot."""

    series: str
    x: float | str
    """A number if all marks of the plot have one."""
    y: float
    low: float | None = None
    high: float | None = None
    """Ends of its interval."""


@dataclass(frozen=True)
class Plot:
    """Figures to be drawn on the page: lines over an axis of numbers, points over one of names."""

    title: str
    x: str
    y: str
    """Titles of the axes, with units."""
    marks: tuple[Mark, ...]
    is_x_logarithmic: bool = False
    is_y_logarithmic: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report: a title, then a table, sentences and a list, each if it has any."""

    title: str
    lines: Sequence[str] = ()
    """Sentences under the title."""
    table: Table | None = None
    items: Sequence[str] = ()
    """Entries of a list."""
    plots: Sequence[Plot] = ()
    """What the page draws; other formats have the table."""
    style: str = ""
    """Colour of the lines on a terminal."""
    point: Any = None
    """The point whose table the section stands under; None for one behind all tables."""

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to show."""
        return not (self.lines or self.items or (self.table is not None and self.table.rows))


def milliseconds(ns: float, half_ns: float | None = None) -> str:
    """Nanoseconds as milliseconds: digits as the half-width of their interval allows, four significant ones at most,
    e.g. `0.0123`, `1.234`, `123.4`, `12345`; `120` if that is known to within 20.
    """
    ms = ns / 1e6
    digits = 4 if ms < 0.1 else 3 if ms < 10 else 2 if ms < 100 else 1 if ms < 10000 else 0
    return known(ms, digits, None if half_ns is None else half_ns / 1e6)


def known(value: float, most_digits: int, half: float | None) -> str:
    """`value` rounded to the first digit of `half`, half the width of its interval; at most `most_digits` decimals."""
    if not half or not value:
        return f"{value:.{most_digits}f}"
    digits = min(most_digits, -math.floor(math.log10(min(half, abs(value)))))
    return f"{round(value, digits):.{max(0, digits)}f}"


def size(count: float) -> str:
    """Bytes as `1.25 GiB`, `310 MiB` or `0.4 MiB`."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.{0 if count >= 2**20 else 1}f} MiB"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, a dash for None."""
    if share is None:
        return DASH
    return f"{share:.{digits}%}" if share < 1 else f"{share:.0%}" if share < 10 else ">999%"


def plus_minus(value: float, low: float, high: float, show: Callable[[float], str] = shown) -> str:
    """Half of an interval as a share of its middle, `3.1%`; beyond `MOST_SHARE` its ends, `12.3–48.1`."""
    half = (high - low) / 2 / value
    return percent(half) if half <= MOST_SHARE else f"{show(low)}–{show(high)}"


def factor(value: float, half: float | None = None) -> str:
    """A ratio with three significant digits at most, or fewer by the half-width of its interval: `0.042`, `0.97`,
    `12.3`, `850`.
    """
    digits = 3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return known(value, digits, half) if value < 1e4 else f"{value:.0e}"


def span(low: float, high: float) -> str:
    """The ends of a ratio's interval: `1.21–1.34`."""
    return f"{factor(low)}–{factor(high)}"


def count(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
