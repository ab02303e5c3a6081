"""A comparison of runs as text for a terminal of 80 columns, regressions first, or as JSON."""

from __future__ import annotations

import io
import json as _json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from bench import statistics
from bench.comparison import Cell, Comparison, changes, weights_of
from bench.records import Run
from bench.report import check_format
from bench.report.table import TAINTED, WIDTH, milliseconds
from bench.spec import Candidate, Shape

FORMATS = ("table", "json")
STYLES = {"slower": "red", "faster": "green", "ambiguous": "yellow"}
#: In which a table lists verdicts, those that are regressions before all.
ORDER = ("slower", "ambiguous", "faster", "same", "new", "gone")
#: A growth beyond which its percentage says no more; a change from 3 rounds may have an interval of any width.
LARGEST_GROWTH = 9.995
#: Pairs of a history that a table names; JSON has all.
MOST_OBSTACLES = 5


def render(comparison: Comparison, format: str, obstacles: Sequence[str] = ()) -> str:
    """`comparison` in one of `FORMATS`, naming `obstacles` that were overruled; raises UserError for another."""
    check_format(format, FORMATS)
    return _json_text(comparison, obstacles) if format == "json" else _text(comparison, obstacles)


# Text.


def _text(comparison: Comparison, obstacles: Sequence[str]) -> str:
    from rich.console import Console
    from rich.text import Text

    text = io.StringIO()
    console = Console(file=text, width=WIDTH, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        console.print(Text(f"{label} {run.path}, {run.started}"))
    for line in _legend(comparison):
        console.print(Text(line))
    for line in _shortened(obstacles):
        console.print(Text(f"compared anyway: {line}", style="yellow"))
    if comparison.cells:
        console.print()
        console.print(_table(comparison) if len(comparison.runs) == 2 else _history(comparison))
    for title, lines in _findings(comparison):
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                console.print(Text(f"- {line}"))
    console.print()
    console.print(Text(counts_line(comparison), style="red" if comparison.regressions else "green"))
    return text.getvalue()


def _legend(comparison: Comparison) -> Iterator[str]:
    grid = comparison.runs[-1].grid
    threads = f"{grid.threads} thread" + ("" if grid.threads == 1 else "s")
    threads += ", TF32" if grid.tf32 else ""
    yield f"{grid.model} ({grid.output}), {grid.device}, {threads}; weights: {weights_of(comparison.runs[-1])}"
    if len(comparison.runs) == 2:
        yield f"change: time in NEW against OLD; low, high: its interval at {statistics.RATIO_CONFIDENCE:.0%}"
    else:
        yield "median ms: by run; change: the last run against the first; trend: over all"
    upper, lower = comparison.threshold, 1 / (1 + comparison.threshold) - 1
    yield f"slower: whole interval above {upper:+.1%}; faster: below {lower:+.1%}; same: within the two"


def _shortened(obstacles: Sequence[str]) -> list[str]:
    left = len(obstacles) - MOST_OBSTACLES
    return [*obstacles[:MOST_OBSTACLES], *([f"and {left} more such pairs"] if left > 0 else [])]


def _table(comparison: Comparison) -> Any:
    table = _empty_table(comparison)
    for label in comparison.labels:
        table.add_column(f"{label} ms", justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    for title in ("low", "high"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for cell in _sorted(comparison):
        interval = cell.change.interval if cell.change else None
        ends = [percent(interval.low), percent(interval.high)] if interval else ["–", "–"]
        table.add_row(*_identity(comparison, cell), *_medians(cell), _change(cell), *ends, _verdict(cell))
    return table


def _history(comparison: Comparison) -> Any:
    table = _empty_table(comparison)
    table.add_column("median ms")
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("trend", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for cell in _sorted(comparison):
        trend = "–" if cell.trend is None else percent(1 + cell.trend)
        table.add_row(*_identity(comparison, cell), " ".join(_medians(cell)), _change(cell), trend, _verdict(cell))
    return table


def _empty_table(comparison: Comparison) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("backend", overflow="fold")
    table.add_column("at", no_wrap=True)
    return table


def _sorted(comparison: Comparison) -> list[Cell]:
    """Regressions first, then by verdict, the largest growth first."""

    def place(cell: Cell) -> tuple[bool, int, float]:
        return not cell.is_regression, ORDER.index(cell.verdict), -cell.change.value if cell.change else 0.0

    return sorted(comparison.cells, key=place)


def _identity(comparison: Comparison, cell: Cell) -> tuple[str, str]:
    return name(comparison, cell.contestant), str(cell.shape)


def _medians(cell: Cell) -> list[str]:
    return [
        "–" if median is None else (TAINTED if is_tainted else "") + milliseconds(median)
        for median, is_tainted in zip(cell.medians_ns, cell.is_tainted, strict=True)
    ]


def _change(cell: Cell) -> str:
    return "–" if cell.change is None else percent(cell.change.value)


def _verdict(cell: Cell) -> Any:
    from rich.text import Text

    return Text(cell.verdict, style="red" if cell.is_regression else STYLES.get(cell.verdict, ""))


def percent(ratio: float) -> str:
    """Growth of a time by `ratio`, new over old: `+12.3%`, `-4.8%`, `+250%`, `>+999%`."""
    growth = round(ratio - 1, 3) + 0.0 if math.isfinite(ratio) else math.inf
    if growth < 1:
        return f"{growth:+.1%}"
    return f"{growth:+.0%}" if growth < LARGEST_GROWTH else ">+999%"


def name(comparison: Comparison, contestant: Candidate) -> str:
    """`backend:variant`, with the precision where the runs have several."""
    precisions = {each.precision for run in comparison.runs for each in run.grid.contestants}
    return f"{contestant.label} {contestant.precision}" if len(precisions) > 1 else contestant.label


def counts_line(comparison: Comparison) -> str:
    """One line: `2 slower, 1 faster, 5 same, 1 ambiguous`, and how many of the cells are regressions."""
    counts = [f"{count} {verdict}" for verdict, count in comparison.counts.items() if count]
    if not counts:
        return "nothing to compare: no run measured any cell"
    found = comparison.regressions
    return ", ".join(counts) + (f" ({found} regression{'s' * (found > 1)})" if found else "")


def _findings(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """Titles, and the lines under each."""
    for title, verdict, is_regression in (
        ("Gone, though planned", "gone", True),
        ("Gone", "gone", False),
        ("New", "new", False),
    ):
        cells = [cell for cell in comparison.cells if (cell.verdict, cell.is_regression) == (verdict, is_regression)]
        yield title, _grouped(comparison, [(cell.contestant, cell.shape, cell.reason) for cell in cells if cell.reason])
    notes = [(cell.contestant, cell.shape, remark) for cell in comparison.cells for remark in cell.remarks]
    notes += [(contestant, shape, "not measured by any run") for shape, contestant in comparison.unmeasured]
    yield "Notes", [*_of_the_runs(comparison), *_grouped(comparison, notes), *_of_the_verdicts(comparison)]
    yield "What else differs", _differing(comparison)


def _grouped(comparison: Comparison, messages: Sequence[tuple[Candidate, Shape, str]]) -> list[str]:
    """Each message once, with the cells that it concerns."""
    shapes: dict[str, dict[str, list[str]]] = {}
    for contestant, shape, message in messages:
        shapes.setdefault(message, {}).setdefault(name(comparison, contestant), []).append(str(shape))
    return [
        f"{'; '.join(f'{who} at {_joined(where)}' for who, where in found.items())}: {message}"
        for message, found in shapes.items()
    ]


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def _of_the_runs(comparison: Comparison) -> Iterator[str]:
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        if not run.is_complete:
            planned = len(run.grid.shapes) * len(run.grid.contestants)
            yield f"{label} is incomplete: {len(run.records)} of {planned} cells have a record"
    old, new = comparison.runs[0], comparison.runs[-1]
    if old.started > new.started:
        yield "NEW was started before OLD"


def _of_the_verdicts(comparison: Comparison) -> Iterator[str]:
    if comparison.counts["ambiguous"]:
        yield "ambiguous: intervals too wide for the threshold; measure with more --rounds, or raise --threshold"
    if comparison.threshold < statistics.TIE_MARGIN:
        yield f"two processes of one program may differ by {statistics.TIE_MARGIN:.0%}, which is above the threshold"


def _differing(comparison: Comparison) -> list[str]:
    runs, labels = comparison.runs, comparison.labels
    steps = [(label, changes(runs[i], runs[i + 1])) for i, label in enumerate(labels[1:])]
    if len(runs) == 2:
        return [change for _, found in steps for change in found]
    return [f"{label}: {_joined(found)}" for label, found in steps if found]


# JSON.


def _json_text(comparison: Comparison, obstacles: Sequence[str]) -> str:
    runs = comparison.runs
    document = {
        "runs": [_run(label, run) for label, run in zip(comparison.labels, runs, strict=True)],
        "threshold": comparison.threshold,
        "confidence": statistics.RATIO_CONFIDENCE,
        "obstacles": list(obstacles),
        "differs": _differing(comparison),
        "counts": comparison.counts,
        "regressions": comparison.regressions,
        "exit_code": comparison.exit_code,
        "cells": [_cell(cell) for cell in comparison.cells],
        "unmeasured": [
            {**_key(contestant), "batch": shape.batch, "length": shape.length}
            for shape, contestant in comparison.unmeasured
        ],
    }
    return _json.dumps(document, indent=2) + "\n"


def _run(label: str, run: Run) -> dict[str, Any]:
    return {
        "label": label,
        "path": None if run.path is None else str(run.path),
        "started": run.started,
        "model": run.grid.model,
        "weights": run.origin,
        "is_complete": run.is_complete,
        "command": run.command,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    change = cell.change
    interval = change.interval if change else None
    return {
        **_key(cell.contestant),
        "batch": cell.shape.batch,
        "length": cell.shape.length,
        "verdict": cell.verdict,
        "is_regression": cell.is_regression,
        "reason": cell.reason,
        "median_ms": [None if median is None else median / 1e6 for median in cell.medians_ns],
        "rounds": list(cell.rounds),
        "tainted": list(cell.is_tainted),
        "time_ratio": _finite(change.value) if change else None,
        "time_ratio_low": _finite(interval.low) if interval else None,
        "time_ratio_high": _finite(interval.high) if interval else None,
        "trend": cell.trend,
        "remarks": list(cell.remarks),
    }


def _key(contestant: Candidate) -> dict[str, Any]:
    return {
        "backend": contestant.backend,
        "variant": contestant.variant,
        "precision": contestant.precision,
        "copy": contestant.copy,
        "environment": contestant.environment,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
