"""A run in memory: header, records and notes, and what is computed from them when asked. Its file is `bench.run.file`.

Plain dataclasses, so that a worker in an environment of its own can import them without further packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench import statistics
from bench.errors import BenchError
from bench.machine import conditions, roofline
from bench.machine.roofline import Floor, Peaks
from bench.run import joint, pairs
from bench.run.pairs import WALL as WALL
from bench.spec import Candidate

if TYPE_CHECKING:
    import pandas

    from bench.options import CommonOptions
    from bench.run.workload import Workload

SCHEMA = 5
Status = Literal["ok", "unsupported", "oom", "failed", "timeout", "skipped"]
#: "sealed": as it was written. "cut": no seal, so lines may be missing. "altered": the lines do not match the seal.
Integrity = Literal["sealed", "cut", "altered"]
#: High end of a ratio's interval over its low end beyond which its middle is no speed-up to be printed.
UNSTEADY = 2.0
#: Verdicts under which a speed-up may be shown.
SAME_MODEL = ("original", "exact", "equivalent")
#: What every candidate is measured at in turn; a frozen dataclass of the workload's own.
Point = Any


@dataclass(frozen=True)
class Turn:
    """One candidate's samples in a row at one point."""

    round: int
    times_ns: dict[str, list[int]] = field(default_factory=dict)
    """Nanoseconds of each sample, by kind of time."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Facts of the workload's own on this turn."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """What else went on meanwhile, as `bench.machine.conditions` has it."""
    outputs: str = ""
    """Checksum of the last outputs; "" if they are not kept."""
    seconds: float = 0.0
    """From the pause before it to its end."""


@dataclass(frozen=True)
class Once:
    """Costs that come once, and how the cell was warmed up."""

    export_seconds: float | None = None
    load_seconds: float | None = None
    first_call_ns: int | None = None
    warmup_ns: list[int] = field(default_factory=list)
    is_stable: bool = False
    """True if the warm-up ended because its samples were alike."""
    calls_per_sample: int = 1
    """Above 1 if calls are too short to be timed one by one; a sample is their mean."""


@dataclass(frozen=True)
class Record:
    """What became of one cell. Figures are computed from it when asked and never stored."""

    point: Point
    candidate: Candidate
    status: Status
    reason: str = ""
    turns: tuple[Turn, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    """Facts of the workload's own on the cell."""
    once: Once = Once()
    parity: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    """Bytes: "loaded" (parameters, allocated, reserved, process), "peak" (of one call), and
    "key_value_bytes_per_sequence" of a decoder, by formula."""
    operations: dict[str, int] = field(default_factory=dict)
    """"flops" of one call and "weight_bytes" that it must read; empty if they were not counted."""
    facts: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)
    """Signal, exit code, seconds, last lines of standard error, byte counts of an out-of-memory message."""
    is_judged: bool = True
    """False for a backend that does not compute the model (`null`)."""
    is_interleaved: bool = True
    """False if it was timed apart from the other candidates, as memory did not hold all workers."""

    @property
    def cell(self) -> tuple[Point, Candidate]:
        """Point and candidate."""
        return self.point, self.candidate

    def rounds_ns(self, kind: str) -> list[list[int]]:
        """Samples of one kind of time, by turn; turns without any are left out."""
        return [turn.times_ns[kind] for turn in self.turns if turn.times_ns.get(kind)]

    def median_ns(self, kind: str = WALL) -> float | None:
        """Median of all samples of one kind of time; None without any."""
        samples = statistics.pooled(self.rounds_ns(kind))
        return statistics.median(samples) if samples else None

    @cached_property
    def rounds(self) -> list[list[int]]:
        """Synchronised wall time of each sample, by turn."""
        return self.rounds_ns(WALL)

    @property
    def is_timed(self) -> bool:
        """True if it has times of any kind, which other work on the machine can disturb."""
        return any(turn.times_ns for turn in self.turns)

    @cached_property
    def samples(self) -> list[int]:
        """All samples of wall time, in order."""
        return [sample for round_ in self.rounds for sample in round_]

    @property
    def verdict(self) -> str:
        """Parity verdict, or "" if nothing was judged."""
        return str(self.parity.get("verdict", ""))

    @property
    def is_comparable(self) -> bool:
        """True if a speed-up of this cell means something: measured, and still the same model."""
        return self.status == "ok" and self.verdict in SAME_MODEL

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """What else went on in all turns together."""
        return conditions.summary([turn.conditions for turn in self.turns])

    @cached_property
    def quiet(self) -> tuple[bool, ...]:
        """Whether nothing disturbed each turn, so that its round may decide."""
        return conditions.quiet([turn.conditions for turn in self.turns])

    def percentile(self, rank: int) -> float | None:
        """Nanoseconds of the `rank`-th percentile of single calls; None if samples are too few, or means of several
        calls.
        """
        return statistics.percentile(self.samples, rank) if self.once.calls_per_sample == 1 else None

    @property
    def host_share(self) -> float | None:
        """Host time to enqueue a call over its device time; near 1, the device waits for the host."""
        enqueue, device = self.median_ns("enqueue"), self.median_ns("device")
        return None if enqueue is None or device is None else enqueue / max(1.0, device)


