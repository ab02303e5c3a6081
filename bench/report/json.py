"""A run as one JSON document: header, rows under the CSV's names, warnings and repeat commands."""

from __future__ import annotations

import json

from bench.records import Run


def render(run: Run) -> str:
    """The run as JSON text."""
    rows = [
        row | {"warnings": record.warnings, "repeat": record.repeat, "facts": record.facts, "failure": record.failure}
        for row, record in zip(run.rows(), run.records, strict=True)
    ]
    header = {key: value for key, value in run.header().items() if key != "kind"}
    return (
        json.dumps(header | {"is_complete": run.is_complete, "exit_code": run.exit_code, "rows": rows}, indent=2) + "\n"
    )
