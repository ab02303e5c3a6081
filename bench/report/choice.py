"""A choice as text for a terminal of 80 columns, or as JSON: what to take, why, and what was not measured."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from typing import Any

from bench import statistics
from bench.choice.candidates import Weighed
from bench.choice.choice import Choice
from bench.choice.failures import size
from bench.records import Run
from bench.report import summary
from bench.report.choice_lines import (
    DEPRECATION_MARK,
    UNIT,
    deprecations,
    failures,
    headline,
    lines,
    not_measured,
    runs_of,
)
from bench.report.crossover import crossover, render_map
from bench.report.table import WIDTH, item, machine_line, milliseconds
from bench.report.table import percent as in_percent
from bench.traffic import duration

FORMATS = ("table", "json")


def render(choice: Choice, format: str = "table", with_map: bool = False) -> str:
    """The choice in one of `FORMATS`, with the crossover map of every run on request."""
    if format == "json":
        maps = {"map": [cell for run in runs_of(choice) for cell in _map_json(run)]} if with_map else {}
        return json.dumps(to_json(choice) | maps, indent=2) + "\n"
    return _text(choice, with_map)


def _map_json(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "run": str(run.path) if run.path else None,
            "batch": cell.shape.batch,
            "length": cell.shape.length,
            "fastest": summary.name(run, cell.winner) if cell.winner else None,
            "next": summary.name(run, cell.runner_up) if cell.runner_up else None,
            "ratio": cell.ratio.value if cell.ratio else None,
            **_ends(cell.ratio.interval if cell.ratio else None),
            "is_tie": cell.is_tie,
        }
        for cell in crossover(run)
    ]


def to_json(choice: Choice) -> dict[str, Any]:
    """The choice as JSON types; times in nanoseconds."""
    ratio = choice.ratio
    constraints = choice.constraints
    return {
        "chosen": choice.chosen.label if choice.chosen else None,
        "runner_up": choice.runner_up.label if choice.runner_up else None,
        "fastest": choice.best.label if choice.best else None,
        "tied": [candidate.label for candidate in choice.tied],
        "ratio": None if ratio is None else {"value": ratio.value, "verdict": ratio.verdict, **_ends(ratio.interval)},
        "headline": headline(choice),
        "reasons": lines(choice),
        "failures": failures(choice),
        "not_measured": not_measured(choice),
        "asked": {
            "objective": constraints.objective,
            "slo": {f"p{slo.rank}": slo.limit_ns for slo in constraints.slos},
            "max_memory_bytes": constraints.max_memory_bytes,
            "min_parity": constraints.min_parity,
            "requests_per_restart": constraints.requests_per_restart,
            "dollars_an_hour": list(constraints.prices),
        },
        "traffic": {
            "source": choice.traffic.source,
            "outside_share": sum(share for _, share in choice.outside),
        },
        "exit_code": choice.exit_code,
        "candidates": [_candidate_json(choice, candidate) for candidate in choice.candidates],
    }


def _candidate_json(choice: Choice, candidate: Weighed) -> dict[str, Any]:
    return {
        "label": candidate.label,
        "backend": candidate.contestant.label,
        "precision": candidate.contestant.precision,
        "machine": machine(candidate.run),
        "run": str(candidate.run.path) if candidate.run.path else None,
        "qualifies": candidate.is_qualified,
        "failures": [{"constraint": f.constraint, "reason": f.reason} for f in candidate.failures],
        f"ns_per_{UNIT[choice.objective]}": candidate.mean_ns,
        **_ends(candidate.interval),
        "tokens_per_second": candidate.tokens_per_second,
        "tokens_per_dollar": candidate.tokens_per_dollar,
        "one_time_seconds": candidate.one_time_seconds,
        "pays_back_after": choice.pays_back_after(candidate),
        "peak_bytes": candidate.peak_bytes,
        "parity": candidate.verdict or None,
        "batches": dict(candidate.batches),
        "notes": candidate.notes,
    }


def _ends(interval: statistics.Interval | None) -> dict[str, float | None]:
    return {"low": interval.low if interval else None, "high": interval.high if interval else None}


def _text(choice: Choice, with_map: bool) -> str:
    from rich.console import Console
    from rich.text import Text

    width = min(max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns), 108)
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)
    for line in _heading(choice):
        console.print(Text(textwrap.fill(line, width, break_on_hyphens=False)))
    console.print()
    style = "bold green" if choice.chosen else "bold red"
    console.print(Text(textwrap.fill(headline(choice), width, break_on_hyphens=False), style=style))
    console.print()
    console.print(_table(choice))
    for line in deprecations(choice):
        console.print(Text(textwrap.fill(line, width, break_on_hyphens=False)))
    sections = (("Why", lines(choice)), ("Does not qualify", failures(choice)), ("Not measured", not_measured(choice)))
    for title, found in sections:
        if found:
            console.print(Text(f"\n{title}", style="bold"))
            for line in found:
                console.print(Text(item(line, width)))
    maps = "".join(f"\n{_map(choice, run, width)}" for run in runs_of(choice)) if with_map else ""
    return text.getvalue() + maps


def _map(choice: Choice, run: Run, width: int) -> str:
    """One run's crossover map, under its name where there are several."""
    name = f"{_name(run)}\n" if len(runs_of(choice)) > 1 else ""
    left_out = "lossy runtimes are not on this map\n" if choice.constraints.min_parity == "lossy" else ""
    return (name + left_out) + (
        render_map(run, width, sys.stdout.isatty()) or "no map: fewer than two shapes have a fastest runtime\n"
    )


