"""A run as CSV, JSON or Markdown."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from bench import statistics
from bench.choose.api import exit_code
from bench.columns import Column, Section, count
from bench.report import parts
from bench.run import state, warnings
from bench.run.record import Record, Run
from bench.untrusted import csv_text, markdown

#: Characters that a comment on GitHub may have.
MOST_CHARACTERS = 65_536
#: Entries of each list, and rows of each section's table, if the whole is longer than that.
FEWER_LINES = 10
LONGEST_LINE = 600
#: Room for the lines that say what was left out.
ROOM = 300


def as_csv(run: Run) -> str:
    """CSV (RFC 4180): one row a record under the names of the columns, empty if there is no figure."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in run.workload.all_columns], lineterminator="\n")
    with parts.readable(run):
        writer.writeheader()
        writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in run.rows())
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    """A value as CSV: numbers as they are; no text is a formula."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value
    return csv_text(text) if isinstance(text, str) else text


def as_json(run: Run) -> str:
    """One JSON document: header, and rows under the names of the columns with all that a record holds."""
    import msgspec

    header: dict[str, Any] = {
        "schema": run.schema,
        "workload": run.workload.name,
        "options": run.options.to_json(),
        "model": run.model,
        "candidates": run.candidates,
        "fingerprint": run.fingerprint,
        "started": run.started,
        "command": run.command,
        "notes": run.notes,
        "is_complete": run.is_complete,
        "integrity": run.integrity,
    }
    with parts.readable(run):
        header["exit_code"] = exit_code(run)
        rows = [_row(run, row, record) for row, record in zip(run.rows(), run.records, strict=True)]
        document = msgspec.json.format(msgspec.json.encode(header | {"rows": rows}), indent=2).decode()
    return _LIST_OF_FIGURES.sub(lambda found: f"[{' '.join(found.group(1).split())}]", document) + "\n"


#: A list of figures over several lines. No string of JSON holds a newline, so nothing within one is found.
_LIST_OF_FIGURES = re.compile(r"\[\n([-+.eE0-9,\s]*)\]")


def _row(run: Run, row: dict[str, Any], record: Record) -> dict[str, Any]:
    """A record's row of JSON; `named_outliers` are samples by their index in the order taken, in nanoseconds."""
    return row | {
        "point": record.point,
        "candidate": record.candidate,
        "warnings": warnings.of_record(run, record),
        "repeat": run.repeat(record),
        "parity_figures": record.parity,
        "facts": record.facts,
        "failure": record.failure,
        "memory": record.memory,
        "operations": record.operations,
        "conditions": record.conditions,
        "disturbances": run.disturbances(record),
        "named_outliers": [asdict(found) for found in statistics.outliers(record.samples)],
        "figures": record.figures,
        "once": record.once,
        "turns": record.turns,
    }


# Markdown.


