"""All cells, the runs beside each other, the machine, what was not measured, warnings, and commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import comparison
from bench.errors import UserError
from bench.records import Run
from bench.report import batches, published, summary
from bench.report.columns import shown
from bench.report.old_page.entries import Entry, labels
from bench.report.old_page.sections import Section
from bench.report.page.tables import DASH, Cell, number, share, table, verdict
from bench.report.summary import factor
from bench.report.table import milliseconds

#: Columns of the table of all cells that are there where some cell has the figure: title by name of `rows.COLUMNS`.
FURTHER = {
    "p90_ms": "p90 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "device_median_ms": "device ms",
    "enqueue_median_ms": "enqueue ms",
    "pipelined_median_ms": "pipelined ms",
    "naive_median_ms": "naive ms (wrong)",
    "host_share": "host share",
    "first_call_ms": "first call ms",
    "load_s": "load s",
}
SHARES = ("host_share",)


def results(of: Sequence[Entry]) -> Section:
    """Every cell in one table, which the reader sorts and filters."""
    further = {name: title for name, title in FURTHER.items() if any(entry.figures[name] is not None for entry in of)}
    rows = []
    for entry in of:
        figures, record = entry.figures, entry.record
        status = Cell(entry.median_text, figures["median_ms"], "" if entry.is_measured else "bad")
        cells = [
            number(record.batch, str(record.batch)), number(record.length, str(record.length)), entry.name, status,
            entry.interval_text, number(figures["ms_per_sample"]), number(figures["tokens_per_second"]),
            Cell(entry.speedup_text, figures["speedup"]), share(figures["floor_share"]), verdict(record.verdict),
        ]  # fmt: skip
        beside = [share(figures[name]) if name in SHARES else number(figures[name]) for name in further]
        rows.append([*cells, *beside])
    titles = (
        "batch", "length", "backend", "median ms", "interval", "ms a sample", "tokens/s", "speed-up", "floor", "parity",
        *further.values(),
    )  # fmt: skip
    about = (
        "Click a title to sort by it. Speed-ups are within rounds against the first backend of the run, with their "
        "interval. A ! before a median: the cell is tainted, as the warnings say."
    )
    return Section("cells", "All cells", about, table=table(titles, rows))


def beside_each_other(runs: Sequence[Run]) -> Section | None:
    """What became of each cell from the earlier runs to the last; None for a single run."""
    if len(runs) == 1:
        return None
    lines = [
        f"{label}: {run.path.name if run.path else 'in memory'}, started {run.started}, {run.grid.model} on "
        f"{run.grid.device}, {len(run.records)} cells"
        for run, label in zip(runs, labels(runs), strict=True)
    ]
    lines += [f"not the same: {line}" for line in comparison.obstacles(runs)]
    ordered = comparison.in_order(runs)
    differing = comparison.changes(ordered[0], ordered[-1])
    lines += [f"from the first to the last: {', '.join(differing)}"] if differing else []
    names = {id(run): label for run, label in zip(runs, labels(runs), strict=True)}
    about = (
        "The same cell in each run: time of the last over time of the first that has it, with its interval, and a "
        f"verdict at {comparison.THRESHOLD:.0%}, as bench diff gives it. What differs between the runs stands first."
    )
    try:
        compared = comparison.compare_runs(ordered)
    except UserError as error:
        return Section("runs", "The runs beside each other", about, lines=(*lines, f"no cell to compare: {error}"))
    tones = {"slower": "bad", "gone": "bad", "faster": "good", "ambiguous": "doubtful"}
    rows = []
    for cell in compared.cells:
        medians = [DASH if ns is None else number(ns / 1e6, milliseconds(ns)) for ns in cell.medians_ns]
        change: Cell | str = "–"
        if cell.change is not None:
            ends = cell.change.interval
            span = f" {factor(ends.low)}–{factor(ends.high)}" if ends else ""
            change = number(cell.change.value, f"{factor(cell.change.value)}{span}")
        place = number(cell.shape.batch * 1e9 + cell.shape.length, str(cell.shape))
        verdict_cell = Cell(cell.verdict, tone=tones.get(cell.verdict, ""))
        rows.append([place, _who(cell.contestant), *medians, change, verdict_cell, cell.reason])
    titles = ("batch × length", "backend", *(f"{names[id(run)]}, ms" for run in ordered), "new over old", "verdict", "")
    return Section("runs", "The runs beside each other", about, table=table(titles, rows), lines=tuple(lines))


def _who(contestant: Any) -> str:
    return f"{contestant.label} {contestant.precision}"


def best_batches(runs: Sequence[Run]) -> Iterator[Section]:
    """The batch to take at each length, for each run that doubled its batches."""
    for run, label in zip(runs, labels(runs), strict=True):
        if not (heading := batches.heading(run)):
            continue
        title = f"{heading[0]} · {label}" if label else heading[0]
        anchor = f"batches-{label.replace(' ', '-')}" if label else "batches"
        made = table(batches.TITLES, batches.table(run))
        yield Section(anchor, title, heading[1], table=made, lines=tuple(batches.lines(run)))


def others_figures(runs: Sequence[Run]) -> Iterator[Section]:
    """What somebody published for these shapes beside what was measured, for each run that has such figures."""
    for run, label in zip(runs, labels(runs), strict=True):
        if not (heading := published.heading(run)):
            continue
        titles, rows = published.table(run)
        title = f"{heading[0]} · {label}" if label else heading[0]
        anchor = f"published-{label.replace(' ', '-')}" if label else "published"
        lines = tuple(published.explanations(run))
        yield Section(anchor, title, " ".join(heading[1:]), table=table(titles, rows), lines=lines)


def machine(runs: Sequence[Run]) -> Section:
    """The fingerprint of each run, one line a fact."""
    columns = [dict(_flat(run.fingerprint)) | _of_the_run(run) for run in runs]
    names = list(dict.fromkeys(name for facts in columns for name in facts))
    rows = [[name, *(facts.get(name, "–") for facts in columns)] for name in names]
    titles = ("fact", *(label or "value" for label in labels(runs)))
    return Section("machine", "Machine and fingerprint", table=table(titles, rows), table_title="all facts")


def _of_the_run(run: Run) -> dict[str, str]:
    facts = {
        "started": run.started,
        "weights": run.origin,
        "checkpoint": run.checkpoint,
        "boundary": summary.boundary(run),
        "parent's CPU share while timing": "–" if run.parent_cpu_share is None else f"{run.parent_cpu_share:.1%}",
    }
    if run.peaks is not None:
        for precision, rate in run.peaks.flops_per_second.items():
            facts[f"measured peak, {precision}"] = f"{shown(rate / 1e9)} GFLOP/s"
        for size, rate in run.peaks.bandwidths:
            facts[f"measured bandwidth, {size / 2**20:.0f} MiB"] = f"{shown(rate / 1e9)} GB/s"
    return facts


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            for index, entry in enumerate(value):
                yield from _flat(entry if isinstance(entry, Mapping) else {"": entry}, f"{before}{name} {index} ")
        elif isinstance(value, list):
            yield f"{before}{name}", " ".join(map(str, value)) or "none"
        else:
            yield f"{before}{name}", "–" if value is None else str(value)


def findings(runs: Sequence[Run]) -> Iterator[Section]:
    """What ran, what was not measured and why, and the warnings."""
    kinds: dict[tuple[str, str], list[str]] = {
        ("not-measured", "Not measured"): [],
        ("warnings", "Warnings"): [],
        ("what-ran", "What ran"): [],
    }
    for run, label in zip(runs, labels(runs), strict=True):
        reasons, warnings = summary.findings(run)
        for lines, new in zip(kinds.values(), (reasons, warnings, summary.engagement(run)), strict=True):
            lines += [f"{label}: {line}" if label else line for line in new]
    for (anchor, title), lines in kinds.items():
        if lines or anchor == "warnings":
            yield Section(anchor, title, lines=tuple(lines) or ("none",))


def commands(runs: Sequence[Run], of: Sequence[Entry]) -> Section:
    """The command of each run, and of each cell alone."""
    lines = tuple(
        f"{label}: {run.command}" if label else run.command for run, label in zip(runs, labels(runs), strict=True)
    )
    rows = [
        [number(entry.shape.batch * 1e9 + entry.shape.length, str(entry.shape)), entry.name, entry.record.repeat]
        for entry in of
        if entry.record.repeat
    ]
    about = "The commands that measured this; below, those that repeat one cell alone."
    made = table(("batch × length", "backend", "command"), rows) if rows else None
    return Section("commands", "Commands", about, table=made, table_title="the command of each cell", lines=lines)
