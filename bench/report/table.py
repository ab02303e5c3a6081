"""A run as a table for a terminal of 80 columns."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import statistics
from bench.records import Record, Run
from bench.report import batches, published, starts, summary
from bench.report.columns import COLUMNS
from bench.rows import row
from bench.spec import Grid

WIDTH = 80
#: From this width on the table also has milliseconds a sample and percentiles.
WIDE = 108
#: Stands before the median of a cell that was disturbed; a warning says by what.
TAINTED = "!"
#: How a table makes room for long names and for columns that are asked for, step by step: a column's cells are broken
#: at every blank, or it goes.
STEPS = (
    ("fold", "backend"), ("drop", "p99 ms"), ("drop", "p90 ms"), ("drop", "ms/sample"), ("drop", "spread"),
    ("fold", "speed-up"), ("drop", "max |Δ|"), ("drop", "floor"), ("drop", "±"),
)  # fmt: skip
#: Columns asked for beyond what one table holds stand in tables of their own, so many in each.
COLUMNS_OF_A_TABLE = 4
PARITY_STYLES = {"broken": "red", "lossy": "yellow", "unjudged": "yellow"}
KINDS_OF_TIME = {
    "rounds": "wall",
    "device_rounds": "device",
    "enqueue_rounds": "enqueue",
    "pipelined_rounds": "pipelined",
    "naive_rounds": "naive (wrong)",
}


def render(run: Run, columns: Sequence[str] = ()) -> str:
    """One table a shape, then reasons, warnings, the file, as text; coloured where standard output is a terminal.

    `columns` are names of `COLUMNS` that each table also has; where there is no room for them, others are given up.
    """
    from rich.console import Console
    from rich.text import Text

    width = min(max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns), WIDE)
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)
    for line in _heading(run):
        console.print(Text(textwrap.fill(line, width, break_on_hyphens=False)))
    measured = [(shape, records) for shape, records in summary.shapes(run) if not summary.is_left_out(run, records)]
    rows = [_rows(run, records, width >= WIDE, columns) for _, records in measured]
    layout = _fitted(rows, columns, console)
    if layout.given_up:
        console.print(Text(f"no room in {width} columns for {', '.join(layout.given_up)}: see --format csv"))
    for (shape, records), its_rows in zip(measured, rows, strict=True):
        console.print()
        console.print(Text(f"batch {shape.batch} × length {shape.length}", style="bold"))
        console.print(_table(its_rows, layout))
        apart = [name for name in columns if COLUMNS[name].title in layout.left_out]
        for start in range(0, len(apart), COLUMNS_OF_A_TABLE):
            console.print()
            console.print(_table_apart(run, records, apart[start : start + COLUMNS_OF_A_TABLE]))
        if won := summary.winner(run, records):
            console.print(Text(summary.winner_line(run, won), style="green"))
        if any(getattr(record, kind) for record in records for kind in list(KINDS_OF_TIME)[1:]):
            console.print("\nkinds of time, ms")
            console.print(_kinds_of_time(run, records))
            if any(record.naive_rounds for record in records):
                console.print("naive: a clock that never waits for the device; wrong where that works on its own")
    if lines := batches.heading(run):
        console.print(Text(f"\n{lines[0]}", style="bold"))
        console.print(Text(textwrap.fill(lines[1], width, break_on_hyphens=False)))
        console.print(_batches(run))
        for line in batches.lines(run):
            console.print(Text(item(line, width)))
    if lines := published.heading(run):
        console.print(Text(f"\n{lines[0]}", style="bold"))
        for line in lines[1:]:
            console.print(Text(textwrap.fill(line, width, break_on_hyphens=False)))
        console.print(_published(run))
        for line in published.explanations(run):
            console.print(Text(item(line, width)))
    if (memory := _memory(run, console)) is not None:
        console.print(Text("\nMemory, MiB", style="bold"))
        console.print(memory)
        for line in summary.cache_lines(run):
            console.print(Text(line))
    reasons, warnings = summary.findings(run)
    sections = (
        ("What ran", summary.engagement(run)), ("Compilation", starts.lines(run)), ("Not measured", reasons),
        ("Warnings", warnings),
    )  # fmt: skip
    for title, lines in sections:
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                console.print(Text(item(line, width)))
    console.print()
    if not run.is_complete:
        planned = len(run.grid.shapes) * len(run.grid.contestants)
        left = f"Incomplete: {len(run.records)} of {planned} cells; bench compare --resume {run.path} goes on"
        console.print(Text(left), soft_wrap=True)
    if run.path is not None:
        console.print(Text(f"records: {run.path}"), soft_wrap=True)
    return text.getvalue()


def item(line: str, width: int) -> str:
    """A line of a list, its continuation lines indented."""
    return textwrap.fill(line, width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def machine_line(grid: Grid, fingerprint: Mapping[str, Any]) -> str:
    """Precisions, device, threads and TF32, in one line."""
    precisions = ", ".join(dict.fromkeys(contestant.precision for contestant in grid.contestants))
    machine = fingerprint.get("cpu", "")
    if grid.device == "cuda" and fingerprint.get("gpus"):
        machine = fingerprint["gpus"][0]["name"]
    threads = f"{grid.threads} thread" + ("" if grid.threads == 1 else "s")
    return f"{precisions}, {grid.device} ({machine}), {threads}" + (", TF32" if grid.tf32 else "")


def _heading(run: Run) -> list[str]:
    grid = run.grid
    given = f"preset {run.preset['name']}: {run.preset['title']} ({run.preset['source']})" if run.preset else ""
    return [
        *([given] if given else []),
        f"{grid.model} ({grid.output}), {machine_line(grid, run.fingerprint)}",
        f"weights: {run.origin}",
        (
            f"median of synchronised calls, {summary.boundary(run)}; "
            f"±: {statistics.MEDIAN_CONFIDENCE:.0%} interval; spread: interquartile range; "
            f"speed-up: against {grid.contestants[0].label} within rounds, {statistics.RATIO_CONFIDENCE:.0%} interval; "
            "floor: share of what this machine's peak allows"
        ),
    ]


@dataclass(frozen=True)
class _Layout:
    """How the tables of all shapes are laid out."""

    left_out: Sequence[str] = ()
    """Titles of columns asked for that stand in a table of their own."""
    given_up: Sequence[str] = ()
    """Titles of its own columns that there is no room for."""
    folded: Sequence[str] = ()
    """Titles of columns that are broken at every blank."""


def _fitted(tables: Sequence[list[dict[str, Any]]], columns: Sequence[str], console: Any) -> _Layout:
    """The layout that fits: with as many of `columns` as may be, after as few of `STEPS` as need be."""
    asked = [COLUMNS[name].title for name in columns]
    its_own = {title for rows in tables for title in rows[0]} - set(asked)
    steps = [(what, title) for what, title in STEPS if title in its_own]
    layout = _Layout(asked)
    for count in range(len(asked), -1, -1):
        for taken in range(len(steps) + 1):
            given_up, folded = ([title for does, title in steps[:taken] if does == what] for what in ("drop", "fold"))
            layout = _Layout(asked[count:], given_up, folded)
            if max((_width(_table(rows, layout), console) for rows in tables), default=0) <= console.width:
                return layout
    return layout


def _fold(cells: Sequence[str]) -> list[str]:
    """A column's cells, broken at every blank where they are longer than its longest word."""
    longest = max(len(word) for cell in cells for word in cell.split())
    return [cell if len(cell) <= longest else cell.replace(" ", "\n") for cell in cells]


