"""A choice as text for a terminal of 80 columns, or as JSON: what to take, why, and what was not measured."""

from __future__ import annotations

import json
import math
import shutil
import sys
from typing import Any

from bench import statistics
from bench.choose.candidates import Weighed
from bench.choose.choice import Choice
from bench.choose.lines import (
    DEPRECATION_MARK,
    UNIT,
    deprecations,
    failures,
    headline,
    lines,
    not_measured,
    runs_of,
    settling_command,
    share,
)
from bench.columns import DASH, Section, Table, known, milliseconds, plus_minus, size
from bench.errors import UNDECIDED
from bench.regret import CONFIDENCE
from bench.report import console, parts
from bench.report.crossover import render_map
from bench.run.leads import leads
from bench.run.record import Run
from bench.traffic import duration
from bench.words import shown_share

FORMATS = ("table", "json")


def render(choice: Choice, format: str = "table", with_map: bool = False) -> str:
    """The choice in one of `FORMATS`, with the crossover map of every run on request."""
    if format == "json":
        maps = {"map": [cell for run in runs_of(choice) for cell in _map_json(run)]} if with_map else {}
        return json.dumps(to_json(choice) | maps, indent=2) + "\n"
    text = console.render_sections(_heading(choice), _sections(choice))
    if command := settling_command(choice):  # not filled: it is copied
        text += f"\ngo on: {command}\n"
    width = min(max(console.WIDTH, shutil.get_terminal_size((console.WIDTH, 24)).columns), console.WIDE)
    return text + "".join(f"\n{_map(choice, run, width)}" for run in runs_of(choice) if with_map)


# JSON.


def to_json(choice: Choice) -> dict[str, Any]:
    """The choice as JSON types; times in nanoseconds, regrets as shares, None if they are not known."""
    ratio, constraints, settled = choice.ratio, choice.constraints, choice.settling
    return {
        "chosen": choice.chosen and choice.chosen.label,
        "leader": choice.leader and choice.leader.label,
        "runner_up": choice.runner_up and choice.runner_up.label,
        "is_decided": choice.is_decided,
        "ratio": ratio and {"value": ratio.value, "confidence": ratio.confidence, **_ends(ratio.interval)},
        "settling": settled
        and {
            "seconds": settled.seconds,
            "command": settling_command(choice),
            "rounds": [
                {"run": _path(run), "batch": shape.batch, "length": shape.length, "rounds": number}
                for run, shape, number in settled.rounds
            ],
        },
        "too_few_quiet_rounds": {"shapes": [str(one) for one in choice.too_few], "share": choice.too_few_share},
        "headline": headline(choice),
        "reasons": lines(choice),
        "failures": failures(choice),
        "not_measured": not_measured(choice),
        "asked": {
            "objective": constraints.objective,
            "slo": {f"p{slo.rank}": slo.limit_ns for slo in constraints.slos},
            "max_memory_bytes": constraints.max_memory_bytes,
            "min_parity": constraints.min_parity,
            "max_loss": constraints.max_loss,
            "allow_deprecated": constraints.allow_deprecated,
            "max_regret": constraints.max_regret,
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
    regret = choice.regrets.get(weighed.label)
    times = {
        f"ns_per_{UNIT[choice.objective]}": weighed.mean_ns,
        **_ends(choice.interval_ns(weighed)),
        "tokens_per_second": weighed.tokens_per_second,
        "tokens_per_dollar": weighed.tokens_per_dollar,
    }
    return {
        "label": weighed.label,
        "backend": weighed.candidate.label,
        "precision": weighed.candidate.precision,
        "machine": parts.machine(weighed.run),
        "run": _path(weighed.run),
        "qualifies": weighed.is_qualified,
        "failures": [{"constraint": f.constraint, "reason": f.reason} for f in weighed.failures],
        "expected_regret": None if regret is None else _finite(regret.expected),
        "regret_bound": None if regret is None else _finite(regret.bound),
        **(times if choice.traffic.is_given else {}),
        "one_time_seconds": weighed.one_time_seconds,
        "pays_back_after": choice.pays_back_after(weighed),
        "peak_bytes": weighed.peak_bytes,
        "parity": weighed.verdict or None,
        "batches": dict(weighed.batches),
        "notes": weighed.notes,
    }


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def _map_json(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "run": _path(run),
            "batch": lead.point.batch,
            "length": lead.point.length,
            "leader": lead.winner and run.name(lead.winner.candidate),
            "next": lead.runner_up and run.name(lead.runner_up.candidate),
            "ratio": lead.ratio and lead.ratio.value,
            **_ends(lead.ratio.interval if lead.ratio else None),
            "is_decided": lead.is_decided,
            "same": [run.name(one.candidate) for one in lead.same],
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
        Section("", [headline(choice)], style=style(choice)),
        Section("", table=_table(choice)),
        Section("", deprecations(choice)),
        Section("Why", items=lines(choice)),
        Section("Does not qualify", items=failures(choice)),
        Section("Not measured", items=not_measured(choice)),
    ]


def style(choice: Choice) -> str:
    """Colour of the headline: taken, undecided, or nothing qualifies."""
    return {0: "bold green", UNDECIDED: "bold yellow"}.get(choice.exit_code, "bold red")


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
        asked.append(f"at most {constraints.memory_text}")
    asked.append(f"parity {constraints.min_parity} or better")
    if constraints.max_loss is not None:
        asked.append(f"below fp32 at most {shown_share(constraints.max_loss)} of the output's RMS lost")
    if constraints.requests_per_restart:
        asked.append(f"a restart every {constraints.requests_per_restart:,} requests")
    return [*found, f"traffic: {choice.traffic.source}", f"asked: {', '.join(asked)}"]


def _table(choice: Choice) -> Table:
    """A row a runtime, best first, those that do not qualify last."""
    out = [weighed for weighed in choice.candidates if not weighed.is_qualified]
    rows = [_row(choice, weighed) for weighed in (*choice.order, *out)]
    return Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows))


