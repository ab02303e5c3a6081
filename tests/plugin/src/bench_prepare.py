"""A workload of a third party: what it costs to hand a batch to a runtime, before it computes anything."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench import options
from bench.columns import Column
from bench.options import CommonOptions, option
from bench.parity import inputs
from bench.parity.cell import Cell
from bench.parity.inputs import InputPlan
from bench.run import columns
from bench.run.record import Run, Turn
from bench.run.schedule import Enough, Grid, Schedule
from bench.run.workload import Workload
from bench.spec import Candidate

if TYPE_CHECKING:
    from bench.parity.reference import Inputs
    from exporters.sources import ModelSource


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(CommonOptions):
    """Options of `bench prepare`."""

    command: ClassVar[str] = "prepare"
    summary: ClassVar[str] = "Time to hand a batch to a runtime, without computing on it."

    batches: tuple[int, ...] = option("Batch sizes.", options.sizes, default=(1, 8))
    length: int = option("Tokens of each sequence.", options.whole(1, 1_000_000, 16), default=16)
    rounds: int = option("Turns of each candidate.", options.whole(1, 1000, 10), default=10)


@dataclass(frozen=True, order=True)
class Handed:
    """Sequences that are handed over at once."""

    batch: int

    def __str__(self) -> str:
        return f"batch {self.batch}"


class Prepare(Workload):
    """Times `prepare` alone, and judges the outputs of one call on what it prepared."""

    name = "prepare"
    Options = PrepareOptions
    point_type = Handed
    point_noun = "batch"
    cell = "bench_prepare:PrepareCell"
    columns: ClassVar[tuple[Column, ...]] = (
        *columns.point_columns(Handed), *columns.TIMES, *columns.SPEEDUP, columns.PARITY,
    )  # fmt: skip

    options: PrepareOptions

    def points(self) -> Sequence[Handed]:
        return [Handed(batch) for batch in self.options.batches]

    def schedule(self) -> Schedule:
        return Grid(lambda point: Enough(self.options.rounds))

    def begin(self, point: Handed, source: ModelSource) -> dict[str, Any]:
        return {"plan": self._plan(point, source).to_json()}

    def turn(self, point: Handed, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        return {"samples": 20}

    def cases(self, point: Handed, source: ModelSource) -> Mapping[str, Inputs]:
        from bench.parity.reference import Inputs

        return {f"{point.batch}×{self.options.length}": Inputs(self._plan(point, source))}

    def _plan(self, point: Handed, source: ModelSource) -> InputPlan:
        return inputs.plan_of(source, point.batch, self.options.length, self.options.seed, ("timed",))

    def heading(self, run: Run) -> Iterable[str]:
        yield f"{self.options.length} tokens a sequence; median time to hand a batch over, from host arrays"


class PrepareCell(Cell):
    """Hands the same batch over again and again."""

    def begin(self, plan: dict[str, Any]) -> dict[str, Any]:
        self.inputs = self.batch(InputPlan.from_json(plan))
        once = {"first_call_ns": self._sample_ns()}
        self.facts_before = self.backend.facts()
        return {"once": once, "facts": self.facts_before}

    def turn(self, samples: int) -> dict[str, Any]:
        return {"times_ns": {"wall": [self._sample_ns() for _ in range(samples)]}}

    def _sample_ns(self) -> int:
        started = time.perf_counter_ns()
        self.backend.prepare(self.inputs)
        self.backend.synchronize()
        return time.perf_counter_ns() - started
