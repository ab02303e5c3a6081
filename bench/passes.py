"""The forward passes that `compare` times: one a shape, on inputs that stay on the device."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

from bench import doubling
from bench.budget import Spending
from bench.driver import PEAKS_OF_MEMORY, Append, Driver, Measured
from bench.machine import conditions
from bench.parity.references import Say
from bench.parity.verdict import tolerance_of, worst_case
from bench.preparation import Preparation
from bench.process.channel import WorkerError
from bench.records import Record, Run
from bench.runfile import record_line, spent_line
from bench.spec import Candidate, Shape, artifacts_option, command_of
from bench.warnings import warnings_of


class Passes(Driver[Shape, Record]):
    """One run of `compare`."""

    kinds_of_time = {  # noqa: RUF012 - a ClassVar of the base
        "rounds": "wall_ns",
        "device_rounds": "device_ns",
        "enqueue_rounds": "enqueue_ns",
        "pipelined_rounds": "pipelined_ns",
        "naive_rounds": "naive_ns",
    }

    def __init__(
        self, run: Run, prepared: Preparation, append: Append, say: Say, spending: Spending | None = None
    ) -> None:
        super().__init__(prepared, run.plan, append, say)
        self.run = run
        self.judged = set(self.grid.shapes)
        """Shapes whose references were made, or tried."""
        self.spending = spending or Spending(None, run.grid.shapes, lambda shape: 0.0)

    def points(self) -> Sequence[Shape]:
        return self.spending.order

    def begin_group(self, groups_left: int) -> None:
        self.spending.begin(groups_left)

    def _measure_point(self, point: Shape, group: Sequence[Candidate]) -> list[Record]:
        if reason := self._not_taken(point, group):
            return [self.record(point, who, Measured(error=WorkerError("skipped", reason))) for who in group]
        started = time.monotonic()
        records = super()._measure_point(point, group)
        self.spending.note(point, len(group), time.monotonic() - started)
        if self.run.budget is not None:
            self.run.spent_seconds = self.spending.spent_seconds
            self.append(spent_line(self.run.spent_seconds))
        return records

    def _not_taken(self, point: Shape, group: Sequence[Candidate]) -> str:
        """Why the run leaves `point` out for the contestants of `group`, or ""."""
        if not self.run.is_doubling:
            return self.spending.refusal(point, len(group))
        if reason := doubling.ending(self.run, point.length, point.batch, group):
            return reason
        if point not in self.judged:
            self._judge_further(point.batch, group)
        return ""

    def _judge_further(self, batch: int, group: Sequence[Candidate]) -> None:
        """Make the references of the next few batches, at each length that goes on."""
        lengths = [s.length for s in self.grid.shapes if s.batch == self.grid.shapes[0].batch]
        batches = [size for size in doubling.BATCHES if size >= batch][: doubling.TOGETHER]
        going_on = [length for length in lengths if not doubling.ending(self.run, length, batch, group)]
        shapes = [Shape(size, length) for size in batches for length in going_on]
        self.prepared.judge_further([shape for shape in shapes if shape not in self.judged])
        self.judged.update(shapes)

    def foreseen(self, contestant: Candidate, point: Shape) -> WorkerError | None:
        peaks = {
            record.shape: record.memory["peak"]["peak_process_bytes"]
            for record in self.run.records
            if record.contestant == contestant and record.memory.get("peak", {}).get("peak_process_bytes")
        }
        return self.workers.without_room(contestant, point, peaks)

    def recorded(self, point: Shape) -> Collection[Candidate]:
        return {record.contestant for record in self.run.records if record.shape == point}

    def begin_request(self, point: Shape) -> dict[str, Any]:
        begin = {"op": "begin", "inputs_plan": self.prepared.judged_by.inputs(point), "plan": asdict(self.plan)}
        begin["boundary"] = self.grid.boundary
        stored = self.prepared.judged_by.stored_inputs(point)
        if stored is not None:
            begin |= {"no_inputs": stored} if isinstance(stored, str) else {"stored_inputs": str(stored.path)}
        return begin

    def turn_request(self, contestant: Candidate, cell: Measured) -> dict[str, Any]:
        return {"op": "turn", "seconds": self.plan.turn_seconds}

    def judge(self, point: Shape, contestant: Candidate, cell: Measured) -> None:
        pair = self.prepared.judged_by.pair(contestant.precision, point)
        tolerance = tolerance_of(contestant.precision, tf32=self.prepared.grid.tf32)
        request = {"op": "judge", "reference": None, "yardstick": None, "atol": tolerance.atol, "rtol": tolerance.rtol}
        if self.prepared.classes[contestant].spec.computes_the_model and not isinstance(pair, str):
            request |= {"reference": str(pair[0].path), "yardstick": str(pair[1].path)}
        reply = self._ask(contestant, cell, request)
        cell.facts |= reply.get("facts", {})
        cell.memory |= {name: held for name, held in reply.get("memory", {}).items() if name in PEAKS_OF_MEMORY}
        if cell.error or not self.prepared.classes[contestant].spec.computes_the_model:
            return
        if isinstance(pair, str):
            cell.parity = {"verdict": "unjudged", "reason": pair}
        else:
            cell.parity = worst_case(reply["cases"], tolerance)

    def needs_more(self, point: Shape, smaller: Shape) -> bool:
        return point.batch >= smaller.batch and point.length >= smaller.length

    def keep(self, outcome: Record) -> dict[str, Any]:
        self.run.records.append(outcome)
        return record_line(outcome)

    def record(self, point: Shape, contestant: Candidate, cell: Measured) -> Record:
        artifact = self.prepared.artifacts.get(contestant)
        times: dict[str, Any] = {} if cell.error else dict(cell.times)
        record = Record(
            model=self.grid.model,
            backend=contestant.backend,
            variant=contestant.variant,
            precision=contestant.precision,
            device=self.grid.device,
            batch=point.batch,
            length=point.length,
            status=cell.error.status if cell.error else "ok",
            reason=cell.error.reason if cell.error else "",
            weights=self.prepared.source.weights,
            copy=contestant.copy,
            environment=contestant.environment,
            **times,
            calls_per_sample=cell.begun.get("calls_per_sample", 1),
            unmet=[] if cell.error else cell.unmet(self.plan),
            conditions=conditions.summary(cell.conditions),
            memory=self._memory(point, contestant, cell),
            operations=self.prepared.operations(point, contestant),
            warmup_ns=cell.begun.get("warmup_ns", []),
            first_call_ns=cell.begun.get("first_call_ns"),
            export_seconds=artifact.export_seconds if artifact else None,
            load_seconds=self.workers.load_seconds.get(contestant),
            parity=cell.parity,
            facts=cell.facts | {"versions": self.workers.versions.get(contestant, {})},
            failure=cell.error.details if cell.error else {},
            turns=cell.turns,
            repeat=command_of(self.grid, self.plan, [contestant], [point], artifacts_option(self.prepared.store.root)),
            judged=self.prepared.classes[contestant].spec.computes_the_model,
        )
        return replace(record, warnings=[*warnings_of(record, self.plan), *_without_padding(record)])

    def _memory(self, shape: Shape, contestant: Candidate, cell: Measured) -> dict[str, Any]:
        """What was held once the model was loaded, the peak of a call, and what a decoder's cache would take."""
        found: dict[str, Any] = {"loaded": self.workers.memory.get(contestant, {}), "peak": cell.memory}
        cache = self.prepared.source.key_value_bytes(shape.length, contestant.precision)
        return found if cache is None else found | {"key_value_bytes_per_sequence": cache}


def _without_padding(record: Record) -> list[str]:
    """A warning where a model that takes no mask was judged on no padded case."""
    cases = record.parity.get("cases", {"padded": {}})
    if record.length == 1 or "padded" in cases:
        return []
    return ["no padded case: the module takes no attention_mask, or makes its inputs itself; all positions are judged"]
