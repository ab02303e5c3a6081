"""Columns that a table shows on request, by name; each is a figure of `rows.COLUMNS`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import UserError
from bench.spec import nearest, parse_names


@dataclass(frozen=True)
class Column:
    """One further column of a table."""

    title: str
    key: str
    """Of `rows.COLUMNS`."""

    def cell(self, row: Mapping[str, Any]) -> str:
        """The figure of `row` with about four digits, or a dash."""
        value = row[self.key]
        return "–" if value is None else shown(value)


#: By the name that the user gives.
COLUMNS: Mapping[str, Column] = {
    "us-per-step": Column("us/step", "us_per_step"),
    "ms-per-sample": Column("ms/sample", "ms_per_sample"),
    "tokens-per-second": Column("tokens/s", "tokens_per_second"),
    "p90": Column("p90 ms", "p90_ms"),
    "p95": Column("p95 ms", "p95_ms"),
    "p99": Column("p99 ms", "p99_ms"),
    "first-call": Column("first ms", "first_call_ms"),
    "gflop": Column("GFLOP", "gflop"),
    "floor-ms": Column("floor ms", "floor_ms"),
    "load-seconds": Column("load s", "load_s"),
}


def parse_columns(text: str | Iterable[str] | None) -> tuple[str, ...]:
    """`"us-per-step,p90"` as names of `COLUMNS`, none for None; raises UserError with the nearest."""
    if text is None:
        return ()
    names = parse_names(text, "--columns")
    for name in names:
        if name not in COLUMNS:
            raise UserError(f"unknown column {name[:40]!r}{nearest(name, COLUMNS)}; use any of {', '.join(COLUMNS)}")
    return names


def shown(value: float) -> str:
    """A figure with about four significant digits: `0.0123`, `1.234`, `123.4`, `12346`, `1.23e+08`."""
    if abs(value) >= 1e7:
        return f"{value:.2e}"
    limits = {0.1: 4, 10: 3, 100: 2, 1e4: 1}
    digits = next((digits for limit, digits in limits.items() if abs(value) < limit), 0)
    return f"{value:.{digits}f}"
