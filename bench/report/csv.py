"""A run as CSV (RFC 4180): one row a cell, the columns of `rows.COLUMNS`, empty where there is no figure."""

from __future__ import annotations

import csv
import io

from bench.records import Run
from bench.rows import COLUMNS


def render(run: Run) -> str:
    """The run as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.rows())
    return text.getvalue()
