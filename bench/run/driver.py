"""The driver: starts workers, hands out the turns that the schedule asks for, writes each turn and record as it comes.

It imports no framework and starts no CUDA context, and while a worker is timing it only waits. It knows no workload.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from bench import machine
from bench.columns import count
from bench.errors import BenchError
from bench.machine import capacity, conditions
from bench.machine.conditions import Snapshot
from bench.parity.verdict import of_original, tolerance_of
from bench.process.channel import WorkerError
from bench.process.pool import Pool
from bench.run.budget import Budget
from bench.run.file import RunFile
from bench.run.listener import Listener
from bench.run.preparation import Preparation
from bench.run.record import Once, Point, Record, Run, Turn
from bench.run.schedule import OpenCell, Schedule, State
from bench.spec import Candidate, Shape

#: Pause before a turn: ONNX Runtime's idle threads were seen to spin for up to 50 ms after a call.
REST_SECONDS = 0.06
#: Begun cells that a worker holds at once; the first is let go for one more, and begun again when it is asked for.
MOST_BEGUN = 4
#: Figures of a worker's memory that belong to one cell.
PEAKS_OF_MEMORY = (
    "peak_process_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "peak_device_process_bytes",
)  # fmt: skip


class Driver:
    """The workers of one run, and whose turn it is."""

    def __init__(
        self, run: Run, prepared: Preparation, file: RunFile, listener: Listener, budget: Budget, began: float
    ) -> None:
        """`began` is the reading of `time.monotonic` at which the run would have begun if it had one session."""
        self.run, self.prepared, self.file, self.listener, self.budget = run, prepared, file, listener, budget
        self.workload = run.workload
        self.pool = Pool(
            prepared.start, run.options.kind, prepared.refused, prepared.weight_bytes, run.options.timeout, listener.say
        )
        self.state = State(
            run.candidates,
            run.candidates,
            budget.order(self.workload.points()),
            {record.cell: record for record in run.records},
            {cell: OpenCell(list(turns)) for cell, turns in run.turns.items()},
            lambda: time.monotonic() - began,
            run.is_implausible,
        )
        self.begun: dict[Candidate, dict[Point, dict[str, Any]]] = {}
        """What each worker told of the cells that it holds."""
        self.out_of_memory: dict[Candidate, list[Point]] = {}
        self.keys: dict[Point, str] = {}
        self.judged = {*budget.first(self.workload)}
        """Points whose references were made, or tried."""
        self.is_alone = False
        self.random = random.Random(run.options.seed)
        self.turns_seconds = self.turns_cpu_seconds = 0.0

    def measure(self) -> None:
        """Measure every cell that has no record."""
        started = time.monotonic()
        schedule = self.workload.schedule()
        try:
            groups = [self.run.candidates] if self.workload.fresh_process else self.pool.groups(self.run.candidates)
            loaded = count(len(self.pool.loaded), "worker")
            self.listener.say(f"measuring; {loaded} loaded in {time.monotonic() - started:.1f} s")
            for index, group in enumerate(groups):
                self._measure(schedule, group, len(groups) - index)
            self._measure_deferred(schedule)
        finally:
            self.pool.close()
        if self.turns_seconds:
            self.file.note("parent_cpu_share", round(self.turns_cpu_seconds / self.turns_seconds, 5))

    def _measure(self, schedule: Schedule, group: Sequence[Candidate], groups_left: int = 1) -> None:
        """Have the candidates of `group` take turns until the schedule is done."""
        self.state.candidates = group
        self.state.peers = self.run.candidates if self.is_alone else group
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
        started, state = time.monotonic(), self.state
        cells = [cell for cell in turns if cell not in state.records and not state.cell(*cell).is_deferred]
        if not cells:
            raise BenchError("the schedule asks for turns of cells that are closed; mend its next_turns")
        points = {point: [candidate for at, candidate in cells if at == point] for point, _ in cells}
        for point, candidates in points.items():
            self._prepare(schedule, point, candidates)
        ready = [cell for cell in cells if self._is_ready(*cell)]
        had_all = {cell for cell in ready if self._has_all_turns(schedule, *cell)}
        order = list(ready)
        self.random.shuffle(order)
        for cell in order:
            if self._is_ready(*cell):
                self._turn(*cell, is_repeated=cell in had_all)
        for cell in [one for one in ready if self._is_ready(*one) and self._has_all_turns(schedule, *one)]:
            self._judge(*cell)
        for point, candidates in points.items():
            closed = sum((point, candidate) in state.records for candidate in candidates)
            self.budget.note(point, closed, time.monotonic() - started)

    def _is_ready(self, point: Point, candidate: Candidate) -> bool:
        """True for a cell that may take a turn: begun, without a record, and not put off."""
        cell = self.state.open.get((point, candidate))
        return cell is not None and not cell.is_deferred and point in self.begun.get(candidate, {})

    def _has_all_turns(self, schedule: Schedule, point: Point, candidate: Candidate) -> bool:
        return bool(self.state.cell(point, candidate).turns) and not schedule.is_open(self.state, point, candidate)

    # Beginning.

    def _prepare(self, schedule: Schedule, point: Point, candidates: Sequence[Candidate]) -> None:
        """Begin the cells of `point` that have not begun; those that cannot be get their record."""
        waiting = [one for one in candidates if point not in self.begun.get(one, {})]
        is_new = not any(self.state.cell(point, one).turns for one in candidates)
        if waiting and is_new:
            reason = self.budget.refusal(self.state, point) or schedule.refusal(self.state, point)
            for candidate in waiting if reason else ():
                self._close(point, candidate, WorkerError("skipped", reason))
            if reason:
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
        return self._foreseen(point, candidate)

    def _foreseen(self, point: Point, candidate: Candidate) -> WorkerError | None:
        """Why a cell would exceed the host's memory, as far as its peaks at smaller shapes foretell it: "skipped" if it
        would even alone, "oom" if it would beside the others. A GPU's allocator refuses at once and harms nobody; the
        host's kernel first takes the memory of everything else, and may swap for hours.
        """
        shape, peaks = self.workload.shape_of(point), dict[Shape, int]()
        if self.run.options.kind != "cpu" or shape is None:
            return None
        for record in self.run.records:
            peak = record.memory.get("peak", {}).get("peak_process_bytes")
            if record.candidate == candidate and peak and (of_point := self.workload.shape_of(record.point)):
                peaks[of_point] = peak
        held = {who: self.pool.memory.get(who, {}).get("process_bytes", 0) for who in self.pool.loaded}
        free = machine.available_memory_bytes()
        if reason := capacity.refusal(peaks, shape, free + sum(held.values())):
            return WorkerError("skipped", reason)
        if reason := capacity.refusal(peaks, shape, free + held.get(candidate, 0)):
            return WorkerError("oom", reason)
        return None

    def _begin(self, point: Point, candidate: Candidate) -> None:
        begun = self.begun.setdefault(candidate, {})
        while len(begun) >= MOST_BEGUN:
            self._end(next(iter(begun)), candidate)
        if self.workload.fresh_process:
            begun[point] = {}  # its process is started by its turn
            return
        try:
            begun[point] = self._ask_to_begin(point, candidate)
        except WorkerError as error:
            self._fail(point, candidate, error)

    def _ask_to_begin(self, point: Point, candidate: Candidate) -> dict[str, Any]:
        request = self.workload.begin(point, self.prepared.source)
        for name in self.workload.cases(point, self.prepared.source):
            stored = self.prepared.references.stored_inputs(name)
            if stored is not None:
                request |= {"no_inputs": stored} if isinstance(stored, str) else {"stored_inputs": str(stored.path)}
        return self._ask("begin", point, candidate, cell=self.workload.cell, request=request)

    def _ask(self, operation: str, point: Point, candidate: Candidate, **more: Any) -> dict[str, Any]:
        """A worker's reply to an operation on the cell that it holds of `point`; raises WorkerError."""
        key = self.keys.setdefault(point, str(len(self.keys)))
        return self.pool.request(candidate, {"op": operation, "key": key, **more})

    # Turns.

    def _turn(self, point: Point, candidate: Candidate, is_repeated: bool) -> None:
        """Take one turn. One `is_repeated` for a resumed cell that has all of its own, whose outputs are to be judged:
        if they have the checksum of the last turn's, they are those, and nothing is added.
        """
        cell = self.state.open[point, candidate]
        taken = cell.turns[:-1] if is_repeated else cell.turns
        turn_started, before, figures = time.monotonic(), None, dict[str, Any]()
        try:
            if self.workload.fresh_process:
                self.pool.close()
                figures = self.workload.before_start(point, self.prepared.folders_of(candidate))
                before = conditions.snapshot(self.run.options.kind)
                self._start_again(point, candidate)
            if len(self.pool.loaded) > 1:
                time.sleep(REST_SECONDS)
            reply, during = self._timed(point, candidate, taken, before)
        except WorkerError as error:
            survived = self.workload.survived(point, candidate, taken, error)
            if survived is None:
                self._fail(point, candidate, error)
                return
            reply, during = survived, {}
        if is_repeated and reply.get("outputs", "") == cell.turns[-1].outputs:
            return
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
        self, point: Point, candidate: Candidate, taken: Sequence[Turn], before: Snapshot | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The reply of one turn, and what else went on meanwhile, or since the snapshot `before` it."""
        request = self.workload.turn(point, candidate, taken)
        pids = [worker.pid for worker in self.pool.loaded.values()]
        before = before or conditions.snapshot(self.run.options.kind, pids)
        started, cpu_started = time.monotonic(), time.process_time()
        reply = self._ask("turn", point, candidate, request=request)
        self.turns_cpu_seconds += time.process_time() - cpu_started
        self.turns_seconds += time.monotonic() - started
        after = conditions.snapshot(self.run.options.kind, pids)
        return reply, conditions.between(before, after, reply.get("cpu_seconds", 0.0), reply.get("queue_delay_seconds"))

    # Ending.

    def _judge(self, point: Point, candidate: Candidate) -> None:
        """Have a cell's outputs compared with its references, and close it."""
        tolerance = tolerance_of(candidate.precision, tf32=self.run.options.tf32)
        units, missing, computes = {}, "", self.prepared.computes(candidate)
        cases = self.workload.cases(point, self.prepared.source)
        if self.workload.fresh_process and not cases:  # its process may be gone, and there is nothing to ask it for
            self._close(point, candidate, None)
            self.begun.get(candidate, {}).pop(point, None)
            return
        for name, inputs in cases.items():
            units[name] = inputs.request()
            pair = self.prepared.references.pair(candidate.precision, name) if computes else ""
            if isinstance(pair, str):
                missing = missing or pair
            else:
                units[name] |= {"reference": str(pair[0].path), "eager_error": str(pair[1].path)}
        request = {"units": units, "atol": tolerance.atol, "rtol": tolerance.rtol}
        request |= self.workload.judged(point, candidate)
        try:
            if self.workload.fresh_process and candidate not in self.pool.loaded:
                self._start_again(point, candidate)
            reply = self._ask("judge", point, candidate, request=request)
        except WorkerError as error:
            self._fail(point, candidate, error)
            return
        parity: dict[str, Any] = {}
        if computes and units:
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
            self._ask("end", point, candidate)
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
        begun = self.begun.get(candidate, {}).get(point, {})
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
            figures=begun.get("figures", {}) | told.get("figures", {}),
            once=Once(
                export_seconds=artifact.export_seconds if artifact else None,
                load_seconds=self.pool.load_seconds.get(candidate),
                **begun.get("once", {}),
            ),
            parity=parity or {},
            memory=memory | self.workload.memory(point, candidate, prepared.source),
            operations=prepared.operations(point, candidate),
            facts=begun.get("facts", {}) | told.get("facts", {}) | {"versions": versions},
            failure=error.details if error else {},
            is_judged=prepared.computes(candidate),
            is_interleaved=len(self.state.candidates) == len(self.run.candidates),
        )
        self.pool.note(candidate, error)
        self.run.records.append(record)
        self.state.records[record.cell] = record
        self.file.record(record)
        self.listener.record(self.run, record)
