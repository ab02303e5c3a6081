"""What a worker answers about requests that arrive by themselves: shapes warmed up, a slice served, outputs judged."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.parity import judging
from bench.parity.inputs import InputPlan
from bench.process import abilities
from bench.process.queue import Batching, serve
from bench.serving.plan import SEQUENCES

if TYPE_CHECKING:
    import numpy as np

    from backends.base import Backend

    Arrays = dict[str, np.ndarray[Any, Any]]

#: The case that is judged on what the last call of the last slice returned.
LAST = "last"
#: A wait sleeps until so long before its end, and spins from there on: a sleep was seen to end 0.1 ms late.
SPIN_NS = 200_000
#: A runtime that takes any shape is not warmed up for longer than this; the record says how many shapes it has met.
MOST_WARMUP_SECONDS = 60.0
#: Calls in a row before each rate, so that none begins on a cold machine.
WARMUP_SECONDS = 0.3


@dataclass(frozen=True)
class DrawnSequence:
    """One sequence of a call: so long, and which of the drawn ones of that length."""

    length: int
    draw: int


@dataclass
class Call:
    """What the last call was made of, and what it returned."""

    first: int
    """Place of its first request in the slice."""
    count: int
    rows: int
    length: int
    """Of the call's arrays, padding included."""
    outputs: Any


