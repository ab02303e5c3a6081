"""The plots as image files, drawn without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.columns import Plot
from bench.errors import UserError
from bench.report.page import charts
from bench.report.page.charts import Chart
from bench.report.page.facts import chart_of
from bench.report.page.render import chapters, check_available
from bench.run.record import Run

#: Width of a plot's inside in pixels, and pixels of the image for each.
WIDTH = 620
SCALE = 2


def png(chart: Chart) -> bytes:
    """`chart` with its legend as a PNG image on white."""
    import vl_convert

    spec: dict[str, Any] = dict(chart.spec) | {"width": WIDTH, "background": "white"}
    image: bytes = vl_convert.vegalite_to_png(spec, scale=SCALE, config=dict(charts.CONFIG))
    return image


def of_plot(plot: Plot, format: str) -> bytes:
    """A section's plot as an "svg" or "png" image."""
    import vl_convert

    chart = chart_of(plot, (), "plot")
    if format == "png":
        return png(chart)
    spec: dict[str, Any] = dict(chart.spec) | {"width": WIDTH, "background": "white"}
    image: str = vl_convert.vegalite_to_svg(spec, config=dict(charts.CONFIG))
    return image.encode()


def images(runs: Sequence[Run], folder: Path) -> dict[Path, bytes]:
    """Every plot of `runs` by its place in `folder`; raises UserError if there is none, or no extra `page`."""
    check_available("--png")
    found = [chart for chapter in chapters(runs) for chart in chapter.charts]
    if not found:
        raise UserError("no cell of these runs was measured, so there is nothing to plot; use --format table")
    return {folder / f"{chart.name}.png": png(chart) for chart in found}
