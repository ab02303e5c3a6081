"""The headline figures over the points: the map of the fastest, lines over batch and length, points over names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from bench.columns import DASH, Column, Table, shown, span
from bench.report import parts
from bench.report.crossover import UNDECIDED
from bench.report.page import charts
from bench.report.page.charts import Axis, Chart, Key, Names
from bench.report.page.entries import (
    Chapter,
    Entry,
    as_number,
    evenly,
    hover,
    labels,
    number,
    over_points,
    series_name,
    table_of,
)
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
    rows: list[tuple[str, ...]] = []
    made = []
    any_pair = False
    for run, label in zip(runs, labels(runs), strict=True):
        won = []
        for lead in leads.leads(run):
            any_pair |= lead.runner_up is not None
            first = lead.winner if lead.is_decided else None
            both = [DASH if one is None else series_name(run, one, label) for one in (first, first and lead.runner_up)]
            ends = lead.ratio.interval if first and lead.ratio else None
            at, times = number(len(rows), run.workload.row_title(lead.point)), _times(lead)
            rows.append((at, *both, number(times, lead.text or DASH), span(ends.low, ends.high) if ends else DASH))
            strength = 0.1 + 0.45 * min(1.0, max(0.0, (times or 1.0) - 1) / (STRONGEST - 1)) if first else 0.0
            told = {"at": at, "winner": both[0], "next": both[1], "strength": strength}
            won.append((lead.point, told | {"lead": lead.text if first else UNDECIDED}))
        if is_grid(run) and len(won) > 1 and any(told["strength"] for _, told in won):
            cells = [{"batch": point.batch, "length": point.length} | told for point, told in won]
            made.append(_map(cells, keys, f"map-{label.replace(' ', '-')}" if label else "map", label))
    if not any_pair:
        return None
    about = (
        "The fastest at each point among those that still compute the same model, and how many times faster it is than "
        "the next: the paler, the less it matters. Same: another is within 3 % of it. Undecided: none is known (?)."
    )
    titles = (parts.point_title(runs[0]), "fastest", "next", "times faster", "interval")
    return Chapter("fastest", "Fastest at each point", about, made, Table(titles, tuple(rows)))


def _times(lead: Lead) -> float | None:
    if lead.winner is None:
        return None
    return lead.ratio.value if lead.ratio is not None and lead.is_decided and not lead.same else 1.0


def _map(cells: Sequence[dict[str, Any]], keys: Sequence[Key], name: str, title: str) -> Chart:
    batches, lengths = (sorted({cell[size] for cell in cells}) for size in ("batch", "length"))
    places = {
        "x": Names("length", "length, tokens", lengths).encoding(),
        "y": Names("batch", "batch", batches).encoding(),
    }
    told = {"at": "batch × length", "winner": "fastest", "lead": "times faster", "next": "than"}
    fill = {"field": "strength", "type": "quantitative", "scale": None}
    colour = charts.coloured(keys, "winner")
    layers: list[dict[str, Any]] = [
        {
            "transform": [{"filter": "datum.strength > 0"}],  # undecided ones stay empty
            "mark": {"type": "rect", "strokeWidth": 1.5, "strokeOpacity": 0.9},
            "encoding": places
            | {"color": colour, "tooltip": charts.tooltip(told), "fillOpacity": fill, "stroke": colour},
        },
        {
            # Text that is wider than its cell would cover the next one.
            "mark": {"type": "text", "opacity": {"expr": f"width / {len(lengths)} > 36 ? 1 : 0"}, "tooltip": None},
            "encoding": places | {"text": {"field": "lead", "type": "nominal"}},
        },
    ]
    height = 55 + (20 if title else 0) + 38 * len(batches)
    open_ = sum(not cell["strength"] for cell in cells)
    text = f"The fastest candidate at each of {len(cells)} points" + (f"; {open_} are undecided." if open_ else ".")
    return Chart(name, text, charts.spec(cells, layers, title, height), tuple(keys), len(lengths) > 4)


# Figures over the points.


def figures(of: Sequence[Entry], keys: Sequence[Key]) -> list[Chapter]:
    """One chapter for each plotted column that has figures."""
    workload = of[0].run.workload
    titled = [one for one in workload.columns if one.title and not one.is_left and not one.is_on_request]
    known = {column.name: column for column in workload.all_columns}
    found = []
    for column in [known[name] for name in workload.plotted] or titled[:1]:
        measured = [entry for entry in of if entry.is_measured and entry.value(column) is not None]
        if measured:
            found.append(_figures(measured, column, keys))
    return found


def _figures(of: Sequence[Entry], column: Column, keys: Sequence[Key]) -> Chapter:
    title = parts.title(column)
    made = _panels(of, keys, column) or [_over_points(of, keys, column)]
    rows = table_of(
        of,
        {
            title: lambda entry: entry.text(column),
            "interval": lambda entry: entry.interval_text(column),
            "parity": lambda entry: entry.record.verdict or DASH,
        },
    )
    told = [column.help[:1].upper() + column.help[1:] + "."] if column.help else []
    told += ["Bars: its interval."] if any(entry.ends(column) for entry in of) else []
    told += ["Faded points are excluded: outputs differ, or the time is physically impossible."]
    anchor = f"figure-{column.name.replace('_', '-')}"
    return Chapter(anchor, title[:1].upper() + title[1:], " ".join(told), made, rows)


def _mark(entry: Entry, column: Column, **more: Any) -> dict[str, Any]:
    low, high = entry.ends(column) or (None, None)
    ends = {} if low is None else {"low": low, "high": high}
    texts = {"figure": entry.text(column), "interval": entry.interval_text(column)}
    return entry.mark(y=entry.value(column), **ends, **texts, **more)


def _hover(column: Column) -> dict[str, str]:
    return {"figure": parts.title(column), "interval": "interval", "parity": "parity"}


def _panels(of: Sequence[Entry], keys: Sequence[Key], column: Column) -> list[Chart]:
    """A chart over each size of the points, a panel for what else they have; none if no size has two values."""
    names = [one.name for one in fields(of[0].point)]
    made = []
    for x in reversed(names):
        if not all((as_number(getattr(entry.point, x)) or 0) > 0 for entry in of):
            continue
        others = [name for name in names if name != x]
        panels: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in of:
            panels.setdefault(tuple(getattr(entry.point, name) for name in others), []).append(entry)
        several = [panel for panel, here in panels.items() if len({getattr(one.point, x) for one in here}) > 1]
        made += [
            _over_sizes(panels[panel], keys, column, x, dict(zip(others, panel, strict=True)))
            for panel in evenly(several)
        ]
    return made


def _over_sizes(of: Sequence[Entry], keys: Sequence[Key], column: Column, x: str, panel: Mapping[str, Any]) -> Chart:
    """The figures over one size of the points, all else of them being equal."""
    data = [_mark(entry, column, x=getattr(entry.point, x)) for entry in of]
    sizes = sorted({one["x"] for one in data})
    axes = (
        Axis("x", f"{x}, tokens" if x == "length" else x, True, sizes),
        Axis("y", parts.title(column), _is_positive(data)),
    )
    title = ", ".join(f"{name} {value}{' tokens' if name == 'length' else ''}" for name, value in panel.items())
    text = f"{parts.title(column)} over {x}{' at ' if title else ''}{title}, a line a backend."
    anchor = "-".join([column.name, "over", x, *(f"{name}-{value}" for name, value in panel.items())])
    name, told = re.sub("[^A-Za-z0-9.]+", "-", anchor), hover(of, _hover(column))
    return charts.chart(name, text, data, keys, *axes, told, title)


def _is_positive(data: Sequence[Mapping[str, Any]]) -> bool:
    """True if an axis of these figures may be logarithmic."""
    return all(value > 0 for one in data for value in (one["y"], one.get("low", 1)))


def _over_points(of: Sequence[Entry], keys: Sequence[Key], column: Column) -> Chart:
    """The figures over the names of the points, candidates beside each other, with their intervals."""
    data = [_mark(entry, column) for entry in of]
    values = [one["y"] for one in data]
    is_logarithmic = _is_positive(data) and max(values) > MANY_FOLD * min(values)
    y = Axis("y", parts.title(column), is_logarithmic, from_zero=not is_logarithmic)
    text = f"{parts.title(column)} at each {of[0].run.workload.point_noun}, a point a backend."
    return over_points(column.name.replace("_", "-"), text, of, data, keys, y, _hover(column))


# Throughput.


def throughput(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """Tokens a second against the time of a call, for points of batch and length; None without tokens a second."""
    timed = [entry for entry in of if entry.is_timed and entry.figures.get("tokens_per_second")]
    if not timed or not is_grid(timed[0].run):
        return None
    data = []
    for entry in timed:
        tokens, point = entry.figures["tokens_per_second"], entry.point
        texts = {"median": entry.median, "tokens": f"{tokens:,.0f}", "batch": point.batch, "length": point.length}
        data.append(entry.mark(x=entry.median_ms, y=tokens, **texts))
    axes = Axis("x", "median ms a call", True), Axis("y", "tokens a second", True, format=".4~s")
    text = "Tokens a second against the time of a call; a line joins the batches of one length."
    lines = {
        "detail": {"field": "length", "type": "nominal"},
        "order": {"field": "batch", "type": "quantitative"},
    }
    told = hover(of, {"median": "median ms", "tokens": "tokens a second"})
    made = [charts.chart("throughput", text, data, keys, *axes, told, is_wide=True, of_lines=lines)]
    rows = table_of(
        timed,
        {
            "median ms": lambda entry: entry.median,
            "ms a sample": lambda entry: _figure(entry, "ms_per_sample"),
            "p90 ms": lambda entry: _figure(entry, "p90_ms"),
            "tokens a second": lambda entry: number(entry.figures["tokens_per_second"]),
        },
    )
    about = "Up and to the left is better: more tokens a second, sooner. A line joins the batches of one length."
    return Chapter("throughput", "Throughput", about, made, rows)


def _figure(entry: Entry, name: str) -> str:
    value = entry.figures.get(name)
    return number(value, None if value is None else shown(float(value)))
