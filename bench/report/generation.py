"""A run of `bench generate` as a table for a terminal of 80 columns, as CSV or as JSON."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from bench import statistics
from bench.generation.plan import FULL_PASSES
from bench.generation.records import GenerationRecord, GenerationRun
from bench.records import is_unsteady
from bench.report import check_format
from bench.report.summary import factor, grouped_by_place, speedup_cell
from bench.report.table import PARITY_STYLES, TAINTED, WIDE, WIDTH, item, machine_line, milliseconds, percent

FORMATS = ("table", "csv", "json")
WAYS = {"cache": "cache", FULL_PASSES: "full passes"}


def render(run: GenerationRun, format: str = "table") -> str:
    """The run as text in one of `FORMATS`; raises UserError for another."""
    check_format(format, FORMATS)
    if format == "json":
        return json.dumps({**run.header(), "rows": run.rows()}, indent=2) + "\n"
    if format == "csv":
        text = io.StringIO()
        rows = run.rows()
        writer = csv.DictWriter(text, rows[0] if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    return _table(run)


def _table(run: GenerationRun) -> str:
    from rich.console import Console
    from rich.text import Text

    width = min(max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns), WIDE)
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)
    for line in _heading(run):
        console.print(Text(textwrap.fill(line, width, break_on_hyphens=False)))
    for batch in run.batches:
        records = _of_batch(run, batch)
        if not records:
            continue
        console.print()
        console.print(Text(f"batch {batch}", style="bold"))
        console.print(_times(run, records))
        if won := _winner(run, records):
            console.print(Text(won, style="green"))
        console.print()
        console.print(_tokens(run, records))
    for title, lines in (("Not measured", _reasons(run)), ("Warnings", _warnings(run))):
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                console.print(Text(item(line, width)))
    console.print()
    if not run.is_complete:
        planned = len(run.batches) * len(run.grid.contestants)
        console.print(Text(f"Incomplete: {len(run.records)} of {planned} cells; measure again"))
    if run.path is not None:
        console.print(Text(f"records: {run.path}"), soft_wrap=True)
    return text.getvalue()


def _heading(run: GenerationRun) -> list[str]:
    plan = run.generation
    first = run.grid.contestants[0].label
    yield_of = (
        f"{plan.new_tokens} new tokens behind prompts of {plan.prompt_length}, {plan.decoding}; none ends early",
        f"weights: {run.origin}",
        (
            "medians of whole generations, prompts and tokens on the device; first: until the first token is there "
            "(the prompt's pass); ms/token: of those behind it; total: all of it, ±: its "
            f"{statistics.MEDIAN_CONFIDENCE:.0%} interval; speed-up: of the total against {first} within rounds, "
            f"{statistics.RATIO_CONFIDENCE:.0%} interval; floor: share of a token's time that reading the weights once "
            "and each sequence's keys and values takes at this machine's peak"
        ),
    )
    return [f"{run.grid.model} (generation), {machine_line(run.grid, run.fingerprint)}", *yield_of]


def _of_batch(run: GenerationRun, batch: int) -> list[GenerationRecord]:
    order = list(run.grid.contestants)
    records = [record for record in run.records if record.batch == batch]
    return sorted(records, key=lambda record: order.index(record.contestant))


def _name(run: GenerationRun, record: GenerationRecord) -> str:
    has_many = len({contestant.precision for contestant in run.grid.contestants}) > 1
    return f"{record.contestant.label} {record.precision}" if has_many else record.contestant.label


def _empty_table(run: GenerationRun, records: list[GenerationRecord], titles: tuple[str, ...]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    longest = max(len(word) for record in records for word in _name(run, record).split())
    table.add_column("backend", overflow="fold", min_width=min(longest, 20))
    for title in titles:
        is_text = title in ("speed-up", "way", "parity")
        table.add_column(title, justify="left" if is_text else "right", no_wrap=title != "speed-up")
    return table


def _times(run: GenerationRun, records: list[GenerationRecord]) -> Any:
    titles = ("first ms", "ms/token", "tokens/s", "total s", "±", "speed-up", "floor")
    table = _empty_table(run, records, titles)
    for record in records:
        name = _name(run, record)
        if record.status != "ok":
            table.add_row(name, record.status, *["–"] * (len(titles) - 1))
            continue
        mark = TAINTED if run.taint(record) else ""
        step, speed = run.ms_per_token(record), run.tokens_per_second(record)
        half = statistics.precision(record.rounds)
        share = run.floor_share(record)
        table.add_row(
            name,
            mark + milliseconds(statistics.median(statistics.pooled(record.first_token_rounds))),
            "–" if step is None else milliseconds(step * 1e6),
            "–" if speed is None else f"{speed:.4g}",
            f"{run.total_seconds(record):.4g}",
            "–" if half is None else percent(half),
            speedup_cell(run, record),
            "–" if share is None else f"{share:.0%}",
        )
    return table


def _tokens(run: GenerationRun, records: list[GenerationRecord]) -> Any:
    from rich.text import Text

    titles = ("way", "as eager's", "parity", "max |Δ|", "cache MiB", "peak MiB")
    table = _empty_table(run, records, titles)
    for record in records:
        alike = run.tokens_as_eager(record)
        error = record.parity.get("max_abs_error")
        held, peak = record.memory.get("cache"), run.peak_bytes(record)
        table.add_row(
            _name(run, record),
            WAYS.get(record.way, record.way),
            "–" if alike is None else f"{alike} of {run.generation.new_tokens}",
            Text(record.verdict or "–", style=PARITY_STYLES.get(record.verdict, "")),
            "–" if error is None else f"{error:.1e}",
            "–" if held is None else f"{held / 2**20:.2f}",
            "–" if peak is None else f"{peak / 2**20:.0f}",
        )
    return table


def _winner(run: GenerationRun, records: list[GenerationRecord]) -> str:
    """Who generates fastest among those that are still the same model; "" where fewer than two can be compared."""
    comparable = [r for r in records if r.is_comparable and r.judged and not run.is_implausible(r)]
    if len(comparable) < 2:
        return ""
    fastest = min(comparable, key=lambda record: statistics.median(record.samples))
    ties = [record for record in comparable if record is not fastest and not _is_beaten(fastest, record)]
    line = f"fastest: {_name(run, fastest)}"
    first, ratio = run.grid.contestants[0], run.ratio(fastest)
    if fastest.contestant != first and ratio is not None and all(record.contestant != first for record in ties):
        line += "" if is_unsteady(ratio) else f", {factor(ratio.value)}× {first.label}"
    return line + (f" (tie with {', '.join(_name(run, record) for record in ties)})" if ties else "")


def _is_beaten(fastest: GenerationRecord, record: GenerationRecord) -> bool:
    if "sequential" in (fastest.turns, record.turns):
        ratio = statistics.ratio_of_runs(record.rounds, fastest.rounds)
    else:
        ratio = statistics.ratio_within_rounds(record.rounds, fastest.rounds)
    return ratio is not None and ratio.verdict == "faster"


def _reasons(run: GenerationRun) -> list[str]:
    return _grouped(run, [(r, f"{r.status}: {r.reason}") for r in run.records if r.status != "ok"])


def _warnings(run: GenerationRun) -> list[str]:
    return _grouped(run, [(r, warning) for r in run.records for warning in [*r.warnings, *_computed(run, r)]])


def _grouped(run: GenerationRun, messages: list[tuple[GenerationRecord, str]]) -> list[str]:
    found = [(_name(run, record), f"batch {record.batch}", message) for record, message in messages]
    return grouped_by_place(found, len(run.batches), "batch")


def _computed(run: GenerationRun, record: GenerationRecord) -> Iterator[str]:
    """Warnings that rest on other records, on the machine or on how the tokens were made."""
    if record.status == "ok" and record.way == FULL_PASSES:
        yield "no keys and values are kept: each token is a pass over all tokens before it"
    if run.is_implausible(record):
        yield "implausible: a token took less than this machine's peak allows; the work was not done, or not waited for"
    alike = run.tokens_as_eager(record)
    if alike is not None and alike < run.generation.new_tokens and record.verdict in ("exact", "equivalent"):
        yield (
            "behind some prompt it writes other tokens than eager from some step on, though with the reference's "
            "tokens forced its logits are like eager's at every step: rounding decides between near-ties"
        )
    for line in run.taint(record):
        yield f"tainted: {line}"
