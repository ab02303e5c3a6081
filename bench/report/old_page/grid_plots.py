"""Who wins where, latency over length and over batch, throughput: plots over the grid of shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench import statistics
from bench.records import Run
from bench.report import summary
from bench.report.crossover import NO_WINNER, MapCell
from bench.report.crossover import crossover as crossover_of
from bench.report.old_page.entries import Entry, evenly, labels, series_name, shapes
from bench.report.old_page.sections import Section
from bench.report.page import charts
from bench.report.page.charts import Axis, Chart, Key
from bench.report.page.tables import number, table, verdict
from bench.report.table import milliseconds

#: Factor over the next one from which a cell of the map is as strongly coloured as can be.
STRONGEST = 2.0


def crossover(runs: Sequence[Run], keys: Sequence[Key]) -> Section:
    """Which runtime wins at each shape of each run, and by how much."""
    made, rows = [], []
    for run, label in zip(runs, labels(runs), strict=True):
        cells = [_map_cell(run, cell, label) for cell in crossover_of(run)]
        for cell in cells:
            place = number(cell["batch"] * 1e9 + cell["length"], cell["shape"])
            rows.append([place, cell["winner"], cell["next"], number(cell["factor"], cell["lead"]), cell["interval"]])
        won = [cell for cell in cells if cell["factor"] is not None]
        if len(won) > 1:
            made.append(_map(won, keys, f"crossover-{label.replace(' ', '-')}" if label else "crossover", label))
    about = (
        "The fastest at each shape among those that still compute the same model, and how many times faster it is than "
        "the next: the paler, the less it matters. A tie: another cannot be told from it."
    )
    titles = ("batch × length", "fastest", "next", "times faster", "interval")
    note = () if made else ("No map: it takes two shapes at which some runtime still computes the same model.",)
    return Section("map", "Who wins where", about, tuple(made), tuple(keys), table(titles, rows), lines=note)


def _map_cell(run: Run, cell: MapCell, label: str) -> dict[str, Any]:
    made: dict[str, Any] = {"batch": cell.shape.batch, "length": cell.shape.length, "shape": str(cell.shape)}
    if cell.winner is None:
        return made | {"winner": NO_WINNER, "next": NO_WINNER, "lead": NO_WINNER, "factor": None, "interval": NO_WINNER}
    is_told = cell.ratio is not None and not cell.is_tie
    factor = cell.ratio.value if cell.ratio is not None and is_told else 1.0
    ends = cell.ratio.interval if cell.ratio else None
    return made | {
        "winner": series_name(run, cell.winner, label),
        "next": NO_WINNER if cell.runner_up is None else series_name(run, cell.runner_up, label),
        "factor": factor,
        "lead": cell.lead,
        "interval": f"{summary.factor(ends.low)}–{summary.factor(ends.high)}" if ends else NO_WINNER,
        "ms": milliseconds(statistics.median(cell.winner.samples)),
        "strength": 0.1 + 0.45 * min(1.0, max(0.0, factor - 1) / (STRONGEST - 1)),
    }


def _map(cells: Sequence[dict[str, Any]], keys: Sequence[Key], name: str, title: str) -> Chart:
    batches, lengths = (sorted({cell[size] for cell in cells}) for size in ("batch", "length"))
    x = charts.ordinal("length", "length, tokens", [])
    y = charts.ordinal("batch", "batch", [])
    for axis, sizes in ((x, lengths), (y, batches)):
        axis["sort"] = sizes
    shown = {
        "shape": "batch × length",
        "winner": "fastest",
        "lead": "times faster",
        "next": "than",
        "ms": "median ms",
    }
    fill = {"field": "strength", "type": "quantitative", "scale": None}
    layers = [
        {
            "mark": {"type": "rect", "strokeWidth": 1.5, "strokeOpacity": 0.9},
            "encoding": {
                "x": x, "y": y, "color": charts.coloured(keys, "winner"), "tooltip": charts.tooltip(shown),
                "fillOpacity": fill, "stroke": charts.coloured(keys, "winner"),
            },
        },
        {
            # Text that is wider than its cell would cover the next one.
            "mark": {"type": "text", "opacity": {"expr": f"width / {len(lengths)} > 36 ? 1 : 0"}, "tooltip": None},
            "encoding": {"x": x, "y": y, "text": {"field": "lead", "type": "nominal"}},
        },
    ]  # fmt: skip
    height = 55 + (20 if title else 0) + 38 * len(batches)
    text = f"Which runtime is fastest at each of {len(cells)} shapes."
    return Chart(name, text, charts.spec(cells, layers, title, height), tuple(keys), len(lengths) > 4)


def latency(of: Sequence[Entry], keys: Sequence[Key]) -> Section:
    """Median latency with its interval, over length a panel a batch, and over batch a panel a length."""
    made = [
        *_panels(of, keys, "latency-over-length", "length", "batch", _call, "median ms a call"),
        *_panels(of, keys, "latency-over-batch", "batch", "length", _call, "median ms a call"),
    ]
    rows = [
        [
            _shape(entry), entry.name, number(entry.figures["median_ms"], entry.median_text), entry.interval_text,
            entry.speedup_text, verdict(entry.record.verdict),
        ]
        for entry in of
        if entry.is_measured
    ]  # fmt: skip
    about = (
        f"Median of synchronised calls with its {statistics.MEDIAN_CONFIDENCE:.0%} interval. Both axes are "
        "logarithmic. Pale points count for nothing: another model, or a time that this machine's peak forbids."
    )
    titles = ("batch × length", "backend", "median ms", "interval", "speed-up", "parity")
    note = () if made else ("No plot: it takes two lengths at one batch, or two batches at one length.",)
    return Section("latency", "Latency", about, tuple(made), tuple(keys), table(titles, rows), lines=note)


def throughput(of: Sequence[Entry], keys: Sequence[Key]) -> Section:
    """Tokens a second against latency, and milliseconds a sample over batch."""
    measured = [entry for entry in of if entry.is_measured]
    made = []
    if measured:
        data = [
            _point(entry) | {"x": entry.median_ms, "y": entry.figures["tokens_per_second"], "tokens": _tokens(entry)}
            for entry in measured
        ]
        shown = {"name": "backend", "shape": "batch × length", "median": "median ms", "tokens": "tokens a second"}
        axes = Axis("x", "median ms a call", True), Axis("y", "tokens a second", True, format=".4~s")
        plot = charts.lines(data, keys, *axes, shown, detail="length", order="batch")
        text = "Tokens a second against the latency of a call; a line joins the batches of one length."
        made.append(Chart("throughput-against-latency", text, plot, tuple(keys)))
    made += _panels(of, keys, "ms-per-sample", "batch", "length", _sample, "median ms a sample")
    rows = [
        [_shape(entry), entry.name, number(entry.figures["ms_per_sample"]), number(None, "") if _p90(entry) is None
         else number(_p90(entry)), number(entry.figures["tokens_per_second"], _tokens(entry))]
        for entry in measured
    ]  # fmt: skip
    about = (
        "Up and to the left is better: more tokens a second, sooner. A line joins the batches of one length. Beside "
        "it, what one sample of a batch costs: where that stops falling, a larger batch gains nothing."
    )
    titles = ("batch × length", "backend", "ms a sample", "p90 ms", "tokens a second")
    return Section("throughput", "Throughput", about, tuple(made), tuple(keys), table(titles, rows))


def _p90(entry: Entry) -> float | None:
    value = entry.figures["p90_ms"]
    return None if value is None else float(value)


def _tokens(entry: Entry) -> str:
    return f"{entry.figures['tokens_per_second']:,.0f}"


def _shape(entry: Entry) -> Any:
    return number(entry.record.batch * 1e9 + entry.record.length, str(entry.shape))


def _point(entry: Entry) -> dict[str, Any]:
    """What every plot's hover shows of a cell."""
    return {
        "name": entry.name,
        "shape": str(entry.shape),
        "batch": entry.record.batch,
        "length": entry.record.length,
        "median": entry.median_text,
        "interval": entry.interval_text,
        "speedup": entry.speedup_text,
        "parity": entry.record.verdict or "–",
        "is_sound": entry.is_sound,
    }


