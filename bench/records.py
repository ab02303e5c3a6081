"""A run in memory: its records, and what is computed from them when asked. The file of it is bench/runfile.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench import doubling, statistics
from bench.budget import Budget
from bench.errors import BenchError
from bench.machine import conditions
from bench.machine.roofline import Floor, Peaks, floor_ns, is_implausible, share
from bench.rows import COLUMNS, row
from bench.spec import Candidate, Grid, Shape, TimingPlan
from bench.workloads.published import JudgedRow, judge

if TYPE_CHECKING:
    import pandas

SCHEMA = 4
#: Runs of this schema on can be gone on with; what came later adds to them and changes nothing.
OLDEST_RESUMED_SCHEMA = 2
STATUSES = ("ok", "unsupported", "oom", "failed", "timeout", "skipped")
#: High end of a ratio's interval over its low end beyond which its middle is no speed-up to be printed.
UNSTEADY = 2.0
#: Verdicts under which a speed-up may be shown.
SAME_MODEL = ("exact", "equivalent")


class CellRecord:
    """What the record of a cell answers, whatever was timed; its fields are a subclass's."""

    backend: str
    variant: str
    precision: str
    copy: int
    environment: str
    status: str
    parity: dict[str, Any]

    @property
    def contestant(self) -> Candidate:
        """Who was measured."""
        return Candidate(self.backend, self.variant, self.precision, self.copy, self.environment)

    @property
    def verdict(self) -> str:
        """Parity verdict, or "" when nothing was judged."""
        return str(self.parity.get("verdict", ""))

    @property
    def is_comparable(self) -> bool:
        """True when a speed-up of this cell means something: measured, and still the same model."""
        return self.status == "ok" and self.verdict in SAME_MODEL