class LoadRequests:
    """Requests: begin_load, serve, judge_load."""

    args: argparse.Namespace
    backend: Backend
    release: Callable[[Any], None]
    has_static_shapes: bool
    facts_before: dict[str, Any]

    def do_begin_load(
        self,
        ids: dict[str, list[list[int]]],
        shapes: list[list[int]],
        static_shapes: list[list[int]],
        batching: dict[str, Any],
        lengths: dict[str, int],
        pad_token_id: int,
        most_shapes: int,
    ) -> dict[str, Any]:
        """Take in sequences (`ids` by length) and call every shape ([rows, length], largest first) that can occur.

        `static_shapes` are those of a runtime that compiles each anew, for which rows are filled up to powers of two.
        `lengths` are what the longest of a call is padded to. What was warmed up for the same requests stays so.
        """
        import numpy as np

        from backends.base import UnsupportedError

        self.release = abilities.release_of(self.backend)
        self.has_static_shapes = abilities.has_static_shapes(self.backend)
        shapes = static_shapes if self.has_static_shapes else shapes
        if self.has_static_shapes and len(shapes) > most_shapes:
            raise UnsupportedError(
                f"{self.backend.spec.name} would compile {len(shapes)} shapes, above --most-shapes {most_shapes}; "
                "round lengths up with --bucket 16 or more, or raise it"
            )
        served = (shapes, batching, lengths)
        self.batching, self.pad_token_id = Batching(**batching), pad_token_id
        self.padded_to = {int(length): padded for length, padded in lengths.items()}
        self.drawn = {int(length): [np.array(row, np.int64) for row in rows] for length, rows in ids.items()}
        self.last_call: Call | None = None
        if getattr(self, "begun_for", None) != served:
            self.begun_for, self.met_shapes = served, 0
            self.first_calls_ns, self.facts_of_first_call = 0, dict[str, Any]()
            abilities.keep_shapes(self.backend, len(shapes))
        gc.collect()
        gc.disable()
        started = time.monotonic()
        for rows, length in shapes[self.met_shapes :]:
            if not self.has_static_shapes and self.met_shapes and time.monotonic() - started > MOST_WARMUP_SECONDS:
                break
            self._meet(rows, length)
            self.met_shapes += 1
        self._go_round([*map(tuple, shapes[: self.met_shapes])])
        self.facts_before = self.backend.facts() | self.facts_of_first_call
        return {
            "first_calls_ns": self.first_calls_ns,
            "shapes": len(shapes),
            "warmed": self.met_shapes,
            "facts": self.facts_before,
        }

    def _meet(self, rows: int, length: int) -> None:
        """Make the first call of a shape, and have the very first one watched."""
        call_ns = time.perf_counter_ns()
        outputs = self._call_from_host(self._full(rows, length))
        self.first_calls_ns += time.perf_counter_ns() - call_ns
        self.release(outputs)
        if not self.facts_of_first_call:
            prepared = self.backend.prepare(self._full(rows, length))
            outputs, self.facts_of_first_call = abilities.watched(self.backend, prepared)
            self.backend.synchronize()
            self.release(outputs)

    def _go_round(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Go round the shapes, smallest first, for a moment."""
        ended = time.monotonic() + WARMUP_SECONDS
        while True:
            for rows, length in reversed(shapes):
                self.release(self._call_from_host(self._full(rows, length)))
                if time.monotonic() > ended:
                    return

    def _full(self, rows: int, length: int) -> Arrays:
        """A batch of one shape without padding, where a sequence is that long; else the longest, padded."""
        longest = max(own for own, padded in self.padded_to.items() if padded <= length)
        return self._joined([DrawnSequence(longest, row % len(self.drawn[longest])) for row in range(rows)])

    def _joined(self, sequences: Sequence[DrawnSequence]) -> Arrays:
        """`input_ids` and `attention_mask` of one call, int64 [rows, length]: sequences padded on the right.

        A runtime of static shapes gets further rows, the first one over again, up to a number that it was compiled for.
        """
        import numpy as np

        count = len(sequences)
        rows = self.batching.padded_rows(count) if self.has_static_shapes else count
        length = self.padded_to[max(one.length for one in sequences)]
        ids = np.full((rows, length), self.pad_token_id, np.int64)
        mask = np.zeros((rows, length), np.int64)
        for place, one in enumerate(sequences):
            ids[place, : one.length] = self.drawn[one.length][one.draw]
            mask[place, : one.length] = 1
        ids[count:], mask[count:] = ids[0], mask[0]
        return {"input_ids": ids, "attention_mask": mask}

    def _call_from_host(self, batch: Arrays) -> Any:
        """One call from host arrays to outputs where they lie."""
        outputs = self.backend.run(self.backend.prepare(batch))
        self.backend.synchronize()
        return outputs

    def do_serve(self, due_ns: list[int], shapes: list[list[int]], most_seconds: float) -> dict[str, Any]:
        """Serve one slice: requests of `shapes` ([rows, length]) that are due at `due_ns` after its start.

        Joining and padding are in a call's time, as a server has to do them too. `cpu_seconds` is what this process
        used. What is not begun within `most_seconds` is not served.
        """
        members = [sequences_of(place, *shape) for place, shape in enumerate(shapes)]
        self.last_call = None

        def call(first: int, count: int) -> None:
            if self.last_call is not None:
                outputs, self.last_call = self.last_call.outputs, None
                self.release(outputs)
                del outputs
            batch = self._joined([one for request in members[first : first + count] for one in request])
            rows, length = batch["input_ids"].shape
            self.last_call = Call(first, count, rows, length, self._call_from_host(batch))

        cpu_started = time.process_time()
        most_ns = round(most_seconds * 1e9)
        rows = [rows for rows, _ in shapes]
        served = serve(due_ns, rows, self.batching, call, time.perf_counter_ns, wait_until, most_ns)
        return {
            "due_ns": due_ns,
            "waits_ns": served.waits_ns,
            "latency_ns": served.latency_ns,
            "cpu_seconds": time.process_time() - cpu_started,
        }

    def do_judge_load(self, cases: dict[str, dict[str, Any]], atol: float, rtol: float) -> dict[str, Any]:
        """Compare sequences of the last call that was served, and of one more call a case, with their references.

        Each case has `rows` to judge; "last" those of the last request, as shape and place in its slice, and others
        the `sequences` of their call. A row has its reference by itself and without padding, which must not matter.
        """
        facts = self.backend.facts()
        if "graphs" in facts:
            facts["recompiles_while_timing"] = facts["graphs"] - self.facts_before["graphs"]
        figures: dict[str, Any] = {}
        for name, case in sorted(cases.items(), key=lambda entry: entry[0] != LAST):
            sequences = [DrawnSequence(*one) for one in case["sequences"]]
            first_row, call = 0, self.last_call if name == LAST else None
            if name == LAST and call is not None and call.first + call.count - 1 == case["place"]:
                first_row = sum(case["rows_before"][call.first : case["place"]])
                shape, outputs = (call.rows, call.length), self.backend.fetch(call.outputs)
            else:
                batch = self._joined(sequences)
                facts["judged_by_further_calls"] = facts.get("judged_by_further_calls", 0) + 1
                shape, outputs = batch["input_ids"].shape, self.backend.fetch(self._call_from_host(batch))
            if name == LAST:
                self.last_call = call = None
            figures[name] = [
                found for row in case["rows"] for found in self._figures_of(row, first_row, shape, outputs, atol, rtol)
            ]
        self.last_call = None
        return {"cases": figures, "facts": facts}

    def _figures_of(
        self, row: dict[str, Any], first_row: int, shape: Sequence[int], outputs: Arrays, atol: float, rtol: float
    ) -> list[dict[str, Any]]:
        """Figures of one row of a call: `row` in its request, `draw`, its reference and yardstick, and its plan."""
        plan = InputPlan.from_json(row["inputs_plan"])
        taken = {}
        for output, array in outputs.items():
            axes = (shape[0],) if output in plan.whole_outputs else tuple(shape)
            if array.shape[: len(axes)] != axes:
                return [
                    {"mismatch": f"{output} has shape {list(array.shape)} for a call of {list(axes)}", "compared": 0}
                ]
            place = first_row + row["row"]
            own = array[place : place + 1]
            taken[output] = own if output in plan.whole_outputs else own[:, : plan.length]
        return judging.figures(
            taken, plan, case_of(row["draw"]), Path(row["reference"]),
            yardstick=row["yardstick"], precision=self.args.precision, atol=atol, rtol=rtol,
        )  # fmt: skip


def sequences_of(place: int, rows: int, length: int) -> list[DrawnSequence]:
    """The sequences of the request at `place` in its slice: neighbours differ, and so do the rows of one request."""
    return [DrawnSequence(length, (place + row) % SEQUENCES) for row in range(rows)]


def case_of(draw: int) -> str:
    """Name of a stored reference's case, of one of the sequences of a length."""
    return f"sequence{draw}"


def wait_until(moment_ns: int) -> None:
    """Return at a reading of `time.perf_counter_ns`: asleep until shortly before, so that other threads may run."""
    left_ns = moment_ns - time.perf_counter_ns() - SPIN_NS
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
    while time.perf_counter_ns() < moment_ns:
        pass
