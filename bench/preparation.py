"""What a run needs before anything is timed: the checkpoint, each backend's artifact, the references to judge by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import backends
import exporters
from bench import export, worker
from bench.channel import Worker, WorkerError
from bench.errors import BenchError, UserError
from bench.floor import WEIGHT_BYTES
from bench.inputs import VERSION as INPUTS_VERSION
from bench.inputs import InputPlan
from bench.spec import Contestant, Grid, Shape, check_lengths
from exporters import checkpoint
from exporters.sources import ModelSource
from exporters.store import Artifact, ArtifactStore

Say = Callable[[str], None]

EXPORT_TIMEOUT_SECONDS = 3600.0
#: The precision of the reference, and the device that it is computed on.
REFERENCE = ("fp64", "cpu")
#: Raise when what is stored beside a reference's outputs changes.
REFERENCE_VERSION = 2


class Preparation:
    """Which contestants can run, and what each of them loads and is judged by."""

    def __init__(self, grid: Grid, source: ModelSource, store: ArtifactStore, timeout_seconds: float, say: Say) -> None:
        self.grid, self.source, self.store, self.say = grid, source, store, say
        self.timeout_seconds = timeout_seconds
        self.classes = {contestant: backends.load_class(contestant.backend) for contestant in grid.contestants}
        self.artifacts: dict[Contestant, Artifact] = {}
        self.refused: dict[Contestant, WorkerError] = {}
        """Contestants that cannot run at all, and why."""
        self.references: dict[tuple[str, Shape], Artifact | str] = {}
        """Stored outputs by precision and shape, or why there are none."""
        for contestant, backend in self.classes.items():
            if reason := backend.supports(grid.device, contestant.precision):
                self.refused[contestant] = WorkerError("unsupported", reason)
            elif backend.format is not None and backend.format not in exporters.names():
                reason = f"nothing exports the format {backend.format!r}; known are {', '.join(exporters.names())}"
                self.refused[contestant] = WorkerError("unsupported", reason)

    def inputs(self, shape: Shape) -> dict[str, Any]:
        """The plan of a shape's inputs, as a request to a worker carries it."""
        width = self.source.vocab_size if self.grid.task == "lm" else self.source.width
        vocabulary, padding = self.source.vocab_size, self.source.pad_token_id
        return asdict(InputPlan(shape.batch, shape.length, vocabulary, padding, self.grid.seed, width))

    def operations(self, shape: Shape, contestant: Contestant) -> dict[str, int]:
        """`flops` of one call at `shape` and `weight_bytes` that it must read; {} where nothing was counted."""
        counted = self.references.get((REFERENCE[0], shape))
        if not isinstance(counted, Artifact) or not self.classes[contestant].computes_the_model:
            return {}
        if "flops" not in counted.metadata:
            return {}
        elements = counted.metadata["weight_elements"]
        return {"flops": counted.metadata["flops"], "weight_bytes": elements * WEIGHT_BYTES[contestant.precision]}

    def missing_exports(self) -> list[str]:
        """Formats (with precision) that are not in the store yet, for the plan."""
        wanted = self._with_formats()
        weights = checkpoint.recipe(self.source)
        if not wanted:
            return []
        if (found := self.store.find(weights)) is None:
            others = (c for c in wanted if self.classes[c].format != "checkpoint")
            return list(dict.fromkeys(["checkpoint", *(f"{self.classes[c].format} {c.precision}" for c in others)]))
        missing = (recipe for recipe in self._recipes(found.key).values() if self.store.find(recipe) is None)
        return list(dict.fromkeys(_name(recipe) for recipe in missing))

    def make(self) -> None:
        """Bring checkpoint, artifacts and references into the store, each verified.

        Raises UserError for a model that cannot be had or a length beyond its positions, and
        BenchError when the store cannot be written.
        """
        if not self._with_formats():
            return
        self.store.prepare()
        self._clear_leftovers()
        try:
            weights = self._make_artifacts()
            if any(self.classes[contestant].computes_the_model for contestant in self.artifacts):
                for precision, device in self._judging_precisions():
                    self._evaluate(weights, precision, device)
        finally:
            self._clear_leftovers()

    def _with_formats(self) -> list[Contestant]:
        return [c for c, backend in self.classes.items() if backend.format is not None and c not in self.refused]

    def _recipes(self, checkpoint_key: str) -> dict[Contestant, dict[str, Any]]:
        found = {}
        for contestant in self._with_formats():
            format = str(self.classes[contestant].format)  # noqa: A001 - the field's word
            found[contestant] = (
                checkpoint.recipe(self.source)
                if format == "checkpoint"
                else exporters.recipe(format, checkpoint_key, precision=contestant.precision, device=self.grid.device)
            )
        return found

    def _make_artifacts(self) -> Artifact:
        recipe = checkpoint.recipe(self.source)
        if (stored := self.store.find(recipe)) is not None:
            self._drop_damaged([recipe, *self._recipes(stored.key).values()])
        else:
            self._drop_damaged([recipe])
        grid = self.grid
        which = [
            f"--model={grid.model}",
            "--weights",
            self.source.weights,
            "--task",
            grid.task,
            "--seed",
            str(grid.seed),
        ]
        weights = self._export(recipe, which)
        check_lengths(grid.shapes, grid.model, weights.metadata["positions"])
        for contestant, recipe in self._recipes(weights.key).items():
            which = ["--checkpoint", weights.key, "--precision", contestant.precision, "--device", grid.device]
            try:
                self.artifacts[contestant] = self._export(recipe, which)
            except WorkerError as error:
                reason = f"the {recipe['format']} export failed: {_with_last_words(error)}"
                self.refused[contestant] = WorkerError(error.status, reason, error.details)
                self.say(reason)
        return weights

    def _export(self, recipe: Mapping[str, Any], which: list[str]) -> Artifact:
        """The stored artifact of `recipe`, or a new one from a process of its own."""
        if (found := self.store.find(recipe)) is not None:
            self.store.touch(found)
            return found
        self.say(f"exporting {_name(recipe)}")
        process = export.start(self.store.root, recipe["format"], which, self.grid.threads)
        try:
            process.request({"op": "export"}, EXPORT_TIMEOUT_SECONDS)
        except WorkerError as error:
            if error.status == "user":
                raise UserError(error.reason) from None
            if error.status == "store" or recipe["format"] == "checkpoint":
                raise BenchError(_with_last_words(error)) from None
            if self.store.is_full():  # some writers abort the process instead of raising
                name = self.store.path_of(recipe).name
                raise BenchError(
                    f"artifact {name} cannot be written (No space left on device); free some space"
                ) from None
            raise
        finally:
            process.kill()
        found = self.store.find(recipe)
        if found is None:
            raise BenchError(f"the {recipe['format']} export left nothing under its key; its recipe changes by itself")
        return found

    def _clear_leftovers(self) -> None:
        """Remove what exports that were killed or interrupted left half-written."""
        for path in self.store.leftovers():
            self.store.remove(path)

    def _drop_damaged(self, recipes: Sequence[Mapping[str, Any]]) -> None:
        stored = {self.store.path_of(recipe) for recipe in recipes}
        present = [path for path in sorted(stored) if path.exists() or path.is_symlink()]
        for path, damage in self.store.drop_damaged(present).items():
            self.say(f"artifact {path.name} is damaged ({damage}); it is made again")

    def _judging_precisions(self) -> list[tuple[str, str]]:
        """Precision and device of every evaluation that judging needs: the reference, and eager's own error."""
        judged = {c.precision for c in self.artifacts if self.classes[c].computes_the_model}
        return [REFERENCE, *((precision, self.grid.device) for precision in sorted(judged))]

    def _evaluate(self, weights: Artifact, precision: str, device: str) -> None:
        """Store eager's outputs for the judged rows of every shape at one precision."""
        recipes = {shape: self._reference_recipe(weights, shape, precision, device) for shape in self.grid.shapes}
        self._drop_damaged(list(recipes.values()))
        missing = [shape for shape, recipe in recipes.items() if self.store.find(recipe) is None]
        process: Worker | None = None
        if missing:
            what = "the float64 reference" if precision == REFERENCE[0] else f"eager's own error at {precision}"
            self.say(f"computing {what} for {len(missing)} shape{'' if len(missing) == 1 else 's'}")
        try:
            for shape in missing:
                try:
                    process = process or self._start_eager(weights, precision, device)
                    self._store_reference(process, shape, recipes[shape])
                except WorkerError as error:
                    self.references[precision, shape] = f"eager at {precision} on {device}: {error.reason}"
                    process = None if error.is_gone else process
        finally:
            if process is not None:
                process.kill()
        for shape, recipe in recipes.items():
            if (found := self.store.find(recipe)) is not None:
                self.references[precision, shape] = found

    def _start_eager(self, weights: Artifact, precision: str, device: str) -> Worker:
        process = worker.start("eager", "default", precision, device, weights.path, self.grid.threads, self.store.root)
        try:
            for op in ("hello", "load"):
                process.request({"op": op}, self.timeout_seconds)
        except WorkerError:
            process.kill()
            raise
        return process

    def _store_reference(self, process: Worker, shape: Shape, recipe: Mapping[str, Any]) -> None:
        def write(folder: Path) -> dict[str, Any]:
            request = {"op": "evaluate", "inputs_plan": self.inputs(shape), "folder": str(folder.resolve())}
            return process.request(request, self.timeout_seconds)

        self.store.make(recipe, write)

    def _reference_recipe(self, weights: Artifact, shape: Shape, precision: str, device: str) -> dict[str, Any]:
        return {
            "format": "reference",
            "version": REFERENCE_VERSION,
            "checkpoint": weights.key,
            "inputs": {**self.inputs(shape), "version": INPUTS_VERSION},
            "precision": precision,
            "device": device,
            "threads": self.grid.threads,
            "libraries": weights.recipe["libraries"],
        }


def _name(recipe: Mapping[str, Any]) -> str:
    """`onnx fp32`, or `checkpoint`."""
    return " ".join(filter(None, [recipe["format"], recipe.get("precision")]))


def _with_last_words(error: WorkerError) -> str:
    words = error.details.get("stderr")
    return f"{error.reason}: {words[-1]}" if words else error.reason
