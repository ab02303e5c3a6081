"""What a run needs before anything is timed: the checkpoint, each backend's artifact, the references to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backends
import exporters
from bench.errors import BenchError, UserError
from bench.machine.roofline import WEIGHT_BYTES, Peaks
from bench.parity.matrix import Matrix
from bench.parity.references import REFERENCE_PRECISION, References, Say, drop_damaged
from bench.process import export, peaks
from bench.process.channel import WorkerError
from bench.process.environments.asking import Interpreter, interpreters
from bench.process.environments.stored import unfinished
from bench.spec import Candidate, Grid, Shape, check_lengths
from exporters import checkpoint
from exporters.sources import ModelSource
from exporters.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    from backends.base import Backend

EXPORT_TIMEOUT_SECONDS = 3600.0


class Preparation:
    """Which contestants can run, and what each of them loads and is judged by."""

    def __init__(
        self,
        grid: Grid,
        source: ModelSource,
        store: ArtifactStore,
        timeout_seconds: float,
        say: Say,
        matrix: Matrix | None = None,
    ) -> None:
        self.grid, self.source, self.store, self.say = grid, source, store, say
        self.timeout_seconds = timeout_seconds
        self.judged_by = References(grid, source, store, timeout_seconds, say, matrix or Matrix())
        self.classes = {contestant: backends.load_class(contestant.backend) for contestant in grid.contestants}
        self.weights: Artifact | None = None
        """The checkpoint, once it is made."""
        self.elsewhere = interpreters(grid, store.root, {who: self.format_of(who) for who in grid.contestants})
        """Interpreter of each contestant that runs in another environment than this."""
        self._exporting: dict[Path | None, export.Exporting] = {}
        self.artifacts: dict[Candidate, Artifact] = {}
        self.refused: dict[Candidate, WorkerError] = {}
        """Contestants that cannot run at all, and why."""
        for contestant, backend in self.classes.items():
            if reason := self._reason_against(contestant, backend):
                self.refused[contestant] = WorkerError("unsupported", reason)
            elif (wanted := self.format_of(contestant)) is not None and wanted not in exporters.names():
                reason = f"nothing exports the format {wanted!r}; known are {', '.join(exporters.names())}"
                self.refused[contestant] = WorkerError("unsupported", reason)

    def _reason_against(self, contestant: Candidate, backend: type[Backend]) -> str | None:
        """Why a contestant cannot run: as its environment says, or this one."""
        if self.grid.tf32 and backend.spec.computes_the_model and not backend.spec.takes_tf32:
            return f"{contestant.backend} does not take --tf32; leave --tf32 out, or {contestant.backend}"
        if contestant in self.elsewhere:
            return self.elsewhere[contestant].reasons.get((contestant.variant, contestant.precision))
        if unfinished(self.store.root, contestant.place):  # nobody who asked for an environment is given this one
            return f"the environment {contestant.place!r} was not finished; run: bench env create {contestant.place}"
        return backend.supports(contestant.variant, self.grid.device, contestant.precision)

    def python_of(self, contestant: Candidate) -> Path | None:
        """Interpreter of a contestant's own environment; None for this one."""
        return self.elsewhere[contestant].python if contestant in self.elsewhere else None

    def versions(self, contestant: Candidate, told: Mapping[str, str]) -> dict[str, str]:
        """What a contestant's worker `told` of itself, with the interpreter's version where that is another one."""
        if contestant not in self.elsewhere:
            return dict(told)
        return dict(told) | {"python": self.elsewhere[contestant].versions["python"]}

    def _exporter(self, contestant: Candidate) -> Interpreter | None:
        """Where the artifact of a contestant is written: in its own environment where that can, else here (None)."""
        found = self.elsewhere.get(contestant)
        return found if found is not None and self.format_of(contestant) in found.libraries else None

    def format_of(self, contestant: Candidate) -> str | None:
        """Format of the artifact that a contestant loads."""
        return self.classes[contestant].spec.format_of(contestant.variant)

    def artifact_precision(self, contestant: Candidate) -> str:
        """Precision of the artifact that a contestant loads."""
        return self.classes[contestant].spec.artifact_precision(contestant.variant, contestant.precision)

    def generates_by(self, contestant: Candidate) -> str:
        """The way of generating that a contestant is loaded for; "" for forward passes."""
        return ""

    def operations(self, shape: Shape, contestant: Candidate) -> dict[str, int]:
        """`flops` of one call at `shape` and `weight_bytes` that it must read; {} where nothing was counted."""
        counted = self.judged_by.found.get((REFERENCE_PRECISION, shape))
        if not isinstance(counted, Artifact) or not self.classes[contestant].spec.computes_the_model:
            return {}
        if "flops" not in counted.metadata:
            return {}
        elements = counted.metadata["weight_elements"]
        return {"flops": counted.metadata["flops"], "weight_bytes": elements * WEIGHT_BYTES[contestant.precision]}

    def peaks(self, again: bool = False) -> Peaks | None:
        """What this machine can do at most, measured where it is not known, or `again`.

        None where nothing is held against it, and where it could not be measured, which is said.
        """
        computing = (c for c in self.artifacts if self.classes[c].spec.computes_the_model)
        precisions = {self.grid.computed_in(c.precision) for c in computing}
        if not precisions:
            return None
        root, grid = self.store.root, self.grid
        try:
            return peaks.measure(
                root, grid.device, sorted(precisions), grid.threads, self.timeout_seconds, self.say, again=again
            )
        except BenchError as error:
            self.say(f"no floors in this run, as the machine's peaks could not be measured: {error}")
            return None

    def missing_exports(self) -> list[str]:
        """Formats (with precision) that are not in the store yet, for the plan."""
        wanted = self._with_formats()
        weights = checkpoint.recipe(self.source)
        if not wanted:
            return []
        if (found := self.store.find(weights)) is None:
            others = (c for c in wanted if self.format_of(c) != "checkpoint")
            return list(
                dict.fromkeys(["checkpoint", *(f"{self.format_of(c)} {self.artifact_precision(c)}" for c in others)])
            )
        missing = (recipe for recipe in self._recipes(found.key).values() if self.store.find(recipe) is None)
        return list(dict.fromkeys(_name(recipe) for recipe in missing))

    def make(self, with_artifacts: bool = True, with_references: bool = True) -> None:
        """Bring checkpoint, and unless they are not wanted artifacts and references, into the store, each verified.

        Raises UserError for a model that cannot be had or a length beyond its positions, and
        BenchError when the store cannot be written.
        """
        if not self._with_formats():
            return
        self.store.prepare()
        self._clear_leftovers()
        try:
            weights = self._make_checkpoint()
            if with_artifacts:
                self._make_artifacts(weights)
            self._close_exports()
            if with_references:
                self.judged_by.make(weights, self._judging_precisions())
        finally:
            self._close_exports()
            self._clear_leftovers()

    def judge_further(self, shapes: Sequence[Shape]) -> None:
        """Bring the references of `shapes`, which were not known before, into the store.

        Where the model's own inputs cannot be made for one, that is said, and its cells have no reference.
        """
        if self.weights is None:
            return
        try:
            self.judged_by.make(self.weights, self._judging_precisions(), shapes)
        except UserError as error:
            self.say(str(error))

    def _with_formats(self) -> list[Candidate]:
        return [c for c in self.classes if self.format_of(c) is not None and c not in self.refused]

    def _recipes(self, checkpoint_key: str) -> dict[Candidate, dict[str, Any]]:
        found = {}
        for contestant in self._with_formats():
            format = str(self.format_of(contestant))  # noqa: A001 - the field's word
            if format == "checkpoint":
                found[contestant] = checkpoint.recipe(self.source)
                continue
            exporter, precision = self._exporter(contestant), self.artifact_precision(contestant)
            found[contestant] = exporters.recipe(
                format, checkpoint_key, precision=precision, device=self.grid.device,
                libraries=exporter.libraries[format] if exporter else None,
            )  # fmt: skip
        return found

    def _make_checkpoint(self) -> Artifact:
        recipe = checkpoint.recipe(self.source)
        if (stored := self.store.find(recipe)) is not None:
            drop_damaged(self.store, [recipe, *self._recipes(stored.key).values()], self.say)
        else:
            drop_damaged(self.store, [recipe], self.say)
        self.weights = self._export(recipe, self.source.export_options())
        check_lengths(self.grid.shapes, self.grid.model, self.weights.metadata["positions"])
        return self.weights

    def _make_artifacts(self, weights: Artifact) -> None:
        for contestant, recipe in self._recipes(weights.key).items():
            precision = self.artifact_precision(contestant)
            which = ["--checkpoint", weights.key, "--precision", precision, "--device", self.grid.device]
            try:
                exporter = self._exporter(contestant)
                self.artifacts[contestant] = self._export(recipe, which, exporter.python if exporter else None)
            except WorkerError as error:
                reason = f"the {recipe['format']} export failed: {_with_last_words(error)}"
                self.refused[contestant] = WorkerError(error.status, reason, error.details)
                self.say(reason)

    def _export(self, recipe: Mapping[str, Any], which: list[str], python: Path | None = None) -> Artifact:
        exporting = self._exporting.setdefault(python, export.Exporting(self.store.root, self.grid.threads, python))
        return exported(self.store, recipe, which, exporting, self.say)

    def _close_exports(self) -> None:
        for exporting in self._exporting.values():
            exporting.close()

    def _clear_leftovers(self) -> None:
        """Remove what exports that were killed or interrupted left half-written."""
        for path in self.store.leftovers():
            self.store.remove(path)

    def _judging_precisions(self) -> list[str]:
        return sorted({c.precision for c in self._with_formats() if self.classes[c].spec.computes_the_model})


