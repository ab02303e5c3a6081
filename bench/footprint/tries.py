"""Calls on batches that may not fit, each in a worker that is kept within a limit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from backends.base import parse_out_of_memory
from bench.channel import Worker, WorkerError
from bench.footprint.boundary import Boundary
from bench.preparation import Preparation
from bench.spec import Contestant, Shape
from bench.worker import start

#: The larger of the two batches between which memory per sequence is taken.
BATCH_OF_A_SLOPE = 8


class AboveLimitError(Exception):
    """The loaded model alone takes more than the limit: `taken_bytes`, None where it did not even load."""

    def __init__(self, taken_bytes: int | None, reason: str) -> None:
        super().__init__(reason)
        self.taken_bytes = taken_bytes


def start_worker(prepared: Preparation, contestant: Contestant) -> Worker:
    """The process of one contestant, with nothing in it yet."""
    artifact = prepared.artifacts.get(contestant)
    return start(
        contestant.backend,
        contestant.variant,
        contestant.precision,
        prepared.grid.device,
        artifact.path if artifact else None,
        prepared.grid.threads,
        prepared.store.root,
    )


@dataclass
class Tries:
    """The worker of one contestant at one length, and what each batch came to.

    A batch counts as too large only in a worker that ran nothing before: what earlier calls left in a heap or an arena
    must not be read as the backend's limit. A worker that ran out of memory is not used again.
    """

    prepared: Preparation
    contestant: Contestant
    length: int
    limit_bytes: int
    timeout_seconds: float
    taken_bytes: int | None = None
    made: list[list[Any]] = field(default_factory=list)
    """Each as [batch, fits, seconds]."""
    refusals: dict[int, WorkerError] = field(default_factory=dict)
    """How each batch that did not fit was refused."""
    _worker: Worker | None = None
    _has_run: bool = False

    def fits(self, batch: int) -> bool:
        """True when one call on `batch` sequences goes through.

        Raises WorkerError for any failure that is not about memory, and AboveLimitError.
        """
        started = time.monotonic()
        answer = self._call(batch)
        if answer is None and self._has_run:
            self.close()
            answer = self._call(batch)
        if answer is None:
            self.close()
        self._has_run = True
        self.made.append([batch, answer is not None, round(time.monotonic() - started, 3)])
        return answer is not None

    def per_sequence(self, largest: int) -> dict[str, float]:
        """`peak_bytes` and `stored_bytes` that one more sequence takes, between two fresh workers' first calls.

        Empty where only batches below 2 fit; a figure that the device does not tell is left out.
        """
        larger = min(largest, BATCH_OF_A_SLOPE)
        smaller = larger // 2
        if not smaller:
            return {}
        readings = []
        for batch in (smaller, larger):
            self.close()
            readings.append(self._call(batch))
        self.close()
        if None in readings:
            return {}
        first, second = readings
        assert first is not None and second is not None
        names = ("peak_bytes", "stored_bytes")
        return {
            name: (second[name] - first[name]) / (larger - smaller)
            for name in names
            if name in first and name in second
        }

    def unfinished(self) -> Boundary:
        """What is known where a failure ended the search."""
        largest = max((batch for batch, fits, _ in self.made if fits), default=0)
        too_large = min((batch for batch, fits, _ in self.made if not fits), default=None)
        return Boundary(largest, too_large, "failure", False, too_large is None or largest < too_large)

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._worker is not None:
            self._worker.kill()
        self._worker, self._has_run = None, False

    def _call(self, batch: int) -> dict[str, Any] | None:
        """The figures of one call, or None where it ran out of memory."""
        worker = self._loaded()
        plan = self.prepared.judged_by.inputs(Shape(batch, self.length))
        try:
            return worker.request({"op": "try_batch", "inputs_plan": plan}, self.timeout_seconds)
        except WorkerError as error:
            if ran_out(error):
                self.refusals[batch] = error
                return None
            raise

    def _loaded(self) -> Worker:
        if self._worker is not None:
            return self._worker
        on_cpu = self.prepared.grid.device == "cpu"
        worker = self._worker = start_worker(self.prepared, self.contestant)
        worker.request({"op": "hello"}, self.timeout_seconds)
        options = {} if on_cpu else {"memory_limit_bytes": self.limit_bytes}
        try:
            held = worker.request({"op": "load", "options": options}, self.timeout_seconds)["memory"]
        except WorkerError as error:
            if ran_out(error):
                raise AboveLimitError(None, error.reason) from None
            raise
        if on_cpu:
            held = worker.request({"op": "survey"}, self.timeout_seconds)
        self.taken_bytes = held.get("data_bytes" if on_cpu else "reserved_bytes")
        if self.taken_bytes is not None and self.taken_bytes >= self.limit_bytes:
            raise AboveLimitError(self.taken_bytes, "")
        if on_cpu:
            worker.request({"op": "limit_memory", "limit_bytes": self.limit_bytes}, self.timeout_seconds)
        return worker


def ran_out(error: WorkerError) -> bool:
    """True where memory ran out: the runtime said so, the kernel killed the worker for it, or its last words say it.

    Below a limit some libraries end the process when they get no memory.
    """
    words = " ".join(error.details.get("stderr", []))
    return error.status == "oom" or (error.is_gone and parse_out_of_memory(words) is not None)
