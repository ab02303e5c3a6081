"""What a run needs before anything is timed: the checkpoint, each candidate's artifact, the references to judge by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backends
import exporters
from backends.base import module_folder
from bench.errors import BenchError, Say, UserError
from bench.machine.conditions import Source
from bench.machine.roofline import WEIGHT_BYTES, Peaks
from bench.options import CommonOptions
from bench.parity.reference import Inputs, References, Setting, drop_damaged
from bench.process import export, peaks, pool
from bench.process.channel import Worker, WorkerError
from bench.process.environments.asking import Interpreter, environments_of
from bench.process.environments.stored import flaw, parse_pythons
from bench.run.record import Point, Run
from bench.spec import Candidate
from exporters import checkpoint
from exporters.sources import ModelSource
from exporters.store import Artifact, ArtifactStore


@dataclass(frozen=True)
class Loading:
    """How a candidate is loaded: the format of its artifact, and the way of generating that it is loaded for."""

    format: str | None
    generation: str = ""
    refusal: str = ""
    """Why it cannot be loaded so, with the remedy; "" if it can."""


class Preparation:
    """Which candidates can run, and what each of them loads and is judged by."""

    conditions = Source()
    """Where the conditions of turns come from."""

    def __init__(self, run: Run, source: ModelSource, store: ArtifactStore, say: Say) -> None:
        self.run, self.source, self.store, self.say = run, source, store, say
        self.workload = run.workload
        self.options: CommonOptions = run.options
        self.classes = {candidate: backends.load_class(candidate.backend) for candidate in run.candidates}
        self.weights: Artifact | None = None
        """The checkpoint, once it is made."""
        self.loadings = {candidate: self._loading(candidate, {}) for candidate in run.candidates}
        formats = {candidate: loading.format for candidate, loading in self.loadings.items()}
        pythons = parse_pythons(self.options.python)
        self.elsewhere = environments_of(run.candidates, self.options.kind, pythons, store.root, formats)
        """Interpreter of each candidate that runs in another environment than this."""
        self.artifacts: dict[Candidate, Artifact] = {}
        self._coming: dict[Candidate, Path] = {}
        """Where the artifact of a candidate will lie that is not made yet."""
        reasons = ((candidate, self._reason_against(candidate)) for candidate in run.candidates)
        self.refused = {candidate: WorkerError("unsupported", reason) for candidate, reason in reasons if reason}
        """Candidates that cannot run at all, and why."""
        setting = Setting(
            self.options.kind, self.options.settled_threads, self.options.seed, self.options.tf32, source.vocab_size,
            source.makes_inputs, self.workload.tokenizer(source),
        )  # fmt: skip
        self.references = References(setting, store, self._start_eager, self.options.timeout, say)
        self._exporting: dict[Path | None, export.Exporting] = {}

    def _loading(self, candidate: Candidate, metadata: Mapping[str, Any]) -> Loading:
        return self.workload.loading(candidate, self.classes[candidate], self.source, metadata)

    def _reason_against(self, candidate: Candidate) -> str:
        """Why a candidate cannot run, as its environment says, or this one; "" if it can."""
        backend, options = self.classes[candidate], self.options
        if options.tf32 and backend.spec.computes_the_model and not backend.spec.takes_tf32:
            return f"{candidate.backend} does not take --tf32; leave --tf32 out, or {candidate.backend}"
        if candidate in self.elsewhere:
            reason = self.elsewhere[candidate].reasons.get((candidate.variant, candidate.precision))
        elif wrong := flaw(self.store.root, candidate.place):  # whoever asked for an environment is not given this one
            reason = f"the environment {candidate.place!r} {wrong}; run: bench env create {candidate.place}"
        else:
            reason = backend.supports(candidate.variant, options.kind, candidate.precision)
        if reason:
            return reason
        if (wanted := self.loadings[candidate].format) is not None and wanted not in exporters.names():
            return f"nothing exports the format {wanted!r}; known are {', '.join(exporters.names())}"
        return ""

    # Processes.

    def start(self, candidate: Candidate) -> Worker:
        """Start the process of one candidate in its own environment, with nothing in it yet."""
        artifact, options = self.artifacts.get(candidate), self.options
        there = self.elsewhere.get(candidate)
        path = artifact.path if artifact else self._coming.get(candidate)
        return pool.start(
            candidate.backend, candidate.variant, candidate.precision, options.kind,
            path, options.settled_threads, self.store.root,
            self.loadings[candidate].generation, there.python if there else None, options.tf32,
        )  # fmt: skip

    def folders_of(self, candidate: Candidate) -> list[Path]:
        """Folders that a candidate's process reads: its artifact, and the modules or the environment of its backend."""
        artifact, there = self.artifacts.get(candidate), self.elsewhere.get(candidate)
        found = [artifact.path] if artifact else []
        if there is not None:
            return [*found, there.python.parent.parent]
        modules = (module_folder(name) for name in self.classes[candidate].spec.requires)
        return [*found, *(folder for folder in modules if folder is not None)]

    def _start_eager(self, precision: str, device: str, path: Path, tf32: bool) -> Worker:
        threads = self.options.settled_threads
        return pool.start("eager", "default", precision, device, path, threads, self.store.root, tf32=tf32)

    def versions(self, candidate: Candidate, told: Mapping[str, str]) -> dict[str, str]:
        """What a worker `told` of itself, with the interpreter's version if that is another one."""
        if candidate not in self.elsewhere:
            return dict(told)
        return dict(told) | {"python": self.elsewhere[candidate].versions["python"]}

    @property
    def weight_bytes(self) -> dict[Candidate, int]:
        """Size of each candidate's artifact."""
        return {candidate: artifact.bytes for candidate, artifact in self.artifacts.items()}

    def what_was_loaded(self) -> dict[str, dict[str, Any]]:
        """Format, key, checksum and files (name to SHA-256) of each artifact, by its candidate's place in the run."""
        found = {}
        for place, candidate in enumerate(self.run.candidates):
            if (artifact := self.artifacts.get(candidate)) is not None:
                files = {name: str(entry["sha256"]) for name, entry in artifact.files.items()}
                told = {"format": artifact.format, "key": artifact.key, "checksum": artifact.checksum}
                found[str(place)] = {**told, "files": files}
        return found

    # Artifacts and references.

    def make(
        self,
        points: Sequence[Point],
        ready: Callable[[Candidate], None] = lambda candidate: None,
        soon: Callable[[Candidate], None] = lambda candidate: None,
    ) -> None:
        """Bring checkpoint, artifacts that are not at hand and the references of `points` into the store, each
        verified. `ready` is called with each candidate that can be loaded, as soon as it can, and `soon` while what it
        loads is not made yet.

        Raises UserError for a model that cannot be had or a length beyond its positions, and BenchError for the store.
        """
        if not self._with_formats():
            return
        self.store.prepare()
        try:
            self._clear_leftovers()
            for candidate in [one for one in self._missing() if self.loadings[one].format == "checkpoint"][:1]:
                self._coming[candidate] = self.store.path_of(checkpoint.recipe(self.source))
                soon(candidate)
            self.weights = self._make_checkpoint()
            self._make_artifacts(self.weights, ready, soon)
            self._close_exports()
            self.judge(points)
        finally:
            self._close_exports()
            self._clear_leftovers()

    def judge(self, points: Sequence[Point]) -> None:
        """Bring the references of further `points` into the store."""
        if self.weights is None:
            return
        wanted: dict[str, Inputs] = {}
        for point in points:
            wanted |= self.workload.cases(point, self.source)
        precisions = sorted({one.precision for one in self._with_formats() if self.computes(one)})
        self.references.make(self.weights, precisions, wanted)

    def computes(self, candidate: Candidate) -> bool:
        """False for a candidate whose outputs are not the model's (`null`)."""
        return self.classes[candidate].spec.computes_the_model

    def units(self, point: Point, candidate: Candidate) -> tuple[dict[str, dict[str, Any]], str]:
        """The judged cases with their references, as a worker is told them; and why one has none, or ""."""
        units, missing, computes = {}, "", self.computes(candidate)
        for name, inputs in self.workload.cases(point, self.source).items():
            units[name] = inputs.request()
            pair = self.references.pair(candidate.precision, name) if computes else ""
            if isinstance(pair, str):
                missing = missing or pair
            else:
                units[name] |= {"reference": str(pair[0].path), "eager_error": str(pair[1].path)}
        return units, missing

    def operations(self, point: Point, candidate: Candidate) -> dict[str, int]:
        """`flops` of one call at `point` and `weight_bytes` that it must read; {} if nothing was counted."""
        if not self.computes(candidate):
            return {}
        for name, inputs in self.workload.cases(point, self.source).items():
            if (counted := self.references.operations(name, inputs.plan.batch)) is not None:
                flops, elements = counted
                return {"flops": flops, "weight_bytes": elements * WEIGHT_BYTES[candidate.precision]}
        return {}

    def peaks(self, again: bool = False) -> Peaks | None:
        """What this machine can do at most, measured if it is not known, or `again`; None if nothing is held against
        it, and if it could not be measured, which is said.
        """
        options = self.options
        precisions = {options.computed_in(one.precision) for one in self.artifacts if self.computes(one)}
        if not precisions:
            return None
        try:
            return peaks.measure(
                self.store.root, options.kind, sorted(precisions), options.settled_threads, options.timeout,
                self.say, again=again,
            )  # fmt: skip
        except BenchError as error:
            self.say(f"no rooflines in this run, as the machine's peaks could not be measured: {error}")
            return None

    def missing_exports(self) -> list[str]:
        """Formats (with precision) that are not in the store yet, for the plan."""
        wanted = self._with_formats()
        if not wanted:
            return []
        if (found := self.store.find(checkpoint.recipe(self.source))) is None:
            others = (one for one in wanted if self.loadings[one].format != "checkpoint")
            named = (f"{self.loadings[one].format} {self._artifact_precision(one)}" for one in others)
            return list(dict.fromkeys(["checkpoint", *named]))
        missing = (recipe for recipe in self._recipes(found.key).values() if self.store.find(recipe) is None)
        return list(dict.fromkeys(_name(recipe) for recipe in missing))

    def _with_formats(self) -> list[Candidate]:
        return [one for one in self.classes if self.loadings[one].format is not None and one not in self.refused]

    def _missing(self) -> list[Candidate]:
        return [one for one in self._with_formats() if one not in self.artifacts]

    def _artifact_precision(self, candidate: Candidate) -> str:
        return self.classes[candidate].spec.artifact_precision(candidate.variant, candidate.precision)

    def _exporter(self, candidate: Candidate) -> Interpreter | None:
        """Where a candidate's artifact is written: in its own environment if that can, else here (None)."""
        found = self.elsewhere.get(candidate)
        return found if found is not None and self.loadings[candidate].format in found.libraries else None

    def _recipes(self, checkpoint_key: str) -> dict[Candidate, dict[str, Any]]:
        found = {}
        for candidate in self._missing():
            wanted = str(self.loadings[candidate].format)
            if wanted == "checkpoint":
                found[candidate] = checkpoint.recipe(self.source)
                continue
            exporter, precision = self._exporter(candidate), self._artifact_precision(candidate)
            found[candidate] = exporters.recipe(
                wanted, checkpoint_key, precision=precision, device=self.options.kind,
                libraries=exporter.libraries[wanted] if exporter else None,
            )  # fmt: skip
        return found

    def _make_checkpoint(self) -> Artifact:
        recipe = checkpoint.recipe(self.source)
        stored = self.store.find(recipe)
        others = self._recipes(stored.key).values() if stored is not None else ()
        drop_damaged(self.store, [recipe, *others], self.say)
        weights = self._export(recipe, self.source.export_options())
        self.workload.check_positions(weights.metadata["positions"], self.run.model.name)
        return weights

    def _make_artifacts(
        self, weights: Artifact, ready: Callable[[Candidate], None], soon: Callable[[Candidate], None]
    ) -> None:
        for candidate in self._missing():
            loading = self.loadings[candidate] = self._loading(candidate, weights.metadata)
            if loading.refusal:
                self.refused[candidate] = WorkerError("unsupported", loading.refusal)
        recipes = self._recipes(weights.key).items()
        for candidate, recipe in sorted(recipes, key=lambda one: self.loadings[one[0]].format != "checkpoint"):
            precision = self._artifact_precision(candidate)
            self._coming[candidate] = self.store.path_of(recipe)
            soon(candidate)
            which = ["--checkpoint", weights.key, "--precision", precision, "--device", self.options.kind]
            try:
                exporter = self._exporter(candidate)
                self.artifacts[candidate] = self._export(recipe, which, exporter.python if exporter else None)
                ready(candidate)
            except WorkerError as error:
                reason = f"the {recipe['format']} export failed: {_with_last_words(error)}"
                self.refused[candidate] = WorkerError(error.status, reason, error.details)
                self.say(reason)

    def _export(self, recipe: Mapping[str, Any], which: list[str], python: Path | None = None) -> Artifact:
        threads = self.options.settled_threads
        exporting = self._exporting.setdefault(python, export.Exporting(self.store.root, threads, python))
        most_seconds = math.inf if recipe["format"] == "checkpoint" else self.workload.export_seconds
        return exported(self.store, recipe, which, exporting, self.say, self.options.timeout, most_seconds)

    def _close_exports(self) -> None:
        for exporting in self._exporting.values():
            exporting.close()

    def _clear_leftovers(self) -> None:
        """Remove what exports that were killed or interrupted left half-written."""
        for path in self.store.leftovers():
            self.store.remove(path)