def exported(
    store: ArtifactStore, recipe: Mapping[str, Any], which: list[str], exporting: export.Exporting, say: Say
) -> Artifact:
    """The stored artifact of `recipe`, or a new one from the process `exporting` with the options `which`.

    Raises WorkerError where the export of another format than the checkpoint fails, else UserError or BenchError.
    """
    if (found := store.find(recipe)) is not None:
        store.touch(found)
        return found
    say(f"exporting {_name(recipe)}")
    try:
        exporting.request(recipe["format"], which, EXPORT_TIMEOUT_SECONDS)
    except WorkerError as error:
        if error.status == "user":
            raise UserError(error.reason) from None
        if error.status == "store" or recipe["format"] == "checkpoint":
            raise BenchError(_with_last_words(error)) from None
        if store.is_full():  # some writers abort the process instead of raising
            name = store.path_of(recipe).name
            raise BenchError(f"artifact {name} cannot be written (No space left on device); free some space") from None
        raise
    found = store.find(recipe)
    if found is None:
        raise BenchError(f"the {recipe['format']} export left nothing under its key; its recipe changes by itself")
    return found


def _name(recipe: Mapping[str, Any]) -> str:
    """`onnx fp32`, or `checkpoint`."""
    return " ".join(filter(None, [recipe["format"], recipe.get("precision")]))


def _with_last_words(error: WorkerError) -> str:
    words = error.details.get("stderr")
    return f"{error.reason}: {words[-1]}" if words else error.reason