def _rows(run: Run, records: Sequence[Record], is_wide: bool, further: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of one shape's rows, by their columns' titles."""
    return [{"backend": summary.name(run, record)} | _cells(run, record, is_wide, further) for record in records]


def _table(rows: Sequence[Mapping[str, Any]], layout: _Layout) -> Any:
    table = _empty_table([cells["backend"] for cells in rows])
    titles = [title for title in rows[0] if title not in ("backend", *layout.given_up, *layout.left_out)]
    for title in titles:
        is_left = title in ("speed-up", "parity")
        table.add_column(title, justify="left" if is_left else "right", no_wrap=True)
    columns = {title: [cells[title] for cells in rows] for title in ("backend", *titles)}
    columns |= {title: _fold(columns[title]) for title in layout.folded}
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _cells(run: Run, record: Record, is_wide: bool, further: Sequence[str]) -> dict[str, Any]:
    """The cells of one row by their column's title; dashes where there is no figure."""
    from rich.text import Text

    is_ok = record.status == "ok"
    q1, median, q3 = statistics.quartiles(record.samples) if is_ok else (0.0, 1.0, 0.0)
    mark = TAINTED if is_ok and run.taint(record) else ""
    cells: dict[str, Any] = {"median ms": mark + milliseconds(median) if is_ok else record.status}
    cells["±"] = percent(statistics.precision(record.rounds)) if is_ok else "–"
    cells["spread"] = percent((q3 - q1) / median) if is_ok else "–"
    if is_wide:
        tails = [record.percentile(rank) if is_ok else None for rank in (90, 99)]
        p90, p99 = (milliseconds(ns) if ns else "–" for ns in tails)
        cells |= {"ms/sample": milliseconds(median / record.batch) if is_ok else "–", "p90 ms": p90, "p99 ms": p99}
    figures = row(run, record) if further else {}
    cells |= {COLUMNS[name].title: COLUMNS[name].cell(figures) for name in further}
    cells["speed-up"] = summary.speedup_cell(run, record) if is_ok else "–"
    cells["floor"] = percent(run.floor_share(record), digits=0) if is_ok else "–"
    cells["parity"] = Text(record.verdict or "–", style=PARITY_STYLES.get(record.verdict, ""))
    error = record.parity.get("max_abs_error")
    cells["max |Δ|"] = f"{error:.1e}" if error is not None else "–"
    return cells


def _table_apart(run: Run, records: list[Record], further: Sequence[str]) -> object:
    """Columns that were asked for and found no room in the shape's table."""
    table = _empty_table([summary.name(run, record) for record in records])
    for name in further:
        table.add_column(COLUMNS[name].title, justify="right", no_wrap=True)
    for record in records:
        figures = row(run, record)
        table.add_row(summary.name(run, record), *(COLUMNS[name].cell(figures) for name in further))
    return table


def _batches(run: Run) -> object:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in batches.TITLES:
        is_name = title == "backend"
        table.add_column(title, justify="left" if is_name else "right", overflow="fold", no_wrap=not is_name)
    for cells in batches.table(run):
        table.add_row(*cells)
    return table


def _published(run: Run) -> object:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    titles, rows = published.table(run)
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index else "left", no_wrap=index > 0)
    for cells in rows:
        table.add_row(*cells)
    return table


