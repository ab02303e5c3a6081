"""The driver: makes what is missing, starts the workers, hands out turns, writes each record as it comes.

It imports no framework and starts no CUDA context, and while a worker is timing it only waits.
"""

from __future__ import annotations

import os
import random
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import backends
import exporters
from bench import machine
from bench.channel import Worker, WorkerError, python_module
from bench.errors import BenchError, UserError
from bench.inputs import VERSION as INPUTS_VERSION
from bench.inputs import InputPlan
from bench.parity.verdict import TOLERANCES, worst_case
from bench.records import Record, Run, RunFile, record_line
from bench.spec import Contestant, Grid, Shape, TimingPlan, check_lengths
from bench.warnings import warnings_of
from exporters import checkpoint
from exporters.models import ModelSource
from exporters.store import Artifact, ArtifactStore

Say = Callable[[str], None]

#: Deaths or hangs in a row after which a contestant's remaining cells are skipped.
STRIKES = 3
#: Memory of a worker beside its weights, in bytes: interpreter, runtime, activations of a small cell.
PROCESS_BYTES = {"cpu": 700 * 2**20, "cuda": 900 * 2**20}
#: Pause before a turn: ONNX Runtime's idle threads were seen to spin for up to 50 ms after a call.
REST_SECONDS = 0.06
EXPORT_TIMEOUT_SECONDS = 3600.0


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
    """One run from plan to records."""

    def __init__(self, run: Run, source: ModelSource, store: ArtifactStore, file: RunFile, say: Say) -> None:
        self.run, self.grid, self.plan = run, run.grid, run.plan
        self.source, self.store, self.file, self.say = source, store, file, say
        self.classes = {c: backends.load_class(c.backend) for c in self.grid.contestants}
        self.artifacts: dict[Contestant, Artifact] = {}
        self.refused: dict[Contestant, WorkerError] = {}
        self.references: dict[tuple[str, Shape], Artifact | str] = {}
        """Stored outputs by precision ("fp64" for the reference itself) and shape, or why there are none."""
        self.loaded: dict[Contestant, Worker] = {}
        self.load_seconds: dict[Contestant, float] = {}
        self.versions: dict[Contestant, dict[str, str]] = {}
        self.out_of_memory: dict[Contestant, list[Shape]] = {}
        self.strikes: dict[Contestant, int] = {}
        self.random = random.Random(self.grid.seed)
        for contestant, backend in self.classes.items():
            if reason := backend.supports(self.grid.device, contestant.precision):
                self.refused[contestant] = WorkerError("unsupported", reason)

    # What the plan needs before anything is timed.

    def recipes(self, checkpoint_key: str) -> dict[Contestant, dict[str, Any]]:
        """Recipe of each contestant's artifact; none for a backend without a format or a refused one."""
        found = {}
        for contestant, backend in self.classes.items():
            if contestant in self.refused or backend.format is None:
                continue
            if backend.format == "checkpoint":
                found[contestant] = checkpoint.recipe(self.source)
            else:
                try:
                    found[contestant] = exporters.recipe(
                        backend.format, checkpoint_key, precision=contestant.precision, device=self.grid.device
                    )
                except KeyError:
                    reason = f"nothing exports the format {backend.format!r}; known are {', '.join(exporters.names())}"
                    self.refused[contestant] = WorkerError("unsupported", reason)
        return found

    def missing_exports(self) -> list[str]:
        """Formats (with precision) that are not in the store yet, for the plan."""
        if not self._needs_model():
            return []
        weights = checkpoint.recipe(self.source)
        found = self.store.find(weights)
        if found is None:
            wanted = {c: {"format": self.classes[c].format, "precision": c.precision} for c in self._judged()}
            names = [_export_name(recipe) for recipe in wanted.values() if recipe["format"] != "checkpoint"]
            return list(dict.fromkeys(["checkpoint", *names]))
        recipes = self.recipes(found.key).values()
        return list(dict.fromkeys(_export_name(recipe) for recipe in recipes if self.store.find(recipe) is None))

    def _judged(self) -> list[Contestant]:
        return [c for c, backend in self.classes.items() if backend.computes_the_model and c not in self.refused]

    def _needs_model(self) -> bool:
        return any(backend.format for c, backend in self.classes.items() if c not in self.refused)

    def prepare(self) -> None:
        """Bring checkpoint, artifacts and references into the store, each verified.

        Raises UserError for a model that cannot be had or a length beyond its positions, and
        BenchError when the store cannot be written.
        """
        if not self._needs_model():
            return
        self.store.prepare()
        self._clear_leftovers()
        weights_recipe = checkpoint.recipe(self.source)
        recipes = [weights_recipe]
        if (found := self.store.find(weights_recipe)) is not None:
            recipes += self.recipes(found.key).values()
        self._drop_damaged(recipes)
        weights = self._export(
            weights_recipe,
            [
                "--model",
                self.grid.model,
                "--weights",
                self.source.weights,
                "--task",
                self.grid.task,
                "--seed",
                str(self.grid.seed),
            ],
        )
        check_lengths(self.grid.shapes, self.grid.model, weights.metadata["positions"])
        for contestant, recipe in self.recipes(weights.key).items():
            try:
                extra = ["--checkpoint", weights.key, "--precision", contestant.precision, "--device", self.grid.device]
                self.artifacts[contestant] = self._export(recipe, extra)
            except WorkerError as error:
                reason = f"the {recipe['format']} export failed: {error.reason}"
                self.refused[contestant] = WorkerError(error.status, reason, error.details)
                self.say(reason)
        if self._judged():
            self._prepare_references(weights)

    def _clear_leftovers(self) -> None:
        """Remove what exports that were killed or interrupted left half-written."""
        for path in self.store.leftovers():
            self.store.remove(path)

    def _drop_damaged(self, recipes: Sequence[Mapping[str, Any]]) -> None:
        stored = {self.store.path_of(recipe) for recipe in recipes}
        for path, damage in self.store.damages([path for path in sorted(stored) if path.exists()]).items():
            if damage:
                self.say(f"artifact {path.name} is damaged ({damage}); it is made again")
                self.store.remove(path)

    def _export(self, recipe: Mapping[str, Any], arguments: list[str]) -> Artifact:
        if (found := self.store.find(recipe)) is not None:
            self.store.touch(found)
            return found
        self.say(f"exporting {_export_name(recipe)}")
        command = [
            *python_module("bench.export"),
            "--artifacts",
            str(self.store.root),
            "--format",
            recipe["format"],
        ]
        worker = Worker([*command, *arguments, "--parent", str(os.getpid())], self.grid.threads)
        try:
            worker.request({"op": "export"}, EXPORT_TIMEOUT_SECONDS)
        except WorkerError as error:
            if error.status == "user":
                raise UserError(error.reason) from None
            if error.status == "store" or recipe["format"] == "checkpoint":
                raise BenchError(_with_last_words(error)) from None
            raise
        finally:
            worker.close()
            self._clear_leftovers()
        found = self.store.find(recipe)
        if found is None:
            raise BenchError(
                f"the {recipe['format']} export left nothing under its key; its recipe is not deterministic"
            )
        return found

    def _prepare_references(self, weights: Artifact) -> None:
        precisions = {c.precision for c in self._judged()}
        self._evaluate(weights, "fp64", "cpu")
        for precision in sorted(precisions):
            self._evaluate(weights, precision, self.grid.device)

    def _evaluate(self, weights: Artifact, precision: str, device: str) -> None:
        """Store eager's outputs for the judged rows of every shape at one precision."""
        recipes = {shape: self._reference_recipe(weights, shape, precision, device) for shape in self.grid.shapes}
        self._drop_damaged(list(recipes.values()))
        missing = {shape: recipe for shape, recipe in recipes.items() if self.store.find(recipe) is None}
        if missing:
            what = "the float64 reference" if precision == "fp64" else f"eager's own error at {precision}"
            self.say(f"computing {what} for {len(missing)} shapes")
        worker: Worker | None = None
        for shape, recipe in recipes.items():
            try:
                if shape in missing:
                    if worker is None:
                        worker = self._start("eager", "default", precision, device, weights)
                        worker.request({"op": "load"}, self.plan.timeout_seconds)
                    self._store_reference(worker, shape, recipe)
                found = self.store.find(recipe)
                assert found is not None
                self.references[precision, shape] = found
            except WorkerError as error:
                self.references[precision, shape] = f"eager at {precision} on {device}: {error.reason}"
                if error.is_gone:
                    worker = None
        if worker is not None:
            worker.close()

    def _store_reference(self, worker: Worker, shape: Shape, recipe: Mapping[str, Any]) -> None:
        def write(folder: Path) -> dict[str, Any]:
            request = {"op": "evaluate", "inputs_plan": self._inputs(shape), "folder": str(folder)}
            return worker.request(request, self.plan.timeout_seconds)

        self.store.make(recipe, write)

    def _reference_recipe(self, weights: Artifact, shape: Shape, precision: str, device: str) -> dict[str, Any]:
        return {
            "format": "reference",
            "checkpoint": weights.key,
            "inputs": {**self._inputs(shape), "version": INPUTS_VERSION},
            "precision": precision,
            "device": device,
            "threads": self.grid.threads,
            "libraries": weights.recipe["libraries"],
        }

    def _inputs(self, shape: Shape) -> dict[str, Any]:
        width = self.source.vocab_size if self.grid.task == "lm" else self.source.width
        return asdict(
            InputPlan(
                shape.batch, shape.length, self.source.vocab_size, self.source.pad_token_id, self.grid.seed, width
            )
        )

    # Workers.

    def _start(self, backend: str, variant: str, precision: str, device: str, artifact: Artifact | None) -> Worker:
        """Start a worker's process; returns when it has imported its runtime."""
        worker = self._spawn(backend, variant, precision, device, artifact)
        self._greet(worker)
        return worker

    def _spawn(self, backend: str, variant: str, precision: str, device: str, artifact: Artifact | None) -> Worker:
        command = [*python_module("bench.worker"), "--backend", backend, "--variant", variant]
        command += ["--precision", precision, "--device", device, "--threads", str(self.grid.threads)]
        command += ["--artifact", str(artifact.path)] if artifact else []
        cache = {"TORCHINDUCTOR_CACHE_DIR": str((self.store.root / "cache" / "inductor").resolve())}
        return Worker([*command, "--parent", str(os.getpid())], self.grid.threads, cache)

    def _greet(self, worker: Worker) -> dict[str, str]:
        try:
            versions: dict[str, str] = worker.request({"op": "hello"}, self.plan.timeout_seconds)["versions"]
            return versions
        except WorkerError:
            worker.kill()
            raise

    def load(self, contestants: Sequence[Contestant]) -> None:
        """Start the workers of `contestants` that are not loaded: imports side by side, loads one by one."""
        spawned = {}
        for contestant in contestants:
            if contestant in self.loaded or contestant in self.refused or self._is_given_up(contestant):
                continue
            artifact = self.artifacts.get(contestant)
            worker = self._spawn(
                contestant.backend, contestant.variant, contestant.precision, self.grid.device, artifact
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
            if contestant not in self.refused:
                try:
                    reply = worker.request({"op": "load"}, self.plan.timeout_seconds)
                    self.load_seconds[contestant] = reply["seconds"]
                except WorkerError as error:
                    self._refuse(contestant, error)

    def _refuse(self, contestant: Contestant, error: WorkerError) -> None:
        self._unload(contestant)
        reason = f"{contestant.label} did not load: {error.reason}"
        self.refused[contestant] = WorkerError(error.status, reason, error.details)

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
        """Contestants that take turns: all of them, or each alone where memory does not hold all workers."""
        usable = [c for c in self.grid.contestants if c not in self.refused]
        needed = sum(self._weight_bytes(c) + PROCESS_BYTES[self.grid.device] for c in usable)
        if self.grid.device == "cuda":
            available = int(machine.gpus()[0]["free_bytes"])
        else:
            available = machine.available_memory_bytes()
        if len(usable) > 1 and needed > 0.8 * available:
            self.say(
                f"memory ({available / 2**30:.1f} GiB free) does not hold all workers; they are timed one after another"
            )
            return [(contestant,) for contestant in self.grid.contestants]
        return [self.grid.contestants]

    def _weight_bytes(self, contestant: Contestant) -> int:
        artifact = self.artifacts.get(contestant)
        # Loading holds the weights twice for a moment, and a compiled backend keeps packed copies.
        return 2 * artifact.bytes if artifact else 0

    # Measuring.

    def measure(self, progress: Callable[[list[Record]], None]) -> None:
        """Measure every cell that has no record; `progress` sees a shape's records once they are on disk."""
        started, cpu_started = time.monotonic(), time.process_time()
        try:
            for group in self.groups():
                for shape in self.grid.shapes:
                    recorded = {record.contestant for record in self.run.records if record.shape == shape}
                    wanted = [contestant for contestant in group if contestant not in recorded]
                    if not wanted:
                        continue
                    self.load(wanted)
                    if not self.run.records:
                        self.say(
                            f"measuring with {len(self.loaded)} workers loaded, {time.monotonic() - started:.1f} s"
                        )
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
        self._take_rounds(shape, cells)
        for contestant, cell in cells.items():
            if cell.error and cell.error.status == "oom" and contestant not in self.refused and len(self.loaded) > 1:
                cells[contestant] = self._retry_alone(shape, contestant, cell)
        for contestant, cell in cells.items():
            self._note_failure(contestant, shape, cell)
        return [self._record(shape, contestant, cell) for contestant, cell in cells.items()]

    def _known_outcome(self, contestant: Contestant, shape: Shape) -> WorkerError | None:
        """Why this cell need not be tried, if so."""
        if contestant in self.refused:
            return self.refused[contestant]
        for smaller in self.out_of_memory.get(contestant, []):
            if shape.batch >= smaller.batch and shape.length >= smaller.length:
                return WorkerError("skipped", f"a smaller cell, {smaller}, ran out of memory")
        if self._is_given_up(contestant):
            return WorkerError("skipped", f"given up after {STRIKES} dead or hung workers in a row")
        return None

    def _take_rounds(self, shape: Shape, cells: Mapping[Contestant, Measured]) -> None:
        """Warm every contestant up, go round them in seeded random order, then judge what was timed."""
        timeout = self.plan.timeout_seconds
        begin = {"op": "begin", "inputs_plan": self._inputs(shape), "plan": asdict(self.plan)}
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
            self._ask(contestant, cells[contestant], {"op": "end"}, timeout)

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
                try:
                    worker.request({"op": "end"}, timeout)
                except WorkerError:
                    self._unload(contestant)
            return {}

    def _judge(self, shape: Shape, contestant: Contestant, cell: Measured) -> None:
        reference = self.references.get(("fp64", shape))
        yardstick = self.references.get((contestant.precision, shape))
        tolerance = TOLERANCES[contestant.precision]
        request = {
            "op": "judge",
            "reference": str(reference.path) if isinstance(reference, Artifact) else None,
            "yardstick": str(yardstick.path) if isinstance(yardstick, Artifact) else None,
            "atol": tolerance.atol,
            "rtol": tolerance.rtol,
        }
        if not self.classes[contestant].computes_the_model:
            request |= {"reference": None, "yardstick": None}
        reply = self._ask(contestant, cell, request, self.plan.timeout_seconds)
        cell.facts |= reply.get("facts", {})
        if cell.error or not self.classes[contestant].computes_the_model:
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
        if contestant in self.refused:
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
        artifact = self.artifacts.get(contestant)
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
            weights=self.source.weights,
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
            judged=self.classes[contestant].computes_the_model,
        )
        return replace(record, warnings=warnings_of(record))


