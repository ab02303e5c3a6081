"""A run as text for a terminal, from 80 columns on: tables, sections, and where the records are."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.columns import Column, Section, Table
from bench.report import parts
from bench.run import state
from bench.run.record import Run
from bench.untrusted import plain

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
#: The widest that a report is; from here on tables have their wide columns.
WIDE = 108
#: Columns asked for beyond what one table holds stand in tables of their own, so many in each.
COLUMNS_OF_A_TABLE = 4
#: Order in which names of candidates are broken at blanks, among the columns' drops and folds.
FOLD_OF_NAMES = 10
LONGEST_WORD = 24
#: Titles of the columns of names; that of points is the workload's.
NAME, POINT = "backend", ""


def render(run: Run, columns: str | Sequence[str] = ()) -> str:
    """The report of a run, coloured if standard output is a terminal.

    `columns` are names of further columns that each table also has; if there is no room for them, others are dropped.
    Raises UserError for an unknown one, and for a damaged file whose figures make no sense.
    """
    text, console = terminal()
    with parts.readable(run):
        asked = parts.asked_columns(run, columns)
        if wrong := state.of_file(run):
            _print_filled(console, wrong, "bold red")
        for line in parts.heading(run):
            _print_filled(console, line)
        groups, behind = parts.groups(run)
        shown = parts.columns(run, groups, console.width >= WIDE, asked)
        sheets = [_sheet(run, group, shown) for group in groups]
        layout = _fitted(sheets, shown, asked, console.width)
        if layout.dropped:
            named = ", ".join(map(parts.title, layout.dropped))
            console.print(_plain(f"no room in {console.width} columns for {named}: see bench report --csv"))
        for group, sheet in zip(groups, sheets, strict=True):
            console.print()
            if group.title:
                console.print(_plain(group.title, "bold"))
            for table in _tables(sheet, layout, console.width):
                console.print(table)
            for section in group.sections:
                _print_section(console, section, "")
        for section in behind:
            _print_section(console, section, "bold")
    console.print()
    for line in (state.incomplete(run), f"records: {run.path}" if run.path is not None else ""):
        if line:
            console.print(_plain(line), soft_wrap=True)
    return text.getvalue()


def render_sections(heading: Iterable[str], sections: Iterable[Section]) -> str:
    """Lines and sections that are not those of one run, coloured if standard output is a terminal."""
    text, console = terminal()
    for line in heading:
        _print_filled(console, line)
    for section in sections:
        if not section.is_empty:
            if not section.title:
                console.print()
            _print_section(console, section, "bold")
    return text.getvalue()


def terminal() -> tuple[io.StringIO, Console]:
    """A text, and the console that writes to it at the terminal's width."""
    from rich.console import Console

    text = io.StringIO()
    width = min(max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns), WIDE)
    return text, Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)


def _print_filled(console: Console, line: str, style: str = "") -> None:
    filled = textwrap.fill(line, console.width, break_long_words=False, break_on_hyphens=False)
    console.print(_plain(filled, style), soft_wrap=True)