@dataclass(frozen=True)
class Record(CellRecord):
    """What became of one cell. Times are integer nanoseconds unless the name says otherwise."""

    model: str
    backend: str
    variant: str
    precision: str
    device: str
    batch: int
    length: int
    status: str
    reason: str = ""
    weights: str = ""
    rounds: list[list[int]] = field(default_factory=list)
    """Synchronised wall time of each timed call, per round."""
    device_rounds: list[list[int]] = field(default_factory=list)
    """Device time of calls beside those, from the device's own events; empty where it has none."""
    enqueue_rounds: list[list[int]] = field(default_factory=list)
    """Host time until those calls returned, with the device still at work."""
    pipelined_rounds: list[list[int]] = field(default_factory=list)
    """Time a call of a train of calls with one synchronisation, one figure a round."""
    naive_rounds: list[list[int]] = field(default_factory=list)
    """Times as a clock without any synchronisation shows them: wrong, for explanation alone."""
    calls_per_sample: int = 1
    """Above 1 where calls are too short to be timed one by one; a sample is their mean."""
    unmet: list[str] = field(default_factory=list)
    """Of `CRITERIA`, those that sampling ended without."""
    warmup_ns: list[int] = field(default_factory=list)
    first_call_ns: int | None = None
    export_seconds: float | None = None
    load_seconds: float | None = None
    parity: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)
    """Signal, exit code, seconds, last lines of stderr, byte counts of an out-of-memory message."""
    turns: str = "interleaved"
    """"interleaved" with the other contestants, or "sequential" where memory did not hold all of them."""
    warnings: list[str] = field(default_factory=list)
    repeat: str = ""
    """Command that repeats this cell alone."""
    judged: bool = True
    """False for a backend that does not compute the model (`null`)."""
    copy: int = 1
    memory: dict[str, Any] = field(default_factory=dict)
    """Bytes: "loaded" (parameters, allocated, reserved, process), "peak" (of one call), and
    "key_value_bytes_per_sequence" for a decoder, by formula."""
    operations: dict[str, int] = field(default_factory=dict)
    """"flops" of one call and "weight_bytes" that it must read; empty where they were not counted."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """What else went on while the cell was timed; see bench/machine/conditions.py."""
    environment: str = ""
    """Name behind `@` of the environment that it ran in, whose versions are among the facts."""

    @property
    def shape(self) -> Shape:
        """What on."""
        return Shape(self.batch, self.length)

    @property
    def samples(self) -> list[int]:
        """All timed calls, in order."""
        return [sample for round_ in self.rounds for sample in round_]

    def percentile(self, rank: int) -> float | None:
        """Nanoseconds of the `rank`-th percentile of single calls.

        None where samples are too few for it, or are means of several calls, whose tail is not that of calls.
        """
        return statistics.percentile(self.samples, rank) if self.calls_per_sample == 1 else None

    @property
    def process_bytes(self) -> int | None:
        """Memory of the process once loaded: on the GPU in a run on one, else resident."""
        loaded: dict[str, int] = self.memory.get("loaded", {})
        return loaded.get("device_process_bytes" if self.device == "cuda" else "process_bytes")

    @property
    def peak_bytes(self) -> int | None:
        """The most that was held during one call: by the allocator of a device with memory of its own, else resident.

        None on a GPU whose allocator does not tell: the host's figure would stand for another memory.
        """
        peak: dict[str, int] = self.memory.get("peak", {})
        if self.device == "cuda":
            return peak.get("peak_allocated_bytes", peak.get("peak_reserved_bytes"))
        return peak.get("peak_process_bytes")

    @property
    def most_held_bytes(self) -> int | None:
        """The most that the process held, loaded or during one call: resident, or on a GPU there.

        On a GPU that is what the driver says behind a call; where it does not, the larger of the loaded process and the
        allocator's peak, and None where nothing tells the peak.
        """
        peak: dict[str, int] = self.memory.get("peak", {})
        told = peak.get("peak_device_process_bytes") if self.device == "cuda" else None
        peak_bytes = self.peak_bytes if told is None else told
        return None if peak_bytes is None else max(peak_bytes, self.process_bytes or 0)

    @property
    def host_share(self) -> float | None:
        """Host time to enqueue a call over its device time; near 1, the device waits for the host."""
        enqueue, device = statistics.pooled(self.enqueue_rounds), statistics.pooled(self.device_rounds)
        if not enqueue or not device:
            return None
        return statistics.median(enqueue) / max(1.0, statistics.median(device))


@dataclass
class Run:
    """All records of one call, with the fingerprint of the machine they came from."""

    grid: Grid
    plan: TimingPlan
    fingerprint: dict[str, Any]
    origin: str
    """Where the weights came from, in one line."""
    checkpoint: str
    """Key of the checkpoint artifact: the same weights, configuration and libraries."""
    command: str
    started: str
    """UTC, ISO 8601."""
    records: list[Record] = field(default_factory=list)
    path: Path | None = None
    is_complete: bool = False
    parent_cpu_share: float | None = None
    """CPU time of the driver while workers were timing, divided by that wall time."""
    peaks: Peaks | None = None
    """What this machine can do at most."""
    schema: int = SCHEMA
    """Of the file that it was read from."""
    preset: dict[str, str] = field(default_factory=dict)
    """Name, title and source of the preset that it began with; empty without one."""
    published: dict[str, Any] = field(default_factory=dict)
    """Figures of others for some of its shapes, as bench/published.py has them; empty without any."""
    budget: Budget | None = None
    spent_seconds: float = 0.0
    """Of its budget, so far."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the CSV's columns, which are the keys of `rows`."""
        return COLUMNS

    def rows(self) -> list[dict[str, Any]]:
        """One dict a record under the CSV's names; None where a cell has no such figure."""
        return [row(self, record) for record in self.records]

    def frame(self) -> pandas.DataFrame:
        """`rows` as a pandas frame; raises BenchError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise BenchError("pandas is not installed; run: pip install pandas") from None
        return pandas.DataFrame(self.rows(), columns=list(COLUMNS))

    def baseline(self, record: Record) -> Record | None:
        """The first contestant's record at the same shape, which speed-ups are against."""
        first = self.grid.contestants[0]
        return next((r for r in self.records if r.shape == record.shape and r.contestant == first), None)

    def ratio(self, record: Record) -> statistics.Ratio | None:
        """Times faster than the first contestant, within rounds, with its interval and verdict.

        None unless both cells are comparable, or both compute nothing.
        """
        baseline = self.baseline(record)
        if baseline is None or not self._may_compare(baseline, record):
            return None
        return ratio_between(baseline, record)

    def speedup(self, record: Record) -> float | None:
        """The ratio's middle; None where there is no ratio, and where its interval is too wide to have a middle."""
        ratio = self.ratio(record)
        return None if ratio is None or is_unsteady(ratio) else ratio.value

    def unsteadiness(self, record: Record) -> float | None:
        """High end of the ratio's interval over its low end, where that is too much to show a speed-up; else None."""
        ratio = self.ratio(record)
        if ratio is None or ratio.interval is None or not is_unsteady(ratio):
            return None
        return ratio.interval.high / ratio.interval.low

    def floor(self, record: Record) -> Floor | None:
        """The least time that one call can take on this machine.

        None where operations or peaks are not known, and where the peaks were only ever measured beside other work.
        """
        computed_in = self.grid.computed_in(record.precision)
        if self.peaks is None or not record.operations or self.peaks.is_disturbed(computed_in):
            return None
        weight_bytes = record.operations["weight_bytes"]
        rate, bandwidth = self.peaks.flops_bound(computed_in), self.peaks.bandwidth(weight_bytes)
        if rate is None or bandwidth is None:
            return None
        return floor_ns(record.operations["flops"], weight_bytes, rate, bandwidth)

    def floor_share(self, record: Record) -> float | None:
        """The floor over the median: 1 is as fast as this machine can be."""
        floor = self.floor(record)
        return share(floor, statistics.median(record.samples)) if floor and record.samples else None

    def is_implausible(self, record: Record) -> bool:
        """True for a median below the floor: no correct measurement of that work gives it."""
        floor = self.floor(record)
        return floor is not None and bool(record.samples) and is_implausible(floor, statistics.median(record.samples))

    def taint(self, record: Record) -> list[str]:
        """What disturbed the machine while this cell was timed, one line each."""
        return conditions.taint(record.conditions) if record.conditions else []

    def _may_compare(self, baseline: Record, record: Record) -> bool:
        if not baseline.judged and not record.judged:
            return baseline.status == record.status == "ok"
        return all(cell.is_comparable and not self.is_implausible(cell) for cell in (baseline, record))

    def is_left_out(self, record: Record) -> bool:
        """True for a cell that the run's budget had no time for, or that lies beyond the last doubling of its batch."""
        if self.is_doubling and doubling.is_beyond(record):
            return True
        return self.budget is not None and (record.status, record.reason) == ("skipped", self.budget.reason)

    @property
    def is_doubling(self) -> bool:
        """True where batches are doubled as long as that gains throughput; the grid holds all that may be taken."""
        return self.grid.batches == doubling.AUTO

    @property
    def sure_shapes(self) -> tuple[Shape, ...]:
        """Shapes that are measured in any case, as far as is foreseen: the budget's, or those of the first doubling."""
        if self.is_doubling:
            return tuple(shape for shape in self.grid.shapes if shape.batch <= doubling.BATCHES[1])
        return self.grid.shapes if self.budget is None else self.budget.kept

    def planned(self) -> list[tuple[Shape, Candidate]]:
        """The cells that were to be measured, without those beyond the last doubling of a batch."""
        beyond = {(r.shape, r.contestant) for r in self.records if self.is_doubling and doubling.is_beyond(r)}
        return [cell for cell in self.grid.cells() if cell not in beyond]

    def published_row(self, shape: Shape) -> JudgedRow | None:
        """The published figure at `shape`, judged; None where the run has none."""
        return next((row for row in judge(self.published) if row.shape == shape), None) if self.published else None

    @property
    def exit_code(self) -> int:
        """parity.md rule 10: 3 something is broken; 0 all measured cells equivalent or better; 1 anything else.

        Cells that the machine or the runtime cannot do (unsupported, oom, skipped) are findings,
        not failures, as long as some cell was measured.
        """
        return exit_code_of(self.records)

    def header(self) -> dict[str, Any]:
        """The first line of the file."""
        optional: dict[str, Any] = {"preset": self.preset, "published": self.published}
        optional["budget"] = self.budget.to_json() if self.budget else None
        return {
            "kind": "run",
            "schema": SCHEMA,
            "grid": self.grid.to_json(),
            "plan": asdict(self.plan),
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "checkpoint": self.checkpoint,
            "command": self.command,
            "started": self.started,
            **{name: value for name, value in optional.items() if value},
        }


class Judged(Protocol):
    """What an exit code asks of a record of any kind."""

    @property
    def status(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def judged(self) -> bool: ...
    @property
    def is_comparable(self) -> bool: ...


def exit_code_of(records: Sequence[Judged]) -> int:
    """3 where something is broken, 0 where all that was measured is equivalent or better, else 1."""
    if any(record.verdict == "broken" for record in records):
        return 3
    measured = [record for record in records if record.status == "ok"]
    failed = any(record.status in ("failed", "timeout") for record in records)
    sound = all(record.is_comparable or not record.judged for record in measured)
    return 0 if measured and not failed and sound else 1


def ratio_between(one: Record, other: Record) -> statistics.Ratio | None:
    """How many times faster `other` is than `one`: within rounds, or of medians apart where nothing pairs them."""
    if "sequential" in (one.turns, other.turns):
        return statistics.ratio_of_runs(one.rounds, other.rounds)
    return statistics.ratio_within_rounds(one.rounds, other.rounds)


def is_unsteady(ratio: statistics.Ratio) -> bool:
    """True where the ends of a ratio's interval are too far apart for its middle to be a figure."""
    return ratio.interval is not None and ratio.interval.high > UNSTEADY * ratio.interval.low
