"""A comparison of runs as sections, regressions first, or as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from bench import statistics
from bench.columns import DASH, Section, Table, count, milliseconds
from bench.diff import Cell, Comparison, changes
from bench.report import console
from bench.run import state
from bench.run.alike import weights_of
from bench.run.columns import DISTURBED
from bench.run.record import Point, Run
from bench.spec import Candidate

STYLES = {"slower": "red", "faster": "green", "undecided": "yellow"}
#: In which a table lists verdicts, those that are regressions before all.
ORDER = ("slower", "undecided", "faster", "same", "new", "gone")
#: A growth beyond which its percentage says no more; a change from 3 rounds may have an interval of any width.
LARGEST_GROWTH = 9.995
#: Pairs of a history that a table names; JSON has all.
MOST_OBSTACLES = 5
#: Columns that the medians of a history take.
WIDTH_OF_MEDIANS = 22


def render(comparison: Comparison, format: str, obstacles: Sequence[str] = ()) -> str:
    """`comparison` as "table" or "json", naming `obstacles` that were overruled."""
    if format == "json":
        return json.dumps(to_json(comparison, obstacles), indent=2) + "\n"
    return console.render_sections(_heading(comparison), sections(comparison, obstacles))


def sections(comparison: Comparison, obstacles: Sequence[str] = ()) -> Iterator[Section]:
    """The report: obstacles, one row a cell, what became of lost cells, and the counts last."""
    left = len(obstacles) - MOST_OBSTACLES
    told = [*obstacles[:MOST_OBSTACLES], *([f"and {left} more such pairs"] if left > 0 else [])]
    yield Section("", [f"compared anyway: {line}" for line in told], style="yellow")
    yield Section("", table=_table(comparison))
    for title, verdict, is_regression in (
        ("Gone, though planned", "gone", True),
        ("Gone", "gone", False),
        ("New", "new", False),
    ):
        cells = [cell for cell in comparison.cells if (cell.verdict, cell.is_regression) == (verdict, is_regression)]
        found = [(cell.candidate, cell.point, cell.reason) for cell in cells if cell.reason]
        yield Section(title, items=_grouped(comparison, found))
    yield Section("Notes", items=list(_notes(comparison)))
    yield Section("What else differs", items=_differing(comparison))
    yield Section("Result", (counts_line(comparison),), style="red" if comparison.regressions else "green")


def _heading(comparison: Comparison) -> Iterator[str]:
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        yield f"{label} {run.path}, {run.started}"
    run = comparison.runs[-1]
    threads = count(run.options.settled_threads, "thread") + (", TF32" if run.options.tf32 else "")
    yield f"{run.model.name} ({run.model.output}), {run.options.device}, {threads}; weights: {weights_of(run)}"
    if len(comparison.runs) == 2:
        yield f"change: time in NEW against OLD; low, high: its interval at {statistics.RATIO_CONFIDENCE:.0%}"
    else:
        yield "median ms: by run; change: the last run against the first; trend: over all"
    upper, lower = comparison.threshold, 1 / (1 + comparison.threshold) - 1
    yield f"slower: whole interval above {upper:+.1%}; faster: below {lower:+.1%}; same: within the two"


def _table(comparison: Comparison) -> Table:
    """A row a cell: regressions first, then by verdict, the largest growth first."""

    def place(cell: Cell) -> tuple[bool, int, float]:
        return not cell.is_regression, ORDER.index(cell.verdict), -cell.change.value if cell.change else 0.0

    cells = sorted(comparison.cells, key=place)
    is_history = len(comparison.runs) > 2
    of_times = ["median ms", "change", "trend"]
    if not is_history:
        of_times = [*(f"{label} ms" for label in comparison.labels), "change", "low", "high"]
    titles = ("backend", "at", *of_times, "verdict")
    colours = ("red" if cell.is_regression else STYLES.get(cell.verdict, "") for cell in cells)
    return Table(
        titles,
        tuple((name(comparison, cell.candidate), str(cell.point), *_times(cell), cell.verdict) for cell in cells),
        tuple(title in ("backend", "at", "median ms", "verdict") for title in titles),
        tuple((colour,) * len(titles) for colour in colours),
    )


def _times(cell: Cell) -> tuple[str, ...]:
    """Medians by run, and how they changed; those of a history stand in one column."""
    medians = [
        DASH if median is None else (DISTURBED if is_disturbed else "") + milliseconds(median)
        for median, is_disturbed in zip(cell.medians_ns, cell.is_disturbed, strict=True)
    ]
    change = DASH if cell.change is None else percent(cell.change.value)
    if len(medians) > 2:
        trend = DASH if cell.trend is None else percent(1 + cell.trend)
        return textwrap.fill(" ".join(medians), WIDTH_OF_MEDIANS), change, trend
    interval = cell.change.interval if cell.change else None
    return (*medians, change, *((percent(interval.low), percent(interval.high)) if interval else (DASH, DASH)))


def percent(ratio: float) -> str:
    """Growth of a time by `ratio`, new over old: `+12.3%`, `-4.8%`, `+250%`, `>+999%`."""
    growth = round(ratio - 1, 3) + 0.0 if math.isfinite(ratio) else math.inf
    if growth < 1:
        return f"{growth:+.1%}"
    return f"{growth:+.0%}" if growth < LARGEST_GROWTH else ">+999%"


def name(comparison: Comparison, candidate: Candidate) -> str:
    """`backend:variant`, with the precision if the runs have several."""
    precisions = {each.precision for run in comparison.runs for each in run.candidates}
    return f"{candidate.label} {candidate.precision}" if len(precisions) > 1 else candidate.label


def counts_line(comparison: Comparison) -> str:
    """One line: `2 slower, 1 faster, 5 same, 1 undecided`, and how many of the cells are regressions."""
    counts = [f"{found} {verdict}" for verdict, found in comparison.counts.items() if found]
    if not counts:
        return "nothing to compare: no run measured any cell"
    regressions = comparison.regressions
    return ", ".join(counts) + (f" ({count(regressions, 'regression')})" if regressions else "")


def _notes(comparison: Comparison) -> Iterator[str]:
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        if wrong := state.of_file(run):
            yield f"{label}: {wrong}"
        if not run.is_complete:
            yield f"{label} is incomplete: {len(run.records)} of {len(run.planned())} cells have a record"
    if comparison.runs[0].started > comparison.runs[-1].started:
        yield "NEW was started before OLD"
    notes = [(cell.candidate, cell.point, remark) for cell in comparison.cells for remark in cell.remarks]
    notes += [(candidate, point, "not measured by any run") for point, candidate in comparison.unmeasured]
    yield from _grouped(comparison, notes)
    if comparison.counts["undecided"]:
        yield "undecided: intervals too wide for the threshold; measure with more --rounds, or raise --threshold"
    if comparison.threshold < statistics.TIE_MARGIN:
        yield f"two processes of one program may differ by {statistics.TIE_MARGIN:.0%}, which is above the threshold"


def _grouped(comparison: Comparison, messages: Sequence[tuple[Candidate, Point, str]]) -> list[str]:
    """Each message once, with the cells that it concerns."""
    points: dict[str, dict[str, list[str]]] = {}
    for candidate, point, message in messages:
        points.setdefault(message, {}).setdefault(name(comparison, candidate), []).append(str(point))
    return [
        "; ".join(f"{who} at {', '.join(where)}" for who, where in found.items()) + f": {message}"
        for message, found in points.items()
    ]


def _differing(comparison: Comparison) -> list[str]:
    runs = comparison.runs
    steps = [changes(one, other) for one, other in pairwise(runs)]
    if len(runs) == 2:
        return steps[0]
    return [f"{label}: {', '.join(found)}" for label, found in zip(comparison.labels[1:], steps, strict=True) if found]


def to_json(comparison: Comparison, obstacles: Sequence[str]) -> dict[str, Any]:
    """The comparison as JSON types."""
    return {
        "runs": [_run(label, run) for label, run in zip(comparison.labels, comparison.runs, strict=True)],
        "threshold": comparison.threshold,
        "confidence": statistics.RATIO_CONFIDENCE,
        "obstacles": list(obstacles),
        "differs": _differing(comparison),
        "counts": comparison.counts,
        "regressions": comparison.regressions,
        "exit_code": comparison.exit_code,
        "cells": [_cell(cell) for cell in comparison.cells],
        "unmeasured": [asdict(candidate) | asdict(point) for point, candidate in comparison.unmeasured],
    }


def _run(label: str, run: Run) -> dict[str, Any]:
    return {
        "label": label,
        "path": None if run.path is None else str(run.path),
        "started": run.started,
        "workload": run.workload.name,
        "model": run.model.name,
        "weights": run.model.origin,
        "is_complete": run.is_complete,
        "integrity": run.integrity,
        "command": run.command,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    change = cell.change
    ratios = [] if change is None else [change.value]
    ratios += [change.interval.low, change.interval.high] if change and change.interval else []
    # JSON has no infinity.
    value, low, high = [ratio if math.isfinite(ratio) else None for ratio in ratios] + [None] * (3 - len(ratios))
    return {
        **asdict(cell.candidate),
        **asdict(cell.point),
        "verdict": cell.verdict,
        "is_regression": cell.is_regression,
        "reason": cell.reason,
        "median_ms": [None if median is None else median / 1e6 for median in cell.medians_ns],
        "rounds": list(cell.rounds),
        "disturbed": list(cell.is_disturbed),
        "time_ratio": value,
        "time_ratio_low": low,
        "time_ratio_high": high,
        "trend": cell.trend,
        "remarks": list(cell.remarks),
    }
