"""Reports: a Run to text. They read the records and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from bench.errors import UserError
from bench.run.record import Run
from bench.spec import nearest

FORMATS = ("table", "csv", "json", "markdown")


def of_run(run: Run, format: str, columns: str | Sequence[str] = ()) -> str:
    """A run of any workload in one of `FORMATS`, tables with further `columns`; raises UserError for another format."""
    from bench.report import console, documents

    check_format(format, FORMATS)
    if format in WITH_COLUMNS:
        return console.render(run, columns) if format == "table" else documents.as_markdown(run, columns)
    return documents.as_csv(run) if format == "csv" else documents.as_json(run)


#: Formats that show chosen figures; the others hold all of them.
WITH_COLUMNS = ("table", "markdown")


def check_format(format: str, formats: Sequence[str]) -> None:
    """Raise UserError where `format` is none of `formats`."""
    if format not in formats:
        raise UserError(f"unknown format {format!r}{nearest(format, formats)}; use one of {', '.join(formats)}")
