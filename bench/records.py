"""A run on disk: JSON Lines, a header and one line a record; and the same in memory.

Schema history
1  (0.1.0)  {"kind": "run"} header with grid, plan, fingerprint; {"kind": "record"} a cell;
            {"kind": "end"} when all planned cells have their record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.errors import BenchError, UserError
from bench.spec import Contestant, Grid, Shape, TimingPlan

if TYPE_CHECKING:
    import pandas

SCHEMA = 1
STATUSES = ("ok", "unsupported", "oom", "failed", "timeout", "skipped")
#: Largest of the rounds' ratios over the smallest beyond which their median is no speed-up.
UNSTEADY = 2.0
#: Verdicts under which a speed-up may be shown.
SAME_MODEL = ("exact", "equivalent")


@dataclass(frozen=True)
class Record:
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
    """Device time of the same calls from the device's own events; empty where it has none."""
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

    @property
    def contestant(self) -> Contestant:
        """Who was measured."""
        return Contestant(self.backend, self.variant, self.precision)

    @property
    def shape(self) -> Shape:
        """What on."""
        return Shape(self.batch, self.length)

    @property
    def samples(self) -> list[int]:
        """All timed calls, in order."""
        return [sample for round_ in self.rounds for sample in round_]

    @property
    def verdict(self) -> str:
        """Parity verdict, or "" when nothing was judged."""
        return str(self.parity.get("verdict", ""))

    @property
    def is_comparable(self) -> bool:
        """True when a speed-up of this cell means something: measured, and still the same model."""
        return self.status == "ok" and self.verdict in SAME_MODEL


COLUMNS = (
    "model", "backend", "variant", "precision", "device", "batch", "length", "status", "median_ms", "q1_ms", "q3_ms",
    "samples", "ms_per_sample", "tokens_per_second", "speedup", "parity", "max_abs_error", "export_s", "load_s",
    "first_call_ms", "reason", "device_median_ms", "task", "threads", "weights",
)  # fmt: skip


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

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the CSV's columns, which are the keys of `rows`."""
        return COLUMNS

    def rows(self) -> list[dict[str, Any]]:
        """One dict a record under the CSV's names; None where a cell has no such figure."""
        return [self._row(record) for record in self.records]

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

    def speedup(self, record: Record) -> float | None:
        """Times faster than the first contestant, within rounds.

        None unless both cells are comparable (or both compute nothing), and where the rounds disagree
        by more than `UNSTEADY`, which `unsteadiness` tells.
        """
        baseline = self.baseline(record)
        if baseline is None or not self._may_compare(baseline, record) or self.unsteadiness(record):
            return None
        return statistics.ratio_within_rounds(baseline.rounds, record.rounds)

    def unsteadiness(self, record: Record) -> float | None:
        """By how much the rounds disagree on the speed-up, where that is too much to show one; else None."""
        baseline = self.baseline(record)
        if baseline is None or not self._may_compare(baseline, record):
            return None
        found = statistics.disagreement(baseline.rounds, record.rounds)
        return found if found is not None and found > UNSTEADY else None

    @staticmethod
    def _may_compare(baseline: Record, record: Record) -> bool:
        if not baseline.judged and not record.judged:
            return baseline.status == record.status == "ok"
        return baseline.is_comparable and record.is_comparable

    def _row(self, record: Record) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(COLUMNS)
        for name in (
            "model",
            "backend",
            "variant",
            "precision",
            "device",
            "batch",
            "length",
            "status",
            "reason",
            "weights",
        ):
            values[name] = getattr(record, name)
        values |= {"task": self.grid.task, "threads": self.grid.threads, "parity": record.verdict or None}
        values |= {"export_s": record.export_seconds, "load_s": record.load_seconds}
        values["max_abs_error"] = record.parity.get("max_abs_error")
        if record.first_call_ns is not None:
            values["first_call_ms"] = record.first_call_ns / 1e6
        values["samples"] = len(record.samples)
        if record.samples:
            q1, median, q3 = (value / 1e6 for value in statistics.quartiles(record.samples))
            values |= {"median_ms": median, "q1_ms": q1, "q3_ms": q3, "ms_per_sample": median / record.batch}
            values["tokens_per_second"] = record.batch * record.length / (median / 1e3)
            values["speedup"] = self.speedup(record)
        if device_samples := [sample for round_ in record.device_rounds for sample in round_]:
            values["device_median_ms"] = statistics.median(device_samples) / 1e6
        return values

    @property
    def exit_code(self) -> int:
        """parity.md rule 10: 3 something is broken; 0 all measured cells equivalent or better; 1 anything else.

        Cells that the machine or the runtime cannot do (unsupported, oom, skipped) are findings,
        not failures, as long as some cell was measured.
        """
        if any(record.verdict == "broken" for record in self.records):
            return 3
        measured = [record for record in self.records if record.status == "ok"]
        failed = any(record.status in ("failed", "timeout") for record in self.records)
        sound = all(record.is_comparable or not record.judged for record in measured)
        return 0 if measured and not failed and sound else 1

    def header(self) -> dict[str, Any]:
        """The first line of the file."""
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
        }


