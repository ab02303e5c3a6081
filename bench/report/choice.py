"""A choice as text for a terminal of 80 columns, or as JSON: what to take, why, and what was not measured."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from bench import statistics
from bench.choose.candidates import Weighed
from bench.choose.choice import Choice, ranked
from bench.choose.failures import size
from bench.choose.lines import (
    DEPRECATION_MARK,
    UNIT,
    deprecations,
    failures,
    headline,
    lines,
    not_measured,
    runs_of,
)
from bench.columns import DASH, Section, Table, milliseconds, percent
from bench.report import console, parts
from bench.report.crossover import render_map
from bench.run.leads import leads
from bench.run.record import Run
from bench.traffic import duration

FORMATS = ("table", "json")


def render(choice: Choice, format: str = "table", with_map: bool = False) -> str:
    """The choice in one of `FORMATS`, with the crossover map of every run on request."""
    if format == "json":
        maps = {"map": [cell for run in runs_of(choice) for cell in _map_json(run)]} if with_map else {}
        return json.dumps(to_json(choice) | maps, indent=2) + "\n"
    text = console.render_sections(_heading(choice), _sections(choice))
    width = min(max(console.WIDTH, shutil.get_terminal_size((console.WIDTH, 24)).columns), console.WIDE)
    return text + "".join(f"\n{_map(choice, run, width)}" for run in runs_of(choice) if with_map)


# JSON.


def to_json(choice: Choice) -> dict[str, Any]:
    """The choice as JSON types; times in nanoseconds."""
    ratio, constraints = choice.ratio, choice.constraints
    return {
        "chosen": choice.chosen and choice.chosen.label,
        "runner_up": choice.runner_up and choice.runner_up.label,
        "fastest": choice.best and choice.best.label,
        "tied": [candidate.label for candidate in choice.tied],
        "ratio": ratio and {"value": ratio.value, "verdict": ratio.verdict, **_ends(ratio.interval)},
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
        "runs": [
            {"path": _path(run), "is_complete": run.is_complete, "integrity": run.integrity} for run in runs_of(choice)
        ],
        "exit_code": choice.exit_code,
        "candidates": [_candidate_json(choice, candidate) for candidate in choice.candidates],
    }


def _candidate_json(choice: Choice, weighed: Weighed) -> dict[str, Any]:
    return {
        "label": weighed.label,
        "backend": weighed.candidate.label,
        "precision": weighed.candidate.precision,
        "machine": parts.machine(weighed.run),
        "run": _path(weighed.run),
        "qualifies": weighed.is_qualified,
        "failures": [{"constraint": f.constraint, "reason": f.reason} for f in weighed.failures],
        f"ns_per_{UNIT[choice.objective]}": weighed.mean_ns,
        **_ends(weighed.interval),
        "tokens_per_second": weighed.tokens_per_second,
        "tokens_per_dollar": weighed.tokens_per_dollar,
        "one_time_seconds": weighed.one_time_seconds,
        "pays_back_after": choice.pays_back_after(weighed),
        "peak_bytes": weighed.peak_bytes,
        "parity": weighed.verdict or None,
        "batches": dict(weighed.batches),
        "notes": weighed.notes,
    }


def _map_json(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "run": _path(run),
            "batch": lead.point.batch,
            "length": lead.point.length,
            "fastest": lead.winner and run.name(lead.winner.candidate),
            "next": lead.runner_up and run.name(lead.runner_up.candidate),
            "ratio": lead.ratio and lead.ratio.value,
            **_ends(lead.ratio.interval if lead.ratio else None),
            "is_tie": lead.is_tie,
        }
        for lead in leads(run)
    ]


def _ends(interval: statistics.Interval | None) -> dict[str, float | None]:
    return {"low": interval.low, "high": interval.high} if interval else {"low": None, "high": None}


def _path(run: Run) -> str | None:
    return str(run.path) if run.path else None


# Text.


def _sections(choice: Choice) -> list[Section]:
    return [
        Section("", [headline(choice)], style="bold green" if choice.chosen else "bold red"),
        Section("", table=_table(choice)),
        Section("", deprecations(choice)),
        Section("Why", items=lines(choice)),
        Section("Does not qualify", items=failures(choice)),
        Section("Not measured", items=not_measured(choice)),
    ]


def _map(choice: Choice, run: Run, width: int) -> str:
    """One run's crossover map, under its name if there are several."""
    name = f"{_name(run)}\n" if len(runs_of(choice)) > 1 else ""
    left_out = "lossy runtimes are not on this map\n" if choice.constraints.min_parity == "lossy" else ""
    drawn = render_map(run, width, sys.stdout.isatty())
    return name + left_out + (drawn or "no map: fewer than two shapes have a fastest runtime\n")


def _heading(choice: Choice) -> list[str]:
    runs, constraints = runs_of(choice), choice.constraints
    found = [f"{runs[0].model.name} ({runs[0].model.output})"]
    if len(runs) > 1:
        found += [f"run {number}: {_name(run)}, {parts.machine(run)}" for number, run in enumerate(runs, start=1)]
    else:
        found[0] += f", {parts.machine(runs[0])}"
    asked = ["most throughput" if choice.objective == "throughput" else f"least {choice.objective}"]
    asked += [f"p{slo.rank} at most {duration(slo.limit_ns)}" for slo in constraints.slos]
    if constraints.max_memory_bytes is not None:
        asked.append(f"at most {size(constraints.max_memory_bytes)}")
    asked.append(f"parity {constraints.min_parity} or better")
    if constraints.requests_per_restart:
        asked.append(f"a restart every {constraints.requests_per_restart:,} requests")
    return [*found, f"traffic: {choice.traffic.source}", f"asked: {', '.join(asked)}"]


def _table(choice: Choice) -> Table:
    """A row a runtime, best first, those that do not qualify last."""
    out = [weighed for weighed in choice.candidates if not weighed.is_qualified]
    rows = [_row(choice, weighed) for weighed in (*ranked(choice.candidates), *out)]
    return Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows))


def _row(choice: Choice, weighed: Weighed) -> dict[str, str]:
    """Cells by title."""
    mean, interval, rate = weighed.mean_ns, weighed.interval, weighed.tokens_per_second
    start, peak, per_dollar = weighed.one_time_seconds, weighed.peak_bytes, weighed.tokens_per_dollar
    mark = " ←" if weighed is choice.chosen else "" if weighed.is_qualified else " ✗"
    prices = {"Mtok/$": f"{per_dollar / 1e6:.3g}" if per_dollar else DASH} if choice.constraints.prices else {}
    return {
        "runtime": weighed.label + (f" {DEPRECATION_MARK}" if weighed.is_deprecated else "") + mark,
        "ms/req" if choice.objective == "latency" else "ms/seq": milliseconds(mean) if mean else DASH,
        "±": percent((interval.high - interval.low) / 2 / mean if interval and mean else None),
        "tokens/s": DASH if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}",
        **prices,
        "start s": DASH if start is None else f"{start:.1f}",
        "memory": DASH if peak is None else size(peak),
        "parity": weighed.verdict or DASH,
    }


def _name(run: Run) -> str:
    return run.path.name if run.path else run.started
