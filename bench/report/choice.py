"""A choice as text for a terminal of 80 columns, or as JSON: what to take, why, and what was not measured."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from bench import statistics
from bench.choose.candidates import Weighed
from bench.choose.choice import Choice
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
from bench.columns import DASH, Section, Table, milliseconds
from bench.columns import percent as in_percent
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
    return _text(choice, with_map)


def _map_json(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "run": str(run.path) if run.path else None,
            "batch": lead.point.batch,
            "length": lead.point.length,
            "fastest": run.name(lead.winner.candidate) if lead.winner else None,
            "next": run.name(lead.runner_up.candidate) if lead.runner_up else None,
            "ratio": lead.ratio.value if lead.ratio else None,
            **_ends(lead.ratio.interval if lead.ratio else None),
            "is_tie": lead.is_tie,
        }
        for lead in leads(run)
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
        "runs": [
            {
                "path": str(run.path) if run.path else None,
                "is_complete": run.is_complete,
                "integrity": run.integrity,
            }
            for run in runs_of(choice)
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
        "run": str(weighed.run.path) if weighed.run.path else None,
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


def _ends(interval: statistics.Interval | None) -> dict[str, float | None]:
    return {"low": interval.low if interval else None, "high": interval.high if interval else None}


def _text(choice: Choice, with_map: bool) -> str:
    text = console.render_sections(_heading(choice), _sections(choice))
    width = min(max(console.WIDTH, shutil.get_terminal_size((console.WIDTH, 24)).columns), console.WIDE)
    return text + "".join(f"\n{_map(choice, run, width)}" for run in runs_of(choice) if with_map)


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
    return (name + left_out) + (
        render_map(run, width, sys.stdout.isatty()) or "no map: fewer than two shapes have a fastest runtime\n"
    )


def _heading(choice: Choice) -> list[str]:
    runs = runs_of(choice)
    model = runs[0].model
    found = [f"{model.name} ({model.output})"]
    if len(runs) > 1:
        found += [f"run {number}: {_name(run)}, {parts.machine(run)}" for number, run in enumerate(runs, start=1)]
    else:
        found[0] += f", {parts.machine(runs[0])}"
    asked = [f"least {choice.objective}" if choice.objective != "throughput" else "most throughput"]
    asked += [f"p{slo.rank} at most {duration(slo.limit_ns)}" for slo in choice.constraints.slos]
    if choice.constraints.max_memory_bytes is not None:
        asked.append(f"at most {size(choice.constraints.max_memory_bytes)}")
    asked.append(f"parity {choice.constraints.min_parity} or better")
    if choice.constraints.requests_per_restart:
        asked.append(f"a restart every {choice.constraints.requests_per_restart:,} requests")
    return [*found, f"traffic: {choice.traffic.source}", f"asked: {', '.join(asked)}"]


def _table(choice: Choice) -> Table:
    """A row a runtime, best first, those that do not qualify last."""
    has_prices = bool(choice.constraints.prices)
    unit = "req" if choice.objective == "latency" else "seq"
    titles = ["runtime", f"ms/{unit}", "±", "tokens/s", *(["Mtok/$"] if has_prices else [])]
    out = [weighed for weighed in choice.candidates if not weighed.is_qualified]
    rows = [_row(choice, weighed, has_prices) for weighed in (*choice.qualified, *out)]
    return Table((*titles, "start s", "memory", "parity"), tuple(rows))


def _row(choice: Choice, weighed: Weighed, has_prices: bool) -> tuple[str, ...]:
    mean, interval, start = weighed.mean_ns, weighed.interval, weighed.one_time_seconds
    dagger = f" {DEPRECATION_MARK}" if weighed.is_deprecated else ""
    mark = " ←" if weighed is choice.chosen else "" if weighed.is_qualified else " ✗"
    half = (interval.high - interval.low) / 2 / mean if interval and mean else None
    per_dollar = weighed.tokens_per_dollar
    return (
        weighed.label + dagger + mark,
        milliseconds(mean) if mean else DASH,
        in_percent(half),
        _count(weighed.tokens_per_second),
        *([f"{per_dollar / 1e6:.3g}" if per_dollar else DASH] if has_prices else []),
        f"{start:.1f}" if start is not None else DASH,
        size(weighed.peak_bytes) if weighed.peak_bytes is not None else DASH,
        weighed.verdict or DASH,
    )


def _count(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _name(run: Run) -> str:
    return run.path.name if run.path else run.started
