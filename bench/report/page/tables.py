"""Tables of the page: text beside the value that it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.columns import shown


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    value: float | None = None
    """What it is sorted by, where that is no text."""
    tone: str = ""
    """"bad", "doubtful" or "good"."""

    @property
    def sorted_by(self) -> str:
        """The value as JavaScript reads it; "" for none."""
        if self.value is None:
            return ""
        return "Infinity" if math.isinf(self.value) else f"{self.value:.12g}"


@dataclass(frozen=True)
class Table:
    """Rows under titles."""

    titles: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    helps: tuple[str, ...] = ()
    """What a title means, shown on hover; "" or nothing if it says so itself."""

    def help(self, column: int) -> str:
        """What the title of a column means."""
        return self.helps[column] if column < len(self.helps) else ""

    @property
    def is_number(self) -> tuple[bool, ...]:
        """By column: True where its cells are values."""
        return tuple(any(row[index].value is not None for row in self.rows) for index in range(len(self.titles)))


DASH = Cell("–")
#: How a verdict of parity reads at a glance.
TONES = {
    "original": "good",
    "exact": "good",
    "equivalent": "good",
    "lossy": "doubtful",
    "unjudged": "doubtful",
    "broken": "bad",
}


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], helps: Sequence[str] = ()) -> Table:
    """Rows of cells; what is none is text, and sorted as such."""
    made = (tuple(cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row) for row in rows)
    return Table(tuple(titles), tuple(made), tuple(helps))


def number(value: float | None, text: str | None = None) -> Cell:
    """A value with about four digits, or as `text` has it; a dash for None."""
    return DASH if value is None else Cell(shown(value) if text is None else text, float(value))


def share(value: float | None) -> Cell:
    """A share in percent."""
    return DASH if value is None else Cell(f"{value:.1%}" if abs(value) < 0.1 else f"{value:.0%}", float(value))


def verdict(text: str) -> Cell:
    """A verdict of parity; a dash for none."""
    return Cell(text or "–", tone=TONES.get(text, ""))
