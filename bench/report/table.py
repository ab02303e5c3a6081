"""A run as a table for a terminal of 80 columns."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from bench import statistics
from bench.records import Record, Run
from bench.report import summary
from bench.spec import Grid

WIDTH = 80
#: From this width on the table also has milliseconds a sample and percentiles.
WIDE = 108
#: Stands before the median of a cell that was disturbed; a warning says by what.
TAINTED = "!"
PARITY_STYLES = {"broken": "red", "lossy": "yellow", "unjudged": "yellow"}
KINDS_OF_TIME = {
    "rounds": "wall",
    "device_rounds": "device",
    "enqueue_rounds": "enqueue",
    "pipelined_rounds": "pipelined",
    "naive_rounds": "naive (wrong)",
}


def render(run: Run) -> str:
    """One table a shape, then reasons, warnings, the file, as text; coloured where standard output is a terminal."""
    from rich.console import Console
    from rich.text import Text

    width = min(max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns), WIDE)
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)
    for line in _heading(run):
        console.print(Text(textwrap.fill(line, width, break_on_hyphens=False)))
    for shape, records in summary.shapes(run):
        console.print()
        console.print(Text(f"batch {shape.batch} × length {shape.length}", style="bold"))
        console.print(_table(run, records, width >= WIDE))
        if won := summary.winner(run, records):
            console.print(Text(summary.winner_line(run, won), style="green"))
        if any(getattr(record, kind) for record in records for kind in list(KINDS_OF_TIME)[1:]):
            console.print("\nkinds of time, ms")
            console.print(_kinds_of_time(run, records))
            if any(record.naive_rounds for record in records):
                console.print("naive: a clock that never waits for the device; wrong where that works on its own")
    if (memory := _memory(run)) is not None:
        console.print(Text("\nMemory, MiB", style="bold"))
        console.print(memory)
        for line in summary.cache_lines(run):
            console.print(Text(line))
    reasons, warnings = summary.findings(run)
    for title, lines in (("What ran", summary.engagement(run)), ("Not measured", reasons), ("Warnings", warnings)):
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
    """Precisions, device and threads, in one line."""
    precisions = ", ".join(dict.fromkeys(contestant.precision for contestant in grid.contestants))
    machine = fingerprint.get("cpu", "")
    if grid.device == "cuda" and fingerprint.get("gpus"):
        machine = fingerprint["gpus"][0]["name"]
    threads = f"{grid.threads} thread" + ("" if grid.threads == 1 else "s")
    return f"{precisions}, {grid.device} ({machine}), {threads}"


def _heading(run: Run) -> list[str]:
    grid = run.grid
    output = "last hidden state" if grid.task == "base" else "logits"
    return [
        f"{grid.model} ({output}), {machine_line(grid, run.fingerprint)}",
        f"weights: {run.origin}",
        (
            f"median of synchronised calls, {summary.boundary(run)}; "
            f"±: {statistics.MEDIAN_CONFIDENCE:.0%} interval; spread: interquartile range; "
            f"speed-up: against {grid.contestants[0].label} within rounds, {statistics.RATIO_CONFIDENCE:.0%} interval; "
            "floor: share of what this machine's peak allows"
        ),
    ]


def _table(run: Run, records: list[Record], is_wide: bool) -> object:
    from rich.text import Text

    table = _empty_table(run, records)
    table.add_column("median ms", justify="right", no_wrap=True)
    for title in ("±", "spread", *(("ms/sample", "p90 ms", "p99 ms") if is_wide else ())):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("speed-up")
    table.add_column("floor", justify="right", no_wrap=True)
    table.add_column("parity", no_wrap=True)
    table.add_column("max |Δ|", justify="right", no_wrap=True)
    for record in records:
        parity = Text(record.verdict or "–", style=PARITY_STYLES.get(record.verdict, ""))
        error = record.parity.get("max_abs_error")
        error_cell = f"{error:.1e}" if error is not None else "–"
        if record.status != "ok":
            dashes = ["–"] * (7 if is_wide else 4)
            table.add_row(summary.name(run, record), record.status, *dashes, parity, error_cell)
            continue
        q1, median, q3 = statistics.quartiles(record.samples)
        precision = statistics.precision(record.rounds)
        mark = TAINTED if run.taint(record) else ""
        cells = [mark + milliseconds(median), percent(precision), percent((q3 - q1) / median)]
        if is_wide:
            tails = (record.percentile(rank) for rank in (90, 99))
            cells += [milliseconds(median / record.batch), *(milliseconds(ns) if ns else "–" for ns in tails)]
        cells += [summary.speedup_cell(run, record), percent(run.floor_share(record), digits=0)]
        table.add_row(summary.name(run, record), *cells, parity, error_cell)
    return table


def _kinds_of_time(run: Run, records: list[Record]) -> object:
    """Beside the headline's: device, enqueue, pipelined and naive times, where a cell has them."""
    table = _empty_table(run, records)
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


def _memory(run: Run) -> Any:
    """Once a contestant: what it held when loaded, and at the peak of one call at its last shape."""
    records = summary.largest_with_memory(run)
    if not records:
        return None
    table = _empty_table(run, records)
    for title in ("parameters", "allocated", "reserved", "process", "peak of a call", "at"):
        table.add_column(title, justify="right", no_wrap=True)
    for record in records:
        held = [record.memory["loaded"].get(f"{name}_bytes") for name in ("parameters", "allocated", "reserved")]
        held += [summary.process_bytes(record), summary.peak_bytes(record)]
        cells = [f"{value / 2**20:.0f}" if value is not None else "–" for value in held]
        table.add_row(summary.name(run, record), *cells, str(record.shape))
    return table


def _empty_table(run: Run, records: list[Record]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    longest_word = max(len(word) for record in records for word in summary.name(run, record).split())
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
