"""What the figures rest on: parity, the roofline, and the rounds over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench import statistics
from bench.columns import DASH, shown
from bench.report.page import charts
from bench.report.page.charts import Axis, Key
from bench.report.page.entries import Chapter, Entry, as_number, evenly, number, over_points, places, table_of
from bench.run import pairs
from bench.run.warnings import WIDE_DRIFT

#: Points of one series over time; beyond them a point is the median of several rounds.
MOST_POINTS = 120


def parity(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """Errors against the float64 reference, and where the worst is; None if nothing was judged."""
    judged = [entry for entry in of if entry.record.verdict]
    if not judged:
        return None
    data = [
        entry.mark(y=error, error=f"{error:.1e}", where=_worst(entry))
        for entry in judged
        if (error := _figure(entry, "max_abs_error"))  # zero has no place on a logarithmic axis; the table has it
    ]
    made = []
    if data:
        text = "Largest absolute difference from the float64 reference, a point a cell."
        y = Axis("y", "largest absolute difference", True, format=".1e")
        told = {"parity": "verdict", "error": "max |Δ|", "where": "worst at"}
        made.append(over_points("parity", text, judged, data, keys, y, told))
    rows = table_of(
        judged,
        {
            "verdict": lambda entry: entry.record.verdict,
            "max |Δ|": lambda entry: _scientific(_figure(entry, "max_abs_error")),
            "worst at": _worst,
            "RMSE": lambda entry: _scientific(_figure(entry, "rmse")),
            "of eager's": _of_eager,
            "least cosine": _cosine,
            "out of tolerance": lambda entry: _share(_figure(entry, "out_of_tolerance")),
            "reason": lambda entry: str(entry.record.parity.get("reason", "")),
        },
    )
    about = (
        "Outputs against eager in float64 with the same weights, on the same inputs. Equivalent: no further off than "
        "twice eager's own error at that precision (three times for fp16 and bf16). Errors of zero are in the table "
        "alone."
    )
    return Chapter("parity", "Is it still the same model?", about, made, rows)


def _figure(entry: Entry, name: str) -> float | None:
    return as_number(entry.record.parity.get(name))


def _scientific(value: float | None) -> str:
    return DASH if value is None else number(value, f"{value:.1e}")


def _share(value: float | None) -> str:
    return DASH if value is None else number(value, f"{value:.1%}" if abs(value) < 0.1 else f"{value:.0%}")


def _of_eager(entry: Entry) -> str:
    mine, its = _figure(entry, "rmse"), _figure(entry, "rmse_eager")
    return number(mine / its, f"{mine / its:.2f}×") if mine is not None and its else DASH


def _cosine(entry: Entry) -> str:
    value = _figure(entry, "min_cosine")
    return DASH if value is None else number(value, f"1 − {1 - value:.0e}" if value > 0.99 else f"{value:.4f}")


def _worst(entry: Entry) -> str:
    """`last_hidden_state[0, 6, 394], padded`: output, row, token, unit, and the case; a dash if it is not known."""
    figures = entry.record.parity
    at = figures.get("max_abs_at")
    return f"{figures.get('output', 'output')}{list(at)}, {figures.get('case', 'timed')}" if at else DASH


def roofline(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """What share of each median the roofline is; None if no peak is known."""
    found = [entry for entry in of if entry.is_timed and entry.figures.get("roofline_share") is not None]
    if not found:
        return None
    data = []
    for entry in found:
        figures = entry.figures
        share = f"{figures['roofline_share']:.0%}{' (implausible)' if figures['implausible'] else ''}"
        least = f"{shown(figures['roofline_ms'])} ms"
        data.append(entry.mark(y=figures["roofline_share"], median=entry.median, share=share, roofline=least))
    limit = {
        "data": {"values": [{"limit": 1}]},
        "mark": {"type": "rule", "strokeDash": [4, 3], "color": charts.INK, "opacity": 0.7},
        "encoding": {"y": {"field": "limit", "type": "quantitative"}},
    }
    text = "Share of the machine's peak that each cell reaches."
    y = Axis("y", "roofline over median", format=".0%", from_zero=True)
    told = {"share": "of the peak", "median": "median ms", "roofline": "roofline"}
    made = [over_points("roofline", text, found, data, keys, y, told, [limit])]
    rows = table_of(
        found,
        {
            "median ms": lambda entry: entry.median,
            "roofline ms": lambda entry: number(entry.figures["roofline_ms"]),
            "share": lambda entry: _share(entry.figures["roofline_share"]),
            "GFLOP": lambda entry: number(entry.figures["gflop"]),
            "": lambda entry: "implausible" if entry.figures["implausible"] else "",
        },
    )
    about = (
        "The least time that a cell's operations and weights take at this machine's measured peaks, as a share of the "
        "median: at 100 % nothing is left to gain, and beyond it the time is impossible."
    )
    return Chapter("roofline", "Share of the roofline", about, made, rows)


def rounds(of: Sequence[Entry], keys: Sequence[Key]) -> Chapter | None:
    """Each round's median against the cell's own, in the order taken; None if no cell has two rounds."""
    measured = [entry for entry in of if entry.is_timed and len(entry.record.rounds) > 1]
    if not measured:
        return None
    made = []
    for first in evenly(places(measured)):
        data = [point for entry in measured if entry.place == first.place for point in _over_time(entry)]
        told = {"name": "backend", "place": "round", "median": "median ms", "text": "off the cell's"}
        text = f"Median of each round over time at {first.at}, relative to the cell's own median."
        axes = Axis("x", "round"), Axis("y", "off the median", format="+.0%")
        made.append(charts.chart(f"rounds-{first.place}", text, data, keys, *axes, told, first.at))
    rows = table_of(
        measured,
        {
            "rounds": lambda entry: number(len(entry.record.rounds)),
            "first ms": lambda entry: number(_medians_ms(entry)[0]),
            "last ms": lambda entry: number(_medians_ms(entry)[-1]),
            "least ms": lambda entry: number(min(_medians_ms(entry))),
            "most ms": lambda entry: number(max(_medians_ms(entry))),
            "drift": _drift,
        },
    )
    about = (
        "How far each round's median lay from its cell's own, in the order taken. Backends took turns within a round: "
        "a slow drift moves all lines together and cancels in the ratios; a spike of one line is a stall of its turn."
    )
    return Chapter("rounds", "Rounds over time", about, made, rows)


def _medians_ms(entry: Entry) -> list[float]:
    return [statistics.median(round_) / 1e6 for round_ in entry.record.rounds]


def _drift(entry: Entry) -> str:
    drift = statistics.drift(pairs.quiet_rounds(entry.record))
    return DASH if drift is None else number(drift, f"{drift:+.1%}{' !' if abs(drift) > WIDE_DRIFT else ''}")


def _over_time(entry: Entry) -> Iterator[dict[str, Any]]:
    medians = _medians_ms(entry)
    size = -(-len(medians) // MOST_POINTS)
    for start in range(0, len(medians), size):
        taken = medians[start : start + size]
        value = statistics.median(taken)
        off = value / entry.median_ms - 1
        place = str(start + 1) if len(taken) == 1 else f"{start + 1}–{start + len(taken)}"
        text = {"place": place, "median": shown(value), "text": f"{off:+.1%}"}
        yield {"name": entry.name, "x": start + (len(taken) + 1) / 2, "y": off, **text}
