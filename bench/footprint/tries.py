"""Calls on batches that may not fit, each in a worker that is kept within a limit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from backends.base import parse_out_of_memory
from bench.footprint.boundary import Boundary
from bench.footprint.results import Try
from bench.preparation import Preparation
from bench.process.channel import Worker, WorkerError
from bench.spec import Candidate, Shape
from bench.workers import start_worker

#: Signals by which a process ends itself; another, such as SIGKILL, came from outside.
ENDED_ITSELF = ("SIGABRT", "SIGSEGV", "SIGBUS")


class AboveLimitError(Exception):
    """The loaded model alone takes more than the limit: `taken_bytes`, None where it did not even load."""

    def __init__(self, taken_bytes: int | None, reason: str) -> None:
        super().__init__(reason)
        self.taken_bytes = taken_bytes


@dataclass
class Tries:
    """What each batch came to, for one contestant at one length; every try is the first call of a worker of its own.

    What earlier calls left in a heap or an arena changes what fits, in both directions, and would make it depend on the
    order of the search.
    """

    prepared: Preparation
    contestant: Candidate
    length: int
    limit_bytes: int
    timeout_seconds: float
    taken_bytes: int | None = None
    made: list[Try] = field(default_factory=list)
    refusals: dict[int, WorkerError] = field(default_factory=dict)
    """How each batch that did not fit was refused."""

    def fits(self, batch: int) -> bool:
        """True when one call on `batch` sequences goes through.

        A worker that dies without saying why is tried once more. Where it ends itself again, that is taken for want of
        memory, and kept as the refusal: ONNX Runtime was seen to abort in `free` once an allocation was refused.
        Raises WorkerError for any failure that is not about memory, and AboveLimitError.
        """
        started = time.monotonic()
        try:
            figures = self._call(batch)
        except WorkerError as error:
            if not error.is_gone or error.status == "timeout":
                raise
            self.prepared.say(f"{self.contestant.label}: {error.reason}; trying batch {batch} once more")
            figures = self._call_again(batch)
        found = figures or {}
        if "grad" not in self.prepared.classes[self.contestant].spec.variants:
            found.pop("stored_bytes", None)  # says something only against a call with gradients
        seconds = round(time.monotonic() - started, 3)
        self.made.append(Try(batch, figures is not None, seconds, found.get("peak_bytes"), found.get("stored_bytes")))
        return figures is not None

    def unfinished(self) -> Boundary:
        """What is known where a failure ended the search."""
        too_large = min((one.batch for one in self.made if not one.fits), default=None)
        fitted = {one.batch for one in self.made if one.fits}
        largest = max((batch for batch in fitted if too_large is None or batch < too_large), default=0)
        return Boundary(largest, too_large, "failure", False, largest == max(fitted, default=0))

    def _call_again(self, batch: int) -> dict[str, Any] | None:
        try:
            return self._call(batch)
        except WorkerError as error:
            if error.details.get("signal") not in ENDED_ITSELF:
                raise
            self.refusals[batch] = error
            return None

    def _call(self, batch: int) -> dict[str, Any] | None:
        """The figures of one call in a fresh worker, or None where it ran out of memory."""
        worker = start_worker(self.prepared, self.contestant)
        try:
            self._load(worker)
            plan = self.prepared.judged_by.inputs(Shape(batch, self.length))
            return worker.request({"op": "try_batch", "inputs_plan": plan}, self.timeout_seconds)
        except WorkerError as error:
            if ran_out(error):
                self.refusals[batch] = error
                return None
            raise
        finally:
            worker.kill()

    def _load(self, worker: Worker) -> None:
        on_cpu = self.prepared.grid.device == "cpu"
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


def ran_out(error: WorkerError) -> bool:
    """True where memory ran out: the runtime said so, the kernel killed the worker for it, or its last words say it.

    Below a limit some libraries end the process when they get no memory.
    """
    words = " ".join(error.details.get("stderr", []))
    return error.status == "oom" or (error.is_gone and parse_out_of_memory(words) is not None)
