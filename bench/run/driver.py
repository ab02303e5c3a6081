"""The driver: starts workers, hands out the turns that the schedule asks for, writes each turn and record as it comes.

It imports no framework and starts no CUDA context, and while a worker is timing it only waits. It knows no workload.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.columns import count
from bench.errors import BenchError
from bench.machine.conditions import Snapshot
from bench.process.channel import WorkerError
from bench.process.pool import Pool
from bench.run import early
from bench.run.budget import Budget
from bench.run.file import RunFile
from bench.run.foresight import Foresight
from bench.run.judging import NOTHING, Judgement, Judging
from bench.run.listener import Listener
from bench.run.patience import Patience
from bench.run.preparation import Preparation
from bench.run.record import Once, Point, Record, Run, Turn
from bench.run.schedule import OpenCell, Schedule, State
from bench.spec import Candidate

#: Pause before a turn: ONNX Runtime's idle threads were seen to spin for up to 50 ms after a call.
REST_SECONDS = 0.06
#: Begun cells that a worker holds at once; the first is let go for one more, and begun again when it is asked for.
MOST_BEGUN = 16


class Driver:
    """The workers of one run, and whose turn it is."""

    def __init__(
        self,
        run: Run,
        prepared: Preparation,
        file: RunFile,
        listener: Listener,
        budget: Budget,
        began: float,
        command_began: float | None = None,
        has_table: Callable[[], None] = lambda: None,
    ) -> None:
        """`began` is the reading of `time.monotonic` at which the run would have begun if it had one session, and
        `command_began` that at which this session did, if there were others. `has_table` is called after each round
        from the first cell that was judged on.
        """
        command_began = began if command_began is None else command_began
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
            run.baseline_candidate,
            lambda: budget.seconds_left(self.state.elapsed_seconds()),
            lambda: time.monotonic() - command_began,
            prepared.computes,
        )
        self.conditions = prepared.conditions
        self.patience = Patience(prepared.conditions, run.options.kind, file)
        self.begun: dict[Candidate, dict[Point, dict[str, Any]]] = {}
        """What each worker told of the cells that it holds."""
        self.keys: dict[Point, str] = {}
        self.noted = set[tuple[Point, Candidate]]()
        """Cells whose seconds the budget knows of."""
        self.judging = Judging(run, prepared)
        self.foresight = Foresight(run, self.state, self.pool, self.judging)
        self.referenced = {*budget.first(self.workload)}
        """Points whose references were made, or tried."""
        self.shown, self.has_table = list[Candidate](), has_table
        self.is_alone = False
        self.random = random.Random(run.options.seed)
        self.turns_seconds = self.turns_cpu_seconds = 0.0

    def measure(self) -> None:
        """Measure every cell that has no record."""
        started = time.monotonic()
        schedule = self.workload.schedule()
        if not self.state.open and not schedule.next_turns(self.state):
            return
        try:
            self.pool.weight_bytes = self.prepared.weight_bytes
            groups = [self.run.candidates] if self.workload.fresh_process else self.pool.groups(self.run.candidates)
            self.begun = {one: begun for one, begun in self.begun.items() if one in self.pool.loaded}
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
        for cell in [one for one in self.state.open if one[1] in group and not self.state.open[one].is_deferred]:
            taken = self.state.open[cell].turns
            if not taken or (self.judging.is_due(*cell, taken) and not self._is_ready(*cell)):
                self._take(schedule, [cell])  # what it gave went with its process
            if cell in self.state.open and self.state.open[cell].turns and not self.state.open[cell].is_deferred:
                self._finish(*cell)
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
        for cell in turns:
            if cell in state.records and state.records[cell].status == "ok" and schedule.is_open(state, *cell):
                self._open_again(state.records.pop(cell))
        cells = [cell for cell in turns if cell not in state.records and not state.cell(*cell).is_deferred]
        if not cells:
            raise BenchError("the schedule asks for turns of cells that are closed; mend its next_turns")
        points = {point: [candidate for at, candidate in cells if at == point] for point, _ in cells}
        for point, candidates in points.items():
            self._prepare(schedule, point, candidates)
        ready = [cell for cell in cells if self._is_ready(*cell)]
        had_all = {cell for cell in ready if self._has_all_turns(schedule, *cell)}
        self.patience.wait([state.cell(*cell).turns for cell in ready])
        rounds = {point: state.next_round([cell for cell in ready if cell[0] == point]) for point in points}
        order = list(ready)
        self.random.shuffle(order)
        for cell in order:
            if self._is_ready(*cell):
                self._turn(*cell, round_=rounds[cell[0]], is_repeated=cell in had_all)
        for cell in [one for one in ready if self._is_ready(*one)]:
            if self._has_all_turns(schedule, *cell):
                self._finish(*cell)
            elif schedule.judges(state, *cell) and cell not in self.judging.found and self._judge(*cell):
                early.tell(self, *cell)
        for point, candidates in points.items():
            new = {(point, candidate) for candidate in candidates} - self.noted
            self.noted |= new
            self.budget.note(point, len(new), time.monotonic() - started)
        if self.judging.found or self.run.records:
            self.has_table()

    def _open_again(self, record: Record) -> None:
        """Have a cell that was closed take further turns."""
        self.run.open_again(record)
        self.state.open[record.cell] = OpenCell(list(record.turns))

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
        if waiting and not any(self.state.cell(point, one).turns for one in candidates):
            reason = self.budget.refusal(self.state, point) or schedule.refusal(self.state, point)
            for candidate in waiting if reason else ():
                self._close(point, candidate, WorkerError("skipped", reason))
            if reason:
                return
        if point not in self.referenced:
            kept = {point, *self.budget.kept}
            together = [one for one in self.workload.referenced_with(point) if one in kept]
            self.referenced.update(together)
            self.prepared.judge(together)
        if not self.workload.fresh_process:
            self.pool.load([one for one in waiting if self.foresight.outcome(point, one) is None])
        for candidate in candidates:
            if candidate in waiting and (outcome := self.foresight.outcome(point, candidate)):
                self._fail(point, candidate, outcome)
                continue
            self.state.open.setdefault((point, candidate), OpenCell())
            if candidate in waiting:
                self._begin(point, candidate)

    def _begin(self, point: Point, candidate: Candidate) -> None:
        begun = self.begun.setdefault(candidate, {})
        while len(begun) >= MOST_BEGUN:
            self._end(next(iter(begun)), candidate)
        if self.workload.fresh_process:
            begun[point] = {}  # its process is started by its turn
            return
        try:
            begun[point] = self.ask_to_begin(point, candidate)
        except WorkerError as error:
            if error.status != "oom" or not begun:
                self._fail(point, candidate, error)
                return
            self.pool.unload(candidate)  # it held other cells, which may have been too many
            self.begun.pop(candidate)
            self.pool.load([candidate])
            if outcome := self.pool.known_outcome(candidate):
                self._fail(point, candidate, outcome)
            else:
                self._begin(point, candidate)

    def ask_to_begin(self, point: Point, candidate: Candidate) -> dict[str, Any]:
        """A worker's reply to the request to begin a cell; raises WorkerError."""
        request = self.workload.begin(point, self.prepared.source)
        for name in self.workload.cases(point, self.prepared.source):
            stored = self.prepared.references.stored_inputs(name)
            if stored is not None:
                request |= {"no_inputs": stored} if isinstance(stored, str) else {"stored_inputs": str(stored.path)}
        return self.ask("begin", point, candidate, cell=self.workload.cell, request=request)

    def ask(self, operation: str, point: Point, candidate: Candidate, **more: Any) -> dict[str, Any]:
        """A worker's reply to an operation on the cell that it holds of `point`; raises WorkerError."""
        key = self.keys.setdefault(point, str(len(self.keys)))
        return self.pool.request(candidate, {"op": operation, "key": key, **more})

    # Turns.

    def _turn(self, point: Point, candidate: Candidate, round_: int, is_repeated: bool) -> None:
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
                before = self.conditions.snapshot(self.run.options.kind)
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
            round=cell.turns[-1].round + 1 if is_repeated else round_,
            times_ns={kind: samples for kind, samples in reply.get("times_ns", {}).items() if samples},
            figures=figures | reply.get("figures", {}),
            conditions=during,
            outputs=reply.get("outputs", ""),
            seconds=round(time.monotonic() - turn_started, 6),
        )
        cell.turns.append(turn)
        self.run.turns[point, candidate] = cell.turns
        self.file.turn(point, candidate, turn)
        self.patience.earn(turn)

    def _start_again(self, point: Point, candidate: Candidate) -> None:
        """Give a turn a process of its own, with the cell begun in it."""
        self.pool.load_alone(candidate, self.workload.load_options(point, candidate))
        self.begun[candidate] = {point: self.ask_to_begin(point, candidate)}

    def _timed(
        self, point: Point, candidate: Candidate, taken: Sequence[Turn], before: Snapshot | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The reply of one turn, and what else went on meanwhile, or since the snapshot `before` it."""
        request = self.workload.turn(point, candidate, taken)
        pids = [worker.pid for worker in self.pool.loaded.values()]
        before = before or self.conditions.snapshot(self.run.options.kind, pids)
        started, cpu_started = time.monotonic(), time.process_time()
        reply = self.ask("turn", point, candidate, request=request)
        self.turns_cpu_seconds += time.process_time() - cpu_started
        self.turns_seconds += time.monotonic() - started
        after = self.conditions.snapshot(self.run.options.kind, pids)
        return reply, self.conditions.between(
            before, after, reply.get("cpu_seconds", 0.0), reply.get("queue_delay_seconds")
        )

    # Ending.

    def _judge(self, point: Point, candidate: Candidate) -> bool:
        """Have a cell's outputs so far judged, as far as they were not; False if the cell ended in that."""
        cell, eager = self.state.open[point, candidate], self.judging.awaited(point, candidate, self.state.open)
        if eager is not None and self._is_ready(point, eager):
            self._judge(point, eager)
        if self.judging.is_due(point, candidate, cell.turns):
            try:
                is_gone = self.workload.fresh_process and candidate not in self.pool.loaded
                if is_gone and self.workload.cases(point, self.prepared.source):
                    self._start_again(point, candidate)
                self.judging.judge(point, candidate, partial(self.ask, "judge", point, candidate))
            except WorkerError as error:
                self._fail(point, candidate, error)
                return False
            cell.verdict = self.judging.worst(point, candidate, cell.turns).verdict
        return True

    def _finish(self, point: Point, candidate: Candidate) -> None:
        """Have what a cell gave judged, close it, and have its worker let go of it."""
        if not self._judge(point, candidate):
            return
        worst = self.judging.worst(point, candidate, self.state.open[point, candidate].turns)
        self._close(point, candidate, None, worst)
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
            self.foresight.out_of_memory.setdefault(candidate, []).append(point)
        self._close(point, candidate, error)

    def _end(self, point: Point, candidate: Candidate) -> None:
        """Have a worker let go of a cell; one that cannot is started again for the next."""
        if self.begun.get(candidate, {}).pop(point, None) is None or candidate not in self.pool.loaded:
            return
        try:
            self.ask("end", point, candidate)
        except WorkerError:
            self.pool.unload(candidate)
            self.begun.pop(candidate, None)

    def _close(
        self, point: Point, candidate: Candidate, error: WorkerError | None, judged: Judgement = NOTHING
    ) -> None:
        """Write the record of a cell."""
        prepared, told = self.prepared, judged.reply
        begun = self.begun.get(candidate, {}).get(point, {})
        turns = tuple(self.state.open.pop((point, candidate), OpenCell()).turns)
        self.judging.found.pop((point, candidate), None)
        self.run.turns.pop((point, candidate), None)
        artifact = prepared.artifacts.get(candidate)
        memory = {"loaded": self.pool.memory.get(candidate, {}), "peak": judged.peaks}
        again = sum(turn.figures.get("recompiles", 0) for turn in turns)
        recompiled = {"recompiles_while_timing": again} if again else {}
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
            parity=judged.parity,
            memory=memory | self.workload.memory(point, candidate, prepared.source),
            operations=prepared.operations(point, candidate),
            facts=begun.get("facts", {}) | told.get("facts", {}) | {"versions": versions} | recompiled,
            failure=error.details if error else {},
            is_judged=prepared.computes(candidate),
            is_interleaved=len(self.state.candidates) == len(self.run.candidates),
        )
        self.pool.note(candidate, error)
        self.run.records.append(record)
        self.state.records[record.cell] = record
        self.file.record(record)
        self.listener.record(self.run, record)
