"""The driver's whole passes over a corpus: every contestant in every packing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

from bench.corpora.plan import Packing, PaddedBatch
from bench.corpora.records import CorpusRecord, CorpusRun
from bench.corpora.references import CorpusReferences
from bench.corpora.runfile import record_line
from bench.driver import PEAKS_OF_MEMORY, Append, Driver, Measured
from bench.machine import conditions
from bench.parity.references import Say
from bench.parity.verdict import tolerance_of, worst_case
from bench.preparation import Preparation
from bench.spec import Candidate


class CorpusPasses(Driver[Packing, CorpusRecord]):
    """One run of `bench corpus`; `repeat` is the command line that measures one cell again."""

    kinds_of_time = {"rounds": "wall_ns"}  # noqa: RUF012 - a ClassVar of the base

    def __init__(
        self,
        run: CorpusRun,
        prepared: Preparation,
        references: CorpusReferences,
        packed: dict[Packing, list[PaddedBatch]],
        repeat: Callable[[Candidate, Packing], str],
        append: Append,
        say: Say,
    ) -> None:
        super().__init__(prepared, run.plan, append, say)
        self.run, self.references, self.packed, self.repeat = run, references, packed, repeat

    def points(self) -> Sequence[Packing]:
        return self.run.corpus_plan.packings

    def recorded(self, point: Packing) -> Collection[Candidate]:
        return {record.contestant for record in self.run.records if record.packing == point}

    def begin_request(self, point: Packing) -> dict[str, Any]:
        return {
            "op": "begin_corpus",
            "batches": [{"rows": self.references.rows(batch), "length": batch.length} for batch in self.packed[point]],
            "pad_token_id": self.prepared.source.pad_token_id,
            "plan": asdict(self.plan),
            "boundary": self.grid.boundary,
            "most_shapes": self.run.corpus_plan.most_shapes,
        }

    def turn_request(self, contestant: Candidate, cell: Measured) -> dict[str, Any]:
        return {"op": "turn", "seconds": 0.0}  # one pass, however short

    def _is_enough(self, taken: int, cells: Sequence[Measured]) -> bool:
        return taken >= self.plan.rounds

    def judge(self, point: Packing, contestant: Candidate, cell: Measured) -> None:
        pair = self.references.found_for(contestant.precision, point)
        tolerance = tolerance_of(contestant.precision, tf32=self.prepared.grid.tf32)
        request: dict[str, Any] = {"op": "judge_corpus", "cases": self.references.cases(str(point))}
        request |= {"reference": None, "yardstick": None, "atol": tolerance.atol, "rtol": tolerance.rtol}
        computes = self.prepared.classes[contestant].spec.computes_the_model
        if computes and not isinstance(pair, str):
            request |= {"reference": str(pair[0].path), "yardstick": str(pair[1].path)}
        reply = self._ask(contestant, cell, request)
        cell.facts |= reply.get("facts", {})
        cell.memory |= {name: held for name, held in reply.get("memory", {}).items() if name in PEAKS_OF_MEMORY}
        if cell.error or not computes:
            return
        if isinstance(pair, str):
            cell.parity = {"verdict": "unjudged", "reason": pair}
        else:
            cell.parity = worst_case(reply["cases"], tolerance)

    def needs_more(self, point: Packing, smaller: Packing) -> bool:
        rows, length = max(self.packed[smaller], key=lambda batch: batch.positions).shape
        return any(batch.shape[0] >= rows and batch.shape[1] >= length for batch in self.packed[point])

    def keep(self, outcome: CorpusRecord) -> dict[str, Any]:
        self.run.records.append(outcome)
        return record_line(outcome)

    def record(self, point: Packing, contestant: Candidate, cell: Measured) -> CorpusRecord:
        artifact = self.prepared.artifacts.get(contestant)
        batches = self.packed[point]
        lengths = self.run.corpus.lengths
        return CorpusRecord(
            model=self.grid.model,
            backend=contestant.backend,
            variant=contestant.variant,
            precision=contestant.precision,
            device=self.grid.device,
            batch=point.batch,
            order=point.order,
            status=cell.error.status if cell.error else "ok",
            sentences=len(lengths),
            tokens=sum(lengths),
            positions=sum(batch.positions for batch in batches),
            batches=len(batches),
            shapes=len({batch.shape for batch in batches}),
            reason=cell.error.reason if cell.error else "",
            copy=contestant.copy,
            environment=contestant.environment,
            weights=self.prepared.source.weights,
            rounds_ns=[] if cell.error else [ns for round_ in cell.rounds for ns in round_],
            calls_per_sample=cell.begun.get("calls_per_sample", 1),
            first_calls_ns=cell.begun.get("first_calls_ns"),
            warmup_ns=cell.begun.get("warmup_ns", []),
            export_seconds=artifact.export_seconds if artifact else None,
            load_seconds=self.workers.load_seconds.get(contestant),
            parity=cell.parity,
            facts=cell.facts | {"versions": self.workers.versions.get(contestant, {})},
            failure=cell.error.details if cell.error else {},
            turns=cell.turns,
            repeat=self.repeat(contestant, point),
            judged=self.prepared.classes[contestant].spec.computes_the_model,
            memory={"loaded": self.workers.memory.get(contestant, {}), "peak": cell.memory},
            conditions=conditions.summary(cell.conditions),
        )
