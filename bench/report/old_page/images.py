"""The plots as PNG files, drawn without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records import Run
from bench.report.old_page.entries import entries
from bench.report.old_page.render import check_available, plots
from bench.report.page import charts
from bench.report.page.charts import Chart

#: Width of a plot's inside in pixels, and pixels of the image for each.
WIDTH = 620
SCALE = 2


def png(chart: Chart) -> bytes:
    """`chart` with its legend as a PNG image on white."""
    import vl_convert

    spec: dict[str, Any] = dict(chart.spec) | {"width": WIDTH, "background": "white"}
    image: bytes = vl_convert.vegalite_to_png(spec, scale=SCALE, config=dict(charts.CONFIG))
    return image


def images(runs: Sequence[Run], folder: Path) -> dict[Path, bytes]:
    """Every plot of `runs` by its place in `folder`; raises UserError where there is none, or no extra `page`."""
    check_available("--png")
    found = [chart for section in plots(runs, entries(runs)) for chart in section.charts]
    if not found:
        raise UserError("no cell of these runs was measured, so there is nothing to plot; use --format table")
    return {folder / f"{chart.name}.png": png(chart) for chart in found}
