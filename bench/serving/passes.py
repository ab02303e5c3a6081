"""The driver's slices of a schedule: every contestant at the rate asked for, then each at those of its search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.driver import Append, Driver, Measured
from bench.machine import conditions
from bench.parity.references import Say
from bench.parity.verdict import tolerance_of, worst_case
from bench.preparation import Preparation
from bench.run.search import MOST_STEPS
from bench.serving.plan import called_shapes, schedule
from bench.serving.records import LoadRecord, LoadRun
from bench.serving.references import LoadReferences
from bench.serving.requests import LAST, sequences_of
from bench.serving.runfile import record_line
from bench.spec import Candidate, Shape

#: A slice ends when it has lasted this many times as long as its requests took to arrive, and some seconds; what is
#: still queued then was too much.
MOST_OF_A_SLICE, SECONDS_BESIDE = 2.0, 1.0


@dataclass(frozen=True)
class Step:
    """What a contestant is measured at: the rate that was asked for (0), or a step of its own search."""

    number: int

    def __str__(self) -> str:
        return f"step {self.number} of the search" if self.number else "the rate asked for"


class LoadPasses(Driver[Step, LoadRecord]):
    """One run of `bench load`; `repeat` is the command line that serves a contestant at a rate again."""

    kinds_of_time = {"rounds": "latency_ns", "waits": "waits_ns", "due": "due_ns"}  # noqa: RUF012 - a ClassVar

    def __init__(
        self,
        run: LoadRun,
        prepared: Preparation,
        references: LoadReferences,
        repeat: Callable[[Candidate, float, int], str],
        append: Append,
        say: Say,
    ) -> None:
        super().__init__(prepared, run.plan, append, say)
        self.run, self.references, self.repeat = run, references, repeat
        self.step = Step(0)
        self.positions = prepared.source.positions
        shapes = sorted(run.traffic.counts)
        lengths = {shape.length for shape in shapes}
        self.begin: dict[str, Any] = {
            "op": "begin_load",
            "ids": {str(length): references.sequences(length) for length in lengths},
            "shapes": self._called_shapes(shapes, is_static=False),
            "static_shapes": self._called_shapes(shapes, is_static=True),
            "batching": asdict(run.load.rule),
            "lengths": {str(length): run.load.padded(length, self.positions) for length in lengths},
            "pad_token_id": prepared.source.pad_token_id,
            "most_shapes": run.load.most_shapes,
        }

    def _called_shapes(self, shapes: Sequence[Shape], is_static: bool) -> list[list[int]]:
        found = called_shapes(shapes, self.run.load, self.positions, is_static)
        return [[shape.batch, shape.length] for shape in found]

    def points(self) -> Sequence[Step]:
        steps = MOST_STEPS if self.run.load.search_requests is not None else 0
        return [Step(number) for number in range(steps + 1)]

    def recorded(self, point: Step) -> Collection[Candidate]:
        return [who for who in self.grid.contestants if self._is_done(who, point)]

    def _is_done(self, contestant: Candidate, point: Step) -> bool:
        """True where there is nothing to serve at this step: it has its record, or the search has ended before it."""
        if self.run.record(contestant, point.number) is not None:
            return True
        return point.number > 0 and self.run.next_rate(contestant) is None

    def _rate(self, contestant: Candidate, point: Step) -> float:
        """Requests a second; until the step has its record, the search's next rate does not change."""
        if point.number == 0:
            return self.run.load.rate
        rate = self.run.next_rate(contestant)
        assert rate is not None
        return rate

    def begin_request(self, point: Step) -> dict[str, Any]:
        self.step = point
        return self.begin

    def turn_request(self, contestant: Candidate, cell: Measured) -> dict[str, Any]:
        due_ns, shapes = self._slice(contestant, self.step, len(cell.rounds))
        most_seconds = MOST_OF_A_SLICE * due_ns[-1] / 1e9 + SECONDS_BESIDE
        return {
            "op": "serve",
            "due_ns": due_ns,
            "shapes": [[shape.batch, shape.length] for shape in shapes],
            "most_seconds": most_seconds,
        }

    def _slice(self, contestant: Candidate, point: Step, number: int) -> tuple[list[int], list[Shape]]:
        load = self.run.load
        rate = self._rate(contestant, point)
        found = schedule(self.run.traffic, rate, load.slice_of(point.number), self.grid.seed, number)
        return found.due_ns, found.shapes

    def _is_enough(self, taken: int, cells: Sequence[Measured]) -> bool:
        return taken >= self.run.load.slices_of(self.step.number)

    def judge(self, point: Step, contestant: Candidate, cell: Measured) -> None:
        computes = self.prepared.classes[contestant].spec.computes_the_model
        tolerance = tolerance_of(contestant.precision, tf32=self.prepared.grid.tf32)
        cases = self._cases(point, contestant) if computes else {}
        judgeable = {} if isinstance(cases, str) else cases
        request = {"op": "judge_load", "cases": judgeable, "atol": tolerance.atol, "rtol": tolerance.rtol}
        reply = self._ask(contestant, cell, request)
        cell.facts |= reply.get("facts", {})
        if cell.error or not computes:
            return
        if isinstance(cases, str):
            cell.parity = {"verdict": "unjudged", "reason": cases}
        else:
            cell.parity = worst_case(reply["cases"], tolerance)

    def _cases(self, point: Step, contestant: Candidate) -> dict[str, Any] | str:
        """What is judged, or why nothing can be: the last request that was served, and one more call of others.

        That call joins a sequence of the longest length with as many of the shortest as may be; where none are joined,
        it is a request of each of the two. All their shapes are among those that were warmed up.
        """
        _, shapes = self._slice(contestant, point, self.run.load.slices_of(point.number) - 1)
        place, last = len(shapes) - 1, shapes[-1]
        requests = sorted(self.run.traffic.counts, key=lambda shape: (shape.length, shape.batch))
        shortest, longest = requests[0], requests[-1]
        most_rows = self.run.load.rule.most_rows or 1
        cases = {LAST: (sequences_of(place, last.batch, last.length), last.batch)}
        if most_rows > 1 and min(shape.batch for shape in requests) <= most_rows:
            joined = [*sequences_of(0, 1, longest.length), *sequences_of(1, most_rows - 1, shortest.length)]
            cases["joined"] = (joined, most_rows)
        else:
            for name, one in (("longest", longest), ("shortest", shortest)):
                cases[name] = (sequences_of(0, one.batch, one.length), one.batch)
        found: dict[str, Any] = {}
        for name, (sequences, count) in cases.items():
            judged = []
            for row in sorted({0, count // 2, count - 1}):
                by = self.references.row(contestant.precision, sequences[row].length, row, sequences[row].draw)
                if isinstance(by, str):
                    return by
                judged.append(by)
            found[name] = {"sequences": [[one.length, one.draw] for one in sequences], "rows": judged}
        found[LAST] |= {"place": place, "rows_before": [shape.batch for shape in shapes]}
        return found

    def needs_more(self, point: Step, smaller: Step) -> bool:
        return True

    def keep(self, outcome: LoadRecord) -> dict[str, Any]:
        self.run.records.append(outcome)
        return record_line(outcome)

    def record(self, point: Step, contestant: Candidate, cell: Measured) -> LoadRecord:
        artifact = self.prepared.artifacts.get(contestant)
        rate = self._rate(contestant, point)
        return LoadRecord(
            model=self.grid.model,
            backend=contestant.backend,
            variant=contestant.variant,
            precision=contestant.precision,
            device=self.grid.device,
            step=point.number,
            rate=rate,
            requests=self.run.load.requests_of(point.number),
            status=cell.error.status if cell.error else "ok",
            reason=cell.error.reason if cell.error else "",
            copy=contestant.copy,
            environment=contestant.environment,
            weights=self.prepared.source.weights,
            due_ns=[] if cell.error else cell.times["due"],
            waits_ns=[] if cell.error else cell.times["waits"],
            rounds_ns=[] if cell.error else cell.rounds,
            first_calls_ns=cell.begun.get("first_calls_ns"),
            shapes=cell.begun.get("shapes", 0),
            warmed=cell.begun.get("warmed", 0),
            export_seconds=artifact.export_seconds if artifact else None,
            load_seconds=self.workers.load_seconds.get(contestant),
            parity=cell.parity,
            facts=cell.facts | {"versions": self.workers.versions.get(contestant, {})},
            failure=cell.error.details if cell.error else {},
            turns=cell.turns,
            repeat=self.repeat(contestant, rate, point.number),
            judged=self.prepared.classes[contestant].spec.computes_the_model,
            memory={"loaded": self.workers.memory.get(contestant, {})},
            conditions=conditions.summary(cell.conditions),
        )