def _print_section(console: Console, section: Section, title_style: str) -> None:
    if section.title:
        console.print(_plain(f"\n{section.title}", title_style))
    for line in section.lines:
        _print_filled(console, line, section.style)
    if section.table is not None and section.table.rows:
        for table in _section_tables(section.table, console.width):
            console.print(table)
    for item in section.items:
        filled = textwrap.fill(item, console.width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        console.print(_plain(filled))


def _plain(text: str, style: str = "") -> Any:
    """Text in which nothing is markup, and that moves no cursor."""
    from rich.text import Text

    return Text(plain(text), style=style)


# Tables of records.


@dataclass(frozen=True)
class _Cells:
    """One column of a table: its cells as text, and their colours."""

    title: str
    texts: tuple[str, ...]
    styles: tuple[str, ...] = ()
    is_left: bool = False

    @cached_property
    def width(self) -> int:
        """Columns of the terminal that it takes."""
        from rich.cells import cell_len

        return max(cell_len(line) for text in (self.title, *self.texts) for line in text.split("\n") or [""])

    @property
    def longest_word(self) -> int:
        """Letters of the longest word in its cells."""
        return max((len(word) for text in self.texts for word in text.split()), default=0)

    @cached_property
    def folded(self) -> _Cells:
        """Broken at every blank, but for cells that are no longer than the longest word."""
        longest = self.longest_word
        texts = (text if len(text) <= longest else text.replace(" ", "\n") for text in self.texts)
        return replace(self, texts=tuple(texts))


#: The table of a group before it is laid out: names of points, if it has several, and of candidates, then its columns.
_Sheet = Mapping[Column | str, _Cells]


@dataclass(frozen=True)
class _Layout:
    """How all tables of a run are laid out."""

    apart: Sequence[Column] = ()
    """Columns that were asked for and stand in tables of their own."""
    dropped: Sequence[Column] = ()
    folded: Sequence[Column | str] = ()
    """Columns whose cells are broken at blanks."""

    def columns(self, sheet: _Sheet) -> list[_Cells]:
        """The columns of a table in their order."""
        left = {key: cells for key, cells in sheet.items() if key not in (*self.apart, *self.dropped)}
        return [cells.folded if key in self.folded else cells for key, cells in left.items()]


def _sheet(run: Run, group: parts.Group, columns: Sequence[Column]) -> _Sheet:
    records = group.records
    points = [run.workload.row_title(record.point) for record in records]
    first = tuple("" if at and point == points[at - 1] else point for at, point in enumerate(points))
    found: dict[Column | str, _Cells] = {}
    if len(set(points)) > 1:
        found[POINT] = _Cells(parts.point_title(run), first, is_left=True)
    found[NAME] = _Cells(NAME, tuple(run.name(record.candidate) for record in records), is_left=True)
    for column in columns:
        texts = tuple(column.text(run, record) for record in records)
        styles = tuple(column.style(run, record) if column.style else "" for record in records)
        is_text = not column.title and any(isinstance(column.value(run, record), str) for record in records)
        found[column] = _Cells(parts.title(column), texts, styles, column.is_left or is_text)
    return found


def _fitted(sheets: Sequence[_Sheet], shown: Sequence[Column], asked: Sequence[Column], width: int) -> _Layout:
    """The layout that fits: with as many of the `asked` columns as may be, after as few drops and folds as need be."""
    steps: list[tuple[int, str, Column | str]] = [(FOLD_OF_NAMES, "fold", NAME)]
    steps += [(column.drop, "drop", column) for column in shown if column.drop and column not in asked]
    steps += [(column.fold, "fold", column) for column in shown if column.fold]
    steps.sort(key=lambda step: step[0])
    layout = _Layout()
    for count in range(len(asked), -1, -1):
        for taken in range(len(steps) + 1):
            dropped = [one for _, does, one in steps[:taken] if does == "drop" and isinstance(one, Column)]
            folded = [one for _, does, one in steps[:taken] if does == "fold"]
            layout = _Layout(asked[count:], dropped, folded)
            if all(_width(layout.columns(sheet)) <= width for sheet in sheets):
                return layout
    return layout


def _width(columns: Sequence[_Cells]) -> int:
    return sum(column.width for column in columns) + len(columns) - 1


def _tables(sheet: _Sheet, layout: _Layout, width: int) -> Iterator[Any]:
    """The table of a group, then those of the columns that have no room in it."""
    leading = [cells for key, cells in sheet.items() if isinstance(key, str)]
    laid_out = layout.columns(sheet)
    yield from _split(laid_out[: len(leading)], laid_out[len(leading) :], width)
    for start in range(0, len(layout.apart), COLUMNS_OF_A_TABLE):
        yield ""
        yield from _split(leading, [sheet[one] for one in layout.apart[start : start + COLUMNS_OF_A_TABLE]], width)


def _split(leading: Sequence[_Cells], columns: Sequence[_Cells], width: int) -> Iterator[Any]:
    """One table, or several that each begin with the `leading` columns if no layout makes it narrow enough."""
    room = width - sum(min(column.width, LONGEST_WORD) + 1 for column in leading)
    tables: list[list[_Cells]] = [[]]
    for column in columns:
        if tables[-1] and _width([*tables[-1], column]) > room:
            tables.append([])
        tables[-1].append(column)
    for at, taken in enumerate(tables):
        yield from [""] if at else []
        yield _table([*leading, *taken])


def _table(columns: Sequence[_Cells]) -> Any:
    """Columns of equal length as a table; text may be broken within words of more than 24 letters, figures never."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.show_header = any(column.title for column in columns)
    for column in columns:
        if column.is_left:
            table.add_column(_plain(column.title), overflow="fold", min_width=min(column.longest_word, LONGEST_WORD))
        else:
            table.add_column(_plain(column.title), justify="right", no_wrap=True)
    for at in range(len(columns[0].texts)):
        table.add_row(*(_plain(one.texts[at], one.styles[at] if one.styles else "") for one in columns))
    return table


def _section_tables(table: Table, width: int) -> Iterator[Any]:
    """The table of a section; if it is too wide, titles are broken at blanks, and text is wrapped or broken."""
    columns = [
        _Cells(
            title, tuple(row[at] for row in table.rows), tuple(row[at] for row in table.styles), table.holds_text(at)
        )
        for at, title in enumerate(table.titles)
    ]
    if not _has_room(columns, width):
        columns = [replace(one, title=one.title.replace(" ", "\n")) for one in columns]
    if _has_room(columns, width):
        yield _table(columns)
    else:
        columns = [one.folded if one.is_left else one for one in columns]
        yield from _split(columns[:1], columns[1:], width)


def _has_room(columns: Sequence[_Cells], width: int) -> bool:
    """True if columns fit, or if the widest column of text can be wrapped to the room that the others leave."""
    widest = max((one for one in columns if one.is_left), key=lambda one: one.width, default=None)
    missing = _width(columns) - width
    return missing <= 0 or (widest is not None and widest.width - missing >= widest.folded.width)