class RunFile:
    """The open file of a run; every line is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, run: Run) -> None:
        """Start a new file with the header; raises UserError when it exists or cannot be made."""
        try:
            if self.path.is_file():
                raise UserError(
                    f"output file {str(self.path)!r} exists; go on with --resume {self.path}, or give another --output"
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("x" if not self.path.exists() else "a"):
                pass
        except OSError as error:
            shown = str(self.path) if len(str(self.path)) < 200 else f"{str(self.path)[:100]}…"
            raise UserError(f"output file {shown!r} cannot be made ({error.strerror}); give another --output") from None
        self.append(run.header())

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one JSON line and wait until it is on disk; raises BenchError when it cannot be."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
                file.flush()
                if self.path.is_file():
                    os.fsync(file.fileno())
        except OSError as error:
            raise BenchError(
                f"{str(self.path)!r} cannot be written ({error.strerror}); free some space and use --resume"
            ) from error

    def rewrite(self, run: Run) -> None:
        """Replace the file with `run` as it is in memory, written aside and renamed."""
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        lines = [run.header(), *(record_line(record) for record in run.records)]
        try:
            aside.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
            aside.replace(self.path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise BenchError(
                f"{str(self.path)!r} cannot be written ({error.strerror}); free some space and use --resume"
            ) from error


def record_line(record: Record) -> dict[str, Any]:
    """A record as its line of the file."""
    return {"kind": "record", **asdict(record)}


def read_run(path: Path) -> Run:
    """The run in a file; a torn last line is left out. Raises UserError when it is no run."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not text"
        raise UserError(
            f"run file {str(path)!r} cannot be read ({cause}); give a file that bench compare wrote"
        ) from None
    lines = list(_parsed(text, path))
    if not lines or lines[0].get("kind") != "run":
        raise UserError(f"{str(path)!r} is no run of bench compare; give a .jsonl file that it wrote")
    header = lines[0]
    if not isinstance(header.get("schema"), int):
        raise UserError(f"{str(path)!r} is damaged (it has no schema number); measure again")
    if header["schema"] > SCHEMA:
        raise UserError(
            f"{str(path)!r} has schema {header['schema']} and this bench reads up to {SCHEMA}; upgrade runtimebench"
        )
    try:
        run = Run(
            grid=Grid.from_json(header["grid"]),
            plan=TimingPlan(**header["plan"]),
            fingerprint=header["fingerprint"],
            origin=header["origin"],
            checkpoint=header["checkpoint"],
            command=header["command"],
            started=header["started"],
            path=path,
        )
        for line in lines[1:]:
            if line["kind"] == "record":
                record = Record(**{key: value for key, value in line.items() if key != "kind"})
                _check_record(record, run)
                run.records.append(record)
            elif line["kind"] == "end":
                run.is_complete = True
                run.parent_cpu_share = line.get("parent_cpu_share")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{str(path)!r} is damaged ({type(error).__name__}: {error}); measure again") from None
    return run


def _check_record(record: Record, run: Run) -> None:
    """Raise ValueError where a record is none of `run`'s, or holds what no measurement gives."""
    cell = (record.shape, record.contestant)
    if cell not in set(run.grid.cells()):
        raise ValueError(f"a record of {record.contestant.label} at {record.shape} is none of the planned cells")
    if any((other.shape, other.contestant) == cell for other in run.records):
        raise ValueError(f"two records of {record.contestant.label} at {record.shape}")
    if record.status not in STATUSES:
        raise ValueError(f"unknown status {record.status!r}")
    for rounds in (record.rounds, record.device_rounds):
        if not all(isinstance(sample, int) and sample >= 0 for round_ in rounds for sample in round_):
            raise ValueError("samples that are no nanoseconds")
    if record.status == "ok" and not (record.samples and all(record.rounds) and min(record.samples) > 0):
        raise ValueError("a measured cell without samples")
    if not isinstance(record.parity, dict) or not isinstance(record.facts, dict):
        raise TypeError("parity or facts are no objects")


def _parsed(text: str, path: Path) -> Iterable[dict[str, Any]]:
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):  # no newline behind it: the writer was stopped half-way
                return
            raise UserError(
                f"line {number} of {str(path)!r} is not JSON; give a file that bench compare wrote"
            ) from None
        if not isinstance(parsed, dict):
            raise UserError(f"line {number} of {str(path)!r} is no JSON object; give a file that bench compare wrote")
        yield parsed
