"""The file of a run: JSON Lines, a header and one line a record; written as records come, and read again.

Schema history
1  (0.1.0)  {"kind": "run"} header with grid, plan, fingerprint; {"kind": "record"} a cell;
            {"kind": "end"} when all planned cells have their record.
2  (0.1.0)  records gain copy, calls_per_sample, enqueue_, pipelined_ and naive_rounds, unmet, memory, operations and
            conditions; a plan target_precision, warmup_most_seconds and naive_timer; a grid boundary;
            {"kind": "peaks"} lines hold what the machine can do at most, and the last one counts.
3  (0.1.0)  the header may have preset, published (figures of others) and budget; {"kind": "spent"} lines hold the
            seconds of a budget that were spent so far, and the last one counts.
4  (0.1.0)  a grid may have batches "auto": its shapes are all that may be taken, and those beyond the last doubling are
            skipped with a reason that says so (bench/doubling.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import doubling
from bench.budget import Budget
from bench.damage import check_figures, check_objects, damage_told, is_count
from bench.linesfile import LinesFile, read_lines
from bench.machine.roofline import Peaks
from bench.records import SCHEMA, STATUSES, Record, Run
from bench.spec import CRITERIA, Grid, TimingPlan
from bench.workloads import published


class RunFile:
    """The open file of a run; every line is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        go_on = f"go on with --resume {path}, or give another --output"
        self._lines = LinesFile(path, when_it_exists=go_on, when_it_is_full="free some space and use --resume")

    def create(self, run: Run) -> None:
        """Start a new file with the header; raises UserError when it exists or cannot be made."""
        self._lines.create(run.header())

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one JSON line and wait until it is on disk; raises BenchError when it cannot be."""
        self._lines.append(line)

    def rewrite(self, run: Run) -> None:
        """Replace the file with `run` as it is in memory, written aside and renamed."""
        peaks = [peaks_line(run.peaks)] if run.peaks else []
        spent = [spent_line(run.spent_seconds)] if run.budget else []
        self._lines.rewrite([run.header(), *peaks, *spent, *(record_line(record) for record in run.records)])


def record_line(record: Record) -> dict[str, Any]:
    """A record as its line of the file."""
    return {"kind": "record", **asdict(record)}


def peaks_line(peaks: Peaks) -> dict[str, Any]:
    """What the machine can do at most as a line of the file."""
    return {"kind": "peaks", "peaks": peaks.to_json()}


def spent_line(seconds: float) -> dict[str, Any]:
    """What was spent of a budget so far as a line of the file."""
    return {"kind": "spent", "seconds": round(seconds, 3)}


def read_run(path: Path) -> Run:
    """The run in a file; a torn last line is left out. Raises UserError when it is no run."""
    lines = read_lines(path, "run", SCHEMA, "bench compare")
    header = lines[0]
    with damage_told(path):
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
            preset=header.get("preset", {}),
            published=header.get("published", {}),
            budget=Budget.from_json(header["budget"]) if header.get("budget") else None,
        )
        _check_header(run)
        for line in lines[1:]:
            if line["kind"] == "record":
                record = Record(**{key: value for key, value in line.items() if key != "kind"})
                _check_record(record, run)
                run.records.append(record)
            elif line["kind"] == "peaks":
                run.peaks = Peaks.from_json(line["peaks"])
            elif line["kind"] == "spent":
                run.spent_seconds = float(line["seconds"])
            elif line["kind"] == "end":
                run.is_complete = True
                run.parent_cpu_share = line.get("parent_cpu_share")
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
    if not isinstance(run.preset, dict) or not all(isinstance(text, str) for text in run.preset.values()):
        raise TypeError("the preset is none")
    if run.grid.batches not in ("", doubling.AUTO):
        raise ValueError("batches that are neither given nor auto")
    if run.published:
        published.check(run.published)
    if run.budget and not set(run.budget.kept) <= set(run.grid.shapes):
        raise ValueError("a budget for shapes that were not planned")


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
    if record.operations and not all(is_count(record.operations.get(name)) for name in ("flops", "weight_bytes")):
        raise ValueError("operations that are no counts")
    check_objects(record.parity, record.facts, record.memory, record.operations, record.conditions)
    held = [record.memory.get("loaded", {}), record.memory.get("peak", {})]
    if not all(isinstance(group, dict) and all(map(is_count, group.values())) for group in held):
        raise TypeError("memory that is no count of bytes")
    named = (record.facts.get(name) or {} for name in ("nodes_per_provider", "attention_kernels"))
    if not all(isinstance(group, dict) for group in named):
        raise TypeError("nodes or attention kernels that are no counts")
    check_figures(
        record.conditions,
        record.first_call_ns,
        record.load_seconds,
        record.export_seconds,
        record.parity.get("max_abs_error"),
    )
