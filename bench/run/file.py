"""The file of a run: JSON Lines with a header, turns, records, notes and a seal; one writer and one reader.

A turn is on disk before the next begins, and a record closes its cell; the samples stand in the turns alone. The seal
is the last line of a run that ended or was stopped. What follows a kill is a file without a seal, from which a resume
goes on.

Schema history
1-4  (0.1.0)  A format for each command. benchmarks/convert_runs.py converts compare, generate, load and memory.
5    (0.2.0)  One format for every workload.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.errors import UserError
from bench.files import Lines, LinesFile, read_lines
from bench.parity.verdict import as_of_candidate, with_loss
from bench.run import registry, typed
from bench.run.record import SCHEMA, Integrity, Model, Once, Point, Record, Run, Status, Turn
from bench.run.record_types import check as check_types
from bench.spec import Candidate

if TYPE_CHECKING:
    from bench.run.workload import Workload

LONGEST_CAUSE = 200


class Header(msgspec.Struct, tag_field="kind", tag="run"):
    """The first line."""

    schema: int
    workload: str
    options: dict[str, Any]
    model: Model
    candidates: tuple[Candidate, ...]
    fingerprint: dict[str, Any]
    started: str


class TurnLine(msgspec.Struct, tag_field="kind", tag="turn"):
    """One turn of an open cell; the candidate is its place in the header."""

    point: dict[str, Any]
    candidate: int
    turn: Turn


class RecordLine(msgspec.Struct, tag_field="kind", tag="record", omit_defaults=True):
    """What became of a cell; its turns stand before it."""

    point: dict[str, Any]
    candidate: int
    status: Status
    reason: str = ""
    figures: dict[str, Any] = {}
    once: Once = Once()
    parity: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    operations: dict[str, int] = {}
    facts: dict[str, Any] = {}
    failure: dict[str, Any] = {}
    is_judged: bool = True
    is_interleaved: bool = True


class NoteLine(msgspec.Struct, tag_field="kind", tag="note"):
    """A fact that the run noted of itself."""

    name: str
    value: Any


class SealLine(msgspec.Struct, tag_field="kind", tag="seal"):
    """SHA-256 of all lines before it, and whether every planned cell has its record."""

    sha256: str
    is_complete: bool


_OF_A_RECORD = [name for name in RecordLine.__struct_fields__ if name not in ("point", "candidate")]
_Line = Header | TurnLine | RecordLine | NoteLine | SealLine
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


class RunFile:
    """The open file of a run."""

    def __init__(self, run: Run) -> None:
        assert run.path is not None
        self.run, self._lines = run, LinesFile(run.path)
        self._place = {candidate: place for place, candidate in enumerate(run.candidates)}

    def create(self) -> None:
        """Start a new file with what the run noted so far; raises UserError if it exists or cannot be made."""
        self._lines.create(self._header())
        for name, value in self.run.notes.items():
            self._lines.append(_encode(NoteLine(name, value)))

    def go_on(self) -> None:
        """Replace the file by the run as it is in memory, without a seal."""
        notes = [_encode(NoteLine(name, value)) for name, value in self.run.notes.items()]
        closed = [
            line
            for record in self.run.records
            for line in (*(self._turn(*record.cell, turn) for turn in record.turns), self._record(record))
        ]
        open_ = [self._turn(*cell, turn) for cell, turns in self.run.turns.items() for turn in turns]
        self._lines.rewrite([self._header(), *notes, *closed, *open_])

    def turn(self, point: Point, candidate: Candidate, turn: Turn) -> None:
        """Write a turn; it is on disk when this returns. Raises BenchError if it cannot be written."""
        self._lines.append(self._turn(point, candidate, turn))

    def record(self, record: Record) -> None:
        """Write a record, whose turns were written before."""
        self._lines.append(self._record(record))

    def note(self, name: str, value: Any) -> None:
        """Note a fact of the run, in memory and in the file."""
        self.run.notes[name] = value
        self._lines.append(_encode(NoteLine(name, value)))

    def seal(self) -> None:
        """Write the seal."""
        self._lines.append(_encode(SealLine(self._lines.checksum, self.run.is_complete)))
        self.run.integrity = "sealed"

    def _header(self) -> bytes:
        run, options = self.run, self.run.options.to_json()
        found = Header(SCHEMA, run.workload.name, options, run.model, run.candidates, run.fingerprint, run.started)
        return _encode(found)

    def _turn(self, point: Point, candidate: Candidate, turn: Turn) -> bytes:
        return _encode(TurnLine(msgspec.to_builtins(point), self._place[candidate], turn))

    def _record(self, record: Record) -> bytes:
        stored = {name: getattr(record, name) for name in _OF_A_RECORD}
        return _encode(RecordLine(msgspec.to_builtins(record.point), self._place[record.candidate], **stored))


def read_run(path: str | Path) -> Run:
    """The run in a file, of any workload; raises UserError if it is none or if its lines cannot be read."""
    path = Path(path)
    found = read_lines(path)
    if not found.lines:
        raise UserError(f"{str(path)!r} holds no run; give a .jsonl file that bench wrote")
    header = _header(path, found.lines[0])
    integrity = integrity_of(found)
    workload_class = registry.load_class(header.workload)
    try:
        options = msgspec.convert(header.options, workload_class.Options)
        run = Run(
            workload_class(options), header.model, header.candidates, header.fingerprint, header.started,
            path=path, integrity=integrity, schema=header.schema, is_read=True,
        )  # fmt: skip
        if not run.candidates:
            raise ValueError("a run without candidates")
        for number, line in enumerate(found.lines[1:], start=2):
            _take(run, _decode(line), number)
        if found.seal is not None:
            seal = _decode(found.seal)
            run.is_complete = isinstance(seal, SealLine) and seal.is_complete and integrity == "sealed"
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        cause = f"{type(error).__name__}: {error}"[:LONGEST_CAUSE]
        raise UserError(f"{str(path)!r} is damaged ({cause}); measure again") from None
    return run


def check_unaltered(run: Run) -> None:
    """Raise UserError if the file of a run was changed since it was written, so that nothing may be decided by it."""
    if run.integrity == "altered":
        raise UserError(
            f"{str(run.path)!r} was altered after it was written (its seal does not match); measure again or restore it"
        )


def check_measures(run: Run, workload: type[Workload]) -> None:
    """Raise UserError for a run of another workload than a decision needs."""
    if type(run.workload) is not workload:
        raise UserError(
            f"{str(run.path)!r} is a run of bench {run.options.command}; give one of bench {workload.Options.command}"
        )


def _header(path: Path, line: bytes) -> Header:
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != "run":
        raise UserError(f"{str(path)!r} is no run of bench; give a .jsonl file that it wrote")
    schema = found.get("schema")
    if not isinstance(schema, int):
        raise UserError(f"{str(path)!r} is damaged (it has no schema number); measure again")
    if schema > SCHEMA:
        raise UserError(f"{str(path)!r} has schema {schema} and this bench reads up to {SCHEMA}; upgrade runtimebench")
    if schema < SCHEMA:
        raise UserError(
            f"{str(path)!r} has schema {schema}, of an older bench; run: python benchmarks/convert_runs.py {path}"
        )
    try:
        return msgspec.convert(found, Header)
    except msgspec.ValidationError as error:
        raise UserError(f"{str(path)!r} is damaged (header: {str(error)[:LONGEST_CAUSE]}); measure again") from None


def integrity_of(found: Lines) -> Integrity:
    """Whether lines are as they were written, by their seal."""
    if found.seal is None:
        return "cut"
    try:
        seal = _decode(found.seal)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return "altered"
    is_right = isinstance(seal, SealLine) and seal.sha256 == found.checksum and not found.has_more
    return "sealed" if is_right else "altered"


def _take(run: Run, line: _Line, number: int) -> None:
    """Add one decoded line to a run; raises ValueError for one that no run has."""
    if isinstance(line, NoteLine):
        typed.check_note(line.name, line.value)
        run.notes[line.name] = line.value
        return
    if not isinstance(line, TurnLine | RecordLine):
        raise ValueError(f"line {number} is a second header or seal")
    point: Point = msgspec.convert(line.point, run.workload.point_type)
    if not 0 <= line.candidate < len(run.candidates):
        raise ValueError(f"line {number} is of candidate {line.candidate}, of {len(run.candidates)}")
    cell = (point, run.candidates[line.candidate])
    if (record := run.record(*cell)) is not None and isinstance(line, TurnLine):
        run.open_again(record)  # it got further turns, and a record after those
    elif record is not None:
        raise ValueError(f"line {number} is of {cell[1].label} at {point}, which has its record")
    if isinstance(line, TurnLine):
        durations = (ns for kind, ns in line.turn.times_ns.items() if kind not in run.workload.moments)
        if any(sample < 0 for samples in durations for sample in samples):
            raise ValueError(f"line {number} has times below 0")
        typed.check_conditions(line.turn.conditions)
        run.turns.setdefault(cell, []).append(line.turn)
        return
    stored = {name: getattr(line, name) for name in _OF_A_RECORD}
    stored["parity"] = as_of_candidate(with_loss(stored["parity"]), cell[1])  # as older files do not have it
    record = Record(*cell, turns=tuple(run.turns.pop(cell, ())), **stored)
    _check_record(record, number)
    run.records.append(record)


def _check_record(record: Record, number: int) -> None:
    """Raise ValueError for what no measurement gives."""
    check_types(record)
    if record.once.calls_per_sample < 1:
        raise ValueError(f"line {number} has samples of less than one call")
    if record.operations and set(record.operations) != {"flops", "weight_bytes"}:
        raise ValueError(f"line {number} has operations that are not flops and weight_bytes")
    groups = [record.operations, *(record.memory.get(name) or {} for name in ("loaded", "peak"))]
    if not all(isinstance(group, Mapping) for group in groups):
        raise ValueError(f"line {number} has memory that is no group of bytes")
    if not all(type(count) is int and count >= 0 for group in groups for count in group.values()):
        raise ValueError(f"line {number} has counts that are no whole numbers from 0 on")
