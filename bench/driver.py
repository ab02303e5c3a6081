"""The driver: starts the workers, hands out turns, writes each record as it comes.

It imports no framework and starts no CUDA context, and while a worker is timing it only waits. What a cell is (a
forward pass, a generation, a pass over a corpus) is a subclass's: its requests, what is judged, and its record.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from bench import statistics
from bench.machine import conditions
from bench.parity.references import Say
from bench.preparation import Preparation
from bench.process.channel import WorkerError
from bench.spec import CRITERIA, Candidate, TimingPlan
from bench.workers import STRIKES, Workers

#: Pause before a turn: ONNX Runtime's idle threads were seen to spin for up to 50 ms after a call.
REST_SECONDS = 0.06
#: Figures of a worker's memory that belong to one cell.
PEAKS_OF_MEMORY = (
    "peak_process_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "peak_device_process_bytes",
)  # fmt: skip
#: Writes one line of the results' file; it is on disk when that returns.
Append = Callable[[Mapping[str, Any]], None]
#: What every contestant is measured at in turn: a shape, a batch.
Point = TypeVar("Point")
#: What becomes of a cell.
Outcome = TypeVar("Outcome")


@dataclass
class Measured:
    """What is known of one cell while it is being measured."""

    times: dict[str, list[list[int]]] = field(default_factory=dict)
    """Nanoseconds by kind of time and round; `rounds` are those of the headline."""
    begun: dict[str, Any] = field(default_factory=dict)
    """The reply to the request that began the cell: first call, warm-up."""
    facts: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    conditions: list[dict[str, Any]] = field(default_factory=list)
    parity: dict[str, Any] = field(default_factory=dict)
    error: WorkerError | None = None
    turns: str = "interleaved"
    spent_seconds: float = 0.0
    """Time of its turns so far, rests and settling included."""

    @property
    def rounds(self) -> list[list[int]]:
        """Synchronised wall time of each sample, by round."""
        return self.times.get("rounds", [])

    def is_precise(self, target: float) -> bool:
        """True when the interval of the median is as narrow as `target` asks."""
        reached = statistics.precision(self.rounds)
        return reached is not None and reached <= target

    def unmet(self, plan: TimingPlan) -> list[str]:
        """Stopping criteria that this cell ended without, of `CRITERIA`."""
        reached = {
            "warm-up": self.begun.get("is_stable", False),
            "rounds": len(self.rounds) >= plan.rounds,
            "precision": self.is_precise(plan.target_precision),
        }
        return [criterion for criterion in CRITERIA if not reached[criterion]]


class Driver(ABC, Generic[Point, Outcome]):
    """The workers of one run, and whose turn it is."""

    #: A record's list of rounds for each list of nanoseconds in a turn's reply.
    kinds_of_time: ClassVar[Mapping[str, str]]

    def __init__(self, prepared: Preparation, plan: TimingPlan, append: Append, say: Say) -> None:
        self.prepared, self.plan, self.append, self.say = prepared, plan, append, say
        self.grid = prepared.grid
        self.workers = Workers(prepared, plan.timeout_seconds)
        self.out_of_memory: dict[Candidate, list[Point]] = {}
        self.random = random.Random(self.grid.seed)
        self.turns_seconds = self.turns_cpu_seconds = 0.0

    @abstractmethod
    def points(self) -> Sequence[Point]:
        """What every contestant is measured at, in order."""

    @abstractmethod
    def recorded(self, point: Point) -> Collection[Candidate]:
        """Contestants that have their record at `point` already."""

    @abstractmethod
    def begin_request(self, point: Point) -> dict[str, Any]:
        """What a worker is asked to prepare and warm up; without it, no turn."""

    @abstractmethod
    def turn_request(self, contestant: Candidate, cell: Measured) -> dict[str, Any]:
        """What a worker is asked to time, each turn."""

    @abstractmethod
    def judge(self, point: Point, contestant: Candidate, cell: Measured) -> None:
        """Fill in the parity and memory of a cell that was timed."""

    @abstractmethod
    def record(self, point: Point, contestant: Candidate, cell: Measured) -> Outcome:
        """What became of the cell."""

    @abstractmethod
    def keep(self, outcome: Outcome) -> dict[str, Any]:
        """Add a record to the run; returns its line of the file."""

    @abstractmethod
    def needs_more(self, point: Point, smaller: Point) -> bool:
        """True when whoever ran out of memory at `smaller` will at `point` too."""

    def begin_group(self, groups_left: int) -> None:
        """Note that one of so many groups of contestants, which are timed one after another, begins."""

    def foreseen(self, contestant: Candidate, point: Point) -> WorkerError | None:
        """Why a cell need not be tried, from what was measured before it."""
        return None

    def measure(self, begin: Callable[[], None], progress: Callable[[list[Outcome]], None]) -> float | None:
        """Measure every cell that has no record; returns this process's CPU time over the wall time of turns.

        `begin` is called once the workers are loaded; `progress` sees a point's records once they are on disk.
        """
        started = time.monotonic()
        try:
            groups = self.workers.groups()
            loaded = len(self.workers.loaded)
            noun = "worker" if loaded == 1 else "workers"
            self.say(f"measuring; {loaded} {noun} loaded in {time.monotonic() - started:.1f} s")
            begin()
            for index, group in enumerate(groups):
                self.begin_group(len(groups) - index)
                for point in self.points():
                    recorded = self.recorded(point)
                    wanted = [contestant for contestant in group if contestant not in recorded]
                    if not wanted:
                        continue
                    outcomes = self._measure_point(point, wanted)
                    for outcome in outcomes:
                        self.append(self.keep(outcome))
                    progress(outcomes)
                self.workers.close()
        finally:
            self.workers.close()
        share = round(self.turns_cpu_seconds / self.turns_seconds, 5) if self.turns_seconds else None
        self.append({"kind": "end", "seconds": round(time.monotonic() - started, 3), "parent_cpu_share": share})
        return share

    def _measure_point(self, point: Point, group: Sequence[Candidate]) -> list[Outcome]:
        self.workers.load(group)
        cells = {contestant: Measured(error=self._known_outcome(contestant, point)) for contestant in group}
        if len(group) < len(self.grid.contestants):  # the others are not loaded, or were measured before a resume
            for cell in cells.values():
                cell.turns = "sequential"
        is_crowded = len(self.workers.loaded) > 1
        self._take_rounds(point, cells)
        for contestant, cell in cells.items():
            if cell.error and cell.error.status == "oom" and contestant not in self.workers.refused and is_crowded:
                cells[contestant] = self._retry_alone(point, contestant, cell)
        for contestant, cell in cells.items():
            self._note_failure(contestant, point, cell)
        return [self.record(point, contestant, cell) for contestant, cell in cells.items()]

    def _known_outcome(self, contestant: Candidate, point: Point) -> WorkerError | None:
        """Why this cell need not be tried, if so."""
        if contestant in self.workers.refused:
            return self.workers.refused[contestant]
        if contestant in self.workers.lost:
            return self.workers.lost[contestant]
        for smaller in self.out_of_memory.get(contestant, []):
            if self.needs_more(point, smaller):
                return WorkerError("skipped", f"a smaller cell, {smaller}, ran out of memory")
        if self.workers.is_given_up(contestant):
            return WorkerError("skipped", f"given up after {STRIKES} dead or hung workers in a row")
        return self.foreseen(contestant, point)

    def _take_rounds(self, point: Point, cells: Mapping[Candidate, Measured]) -> None:
        """Warm every contestant up, go round them in seeded random order, then judge what was timed."""
        begin = self.begin_request(point)
        for contestant in self._alive(cells):
            cell = cells[contestant]
            reply = self._ask(contestant, cell, begin)
            if not cell.error:
                cell.begun = reply
                cell.facts |= reply["facts"]
        taken = 0
        while (alive := self._alive(cells)) and not self._is_enough(taken, [cells[who] for who in alive]):
            self.random.shuffle(alive)
            for contestant in alive:
                self._take_turn(contestant, cells[contestant])
            taken += 1
        for contestant in self._alive(cells):
            self.judge(point, contestant, cells[contestant])
            if not cells[contestant].error:
                self._end_cell(contestant)

    def _is_enough(self, taken: int, cells: Sequence[Measured]) -> bool:
        """True when every cell is precise and has its rounds, or when the ceiling of seconds is reached."""
        if taken < self.plan.least_rounds:
            return False
        if max(cell.spent_seconds for cell in cells) >= self.plan.seconds_per_cell:
            return True
        return taken >= self.plan.rounds and all(cell.is_precise(self.plan.target_precision) for cell in cells)

    def _take_turn(self, contestant: Candidate, cell: Measured) -> None:
        turn_started = time.monotonic()
        if len(self.workers.loaded) > 1:
            time.sleep(REST_SECONDS)
        pids = [worker.pid for worker in self.workers.loaded.values()]
        before = conditions.snapshot(self.grid.device, pids)
        started, cpu_started = time.monotonic(), time.process_time()
        reply = self._ask(contestant, cell, self.turn_request(contestant, cell))
        self.turns_cpu_seconds += time.process_time() - cpu_started
        self.turns_seconds += time.monotonic() - started
        cell.spent_seconds += time.monotonic() - turn_started
        if cell.error:
            return
        after = conditions.snapshot(self.grid.device, pids)
        cell.conditions.append(conditions.between(before, after, reply["cpu_seconds"]))
        for name, key in self.kinds_of_time.items():
            if reply[key]:
                cell.times.setdefault(name, []).append(reply[key])

    def _alive(self, cells: Mapping[Candidate, Measured]) -> list[Candidate]:
        return [contestant for contestant, cell in cells.items() if not cell.error]

    def _ask(self, contestant: Candidate, cell: Measured, message: Mapping[str, Any]) -> dict[str, Any]:
        """The reply, or {} with the cell's error set and the worker restored to a state that can go on."""
        worker = self.workers.loaded[contestant]
        try:
            return worker.request(message, self.plan.timeout_seconds)
        except WorkerError as error:
            cell.error = error
            if error.is_gone:
                self.workers.unload(contestant)
            else:
                self._end_cell(contestant)
            return {}

    def _end_cell(self, contestant: Candidate) -> None:
        """Have a worker let go of its cell; one that cannot is started again for the next."""
        try:
            self.workers.loaded[contestant].request({"op": "end"}, self.plan.timeout_seconds)
        except WorkerError:
            self.workers.unload(contestant)

    def _retry_alone(self, point: Point, contestant: Candidate, cell: Measured) -> Measured:
        """Measure a cell that ran out of memory once more with every other worker gone."""
        self.say(f"{contestant.label} has not enough memory at {point} beside the others; trying it alone")
        self.workers.close()
        self.workers.load([contestant])
        if contestant not in self.workers.loaded:
            return cell
        alone = Measured(turns="sequential")
        self._take_rounds(point, {contestant: alone})
        if alone.error:
            alone.error.reason += " (also with no other worker loaded)"
        return alone

    def _note_failure(self, contestant: Candidate, point: Point, cell: Measured) -> None:
        status = cell.error.status if cell.error else "ok"
        if status == "oom" and contestant not in self.workers.refused:
            self.out_of_memory.setdefault(contestant, []).append(point)
        if status in ("failed", "timeout") and cell.error and cell.error.is_gone:
            self.workers.strikes[contestant] = self.workers.strikes.get(contestant, 0) + 1
        elif status == "ok":
            self.workers.strikes[contestant] = 0
