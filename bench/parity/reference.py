"""What candidates are judged by: eager's outputs in float64 and at each precision, kept in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import machine
from bench.errors import Say, UserError
from bench.machine.operations import of_batch
from bench.parity import texts
from bench.parity.inputs import VERSION as INPUTS_VERSION
from bench.parity.inputs import InputPlan, rows_of_reference
from bench.process.channel import Worker, WorkerError
from exporters.store import Artifact, ArtifactStore, recipe_key
from exporters.tokenizer import encode

#: The precision of the reference, which is computed on the CPU.
REFERENCE_PRECISION = "fp64"
#: The precision of eager that stands for one that eager does not have; int8 keeps activations in fp32.
EAGER_PRECISIONS = {"int8": "fp32"}
#: Raise when what is stored beside a reference's outputs changes.
VERSION = 6
#: Times that a process which computes references is started again after it died.
RETRIES = 1
EVALUATE = "bench.parity.evaluation:evaluate"


@dataclass(frozen=True)
class Inputs:
    """What one stored reference is computed on: every case of one plan."""

    plan: InputPlan
    ids: Mapping[str, Sequence[Sequence[int]]] | None = None
    """Rows of token ids by case, without padding; None if the plan draws them."""
    steps: int = 0
    """Tokens that are generated behind each case's prompt; 0 for a forward pass."""
    with_cache: bool = False
    """True if eager generates with its cache, and not by full passes."""
    counts: bool = False
    """True if the operations of a call are counted, for the roofline."""
    shares: bool = False
    """True if a reference that was computed on more rows of the same length serves as well; each row is computed by
    itself, so that it is the same bit for bit.
    """

    def of_rows(self, rows: int = 0) -> Inputs:
        """The same on the judged rows alone, which are alike in every batch; on the first `rows` of them unless 0."""
        if self.ids is not None:
            return self
        plan = rows_of_reference(self.plan)
        return replace(self, plan=replace(plan, batch=rows) if rows else plan)

    def request(self) -> dict[str, Any]:
        """As a request to a worker carries them."""
        return {"plan": self.plan.to_json(), "ids": self.ids}


@dataclass(frozen=True)
class Setting:
    """Under what references are computed."""

    device: str
    threads: int
    seed: int
    tf32: bool
    vocab_size: int
    makes_inputs: bool
    """True if the model makes its inputs itself; they lie with the reference."""
    tokenizer: Path | None = None
    """File that cases of text are tokenised with."""


