"""What the figures rest on: parity, the physical floor, and the rounds over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import statistics
from bench.report.columns import shown as rounded
from bench.report.old_page.entries import Entry, evenly, shapes
from bench.report.old_page.sections import Section
from bench.report.page import charts
from bench.report.page.charts import Axis, Chart, Key
from bench.report.page.tables import DASH, number, share, table, verdict
from bench.warnings import WIDE_DRIFT

#: Points of one series over time; beyond them a point is the median of several rounds.
MOST_POINTS = 120


def parity(of: Sequence[Entry], keys: Sequence[Key]) -> Section | None:
    """Errors against eager in float64, and where the worst is; None where nothing was judged."""
    judged = [entry for entry in of if entry.record.parity.get("verdict")]
    if not judged:
        return None
    data = []
    for entry in judged:
        error = _figure(entry, "max_abs_error")
        if error:  # zero has no place on a logarithmic axis; the table has it
            data.append(_point(entry) | {"y": error, "error": f"{error:.1e}", "where": _worst(entry.record.parity)})
    made: tuple[Chart, ...] = ()
    if data:
        order = [str(shape) for shape in shapes(judged)]
        shown = {
            "name": "backend",
            "shape": "batch × length",
            "parity": "verdict",
            "error": "max |Δ|",
            "where": "worst at",
        }
        axis = Axis("y", "largest absolute difference", True, format=".1e")
        plot = charts.points(data, keys, charts.ordinal("shape", "batch × length", order), axis, shown)
        text = "Largest absolute difference from eager in float64, a point a cell."
        made = (Chart("parity", text, plot, tuple(keys), len(order) > 4),)
    rows = [
        [
            _shape(entry), entry.name, verdict(entry.record.verdict), _scientific(_figure(entry, "max_abs_error")),
            _worst(entry.record.parity), _scientific(_figure(entry, "rmse")), _of_eager(entry),
            number(_figure(entry, "min_cosine"), _cosine(entry)), share(_figure(entry, "out_of_tolerance")),
            str(entry.record.parity.get("reason", "")),
        ]
        for entry in judged
    ]  # fmt: skip
    titles = (
        "batch × length", "backend", "verdict", "max |Δ|", "worst at", "RMSE", "of eager's", "least cosine",
        "out of tolerance", "reason",
    )  # fmt: skip
    about = (
        "Outputs of the last timed call, and of the same batch under padded masks, against eager in float64 with the "
        "same weights. Equivalent: no further off than twice eager's own error at that precision (three times for fp16 "
        "and bf16). Errors of zero are in the table alone."
    )
    return Section("parity", "Is it still the same model?", about, made, tuple(keys), table(titles, rows))


def _figure(entry: Entry, name: str) -> float | None:
    value = entry.record.parity.get(name)
    return float(value) if isinstance(value, int | float) else None


def _scientific(value: float | None) -> Any:
    return DASH if value is None else number(value, f"{value:.1e}")


def _of_eager(entry: Entry) -> Any:
    mine, its = _figure(entry, "rmse"), _figure(entry, "rmse_eager")
    return number(mine / its, f"{mine / its:.2f}×") if mine is not None and its else DASH


def _cosine(entry: Entry) -> str:
    value = _figure(entry, "min_cosine")
    return "–" if value is None else f"1 − {1 - value:.0e}" if value > 0.99 else f"{value:.4f}"


def _worst(figures: Mapping[str, Any]) -> str:
    """`last_hidden_state[0, 6, 394], padded`: output, row, token, unit, and the case; a dash where it is not known."""
    at = figures.get("max_abs_at")
    if not at:
        return "–"
    return f"{figures.get('output', 'output')}{list(at)}, {figures.get('case', 'timed')}"


def floor(of: Sequence[Entry], keys: Sequence[Key]) -> Section | None:
    """What share of each median the physical floor is; None where no peak is known."""
    found = [entry for entry in of if entry.is_measured and entry.figures["floor_share"] is not None]
    if not found:
        return None
    data = [
        _point(entry)
        | {
            "y": entry.figures["floor_share"],
            "share": f"{entry.figures['floor_share']:.0%}" + (" (implausible)" if entry.figures["implausible"] else ""),
            "floor": f"{rounded(entry.figures['floor_ms'])} ms",
        }
        for entry in found
    ]
    shown = {
        "name": "backend",
        "shape": "batch × length",
        "share": "of the peak",
        "median": "median ms",
        "floor": "floor",
    }
    x = charts.ordinal("shape", "batch × length", [str(shape) for shape in shapes(found)])
    axis = Axis("y", "floor over median", format=".0%", from_zero=True)
    limit = {
        "data": {"values": [{"limit": 1}]},
        "mark": {"type": "rule", "strokeDash": [4, 3], "color": charts.INK, "opacity": 0.7},
        "encoding": {"y": {"field": "limit", "type": "quantitative"}},
    }
    plot = charts.points(data, keys, x, axis, shown, [limit])
    text = "Share of the machine's peak that each cell reaches."
    chart = Chart("floor", text, plot, tuple(keys), len(shapes(found)) > 4)
    rows = [
        [
            _shape(entry), entry.name, number(entry.median_ms, entry.median_text), number(entry.figures["floor_ms"]),
            share(entry.figures["floor_share"]), number(entry.figures["gflop"]),
            "implausible" if entry.figures["implausible"] else "",
        ]
        for entry in found
    ]  # fmt: skip
    titles = ("batch × length", "backend", "median ms", "floor ms", "share", "GFLOP", "")
    about = (
        "The least time that a cell's operations and weights take at this machine's measured peaks, as a share of the "
        "median: at 100 % nothing is left to gain, and beyond it the time is impossible."
    )
    return Section("floor", "Share of the physical floor", about, (chart,), tuple(keys), table(titles, rows))


def rounds(of: Sequence[Entry], keys: Sequence[Key]) -> Section | None:
    """Each round's median against the cell's own, in the order taken; None where no cell has two rounds."""
    measured = [entry for entry in of if entry.is_measured and len(entry.record.rounds) > 1]
    if not measured:
        return None
    made = []
    for shape in evenly(shapes(measured)):
        data = [point for entry in measured if entry.shape == shape for point in _over_time(entry)]
        shown = {"name": "backend", "place": "round", "median": "median ms", "text": "off the cell's"}
        axes = Axis("x", "round"), Axis("y", "off the median", format="+.0%")
        plot = charts.lines(data, keys, *axes, shown, str(shape))
        text = f"Median of each round over time at {shape}, relative to the cell's own median."
        made.append(Chart(f"rounds-{shape.batch}x{shape.length}", text, plot, tuple(keys)))
    rows = []
    for entry in measured:
        medians = [statistics.median(round_) / 1e6 for round_ in entry.record.rounds]
        drift = entry.figures["drift"]
        is_wide = drift is not None and abs(drift) > WIDE_DRIFT
        rows.append(
            [
                _shape(entry), entry.name, number(len(medians), str(len(medians))), number(medians[0]),
                number(medians[-1]),
                number(min(medians)), number(max(medians)),
                DASH if drift is None else number(drift, f"{drift:+.1%}{' !' if is_wide else ''}"),
            ]
        )  # fmt: skip
    titles = ("batch × length", "backend", "rounds", "first ms", "last ms", "least ms", "most ms", "drift")
    about = (
        "How far each round's median lay from its cell's own, in the order taken. Backends took turns within a round: "
        "a slow drift moves all lines together and cancels in the ratios; a spike of one line is a stall of its turn."
    )
    return Section("rounds", "Rounds over time", about, tuple(made), tuple(keys), table(titles, rows))


def _over_time(entry: Entry) -> list[dict[str, Any]]:
    medians = [statistics.median(round_) for round_ in entry.record.rounds]
    size = -(-len(medians) // MOST_POINTS)
    whole = statistics.median(entry.record.samples)
    found = []
    for start in range(0, len(medians), size):
        taken = medians[start : start + size]
        value = statistics.median(taken)
        place = str(start + 1) if len(taken) == 1 else f"{start + 1}–{start + len(taken)}"
        text = {"place": place, "median": rounded(value / 1e6), "text": f"{value / whole - 1:+.1%}"}
        found.append({"name": entry.name, "x": start + (len(taken) + 1) / 2, "y": value / whole - 1, **text})
    return found


def _shape(entry: Entry) -> Any:
    return number(entry.record.batch * 1e9 + entry.record.length, str(entry.shape))


def _point(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "shape": str(entry.shape),
        "median": entry.median_text,
        "parity": entry.record.verdict or "–",
        "is_sound": entry.is_sound,
    }
