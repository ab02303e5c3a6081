"""The driver: starts workers, hands out the turns that the schedule asks for, writes each turn and record as it comes.

It imports no framework and starts no CUDA context, and while a worker is timing it only waits. It knows no workload.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import BenchError
from bench.machine import conditions
from bench.machine.conditions import Snapshot
from bench.parity.verdict import of_original, tolerance_of
from bench.process.channel import WorkerError
from bench.process.pool import Pool
from bench.run.budget import Budget
from bench.run.file import RunFile
from bench.run.foresight import foreseen
from bench.run.listener import Listener
from bench.run.preparation import Preparation
from bench.run.record import Once, Point, Record, Run, Turn
from bench.run.schedule import OpenCell, Schedule, State
from bench.spec import Candidate

#: Pause before a turn: ONNX Runtime's idle threads were seen to spin for up to 50 ms after a call.
REST_SECONDS = 0.06
#: Begun cells that a worker holds at once; the first is let go for one more, and begun again when it is asked for.
MOST_BEGUN = 4
#: Figures of a worker's memory that belong to one cell.
PEAKS_OF_MEMORY = (
    "peak_process_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "peak_device_process_bytes",
)  # fmt: skip


@dataclass
class _Begun:
    """What a worker told of a cell that it holds."""

    once: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


class Driver:
    """The workers of one run, and whose turn it is."""

    def __init__(
        self, run: Run, prepared: Preparation, file: RunFile, listener: Listener, budget: Budget | None, began: float
    ) -> None:
        """`began` is the reading of `time.monotonic` at which the run would have begun if it had one session."""
        self.run, self.prepared, self.file, self.listener, self.budget = run, prepared, file, listener, budget
        self.workload = run.workload
        self.pool = Pool(
            prepared.start,
            run.options.kind,
            prepared.refused,
            prepared.weight_bytes,
            run.options.timeout,
            listener.say,
        )
        points = self.workload.points()
        self.state = State(
            run.candidates,
            run.candidates,
            points if budget is None else budget.order(points),
            {record.cell: record for record in run.records},
            {cell: OpenCell(list(turns)) for cell, turns in run.turns.items()},
            lambda: time.monotonic() - began,
            run.is_implausible,
        )
        self.begun: dict[Candidate, dict[Point, _Begun]] = {}
        self.out_of_memory: dict[Candidate, list[Point]] = {}
        self.keys: dict[Point, str] = {}
        self.judged = {*(self.workload.first_points() if budget is None else budget.kept)}
        """Points whose references were made, or tried."""
        self.is_alone = False
        self.random = random.Random(run.options.seed)
        self.turns_seconds = self.turns_cpu_seconds = 0.0

    def measure(self) -> None:
        """Measure every cell that has no record."""
        started = time.monotonic()
        schedule = self.workload.schedule()
        try:
            groups = self._groups()
            loaded = len(self.pool.loaded)
            noun = "worker" if loaded == 1 else "workers"
            self.listener.say(f"measuring; {loaded} {noun} loaded in {time.monotonic() - started:.1f} s")
            for index, group in enumerate(groups):
                self._measure(schedule, group, len(groups) - index)
            self._measure_deferred(schedule)
        finally:
            self.pool.close()
        if self.turns_seconds:
            self.file.note("parent_cpu_share", round(self.turns_cpu_seconds / self.turns_seconds, 5))

    def _groups(self) -> Sequence[tuple[Candidate, ...]]:
        if self.workload.fresh_process:
            return [tuple(self.run.candidates)]
        return self.pool.groups(self.run.candidates)

    def _measure(self, schedule: Schedule, group: Sequence[Candidate], groups_left: int = 1) -> None:
        """Have the candidates of `group` take turns until the schedule is done."""
        self.state.candidates = group
        self.state.peers = self.run.candidates if self.is_alone else group
        if self.budget is not None:
            self.budget.begin_group(groups_left, self.state.elapsed_seconds())
        while turns := schedule.next_turns(self.state):
            self._take(schedule, turns)
        self.pool.close()
        self.begun.clear()

    def _measure_deferred(self, schedule: Schedule) -> None:
        """Measure the cells that ran out of memory beside the others, with every other worker gone."""
        self.is_alone = True
        waiting = dict.fromkeys(candidate for (_, candidate), cell in self.state.open.items() if cell.is_deferred)
        for candidate in waiting:
            for (_, of_cell), cell in self.state.open.items():
                if of_cell == candidate:
                    cell.is_deferred, cell.turns = False, []
            self._measure(schedule, (candidate,))

    def _take(self, schedule: Schedule, turns: Sequence[tuple[Point, Candidate]]) -> None:
        """One round: begin what has not begun, one turn of each cell in seeded random order, close what is done."""
        started, before = time.monotonic(), self._progress()
        for point in dict.fromkeys(point for point, _ in turns):
            self._prepare(schedule, point, [candidate for at, candidate in turns if at == point])
        ready = [cell for cell in turns if self._is_ready(*cell)]
        order = list(ready)
        self.random.shuffle(order)
        for point, candidate in order:
            if self._is_ready(point, candidate):
                self._turn(point, candidate)
        done = [
            cell
            for cell in ready
            if self._is_ready(*cell) and self.state.cell(*cell).turns and not schedule.is_open(self.state, *cell)
        ]
        for point, candidate in done:
            self._judge(point, candidate)
        if self._progress() == before:
            raise BenchError("the schedule asks for turns of cells that are closed; mend its next_turns")
        if self.budget is not None:
            for point in {point for point, _ in turns}:
                closed = sum((point, candidate) in self.state.records for at, candidate in turns if at == point)
                self.budget.note(point, closed, time.monotonic() - started)

    def _progress(self) -> tuple[int, int, int]:
        """Counts of which one grows with every turn that a schedule may ask for."""
        cells = self.state.open.values()
        turns = sum(len(cell.turns) for cell in cells) + sum(len(one.turns) for one in self.state.records.values())
        return len(self.state.records), turns, sum(cell.is_deferred for cell in cells)

    def _is_ready(self, point: Point, candidate: Candidate) -> bool:
        """True for a cell that may take a turn: begun, without a record, and not put off."""
        cell = self.state.open.get((point, candidate))
        is_begun = point in self.begun.get(candidate, {})
        return is_begun and cell is not None and not cell.is_deferred and (point, candidate) not in self.state.records

    # Beginning.

    def _prepare(self, schedule: Schedule, point: Point, candidates: Sequence[Candidate]) -> None:
        """Begin the cells of `point` that have not begun; those that cannot be get their record."""
        waiting = [one for one in candidates if point not in self.begun.get(one, {})]
        is_new = not any(self.state.cell(point, one).turns for one in candidates)
        if waiting and is_new and (reason := self._refusal(schedule, point)):
            for candidate in waiting:
                self._close(point, candidate, WorkerError("skipped", reason))
            return
        if waiting and point not in self.judged:
            self.judged.add(point)
            self.prepared.judge([point])
        if not self.workload.fresh_process:
            self.pool.load([one for one in waiting if self._known_outcome(point, one) is None])
        for candidate in waiting:
            if outcome := self._known_outcome(point, candidate):
                self._fail(point, candidate, outcome)
            else:
                self.state.open.setdefault((point, candidate), OpenCell())
                self._begin(point, candidate)

    def _refusal(self, schedule: Schedule, point: Point) -> str:
        budgeted = self.budget.refusal(self.state, point) if self.budget is not None else ""
        return budgeted or schedule.refusal(self.state, point)

    def _known_outcome(self, point: Point, candidate: Candidate) -> WorkerError | None:
        """Why this cell need not be tried, if so."""
        if found := self.pool.known_outcome(candidate):
            return found
        for smaller in self.out_of_memory.get(candidate, []):
            if self.workload.is_larger(point, smaller):
                return WorkerError("skipped", f"a smaller cell, {smaller}, ran out of memory")
        deferred = (at for (at, who), cell in self.state.open.items() if who == candidate and cell.is_deferred)
        if any(self.workload.is_larger(point, smaller) for smaller in deferred):
            return WorkerError("oom", "a smaller cell ran out of memory beside the others")
        return foreseen(self.run, self.pool, point, candidate)

    def _begin(self, point: Point, candidate: Candidate) -> None:
        begun = self.begun.setdefault(candidate, {})
        while len(begun) >= MOST_BEGUN:
            self._end(next(iter(begun)), candidate)
        if self.workload.fresh_process:
            begun[point] = _Begun()  # its process is started by its turn
            return
        try:
            begun[point] = self._ask_to_begin(point, candidate)
        except WorkerError as error:
            self._fail(point, candidate, error)

    def _ask_to_begin(self, point: Point, candidate: Candidate) -> _Begun:
        request = self.workload.begin(point, self.prepared.source)
        for name in self.workload.cases(point, self.prepared.source):
            stored = self.prepared.references.stored_inputs(name)
            if stored is not None:
                request |= {"no_inputs": stored} if isinstance(stored, str) else {"stored_inputs": str(stored.path)}
        message = {"op": "begin", "key": self._key(point), "cell": self.workload.cell, "request": request}
        reply = self.pool.request(candidate, message)
        return _Begun(reply.get("once", {}), reply.get("facts", {}), reply.get("figures", {}))

    def _key(self, point: Point) -> str:
        return self.keys.setdefault(point, str(len(self.keys)))

    # Turns.

    def _turn(self, point: Point, candidate: Candidate) -> None:
        cell = self.state.open[point, candidate]
        turn_started, before, figures = time.monotonic(), None, dict[str, Any]()
        try:
            if self.workload.fresh_process:
                self.pool.close()
                figures = self.workload.before_start(point, self.prepared.folders_of(candidate))
                before = conditions.snapshot(self.run.options.kind)
                self._start_again(point, candidate)
            if len(self.pool.loaded) > 1:
                time.sleep(REST_SECONDS)
            reply, during = self._timed(point, candidate, cell, before)
        except WorkerError as error:
            survived = self.workload.survived(point, candidate, cell.turns, error)
            if survived is None:
                self._fail(point, candidate, error)
                return
            reply, during = survived, {}
        turn = Turn(
            round=len(cell.turns),
            times_ns={kind: samples for kind, samples in reply.get("times_ns", {}).items() if samples},
            figures=figures | reply.get("figures", {}),
            conditions=during,
            outputs=reply.get("outputs", ""),
            seconds=round(time.monotonic() - turn_started, 6),
        )
        cell.turns.append(turn)
        self.run.turns[point, candidate] = cell.turns
        self.file.turn(point, candidate, turn)

    def _start_again(self, point: Point, candidate: Candidate) -> None:
        """Give a turn a process of its own, with the cell begun in it."""
        self.pool.load_alone(candidate, self.workload.load_options(point, candidate))
        self.begun[candidate] = {point: self._ask_to_begin(point, candidate)}

    def _timed(
        self, point: Point, candidate: Candidate, cell: OpenCell, before: Snapshot | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The reply of one turn, and what else went on meanwhile, or since the snapshot `before` it."""
        request = self.workload.turn(point, candidate, cell.turns)
        pids = [worker.pid for worker in self.pool.loaded.values()]
        before = before or conditions.snapshot(self.run.options.kind, pids)
        started, cpu_started = time.monotonic(), time.process_time()
        reply = self.pool.request(candidate, {"op": "turn", "key": self._key(point), "request": request})
        self.turns_cpu_seconds += time.process_time() - cpu_started
        self.turns_seconds += time.monotonic() - started
        after = conditions.snapshot(self.run.options.kind, pids)
        return reply, conditions.between(before, after, reply.get("cpu_seconds", 0.0))

    # Ending.

    def _judge(self, point: Point, candidate: Candidate) -> None:
        """Have a cell's outputs compared with its references, and close it."""
        options, references = self.run.options, self.prepared.references
        tolerance = tolerance_of(candidate.precision, tf32=options.tf32)
        units, missing = {}, ""
        cases = self.workload.cases(point, self.prepared.source)
        if self.workload.fresh_process and not cases:  # its process may be gone, and there is nothing to ask it for
            self._close(point, candidate, None)
            self.begun.get(candidate, {}).pop(point, None)
            return
        for name, inputs in cases.items():
            units[name] = inputs.request()
            pair = references.pair(candidate.precision, name)
            if not self.prepared.computes(candidate):
                continue
            if isinstance(pair, str):
                missing = missing or pair
            else:
                units[name] |= {"reference": str(pair[0].path), "eager_error": str(pair[1].path)}
        request = {"units": units, "atol": tolerance.atol, "rtol": tolerance.rtol}
        request |= self.workload.judged(point, candidate)
        try:
            if self.workload.fresh_process and candidate not in self.pool.loaded:
                self._start_again(point, candidate)
            reply = self.pool.request(candidate, {"op": "judge", "key": self._key(point), "request": request})
        except WorkerError as error:
            self._fail(point, candidate, error)
            return
        parity: dict[str, Any] = {}
        if self.prepared.computes(candidate) and units:
            is_unjudged = {"verdict": "unjudged", "reason": missing}
            parity = is_unjudged if missing else self.workload.parity(reply, tolerance)
            parity = of_original(parity) if candidate.is_original else parity
        self._close(point, candidate, None, reply, parity)
        self._end(point, candidate)

    def _fail(self, point: Point, candidate: Candidate, error: WorkerError) -> None:
        """Close a cell that ended in `error`; one that may fit alone is put off until the others are gone."""
        if candidate not in self.pool.loaded:
            self.begun.pop(candidate, None)
        else:
            self._end(point, candidate)
        if error.status == "oom" and candidate not in self.pool.refused:
            if not self.is_alone and not self.workload.fresh_process and len(self.state.candidates) > 1:
                if not any(who == candidate and cell.is_deferred for (_, who), cell in self.state.open.items()):
                    label = candidate.label
                    self.listener.say(f"{label} has not enough memory at {point} beside the others; it is tried alone")
                self.state.open.setdefault((point, candidate), OpenCell()).is_deferred = True
                return
            if self.is_alone and len(self.run.candidates) > 1:
                error.reason += " (also with no other worker loaded)"
            self.out_of_memory.setdefault(candidate, []).append(point)
        self._close(point, candidate, error)

    def _end(self, point: Point, candidate: Candidate) -> None:
        """Have a worker let go of a cell; one that cannot is started again for the next."""
        if self.begun.get(candidate, {}).pop(point, None) is None or candidate not in self.pool.loaded:
            return
        try:
            self.pool.request(candidate, {"op": "end", "key": self._key(point)})
        except WorkerError:
            self.pool.unload(candidate)
            self.begun.pop(candidate, None)

    def _close(
        self,
        point: Point,
        candidate: Candidate,
        error: WorkerError | None,
        reply: dict[str, Any] | None = None,
        parity: dict[str, Any] | None = None,
    ) -> None:
        """Write the record of a cell."""
        prepared, told = self.prepared, reply or {}
        begun = self.begun.get(candidate, {}).get(point, _Begun())
        turns = tuple(self.state.open.pop((point, candidate), OpenCell()).turns)
        self.run.turns.pop((point, candidate), None)
        artifact = prepared.artifacts.get(candidate)
        peaks = {name: held for name, held in told.get("memory", {}).items() if name in PEAKS_OF_MEMORY}
        memory = {"loaded": self.pool.memory.get(candidate, {}), "peak": peaks}
        versions = prepared.versions(candidate, self.pool.versions.get(candidate, {}))
        record = Record(
            point=point,
            candidate=candidate,
            status=error.status if error else "ok",  # type: ignore[arg-type]
            reason=error.reason if error else "",
            turns=turns,
            figures=begun.figures | told.get("figures", {}),
            once=Once(
                export_seconds=artifact.export_seconds if artifact else None,
                load_seconds=self.pool.load_seconds.get(candidate),
                **begun.once,
            ),
            parity=parity or {},
            memory=memory | self.workload.memory(point, candidate, prepared.source),
            operations=prepared.operations(point, candidate),
            facts=begun.facts | told.get("facts", {}) | {"versions": versions},
            failure=error.details if error else {},
            is_judged=prepared.computes(candidate),
            is_interleaved=len(self.state.candidates) == len(self.run.candidates),
        )
        self.pool.note(candidate, error)
        self.run.records.append(record)
        self.state.records[record.cell] = record
        self.file.record(record)
        self.listener.record(self.run, record)
