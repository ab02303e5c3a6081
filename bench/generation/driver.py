"""The generations that `bench generate` times: one a batch and turn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

from bench.driver import PEAKS_OF_MEMORY, Append, Driver, Measured
from bench.generation.records import GenerationRecord, GenerationRun, record_line
from bench.machine import conditions
from bench.parity.references import GENERATION, Say
from bench.parity.verdict import badness, judge_generation, tolerance_of
from bench.preparation import Preparation
from bench.spec import Candidate, Shape
from bench.warnings import warnings_of


class Generations(Driver[int, GenerationRecord]):
    """One run of `generate`; a point is a batch size."""

    kinds_of_time = {  # noqa: RUF012 - a ClassVar of the base
        "rounds": "wall_ns",
        "first_token_rounds": "first_token_ns",
        "decode_rounds": "decode_ns",
    }

    def __init__(self, run: GenerationRun, prepared: Preparation, append: Append, say: Say) -> None:
        super().__init__(prepared, run.plan, append, say)
        self.run = run

    def points(self) -> Sequence[int]:
        return self.run.batches

    def recorded(self, point: int) -> Collection[Candidate]:
        return {record.contestant for record in self.run.records if record.batch == point}

    def begin_request(self, point: int) -> dict[str, Any]:
        first = self.prepared.judged_by.prompts()
        return {
            "op": "begin_generation",
            "plan": self.run.generation.to_json(),
            "inputs_plans": [first, {**first, "batch": point}],
            "timing": asdict(self.plan),
            "seed": self.grid.seed,
        }

    def turn_request(self, contestant: Candidate, cell: Measured) -> dict[str, Any]:
        return {"op": "generate"}

    def judge(self, point: int, contestant: Candidate, cell: Measured) -> None:
        references = self.prepared.judged_by
        tolerance = tolerance_of(contestant.precision, tf32=self.prepared.grid.tf32)
        request: dict[str, Any] = {"op": "judge_tokens", "reference": None, "yardstick": None}
        request |= {"atol": tolerance.atol, "rtol": tolerance.rtol}
        pair = references.pair(contestant.precision, GENERATION)
        is_judged = self.prepared.classes[contestant].spec.computes_the_model
        if is_judged and not isinstance(pair, str):
            request |= {"reference": str(pair[0].path), "yardstick": str(pair[1].path)}
        reply = self._ask(contestant, cell, request)
        if cell.error:
            return
        cell.facts |= reply["facts"]
        cell.memory |= {name: held for name, held in reply["memory"].items() if name in PEAKS_OF_MEMORY}
        cell.begun |= {"tokens": reply["tokens"], "cache_bytes": reply["cache_bytes"]}
        if is_judged and isinstance(pair, str):
            cell.parity = {"verdict": "unjudged", "reason": pair}
        elif is_judged:
            judged = {name: judge_generation(entry, tolerance) for name, entry in reply["cases"].items()}
            worst = max(judged, key=lambda name: badness(judged[name]))
            cell.parity = {"case": worst, **judged[worst], "cases": judged}

    def needs_more(self, point: int, smaller: int) -> bool:
        return point >= smaller

    def keep(self, outcome: GenerationRecord) -> dict[str, Any]:
        self.run.records.append(outcome)
        return record_line(outcome)

    def record(self, point: int, contestant: Candidate, cell: Measured) -> GenerationRecord:
        artifact = self.prepared.artifacts.get(contestant)
        times: dict[str, Any] = {} if cell.error else dict(cell.times)
        record = GenerationRecord(
            backend=contestant.backend,
            variant=contestant.variant,
            precision=contestant.precision,
            copy=contestant.copy,
            environment=contestant.environment,
            batch=point,
            status=cell.error.status if cell.error else "ok",
            reason=cell.error.reason if cell.error else "",
            way=self.prepared.generates_by(contestant),
            **times,
            unmet=[] if cell.error else cell.unmet(self.plan),
            warmup_ns=cell.begun.get("warmup_ns", []),
            first_call_ns=cell.begun.get("first_call_ns"),
            export_seconds=artifact.export_seconds if artifact else None,
            load_seconds=self.workers.load_seconds.get(contestant),
            tokens=cell.begun.get("tokens", []),
            parity=cell.parity,
            facts=cell.facts | {"versions": self.workers.versions.get(contestant, {})},
            failure=cell.error.details if cell.error else {},
            turns=cell.turns,
            memory=self._memory(contestant, cell),
            operations=self.prepared.operations(Shape(1, 1), contestant),
            conditions=conditions.summary(cell.conditions),
            repeat=self.run.command_of([contestant], [point]),
            judged=self.prepared.classes[contestant].spec.computes_the_model,
        )
        return replace(record, warnings=warnings_of(record, self.plan))

    def _memory(self, contestant: Candidate, cell: Measured) -> dict[str, Any]:
        found: dict[str, Any] = {"loaded": self.workers.memory.get(contestant, {}), "peak": cell.memory}
        if "cache_bytes" in cell.begun:
            found["cache"] = cell.begun["cache_bytes"]
        token = self.prepared.source.key_value_bytes(1, contestant.precision)
        return found if token is None else found | {"key_value_bytes_per_token": token}
