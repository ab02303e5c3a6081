"""A run as Markdown, one table for all cells; fits a pull request comment."""

from __future__ import annotations

import html
from collections.abc import Sequence

from bench import statistics
from bench.records import Record, Run
from bench.report import batches, published, starts, summary
from bench.report.columns import COLUMNS
from bench.report.table import TAINTED, milliseconds
from bench.rows import row

#: Characters that a comment on GitHub may have.
MOST_CHARACTERS = 65_536
#: Lines of each list where the whole would be longer than that; and rows of the table, where it still would be.
FEWER_LINES = 10
LONGEST_LINE = 600
#: Room for the lines that say what was left out.
ROOM = 300


def render(run: Run, columns: Sequence[str] = ()) -> str:
    """The run as Markdown text of at most `MOST_CHARACTERS`; each row ends with `columns`, names of `COLUMNS`.

    Where that is too little, lists are cut after `FEWER_LINES`, and then the table where it must be; both say so.
    """
    heading, rows, behind = _heading(run, columns), _rows(run, columns), _behind(run, None)
    if _length(heading, rows, behind) > MOST_CHARACTERS:
        behind = _behind(run, FEWER_LINES)
    if _length(behind) > MOST_CHARACTERS // 2:
        behind = [*_first(behind, MOST_CHARACTERS // 2), "", "The rest is left out, so that this fits a comment."]
    if _length(heading, rows, behind) > MOST_CHARACTERS:
        kept = _first(rows, MOST_CHARACTERS - ROOM - _length(heading, behind))
        left = f"{len(rows) - len(kept)} of {len(rows)} cells are left out, so that this fits a comment"
        rows, behind = kept, ["", f"{left}; bench report --format csv has them", *behind]
    return "\n".join([*heading, *rows, *behind])[: MOST_CHARACTERS - 1] + "\n"


def _first(lines: Sequence[str], most: int) -> list[str]:
    """As many of the first `lines` as `most` characters hold."""
    kept: list[str] = []
    for line in lines:
        most -= len(line) + 1
        if most < 0:
            break
        kept.append(line)
    return kept


def _length(*parts: Sequence[str]) -> int:
    return sum(len(line) + 1 for part in parts for line in part)


def _heading(run: Run, columns: Sequence[str]) -> list[str]:
    grid, preset = run.grid, run.preset
    titles = "".join(f" {COLUMNS[name].title} |" for name in columns)
    given = f"Preset {preset['name']}: {preset['title']} ({preset['source']})" if preset else ""
    return [
        *([_escape(given), ""] if given else []),
        (
            f"**{_escape(grid.model)}**, {_escape(grid.device)}, {grid.threads} threads"
            f"{', TF32' if grid.tf32 else ''}; weights: {_escape(run.origin)}; {summary.boundary(run)}"
        ),
        "",
        "| batch × length | backend | median ms | ± | spread | ms/sample | speed-up | floor | parity | max abs error |"
        + titles,
        "|---|---|--:|--:|--:|--:|---|--:|---|--:|" + "--:|" * len(columns),
    ]


def _rows(run: Run, columns: Sequence[str]) -> list[str]:
    further = [COLUMNS[name] for name in columns]
    rows = []
    for shape, records in summary.shapes(run):
        if summary.is_left_out(run, records):
            continue
        for record in records:
            figures = row(run, record) if further else {}
            cells = [*_cells(run, record), *(column.cell(figures) for column in further)]
            rows.append(f"| {shape} | {' | '.join(cells)} |")
    return rows


def _behind(run: Run, most: int | None) -> list[str]:
    """What stands behind the table: winners, published figures, what ran, reasons, warnings; `most` lines of each."""
    won = [(shape, found) for shape, records in summary.shapes(run) if (found := summary.winner(run, records))]
    lines = ["", *_list([f"{shape}: {summary.winner_line(run, found)}" for shape, found in won], most)]
    lines += [*_batches(run), *_published(run)]
    reasons, warnings = summary.findings(run)
    sections = (
        ("What ran", summary.engagement(run)), ("Compilation", starts.lines(run)), ("Not measured", reasons),
        ("Warnings", warnings),
    )  # fmt: skip
    for title, told in sections:
        if told:
            lines += ["", f"{title}:", "", *_list(told, most)]
    return lines


def _list(lines: Sequence[str], most: int | None) -> list[str]:
    if most is None or len(lines) <= most:
        return [f"- {_escape(line)}" for line in lines]
    shortened = [f"- {_escape(line[:LONGEST_LINE])}" for line in lines[:most]]
    return [*shortened, f"- and {len(lines) - most} more"]


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
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
