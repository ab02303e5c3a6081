"""A choice as text for a terminal of 80 columns, or as JSON: what to take, why, and what was not measured."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from backends import BUILT_IN
from bench import statistics
from bench.choice.candidates import Candidate, percent, places_of, size
from bench.choice.choice import CONFIDENCE, SIMPLICITY, Choice
from bench.choice.constraints import duration
from bench.choice.grid import INTERPOLATED, ROUNDED_UP
from bench.records import Run
from bench.report import summary
from bench.report.crossover import crossover, render_map
from bench.report.table import WIDTH, item, machine_line, milliseconds
from bench.report.table import percent as in_percent
from bench.spec import Shape

FORMATS = ("table", "json")
BETTER = {"latency": "as fast as", "throughput": "as fast as", "cost": "as cheap as"}
UNIT = {"latency": "request", "throughput": "sequence", "cost": "sequence"}
#: Shapes that are named one by one; more are counted.
MOST_NAMED = 4


def headline(choice: Choice) -> str:
    """One line: what to take and by how much, or that nothing qualifies."""
    chosen, other = choice.chosen, choice.runner_up
    if chosen is None:
        return "take none: no runtime keeps what is asked"
    if other is None:
        return f"take {chosen.label}: no other runtime qualifies"
    if chosen is not choice.best:
        return f"take {chosen.label}: it ties with {_names(choice.tied_with_chosen)}, and is the simplest of them"
    ratio = choice.ratio
    if choice.tied and ratio is not None:
        return f"take {chosen.label}: fastest, in a tie with {_names(choice.tied)}, and the simplest of them"
    assert ratio is not None
    return f"take {chosen.label}: {summary.factor(ratio.value)}× {BETTER[choice.objective]} {other.label}, the next"


def lines(choice: Choice) -> list[str]:
    """Why, one line a reason; for a choice of none, what each runtime fails."""
    chosen = choice.chosen
    if chosen is None or chosen.mean_ns is None:
        return []
    found = [_time_line(choice, chosen)]
    if choice.tied:
        order = ", ".join(SIMPLICITY)
        found.append(
            f"a tie: {_names((choice.best, *choice.tied))} differ by no more than the measurement can tell; "
            f"of those the simplest is taken, in the order {order}, fp32 first, then others"
        )
    found += _if_wrong(choice)
    found += _starts(choice)
    if chosen.batches:
        shown = [f"{batch} at length {length}" for length, batch in sorted(chosen.batches.items())]
        found.append(f"its best batches: {_some(shown)}")
    worst = chosen.worst_parity
    off = f", max |Δ| {worst.parity['max_abs_error']:.1e} at {worst.shape}" if worst else ""
    found.append(f"the same model: {chosen.verdict}{off}")
    return found + chosen.notes


def failures(choice: Choice) -> list[str]:
    """What each runtime that does not qualify fails, and by how much; one line each."""
    return [
        f"{candidate.label}: {'; '.join(_shortened([failure.reason for failure in candidate.failures]))}"
        for candidate in choice.candidates
        if candidate.failures
    ]


def not_measured(choice: Choice) -> list[str]:
    """What the choice does not know, one line each, with the command that would tell."""
    runs = _runs(choice)
    found = [
        f"the run is incomplete: bench compare --resume {run.path} goes on with it"
        for run in runs
        if not run.is_complete
    ]
    if choice.outside:
        share = sum(share for _, share in choice.outside)
        most = sorted(choice.outside, key=lambda entry: -entry[1])
        found.append(
            f"{percent(share)} of the requests lie beyond what was measured and count for nothing here: "
            f"{_some([str(shape) for shape, _ in most])}; {_command(runs[0], [shape for shape, _ in choice.outside])}"
        )
    workload = next(
        (c.workload for c in (choice.chosen, *choice.candidates) if c is not None and c.workload.calls), None
    )
    if workload is not None:
        if between := workload.share_of(INTERPOLATED):
            found.append(
                f"{percent(between)} of the calls lie between measured shapes: their times are interpolated, linearly "
                "over batch and length"
            )
        if above := workload.share_of(ROUNDED_UP):
            found.append(
                f"{percent(above)} of the calls are smaller than the smallest measured shape, and taken for that"
            )
    measured = {contestant.backend for run in runs for contestant in run.grid.contestants}
    if others := [name for name in BUILT_IN if name not in measured and name != "null"]:
        found.append(f"not among the runtimes: {', '.join(others)}; bench compare --backends …,{others[0]}")
    if not choice.traffic.is_given:
        found.append("your traffic: --traffic FILE weighs the shapes as they come")
    if all("random" in run.origin for run in runs):
        found.append("pretrained weights: parity was judged on seeded random ones")
    if choice.objective == "latency":
        found.append("waiting: calls were made one after another; bench load says what a queue adds")
    return found


def render(choice: Choice, format: str = "table", with_map: bool = False) -> str:
    """The choice in one of `FORMATS`, with the crossover map of every run on request."""
    if format == "json":
        maps = {"map": [cell for run in _runs(choice) for cell in _map_json(run)]} if with_map else {}
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


def _candidate_json(choice: Choice, candidate: Candidate) -> dict[str, Any]:
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
    sections = (("Why", lines(choice)), ("Does not qualify", failures(choice)), ("Not measured", not_measured(choice)))
    for title, found in sections:
        if found:
            console.print(Text(f"\n{title}", style="bold"))
            for line in found:
                console.print(Text(item(line, width)))
    maps = "".join(f"\n{_map(choice, run, width)}" for run in _runs(choice)) if with_map else ""
    return text.getvalue() + maps


def _map(choice: Choice, run: Run, width: int) -> str:
    """One run's crossover map, under its name where there are several."""
    name = f"{_name(run)}\n" if len(_runs(choice)) > 1 else ""
    return name + (
        render_map(run, width, sys.stdout.isatty()) or "no map: fewer than two shapes have a fastest runtime\n"
    )


