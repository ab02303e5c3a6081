"""Memory, one-time costs, and after how many calls a costlier start has paid for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records import Run
from bench.report import summary
from bench.report.columns import shown as rounded
from bench.report.old_page.entries import Entry, evenly, labels, series_name
from bench.report.old_page.sections import Section
from bench.report.page import charts
from bench.report.page.charts import Axis, Chart, Key
from bench.report.page.tables import Cell, number, table
from bench.report.starts import paid_back

MIB = 2**20
#: Height of one bar with its gap, in CSS pixels.
BAR = 30
#: What the axis below and the room above take of a plot's height.
AXIS = 48
#: Parts of a start, in the order in which they are paid, with greys that no series has.
PARTS = {"export": "#c3c9d0", "load": "#8d96a1", "first calls": "#5b6570"}
#: Points of a line of break-even, two a decade.
STEPS = 13


def memory(runs: Sequence[Run], keys: Sequence[Key]) -> Section | None:
    """What each contestant holds once loaded, and at the peak of one call; None where no run noted it."""
    data, rows, lines = [], [], []
    for run, label in zip(runs, labels(runs), strict=True):
        for record in summary.largest_with_memory(run):
            name = series_name(run, record, label)
            loaded = record.memory["loaded"]
            held = [loaded.get(f"{kind}_bytes") for kind in ("parameters", "allocated", "reserved")]
            held += [record.process_bytes, record.peak_bytes]
            mib = [None if value is None else value / MIB for value in held]
            rows.append([name, *(number(value, value and f"{value:,.0f}") for value in mib), str(record.shape)])
            texts = ["–" if value is None else f"{value:,.0f} MiB" for value in mib]
            point: dict[str, Any] = {"name": name, "shape": str(record.shape), "is_sound": True}
            point |= {"loaded": mib[3], "peak": mib[4], "parameters": mib[0]}
            data.append(point | {"loaded_text": texts[3], "peak_text": texts[4], "parameters_text": texts[0]})
        lines += [f"{label}: {line}" if label else line for line in summary.cache_lines(run)]
    if not data:
        return None
    titles = ("backend", "parameters", "allocated", "reserved", "process", "peak of a call", "at")
    about = (
        "MiB. Bar: the process once loaded (on a GPU, what it holds there). Symbol: the most during one call at the "
        "largest shape measured. Thin line: parameters and buffers."
    )
    shown = {
        "name": "backend", "loaded_text": "process once loaded", "peak_text": "peak of a call", "shape": "at",
        "parameters_text": "parameters and buffers",
    }  # fmt: skip
    y = charts.named_rows([key.label for key in keys])
    shared = {"y": y, "color": charts.coloured(keys), "tooltip": charts.tooltip(shown)}
    x = Axis("loaded", "MiB", from_zero=True).encoding()
    layers = [
        {"mark": {"type": "bar", "height": {"band": 0.62}, "opacity": 0.5}, "encoding": shared | {"x": x}},
        {
            "mark": {"type": "tick", "thickness": 2, "height": {"band": 0.62}},
            "encoding": shared | {"x": x | {"field": "parameters"}, "color": {"value": charts.INK}},
        },
        {
            "mark": {"type": "point", "size": 90},
            "encoding": shared | {"x": x | {"field": "peak"}, "shape": charts.shaped(keys)},
        },
    ]
    plot = charts.spec(data, layers, height=AXIS + BAR * len(data))
    chart = Chart("memory", "Memory of each backend once loaded, and its peak during a call.", plot, tuple(keys), True)
    return Section("memory", "Memory", about, (chart,), tuple(keys), table(titles, rows), lines=tuple(lines))


@dataclass(frozen=True)
class Start:
    """What one series costs before it serves, in seconds."""

    name: str
    export_seconds: float
    load_seconds: float
    first_seconds: Mapping[Any, float]
    """By shape: the first call, less what any other takes."""

    def seconds(self, shape: Any, with_export: bool = True) -> float:
        """Until `shape` is served: export, load, first call."""
        return (self.export_seconds if with_export else 0.0) + self.load_seconds + self.first_seconds.get(shape, 0.0)


def starts(of: Sequence[Entry]) -> dict[str, Start]:
    """By series, those whose load was timed."""
    found: dict[str, Start] = {}
    for entry in of:
        if not entry.is_measured or entry.record.load_seconds is None:
            continue
        first = max(0.0, (entry.record.first_call_ns or 0) / 1e9 - entry.median_ms / 1e3)
        known = found.get(entry.name)
        by_shape = {**(known.first_seconds if known else {}), entry.shape: first}
        found[entry.name] = Start(entry.name, entry.record.export_seconds or 0.0, entry.record.load_seconds, by_shape)
    return found


def one_time(of: Sequence[Entry], keys: Sequence[Key]) -> Section | None:
    """Export, load and first calls of each series, and when it has paid them back; None where none was timed."""
    found = starts(of)
    if not found:
        return None
    data = []
    for start in found.values():
        parts = dict(
            zip(PARTS, (start.export_seconds, start.load_seconds, sum(start.first_seconds.values())), strict=True)
        )
        data += [
            {"name": start.name, "part": part, "order": order, "seconds": seconds, "text": f"{rounded(seconds)} s"}
            for order, (part, seconds) in enumerate(parts.items())
        ]
    x = Axis("seconds", "seconds", from_zero=True).encoding() | {"stack": "zero"}
    y = charts.named_rows([key.label for key in keys])
    own = tuple(Key(part, colour, "square") for part, colour in PARTS.items())
    shown = {"name": "backend", "part": "part", "text": "takes"}
    encoding = {
        "x": x, "y": y, "color": charts.coloured(own, "part"), "order": {"field": "order", "type": "quantitative"},
        "tooltip": charts.tooltip(shown),
    }  # fmt: skip
    bars = [{"mark": {"type": "bar", "height": {"band": 0.62}}, "encoding": encoding}]
    text = "Seconds of export, load and first calls of each backend."
    made = [
        Chart("one-time-costs", text, charts.spec(data, bars, "before it serves", AXIS + 20 + BAR * len(found)), own)
    ]
    made += _break_even_charts(of, found, keys)
    about = (
        "Seconds before a backend serves: export (once, elsewhere; an artifact in the store costs none), load, and "
        "the first call at each shape beyond what any other takes, compilation included. Never mixed into the medians. "
        "The lines are a start (load, first call) and so many calls: where two cross, the costlier start has paid for "
        "itself."
    )
    rows = list(_break_even_rows(of, found))
    titles = (
        "batch × length", "backend", "export s", "load s", "first call s", "saved a call, ms", "start pays back after",
        "with the export after",
    )  # fmt: skip
    return Section("costs", "One-time costs", about, tuple(made), (*keys, *own), table(titles, rows))


def _break_even_charts(of: Sequence[Entry], found: Mapping[str, Start], keys: Sequence[Key]) -> list[Chart]:
    sound = [entry for entry in of if entry.is_sound and entry.name in found]
    made = []
    shapes = sorted({entry.shape for entry in sound})
    for shape in evenly(shapes, 2):
        data = []
        at_shape = [entry for entry in sound if entry.shape == shape]
        for entry in at_shape:
            for step in range(STEPS):
                calls = 10 ** (step / 2)
                seconds = found[entry.name].seconds(shape, with_export=False) + calls * entry.median_ms / 1e3
                point = {"name": entry.name, "x": calls, "y": seconds}
                data.append(point | {"calls": f"{calls:,.0f}", "total": f"{rounded(seconds)} s"})
        if len(at_shape) < 2:
            continue
        axes = Axis("x", "calls", True, format=".4~s"), Axis("y", "seconds in all", True)
        shown = {"name": "backend", "calls": "calls", "total": "start and calls"}
        plot = charts.lines(data, keys, *axes, shown, f"start and calls at {shape}")
        text = f"Seconds of the start and of so many calls at {shape}, a line a backend."
        made.append(Chart(f"break-even-{shape.batch}x{shape.length}", text, plot, tuple(keys)))
    return made


def _break_even_rows(of: Sequence[Entry], found: Mapping[str, Start]) -> Any:
    for entry in of:
        if not entry.is_measured or entry.name not in found:
            continue
        start, shape = found[entry.name], entry.shape
        first = entry.run.baseline(entry.record)
        base = next((other for other in of if first is not None and other.record is first), None)
        cells: list[Cell | str] = [number(shape.batch * 1e9 + shape.length, str(shape)), entry.name]
        cells += [number(start.export_seconds), number(start.load_seconds), number(start.first_seconds.get(shape, 0.0))]
        if base is None or base is entry or base.name not in found or not (base.is_sound and entry.is_sound):
            yield [*cells, "–", "–", "–"]
            continue
        saved_ms = base.median_ms - entry.median_ms
        ratio = entry.run.ratio(entry.record)
        cells.append(number(saved_ms))
        if ratio is not None and ratio.verdict == "tie":
            yield [*cells, "tie", "tie"]
            continue
        extra = [start.seconds(shape, whole) - found[base.name].seconds(shape, whole) for whole in (False, True)]
        yield [*cells, *(break_even(seconds, saved_ms) for seconds in extra)]


def break_even(extra_seconds: float, saved_ms: float) -> Cell:
    """After how many calls a start that took `extra_seconds` more is paid back, each call saving `saved_ms`."""
    return Cell(*paid_back(extra_seconds, saved_ms))
