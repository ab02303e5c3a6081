"""Requests served at a rate as a table for a terminal of 80 columns, or as JSON."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from bench import statistics
from bench.report import check_format
from bench.report.table import PARITY_STYLES, TAINTED, WIDTH, machine_line, milliseconds
from bench.run.search import Found
from bench.serving.records import KEPT, MISSED, UNJUDGED, LoadRecord, LoadRun
from bench.spec import Candidate
from bench.traffic import duration

FORMATS = ("table", "json")
#: Characters that a backend's name keeps where columns are many.
LEAST_NAME = 12
OUTCOME_STYLES = {KEPT: "green", MISSED: "red", UNJUDGED: "yellow"}


def render(run: LoadRun, format: str) -> str:
    """The run in one of `FORMATS`; raises UserError for another."""
    check_format(format, FORMATS)
    return _json(run) if format == "json" else _table(run)


def _json(run: LoadRun) -> str:
    kept = (
        "due_ns", "waits_ns", "rounds_ns", "first_calls_ns", "shapes", "warmed", "turns", "repeat", "facts", "failure",
        "memory", "conditions",
    )  # fmt: skip
    rows = [
        row | {name: getattr(record, name) for name in kept} | {"taint": run.taint(record)}
        for row, record in zip(run.rows(), run.records, strict=True)
    ]
    header = {key: value for key, value in run.header().items() if key != "kind"}
    header |= {"parent_cpu_share": run.parent_cpu_share, "is_complete": run.is_complete, "exit_code": run.exit_code}
    header["largest_rates"] = [
        {"backend": _name(run, who), "kept": found.kept, "missed": found.missed, "trials": found.trials,
         "is_settled": found.is_settled}
        for who in run.grid.contestants if (found := run.largest_rate(who)) is not None
    ]  # fmt: skip
    return json.dumps(header | {"rows": rows}, indent=2) + "\n"


def _table(run: LoadRun) -> str:
    from rich.console import Console
    from rich.text import Text

    text = io.StringIO()
    width = max(WIDTH, min(shutil.get_terminal_size((WIDTH, 24)).columns, 120))
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)

    def told(line: str, indent: str = "") -> None:
        console.print(Text(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)))

    for line in _heading(run):
        told(line)
    asked = [record for who in run.grid.contestants if (record := run.record(who)) is not None]
    if asked:
        console.print()
        console.print(_latencies(run, asked))
        console.print(Text(f"\nat {run.load.rate:g}/s", style="bold"))
        console.print(_verdicts(run, asked))
    for title, lines in (
        ("Largest rate", list(_searches(run))),
        ("Compiled shapes", list(_compiled(run, asked))),
        ("Not measured", _not_measured(run)),
        ("Warnings", _grouped(run, _warnings(run))),
    ):
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                told(f"- {line}", "  ")
    console.print()
    if not run.is_complete:
        told(f"Incomplete: {len(run.records)} rates have their record; measure again with: {run.command}")
    if run.path is not None:
        console.print(Text(f"records: {run.path}"), soft_wrap=True)
    return text.getvalue()


def _heading(run: LoadRun) -> list[str]:
    grid, load, rule = run.grid, run.load, run.load.rule
    shapes = [str(shape) for shape in grid.shapes]
    some = ", ".join(shapes) if len(shapes) <= 6 else f"{shapes[0]} to {shapes[-1]}"
    joined = "each served by itself"
    if rule.most_rows is not None:
        waits = duration(rule.most_delay_ns) if rule.most_delay_ns else "0 ms"
        joined = f"joined up to batch {rule.most_rows}, the first of them waiting at most {waits} for more"
    lengths = f"; lengths rounded up to a multiple of {load.bucket}" if load.bucket else ""
    return [
        f"{grid.model} ({grid.output}), {machine_line(grid, run.fingerprint)}",
        f"weights: {run.origin}",
        f"traffic: {run.traffic.source}; batch×length {some}{lengths}",
        (
            f"{load.rate:g} requests/s for {load.duration_seconds:g} s: {load.requests:,} Poisson arrivals in "
            f"{load.rounds} slices, the same for all; {joined}"
        ),
        (
            "latency: from the moment a request was due until its call was done; call: its call alone (median); "
            "busy: share of the time in calls; queue: most that waited at once"
        ),
    ]


def _latencies(run: LoadRun, records: list[LoadRecord]) -> Any:
    table = _empty_table(run, records)
    for title in ("p50 ms", "p95 ms", "p99 ms", "call ms", "busy", "queue", "served/s"):
        table.add_column(title, justify="right", no_wrap=True)
    if run.load.rule.is_dynamic:
        table.add_column("a call", justify="right", no_wrap=True)
    for record in records:
        if record.status != "ok":
            table.add_row(_name(run, record.contestant), record.status)
            continue
        mark = TAINTED if run.taint(record) else ""
        cells = [_percentile(record, rank) for rank in (50, 95, 99)]
        cells[0] = mark + cells[0]
        cells += [milliseconds(statistics.median(record.calls_ns)), f"{record.busy_share:.0%}"]
        cells += [f"{record.largest_queue:,}", f"{record.served_rate:.4g}"]
        cells += [f"{record.requests_per_call:.2f}"] if run.load.rule.is_dynamic else []
        table.add_row(_name(run, record.contestant), *cells)
    return table


def _percentile(record: LoadRecord, rank: int) -> str:
    """Milliseconds; a dash for too few requests, or where those left over would have been the slowest."""
    value = record.percentile(rank)
    return "–" if value is None else milliseconds(value)


def _verdicts(run: LoadRun, records: list[LoadRecord]) -> Any:
    from rich.text import Text

    table = _empty_table(run, records)
    table.add_column("parity", no_wrap=True)
    table.add_column("max |Δ|", justify="right", no_wrap=True)
    table.add_column("keeps up")
    for slo in run.load.slos:
        table.add_column(f"{slo}")
    if run.load.search_requests is not None:
        table.add_column("largest rate", no_wrap=True)
    for record in records:
        worst = _worst(run, record.contestant)
        error = worst.parity.get("max_abs_error")
        cells: list[Any] = [Text(worst.verdict or "–", style=PARITY_STYLES.get(worst.verdict, ""))]
        cells += ["–" if error is None else f"{error:.1e}"]
        if record.status == "ok":
            sound = run.is_sound(record.contestant)
            cells += ["yes" if record.keeps_up else Text("no", style="red")]
            outcomes = [record.outcome(slo) if sound else "–" for slo in run.load.slos]
            cells += [Text(outcome, style=OUTCOME_STYLES.get(outcome, "")) for outcome in outcomes]
        else:
            cells += [record.status, *("–" for _ in run.load.slos)]
        if run.load.search_requests is not None:
            tainted = any(run.taint(one) for one in run.records if one.contestant == record.contestant and one.step)
            cells += [(TAINTED if tainted else "") + _rate(run.largest_rate(record.contestant))]
        table.add_row(_name(run, record.contestant), *cells)
    return table


def _worst(run: LoadRun, contestant: Candidate) -> LoadRecord:
    """The record of a contestant that its parity is told by: a broken one of any rate before all others."""
    records = [one for one in run.records if one.contestant == contestant]
    return next((one for one in records if one.verdict == "broken"), records[0])


def _rate(found: Found | None) -> str:
    """`312/s`, or what was found instead."""
    if found is None:
        return "–"
    if found.kept is None:
        return "none" if found.is_settled else f"< {found.missed:.4g}/s"
    return f"{found.kept:.4g}/s" if found.is_settled else f"≥ {found.kept:.4g}/s"


def _searches(run: LoadRun) -> Iterator[str]:
    """What each search came to, and the rule."""
    levels = " and ".join(str(slo) for slo in run.load.slos)
    for contestant in run.grid.contestants:
        found = run.largest_rate(contestant)
        if found is None:
            continue
        tried = f"{found.trials} rate{'' if found.trials == 1 else 's'} tried"
        if found.kept is None and found.is_settled:
            what = f"no rate keeps {levels}: calls that nobody waits for miss it already ({tried})"
        elif found.kept is None:
            what = f"none found that keeps {levels}; {found.missed:.4g}/s missed it, and lower was not tried ({tried})"
        else:
            missed = "no higher one was tried" if found.missed is None else f"{found.missed:.4g}/s missed it"
            open_ = "" if found.is_settled else "; the search ended before it was settled"
            what = f"{found.kept:.4g}/s keeps {levels}, {missed} ({tried}{open_})"
        yield f"{_name(run, contestant)}: {what}"
    if run.load.search_requests is not None:
        yield (
            f"a rate keeps a level where the percentile of its {run.load.requests_of(1):,} requests is within it and "
            "their calls take no longer than they took to arrive; rates are bisected, on the same draws, in one slice "
            "that begins with no queue"
        )


def _compiled(run: LoadRun, records: list[LoadRecord]) -> Iterator[str]:
    """Graphs, seconds and recompilations of the backends that compile shapes, one line each."""
    for record in records:
        if record.facts.get("graphs") is None or record.first_calls_ns is None:
            continue
        cached = ", partly from the cache" if record.facts.get("compile_cache_hits") else ""
        yield (
            f"{_name(run, record.contestant)}: {record.facts['graphs']} graphs for {record.shapes} shapes (first calls "
            f"{record.first_calls_ns / 1e9:.1f} s{cached}, before anything was served); "
            f"{record.facts.get('recompiles_while_timing') or 0} recompilations while serving"
        )


def _not_measured(run: LoadRun) -> list[str]:
    return [
        f"{_name(run, record.contestant)} at {record.rate:.4g}/s: {record.status}: {record.reason}"
        for record in run.records
        if record.status != "ok"
    ]


def _warnings(run: LoadRun) -> Iterator[tuple[LoadRecord, str]]:
    for record in run.records:
        if record.status != "ok":
            continue
        if not record.judged:
            yield record, f"{record.backend} computes nothing; its calls are a script's"
        elif not record.is_comparable:
            reason = record.parity.get("reason", "")
            yield record, f"parity is {record.verdict or 'missing'}: {reason}; no service level is said to be kept"
        if record.step == 0:
            yield from ((record, message) for message in _of_the_asked_rate(run, record))
        if record.facts.get("recompiles_while_timing"):
            yield record, "recompiled while serving; TORCH_LOGS=recompiles shows why"
        for line in run.taint(record):
            yield record, f"tainted: {line}"


def _of_the_asked_rate(run: LoadRun, record: LoadRecord) -> Iterator[str]:
    if record.unserved:
        yield (
            f"does not keep up: {record.unserved:,} of {record.requests:,} requests were still queued when their "
            "slices were ended, so there are no percentiles; use a lower --rate"
        )
    elif not record.keeps_up:
        yield "does not keep up: calls take longer than requests take to arrive, so the queue grows; use a lower --rate"
    for slo in run.load.slos:
        if record.outcome(slo) == UNJUDGED:
            needed = statistics.PERCENTILE_SAMPLES[slo.rank]
            seconds = needed / run.load.rate
            yield f"{slo} cannot be judged from {record.requests} requests; use --duration {seconds:.0f}s or more"
    if record.warmed < record.shapes:
        yield f"{record.shapes - record.warmed} of {record.shapes} shapes were met while serving, not before"
    if record.turns == "sequential":
        yield "served apart from the others, as memory did not hold all workers; compare fewer at once"


def _grouped(run: LoadRun, messages: Iterator[tuple[LoadRecord, str]]) -> list[str]:
    """Each message once, with whom and what rates it concerns."""
    found: dict[str, dict[str, list[str]]] = {}
    for record, message in messages:
        found.setdefault(message, {}).setdefault(_name(run, record.contestant), []).append(f"{record.rate:.4g}/s")
    lines = []
    for message, who in found.items():
        places = [f"{name} at {rates[0] if len(rates) == 1 else f'{len(rates)} rates'}" for name, rates in who.items()]
        lines.append(f"{', '.join(places)}: {message}")
    return lines


def _empty_table(run: LoadRun, records: list[LoadRecord]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    longest_word = max(len(word) for record in records for word in _name(run, record.contestant).split())
    table.add_column("backend", overflow="fold", min_width=min(longest_word, LEAST_NAME))
    return table


def _name(run: LoadRun, contestant: Candidate) -> str:
    has_many = len({one.precision for one in run.grid.contestants}) > 1
    return f"{contestant.label} {contestant.precision}" if has_many else contestant.label
