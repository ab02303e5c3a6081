"""A record as a flat row: the columns of the CSV, and of `Run.rows` and `Run.frame`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import statistics

if TYPE_CHECKING:
    from bench.records import Record, Run

#: New ones are appended, so that a reader by position goes on working.
COLUMNS = (
    "model", "backend", "variant", "precision", "device", "batch", "length", "status", "median_ms", "q1_ms", "q3_ms",
    "samples", "ms_per_sample", "tokens_per_second", "speedup", "parity", "max_abs_error", "export_s", "load_s",
    "first_call_ms", "reason", "device_median_ms", "task", "threads", "weights",
    "copy", "boundary", "median_low_ms", "median_high_ms", "p90_ms", "p95_ms", "p99_ms", "outliers", "drift", "rounds",
    "calls_per_sample", "unmet", "speedup_low", "speedup_high", "verdict", "enqueue_median_ms", "pipelined_median_ms",
    "naive_median_ms", "host_share", "gflop", "floor_ms", "floor_share", "implausible", "tainted", "parameters_bytes",
    "allocated_bytes", "reserved_bytes", "process_bytes", "device_process_bytes", "peak_process_bytes",
    "peak_allocated_bytes", "key_value_bytes_per_sequence", "us_per_step", "published_ms", "published_verdict",
    "published_us_per_step", "environment", "tf32", "peak_device_process_bytes",
)  # fmt: skip
_OF_THE_RECORD = (
    "model", "backend", "variant", "precision", "device", "batch", "length", "status", "reason", "weights", "copy",
    "environment",
)  # fmt: skip


def row(run: Run, record: Record) -> dict[str, Any]:
    """`record` under the names of `COLUMNS`; None where it has no such figure."""
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= {name: getattr(record, name) for name in _OF_THE_RECORD}
    values |= {"task": run.grid.task, "threads": run.grid.threads, "boundary": run.grid.boundary}
    values["tf32"] = run.grid.tf32
    values |= {"parity": record.verdict or None, "max_abs_error": record.parity.get("max_abs_error")}
    values |= {"export_s": record.export_seconds, "load_s": record.load_seconds, "samples": len(record.samples)}
    if record.first_call_ns is not None:
        values["first_call_ms"] = record.first_call_ns / 1e6
    loaded, peak = record.memory.get("loaded", {}), record.memory.get("peak", {})
    values |= {name: held for name, held in (loaded | peak).items() if name in COLUMNS}
    values["key_value_bytes_per_sequence"] = record.memory.get("key_value_bytes_per_sequence")
    if published := run.published_row(record.shape):
        values |= {"published_ms": published.median_ms, "published_verdict": published.verdict}
        values["published_us_per_step"] = published.us_per_step
    if record.samples:
        values |= _times(record) | _against_others(run, record) | _limits(run, record)
    return values


def _times(record: Record) -> dict[str, Any]:
    q1, median, q3 = (value / 1e6 for value in statistics.quartiles(record.samples))
    found: dict[str, Any] = {"median_ms": median, "q1_ms": q1, "q3_ms": q3, "ms_per_sample": median / record.batch}
    found["us_per_step"] = 1e3 * median / record.length
    found["tokens_per_second"] = record.batch * record.length / (median / 1e3)
    if interval := statistics.median_interval(record.rounds):
        found |= {"median_low_ms": interval.low / 1e6, "median_high_ms": interval.high / 1e6}
    for rank in (90, 95, 99):
        value = record.percentile(rank)
        found[f"p{rank}_ms"] = None if value is None else value / 1e6
    found |= {"outliers": len(statistics.outliers(record.samples)), "drift": statistics.drift(record.rounds)}
    found |= {"rounds": len(record.rounds), "calls_per_sample": record.calls_per_sample}
    found["unmet"] = " ".join(record.unmet)
    for kind in ("device", "enqueue", "pipelined", "naive"):
        if samples := statistics.pooled(getattr(record, f"{kind}_rounds")):
            found[f"{kind}_median_ms"] = statistics.median(samples) / 1e6
    return found | {"host_share": record.host_share}


def _against_others(run: Run, record: Record) -> dict[str, Any]:
    ratio = run.ratio(record)
    if ratio is None:
        return {}
    found = {"speedup": run.speedup(record), "verdict": ratio.verdict}
    if ratio.interval is not None:
        found |= {"speedup_low": ratio.interval.low, "speedup_high": ratio.interval.high}
    return found


def _limits(run: Run, record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {"tainted": bool(run.taint(record))}
    if record.operations:
        found["gflop"] = record.operations["flops"] / 1e9
    if floor := run.floor(record):
        found |= {"floor_ms": floor.ns / 1e6, "floor_share": run.floor_share(record)}
        found["implausible"] = run.is_implausible(record)
    return found
