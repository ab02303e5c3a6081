"""The crossover map: which candidate is fastest at each batch × length, and how far ahead of the next it is."""

from __future__ import annotations

import io
import string
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.columns import DASH
from bench.run.leads import Lead, leads
from bench.run.record import Run
from bench.spec import Candidate, Shape

if TYPE_CHECKING:
    from rich.text import Text

#: Background and text by candidate, in the order of the run; told apart under every common colour blindness (Okabe and
#: Ito 2008, "Color Universal Design"), each with a contrast of text above 4.5 (WCAG 2.1).
COLOURS = (
    ("#56b4e9", "black"), ("#e69f00", "black"), ("#009e73", "black"), ("#f0e442", "black"),
    ("#0072b2", "white"), ("#d55e00", "black"), ("#cc79a7", "black"), ("#bbbbbb", "black"),
)  # fmt: skip
#: Stands for a shape at which no time can be compared.
NO_WINNER = DASH


def render_map(run: Run, width: int = 80, colour: bool = False) -> str:
    """The map as text of at most `width` columns, one line a batch; lengths that do not fit stand in further tables.

    Names stand in the cells where one table holds them all, else letters. `colour` fills each cell with its winner's,
    a tie has coloured letters alone. "" where no two shapes have a winner.
    """
    from rich.console import Console
    from rich.text import Text

    cells = {lead.point: lead for lead in leads(run)}
    winners = [cell.winner for cell in cells.values() if cell.winner is not None]
    if len(winners) < 2:
        return ""
    names = {record.candidate: run.name(record.candidate) for record in winners}
    batches = sorted({shape.batch for shape in cells})
    lengths = sorted({shape.length for shape in cells})
    first = max(len("batch"), *(len(str(batch)) for batch in batches))
    columns = _columns(cells, lengths, names)
    has_names = first + sum(2 + column for column in columns.values()) <= width
    letters = _letters(run, names)
    if not has_names:
        columns = _columns(cells, lengths, letters)

    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=colour, highlight=False, emoji=False, soft_wrap=True)
    title = "Fastest at each batch × length, and how many times faster than the next"
    console.print(Text(textwrap.fill(title, width), style="bold"))
    shown, styles = names if has_names else letters, _styles(run)
    for some in _blocks(columns, width - first):
        console.print(Text("batch".rjust(first) + "".join(f"  {length:>{columns[length]}}" for length in some)))
        for batch in batches:
            row = Text(str(batch).rjust(first))
            for length in some:
                row.append("  ")
                row.append_text(_shown(cells.get(Shape(batch, length)), shown, columns[length], styles))
            row.rstrip()
            console.print(row)
    for line in _legend(run, cells, {} if has_names else letters, names):
        console.print(Text(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False)))
    return text.getvalue()


def _columns(cells: Mapping[Shape, Lead], lengths: Sequence[int], names: Mapping[Candidate, str]) -> dict[int, int]:
    """Width of each length's column."""
    widths = {length: len(str(length)) for length in lengths}
    for cell in cells.values():
        widths[cell.point.length] = max(widths[cell.point.length], len(_text(cell, names)))
    return widths


def _blocks(columns: Mapping[int, int], room: int) -> list[list[int]]:
    """Lengths in groups, each as wide as `room` lets it."""
    blocks: list[list[int]] = [[]]
    left = room
    for length, column in columns.items():
        if 2 + column > left and blocks[-1]:
            blocks.append([])
            left = room
        blocks[-1].append(length)
        left -= 2 + column
    return blocks


def _letters(run: Run, names: Mapping[Candidate, str]) -> dict[Candidate, str]:
    """A, B, C … for those who win somewhere, in the order of the run; numbers after Z."""
    winners = [candidate for candidate in run.candidates if candidate in names]
    return {
        candidate: string.ascii_uppercase[index] if index < 26 else str(index)
        for index, candidate in enumerate(winners)
    }


def _text(cell: Lead, names: Mapping[Candidate, str]) -> str:
    return NO_WINNER if cell.winner is None else f"{names[cell.winner.candidate]} {cell.text}"


def _shown(
    cell: Lead | None, names: Mapping[Candidate, str], column: int, styles: Mapping[Candidate, tuple[str, str]]
) -> Text:
    """The cell's text, filled up to its column's width; nothing for a shape that was not measured."""
    from rich.text import Text

    if cell is None or cell.winner is None:
        return Text(("" if cell is None else NO_WINNER).rjust(column))
    fill, ink = styles[cell.winner.candidate]
    return Text(_text(cell, names).rjust(column), style=fill if cell.is_tie else f"{ink} on {fill}")


def _styles(run: Run) -> dict[Candidate, tuple[str, str]]:
    return {candidate: COLOURS[index % len(COLOURS)] for index, candidate in enumerate(run.candidates)}


def _legend(
    run: Run, cells: Mapping[Shape, Lead], letters: Mapping[Candidate, str], names: Mapping[Candidate, str]
) -> list[str]:
    lines = []
    if letters:
        lines.append("; ".join(f"{letter} {names[candidate]}" for candidate, letter in letters.items()))
    told = {
        "tie": "tie: another cannot be told from it",
        "faster": "faster: the rounds disagree on how much",
        "alone": "alone: no other was measured there as the same model",
    }
    texts = {cell.text for cell in cells.values()}
    notes = [note for lead, note in told.items() if lead in texts]
    if any(cell.winner is None for cell in cells.values()):
        notes.append(f"{NO_WINNER}: none was")
    return [*lines, *(["; ".join(notes)] if notes else [])]