def _heading(choice: Choice) -> list[str]:
    runs = runs_of(choice)
    grid = runs[0].grid
    found = [f"{grid.model} ({grid.output})"]
    if len(runs) > 1:
        found += [f"run {number}: {_name(run)}, {machine(run)}" for number, run in enumerate(runs, start=1)]
    else:
        found[0] += f", {machine_line(grid, runs[0].fingerprint)}"
    asked = [f"least {choice.objective}" if choice.objective != "throughput" else "most throughput"]
    asked += [f"p{slo.rank} at most {duration(slo.limit_ns)}" for slo in choice.constraints.slos]
    if choice.constraints.max_memory_bytes is not None:
        asked.append(f"at most {size(choice.constraints.max_memory_bytes)}")
    asked.append(f"parity {choice.constraints.min_parity} or better")
    if choice.constraints.requests_per_restart:
        asked.append(f"a restart every {choice.constraints.requests_per_restart:,} requests")
    return [*found, f"traffic: {choice.traffic.source}", f"asked: {', '.join(asked)}"]


def _table(choice: Choice) -> Any:
    """A row a runtime, best first, those that do not qualify last."""
    from rich import box
    from rich.table import Table

    unit = "req" if choice.objective == "latency" else "seq"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("runtime", overflow="fold")
    titles = [f"ms/{unit}", "±", "tokens/s", *(["Mtok/$"] if choice.constraints.prices else [])]
    for title in (*titles, "start s", "memory", "parity"):
        table.add_column(title, justify="right", no_wrap=True)
    qualified = choice.qualified
    out = [candidate for candidate in choice.candidates if not candidate.is_qualified]
    for candidate in (*qualified, *out):
        mean, interval = candidate.mean_ns, candidate.interval
        mark = " ←" if candidate is choice.chosen else "" if candidate.is_qualified else " ✗"
        half = (interval.high - interval.low) / 2 / mean if interval and mean else None
        cells = [milliseconds(mean) if mean else "–", in_percent(half)]
        cells.append(_count(candidate.tokens_per_second))
        if choice.constraints.prices:
            per_dollar = candidate.tokens_per_dollar
            cells.append(f"{per_dollar / 1e6:.3g}" if per_dollar else "–")
        start = candidate.one_time_seconds
        cells += [f"{start:.1f}" if start is not None else "–"]
        cells += [size(candidate.peak_bytes) if candidate.peak_bytes is not None else "–", candidate.verdict or "–"]
        dagger = f" {DEPRECATION_MARK}" if candidate.is_deprecated else ""
        table.add_row(candidate.label + dagger + mark, *cells)
    return table


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine(run: Run) -> str:
    """The device that a run was measured on, in short."""
    return machine_line(run.grid, run.fingerprint)


def _name(run: Run) -> str:
    return run.path.name if run.path else run.started
