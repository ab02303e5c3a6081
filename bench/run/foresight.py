"""Cells that need not be tried: what is known of a candidate, and what its smaller cells foretell of its memory."""

from __future__ import annotations

from bench import machine
from bench.machine import capacity
from bench.process.channel import WorkerError
from bench.process.pool import Pool
from bench.run.judging import Judging
from bench.run.record import Point, Run
from bench.run.schedule import State
from bench.spec import Candidate, Shape


class Foresight:
    """What the cells of one run that were measured say of those that were not."""

    def __init__(self, run: Run, state: State, pool: Pool, judging: Judging) -> None:
        self.run, self.workload, self.state, self.pool, self.judging = run, run.workload, state, pool, judging
        self.out_of_memory: dict[Candidate, list[Point]] = {}
        """Points at which each candidate ran out of memory."""

    def outcome(self, point: Point, candidate: Candidate) -> WorkerError | None:
        """Why this cell need not be tried, if so."""
        if found := self.pool.known_outcome(candidate):
            return found
        for smaller in self.out_of_memory.get(candidate, []):
            if self.workload.is_larger(point, smaller):
                return WorkerError("skipped", f"a smaller cell, {smaller}, ran out of memory")
        deferred = (at for (at, who), cell in self.state.open.items() if who == candidate and cell.is_deferred)
        if any(self.workload.is_larger(point, smaller) for smaller in deferred):
            return WorkerError("oom", "a smaller cell ran out of memory beside the others")
        return self._foreseen(point, candidate)

    def _foreseen(self, point: Point, candidate: Candidate) -> WorkerError | None:
        """Why a cell would exceed the host's memory, as far as its peaks at smaller shapes foretell it: "skipped" if it
        would even alone, "oom" if it would beside the others. A GPU's allocator refuses at once and harms nobody; the
        host's kernel first takes the memory of everything else, and may swap for hours.
        """
        shape = self.workload.shape_of(point)
        if self.run.options.kind != "cpu" or shape is None:
            return None
        peaks = self._peaks(candidate)
        held = {who: self.pool.memory.get(who, {}).get("process_bytes", 0) for who in self.pool.loaded}
        free = machine.available_memory_bytes()
        if reason := capacity.refusal(peaks, shape, free + sum(held.values())):
            return WorkerError("skipped", reason)
        if reason := capacity.refusal(peaks, shape, free + held.get(candidate, 0)):
            return WorkerError("oom", reason)
        return None

    def _peaks(self, candidate: Candidate) -> dict[Shape, int]:
        """The most that a candidate's process held in one call, in bytes, by shape."""
        peaks = dict[Point, int](self.judging.peaks(candidate))
        for record in self.run.records:
            if record.candidate == candidate and (peak := record.memory.get("peak", {}).get("peak_process_bytes")):
                peaks[record.point] = peak
        shapes = ((self.workload.shape_of(point), peak) for point, peak in peaks.items())
        return {shape: peak for shape, peak in shapes if shape is not None}
