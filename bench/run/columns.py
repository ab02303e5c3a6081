"""Columns that the rows of every workload begin with."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from bench.columns import Column

if TYPE_CHECKING:
    from bench.run.record import Record, Run

PARITY_STYLES = {"broken": "red", "lossy": "yellow", "unjudged": "yellow"}


def point_columns(point: type) -> tuple[Column, ...]:
    """One column a field of a point."""
    return tuple(
        Column(one.name, lambda run, record, name=one.name: getattr(record.point, name))  # type: ignore[misc]
        for one in fields(point)
    )


def _option(name: str) -> Column:
    return Column(name, lambda run, record: getattr(run.options, name))


def _candidate(name: str, help: str = "") -> Column:
    return Column(name, lambda run, record: getattr(record.candidate, name), help=help)


def _memory(group: str, name: str, help: str = "") -> Column:
    return Column(name, lambda run, record: (record.memory.get(group) or {}).get(name), help=help)


def _first_call_ms(run: Run, record: Record) -> Any:
    ns = record.once.first_call_ns
    return None if ns is None else ns / 1e6


def _disturbed(run: Run, record: Record) -> Any:
    return bool(run.disturbances(record)) if record.turns else None


PARITY = Column(
    "parity",
    lambda run, record: record.verdict or None,
    title="parity",
    style=lambda run, record: PARITY_STYLES.get(record.verdict, ""),
    is_left=True,
    help="verdict against the float64 reference",
)
MAX_ABS_ERROR = Column(
    "max_abs_error",
    lambda run, record: record.parity.get("max_abs_error"),
    title="max |Δ|",
    show=lambda value: f"{value:.1e}",
    drop=70,
    help="largest absolute difference from the float64 reference",
)
COMMON_COLUMNS = (
    Column("model", lambda run, record: run.model.name),
    _candidate("backend"),
    _candidate("variant"),
    _candidate("precision"),
    _candidate("copy"),
    _candidate("environment"),
    _option("device"),
    _option("threads"),
    _option("tf32"),
    Column("task", lambda run, record: run.model.task),
    Column("weights", lambda run, record: run.model.weights),
    Column("status", lambda run, record: record.status),
    Column("reason", lambda run, record: record.reason),
    Column("export_s", lambda run, record: record.once.export_seconds, help="seconds of the export"),
    Column("load_s", lambda run, record: record.once.load_seconds, help="seconds of loading the artifact"),
    Column("first_call_ms", _first_call_ms, help="first call, compilation included, ms"),
    PARITY,
    MAX_ABS_ERROR,
    Column("disturbed", _disturbed, help="true if other work, the hypervisor or a hot device took part"),
    _memory("loaded", "parameters_bytes"),
    _memory("loaded", "allocated_bytes"),
    _memory("loaded", "reserved_bytes"),
    _memory("loaded", "process_bytes"),
    _memory("loaded", "device_process_bytes"),
    _memory("peak", "peak_process_bytes"),
    _memory("peak", "peak_allocated_bytes"),
    _memory("peak", "peak_device_process_bytes"),
)
