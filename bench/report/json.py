"""A run as one JSON document: header, rows under the CSV's names, and beside each row what explains it.

`named_outliers` are samples by their index in the order taken, in nanoseconds a call.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from bench.records import Run
from bench.statistics import outliers


def render(run: Run) -> str:
    """The run as JSON text."""
    rows = [
        row
        | {name: getattr(record, name) for name in ("warnings", "repeat", "facts", "failure", "memory", "conditions")}
        | {"taint": run.taint(record), "named_outliers": [asdict(found) for found in outliers(record.samples)]}
        for row, record in zip(run.rows(), run.records, strict=True)
    ]
    header = {key: value for key, value in run.header().items() if key != "kind"}
    header |= {"peaks": run.peaks.to_json() if run.peaks else None, "parent_cpu_share": run.parent_cpu_share}
    header |= {"is_complete": run.is_complete, "exit_code": run.exit_code}
    return json.dumps(header | {"rows": rows}, indent=2) + "\n"