def _export_name(recipe: Mapping[str, Any]) -> str:
    """`onnx fp32`, or `checkpoint`."""
    return " ".join(filter(None, [recipe["format"], recipe.get("precision")]))


def _with_last_words(error: WorkerError) -> str:
    words = error.details.get("stderr")
    return f"{error.reason}: {words[-1]}" if words else error.reason


def command_of(grid: Grid, plan: TimingPlan, contestants: Sequence[Contestant], shapes: Sequence[Shape]) -> str:
    """The command line that measures `contestants` at `shapes` under the options of `grid` and `plan`."""
    options = {
        "--model": grid.model,
        "--backends": ",".join(dict.fromkeys(contestant.label for contestant in contestants)),
        "--batches": ",".join(str(batch) for batch in dict.fromkeys(shape.batch for shape in shapes)),
        "--lengths": ",".join(str(length) for length in dict.fromkeys(shape.length for shape in shapes)),
        "--device": grid.device,
        "--precisions": ",".join(dict.fromkeys(contestant.precision for contestant in contestants)),
        "--threads": grid.threads,
        "--weights": grid.weights,
        "--task": grid.task,
        "--seed": grid.seed,
        "--rounds": plan.rounds,
        "--max-seconds-per-cell": f"{plan.seconds_per_cell:g}",
        "--timeout": f"{plan.timeout_seconds:g}",
    }
    return shlex.join(["bench", "compare", *(str(part) for option in options.items() for part in option)])