def _kinds_of_time(run: Run, records: list[Record]) -> object:
    """Beside the headline's: device, enqueue, pipelined and naive times, where a cell has them."""
    table = _empty_table([summary.name(run, record) for record in records])
    kinds = [kind for kind in KINDS_OF_TIME if any(getattr(record, kind) for record in records)]
    for kind in kinds:
        table.add_column(KINDS_OF_TIME[kind], justify="right", no_wrap=True)
    has_host_share = any(record.host_share is not None for record in records)
    if has_host_share:
        table.add_column("host share", justify="right", no_wrap=True)
    for record in records:
        times = (statistics.pooled(getattr(record, kind)) for kind in kinds)
        cells = [milliseconds(statistics.median(samples)) if samples else "–" for samples in times]
        cells += [percent(record.host_share, digits=0)] if has_host_share else []
        table.add_row(summary.name(run, record), *cells)
    return table


def _memory(run: Run, console: Any) -> Any:
    """Once a contestant: what it held when loaded, and at the peak of one call at its last shape."""
    records = summary.largest_with_memory(run)
    if not records:
        return None
    table = _memory_table(run, records, is_folded=False)
    return table if _width(table, console) <= console.width else _memory_table(run, records, is_folded=True)


def _memory_table(run: Run, records: Sequence[Record], is_folded: bool) -> Any:
    names = [summary.name(run, record) for record in records]
    table = _empty_table(names)
    peak = "peak of\na call" if is_folded else "peak of a call"
    for title in ("parameters", "allocated", "reserved", "process", peak, "at"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, record in zip(_fold(names) if is_folded else names, records, strict=True):
        held = [record.memory["loaded"].get(f"{name}_bytes") for name in ("parameters", "allocated", "reserved")]
        held += [record.process_bytes, record.peak_bytes]
        cells = [f"{value / 2**20:.0f}" if value is not None else "–" for value in held]
        table.add_row(name, *cells, str(record.shape))
    return table


def _width(table: Any, console: Any) -> int:
    """Columns that a table takes where nothing of it is cropped."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _empty_table(names: Sequence[str]) -> Any:
    """A table whose first column has room for the longest word of the contestants' `names`."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    longest_word = max(len(word) for name in names for word in name.split())
    table.add_column("backend", overflow="fold", min_width=min(longest_word, 24))
    return table


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, a dash for none."""
    if share is None:
        return "–"
    return f"{share:.{digits}%}" if share < 1 else f"{share:.0%}" if share < 10 else ">999%"


def milliseconds(nanoseconds: float) -> str:
    """Milliseconds with four significant digits at most, e.g. `0.0123`, `1.234`, `123.4`, `12345`."""
    value = nanoseconds / 1e6
    digits = 4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1 if value < 10000 else 0
    return f"{value:.{digits}f}"
