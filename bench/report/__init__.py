"""Reports: a Run to text. They read the records and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from bench.run.record import Run


def of_run(run: Run, format: str, columns: str | Sequence[str] = ()) -> str:
    """A run of any workload as "table", "markdown", "csv" or "json"; the first two with further `columns`."""
    from bench.report import console, documents

    if format in ("table", "markdown"):
        return (console.render if format == "table" else documents.as_markdown)(run, columns)
    return (documents.as_csv if format == "csv" else documents.as_json)(run)
