"""Toy workloads for tests of the pipeline: one that races, one whose turns need a process each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bench import options
from bench.options import CommonOptions, option
from bench.parity.cell import Cell
from bench.process.channel import WorkerError
from bench.run.record import Point, Turn
from bench.run.schedule import Enough, Grid, Schedule, State
from bench.run.workload import Workload
from bench.spec import Candidate


@dataclass(frozen=True, order=True)
class Lap:
    """A number that says nothing."""

    number: int

    def __str__(self) -> str:
        return f"lap {self.number}"


@dataclass(frozen=True, kw_only=True)
class ToyOptions(CommonOptions):
    """Options of the toys."""

    command: ClassVar[str] = "toy"

    points: int = option("Points.", options.whole(1, 100, 2), default=2)
    turns: int = option("Turns of each cell.", options.whole(1, 100, 3), default=3)


class Race(Schedule):
    """One turn at every point in order, then turns go back to the earliest point, until each cell has its turns."""

    def __init__(self, points: int, turns: int) -> None:
        self.points, self.turns = points, turns

    def next_turns(self, state: State) -> Sequence[tuple[Point, Candidate]]:
        open_ = [(Lap(n), one) for n in range(self.points) for one in state.left(Lap(n))]
        if not open_:
            return []
        least = min(len(state.cell(*cell).turns) for cell in open_)
        point = next(point for point, one in open_ if len(state.cell(point, one).turns) == least)
        return [(at, one) for at, one in open_ if at == point]

    def is_open(self, state: State, point: Point, candidate: Candidate) -> bool:
        return len(state.cell(point, candidate).turns) < self.turns

    def refusal(self, state: State, point: Point) -> str:
        return ""


class Racing(Workload):
    """Goes back to earlier points as long as cells are open."""

    name = "racing"
    Options = ToyOptions
    point_type = Lap
    point_noun = "lap"
    cell = "tests.run.toys:ToyCell"

    options: ToyOptions

    def points(self) -> Sequence[Lap]:
        return [Lap(number) for number in range(self.options.points)]

    def schedule(self) -> Schedule:
        return Race(self.options.points, self.options.turns)

    def begin(self, point: Lap, source: Any) -> dict[str, Any]:
        return {"number": point.number}

    def turn(self, point: Lap, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        return {"count": len(taken)}


class InRounds(Racing):
    """Takes rounds until there are enough."""

    name = "in-rounds"

    def schedule(self) -> Schedule:
        return Grid(lambda point: Enough(self.options.turns))


class Fresh(Racing):
    """Needs a process a turn; running out of memory is a finding."""

    name = "fresh"
    fresh_process = True

    def survived(
        self, point: Lap, candidate: Candidate, taken: Sequence[Turn], error: WorkerError
    ) -> dict[str, Any] | None:
        return {"figures": {"survived": error.status}} if error.status == "oom" else None


#: Rows of a call at even and at odd points: the faults of `null` strike from 4 rows on.
ROWS = (1, 4)


class ToyCell(Cell):
    """Notes in which process it is and how often it was asked."""

    def begin(self, number: int) -> dict[str, Any]:
        self.number = number
        self.prepared = self.backend.prepare({"ids": [0] * ROWS[number % 2]})
        return {"once": {"first_call_ns": 1}, "figures": {"number": number}}

    def turn(self, count: int) -> dict[str, Any]:
        self.backend.run(self.prepared)
        return {"times_ns": {"wall": [1000 + count]}, "figures": {"pid": os.getpid(), "number": self.number}}
