"""The crossover map: which candidate is fastest at each batch × length, and how far ahead of the next it is."""

from __future__ import annotations

import io
import string
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from bench.columns import DASH
from bench.run.leads import Lead, leads
from bench.run.record import Run
from bench.spec import Candidate, Shape
from bench.untrusted import plain

#: Background and text by candidate, in the order of the run; told apart under every common colour blindness (Okabe and
#: Ito 2008, "Color Universal Design"), each with a contrast of text above 4.5 (WCAG 2.1).
COLOURS = (
    ("#56b4e9", "black"), ("#e69f00", "black"), ("#009e73", "black"), ("#f0e442", "black"),
    ("#0072b2", "white"), ("#d55e00", "black"), ("#cc79a7", "black"), ("#bbbbbb", "black"),
)  # fmt: skip
#: Stands where it is not decided who is fastest.
UNDECIDED = "?"


def render_map(run: Run, width: int = 80, colour: bool = False) -> str:
    """The map as text of at most `width` columns, one line a batch; lengths that do not fit stand in further tables.

    Names stand in the cells if one table holds them all, else letters. `colour` fills each cell with its winner's,
    the same as another has coloured letters alone. "" if no two shapes have a winner.
    """
    from rich.console import Console
    from rich.text import Text

    cells = {lead.point: lead for lead in leads(run)}
    if sum(cell.winner is not None for cell in cells.values()) < 2:
        return ""
    winners = [cell.record.candidate for cell in cells.values() if cell.winner is not None and cell.is_decided]
    names = {candidate: run.name(candidate) for candidate in run.candidates if candidate in winners}
    letters = {
        candidate: string.ascii_uppercase[index] if index < 26 else str(index) for index, candidate in enumerate(names)
    }
    batches, lengths = (sorted({getattr(shape, size) for shape in cells}) for size in ("batch", "length"))
    first = max(len(text) for text in ("batch", *map(str, batches)))
    shown, legend = names, []
    widths = _widths(cells, lengths, names)
    if first + sum(2 + one for one in widths.values()) > width:
        shown, legend = letters, ["; ".join(f"{letters[one]} {name}" for one, name in names.items())]
        widths = _widths(cells, lengths, letters)

    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=colour, highlight=False, emoji=False, soft_wrap=True)
    title = "Fastest at each batch × length, and how many times faster than the next"
    console.print(Text(textwrap.fill(plain(title), width), style="bold"))
    for some in _blocks(widths, width - first):
        console.print(Text("batch".rjust(first) + "".join(f"  {length:>{widths[length]}}" for length in some)))
        for batch in batches:
            row = Text(str(batch).rjust(first))
            for length in some:
                cell, style = cells.get(Shape(batch, length)), ""
                if cell is not None and cell.winner is not None and cell.is_decided:
                    fill, ink = COLOURS[run.candidates.index(cell.winner.candidate) % len(COLOURS)]
                    style = fill if cell.same else f"{ink} on {fill}"
                row.append("  ").append(_text(cell, shown).rjust(widths[length]), style)
            row.rstrip()
            console.print(row)
    for line in [*legend, *_notes(cells.values())]:
        console.print(Text(textwrap.fill(plain(line), width, subsequent_indent="  ", break_on_hyphens=False)))
    return text.getvalue()


def _widths(cells: Mapping[Shape, Lead], lengths: Sequence[int], names: Mapping[Candidate, str]) -> dict[int, int]:
    """Width of each length's column."""
    return {
        length: max(len(str(length)), *(len(_text(cell, names)) for at, cell in cells.items() if at.length == length))
        for length in lengths
    }


def _blocks(widths: Mapping[int, int], room: int) -> list[list[int]]:
    """Lengths in groups, each as wide as `room` lets it."""
    blocks: list[list[int]] = [[]]
    left = room
    for length, width in widths.items():
        if blocks[-1] and 2 + width > left:
            blocks.append([])
            left = room
        blocks[-1].append(length)
        left -= 2 + width
    return blocks


def _text(cell: Lead | None, names: Mapping[Candidate, str]) -> str:
    """What stands at a shape; nothing if it was not measured."""
    if cell is None or cell.winner is None:
        return "" if cell is None else DASH
    if not cell.is_decided:
        return UNDECIDED
    return f"{names[cell.winner.candidate]} {cell.text}"


def _notes(cells: Iterable[Lead]) -> list[str]:
    """What the words in the cells mean, in one line."""
    told = {
        "undecided": f"{UNDECIDED}: undecided, so none is known to be the fastest",
        "same": "same: another is as fast, within 3%",
        "faster": "faster: the rounds disagree on how much",
        "alone": "alone: no other was measured there as the same model",
        "": f"{DASH}: none was",
    }
    texts = {cell.text for cell in cells}
    found = "; ".join(note for lead, note in told.items() if lead in texts)
    return [found] if found else []
