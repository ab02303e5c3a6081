"""A run as a table for a terminal of 80 columns."""

from __future__ import annotations

import io
import shutil
import sys

from bench import statistics
from bench.records import Record, Run
from bench.report import summary

WIDTH = 80


def render(run: Run) -> str:
    """One table a shape, then reasons, warnings, the file, as text; coloured where standard output is a terminal."""
    from rich.console import Console
    from rich.text import Text

    width = max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    text = io.StringIO()
    console = Console(
        file=text, width=min(width, 100), force_terminal=sys.stdout.isatty(), highlight=False, emoji=False
    )
    for line in _heading(run):
        console.print(Text(line))
    for shape, records in summary.shapes(run):
        console.print()
        console.print(Text(f"batch {shape.batch} × length {shape.length}", style="bold"))
        console.print(_table(run, records))
        if won := summary.winner(run, records):
            console.print(Text(summary.winner_line(run, won), style="green"))
    reasons, warnings = summary.findings(run)
    for title, lines in (("Not measured", reasons), ("Warnings", warnings)):
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                console.print(Text(f"- {line}"))
    console.print()
    if not run.is_complete:
        planned = len(run.grid.shapes) * len(run.grid.contestants)
        left = f"Incomplete: {len(run.records)} of {planned} cells; bench compare --resume {run.path} goes on"
        console.print(Text(left), soft_wrap=True)
    if run.path is not None:
        console.print(Text(f"records: {run.path}"), soft_wrap=True)
    return text.getvalue()


def _heading(run: Run) -> list[str]:
    grid = run.grid
    precisions = ", ".join(dict.fromkeys(contestant.precision for contestant in grid.contestants))
    output = "last hidden state" if grid.task == "base" else "logits"
    machine = run.fingerprint.get("cpu", "")
    if grid.device == "cuda" and run.fingerprint.get("gpus"):
        machine = run.fingerprint["gpus"][0]["name"]
    threads = f"{grid.threads} thread" + ("" if grid.threads == 1 else "s")
    return [
        f"{grid.model} ({output}), {precisions}, {grid.device} ({machine}), {threads}",
        f"weights: {run.origin}",
        "median of synchronised calls, spread is the interquartile range; speed-up",
        f"within rounds against {grid.contestants[0].label}; parity against eager in float64",
    ]


def _table(run: Run, records: list[Record]) -> object:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    has_device_time = any(record.device_rounds for record in records)
    longest_word = max(len(word) for record in records for word in summary.name(run, record).split())
    table.add_column("backend", overflow="fold", min_width=min(longest_word, 24))
    for title in ("median ms", "spread", *(["device ms"] if has_device_time else []), "ms/sample", "speed-up"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("parity", no_wrap=True)
    table.add_column("max |Δ|", justify="right", no_wrap=True)
    for record in records:
        styles = {"broken": "red", "lossy": "yellow", "unjudged": "yellow"}
        cells = _figures(run, record, has_device_time)
        parity = Text(record.verdict or "–", style=styles.get(record.verdict, ""))
        error = record.parity.get("max_abs_error")
        table.add_row(summary.name(run, record), *cells, parity, f"{error:.1e}" if error is not None else "–")
    return table


def _figures(run: Run, record: Record, has_device_time: bool) -> list[str]:
    if record.status != "ok":
        return [record.status, *["–"] * (4 if has_device_time else 3)]
    q1, median, q3 = statistics.quartiles(record.samples)
    speedup = run.speedup(record)
    cells = [milliseconds(median), _percent((q3 - q1) / median)]
    if has_device_time:
        device = [sample for round_ in record.device_rounds for sample in round_]
        cells.append(milliseconds(statistics.median(device)) if device else "–")
    return [*cells, milliseconds(median / record.batch), f"{speedup:.2f}×" if speedup is not None else "–"]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 10 else f"{share:.0%}"


def milliseconds(nanoseconds: float) -> str:
    """Milliseconds with four significant digits at most, e.g. `0.0123`, `1.234`, `123.4`, `12345`."""
    value = nanoseconds / 1e6
    digits = 4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1 if value < 10000 else 0
    return f"{value:.{digits}f}"