def as_markdown(run: Run, columns: str | Sequence[str] = ()) -> str:
    """Markdown of at most `MOST_CHARACTERS`: one table for all records, with further `columns`, then the sections.

    If that is too little, lists are cut first, then what stands behind the table, then rows, and the text says so.
    """
    with parts.readable(run):
        asked = parts.asked_columns(run, columns)
        groups, behind = parts.groups(run)
        sections = [section for group in groups for section in group.sections] + behind
        shown = parts.columns(run, groups, asked=asked)
        titles = [parts.point_title(run), "backend", *map(parts.title, shown)]
        cells = [_table_row(run, record, shown) for group in groups for record in group.records]
        is_left = [True, True, *(column.is_left for column in shown)]
        head, rows = _table(titles, cells, is_left)
        heading = [*_heading(run), *(head if rows else [])]
        lines = _sections(run, sections, None)
        if _length(heading, rows, lines) > MOST_CHARACTERS:
            lines = _sections(run, sections, FEWER_LINES)
    if _length(lines) > MOST_CHARACTERS // 2:
        lines = [*_first(lines, MOST_CHARACTERS // 2), "", "The rest is left out, so that this fits a comment."]
    if _length(heading, rows, lines) > MOST_CHARACTERS:
        kept = _first(rows, MOST_CHARACTERS - ROOM - _length(heading, lines))
        left_out = f"{len(rows) - len(kept)} of {count(len(rows), 'row')} are left out, so that this fits a comment"
        rows, lines = kept, ["", f"{left_out}; bench report --csv has them", *lines]
    return "\n".join([*heading, *rows, *lines])[: MOST_CHARACTERS - 1] + "\n"


def _heading(run: Run) -> list[str]:
    wrong = [line for line in (state.of_file(run), state.incomplete(run)) if line]
    first, second, *rest = parts.heading(run)
    behind = markdown(first.removeprefix(run.model.name))
    lines = [f"**{markdown(line)}**" for line in wrong]
    lines += [f"**{markdown(run.model.name)}**{behind}; {markdown(second)}", *map(markdown, rest)]
    return [part for line in lines for part in (line, "")]


def _table_row(run: Run, record: Record, shown: Sequence[Column]) -> list[str]:
    own = (column.text(run, record) for column in shown)
    return [run.workload.row_title(record.point), run.name(record.candidate), *own]


def _table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], is_left: Sequence[bool]
) -> tuple[list[str], list[str]]:
    """The lines of a table's head, and those of its rows."""
    head, *found = (f"| {' | '.join(map(markdown, row))} |" for row in (titles, *rows))
    return [head, f"|{'|'.join('---' if left else '--:' for left in is_left)}|"], found


def _sections(run: Run, sections: Sequence[Section], most: int | None) -> list[str]:
    """All sections; at most `most` entries of each list. Sentences of points stand in one list before the others."""
    brief = [one for one in sections if one.point is not None and not (one.table or one.items or one.title)]
    of_points = [f"{run.workload.row_title(one.point)}: {line}" for one in brief for line in one.lines]
    lines = ["", *_list(of_points, most)] if of_points else []
    for section in sections:
        if section not in brief:
            at = "" if section.point is None else f" at {run.workload.row_title(section.point)}"
            lines += _section(section, at, most)
    return lines


def sections_as_markdown(title: str, heading: Iterable[str], sections: Iterable[Section]) -> str:
    """Sections that are of no run, under a title."""
    lines = [f"# {markdown(title)}"]
    for line in heading:
        lines += ["", markdown(line)]
    for section in sections:
        lines += [] if section.is_empty else _section(section)
    return "\n".join(lines) + "\n"


def _section(section: Section, at: str = "", most: int | None = None) -> list[str]:
    """A section, `at` a point."""
    lines = ["", f"**{markdown(section.title + at)}**"] if section.title else []
    for line in section.lines:
        lines += ["", markdown(line)]
    if (table := section.table) is not None and table.rows:
        is_left = [table.holds_text(column) for column in range(len(table.titles))]
        head, rows = _table(table.titles, table.rows[:most], is_left)
        left = len(table.rows) - len(rows)
        lines += ["", *head, *rows, *(["", f"and {count(left, 'row')} more"] if left else [])]
    return [*lines, "", *_list(section.items, most)] if section.items else lines


def _list(lines: Sequence[str], most: int | None) -> list[str]:
    if most is None or len(lines) <= most:
        return [f"- {markdown(line)}" for line in lines]
    shortened = [f"- {markdown(line[:LONGEST_LINE])}" for line in lines[:most]]
    return [*shortened, f"- and {len(lines) - most} more"]


def _first(lines: Sequence[str], most: int) -> list[str]:
    """As many of the first `lines` as `most` characters hold."""
    lengths = accumulate(len(line) + 1 for line in lines)
    return list(lines[: sum(length <= most for length in lengths)])


def _length(*texts: Sequence[str]) -> int:
    return sum(len(line) + 1 for text in texts for line in text)
