"""Memory, one-time costs, and after how many calls a costlier start has paid for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.columns import DASH, Table, shown
from bench.report.page import charts
from bench.report.page.charts import Axis, Chart, Key
from bench.report.page.entries import Chapter, Entry, evenly, labels, number, places, point_title, series_name
from bench.run.record import Run
from bench.run.sections import MIB, largest_with_memory, paid_back

#: Height of one bar with its gap, in CSS pixels.
BAR = 30
#: What the axis below and the room above take of a plot's height.
AXIS = 48
#: Part of a bar's place that it fills.
BAND = {"height": {"band": 0.62}}
#: Parts of a start, in the order in which they are paid, with greys that no series has.
PARTS = {"export": "#c3c9d0", "load": "#8d96a1", "first calls": "#5b6570"}
#: Points of a line of break-even, two a decade.
STEPS = 13


def memory(runs: Sequence[Run], keys: Sequence[Key]) -> Chapter | None:
    """What each candidate holds once loaded, and at the peak of one call; None if no run noted it."""
    data: list[dict[str, Any]] = []
    rows = []
    for run, label in zip(runs, labels(runs), strict=True):
        for record in largest_with_memory(run):
            name, at = series_name(run, record, label), run.workload.row_title(record.point)
            held = [record.memory["loaded"].get(f"{kind}_bytes") for kind in ("parameters", "allocated", "reserved")]
            held += [run.process_bytes(record), run.peak_bytes(record)]
            mib = [None if value is None else value / MIB for value in held]
            rows.append((name, *(number(value, value and f"{value:,.0f}") for value in mib), at))
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
    told = {
        "name": "backend", "loaded_text": "process once loaded", "peak_text": "peak of a call", "at": "at",
        "parameters_text": "parameters and buffers",
    }  # fmt: skip
    shared = {"y": charts.named_rows(keys), "color": charts.coloured(keys), "tooltip": charts.tooltip(told)}
    x = Axis("loaded", "MiB", from_zero=True).encoding()
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "loaded": ({"type": "bar", "opacity": 0.5, **BAND}, {}),
        "parameters": ({"type": "tick", "thickness": 2, **BAND}, {"color": {"value": charts.INK}}),
        "peak": ({"type": "point", "size": 90}, {"shape": charts.shaped(keys)}),
    }
    layers = [
        {"mark": mark, "encoding": shared | {"x": x | {"field": name}} | further}
        for name, (mark, further) in kinds.items()
        if any(one[name] is not None for one in data)
    ]
    plot = charts.spec(data, layers, height=AXIS + BAR * len(data))
    text = "Memory of each backend once loaded, and its peak during a call."
    return Chapter(
        "memory", "Memory", about, [Chart("memory", text, plot, tuple(keys), True)], Table(titles, tuple(rows))
    )


@dataclass(frozen=True)
class Start:
    """What one series costs before it serves, in seconds."""

    export_seconds: float
    load_seconds: float
    first_seconds: dict[int, float]
    """By the place of the point: the first call, less what any other takes."""

    def seconds(self, place: int, with_export: bool) -> float:
        """Until the point at `place` is served: export, load, first call."""
        return (self.export_seconds if with_export else 0.0) + self.load_seconds + self.first_seconds[place]


def _starts(of: Sequence[Entry]) -> dict[str, Start]:
    """By series, of its cells that were timed and whose load was; the last one says export and load."""
    found: dict[str, Start] = {}
    for entry in of:
        once = entry.record.once
        if entry.is_timed and once.load_seconds is not None:
            first = found[entry.name].first_seconds if entry.name in found else {}
            first[entry.place] = max(0.0, (once.first_call_ns or 0) / 1e9 - entry.median_ms / 1e3)
            found[entry.name] = Start(once.export_seconds or 0.0, once.load_seconds, first)
    return found


def one_time(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """Export, load and first calls of each series, and when it has paid them back; None if none was timed.

    None too for a workload whose turns are starts themselves.
    """
    starts = _starts(of)
    if not starts or of[0].run.workload.fresh_process:
        return None
    timed = [entry for entry in of if entry.is_timed and entry.name in starts]
    data = []
    for name, start in starts.items():
        seconds_of = (start.export_seconds, start.load_seconds, sum(start.first_seconds.values()))
        data += [
            {"name": name, "part": part, "order": order, "seconds": seconds, "text": f"{shown(seconds)} s"}
            for order, (part, seconds) in enumerate(zip(PARTS, seconds_of, strict=True))
        ]
    own = tuple(Key(part, colour, "square") for part, colour in PARTS.items())
    encoding = {
        "x": Axis("seconds", "seconds", from_zero=True).encoding() | {"stack": "zero"},
        "y": charts.named_rows(keys),
        "color": charts.coloured(own, "part"),
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": charts.tooltip({"name": "backend", "part": "part", "text": "takes"}),
    }
    bars = [{"mark": {"type": "bar", **BAND}, "encoding": encoding}]
    plot = charts.spec(data, bars, "before it serves", AXIS + 20 + BAR * len(starts))
    text = "Seconds of export, load and first calls of each backend."
    made = [Chart("one-time-costs", text, plot, (*keys, *own)), *_break_even_charts(timed, starts, keys)]
    about = (
        "Seconds before a backend serves: export (once, elsewhere; an artifact in the store costs none), load, and "
        "the first call at each point beyond what any other takes, compilation included. They are never part of the "
        "medians. The lines are a start (load, first call) and so many calls: where two cross, the costlier start has "
        "paid for itself."
    )
    titles = (
        point_title(of), "backend", "export s", "load s", "first call s", "saved a call, ms",
        "start pays back after", "with the export after",
    )  # fmt: skip
    rows = tuple((entry.at, entry.name, *_break_even(entry, timed, starts)) for entry in timed)
    return Chapter("costs", "One-time costs", about, made, Table(titles, rows))


def _break_even_charts(timed: Sequence[Entry], starts: Mapping[str, Start], keys: Sequence[Key]) -> Iterator[Chart]:
    sound = [entry for entry in timed if entry.is_sound]
    for first in evenly(places(sound), 2):
        here = [entry for entry in sound if entry.place == first.place]
        if len(here) < 2:
            continue
        data = []
        for entry in here:
            for calls in (10 ** (step / 2) for step in range(STEPS)):
                seconds = starts[entry.name].seconds(entry.place, False) + calls * entry.median_ms / 1e3
                told = {"calls": f"{calls:,.0f}", "total": f"{shown(seconds)} s"}
                data.append({"name": entry.name, "x": calls, "y": seconds} | told)
        noun = first.run.workload.call_nouns[1]
        axes = Axis("x", noun, True, format=".4~s"), Axis("y", "seconds in all", True)
        told = {"name": "backend", "calls": noun, "total": f"start and {noun}"}
        text = f"Seconds of the start and of the {noun} behind it at {first.at}, a line a backend."
        title = f"start and {noun} at {first.at}"
        yield charts.chart(f"break-even-{first.place}", text, data, keys, *axes, told, title)


def _break_even(entry: Entry, timed: Sequence[Entry], starts: Mapping[str, Start]) -> Iterator[str]:
    """Cells of a row: seconds before it serves, and after how many calls they are paid back against the baseline."""
    start, place, run = starts[entry.name], entry.place, entry.run
    yield from map(number, (start.export_seconds, start.load_seconds, start.first_seconds.get(place, 0.0)))
    first = run.baseline(entry.record)
    base = next((other for other in timed if other.record is first), None)
    if base is None or base is entry or not (base.is_sound and entry.is_sound):
        yield from (DASH, DASH, DASH)
        return
    saved_ms = base.median_ms - entry.median_ms
    yield number(saved_ms)
    ratio = run.ratio(entry.record)
    for with_export in (False, True):
        extra = start.seconds(place, with_export) - starts[base.name].seconds(place, with_export)
        when, calls = paid_back(extra, saved_ms, run.workload.call_nouns)
        verdict = None if ratio is None else ratio.verdict
        yield verdict if verdict in ("same", "undecided") else number(calls, when)
