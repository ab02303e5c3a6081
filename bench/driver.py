"""The driver: starts the workers, hands out turns, writes each record as it comes.

It imports no framework and starts no CUDA context, and while a worker is timing it only waits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench import conditions, statistics
from bench.channel import WorkerError
from bench.parity.verdict import TOLERANCES, worst_case
from bench.preparation import Preparation
from bench.records import CRITERIA, Record, Run
from bench.references import Say
from bench.runfile import RunFile, record_line
from bench.spec import Contestant, Shape, TimingPlan, command_of
from bench.warnings import warnings_of
from bench.workers import STRIKES, Workers

#: Pause before a turn: ONNX Runtime's idle threads were seen to spin for up to 50 ms after a call.
REST_SECONDS = 0.06
#: Figures of a worker's memory that belong to one cell.
PEAKS_OF_MEMORY = ("peak_process_bytes", "peak_allocated_bytes", "peak_reserved_bytes")
#: A record's list of rounds for each list of samples in a turn's reply.
KINDS_OF_TIME = {
    "rounds": "wall_ns",
    "device_rounds": "device_ns",
    "enqueue_rounds": "enqueue_ns",
    "pipelined_rounds": "pipelined_ns",
    "naive_rounds": "naive_ns",
}


@dataclass
class Measured:
    """What is known of one cell while it is being measured."""

    times: dict[str, list[list[int]]] = field(default_factory=lambda: {name: [] for name in KINDS_OF_TIME})
    """Nanoseconds a call by kind of time and round; `rounds` are those of the headline."""
    warmup_ns: list[int] = field(default_factory=list)
    first_call_ns: int | None = None
    calls_per_sample: int = 1
    is_stable: bool = False
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
        return self.times["rounds"]

    def is_precise(self, target: float) -> bool:
        """True when the interval of the median is as narrow as `target` asks."""
        reached = statistics.precision(self.rounds)
        return reached is not None and reached <= target

    def unmet(self, plan: TimingPlan) -> list[str]:
        """Stopping criteria that this cell ended without, of `CRITERIA`."""
        reached = {
            "warm-up": self.is_stable,
            "rounds": len(self.rounds) >= plan.rounds,
            "precision": self.is_precise(plan.target_precision),
        }
        return [criterion for criterion in CRITERIA if not reached[criterion]]


class Driver:
    """The workers of one run, and whose turn it is."""

    def __init__(self, run: Run, prepared: Preparation, file: RunFile, say: Say) -> None:
        self.run, self.grid, self.plan = run, run.grid, run.plan
        self.prepared, self.file, self.say = prepared, file, say
        self.workers = Workers(prepared, self.plan.timeout_seconds)
        self.out_of_memory: dict[Contestant, list[Shape]] = {}
        self.random = random.Random(self.grid.seed)
        self.turns_seconds = self.turns_cpu_seconds = 0.0

    def measure(self, begin: Callable[[], None], progress: Callable[[list[Record]], None]) -> None:
        """Measure every cell that has no record.

        `begin` is called once the workers are loaded; `progress` sees a shape's records once they are on disk.
        """
        started = time.monotonic()
        try:
            groups = self.workers.groups()
            loaded = len(self.workers.loaded)
            noun = "worker" if loaded == 1 else "workers"
            self.say(f"measuring; {loaded} {noun} loaded in {time.monotonic() - started:.1f} s")
            begin()
            for group in groups:
                for shape in self.grid.shapes:
                    recorded = {record.contestant for record in self.run.records if record.shape == shape}
                    wanted = [contestant for contestant in group if contestant not in recorded]
                    if not wanted:
                        continue
                    self.workers.load(wanted)
                    records = self._measure_shape(shape, wanted)
                    for record in records:
                        self.run.records.append(record)
                        self.file.append(record_line(record))
                    progress(records)
                self.workers.close()
        finally:
            self.workers.close()
        wall = time.monotonic() - started
        if self.turns_seconds:
            self.run.parent_cpu_share = round(self.turns_cpu_seconds / self.turns_seconds, 5)
        self.run.is_complete = True
        self.file.append({"kind": "end", "seconds": round(wall, 3), "parent_cpu_share": self.run.parent_cpu_share})

    def _measure_shape(self, shape: Shape, group: Sequence[Contestant]) -> list[Record]:
        cells = {contestant: Measured(error=self._known_outcome(contestant, shape)) for contestant in group}
        if len(group) < len(self.grid.contestants):  # the others are not loaded, or were measured before a resume
            for cell in cells.values():
                cell.turns = "sequential"
        is_crowded = len(self.workers.loaded) > 1
        self._take_rounds(shape, cells)
        for contestant, cell in cells.items():
            if cell.error and cell.error.status == "oom" and contestant not in self.workers.refused and is_crowded:
                cells[contestant] = self._retry_alone(shape, contestant, cell)
        for contestant, cell in cells.items():
            self._note_failure(contestant, shape, cell)
        return [self._record(shape, contestant, cell) for contestant, cell in cells.items()]

    def _known_outcome(self, contestant: Contestant, shape: Shape) -> WorkerError | None:
        """Why this cell need not be tried, if so."""
        if contestant in self.workers.refused:
            return self.workers.refused[contestant]
        if contestant in self.workers.lost:
            return self.workers.lost[contestant]
        for smaller in self.out_of_memory.get(contestant, []):
            if shape.batch >= smaller.batch and shape.length >= smaller.length:
                return WorkerError("skipped", f"a smaller cell, {smaller}, ran out of memory")
        if self.workers.is_given_up(contestant):
            return WorkerError("skipped", f"given up after {STRIKES} dead or hung workers in a row")
        return None

    def _take_rounds(self, shape: Shape, cells: Mapping[Contestant, Measured]) -> None:
        """Warm every contestant up, go round them in seeded random order, then judge what was timed."""
        timeout = self.plan.timeout_seconds
        begin = {"op": "begin", "inputs_plan": self.prepared.judged_by.inputs(shape), "plan": asdict(self.plan)}
        begin["boundary"] = self.grid.boundary
        for contestant in self._alive(cells):
            cell = cells[contestant]
            reply = self._ask(contestant, cell, begin, timeout)
            if not cell.error:
                cell.first_call_ns, cell.warmup_ns = reply["first_call_ns"], reply["warmup_ns"]
                cell.calls_per_sample, cell.is_stable = reply["calls_per_sample"], reply["is_stable"]
                cell.facts |= reply["facts"]
        taken = 0
        while (alive := self._alive(cells)) and not self._is_enough(taken, [cells[who] for who in alive]):
            self.random.shuffle(alive)
            for contestant in alive:
                self._take_turn(contestant, cells[contestant])
            taken += 1
        for contestant in self._alive(cells):
            self._judge(shape, contestant, cells[contestant])
            if not cells[contestant].error:
                self._end_cell(contestant)

    def _is_enough(self, taken: int, cells: Sequence[Measured]) -> bool:
        """True when every cell is precise and has its rounds, or when the ceiling of seconds is reached."""
        if taken < self.plan.least_rounds:
            return False
        if max(cell.spent_seconds for cell in cells) >= self.plan.seconds_per_cell:
            return True
        return taken >= self.plan.rounds and all(cell.is_precise(self.plan.target_precision) for cell in cells)

    def _take_turn(self, contestant: Contestant, cell: Measured) -> None:
        turn_started = time.monotonic()
        if len(self.workers.loaded) > 1:
            time.sleep(REST_SECONDS)
        pids = [worker.pid for worker in self.workers.loaded.values()]
        before = conditions.snapshot(self.grid.device, pids)
        started, cpu_started = time.monotonic(), time.process_time()
        turn = {"op": "turn", "seconds": self.plan.turn_seconds}
        reply = self._ask(contestant, cell, turn, self.plan.timeout_seconds)
        self.turns_cpu_seconds += time.process_time() - cpu_started
        self.turns_seconds += time.monotonic() - started
        cell.spent_seconds += time.monotonic() - turn_started
        if cell.error:
            return
        after = conditions.snapshot(self.grid.device, pids)
        cell.conditions.append(conditions.between(before, after, reply["cpu_seconds"]))
        for name, key in KINDS_OF_TIME.items():
            if reply[key]:
                cell.times[name].append(reply[key])

    def _alive(self, cells: Mapping[Contestant, Measured]) -> list[Contestant]:
        return [contestant for contestant, cell in cells.items() if not cell.error]

    def _ask(
        self, contestant: Contestant, cell: Measured, message: Mapping[str, Any], timeout: float
    ) -> dict[str, Any]:
        """The reply, or {} with the cell's error set and the worker restored to a state that can go on."""
        worker = self.workers.loaded[contestant]
        try:
            return worker.request(message, timeout)
        except WorkerError as error:
            cell.error = error
            if error.is_gone:
                self.workers.unload(contestant)
            else:
                self._end_cell(contestant)
            return {}

    def _end_cell(self, contestant: Contestant) -> None:
        """Have a worker let go of its cell; one that cannot is started again for the next."""
        try:
            self.workers.loaded[contestant].request({"op": "end"}, self.plan.timeout_seconds)
        except WorkerError:
            self.workers.unload(contestant)

    def _judge(self, shape: Shape, contestant: Contestant, cell: Measured) -> None:
        pair = self.prepared.judged_by.pair(contestant.precision, shape)
        tolerance = TOLERANCES[contestant.precision]
        request = {"op": "judge", "reference": None, "yardstick": None, "atol": tolerance.atol, "rtol": tolerance.rtol}
        if self.prepared.classes[contestant].computes_the_model and not isinstance(pair, str):
            request |= {"reference": str(pair[0].path), "yardstick": str(pair[1].path)}
        reply = self._ask(contestant, cell, request, self.plan.timeout_seconds)
        cell.facts |= reply.get("facts", {})
        cell.memory |= {name: held for name, held in reply.get("memory", {}).items() if name in PEAKS_OF_MEMORY}
        if cell.error or not self.prepared.classes[contestant].computes_the_model:
            return
        if isinstance(pair, str):
            cell.parity = {"verdict": "unjudged", "reason": pair}
        else:
            cell.parity = worst_case(reply["cases"], tolerance)

    def _retry_alone(self, shape: Shape, contestant: Contestant, cell: Measured) -> Measured:
        """Measure a cell that ran out of memory once more with every other worker gone."""
        self.say(f"{contestant.label} ran out of memory at {shape}; trying it alone")
        self.workers.close()
        self.workers.load([contestant])
        if contestant not in self.workers.loaded:
            return cell
        alone = Measured(turns="sequential")
        self._take_rounds(shape, {contestant: alone})
        if alone.error:
            alone.error.reason += " (also with no other worker loaded)"
        return alone

    def _note_failure(self, contestant: Contestant, shape: Shape, cell: Measured) -> None:
        status = cell.error.status if cell.error else "ok"
        if status == "oom" and contestant not in self.workers.refused:
            self.out_of_memory.setdefault(contestant, []).append(shape)
        if status in ("failed", "timeout") and cell.error and cell.error.is_gone:
            self.workers.strikes[contestant] = self.workers.strikes.get(contestant, 0) + 1
        elif status == "ok":
            self.workers.strikes[contestant] = 0

    def _record(self, shape: Shape, contestant: Contestant, cell: Measured) -> Record:
        artifact = self.prepared.artifacts.get(contestant)
        times: dict[str, Any] = {} if cell.error else dict(cell.times)
        record = Record(
            model=self.grid.model,
            backend=contestant.backend,
            variant=contestant.variant,
            precision=contestant.precision,
            device=self.grid.device,
            batch=shape.batch,
            length=shape.length,
            status=cell.error.status if cell.error else "ok",
            reason=cell.error.reason if cell.error else "",
            weights=self.prepared.source.weights,
            copy=contestant.copy,
            **times,
            calls_per_sample=cell.calls_per_sample,
            unmet=[] if cell.error else cell.unmet(self.plan),
            conditions=conditions.summary(cell.conditions),
            memory=self._memory(shape, contestant, cell),
            operations=self.prepared.operations(shape, contestant),
            warmup_ns=cell.warmup_ns,
            first_call_ns=cell.first_call_ns,
            export_seconds=artifact.export_seconds if artifact else None,
            load_seconds=self.workers.load_seconds.get(contestant),
            parity=cell.parity,
            facts=cell.facts | {"versions": self.workers.versions.get(contestant, {})},
            failure=cell.error.details if cell.error else {},
            turns=cell.turns,
            repeat=command_of(self.grid, self.plan, [contestant], [shape]),
            judged=self.prepared.classes[contestant].computes_the_model,
        )
        return replace(record, warnings=warnings_of(record, self.plan))

    def _memory(self, shape: Shape, contestant: Contestant, cell: Measured) -> dict[str, Any]:
        """What was held once the model was loaded, the peak of a call, and what a decoder's cache would take."""
        found: dict[str, Any] = {"loaded": self.workers.memory.get(contestant, {}), "peak": cell.memory}
        cache = self.prepared.source.key_value_bytes(shape.length, contestant.precision)
        return found if cache is None else found | {"key_value_bytes_per_sequence": cache}
