"""A worker's server: sequences joined into calls, shapes warmed up, one slice served. No workload's alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.process import abilities
from bench.process.queue import Batching, Slice, serve
from bench.spec import Shape

if TYPE_CHECKING:
    import numpy as np

    from backends.base import Backend

    Arrays = dict[str, np.ndarray[Any, Any]]

#: A wait sleeps until so long before its end, and spins from there on: a sleep was seen to end 0.1 ms late.
SPIN_NS = 200_000
#: A runtime that takes any shape is not warmed up for longer than this; the record says how many shapes it has met.
MOST_WARMUP_SECONDS = 60.0
#: Calls in a row before each rate, so that none begins on a cold machine.
WARMUP_SECONDS = 0.3
#: The call that is judged on what the last one of the last slice returned.
LAST = "last"
#: Distinct sequences of each length: rows of one call are not all alike.
SEQUENCES = 3
#: Length of a sequence, and which of the distinct ones of that length it is.
Sequence_ = tuple[int, int]


@dataclass
class Call:
    """What the last call was made of, and what it returned."""

    first: int
    """Place of its first request in the cell."""
    count: int
    shape: tuple[int, int]
    """Rows and length of the call's arrays, padding included."""
    outputs: Any


class Server:
    """One backend that serves requests, one call at a time."""

    def __init__(
        self,
        backend: Backend,
        ids: dict[str, list[list[int]]],
        batching: Batching,
        padded_to: dict[str, int],
        pad_token_id: int,
    ) -> None:
        """`ids` are the distinct sequences by length; `padded_to` what the longest of a call is padded to."""
        import numpy as np

        self.backend, self.batching, self.pad_token_id = backend, batching, pad_token_id
        self.has_static_shapes = abilities.has_static_shapes(backend)
        self.release = abilities.release_of(backend)
        self.padded_to = {int(length): padded for length, padded in padded_to.items()}
        self.drawn = {int(length): [np.array(row, np.int64) for row in rows] for length, rows in ids.items()}
        self.last_call: Call | None = None
        self.met = 0
        """Shapes that were called before anything was served."""
        self.first_calls_ns = 0
        self.facts: dict[str, Any] = {}
        """Of the very first call."""

    def meet(self, shapes: Sequence[Sequence[int]]) -> None:
        """Call every shape [rows, length] that was not met yet, largest first, then go round them for a moment."""
        if not self.met:
            abilities.keep_shapes(self.backend, len(shapes))
        started = time.monotonic()
        for rows, length in shapes[self.met :]:
            if not self.has_static_shapes and self.met and time.monotonic() - started > MOST_WARMUP_SECONDS:
                break
            call_ns = time.perf_counter_ns()
            outputs = self.call(self._full(rows, length))
            self.first_calls_ns += time.perf_counter_ns() - call_ns
            self.release(outputs)
            if not self.met:
                prepared = self.backend.prepare(self._full(rows, length))
                outputs, self.facts = abilities.watched(self.backend, prepared)
                self.backend.synchronize()
                self.release(outputs)
            self.met += 1
        self._go_round(shapes[: self.met])

    def _go_round(self, shapes: Sequence[Sequence[int]]) -> None:
        ended = time.monotonic() + WARMUP_SECONDS
        while True:
            for rows, length in reversed(shapes):
                self.release(self.call(self._full(rows, length)))
                if time.monotonic() > ended:
                    return

    def _full(self, rows: int, length: int) -> Arrays:
        """A batch of one shape without padding, if a sequence is that long; else of the longest, padded."""
        longest = max(own for own, padded in self.padded_to.items() if padded <= length)
        return self.joined([(longest, row % len(self.drawn[longest])) for row in range(rows)])

    def joined(self, sequences: Sequence[Sequence_]) -> Arrays:
        """`input_ids` and `attention_mask` of one call, int64 [rows, length]: sequences padded on the right.

        A runtime of static shapes gets the first row over again, up to a number that it was compiled for.
        """
        import numpy as np

        count = len(sequences)
        rows = self.batching.padded_rows(count) if self.has_static_shapes else count
        length = self.padded_to[max(own for own, _ in sequences)]
        ids = np.full((rows, length), self.pad_token_id, np.int64)
        mask = np.zeros((rows, length), np.int64)
        for place, (own, draw) in enumerate(sequences):
            ids[place, :own] = self.drawn[own][draw]
            mask[place, :own] = 1
        ids[count:], mask[count:] = ids[0], mask[0]
        return {"input_ids": ids, "attention_mask": mask}

    def call(self, batch: Arrays) -> Any:
        """One call from host arrays to outputs on the device."""
        outputs = self.backend.run(self.backend.prepare(batch))
        self.backend.synchronize()
        return outputs

    def serve(self, due_ns: list[int], shapes: Sequence[Sequence[int]], most_ns: int, place: int = 0) -> Slice:
        """Serve `shapes` ([rows, length]) due at `due_ns` after the start for `most_ns`, padding included; the first of
        them has its `place` in the cell.
        """
        members = [sequences_of(place + index, rows, length) for index, (rows, length) in enumerate(shapes)]
        self.forget()

        def call(first: int, count: int) -> None:
            self.forget()
            batch = self.joined([one for request in members[first : first + count] for one in request])
            rows, length = batch["input_ids"].shape
            self.last_call = Call(place + first, count, (rows, length), self.call(batch))

        rows_of_each = [rows for rows, _ in shapes]
        return serve(due_ns, rows_of_each, self.batching, call, time.perf_counter_ns, wait_until, most_ns)

    def forget(self) -> None:
        """Let go of the last call's outputs."""
        if self.last_call is not None:
            self.release(self.last_call.outputs)
            self.last_call = None


def sequences_of(place: int, rows: int, length: int) -> list[Sequence_]:
    """The sequences of the request at `place` in its cell: neighbours differ, and so do the rows of one request."""
    return [(length, (place + row) % SEQUENCES) for row in range(rows)]


def judged_calls(last: Sequence[Shape], served: Sequence[Shape], most_rows: int) -> dict[str, list[Sequence_]]:
    """The sequences of the calls that are judged: that of the cell's `last` request, and one more of others.

    It joins a sequence of the longest length with as many of the shortest as may be, or if none are joined, is a
    request of each. All their shapes were warmed up.
    """
    ordered = sorted(served, key=lambda shape: (shape.length, shape.batch))
    shortest, longest = ordered[0], ordered[-1]
    place = len(last) - 1
    calls = {LAST: sequences_of(place, last[place].batch, last[place].length)}
    if most_rows > 1 and min(shape.batch for shape in served) <= most_rows:
        of_shortest = sequences_of(1, most_rows - 1, shortest.length)
        return calls | {"joined": [*sequences_of(0, 1, longest.length), *of_shortest]}
    of_each = (("longest", longest), ("shortest", shortest))
    return calls | {name: sequences_of(0, one.batch, one.length) for name, one in of_each}


def wait_until(moment_ns: int) -> None:
    """Return at a reading of `time.perf_counter_ns`: asleep until shortly before, so that other threads may run."""
    left_ns = moment_ns - time.perf_counter_ns() - SPIN_NS
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
    while time.perf_counter_ns() < moment_ns:
        pass
