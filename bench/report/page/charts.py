"""Plots as Vega-Lite specifications: plain dicts, nothing imported, data within."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Okabe and Ito's colours, told apart by colour-blind readers; black is left out for the dark page, and grey is ours.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999", "#F0E442")
#: Of Vega's symbols; fewer than colours and of another period, so that 24 series are told apart.
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
#: Height of a plot with its axes and title, in CSS pixels.
HEIGHT = 250
#: Pixels between the ends of an axis and what lies nearest to them.
PADDING = 9
#: Ticks of an axis, about.
TICKS = 6
#: Axis and text take the colour of the page's text, so that one plot serves light, dark and paper.
INK = "currentColor"
#: Points of cells that count for nothing are pale.
OPACITY = {"condition": {"test": "datum.is_sound === false", "value": 0.45}, "value": 1}

#: Of every plot, on the page and as an image.
CONFIG: Mapping[str, Any] = {
    "background": "transparent",
    "font": "system-ui, 'Segoe UI', 'Liberation Sans', sans-serif",
    "axis": {
        "labelColor": INK, "titleColor": INK, "gridColor": INK, "gridOpacity": 0.14, "domainColor": INK,
        "domainOpacity": 0.5, "tickColor": INK, "tickOpacity": 0.5, "labelFontSize": 11, "titleFontSize": 11,
        "titleFontWeight": "normal", "labelOverlap": "greedy", "labelLimit": 120,
    },
    "legend": {"labelColor": INK, "titleColor": INK, "orient": "bottom", "columns": 4, "labelLimit": 260},
    "title": {"color": INK, "fontSize": 12, "fontWeight": 600, "anchor": "start", "offset": 6},
    "view": {"stroke": None},
    "point": {"filled": True, "size": 55, "opacity": 1},
    "line": {"strokeWidth": 1.6},
    "rule": {"strokeWidth": 1.4},
    "text": {"color": INK, "fontSize": 11},
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One entry of a legend."""

    label: str
    colour: str
    symbol: str


@dataclass(frozen=True)
class Chart:
    """One plot."""

    name: str
    """Of its file, and unique on a page."""
    text: str
    """What it shows, for those who do not see it."""
    spec: Mapping[str, Any]
    legend: tuple[Key, ...] = ()
    is_wide: bool = False
    """True if it takes the page's whole width."""


@dataclass(frozen=True)
class Axis:
    """One axis of a plot: the field that it shows, and how."""

    field: str
    title: str
    is_logarithmic: bool = False
    values: Sequence[float] = ()
    """Where its ticks are; chosen by the plotter if empty."""
    format: str = ",~f"
    from_zero: bool = False

    def encoding(self, figures: Sequence[float] = ()) -> dict[str, Any]:
        """As Vega-Lite has it; a logarithmic axis labels few ticks by itself if its `figures` are within a decade."""
        axis: dict[str, Any] = {"title": self.title, "format": self.format}
        axis |= {"values": list(self.values)} if self.values else {"tickCount": TICKS}
        if self.is_logarithmic and figures and max(figures) < 10 * min(figures):
            axis["labelExpr"] = f"format(datum.value, '{self.format}')"
        padding = 0 if self.from_zero else PADDING
        scale: dict[str, Any] = {"zero": self.from_zero, "nice": self.from_zero, "padding": padding}
        if self.is_logarithmic:
            scale = {"type": "log", "base": 2 if self.values else 10, "nice": False, "padding": PADDING}
        if len(set(self.values)) == 1:  # a logarithmic axis of one value has no extent
            scale |= {"domain": [self.values[0] / 2, self.values[0] * 2]}
        return {"field": self.field, "type": "quantitative", "axis": axis, "scale": scale}


@dataclass(frozen=True)
class Names:
    """An axis of names in their order, all of them labelled as far as there is room."""

    field: str
    title: str | None
    order: Sequence[Any]

    def encoding(self) -> dict[str, Any]:
        """As Vega-Lite has it."""
        axis = {"title": self.title, "labelAngle": 0, "labelOverlap": "greedy", "grid": False}
        return {"field": self.field, "type": "ordinal", "sort": list(self.order), "axis": axis}