def exported(
    store: ArtifactStore,
    recipe: Mapping[str, Any],
    which: list[str],
    exporting: export.Exporting,
    say: Say,
    timeout_seconds: float,
    most_seconds: float = math.inf,
) -> Artifact:
    """The stored artifact of `recipe`, or a new one from the process `exporting` with the options `which`; if that is
    lost, from another one.

    Raises WorkerError if the export of another format than the checkpoint fails, else UserError or BenchError.
    """
    if (found := store.find(recipe)) is not None:
        store.touch(found)
        return found
    say(f"exporting {_name(recipe)}")
    try:
        try:
            exporting.request(recipe["format"], which, timeout_seconds, most_seconds)
        except WorkerError as error:
            if not error.is_gone or error.status in ("timeout", "oom") or store.is_full():
                raise
            say(f"the process that exports {_name(recipe)} was lost ({error.reason}); starting another")
            exporting.request(recipe["format"], which, timeout_seconds, most_seconds)
    except WorkerError as error:
        if error.status == "user":
            raise UserError(error.reason) from None
        if error.status == "store" or recipe["format"] == "checkpoint":
            more = "; a larger --timeout gives it more time" if error.status == "timeout" else ""
            raise BenchError(f"the {_name(recipe)} export failed: {_with_last_words(error)}{more}") from None
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
