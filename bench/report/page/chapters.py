"""What a chapter of the page is made of."""

from __future__ import annotations

from dataclasses import dataclass

from bench.report.page.charts import Chart, Key
from bench.report.page.tables import Table


@dataclass(frozen=True)
class Chapter:
    """A part of the page with a title."""

    anchor: str
    title: str
    about: str = ""
    """How to read it, in a sentence or two."""
    charts: tuple[Chart, ...] = ()
    legend: tuple[Key, ...] = ()
    table: Table | None = None
    table_title: str = "the figures"
    lines: tuple[str, ...] = ()