def legend(names: Sequence[str]) -> tuple[Key, ...]:
    """Colour and symbol of each series, alike in every plot of a page."""
    return tuple(
        Key(name, COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]) for index, name in enumerate(names)
    )


def coloured(keys: Sequence[Key], field: str = "name") -> dict[str, Any]:
    """The colour of each series."""
    scale = {"domain": [key.label for key in keys], "range": [key.colour for key in keys]}
    return {"field": field, "type": "nominal", "scale": scale, "title": None}


def shaped(keys: Sequence[Key]) -> dict[str, Any]:
    """The symbol of each series."""
    scale = {"domain": [key.label for key in keys], "range": [key.symbol for key in keys]}
    return {"field": "name", "type": "nominal", "scale": scale, "title": None}


def tooltip(fields: Mapping[str, str]) -> list[dict[str, str]]:
    """What is shown on hover: a field's title by its name."""
    return [{"field": name, "type": "nominal", "title": title} for name, title in fields.items()]


def spec(
    data: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]], title: str = "", height: int = HEIGHT
) -> dict[str, Any]:
    """Layers over one set of values, as wide as what holds them."""
    made: dict[str, Any] = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "data": {"values": list(data)},
        "layer": list(layers),
    }
    return made | ({"title": title} if title else {})


def chart(
    name: str,
    text: str,
    data: Sequence[Mapping[str, Any]],
    keys: Sequence[Key],
    x: Axis | Names,
    y: Axis,
    shown: Mapping[str, str],
    title: str = "",
    *,
    beneath: Sequence[Mapping[str, Any]] = (),
    is_wide: bool = False,
    of_lines: Mapping[str, Any] | None = None,
) -> Chart:
    """A line with its points a series over numbers; points beside each other over names, above the layers `beneath`.

    `low` and `high` of a value are bars; `shown` is on hover. `of_lines` are encodings of the lines alone: "detail"
    splits a series into several, "order" says which way one goes.
    """
    base: dict[str, Any] = {"x": x.encoding()}
    if isinstance(x, Names):
        base["xOffset"] = {"field": "name", "type": "nominal", "sort": [key.label for key in keys]}
    across = y.encoding([point["y"] for point in data])
    base |= {"y": across, "color": coloured(keys)}
    layers = list(beneath)
    if any(point.get("low") is not None for point in data):
        ends = base | {"y": across | {"field": "low"}, "y2": {"field": "high"}}
        layers.append({"mark": {"type": "rule"}, "transform": [{"filter": "isValid(datum.low)"}], "encoding": ends})
    if isinstance(x, Axis):
        layers.append({"mark": {"type": "line"}, "encoding": base | dict(of_lines or {})})
    points = {"shape": shaped(keys), "tooltip": tooltip(shown), "opacity": OPACITY}
    layers.append({"mark": {"type": "point"}, "encoding": base | points})
    return Chart(name, text, spec(data, layers, title), tuple(keys), is_wide)


#: A row's label as two lines at most, as a row is as high as two: the backend, then a precision, a run or both.
TWO_LINES = "split(replace(datum.label, regexp(' (· )?'), '\\n'), '\\n')"


def named_rows(keys: Sequence[Key]) -> dict[str, Any]:
    """A row a series, of the field "name", labelled in full."""
    found = Names("name", None, [key.label for key in keys]).encoding()
    # The first of two lines stands above the row's middle, a single one on it.
    baseline = {"condition": {"test": "indexof(datum.label, ' ') >= 0", "value": "bottom"}, "value": "middle"}
    found["axis"] |= {
        "labelExpr": TWO_LINES, "labelLimit": 160, "labelOverlap": False, "labelBaseline": baseline,
    }  # fmt: skip
    return found