@dataclass(frozen=True)
class Model:
    """The model of a run, as far as points, records and reports need it."""

    name: str
    origin: str
    """Where the weights came from, in one line."""
    weights: str
    """"random", "pretrained", or "module" for the user's own code."""
    checkpoint: str
    """Key of the checkpoint artifact: the same weights, configuration and libraries."""
    task: str
    positions: int | None = None
    """Largest length in tokens, as far as the configuration tells."""

    @property
    def output(self) -> str:
        """What the model gives, in words."""
        if self.weights == "module":
            return "a module's logits" if self.task == "lm" else "a module's outputs"
        return "last hidden state" if self.task == "base" else "logits"


@dataclass
class Run:
    """All records of one call, with the fingerprint of the machine that they came from."""

    workload: Workload
    """With the options of the run, all of them settled."""
    model: Model
    candidates: tuple[Candidate, ...]
    fingerprint: dict[str, Any]
    started: str
    """UTC, ISO 8601."""
    records: list[Record] = field(default_factory=list)
    turns: dict[tuple[Point, Candidate], list[Turn]] = field(default_factory=dict)
    """Turns of cells that have no record yet."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the run noted of itself, as JSON types, e.g. "peaks" and "parent_cpu_share"; the last of a name counts."""
    path: Path | None = None
    is_complete: bool = False
    integrity: Integrity = "cut"
    schema: int = SCHEMA
    is_read: bool = False

    @property
    def options(self) -> CommonOptions:
        """The run's options."""
        options: CommonOptions = self.workload.options
        return options

    @property
    def command(self) -> str:
        """The command line that measures the same."""
        return self.options.command_line()

    @cached_property
    def _by_cell(self) -> dict[tuple[Point, Candidate], Record]:
        return {}

    def record(self, point: Point, candidate: Candidate) -> Record | None:
        """The record of one cell; None if it has none yet."""
        found = self._by_cell
        if len(found) != len(self.records):
            found.clear()
            found.update({record.cell: record for record in self.records})
        return found.get((point, candidate))

    def open_again(self, record: Record) -> None:
        """Take a record back, whose cell gets further turns."""
        self.records.remove(record)
        self._by_cell.clear()
        self.turns[record.cell] = list(record.turns)

    def by_point(self) -> Iterator[tuple[Point, list[Record]]]:
        """Each point that has records, in the workload's order, with them in the order of the candidates."""
        order = {candidate: index for index, candidate in enumerate(self.candidates)}
        points: dict[Point, list[Record]] = {point: [] for point in self.workload.points()}
        for record in self.records:
            points.setdefault(record.point, []).append(record)
        for point, records in points.items():
            if records:
                yield point, sorted(records, key=lambda record: order[record.candidate])

    def planned(self) -> list[tuple[Point, Candidate]]:
        """Cells that were to be measured, without those that turned out not to be wanted."""
        cells = [(point, candidate) for point in self.workload.points() for candidate in self.candidates]
        unwanted = {record.cell for record in self.records if self.workload.is_left_out(record)}
        every = dict.fromkeys((*cells, *(record.cell for record in self.records)))
        return [cell for cell in every if cell not in unwanted]

    def repeat(self, record: Record) -> str:
        """The command line that measures one cell again, alone."""
        return self.workload.repeated(record.point, record.candidate).command_line()

    def name(self, candidate: Candidate) -> str:
        """`backend:variant`, with the precision if the run has several."""
        has_many = len({one.precision for one in self.candidates}) > 1
        return f"{candidate.label} {candidate.precision}" if has_many else candidate.label

    # Speed-ups.

    @property
    def baseline_candidate(self) -> Candidate:
        """Baseline: the one that was asked for, else default eager if present, else the first candidate."""
        asked = self.options.baseline
        if asked:
            return next(one for one in self.candidates if one.label == asked)
        eager = (one for one in self.candidates if (one.label, one.backend) == ("eager", "eager"))
        return next(eager, self.candidates[0])

    def baseline(self, record: Record) -> Record | None:
        """The baseline's record at the same point."""
        return self.record(record.point, self.baseline_candidate)

    def ratio(self, record: Record) -> statistics.Ratio | None:
        """Times faster than the baseline, within rounds; None unless both cells are comparable, or both compute
        nothing.
        """
        baseline = self.baseline(record)
        if baseline is None or not self.may_compare(baseline, record):
            return None
        return self.between(baseline, record)

    def between(self, one: Record, other: Record) -> statistics.Ratio | None:
        """`pairs.ratio_between` two cells at the level that holds all verdicts of the run together."""
        return joint.of(self).ratio(one, other)

    def unsteadiness(self, record: Record) -> float | None:
        """High end of the ratio's interval over its low end, if that is too much to show a speed-up; else None."""
        ratio = self.ratio(record)
        ends = None if ratio is None or not is_unsteady(ratio) else ratio.interval
        return None if ends is None else ends.high / ends.low

    def may_compare(self, baseline: Record, record: Record) -> bool:
        """True if a ratio of two cells means something: both are sound, and rounds enough were quiet."""
        return self.are_sound(baseline, record) and pairs.may_decide(baseline, record)

    def are_sound(self, *cells: Record) -> bool:
        """True if all were measured as the same model, or all compute nothing, however few their rounds are."""
        if not any(cell.is_judged for cell in cells):
            return all(cell.status == "ok" and cell.rounds for cell in cells)
        return all(cell.is_comparable and cell.rounds and not self.is_implausible(cell) for cell in cells)

    def why_undecided(self, record: Record) -> str:
        """Why a sound cell has no speed-up: too few rounds of it and the baseline were quiet, or taken; else ""."""
        baseline = self.baseline(record)
        is_sound = baseline is not None and baseline is not record and self.are_sound(baseline, record)
        return pairs.why_undecided(baseline, record) if baseline is not None and is_sound else ""

    # The machine's limits.

    @cached_property
    def _peaks(self) -> dict[int, Peaks]:
        return {}

    @property
    def peaks(self) -> Peaks | None:
        """What this machine can do at most, as the run noted it."""
        noted = self.notes.get("peaks")
        if noted is None:
            return None
        if id(noted) not in self._peaks:
            self._peaks[id(noted)] = Peaks.from_json(noted)
        return self._peaks[id(noted)]

    def floor(self, record: Record) -> Floor | None:
        """The roofline: the least time on this machine of what the workload bounds by it; None if operations or
        undisturbed peaks are not known.
        """
        computed_in = self.options.computed_in(record.candidate.precision)
        peaks = self.peaks
        if peaks is None or not record.operations or peaks.is_disturbed(computed_in):
            return None
        flops, least_bytes = self.workload.least_work(record)
        rate, bandwidth = peaks.flops_bound(computed_in), peaks.bandwidth(least_bytes)
        if rate is None or bandwidth is None:
            return None
        return roofline.floor_ns(flops, least_bytes, rate, bandwidth)

    def roofline_share(self, record: Record) -> float | None:
        """The roofline over the median: 1 is as fast as this machine can be."""
        floor, median_ns = self.floor(record), record.median_ns(self.workload.roofline_kind)
        return None if floor is None or median_ns is None else roofline.share(floor, median_ns)

    def is_implausible(self, record: Record) -> bool:
        """True for a median below the roofline: no correct measurement of that work gives it."""
        floor, median_ns = self.floor(record), record.median_ns(self.workload.roofline_kind)
        return floor is not None and median_ns is not None and roofline.is_implausible(floor, median_ns)

    def disturbances(self, record: Record) -> list[str]:
        """What disturbed the machine while this cell was timed, one line each; nothing for a cell without times."""
        return conditions.disturbed_by(record.conditions) if record.conditions and record.is_timed else []

    # Memory.

    def process_bytes(self, record: Record) -> int | None:
        """Memory of the process once loaded: on the GPU in a run on one, else resident."""
        loaded: dict[str, int] = record.memory.get("loaded", {})
        return loaded.get("device_process_bytes" if self.options.kind == "cuda" else "process_bytes")

    def peak_bytes(self, record: Record) -> int | None:
        """The most that was held during one call: by the GPU's allocator, None if that does not say; else resident."""
        peak: dict[str, int] = record.memory.get("peak", {})
        if self.options.kind == "cuda":
            return peak.get("peak_allocated_bytes", peak.get("peak_reserved_bytes"))
        return peak.get("peak_process_bytes")

    def most_held_bytes(self, record: Record) -> int | None:
        """The most that the process held, loaded or during one call: resident, or on a GPU what the driver says, else
        the larger of the loaded process and the allocator's peak; None if nothing says the peak.
        """
        peak: dict[str, int] = record.memory.get("peak", {})
        of_driver = peak.get("peak_device_process_bytes") if self.options.kind == "cuda" else None
        peak_bytes = self.peak_bytes(record) if of_driver is None else of_driver
        return None if peak_bytes is None else max(peak_bytes, self.process_bytes(record) or 0)

    # Rows.

    def rows(self) -> list[dict[str, Any]]:
        """One dict a record under the names of the columns; None if a cell has no such figure."""
        return [
            {column.name: column.value(self, record) for column in self.workload.all_columns} for record in self.records
        ]

    def to_frame(self) -> pandas.DataFrame:
        """`rows` as a pandas frame; raises BenchError if pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise BenchError("pandas is not installed; run: pip install pandas") from None
        return pandas.DataFrame(self.rows(), columns=[column.name for column in self.workload.all_columns])

    @property
    def exit_code(self) -> int:
        """What the command ends with; parity.md, rule 12."""
        return self.workload.exit_code(self)


def is_unsteady(ratio: statistics.Ratio) -> bool:
    """True if the ends of a ratio's interval are too far apart for its middle to be a figure."""
    return ratio.interval is not None and ratio.interval.high > UNSTEADY * ratio.interval.low
