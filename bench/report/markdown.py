"""A run as Markdown, one table for all cells; fits a pull request comment."""

from __future__ import annotations

from bench import statistics
from bench.records import Record, Run
from bench.report import summary
from bench.report.table import milliseconds


def render(run: Run) -> str:
    """The run as Markdown text."""
    grid = run.grid
    lines = [
        f"**{grid.model}**, {grid.device}, {grid.threads} threads; weights: {run.origin}",
        "",
        "| batch × length | backend | median ms | spread | ms/sample | speed-up | parity | max abs error |",
        "|---|---|--:|--:|--:|--:|---|--:|",
    ]
    for shape, records in summary.shapes(run):
        lines += [f"| {shape} | {' | '.join(_cells(run, record))} |" for record in records]
    lines.append("")
    for shape, records in summary.shapes(run):
        if won := summary.winner(run, records):
            lines.append(f"- {shape}: {summary.winner_line(run, won)}")
    reasons, warnings = summary.findings(run)
    for title, found in (("Not measured", reasons), ("Warnings", warnings)):
        if found:
            lines += ["", f"{title}:", "", *(f"- {_escape(line)}" for line in found)]
    return "\n".join(lines) + "\n"


def _cells(run: Run, record: Record) -> list[str]:
    who = _escape(summary.name(run, record))
    if record.status != "ok":
        return [who, record.status, *["–"] * 5]
    q1, median, q3 = statistics.quartiles(record.samples)
    speedup, error = run.speedup(record), record.parity.get("max_abs_error")
    return [
        who,
        milliseconds(median),
        f"{(q3 - q1) / median:.1%}",
        milliseconds(median / record.batch),
        f"{speedup:.2f}×" if speedup is not None else "–",
        record.verdict or "–",
        f"{error:.1e}" if error is not None else "–",
    ]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
