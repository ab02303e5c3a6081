"""Which cells would not fit in the host's memory, before one is tried."""

from __future__ import annotations

from bench import machine
from bench.machine import capacity
from bench.process.channel import WorkerError
from bench.process.pool import Pool
from bench.run.record import Point, Run
from bench.spec import Candidate


def foreseen(run: Run, pool: Pool, point: Point, candidate: Candidate) -> WorkerError | None:
    """Why a cell would exceed the host's memory, as far as its peaks at smaller shapes foretell it.

    "skipped" if it would even alone, "oom" if it would beside the others. A GPU's allocator refuses at once and
    harms nobody; the host's kernel first takes the memory of everything else, and may swap for hours.
    """
    shape = run.workload.shape_of(point)
    if run.options.kind != "cpu" or shape is None:
        return None
    peaks = {}
    for record in run.records:
        peak = record.memory.get("peak", {}).get("peak_process_bytes")
        if record.candidate == candidate and peak and (of_point := run.workload.shape_of(record.point)):
            peaks[of_point] = peak
    if capacity.foreseen_bytes(peaks, shape) is None:
        return None
    held = {who: pool.memory.get(who, {}).get("process_bytes", 0) for who in pool.loaded}
    free = machine.available_memory_bytes()
    if reason := capacity.refusal(peaks, shape, free + sum(held.values())):
        return WorkerError("skipped", reason)
    if reason := capacity.refusal(peaks, shape, free + held.get(candidate, 0)):
        return WorkerError("oom", reason)
    return None
