"""What the figures rest on: parity, the roofline, and the rounds over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import statistics
from bench.columns import DASH, shown
from bench.report import parts
from bench.report.page import charts
from bench.report.page.chapters import Chapter
from bench.report.page.charts import Axis, Chart, Key
from bench.report.page.entries import Entry, as_number, evenly, places
from bench.report.page.tables import DASH as NOTHING
from bench.report.page.tables import Cell, number, share, table, verdict
from bench.run.warnings import WIDE_DRIFT

#: Points of one series over time; beyond them a point is the median of several rounds.
MOST_POINTS = 120


def parity(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """Errors against the float64 reference, and where the worst is; None if nothing was judged."""
    judged = [entry for entry in of if entry.record.verdict]
    if not judged:
        return None
    data = []
    for entry in judged:
        error = _figure(entry, "max_abs_error")
        if error:  # zero has no place on a logarithmic axis; the table has it
            where = {"y": error, "error": f"{error:.1e}", "where": _worst(entry.record.parity)}
            data.append(entry.shown() | where)
    made: tuple[Chart, ...] = ()
    point_title = parts.point_title(of[0].run)
    if data:
        order = [entry.at for entry in places(judged)]
        hover = {
            "name": "backend",
            "at": point_title,
            "parity": "verdict",
            "error": "max |Δ|",
            "where": "worst at",
        }
        is_narrow = charts.is_narrow(one["y"] for one in data)
        axis = Axis("y", "largest absolute difference", True, format=".1e", is_narrow=is_narrow)
        plot = charts.points(data, keys, charts.ordinal("at", point_title, order), axis, hover)
        text = "Largest absolute difference from the float64 reference, a point a cell."
        made = (Chart("parity", text, plot, tuple(keys), len(order) > 4),)
    rows = [
        [
            entry.at_cell, entry.name, verdict(entry.record.verdict), _scientific(_figure(entry, "max_abs_error")),
            _worst(entry.record.parity), _scientific(_figure(entry, "rmse")), _of_eager(entry),
            number(_figure(entry, "min_cosine"), _cosine(entry)), share(_figure(entry, "out_of_tolerance")),
            str(entry.record.parity.get("reason", "")),
        ]
        for entry in judged
    ]  # fmt: skip
    titles = (
        point_title, "backend", "verdict", "max |Δ|", "worst at", "RMSE", "of eager's", "least cosine",
        "out of tolerance", "reason",
    )  # fmt: skip
    about = (
        "Outputs against eager in float64 with the same weights, on the same inputs. Equivalent: no further off than "
        "twice eager's own error at that precision (three times for fp16 and bf16). Errors of zero are in the table "
        "alone."
    )
    return Chapter("parity", "Is it still the same model?", about, made, tuple(keys), table(titles, rows))


def _figure(entry: Entry, name: str) -> float | None:
    return as_number(entry.record.parity.get(name))


def _scientific(value: float | None) -> Cell:
    return NOTHING if value is None else number(value, f"{value:.1e}")


def _of_eager(entry: Entry) -> Cell:
    mine, its = _figure(entry, "rmse"), _figure(entry, "rmse_eager")
    return number(mine / its, f"{mine / its:.2f}×") if mine is not None and its else NOTHING


def _cosine(entry: Entry) -> str:
    value = _figure(entry, "min_cosine")
    return DASH if value is None else f"1 − {1 - value:.0e}" if value > 0.99 else f"{value:.4f}"


def _worst(figures: Mapping[str, Any]) -> str:
    """`last_hidden_state[0, 6, 394], padded`: output, row, token, unit, and the case; a dash if it is not known."""
    at = figures.get("max_abs_at")
    if not at:
        return DASH
    return f"{figures.get('output', 'output')}{list(at)}, {figures.get('case', 'timed')}"


def roofline(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """What share of each median the roofline is; None if no peak is known."""
    found = [entry for entry in of if entry.is_timed and entry.figures.get("roofline_share") is not None]
    if not found:
        return None
    data = []
    for entry in found:
        figures = entry.figures
        note = " (implausible)" if figures["implausible"] else ""
        texts = {"share": f"{figures['roofline_share']:.0%}{note}", "roofline": f"{shown(figures['roofline_ms'])} ms"}
        data.append(entry.shown() | {"y": figures["roofline_share"], "median": entry.median_text} | texts)
    point_title = parts.point_title(of[0].run)
    hover = {
        "name": "backend",
        "at": point_title,
        "share": "of the peak",
        "median": "median ms",
        "roofline": "roofline",
    }
    order = [entry.at for entry in places(found)]
    axis = Axis("y", "roofline over median", format=".0%", from_zero=True)
    limit = {
        "data": {"values": [{"limit": 1}]},
        "mark": {"type": "rule", "strokeDash": [4, 3], "color": charts.INK, "opacity": 0.7},
        "encoding": {"y": {"field": "limit", "type": "quantitative"}},
    }
    plot = charts.points(data, keys, charts.ordinal("at", point_title, order), axis, hover, [limit])
    text = "Share of the machine's peak that each cell reaches."
    chart = Chart("roofline", text, plot, tuple(keys), len(order) > 4)
    rows = [
        [
            entry.at_cell, entry.name, number(entry.median_ms, entry.median_text),
            number(entry.figures["roofline_ms"]), share(entry.figures["roofline_share"]),
            number(entry.figures["gflop"]), "implausible" if entry.figures["implausible"] else "",
        ]
        for entry in found
    ]  # fmt: skip
    titles = (point_title, "backend", "median ms", "roofline ms", "share", "GFLOP", "")
    about = (
        "The least time that a cell's operations and weights take at this machine's measured peaks, as a share of the "
        "median: at 100 % nothing is left to gain, and beyond it the time is impossible."
    )
    return Chapter("roofline", "Share of the roofline", about, (chart,), tuple(keys), table(titles, rows))


def rounds(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """Each round's median against the cell's own, in the order taken; None if no cell has two rounds."""
    measured = [entry for entry in of if entry.is_timed and len(entry.record.rounds) > 1]
    if not measured:
        return None
    made = []
    for first in evenly(places(measured)):
        data = [point for entry in measured if entry.place == first.place for point in _over_time(entry)]
        hover = {"name": "backend", "place": "round", "median": "median ms", "text": "off the cell's"}
        axes = Axis("x", "round"), Axis("y", "off the median", format="+.0%")
        plot = charts.lines(data, keys, *axes, hover, first.at)
        text = f"Median of each round over time at {first.at}, relative to the cell's own median."
        made.append(Chart(f"rounds-{first.place}", text, plot, tuple(keys)))
    rows = []
    for entry in measured:
        medians = [statistics.median(round_) / 1e6 for round_ in entry.record.rounds]
        drift = statistics.drift(entry.record.rounds)
        is_wide = drift is not None and abs(drift) > WIDE_DRIFT
        rows.append(
            [
                entry.at_cell, entry.name, number(len(medians), str(len(medians))), number(medians[0]),
                number(medians[-1]), number(min(medians)), number(max(medians)),
                NOTHING if drift is None else number(drift, f"{drift:+.1%}{' !' if is_wide else ''}"),
            ]
        )  # fmt: skip
    titles = (
        parts.point_title(of[0].run), "backend", "rounds", "first ms", "last ms", "least ms", "most ms", "drift",
    )  # fmt: skip
    about = (
        "How far each round's median lay from its cell's own, in the order taken. Backends took turns within a round: "
        "a slow drift moves all lines together and cancels in the ratios; a spike of one line is a stall of its turn."
    )
    return Chapter("rounds", "Rounds over time", about, tuple(made), tuple(keys), table(titles, rows))


def _over_time(entry: Entry) -> list[dict[str, Any]]:
    medians = [statistics.median(round_) for round_ in entry.record.rounds]
    size = -(-len(medians) // MOST_POINTS)
    whole = statistics.median(entry.record.samples)
    found = []
    for start in range(0, len(medians), size):
        taken = medians[start : start + size]
        value = statistics.median(taken)
        place = str(start + 1) if len(taken) == 1 else f"{start + 1}–{start + len(taken)}"
        text = {"place": place, "median": shown(value / 1e6), "text": f"{value / whole - 1:+.1%}"}
        found.append({"name": entry.name, "x": start + (len(taken) + 1) / 2, "y": value / whole - 1, **text})
    return found