Value = Callable[[Entry], tuple[float, float | None, float | None]]


def _call(entry: Entry) -> tuple[float, float | None, float | None]:
    return entry.median_ms, entry.figures["median_low_ms"], entry.figures["median_high_ms"]


def _sample(entry: Entry) -> tuple[float, float | None, float | None]:
    middle, low, high = (None if value is None else value / entry.record.batch for value in _call(entry))
    assert middle is not None
    return middle, low, high


def _panels(
    of: Sequence[Entry], keys: Sequence[Key], name: str, x: str, panel: str, value: Value, y_title: str
) -> list[Chart]:
    """A chart for each `panel` (batch or length) at which there are two sizes of `x`, evenly chosen."""
    sizes_of: dict[int, set[int]] = {}
    for shape in shapes([entry for entry in of if entry.is_measured]):
        sizes_of.setdefault(getattr(shape, panel), set()).add(getattr(shape, x))
    made = []
    for size in evenly([size for size, found in sorted(sizes_of.items()) if len(found) > 1]):
        data = []
        for entry in of:
            if entry.is_measured and getattr(entry.record, panel) == size:
                middle, low, high = value(entry)
                ends = {} if low is None else {"low": low, "high": high}
                data.append(_point(entry) | {"x": getattr(entry.record, x), "y": middle, **ends})
        shown = {
            "name": "backend", "shape": "batch × length", "median": "median ms", "interval": "interval",
            "speedup": "speed-up", "parity": "parity",
        }  # fmt: skip
        title = f"{panel} {size}" + (" tokens" if panel == "length" else "")
        axes = (
            Axis("x", x + (", tokens" if x == "length" else ""), True, sorted(sizes_of[size])),
            Axis("y", y_title, True),
        )
        text = f"{y_title} over {x} at {panel} {size}, a line a backend."
        plot = charts.lines(data, keys, *axes, shown, title)
        made.append(Chart(f"{name}-{panel}-{size}", text, plot, tuple(keys)))
    return made
