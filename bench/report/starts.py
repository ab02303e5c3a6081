"""What compiling costs a backend before it serves, and after how many calls that is paid back."""

from __future__ import annotations

import math

from bench import statistics
from bench.records import Record, Run
from bench.report import summary


def lines(run: Run) -> list[str]:
    """One line for each contestant that compiled: the seconds, and after how many calls its start is paid back."""
    compiled: dict[str, list[tuple[Record, float]]] = {}
    for record in run.records:
        if record.status == "ok" and (seconds := record.facts.get("compile_seconds")):
            compiled.setdefault(summary.name(run, record), []).append((record, seconds))
    return [
        f"{name}: {_range([seconds for _, seconds in found])}; {_paid(run, found)}" for name, found in compiled.items()
    ]


def _range(seconds: list[float]) -> str:
    low, high = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
    return f"{low} s" if low == high else f"{low} to {high} s"


def _paid(run: Run, found: list[tuple[Record, float]]) -> str:
    """When the start is paid back, each answer once with the shapes that it is true of."""
    places: dict[str, list[str]] = {}
    for record, _ in found:
        places.setdefault(_paid_at(run, record), []).append(str(record.shape))
    if len(places) == 1 and len(found) > 1:
        return f"{next(iter(places))} at every shape"
    return "; ".join(f"{when} at {', '.join(shapes)}" for when, shapes in places.items())


def _paid_at(run: Run, record: Record) -> str:
    base, ratio = run.baseline(record), run.ratio(record)
    if base is None or base is record or ratio is None:
        return "held against nothing"
    name = summary.name(run, base)
    if ratio.verdict == "tie":
        return f"never paid back (a tie with {name})"
    own, other = _start_seconds(record), _start_seconds(base)
    if own is None or other is None:
        return "held against nothing, as not every load was timed"
    saved_ms = (statistics.median(base.samples) - statistics.median(record.samples)) / 1e6
    when, calls = paid_back(own - other, saved_ms)
    if when == "never":
        return f"never paid back against {name}"
    if when == "at once" or calls == math.inf:
        return f"{when} against {name}"
    return f"paid back against {name} after {when}"


def _start_seconds(record: Record) -> float | None:
    """Load and what the first call took beyond any other, compilation included."""
    if record.load_seconds is None or record.first_call_ns is None:
        return None
    return record.load_seconds + max(0.0, record.first_call_ns - statistics.median(record.samples)) / 1e9


def paid_back(extra_seconds: float, saved_ms: float) -> tuple[str, float]:
    """After how many calls a start that took `extra_seconds` more is paid back, each call saving `saved_ms`.

    As words, and as a number to sort by.
    """
    if saved_ms > 0:
        return ("at once", 0.0) if extra_seconds <= 0 else _calls(extra_seconds / saved_ms * 1e3)
    if extra_seconds < 0 and saved_ms < 0:
        return f"ahead for {_calls(extra_seconds / saved_ms * 1e3)[0]}", math.inf
    return "never", math.inf


def _calls(count: float) -> tuple[str, float]:
    calls = math.ceil(count)
    return f"{calls:,} call{'' if calls == 1 else 's'}", float(calls)