class References:
    """References by name, each in the store under the hash of its recipe."""

    def __init__(
        self,
        setting: Setting,
        store: ArtifactStore,
        start: Callable[[str, str, Path, bool], Worker],
        timeout_seconds: float,
        say: Say,
    ) -> None:
        """`start` starts eager: precision, device, folder of the checkpoint, whether with TF32."""
        self.setting, self.store, self.start = setting, store, start
        self.timeout_seconds, self.say = timeout_seconds, say
        self.found: dict[tuple[str, str], Artifact | str] = {}
        """Stored outputs by precision and name; or why there are none."""
        self._texts: dict[tuple[int, int], list[list[int]]] = {}

    def pair(self, precision: str, name: str) -> tuple[Artifact, Artifact] | str:
        """The float64 reference and eager's own outputs at `precision`, or why one of them is missing."""
        reference = self.found.get((REFERENCE_PRECISION, name), "none was computed")
        eager_error = self.found.get((EAGER_PRECISIONS.get(precision, precision), name), "none was computed")
        if isinstance(reference, str) or isinstance(eager_error, str):
            return f"there is no reference: {reference if isinstance(reference, str) else eager_error}"
        return reference, eager_error

    def stored_inputs(self, name: str) -> Artifact | str | None:
        """Where inputs lie that the model makes itself, or why they do not; None if it does not make them."""
        if not self.setting.makes_inputs:
            return None
        return self.found.get((REFERENCE_PRECISION, name), "none were made")

    def operations(self, name: str, batch: int) -> tuple[int, int] | None:
        """`flops` and elements of weights of a call on a whole batch; None if they were not counted."""
        counted = self.found.get((REFERENCE_PRECISION, name))
        if not isinstance(counted, Artifact) or "flops" not in counted.metadata:
            return None
        return of_batch(counted.metadata, batch)

    def make(self, weights: Artifact, precisions: Sequence[str], wanted: Mapping[str, Inputs]) -> None:
        """Bring the reference of each of `wanted`, and eager's own outputs at each of `precisions`, into the store, the
        shortest first.
        """
        if not precisions or not wanted:
            return
        places = [(REFERENCE_PRECISION, "cpu")]
        places += [(one, self.setting.device) for one in dict.fromkeys(EAGER_PRECISIONS.get(p, p) for p in precisions)]
        ordered = dict(sorted(wanted.items(), key=lambda one: one[1].plan.length))
        evaluations = [_Evaluation(self, weights, precision, device, ordered) for precision, device in places]
        on_cpu = [one for one in evaluations if one.missing and one.device == "cpu"]
        if not any(one.missing for one in evaluations):
            return
        started = time.monotonic()
        try:
            for evaluation in evaluations:
                if evaluation.missing and evaluation not in on_cpu[1:]:  # imports side by side: they take long
                    evaluation.spawn()
            for evaluation in evaluations:
                evaluation.run()
                if evaluation in on_cpu[:-1]:
                    on_cpu[on_cpu.index(evaluation) + 1].take_over(evaluation)
                evaluation.end()
            self.say(f"references took {time.monotonic() - started:.1f} s")
        finally:
            for evaluation in evaluations:
                evaluation.end()

    def texts(self, inputs: Inputs) -> list[list[int]] | None:
        """Token ids of one text a row of a plan's batch; None without a tokenizer."""
        if self.setting.tokenizer is None or inputs.ids is not None:
            return None
        shape = (inputs.plan.batch, inputs.plan.length)
        if shape not in self._texts:
            words = texts.texts(inputs.plan.batch, self.setting.seed)
            self._texts[shape] = encode(self.setting.tokenizer, words, inputs.plan.length, self.setting.vocab_size)
        return self._texts[shape]

    def recipe(self, weights: Artifact, name: str, inputs: Inputs, precision: str, device: str) -> dict[str, Any]:
        """Everything that decides what is stored."""
        described = {**inputs.plan.to_json(), "version": INPUTS_VERSION}
        described["texts"] = recipe_key({"ids": self.texts(inputs)})
        if inputs.ids is not None:
            described["ids"] = recipe_key({"ids": {case: list(map(list, rows)) for case, rows in inputs.ids.items()}})
        recipe: dict[str, Any] = {
            "format": "reference",
            "version": VERSION,
            "checkpoint": weights.key,
            "inputs": described,
            "counts": inputs.counts,
            "precision": precision,
            "device": device,
            "threads": self.setting.threads,
            "libraries": weights.recipe["libraries"],
        }
        if inputs.shares:
            recipe["one_by_one"] = True
        if precision != REFERENCE_PRECISION:  # rounding errors are the machine's
            recipe["machine"] = machine.name_of(device)
            recipe |= {"tf32": True} if self.has_tf32(precision) else {}
        if inputs.steps:
            recipe |= {"steps": inputs.steps, "way": "cache" if inputs.with_cache else "passes"}
            reference = self.found.get((REFERENCE_PRECISION, name))
            if precision != REFERENCE_PRECISION and isinstance(reference, Artifact):
                recipe["forced_by"] = reference.checksum
        return recipe

    def has_tf32(self, precision: str) -> bool:
        """True if eager computes in TF32 at `precision`."""
        return self.setting.tf32 and precision == "fp32"