def _heading(choice: Choice) -> list[str]:
    runs = _runs(choice)
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
        table.add_row(candidate.label + mark, *cells)
    return table


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time_line(choice: Choice, chosen: Candidate) -> str:
    assert chosen.mean_ns is not None
    interval = chosen.interval
    span = f" (95% interval {duration(interval.low)} to {duration(interval.high)})" if interval else ""
    unit = UNIT[choice.objective]
    if not choice.traffic.is_given and choice.objective == "latency":
        return f"{duration(chosen.mean_ns)} a request in the mean of all shapes{span}, each for the same share of time"
    return f"{duration(chosen.mean_ns)} a {unit} in the mean{span}"


def _if_wrong(choice: Choice) -> list[str]:
    """What the other choice would cost, and what this one does where the measurement errs."""
    ratio, other = choice.ratio, choice.runner_up
    if ratio is None or other is None:
        return []
    if ratio.interval is None:
        return [f"one round alone says so: no interval; measure with more --rounds than that against {other.label}"]
    low, high = ratio.interval.low, ratio.interval.high
    worst = f"up to {1 / low - 1:.0%} more than {other.label}" if low < 1 else f"no more than {other.label}"
    best = f"up to {high - 1:.0%} more" if high > 1 else "nothing more"
    told = f"this choice at worst {worst}; {other.label} in its place {best}"
    return [f"what a mistake would cost, by the {CONFIDENCE:.0%} interval: {told}"]


def _starts(choice: Choice) -> list[str]:
    chosen = choice.chosen
    if chosen is None or chosen.one_time_seconds is None:
        return []
    found = f"starts in {chosen.one_time_seconds:.1f} s (loading and first calls)"
    unit = UNIT[choice.objective]
    against = []
    on_its_machine = [other for other in choice.qualified if other.run is chosen.run and other is not chosen]
    for other in on_its_machine:
        after = choice.pays_back_after(other)
        if after and other.one_time_seconds is not None:
            against.append(f"{after:,.0f} {unit}s against {other.label} ({other.one_time_seconds:.1f} s)")
        elif after is None and _starts_later(chosen, other):
            against.append(f"never against {other.label} ({other.one_time_seconds:.1f} s)")
    return [
        found
        + (
            f": pays back after {_some(against)}"
            if against
            else ": no later than the others that qualify"
            if on_its_machine
            else ""
        )
    ]


def _starts_later(one: Candidate, other: Candidate) -> bool:
    mine, its = one.one_time_seconds, other.one_time_seconds
    return mine is not None and its is not None and mine > its


def _command(run: Run, shapes: Sequence[Shape]) -> str:
    batches = sorted({shape.batch for shape in places_of(run)} | {max(shape.batch for shape in shapes)})
    lengths = sorted({shape.length for shape in places_of(run)} | {max(shape.length for shape in shapes)})
    words = ["--batches", ",".join(map(str, batches)), "--lengths", ",".join(map(str, lengths))]
    return f"measure with {shlex.join(words)}"


def machine(run: Run) -> str:
    """The device that a run was measured on, in short."""
    return machine_line(run.grid, run.fingerprint)


def _name(run: Run) -> str:
    return run.path.name if run.path else run.started


def _runs(choice: Choice) -> list[Run]:
    found: list[Run] = []
    for candidate in choice.candidates:
        if not any(candidate.run is run for run in found):
            found.append(candidate.run)
    return found


def _names(candidates: Sequence[Candidate | None]) -> str:
    return " and ".join(candidate.label for candidate in candidates if candidate is not None)


def _some(words: Sequence[str]) -> str:
    """The first few of `words`, and how many more there are."""
    rest = len(words) - MOST_NAMED
    return ", ".join(words[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _shortened(reasons: Sequence[str]) -> list[str]:
    rest = len(reasons) - MOST_NAMED
    return [*reasons[:MOST_NAMED], *([f"and {rest} more"] if rest > 0 else [])]
