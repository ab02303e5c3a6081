"""What a worker answers about a corpus: batches prepared, whole passes warmed up, a pass's outputs judged."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import memory
from bench.parity import inputs, judging
from bench.parity.inputs import InputPlan
from bench.process import abilities, timing
from bench.spec import TimingPlan

if TYPE_CHECKING:
    import numpy as np

    from backends.base import Backend

#: The case that is judged on what a timed pass returned.
LAST = "last"


class CorpusRequests:
    """Requests: begin_corpus, judge_corpus, evaluate_corpus; passes are timed by turns as calls are."""

    args: argparse.Namespace
    backend: Backend
    release: Callable[[Any], None]
    boundary: str
    step: timing.Step
    plan: TimingPlan
    warm: timing.WarmUp
    facts_before: dict[str, Any]

    def do_begin_corpus(
        self, batches: list[dict[str, Any]], pad_token_id: int, plan: dict[str, Any], boundary: str, most_shapes: int
    ) -> dict[str, Any]:
        """Put batches (`rows` of ids, `length`) on the device, call each shape once, watch a call, warm passes up."""
        from backends.base import UnsupportedError

        self.plan, self.boundary = TimingPlan(**plan), boundary
        self.batches = [padded(batch["rows"], batch["length"], pad_token_id) for batch in batches]
        shapes = [batch["input_ids"].shape for batch in self.batches]
        firsts = {shape: shapes.index(shape) for shape in shapes}
        if abilities.has_static_shapes(self.backend) and len(firsts) > most_shapes:
            raise UnsupportedError(
                f"{self.backend.spec.name} would compile {len(firsts)} shapes, above --most-shapes {most_shapes}; "
                "round lengths up with --bucket 16 or more, use --order bucketed, or raise it"
            )
        abilities.keep_shapes(self.backend, len(firsts))
        self.release = abilities.release_of(self.backend)
        self.prepared = [self.backend.prepare(batch) for batch in self.batches]
        self.step = timing.Step(self._pass if boundary == "device" else self._pass_from_host, self.backend.synchronize)
        gc.collect()
        gc.disable()
        first_ns, watched = 0, None
        for place in firsts.values():
            first_ns += self._call_once(place)
            if watched is None:
                outputs, watched = abilities.watched(self.backend, self.prepared[place])
                self.backend.synchronize()
                self.release(outputs)
                del outputs
        self.warm = timing.warm_up(self.step, self.plan)
        self.facts_before = self.backend.facts() | (watched or {})
        return {"first_calls_ns": first_ns, "shapes": len(firsts), "facts": self.facts_before, **self.warm.to_json()}

    def _call_once(self, place: int) -> int:
        self.backend.synchronize()
        started = time.perf_counter_ns()
        outputs = self.backend.run(self.prepared[place])
        self.backend.synchronize()
        spent = time.perf_counter_ns() - started
        self.release(outputs)
        return spent

    def _pass(self) -> Any:
        """Start every batch in order; each one's outputs are let go before the next. Returns the last one's."""
        run, release, outputs = self.backend.run, self.release, None
        for prepared in self.prepared:
            if outputs is not None:
                release(outputs)
            outputs = None
            outputs = run(prepared)
        return outputs

    def _pass_from_host(self) -> Any:
        """The same from host arrays to host arrays, copies included."""
        outputs = None
        for batch in self.batches:
            outputs = self.backend.fetch(self.backend.run(self.backend.prepare(batch)))
        return outputs

    def do_judge_corpus(
        self, cases: dict[str, dict[str, Any]], reference: str | None, yardstick: str | None, atol: float, rtol: float
    ) -> dict[str, Any]:
        """Compare the last timed pass's last outputs, and those of one more call of other batches, with the reference.

        `cases` are places of batches with their input plans. The peak of memory is that of the largest one's call.
        """
        facts = self.backend.facts()
        if "graphs" in facts:
            facts["recompiles_while_timing"] = facts["graphs"] - self.facts_before["graphs"]
        figures: dict[str, Any] = {}
        held: dict[str, int] = {}
        for name, case in sorted(cases.items(), key=lambda entry: entry[0] != LAST):
            timed = self._timed_outputs() if name == LAST else None
            if timed is None or case["is_largest"]:
                outputs, peak = self._call_for_peak(case["place"])
                held = peak if case["is_largest"] else held
            outputs = outputs if timed is None else timed
            if reference is not None and yardstick is not None:
                plan = InputPlan.from_json(case["inputs_plan"])
                figures[name] = judging.figures(
                    outputs, plan, name, Path(reference),
                    yardstick=yardstick, precision=self.args.precision, atol=atol, rtol=rtol,
                )  # fmt: skip
        return {"cases": figures, "facts": facts, "memory": held}

    def _timed_outputs(self) -> dict[str, Any]:
        """What the last timed pass's last batch came to, on the host."""
        outputs, self.step.outputs = self.step.outputs, None
        found: dict[str, Any] = outputs if self.boundary == "host" else self.backend.fetch(outputs)
        return found

    def _call_for_peak(self, place: int) -> tuple[dict[str, Any], dict[str, int]]:
        """Outputs of one more call of a batch, and the memory that was held at its peak."""
        self.backend.synchronize()
        abilities.reset_peak(self.backend)
        is_of_this_call = memory.set_peak_back()
        outputs = self.backend.run(self.prepared[place])
        self.backend.synchronize()
        held = memory.resident_bytes() | abilities.held(self.backend)
        if not is_of_this_call:
            held.pop("peak_process_bytes", None)
        return self.backend.fetch(outputs), held

    def do_evaluate_corpus(self, cases: dict[str, dict[str, Any]], pad_token_id: int, folder: str) -> dict[str, Any]:
        """Write the inputs of each case's batch, and this backend's outputs for its judged rows, into `folder`."""
        import numpy as np

        for name, case in cases.items():
            plan = InputPlan.from_json(case["inputs_plan"])
            batch = padded(case["rows"], plan.length, pad_token_id)
            np.savez(judging.inputs_file(Path(folder), name), **batch)  # type: ignore[arg-type]
            rows, positions = inputs.judged_rows(plan), inputs.judged_positions(plan)
            outputs = judging.run(self.backend, {key: array[rows] for key, array in batch.items()})
            judged = {key: judging.at(array, positions, key in plan.whole_outputs) for key, array in outputs.items()}
            np.savez(judging.outputs_file(Path(folder), name), **judged)
        return {"cases": sorted(cases)}


def padded(rows: Sequence[Sequence[int]], length: int, pad_token_id: int) -> Mapping[str, np.ndarray[Any, Any]]:
    """`input_ids` and `attention_mask`, int64 [rows, length], each row padded on the right."""
    import numpy as np

    ids = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
