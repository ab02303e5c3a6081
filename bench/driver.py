"""The driver: starts the workers, hands out turns, writes each record as it comes.

It imports no framework and starts no CUDA context, and while a worker is timing it only waits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench import machine
from bench.channel import Worker, WorkerError
from bench.parity.verdict import TOLERANCES, worst_case
from bench.preparation import Preparation, Say
from bench.records import Record, Run, RunFile, record_line
from bench.spec import Contestant, Shape, command_of
from bench.warnings import warnings_of
from bench.worker import start
from exporters.store import Artifact

#: Deaths or hangs in a row after which a contestant's remaining cells are skipped.
STRIKES = 3
#: Memory of a worker beside its weights, in bytes: interpreter, runtime, activations of a small cell.
PROCESS_BYTES = {"cpu": 700 * 2**20, "cuda": 900 * 2**20}
#: Pause before a turn: ONNX Runtime's idle threads were seen to spin for up to 50 ms after a call.
REST_SECONDS = 0.06


@dataclass
class Measured:
    """What is known of one cell while it is being measured."""

    rounds: list[list[int]] = field(default_factory=list)
    device_rounds: list[list[int]] = field(default_factory=list)
    warmup_ns: list[int] = field(default_factory=list)
    first_call_ns: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    error: WorkerError | None = None
    turns: str = "interleaved"

    @property
    def spent_seconds(self) -> float:
        """Time of the samples taken so far."""
        return sum(map(sum, self.rounds)) / 1e9


class Driver:
    """The workers of one run, and whose turn it is."""

    def __init__(self, run: Run, prepared: Preparation, file: RunFile, say: Say) -> None:
        self.run, self.grid, self.plan = run, run.grid, run.plan
        self.prepared, self.file, self.say = prepared, file, say
        self.refused = prepared.refused
        self.loaded: dict[Contestant, Worker] = {}
        self.load_seconds: dict[Contestant, float] = {}
        self.versions: dict[Contestant, dict[str, str]] = {}
        self.out_of_memory: dict[Contestant, list[Shape]] = {}
        self.strikes: dict[Contestant, int] = {}
        self.lost: dict[Contestant, WorkerError] = {}
        """Workers that died while starting; they are started again for the next shape."""
        self.random = random.Random(self.grid.seed)

    def load(self, contestants: Sequence[Contestant]) -> None:
        """Start the workers of `contestants` that are not loaded: imports side by side, loads one by one."""
        spawned = {}
        for contestant in contestants:
            self.lost.pop(contestant, None)
            if contestant in self.loaded or contestant in self.refused or self._is_given_up(contestant):
                continue
            artifact = self.prepared.artifacts.get(contestant)
            worker = start(
                contestant.backend,
                contestant.variant,
                contestant.precision,
                self.grid.device,
                artifact.path if artifact else None,
                self.grid.threads,
                self.prepared.store.root,
            )
            worker.send({"op": "hello"})
            spawned[contestant] = worker
            self.loaded[contestant] = worker
        for contestant, worker in spawned.items():
            try:
                self.versions[contestant] = worker.receive(self.plan.timeout_seconds)["versions"]
            except WorkerError as error:
                self._refuse(contestant, error)
        for contestant, worker in spawned.items():
            if contestant in self.loaded:
                try:
                    reply = worker.request({"op": "load"}, self.plan.timeout_seconds)
                    self.load_seconds[contestant] = reply["seconds"]
                except WorkerError as error:
                    self._refuse(contestant, error)

    def _refuse(self, contestant: Contestant, error: WorkerError) -> None:
        """Note why a worker did not start: for good if it said so itself, for now if it was lost."""
        self._unload(contestant)
        reason = f"{contestant.label} did not load: {error.reason}"
        outcome = WorkerError(error.status, reason, error.details, error.is_gone)
        if error.is_gone and error.status != "oom":
            self.lost[contestant] = outcome
        else:
            self.refused[contestant] = outcome

    def close(self) -> None:
        """End every worker."""
        for worker in self.loaded.values():
            worker.kill()
        self.loaded.clear()

    def _unload(self, contestant: Contestant) -> None:
        if worker := self.loaded.pop(contestant, None):
            worker.kill()

    def _is_given_up(self, contestant: Contestant) -> bool:
        return self.strikes.get(contestant, 0) >= STRIKES

    def groups(self) -> list[tuple[Contestant, ...]]:
        """Contestants that take turns: all of them, loaded now, or each alone where memory does not hold all."""
        usable = [c for c in self.grid.contestants if c not in self.refused]
        needed = sum(self._weight_bytes(c) + PROCESS_BYTES[self.grid.device] for c in usable)
        if self.grid.device == "cuda":
            available = int(machine.gpus()[0]["free_bytes"])
        else:
            available = machine.available_memory_bytes()
        fits = len(usable) < 2 or needed <= 0.8 * available
        if fits:
            self.load(usable)
            crowded_out = [c for c in usable if c in self.refused and self.refused[c].status == "oom"]
            fits = not (crowded_out and self.loaded)
            for contestant in crowded_out if not fits else []:
                del self.refused[contestant]
        if fits:
            return [self.grid.contestants]
        self.close()
        self.say(
            f"memory ({available / 2**30:.1f} GiB free) does not hold all workers; they are timed one after another"
        )
        return [(contestant,) for contestant in self.grid.contestants]

    def _weight_bytes(self, contestant: Contestant) -> int:
        artifact = self.prepared.artifacts.get(contestant)
        # Loading holds the weights twice for a moment, and a compiled backend keeps packed copies.
        return 2 * artifact.bytes if artifact else 0

    # Measuring.

    def measure(self, begin: Callable[[], None], progress: Callable[[list[Record]], None]) -> None:
        """Measure every cell that has no record.

        `begin` is called once the workers are loaded; `progress` sees a shape's records once they are on disk.
        """
        started, cpu_started = time.monotonic(), time.process_time()
        try:
            groups = self.groups()
            self.say(f"measuring; {len(self.loaded)} workers loaded in {time.monotonic() - started:.1f} s")
            begin()
            for group in groups:
                for shape in self.grid.shapes:
                    recorded = {record.contestant for record in self.run.records if record.shape == shape}
                    wanted = [contestant for contestant in group if contestant not in recorded]
                    if not wanted:
                        continue
                    self.load(wanted)
                    records = self._measure_shape(shape, wanted)
                    for record in records:
                        self.run.records.append(record)
                        self.file.append(record_line(record))
                    progress(records)
                self.close()
        finally:
            self.close()
        wall = time.monotonic() - started
        self.run.parent_cpu_share = round((time.process_time() - cpu_started) / wall, 5) if wall else None
        self.run.is_complete = True
        self.file.append({"kind": "end", "seconds": round(wall, 3), "parent_cpu_share": self.run.parent_cpu_share})

    def _measure_shape(self, shape: Shape, group: Sequence[Contestant]) -> list[Record]:
        cells = {contestant: Measured(error=self._known_outcome(contestant, shape)) for contestant in group}
        if len(group) < len(self.grid.contestants):  # the others are not loaded, or were measured before a resume
            for cell in cells.values():
                cell.turns = "sequential"
        is_crowded = len(self.loaded) > 1
        self._take_rounds(shape, cells)
        for contestant, cell in cells.items():
            if cell.error and cell.error.status == "oom" and contestant not in self.refused and is_crowded:
                cells[contestant] = self._retry_alone(shape, contestant, cell)
        for contestant, cell in cells.items():
            self._note_failure(contestant, shape, cell)
        return [self._record(shape, contestant, cell) for contestant, cell in cells.items()]

    def _known_outcome(self, contestant: Contestant, shape: Shape) -> WorkerError | None:
        """Why this cell need not be tried, if so."""
        if contestant in self.refused:
            return self.refused[contestant]
        if contestant in self.lost:
            return self.lost[contestant]
        for smaller in self.out_of_memory.get(contestant, []):
            if shape.batch >= smaller.batch and shape.length >= smaller.length:
                return WorkerError("skipped", f"a smaller cell, {smaller}, ran out of memory")
        if self._is_given_up(contestant):
            return WorkerError("skipped", f"given up after {STRIKES} dead or hung workers in a row")
        return None

    def _take_rounds(self, shape: Shape, cells: Mapping[Contestant, Measured]) -> None:
        """Warm every contestant up, go round them in seeded random order, then judge what was timed."""
        timeout = self.plan.timeout_seconds
        begin = {"op": "begin", "inputs_plan": self.prepared.inputs(shape), "plan": asdict(self.plan)}
        for contestant in self._alive(cells):
            reply = self._ask(contestant, cells[contestant], begin, timeout)
            cell = cells[contestant]
            cell.first_call_ns, cell.warmup_ns = reply.get("first_call_ns"), reply.get("warmup_ns", [])
            cell.facts |= reply.get("facts", {})
        turn = {"op": "turn", "seconds": self.plan.seconds_per_cell / self.plan.rounds}
        for taken in range(self.plan.rounds):
            alive = self._alive(cells)
            spent = max((cells[contestant].spent_seconds for contestant in alive), default=0.0)
            if taken >= self.plan.least_rounds and spent >= self.plan.seconds_per_cell:
                break
            self.random.shuffle(alive)
            for contestant in alive:
                cell = cells[contestant]
                if len(self.loaded) > 1:
                    time.sleep(REST_SECONDS)
                reply = self._ask(contestant, cell, turn, timeout)
                if not cell.error:
                    cell.rounds.append(reply["wall_ns"])
                    cell.device_rounds += [reply["device_ns"]] if reply["device_ns"] else []
        for contestant in self._alive(cells):
            self._judge(shape, contestant, cells[contestant])
            if not cells[contestant].error:
                self._end_cell(contestant)

    def _alive(self, cells: Mapping[Contestant, Measured]) -> list[Contestant]:
        return [contestant for contestant, cell in cells.items() if not cell.error]

    def _ask(
        self, contestant: Contestant, cell: Measured, message: Mapping[str, Any], timeout: float
    ) -> dict[str, Any]:
        """The reply, or {} with the cell's error set and the worker restored to a state that can go on."""
        worker = self.loaded[contestant]
        try:
            return worker.request(message, timeout)
        except WorkerError as error:
            cell.error = error
            if error.is_gone:
                self._unload(contestant)
            else:
                self._end_cell(contestant)
            return {}

    def _end_cell(self, contestant: Contestant) -> None:
        """Have a worker let go of its cell; one that cannot is started again for the next."""
        try:
            self.loaded[contestant].request({"op": "end"}, self.plan.timeout_seconds)
        except WorkerError:
            self._unload(contestant)

    def _judge(self, shape: Shape, contestant: Contestant, cell: Measured) -> None:
        reference = self.prepared.references.get(("fp64", shape))
        yardstick = self.prepared.references.get((contestant.precision, shape))
        tolerance = TOLERANCES[contestant.precision]
        request = {
            "op": "judge",
            "reference": str(reference.path) if isinstance(reference, Artifact) else None,
            "yardstick": str(yardstick.path) if isinstance(yardstick, Artifact) else None,
            "atol": tolerance.atol,
            "rtol": tolerance.rtol,
        }
        if not self.prepared.classes[contestant].computes_the_model:
            request |= {"reference": None, "yardstick": None}
        reply = self._ask(contestant, cell, request, self.plan.timeout_seconds)
        cell.facts |= reply.get("facts", {})
        if cell.error or not self.prepared.classes[contestant].computes_the_model:
            return
        missing = next((why for why in (reference, yardstick) if isinstance(why, str)), None)
        if missing is not None:
            cell.parity = {"verdict": "unjudged", "reason": f"there is no reference: {missing}"}
        else:
            cell.parity = worst_case(reply["cases"], contestant.precision)

    def _retry_alone(self, shape: Shape, contestant: Contestant, cell: Measured) -> Measured:
        """Measure a cell that ran out of memory once more with every other worker gone."""
        self.say(f"{contestant.label} ran out of memory at {shape}; trying it alone")
        self.close()
        self.load([contestant])
        if contestant not in self.loaded:
            return cell
        alone = Measured(turns="sequential")
        self._take_rounds(shape, {contestant: alone})
        if alone.error:
            alone.error.reason += " (also with no other worker loaded)"
        return alone

    def _note_failure(self, contestant: Contestant, shape: Shape, cell: Measured) -> None:
        status = cell.error.status if cell.error else "ok"
        if status == "oom" and contestant not in self.refused:
            self.out_of_memory.setdefault(contestant, []).append(shape)
        if status in ("failed", "timeout") and cell.error and cell.error.is_gone:
            self.strikes[contestant] = self.strikes.get(contestant, 0) + 1
        elif status == "ok":
            self.strikes[contestant] = 0

    def _record(self, shape: Shape, contestant: Contestant, cell: Measured) -> Record:
        artifact = self.prepared.artifacts.get(contestant)
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
            rounds=[] if cell.error else cell.rounds,
            device_rounds=[] if cell.error else cell.device_rounds,
            warmup_ns=cell.warmup_ns,
            first_call_ns=cell.first_call_ns,
            export_seconds=artifact.export_seconds if artifact else None,
            load_seconds=self.load_seconds.get(contestant),
            parity=cell.parity,
            facts=cell.facts | {"versions": self.versions.get(contestant, {})},
            failure=cell.error.details if cell.error else {},
            turns=cell.turns,
            repeat=command_of(self.grid, self.plan, [contestant], [shape]),
            judged=self.prepared.classes[contestant].computes_the_model,
        )
        return replace(record, warnings=warnings_of(record))
