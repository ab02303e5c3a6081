"""The latency envelope: what a run measured of the bundled runtime, and whether a later measurement keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import statistics
from bench.comparison import change_of
from bench.records import Record, Run
from bench.spec import Shape, TimingPlan

FILE = "envelope.json"
#: Share by which a median may exceed the envelope's: two runs of one program apart differ by more than two in turns.
THRESHOLD = 0.2
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Promise:
    """What was measured at one shape, in nanoseconds of one synchronised call."""

    batch: int
    length: int
    median_ns: float
    low_ns: float | None
    high_ns: float | None
    """Ends of the median's 95 % interval; None with a single round."""
    percentiles_ns: Mapping[str, float | None]
    """By rank; None where samples were too few."""
    samples: int
    calls_per_sample: int
    round_medians_ns: tuple[float, ...]
    """What a later measurement is held against: intervals are over rounds."""
    parity: str
    unmet: tuple[str, ...] = ()
    """Stopping criteria that the measurement ended without."""
    taint: tuple[str, ...] = ()
    """What disturbed the machine meanwhile."""

    @property
    def shape(self) -> Shape:
        """What on."""
        return Shape(self.batch, self.length)


@dataclass(frozen=True)
class Envelope:
    """Every shape that was measured, and by which plan."""

    boundary: str
    plan: TimingPlan
    promises: tuple[Promise, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Envelope:
        """The envelope that `to_json` wrote."""
        tuples = ("round_medians_ns", "unmet", "taint")
        promises = (Promise(**{**entry, **{name: tuple(entry[name]) for name in tuples}}) for entry in data["promises"])
        return cls(data["boundary"], TimingPlan(**data["plan"]), tuple(promises))


def envelope_of(run: Run, records: Sequence[Record]) -> Envelope:
    """What `records` of `run` promise."""
    return Envelope(run.grid.boundary, run.plan, tuple(_promise(run, record) for record in records))


def _promise(run: Run, record: Record) -> Promise:
    interval = statistics.median_interval(record.rounds)
    return Promise(
        batch=record.batch,
        length=record.length,
        median_ns=statistics.median(record.samples),
        low_ns=interval.low if interval else None,
        high_ns=interval.high if interval else None,
        percentiles_ns={str(rank): record.percentile(rank) for rank in PERCENTILES},
        samples=len(record.samples),
        calls_per_sample=record.calls_per_sample,
        round_medians_ns=tuple(statistics.median(round_) for round_ in record.rounds),
        parity=record.verdict,
        unmet=tuple(record.unmet),
        taint=tuple(run.taint(record)),
    )


def read(path: Path) -> Envelope:
    """The envelope in a file; raises ValueError, KeyError or TypeError where it is none."""
    return Envelope.from_json(json.loads(path.read_text()))


@dataclass(frozen=True)
class Kept:
    """Whether one shape's promise was kept."""

    batch: int
    length: int
    promised_ns: float
    measured_ns: float | None
    """None where it was not measured."""
    ratio: float | None
    """Measured over promised; above 1 is slower."""
    low: float | None
    high: float | None
    """Ends of the ratio's interval, at least 99 %."""
    verdict: str
    """"within", "slower", "undecided" or "unmeasured"."""
    reason: str = ""


def held(promise: Promise, record: Record | None, threshold: float) -> Kept:
    """One promise against what was measured again; a share of `threshold` more is still within.

    Slower only where the whole interval lies above, within only where all of it lies below: what noise leaves open is
    undecided.
    """
    start = (promise.batch, promise.length, promise.median_ns)
    if record is None or record.status != "ok":
        reason = "it has no record" if record is None else f"{record.status}: {record.reason}"
        return Kept(*start, None, None, None, None, "unmeasured", reason)
    change = change_of([[median] for median in promise.round_medians_ns], record.rounds)
    now = statistics.median(record.samples)
    if change.interval is None:
        return Kept(*start, now, change.value, None, None, "undecided", "a single round has no interval")
    low, high = change.interval.low, change.interval.high
    verdict = "slower" if low > 1 + threshold else "within" if high <= 1 + threshold else "undecided"
    return Kept(*start, now, change.value, low, high, verdict)
