"""The file of a run: JSON Lines, a header and one line a record; written as records come, and read again.

Schema history
1  (0.1.0)  {"kind": "run"} header with grid, plan, fingerprint; {"kind": "record"} a cell;
            {"kind": "end"} when all planned cells have their record.
2  (0.1.0)  records gain copy, calls_per_sample, enqueue_, pipelined_ and naive_rounds, unmet, memory, operations and
            conditions; a plan target_precision, warmup_most_seconds and naive_timer; a grid boundary;
            {"kind": "peaks"} lines hold what the machine can do at most, and the last one counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import BenchError, UserError
from bench.peaks import Peaks
from bench.records import CRITERIA, SCHEMA, STATUSES, Record, Run
from bench.spec import Grid, TimingPlan

LARGEST_INTEGER = 2**63 - 1


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
        peaks = [peaks_line(run.peaks)] if run.peaks else []
        lines = [run.header(), *peaks, *(record_line(record) for record in run.records)]
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


def peaks_line(peaks: Peaks) -> dict[str, Any]:
    """What the machine can do at most as a line of the file."""
    return {"kind": "peaks", "peaks": peaks.to_json()}


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
            schema=header["schema"],
        )
        _check_header(run)
        for line in lines[1:]:
            if line["kind"] == "record":
                record = Record(**{key: value for key, value in line.items() if key != "kind"})
                _check_record(record, run)
                run.records.append(record)
            elif line["kind"] == "peaks":
                run.peaks = Peaks.from_json(line["peaks"])
            elif line["kind"] == "end":
                run.is_complete = True
                run.parent_cpu_share = line.get("parent_cpu_share")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UserError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise UserError(f"{str(path)!r} is damaged ({cause[:200]}); measure again") from None
    return run


def _check_header(run: Run) -> None:
    """Raise TypeError where a header holds what no machine or model has."""
    texts = (run.origin, run.checkpoint, run.command, run.started, run.grid.model, run.grid.device)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("origin, checkpoint, command, started, model or device are no text")
    groups = (run.fingerprint, run.fingerprint.get("versions", {}), run.fingerprint.get("environment", {}))
    cards = run.fingerprint.get("gpus", [])
    if not all(isinstance(group, dict) for group in groups) or not isinstance(cards, list):
        raise TypeError("the fingerprint is none")


def _check_record(record: Record, run: Run) -> None:
    """Raise ValueError where a record is none of `run`'s, or holds what no measurement gives."""
    cell = (record.shape, record.contestant)
    if cell not in set(run.grid.cells()):
        raise ValueError(f"a record of {record.contestant.label} at {record.shape} is none of the planned cells")
    if any((other.shape, other.contestant) == cell for other in run.records):
        raise ValueError(f"two records of {record.contestant.label} at {record.shape}")
    if record.status not in STATUSES:
        raise ValueError(f"unknown status {record.status!r}")
    kinds = (record.rounds, record.device_rounds, record.enqueue_rounds, record.pipelined_rounds, record.naive_rounds)
    for rounds in kinds:
        if not all(isinstance(sample, int) and sample >= 0 for round_ in rounds for sample in round_):
            raise ValueError("samples that are no nanoseconds")
    if not isinstance(record.calls_per_sample, int) or record.calls_per_sample < 1:
        raise ValueError("samples of less than one call")
    if not set(record.unmet) <= set(CRITERIA):
        raise ValueError("an unknown stopping criterion")
    if record.status == "ok" and not (record.samples and all(record.rounds) and min(record.samples) > 0):
        raise ValueError("a measured cell without samples")
    if record.operations and not all(_is_count(record.operations.get(name)) for name in ("flops", "weight_bytes")):
        raise ValueError("operations that are no counts")
    objects = (record.parity, record.facts, record.memory, record.operations, record.conditions)
    if not all(isinstance(value, dict) for value in objects):
        raise TypeError("parity, facts, memory, operations or conditions are no objects")
    held = [record.memory.get("loaded", {}), record.memory.get("peak", {})]
    if not all(isinstance(group, dict) and all(map(_is_count, group.values())) for group in held):
        raise TypeError("memory that is no count of bytes")
    named = (record.facts.get(name) or {} for name in ("nodes_per_provider", "attention_kernels"))
    if not all(isinstance(group, dict) for group in named):
        raise TypeError("nodes or attention kernels that are no counts")
    numbers = [value for name, value in record.conditions.items() if name != "gpu"]
    numbers += [record.first_call_ns, record.load_seconds, record.export_seconds, record.parity.get("max_abs_error")]
    if not all(value is None or isinstance(value, int | float) for value in numbers):
        raise TypeError("a figure that is no number")
    if not isinstance(record.conditions.get("gpu", {}), dict):
        raise TypeError("conditions of a GPU that are no object")


def _no_number(name: str) -> None:
    """NaN and the infinities, which JSON does not have: an error of a broken backend's outputs may be one."""


def _bounded(digits: str) -> int:
    """An integer of 64 bits; anything longer raises, as no clock, count or seed gives it."""
    value = int(digits) if len(digits) < 25 else LARGEST_INTEGER + 1
    if abs(value) > LARGEST_INTEGER:
        raise OverflowError(f"{digits[:20]}… is beyond 64 bits")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _parsed(text: str, path: Path) -> Iterable[dict[str, Any]]:
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line, parse_constant=_no_number, parse_int=_bounded)
        except OverflowError as error:
            raise UserError(f"{str(path)!r} is damaged (line {number}: {error}); measure again") from None
        except (ValueError, RecursionError):
            if number == len(lines):  # no newline behind it: the writer was stopped half-way
                return
            raise UserError(
                f"line {number} of {str(path)!r} is not JSON; give a file that bench compare wrote"
            ) from None
        if not isinstance(parsed, dict):
            raise UserError(f"line {number} of {str(path)!r} is no JSON object; give a file that bench compare wrote")
        yield parsed
