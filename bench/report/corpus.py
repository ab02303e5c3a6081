"""Passes over a corpus as a table for a terminal of 80 columns, as CSV, or as JSON."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from bench import statistics, warnings
from bench.corpora.records import COLUMNS, CorpusRecord, CorpusRun
from bench.records import is_unsteady
from bench.report import check_format
from bench.report.summary import factor
from bench.report.table import PARITY_STYLES, TAINTED, WIDTH, machine_line, milliseconds

FORMATS = ("table", "csv", "json")
#: Characters of the histogram's longest bar.
BAR = 40
#: Passes between the fastest and the slowest of a cell, as a share, above which the machine was not quiet.
WIDE_SPREAD = 0.25


def render(run: CorpusRun, format: str) -> str:
    """The run in one of `FORMATS`; raises UserError for another."""
    check_format(format, FORMATS)
    if format == "json":
        return _json(run)
    return _csv(run) if format == "csv" else _table(run)


def _csv(run: CorpusRun) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.rows())
    return text.getvalue()


def _json(run: CorpusRun) -> str:
    kept = ("rounds_ns", "warmup_ns", "turns", "repeat", "facts", "failure", "memory", "conditions")
    rows = [
        row | {name: getattr(record, name) for name in kept} | {"taint": run.taint(record)}
        for row, record in zip(run.rows(), run.records, strict=True)
    ]
    header = {key: value for key, value in run.header().items() if key != "kind"}
    header |= {"parent_cpu_share": run.parent_cpu_share, "is_complete": run.is_complete, "exit_code": run.exit_code}
    return json.dumps(header | {"rows": rows}, indent=2) + "\n"


def _table(run: CorpusRun) -> str:
    from rich.console import Console
    from rich.text import Text

    text = io.StringIO()
    width = max(WIDTH, min(shutil.get_terminal_size((WIDTH, 24)).columns, 120))
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)

    def told(line: str, indent: str = "") -> None:
        console.print(Text(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)))

    for line in _heading(run):
        told(line)
    console.print()
    for line in distribution(run):
        console.print(Text(line))
    for order in run.corpus_plan.orders:
        records = [record for record in run.records if record.order == order]
        if not records:
            continue
        console.print(Text(f"\n{order}{_rounding(run, order)}", style="bold"))
        console.print(_times(run, records))
        if any(record.is_comparable or not record.judged for record in records):
            console.print()
            console.print(_speedups(run, records))
        for line in _fastest(run, order):
            console.print(Text(textwrap.fill(line, width, break_on_hyphens=False), style="green"))
    for title, lines in (
        ("Compiled shapes", list(_compiled(run))),
        ("Not measured", _grouped(run, ((one, f"{one.status}: {one.reason}") for one in run.records if one.reason))),
        ("Warnings", [*_of_the_run(run), *_grouped(run, _warnings(run))]),
    ):
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                told(f"- {line}", "  ")
    console.print()
    if not run.is_complete:
        told(f"Incomplete: {len(run.records)} of {run.planned} cells; measure again with: {run.command}")
    if run.path is not None:
        console.print(Text(f"records: {run.path}"), soft_wrap=True)
    return text.getvalue()


def _heading(run: CorpusRun) -> list[str]:
    grid = run.grid
    output = "last hidden state" if grid.task == "base" else "logits"
    where = "batches on the device before" if grid.boundary == "device" else "host arrays in and out, copies timed"
    return [
        f"{grid.model} ({output}), {machine_line(grid, run.fingerprint)}",
        f"weights: {run.origin}",
        (
            f"median of {run.plan.rounds} whole passes over the number of sentences, {where}, one synchronisation "
            "a pass; "
            f"±: {statistics.MEDIAN_CONFIDENCE:.0%} interval; padding: share of all positions"
        ),
    ]


def distribution(run: CorpusRun) -> list[str]:
    """The corpus in lines: where it came from, quartiles of its lengths, and their histogram."""
    corpus = run.corpus
    shortest, q1, middle, q3, longest = corpus.quartiles
    cut = f"; {corpus.truncated} cut at {corpus.most_tokens}" if corpus.truncated else ""
    lines = [
        f"corpus: {line}" if not number else f"  {line}"
        for number, line in enumerate(textwrap.wrap(corpus.source, WIDTH - 8))
    ]
    lines.append(
        f"tokens: {sum(corpus.lengths):,}; a sentence {shortest} to {longest}, quartiles {q1}, {middle}, {q3}{cut}"
    )
    bins = corpus.histogram()
    most = max(count for _, _, count in bins)
    wide = len(str(longest))
    for first, last, count in bins:
        name = f"{first:>{wide}}–{last:<{wide}}" if last > first else f"{first:>{wide}} {'':<{wide}}"
        lines.append(f"  {name} {'█' * -(-BAR * count // most)}{' ' if count else ''}{count}")
    return lines


def _rounding(run: CorpusRun, order: str) -> str:
    multiple = run.corpus_plan.multiple(order)
    return f", lengths rounded up to a multiple of {multiple}" if multiple > 1 else ""


def _times(run: CorpusRun, records: list[CorpusRecord]) -> Any:
    from rich.text import Text

    table = _empty_table(run, records)
    for title in ("ms/sample", "±", "pass s", "padding"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("parity", no_wrap=True)
    table.add_column("max |Δ|", justify="right", no_wrap=True)
    for batch, record in _with_batch(records):
        parity = Text(record.verdict or "–", style=PARITY_STYLES.get(record.verdict, ""))
        error = record.parity.get("max_abs_error")
        shown = f"{error:.1e}" if error is not None else "–"
        if record.status != "ok":
            cells = [record.status, "–", "–"]
        else:
            mark = TAINTED if run.taint(record) else ""
            cells = [mark + milliseconds(record.ns_per_sample), _percent(statistics.precision(record.rounds))]
            cells.append(f"{record.ns_per_sample * record.sentences / 1e9:.4g}")
        table.add_row(batch, _name(run, record), *cells, f"{record.padding_share:.1%}", parity, shown)
    return table


def _speedups(run: CorpusRun, records: list[CorpusRecord]) -> Any:
    table = _empty_table(run, records)
    table.add_column(f"× {run.first.label}, same batch")
    table.add_column(f"× {run.first.label}, batch 1")
    if run.baseline is not None:
        table.add_column(f"× {run.baseline.record.contestant.label}, batch 1, CPU")
    for batch, record in _with_batch(records):
        itself = record.contestant == run.first
        cells = [_speedup(run.ratio(record), itself), _speedup(run.ratio_to_one(record), record is run.one)]
        cells += [_speedup(run.ratio_to_baseline(record), False)] if run.baseline is not None else []
        table.add_row(batch, _name(run, record), *cells)
    return table


def _speedup(ratio: statistics.Ratio | None, is_itself: bool) -> str:
    """`2.70× 2.61–2.78`, `tie 0.98–1.14`, or a dash where models or rounds allow no speed-up."""
    if ratio is None:
        return "–"
    if is_itself:
        return "1×"
    if ratio.interval is None:
        return f"{factor(ratio.value)}× (1 round)"
    span = f"{factor(ratio.interval.low)}–{factor(ratio.interval.high)}"
    if is_unsteady(ratio):
        return f"{ratio.verdict} {span}"
    return f"tie {span}" if ratio.verdict == "tie" else f"{factor(ratio.value)}× {span}"


def _empty_table(run: CorpusRun, records: list[CorpusRecord]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("batch", justify="right", no_wrap=True)
    longest_word = max(len(word) for record in records for word in _name(run, record).split())
    table.add_column("backend", overflow="fold", min_width=min(longest_word, 18))
    return table


def _with_batch(records: list[CorpusRecord]) -> Iterator[tuple[str, CorpusRecord]]:
    """Each record with its batch size, which is shown once."""
    before = None
    for record in records:
        yield "" if record.batch == before else str(record.batch), record
        before = record.batch


def _name(run: CorpusRun, record: CorpusRecord) -> str:
    has_many = len({contestant.precision for contestant in run.grid.contestants}) > 1
    return f"{record.contestant.label} {record.precision}" if has_many else record.contestant.label


def _fastest(run: CorpusRun, order: str) -> Iterator[str]:
    """Who is fastest at each batch size, one line; and of all, under the last order."""
    parts = []
    for packing in run.corpus_plan.packings:
        if packing.order == order and (found := run.fastest(packing)) is not None:
            best, ties = found
            tied = f" (tie with {', '.join(_name(run, one) for one in ties)})" if ties else ""
            parts.append(f"{_name(run, best)} at {packing.batch}{tied}")
    if parts:
        yield f"fastest: {'; '.join(parts)}"
    if order == run.corpus_plan.orders[-1] and (found := run.fastest()) is not None:
        best, ties = found
        ratio = run.ratio_to_one(best)
        line = f"fastest of all: {_name(run, best)} at batch {best.batch}, {best.order}"
        if ratio is not None and ratio.verdict == "faster" and not is_unsteady(ratio):
            line += f", {factor(ratio.value)}× {run.first.label} at batch 1"
        names = [f"{_name(run, one)} at {one.packing}" for one in ties]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield line + (f" (tie with {', '.join(names[:3])}{more})" if names else "")


def _compiled(run: CorpusRun) -> Iterator[str]:
    """Graphs, seconds and recompilations of the backends that compile shapes, one line a cell."""
    for record in run.records:
        facts = record.facts
        if facts.get("graphs") is None or record.first_calls_ns is None:
            continue
        cached = ", partly from the cache" if facts.get("compile_cache_hits") else ""
        seconds, first_seconds = facts.get("compile_seconds") or 0, record.first_calls_ns / 1e9
        yield (
            f"{_name(run, record)} at {record.packing}: {facts['graphs']} graphs for {record.shapes} shapes in "
            f"{seconds:.1f} s{cached} (first calls {first_seconds:.1f} s, no part of a pass); "
            f"{facts.get('recompiles_while_timing') or 0} recompilations in the timed passes"
        )


def _warnings(run: CorpusRun) -> Iterator[tuple[CorpusRecord, str]]:
    for record in run.records:
        if record.status != "ok":
            continue
        if not record.judged:
            yield record, f"{record.backend} computes nothing; its time is a script's plus the harness's own"
        elif not record.is_comparable:
            yield record, f"parity is {record.verdict or 'missing'}: {record.parity.get('reason', '')}"
        if record.facts.get("recompiles_while_timing"):
            yield record, "recompiled while timing; TORCH_LOGS=recompiles shows why"
        for warning in warnings.of_placement(record.facts):
            yield record, warning
        if record.turns == "sequential":
            yield record, "timed apart from the others, as memory did not hold all workers; compare fewer at once"
        if len(record.rounds_ns) < 2:
            yield record, "one pass alone has no interval; use --rounds 5"
        elif (max(record.rounds_ns) - min(record.rounds_ns)) / min(record.rounds_ns) > WIDE_SPREAD:
            yield (
                record,
                f"its passes differ by over {WIDE_SPREAD:.0%}; stop other work on this machine and measure again",
            )
        for line in run.taint(record):
            yield record, f"tainted: {line}"


def _of_the_run(run: CorpusRun) -> Iterator[str]:
    if run.one is None or run.one.status != "ok":
        yield f"no speed-ups against batch 1, as {run.first.label} at batch 1, unsorted, was not measured here"
    if run.grid.device == "cuda" and run.baseline is None:
        yield "no speed-ups against the CPU; measure --batches 1 with --device cpu, and give that file as --baseline"


def _grouped(run: CorpusRun, messages: Any) -> list[str]:
    """Each message once, with the cells that it concerns."""
    found: dict[str, dict[str, list[str]]] = {}
    for record, message in messages:
        found.setdefault(message, {}).setdefault(_name(run, record), []).append(str(record.packing))
    everywhere = len(run.corpus_plan.packings)
    lines = []
    for message, cells in found.items():
        names_at: dict[str, list[str]] = {}
        for name, where in cells.items():
            names_at.setdefault("every one" if len(where) == everywhere > 1 else ", ".join(where), []).append(name)
        places = "; ".join(f"{', '.join(who)} at {at}" for at, who in names_at.items())
        lines.append(f"{places}: {message}")
    return lines


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}" if share < 1 else ">99%"
