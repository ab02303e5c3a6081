"""A run as Markdown, one table for all cells; fits a pull request comment."""

from __future__ import annotations

from collections.abc import Sequence

from bench import statistics
from bench.records import Record, Run
from bench.report import batches, published, summary
from bench.report.columns import COLUMNS
from bench.report.table import TAINTED, milliseconds
from bench.rows import row


def render(run: Run, columns: Sequence[str] = ()) -> str:
    """The run as Markdown text; each row ends with `columns`, names of `COLUMNS`."""
    grid = run.grid
    further = [COLUMNS[name] for name in columns]
    titles = "".join(f" {column.title} |" for column in further)
    lines = [
        *([f"Preset {run.preset['name']}: {run.preset['title']} ({run.preset['source']})", ""] if run.preset else []),
        f"**{grid.model}**, {grid.device}, {grid.threads} threads; weights: {run.origin}; {summary.boundary(run)}",
        "",
        "| batch × length | backend | median ms | ± | spread | ms/sample | speed-up | floor | parity | max abs error |"
        + titles,
        "|---|---|--:|--:|--:|--:|---|--:|---|--:|" + "--:|" * len(further),
    ]
    for shape, records in summary.shapes(run):
        if summary.is_left_out(run, records):
            continue
        for record in records:
            figures = row(run, record) if further else {}
            cells = [*_cells(run, record), *(column.cell(figures) for column in further)]
            lines.append(f"| {shape} | {' | '.join(cells)} |")
    lines.append("")
    for shape, records in summary.shapes(run):
        if won := summary.winner(run, records):
            lines.append(f"- {shape}: {summary.winner_line(run, won)}")
    lines += [*_batches(run), *_published(run)]
    reasons, warnings = summary.findings(run)
    for title, found in (("What ran", summary.engagement(run)), ("Not measured", reasons), ("Warnings", warnings)):
        if found:
            lines += ["", f"{title}:", "", *(f"- {_escape(line)}" for line in found)]
    return "\n".join(lines) + "\n"


def _batches(run: Run) -> list[str]:
    if not (heading := batches.heading(run)):
        return []
    lines = [
        "",
        f"**{heading[0]}** ({heading[1]})",
        "",
        f"| {' | '.join(batches.TITLES)} |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    lines += [f"| {' | '.join(map(_escape, cells))} |" for cells in batches.table(run)]
    return [*lines, "", *(f"- {_escape(line)}" for line in batches.lines(run))]


def _published(run: Run) -> list[str]:
    if not (heading := published.heading(run)):
        return []
    titles, rows = published.table(run)
    lines = ["", f"**{heading[0]}**", "", *heading[1:], ""]
    lines += [f"| {' | '.join(titles)} |", "|---|" + "--:|" * (len(titles) - 1)]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return [*lines, "", *(f"- {_escape(line)}" for line in published.explanations(run))]


def _cells(run: Run, record: Record) -> list[str]:
    who = _escape(summary.name(run, record))
    if record.status != "ok":
        return [who, record.status, *["–"] * 7]
    q1, median, q3 = statistics.quartiles(record.samples)
    error = record.parity.get("max_abs_error")
    precision, floor = statistics.precision(record.rounds), run.floor_share(record)
    return [
        who,
        f"{TAINTED if run.taint(record) else ''}{milliseconds(median)}",
        f"{precision:.1%}" if precision is not None else "–",
        f"{(q3 - q1) / median:.1%}",
        milliseconds(median / record.batch),
        summary.speedup_cell(run, record),
        f"{floor:.0%}" if floor is not None else "–",
        record.verdict or "–",
        f"{error:.1e}" if error is not None else "–",
    ]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
