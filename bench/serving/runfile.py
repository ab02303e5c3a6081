"""The file of requests served at a rate: JSON Lines, a header and one line a record.

Schema history
1  (0.1.0)  {"kind": "load"} header with grid, plan, load (rate, rules, service levels), traffic and fingerprint;
            {"kind": "record"} a contestant at a rate; {"kind": "end"} when all was served and every search has ended.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.damage import check_figures, check_objects, check_texts, damage_told, is_count
from bench.linesfile import read_lines
from bench.records import STATUSES
from bench.serving.plan import LoadPlan, traffic_from_json
from bench.serving.records import SCHEMA, LoadRecord, LoadRun
from bench.spec import Grid, TimingPlan

WRITER = "bench load"


def record_line(record: LoadRecord) -> dict[str, Any]:
    """A record as its line of the file."""
    return {"kind": "record", **asdict(record)}


def read_load(path: str | Path) -> LoadRun:
    """The run in a file; a torn last line is left out. Raises UserError when it is no such file."""
    lines = read_lines(Path(path), "load", SCHEMA, WRITER)
    header = lines[0]
    with damage_told(path):
        run = LoadRun(
            grid=Grid.from_json(header["grid"]),
            plan=TimingPlan(**header["plan"]),
            load=LoadPlan.from_json(header["load"]),
            traffic=traffic_from_json(header["traffic"]),
            fingerprint=header["fingerprint"],
            origin=header["origin"],
            checkpoint=header["checkpoint"],
            command=header["command"],
            started=header["started"],
            path=Path(path),
        )
        _check_header(run)
        for line in lines[1:]:
            if line["kind"] == "record":
                record = LoadRecord(**{key: value for key, value in line.items() if key != "kind"})
                _check_place(record, run)
                _check_record(record)
                run.records.append(record)
            elif line["kind"] == "end":
                run.is_complete = True
                run.parent_cpu_share = line.get("parent_cpu_share")
    return run


def _check_header(run: LoadRun) -> None:
    texts = (run.origin, run.checkpoint, run.command, run.started, run.grid.model, run.grid.device)
    check_texts(texts, run.fingerprint)


def _check_place(record: LoadRecord, run: LoadRun) -> None:
    """Raise ValueError where a record is none of `run`'s."""
    if record.contestant not in run.grid.contestants:
        raise ValueError(f"a record of {record.contestant.label}, which is none of the contestants")
    if run.record(record.contestant, record.step) is not None:
        raise ValueError(f"two records of {record.contestant.label} at step {record.step}")
    if record.step and run.load.search_requests is None:
        raise ValueError("a step of no search")
    if not is_count(record.step) or record.requests != run.load.requests_of(record.step):
        raise ValueError("a record of another number of requests")
    if record.status == "ok" and len(record.rounds_ns) != run.load.slices_of(record.step):
        raise ValueError("a record of another number of slices")


def _check_record(record: LoadRecord) -> None:
    """Raise ValueError or TypeError where a record holds what no measurement gives."""
    if record.status not in STATUSES:
        raise ValueError(f"unknown status {record.status!r}")
    if not isinstance(record.rate, int | float) or not record.rate > 0:
        raise ValueError("a rate that is none")
    slices = list(zip(record.due_ns, record.waits_ns, record.rounds_ns, strict=True))
    if (record.status == "ok") != bool(slices):
        raise ValueError("served requests without latencies, or latencies of some that were not")
    if sum(len(due) for due in record.due_ns) != (record.requests if slices else 0):
        raise ValueError("another number of requests than was planned")
    for due, waits, latencies in slices:
        _check_slice(due, waits, latencies)
    if not all(is_count(count) for count in (record.requests, record.shapes, record.warmed, record.copy)):
        raise ValueError("requests or shapes that are no counts")
    check_objects(record.parity, record.facts, record.failure, record.memory, record.conditions)
    figures = [record.first_calls_ns, record.load_seconds, record.export_seconds, record.parity.get("max_abs_error")]
    figures += [record.facts.get(name) for name in ("graphs", "compile_seconds", "recompiles_while_timing")]
    check_figures(record.conditions, *figures)


def _check_slice(due: list[int], waits: list[int], latencies: list[int]) -> None:
    if not latencies or len(waits) != len(latencies) or len(latencies) > len(due):
        raise ValueError("waits, latencies and requests that do not go together")
    if not all(is_count(ns) for ns in (*due, *waits, *latencies)):
        raise ValueError("times that are no nanoseconds")
    if any(later < earlier for earlier, later in pairwise(due)):
        raise ValueError("requests that are due before the one before")
    if any(wait >= latency for wait, latency in zip(waits, latencies, strict=True)):
        raise ValueError("a call that took no time")