def _row(choice: Choice, weighed: Weighed) -> dict[str, str]:
    """Cells by title; no time and no rate of traffic that was not given."""
    start, peak, regret = weighed.one_time_seconds, weighed.peak_bytes, choice.regrets.get(weighed.label)
    mark = " ←" if weighed is choice.chosen else "" if weighed.is_qualified else " ✗"
    return {
        "runtime": weighed.label + (f" {DEPRECATION_MARK}" if weighed.is_deprecated else "") + mark,
        **(_times(choice, weighed) if choice.traffic.is_given else {}),
        "regret": DASH if regret is None else share(regret.expected),
        "at most": DASH if regret is None else share(regret.bound),
        "start s": DASH if start is None else f"{start:.1f}",
        "memory": DASH if peak is None else size(peak),
        "parity": weighed.verdict or DASH,
    }


def _times(choice: Choice, weighed: Weighed) -> dict[str, str]:
    mean, interval, rate = weighed.mean_ns, choice.interval_ns(weighed), weighed.tokens_per_second
    per_dollar = weighed.tokens_per_dollar
    half = (interval.high - interval.low) / 2 if interval else None
    within = plus_minus(mean, interval.low, interval.high, milliseconds) if mean and interval else DASH
    rates = {"tokens/s": DASH if rate is None or mean is None else _rate(rate, half and rate * half / mean)}
    prices = {"Mtok/$": f"{per_dollar / 1e6:.3g}" if per_dollar else DASH} if choice.constraints.prices else {}
    title = "ms/req" if choice.objective == "latency" else "ms/seq"
    return {title: milliseconds(mean, half) if mean else DASH, f"±{CONFIDENCE:.0%}": within, **rates, **prices}


def _rate(rate: float, half: float | None) -> str:
    return f"{float(known(rate, 0 if rate >= 100 else 2, half)):,.{0 if rate >= 100 else 1}f}"


def _name(run: Run) -> str:
    return run.path.name if run.path else run.started