class _Evaluation:
    """Eager at one precision, in a process of its own or, on the CPU, the one of the precision before."""

    def __init__(
        self, references: References, weights: Artifact, precision: str, device: str, wanted: Mapping[str, Inputs]
    ) -> None:
        self.references, self.weights = references, weights
        self.wanted = {name: inputs.of_rows() for name, inputs in wanted.items()}
        self.precision, self.device = precision, device
        self._process: Worker | None = None
        self._is_loaded = self._is_taken_over = False
        self.missing = [name for name in wanted if not self._is_there(name)]

    def _recipe(self, name: str, inputs: Inputs) -> dict[str, Any]:
        return self.references.recipe(self.weights, name, inputs, self.precision, self.device)

    def _is_there(self, name: str) -> bool:
        """True if what is wanted lies in the store, from where it is taken; a damaged one is dropped."""
        store, inputs = self.references.store, self.wanted[name]
        if isinstance(self.references.found.get((self.precision, name)), Artifact):
            return True
        most = inputs.plan.most_rows if inputs.shares else 0
        for enough in (inputs, *(inputs.of_rows(rows) for rows in range(inputs.plan.batch + 1, most + 1))):
            recipe = self._recipe(name, enough)
            drop_damaged(store, [recipe], self.references.say)
            if (stored := store.find(recipe)) is not None:
                self.references.found[self.precision, name] = stored
                return True
        return False

    def _computed(self, name: str) -> Inputs:
        """What is computed for `name`: the most rows that are wanted of what it shares."""
        own = self.wanted[name]
        alike = (
            one for one in self.wanted.values() if replace(one, plan=replace(one.plan, batch=own.plan.batch)) == own
        )
        return max(alike, key=lambda one: one.plan.batch) if own.shares else own

    def spawn(self) -> None:
        """Start the process and let it import; it holds no weights yet."""
        has_tf32 = self.references.has_tf32(self.precision)
        self._process = self.references.start(self.precision, self.device, self.weights.path, has_tf32)
        self._process.send({"op": "hello"})

    def take_over(self, other: _Evaluation) -> None:
        """Go on in the process of another one, if that still lives: its imports need not be made again."""
        if other._is_loaded:
            self._process, other._process, self._is_taken_over = other._process, None, True

    def run(self) -> None:
        """Compute and store all that is missing; notes why something could not be."""
        references = self.references
        if self.missing:
            named = f"{self.precision} with TF32" if references.has_tf32(self.precision) else self.precision
            is_reference = self.precision == REFERENCE_PRECISION
            what = "the float64 reference" if is_reference else f"eager's own error at {named}"
            references.say(f"computing {what} for {', '.join(self.missing)}")
        for name in self.missing:
            try:
                if not self._is_there(name):  # a generation's recipe names what it is forced by, which is known now
                    self._store(name, self._computed(name))
                    self._is_there(name)
            except WorkerError as error:
                if error.status == "user":
                    raise UserError(error.reason) from None
                references.found[self.precision, name] = f"eager at {self.precision} on {self.device}: {error.reason}"

    def _store(self, name: str, inputs: Inputs) -> None:
        references, recipe = self.references, self._recipe(name, inputs)
        asked = self._asked(name, inputs)

        def write(folder: Path) -> dict[str, Any]:
            arguments = {**asked, "folder": str(folder.resolve())}
            message = {"op": "call", "function": EVALUATE, "arguments": arguments}
            return self._loaded().work(message, references.timeout_seconds)

        for left in range(RETRIES, -1, -1):
            try:
                references.store.make(recipe, write)
                return
            except WorkerError as error:
                if error.is_gone:
                    self.end()
                if not error.is_gone or error.status in ("timeout", "oom") or not left:
                    raise
                references.say(f"the process that computes references was lost ({error.reason}); starting another")

    def _asked(self, name: str, inputs: Inputs) -> dict[str, Any]:
        """Arguments of `EVALUATE`, without the folder."""
        asked: dict[str, Any] = {**inputs.request(), "texts": self.references.texts(inputs)}
        if inputs.shares:
            asked["one_by_one"] = True
        if inputs.counts and self.precision == REFERENCE_PRECISION:
            asked["counts"] = True
        if inputs.steps:
            asked |= {"steps": inputs.steps, "with_cache": inputs.with_cache}
            if self.precision != REFERENCE_PRECISION:
                reference = self.references.found[REFERENCE_PRECISION, name]
                if isinstance(reference, str):
                    raise WorkerError("failed", reference)
                asked["forced_by"] = str(reference.path.resolve())
        return asked

    def _loaded(self) -> Worker:
        """The process with the model in it; another if there is none. Raises WorkerError."""
        if self._process is None:
            self.spawn()
        assert self._process is not None
        if not self._is_loaded:
            try:
                if not self._is_taken_over:
                    self._process.receive(self.references.timeout_seconds)
                load = {"op": "load"} | ({"precision": self.precision} if self._is_taken_over else {})
                self._process.request(load, self.references.timeout_seconds)
            except WorkerError:
                self.end()
                raise
            self._is_loaded = True
        return self._process

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
        self._process, self._is_loaded, self._is_taken_over = None, False, False


def drop_damaged(store: ArtifactStore, recipes: Sequence[Mapping[str, Any]], say: Say) -> None:
    """Remove those artifacts of `recipes` that are damaged, and say so; they are made again."""
    stored = {store.path_of(recipe) for recipe in recipes}
    present = [path for path in sorted(stored) if path.exists() or path.is_symlink()]
    for path, damage in store.drop_damaged(present).items():
        say(f"artifact {path.name} is damaged ({damage}); it is made again")
