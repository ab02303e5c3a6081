"""The headline figures over the points: the map of the fastest, lines over batch and length, points over names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from bench.columns import DASH, Column, factor, shown
from bench.report import parts
from bench.report.page import charts
from bench.report.page.chapters import Chapter
from bench.report.page.charts import Axis, Chart, Key
from bench.report.page.entries import Entry, evenly, labels, places, plotted, series_name
from bench.report.page.tables import Cell, number, table, verdict
from bench.run import leads
from bench.run.leads import Lead, is_grid
from bench.run.record import Run

#: Factor over the next one from which a cell of the map is as strongly coloured as can be.
STRONGEST = 2.0
#: Largest figure over the smallest from which an axis of points is logarithmic.
MANY_FOLD = 20.0


# The map of the fastest.


def crossover(runs: Sequence[Run], keys: Sequence[Key]) -> Chapter | None:
    """The fastest candidate at each point, and by how much; None if no two candidates compare."""
    found = [(run, label, lead) for run, label in zip(runs, labels(runs), strict=True) for lead in leads.leads(run)]
    if all(lead.runner_up is None for _, _, lead in found):
        return None
    rows, made = [], []
    for place, (run, label, lead) in enumerate(found):
        ends = lead.ratio.interval if lead.ratio else None
        span = f"{factor(ends.low)}–{factor(ends.high)}" if ends else DASH
        at = number(place, run.workload.row_title(lead.point))
        rows.append([at, *_names(run, lead, label), number(_times(lead), lead.text or DASH), span])
    for run, label in zip(runs, labels(runs), strict=True):
        won = [lead for one, _, lead in found if one is run and lead.winner is not None]
        if is_grid(run) and len(won) > 1:
            cells = [_map_cell(run, lead, label) for lead in won]
            made.append(_map(cells, keys, f"map-{label.replace(' ', '-')}" if label else "map", label))
    about = (
        "The fastest at each point among those that still compute the same model, and how many times faster it is than "
        "the next: the paler, the less it matters. A tie: another cannot be told from it."
    )
    titles = (parts.point_title(runs[0]), "fastest", "next", "times faster", "interval")
    return Chapter("fastest", "Fastest at each point", about, tuple(made), tuple(keys), table(titles, rows))


def _names(run: Run, lead: Lead, label: str) -> list[str]:
    both = (lead.winner, lead.runner_up)
    return [DASH if record is None else series_name(run, record, label) for record in both]


def _times(lead: Lead) -> float | None:
    if lead.winner is None:
        return None
    return lead.ratio.value if lead.ratio is not None and not lead.is_tie else 1.0


def _map_cell(run: Run, lead: Lead, label: str) -> dict[str, Any]:
    winner, runner_up = _names(run, lead, label)
    times = _times(lead) or 1.0
    return {
        "batch": lead.point.batch,
        "length": lead.point.length,
        "at": run.workload.row_title(lead.point),
        "winner": winner,
        "next": runner_up,
        "lead": lead.text,
        "strength": 0.1 + 0.45 * min(1.0, max(0.0, times - 1) / (STRONGEST - 1)),
    }


def _map(cells: Sequence[dict[str, Any]], keys: Sequence[Key], name: str, title: str) -> Chart:
    batches, lengths = (sorted({cell[size] for cell in cells}) for size in ("batch", "length"))
    x = charts.ordinal("length", "length, tokens", [])
    y = charts.ordinal("batch", "batch", [])
    for axis, sizes in ((x, lengths), (y, batches)):
        axis["sort"] = sizes
    hover = {"at": "batch × length", "winner": "fastest", "lead": "times faster", "next": "than"}
    fill = {"field": "strength", "type": "quantitative", "scale": None}
    layers = [
        {
            "mark": {"type": "rect", "strokeWidth": 1.5, "strokeOpacity": 0.9},
            "encoding": {
                "x": x, "y": y, "color": charts.coloured(keys, "winner"), "tooltip": charts.tooltip(hover),
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
    text = f"The fastest candidate at each of {len(cells)} points."
    return Chart(name, text, charts.spec(cells, layers, title, height), tuple(keys), len(lengths) > 4)


# Figures over the points.


def figures(of: Sequence[Entry], keys: Sequence[Key]) -> list[Chapter]:
    """One chapter for each plotted column that has figures."""
    found = []
    for column in plotted(of[0].run):
        measured = [entry for entry in of if entry.is_measured and entry.value(column) is not None]
        if measured:
            found.append(_figures(measured, column, keys))
    return found


def _figures(of: Sequence[Entry], column: Column, keys: Sequence[Key]) -> Chapter:
    title = parts.title(column)
    made = _panels(of, keys, column) or [_over_points(of, keys, column)]
    rows = [
        [
            entry.at_cell, entry.name, number(entry.value(column), entry.text(column)), entry.interval_text(column),
            verdict(entry.record.verdict),
        ]
        for entry in of
    ]  # fmt: skip
    told = [column.help[:1].upper() + column.help[1:] + "."] if column.help else []
    told += ["Bars: its interval."] if any(entry.ends(column) for entry in of) else []
    told += ["Faded points are excluded: outputs differ, or the time is physically impossible."]
    titles = (parts.point_title(of[0].run), "backend", title, "interval", "parity")
    anchor = f"figure-{column.name.replace('_', '-')}"
    return Chapter(anchor, title[:1].upper() + title[1:], " ".join(told), tuple(made), tuple(keys), table(titles, rows))


def _mark(entry: Entry, column: Column) -> dict[str, Any]:
    low, high = entry.ends(column) or (None, None)
    ends = {} if low is None else {"low": low, "high": high}
    text = {"figure": entry.text(column), "interval": entry.interval_text(column)}
    return entry.shown() | {"y": entry.value(column)} | ends | text


def _hover(of: Sequence[Entry], column: Column) -> dict[str, str]:
    return {
        "name": "backend", "at": parts.point_title(of[0].run), "figure": parts.title(column), "interval": "interval",
        "parity": "parity",
    }  # fmt: skip


def _panels(of: Sequence[Entry], keys: Sequence[Key], column: Column) -> list[Chart]:
    """A chart over each size of the points, a panel for what else they have; none if no size has two values."""
    names = [one.name for one in fields(of[0].point)]
    made = []
    for x in reversed(names):
        if not all(_is_size(getattr(entry.point, x)) for entry in of):
            continue
        panels: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in of:
            panels.setdefault(tuple(getattr(entry.point, name) for name in names if name != x), []).append(entry)
        several = {panel: here for panel, here in panels.items() if len({getattr(one.point, x) for one in here}) > 1}
        others = [name for name in names if name != x]
        made += [
            _over_sizes(several[panel], keys, column, x, dict(zip(others, panel, strict=True)))
            for panel in evenly(list(several))
        ]
    return made


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _over_sizes(of: Sequence[Entry], keys: Sequence[Key], column: Column, x: str, panel: Mapping[str, Any]) -> Chart:
    """The figures over one size of the points, all else of them being equal."""
    data = [_mark(entry, column) | {"x": getattr(entry.point, x)} for entry in of]
    axes = (
        Axis("x", _with_unit(x), True, sorted({one["x"] for one in data})),
        Axis("y", parts.title(column), _is_positive(data), is_narrow=charts.is_narrow(one["y"] for one in data)),
    )
    title = ", ".join(f"{name} {value}{_unit(name)}" for name, value in panel.items())
    plot = charts.lines(data, keys, *axes, _hover(of, column), title)
    text = f"{parts.title(column)} over {x}{' at ' if title else ''}{title}, a line a backend."
    anchor = "-".join([column.name, "over", x, *(f"{name}-{value}" for name, value in panel.items())])
    return Chart(re.sub("[^A-Za-z0-9.]+", "-", anchor), text, plot, tuple(keys))


def _with_unit(size: str) -> str:
    return f"{size}, tokens" if size == "length" else size


def _unit(size: str) -> str:
    return " tokens" if size == "length" else ""


def _is_positive(data: Sequence[Mapping[str, Any]]) -> bool:
    """True if an axis of these figures may be logarithmic."""
    return all(value > 0 for one in data for value in (one["y"], one.get("low", 1)))


def _over_points(of: Sequence[Entry], keys: Sequence[Key], column: Column) -> Chart:
    """The figures over the names of the points, candidates beside each other, with their intervals."""
    order = [entry.at for entry in places(of)]
    data = [_mark(entry, column) for entry in of]
    values = [one["y"] for one in data]
    is_logarithmic = _is_positive(data) and max(values) > MANY_FOLD * min(values)
    y = Axis("y", parts.title(column), is_logarithmic, from_zero=not is_logarithmic)
    x = charts.ordinal("at", parts.point_title(of[0].run), order)
    plot = charts.points(data, keys, x, y, _hover(of, column))
    text = f"{parts.title(column)} at each {of[0].run.workload.point_noun}, a point a backend."
    return Chart(column.name.replace("_", "-"), text, plot, tuple(keys), len(order) > 4)


# Throughput.


def throughput(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """Tokens a second against the time of a call, for points of batch and length; None without tokens a second."""
    timed = [entry for entry in of if entry.is_timed and entry.figures.get("tokens_per_second")]
    if not timed or not is_grid(timed[0].run):
        return None
    data = []
    for entry in timed:
        tokens = entry.figures["tokens_per_second"]
        mark = entry.shown() | {"x": entry.median_ms, "y": tokens, "median": entry.median_text}
        sizes = {"batch": entry.point.batch, "length": entry.point.length}
        data.append(mark | sizes | {"tokens": f"{tokens:,.0f}"})
    hover = {
        "name": "backend",
        "at": parts.point_title(of[0].run),
        "median": "median ms",
        "tokens": "tokens a second",
    }
    axes = Axis("x", "median ms a call", True), Axis("y", "tokens a second", True, format=".4~s")
    plot = charts.lines(data, keys, *axes, hover, detail="length", order="batch")
    text = "Tokens a second against the time of a call; a line joins the batches of one length."
    rows = [
        [
            entry.at_cell, entry.name, number(entry.median_ms, entry.median_text), _figure(entry, "ms_per_sample"),
            _figure(entry, "p90_ms"), number(entry.figures["tokens_per_second"]),
        ]
        for entry in timed
    ]  # fmt: skip
    titles = (parts.point_title(of[0].run), "backend", "median ms", "ms a sample", "p90 ms", "tokens a second")
    about = "Up and to the left is better: more tokens a second, sooner. A line joins the batches of one length."
    chart = Chart("throughput", text, plot, tuple(keys), is_wide=True)
    return Chapter("throughput", "Throughput", about, (chart,), tuple(keys), table(titles, rows))


def _figure(entry: Entry, name: str) -> Cell:
    value = entry.figures.get(name)
    return number(value, None if value is None else shown(float(value)))
