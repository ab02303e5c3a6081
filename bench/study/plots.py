"""Milliseconds a sample over batch, and latency over length, as images; matplotlib is imported in here alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from bench.errors import UserError
from bench.statistics import Interval
from bench.study.figures import Figure, Figures
from bench.study.page import Image
from bench.study.series import Series, over_batches, over_lengths

MEDIA_TYPES = {"svg": "image/svg+xml", "png": "image/png"}
NONE = "none"
REMEDY = "pip install 'runtimebench[plots]'"
COLUMNS = 2
#: Panels of one image; what lies beyond them is in the page's tables.
MOST_PANELS = 8
PANEL_INCHES = (4.6, 3.4)


def is_available() -> bool:
    """True where matplotlib is installed; does not import it."""
    return find_spec("matplotlib") is not None


def settle(plots: str | None) -> str:
    """The format that plots are made in: as asked for, or SVG where they can be made; raises UserError."""
    if plots is not None and plots not in (*MEDIA_TYPES, NONE):
        raise UserError(f"unknown plots {plots[:40]!r}; use one of {', '.join((*MEDIA_TYPES, NONE))}")
    if plots in MEDIA_TYPES and not is_available():
        raise UserError(f"--plots {plots} needs matplotlib, which is not installed; {REMEDY}, or use --plots none")
    return plots or ("svg" if is_available() else NONE)


def draw(figures: Figures, format: str, stem: str) -> list[Image]:
    """Up to two images of `figures`, named after `stem`; none of them where no series has two points."""
    if format == NONE:
        return []
    batches = [series for series in over_batches(figures) if len(series.sizes) > 1]
    lengths = [series for series in over_lengths(figures) if len(series.sizes) > 1]
    wanted = (
        ("ms-per-sample", "Milliseconds a sample over batch", "batch", "ms a sample", batches, _sample),
        ("latency", "Latency over length", "length, tokens", "ms a call", lengths, _call),
    )
    return [
        Image(f"{stem}-{name}.{format}", text, _image(series, x, y, value, format), MEDIA_TYPES[format])
        for name, text, x, y, series, value in wanted
        if series
    ]


def _sample(cell: Figure) -> tuple[float, Interval | None]:
    return cell.ms_per_sample, cell.sample_interval_ms


def _call(cell: Figure) -> tuple[float, Interval | None]:
    return cell.ms, cell.interval_ms


def _chosen(series: Sequence[Series]) -> list[Series]:
    """At most `MOST_PANELS` of them, evenly, first and last included."""
    if len(series) <= MOST_PANELS:
        return list(series)
    return [series[round(index * (len(series) - 1) / (MOST_PANELS - 1))] for index in range(MOST_PANELS)]


def _image(
    series: Sequence[Series], x: str, y: str, value: Callable[[Figure], tuple[float, Interval | None]], format: str
) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    shown = _chosen(series)
    rows = -(-len(shown) // COLUMNS)
    width, height = PANEL_INCHES
    # A fixed salt and no date, so that one run makes one file.
    with rc_context({"svg.hashsalt": "runtimebench", "svg.fonttype": "path"}):
        canvas = Canvas(figsize=(COLUMNS * width, rows * height), layout="constrained")
        panels = canvas.subplots(rows, COLUMNS, squeeze=False).flatten()
        for panel, one in zip(panels, shown, strict=False):
            _panel(panel, one, x, y, value)
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        file = io.BytesIO()
        canvas.savefig(file, format=format, metadata={"Date": None} if format == "svg" else {"Software": None})
    return file.getvalue()


def _panel(
    panel: Any, series: Series, x: str, y: str, value: Callable[[Figure], tuple[float, Interval | None]]
) -> None:
    from matplotlib.ticker import LogLocator

    for backend in series.backends:
        cells = {size: cell for (name, size), cell in series.cells.items() if name == backend}
        sizes = sorted(cells)
        points = [value(cells[size]) for size in sizes]
        middles = [middle for middle, _ in points]
        below = [middle - interval.low if interval else 0.0 for middle, interval in points]
        above = [interval.high - middle if interval else 0.0 for middle, interval in points]
        panel.errorbar(sizes, middles, yerr=(below, above), marker="o", markersize=3, capsize=2, label=backend)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(series.sizes, [str(size) for size in series.sizes])
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.minorticks_off()
    panel.set(title=series.name, xlabel=x, ylabel=y)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
