"""Memory, one-time costs, and after how many calls a costlier start has paid for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.columns import DASH, shown
from bench.report import parts
from bench.report.page import charts
from bench.report.page.chapters import Chapter
from bench.report.page.charts import Axis, Chart, Key
from bench.report.page.entries import Entry, evenly, labels, places, series_name
from bench.report.page.tables import Cell, number, table
from bench.run.record import Run
from bench.run.sections import largest_with_memory, paid_back

MIB = 2**20
#: Height of one bar with its gap, in CSS pixels.
BAR = 30
#: What the axis below and the room above take of a plot's height.
AXIS = 48
#: Parts of a start, in the order in which they are paid, with greys that no series has.
PARTS = {"export": "#c3c9d0", "load": "#8d96a1", "first calls": "#5b6570"}
#: Points of a line of break-even, two a decade.
STEPS = 13


def memory(runs: Sequence[Run], keys: Sequence[Key]) -> Chapter | None:
    """What each candidate holds once loaded, and at the peak of one call; None if no run noted it."""
    data, rows = [], []
    for run, label in zip(runs, labels(runs), strict=True):
        for record in largest_with_memory(run):
            name, at = series_name(run, record, label), run.workload.row_title(record.point)
            loaded = record.memory["loaded"]
            held = [loaded.get(f"{kind}_bytes") for kind in ("parameters", "allocated", "reserved")]
            held += [run.process_bytes(record), run.peak_bytes(record)]
            mib = [None if value is None else value / MIB for value in held]
            rows.append([name, *(number(value, value and f"{value:,.0f}") for value in mib), at])
            texts = [DASH if value is None else f"{value:,.0f} MiB" for value in mib]
            figures = {"loaded": mib[3], "peak": mib[4], "parameters": mib[0]}
            told = {"loaded_text": texts[3], "peak_text": texts[4], "parameters_text": texts[0]}
            data.append({"name": name, "at": at, "is_sound": True} | figures | told)
    if not data:
        return None
    titles = ("backend", "parameters", "allocated", "reserved", "process", "peak of a call", "at")
    about = (
        "MiB. Bar: the process once loaded (on a GPU, what it holds there). Symbol: the most during one call at the "
        "last point measured. Thin line: parameters and buffers."
    )
    hover = {
        "name": "backend", "loaded_text": "process once loaded", "peak_text": "peak of a call", "at": "at",
        "parameters_text": "parameters and buffers",
    }  # fmt: skip
    y = charts.named_rows([key.label for key in keys])
    shared = {"y": y, "color": charts.coloured(keys), "tooltip": charts.tooltip(hover)}
    x = Axis("loaded", "MiB", from_zero=True).encoding()
    bar: dict[str, Any] = {"type": "bar", "height": {"band": 0.62}, "opacity": 0.5}
    line: dict[str, Any] = {"type": "tick", "thickness": 2, "height": {"band": 0.62}}
    kinds = {
        "loaded": (bar, {}),
        "parameters": (line, {"color": {"value": charts.INK}}),
        "peak": ({"type": "point", "size": 90}, {"shape": charts.shaped(keys)}),
    }
    layers = [
        {"mark": mark, "encoding": shared | {"x": x | {"field": name}} | further}
        for name, (mark, further) in kinds.items()
        if any(one[name] is not None for one in data)
    ]
    plot = charts.spec(data, layers, height=AXIS + BAR * len(data))
    chart = Chart("memory", "Memory of each backend once loaded, and its peak during a call.", plot, tuple(keys), True)
    return Chapter("memory", "Memory", about, (chart,), tuple(keys), table(titles, rows))


@dataclass(frozen=True)
class Start:
    """What one series costs before it serves, in seconds."""

    name: str
    export_seconds: float
    load_seconds: float
    first_seconds: Mapping[int, float]
    """By the place of the point: the first call, less what any other takes."""

    def seconds(self, place: int, with_export: bool = True) -> float:
        """Until the point at `place` is served: export, load, first call."""
        return (self.export_seconds if with_export else 0.0) + self.load_seconds + self.first_seconds.get(place, 0.0)


def starts(of: Sequence[Entry]) -> dict[str, Start]:
    """By series, those that were timed and whose load was."""
    found: dict[str, Start] = {}
    for entry in of:
        once = entry.record.once
        if not entry.is_timed or once.load_seconds is None:
            continue
        first = max(0.0, (once.first_call_ns or 0) / 1e9 - entry.median_ms / 1e3)
        known = found.get(entry.name)
        by_place = {**(known.first_seconds if known else {}), entry.place: first}
        found[entry.name] = Start(entry.name, once.export_seconds or 0.0, once.load_seconds, by_place)
    return found


def one_time(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """Export, load and first calls of each series, and when it has paid them back; None if none was timed.

    None too for a workload whose turns are starts themselves.
    """
    found = starts(of)
    if not found or of[0].run.workload.fresh_process:
        return None
    data = []
    for start in found.values():
        seconds_of = (start.export_seconds, start.load_seconds, sum(start.first_seconds.values()))
        data += [
            {"name": start.name, "part": part, "order": order, "seconds": seconds, "text": f"{shown(seconds)} s"}
            for order, (part, seconds) in enumerate(zip(PARTS, seconds_of, strict=True))
        ]
    x = Axis("seconds", "seconds", from_zero=True).encoding() | {"stack": "zero"}
    y = charts.named_rows([key.label for key in keys])
    own = tuple(Key(part, colour, "square") for part, colour in PARTS.items())
    hover = {"name": "backend", "part": "part", "text": "takes"}
    encoding = {
        "x": x, "y": y, "color": charts.coloured(own, "part"), "order": {"field": "order", "type": "quantitative"},
        "tooltip": charts.tooltip(hover),
    }  # fmt: skip
    bars = [{"mark": {"type": "bar", "height": {"band": 0.62}}, "encoding": encoding}]
    text = "Seconds of export, load and first calls of each backend."
    plot = charts.spec(data, bars, "before it serves", AXIS + 20 + BAR * len(found))
    made = [Chart("one-time-costs", text, plot, own), *_break_even_charts(of, found, keys)]
    about = (
        "Seconds before a backend serves: export (once, elsewhere; an artifact in the store costs none), load, and "
        "the first call at each point beyond what any other takes, compilation included. They are never part of the "
        "medians. The lines are a start (load, first call) and so many calls: where two cross, the costlier start has "
        "paid for itself."
    )
    rows = list(_break_even_rows(of, found))
    titles = (
        parts.point_title(of[0].run), "backend", "export s", "load s", "first call s", "saved a call, ms",
        "start pays back after", "with the export after",
    )  # fmt: skip
    return Chapter("costs", "One-time costs", about, tuple(made), (*keys, *own), table(titles, rows))


def _break_even_charts(of: Sequence[Entry], found: Mapping[str, Start], keys: Sequence[Key]) -> list[Chart]:
    sound = [entry for entry in of if entry.is_sound and entry.is_timed and entry.name in found]
    made = []
    for at_first in evenly(places(sound), 2):
        data = []
        here = [entry for entry in sound if entry.place == at_first.place]
        for entry in here:
            for step in range(STEPS):
                calls = 10 ** (step / 2)
                seconds = found[entry.name].seconds(entry.place, with_export=False) + calls * entry.median_ms / 1e3
                point = {"name": entry.name, "x": calls, "y": seconds}
                data.append(point | {"calls": f"{calls:,.0f}", "total": f"{shown(seconds)} s"})
        if len(here) < 2:
            continue
        noun = at_first.run.workload.call_nouns[1]
        axes = Axis("x", noun, True, format=".4~s"), Axis("y", "seconds in all", True)
        hover = {"name": "backend", "calls": noun, "total": f"start and {noun}"}
        plot = charts.lines(data, keys, *axes, hover, f"start and {noun} at {at_first.at}")
        text = f"Seconds of the start and of so many {noun} at {at_first.at}, a line a backend."
        made.append(Chart(f"break-even-{at_first.place}", text, plot, tuple(keys)))
    return made


def _break_even_rows(of: Sequence[Entry], found: Mapping[str, Start]) -> Iterator[list[Any]]:
    for entry in of:
        if not entry.is_timed or entry.name not in found:
            continue
        start, place = found[entry.name], entry.place
        first = entry.run.baseline(entry.record)
        base = next((other for other in of if first is not None and other.record is first), None)
        cells: list[Any] = [entry.at_cell, entry.name, number(start.export_seconds), number(start.load_seconds)]
        cells.append(number(start.first_seconds.get(place, 0.0)))
        if base is None or base is entry or base.name not in found or not (base.is_sound and entry.is_sound):
            yield [*cells, DASH, DASH, DASH]
            continue
        saved_ms = base.median_ms - entry.median_ms
        ratio = entry.run.ratio(entry.record)
        cells.append(number(saved_ms))
        if ratio is not None and ratio.verdict == "tie":
            yield [*cells, "tie", "tie"]
            continue
        extra = [start.seconds(place, whole) - found[base.name].seconds(place, whole) for whole in (False, True)]
        yield [*cells, *(Cell(*paid_back(seconds, saved_ms, entry.run.workload.call_nouns)) for seconds in extra)]
