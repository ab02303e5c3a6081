"""What backends are judged by: eager's outputs in float64 and at each precision, kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.errors import UserError
from bench.parity import texts
from bench.parity.inputs import VERSION as INPUTS_VERSION
from bench.parity.inputs import InputPlan
from bench.parity.matrix import Matrix
from bench.process import session
from bench.process.channel import Worker, WorkerError
from bench.spec import Grid, Shape
from exporters.sources import ModelSource
from exporters.store import Artifact, ArtifactStore, recipe_key
from exporters.tokenizer import encode

Say = Callable[[str], None]

#: The precision of the reference, which is computed on the CPU.
REFERENCE_PRECISION = "fp64"
#: The precision of eager that stands for one that eager does not have; int8 keeps activations in fp32.
YARDSTICKS = {"int8": "fp32"}
#: Raise when what is stored beside a reference's outputs changes.
VERSION = 4
#: Stands in place of a shape for what was generated.
GENERATION = "generation"

Key = Shape | str


class Evaluation:
    """Eager at one precision, in a process of its own: `missing` is what it is asked for."""

    def __init__(
        self, precision: str, device: str, missing: Sequence[Key], timeout_seconds: float, start: Callable[[], Worker]
    ) -> None:
        self.precision, self.device, self.missing = precision, device, missing
        self.timeout_seconds, self._start = timeout_seconds, start
        self._process: Worker | None = None
        self._is_loaded = False

    def start(self) -> None:
        """Start the process and let it import; it holds no weights before `loaded`."""
        self._process = self._start()
        self._process.send({"op": "hello"})

    def loaded(self) -> Worker:
        """The process with the model in it; another where there is none. Raises WorkerError."""
        if self._process is None:
            self.start()
        assert self._process is not None
        if not self._is_loaded:
            try:
                self._process.receive(self.timeout_seconds)
                self._process.request({"op": "load"}, self.timeout_seconds)
            except WorkerError:
                self.end()
                raise
            self._is_loaded = True
        return self._process

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
        self._process, self._is_loaded = None, False


class References:
    """Eager's outputs for the judged inputs of every shape, by precision; each in the store under its own recipe."""

    def __init__(
        self,
        grid: Grid,
        source: ModelSource,
        store: ArtifactStore,
        timeout_seconds: float,
        say: Say,
        matrix: Matrix,
    ) -> None:
        self.grid, self.source, self.store, self.matrix = grid, source, store, matrix
        self.timeout_seconds, self.say = timeout_seconds, say
        self._texts: dict[tuple[int, int], list[list[int]]] = {}
        self.found: dict[tuple[str, Key], Artifact | str] = {}
        """Stored outputs by precision and shape, or `GENERATION`; or why there are none."""

    def keys(self) -> Sequence[Key]:
        """What there are references for."""
        return [*self.grid.shapes, *([GENERATION] if self.matrix.new_tokens else [])]

    def pair(self, precision: str, key: Key) -> tuple[Artifact, Artifact] | str:
        """The float64 reference and eager's own outputs at `precision`, or why one of them is missing."""
        reference = self.found.get((REFERENCE_PRECISION, key), "none was computed")
        yardstick = self.found.get((YARDSTICKS.get(precision, precision), key), "none was computed")
        if isinstance(reference, str) or isinstance(yardstick, str):
            return f"there is no reference: {reference if isinstance(reference, str) else yardstick}"
        return reference, yardstick

    def inputs(self, shape: Shape) -> dict[str, Any]:
        """The plan of a shape's inputs, as a request to a worker carries it."""
        source = self.source
        takes_mask = "attention_mask" in source.inputs and not source.makes_inputs
        return self._plan(shape, self.matrix.cases(shape, takes_mask), self.matrix.most_rows(shape)).to_json()

    def stored_inputs(self, shape: Shape) -> Artifact | str | None:
        """Where a shape's inputs lie when the model makes them itself, or why they do not; None where it does not."""
        return self.found.get((REFERENCE_PRECISION, shape), "none were made") if self.source.makes_inputs else None

    def prompts(self) -> dict[str, Any]:
        """The plan of the prompts that generation is judged on."""
        return self._plan(Shape(1, self.matrix.prompt_length), self.matrix.prompts(), 1).to_json()

    def _plan(self, shape: Shape, cases: tuple[str, ...], most_rows: int) -> InputPlan:
        return InputPlan(
            batch=shape.batch,
            length=shape.length,
            vocab_size=self.source.vocab_size,
            pad_token_id=self.source.pad_token_id,
            seed=self.grid.seed,
            output_width=self.source.output_width,
            cases=cases,
            most_rows=most_rows,
            inputs=self.source.inputs,
            makes_inputs=self.source.makes_inputs,
            whole_outputs=self.source.whole_outputs,
        )

    def make(self, weights: Artifact, precisions: Sequence[str], keys: Sequence[Key] | None = None) -> None:
        """Bring the reference, and eager's own outputs at each of `precisions`, into the store; none for none.

        `keys` are all of `keys()` where they are not given.
        """
        if not precisions:
            return
        wanted = self.keys() if keys is None else keys
        evaluations = [self._evaluation(weights, REFERENCE_PRECISION, "cpu", wanted)]
        evaluations += [
            self._evaluation(weights, precision, self.grid.device, wanted)
            for precision in dict.fromkeys(YARDSTICKS.get(name, name) for name in precisions)
        ]
        try:
            for evaluation in evaluations:
                if evaluation.missing:  # imports side by side: they take longer than most evaluations
                    evaluation.start()
            for evaluation in evaluations:
                self._evaluate(weights, evaluation)
        finally:
            for evaluation in evaluations:
                evaluation.end()

    def _evaluation(self, weights: Artifact, precision: str, device: str, keys: Sequence[Key]) -> Evaluation:
        """What of `keys` is not in the store yet at one precision; what is, is noted."""
        recipes = {key: self._recipe(weights, key, precision, device) for key in keys}
        drop_damaged(self.store, list(recipes.values()), self.say)
        missing = []
        for key, recipe in recipes.items():
            if (stored := self.store.find(recipe)) is None:
                missing.append(key)
            else:
                self.found[precision, key] = stored
        return Evaluation(
            precision, device, missing, self.timeout_seconds,
            lambda: session.start(
                "eager", "default", precision, device, weights.path, self.grid.threads, self.store.root,
                tf32=self._has_tf32(precision),
            ),
        )  # fmt: skip

    def _evaluate(self, weights: Artifact, evaluation: Evaluation) -> None:
        precision, device = evaluation.precision, evaluation.device
        if evaluation.missing:
            named = f"{precision} with TF32" if self._has_tf32(precision) else precision
            what = "the float64 reference" if precision == REFERENCE_PRECISION else f"eager's own error at {named}"
            self.say(f"computing {what} for {', '.join(str(key) for key in evaluation.missing)}")
        for key in evaluation.missing:
            recipe = self._recipe(weights, key, precision, device)  # a generation's names what it is forced by
            drop_damaged(self.store, [recipe], self.say)
            try:
                if self.store.find(recipe) is None:
                    self._store(evaluation.loaded(), recipe, self._request(key, precision))
            except WorkerError as error:
                if error.status == "user":
                    raise UserError(error.reason) from None
                self.found[precision, key] = f"eager at {precision} on {device}: {error.reason}"
                if error.is_gone:
                    evaluation.end()
            if (stored := self.store.find(recipe)) is not None:
                self.found[precision, key] = stored
        evaluation.end()

    def _has_tf32(self, precision: str) -> bool:
        return self.grid.tf32 and precision == "fp32"

    def _request(self, key: Key, precision: str) -> dict[str, Any]:
        """What eager is asked to write; its folder is added when it is known."""
        if isinstance(key, Shape):
            counts = self.matrix.is_timed or not self.matrix.ids  # only what is timed has a floor
            request: dict[str, Any] = {"op": "evaluate", "inputs_plan": self.inputs(key), "counts": counts}
        else:
            request = {"op": "evaluate_generation", "inputs_plan": self.prompts(), "steps": self.matrix.new_tokens}
            request["with_cache"] = self.matrix.with_cache
            if precision != REFERENCE_PRECISION:
                reference = self.found[REFERENCE_PRECISION, key]
                if isinstance(reference, str):
                    raise WorkerError("failed", reference)
                request["forced_by"] = str(reference.path.resolve())
        request["texts"] = self.texts(request["inputs_plan"])
        return request

    def texts(self, plan: Mapping[str, Any]) -> list[list[int]] | None:
        """Token ids of one text a row of a plan's batch; None without a tokenizer."""
        if self.matrix.tokenizer is None:
            return None
        shape = (plan["batch"], plan["length"])
        if shape not in self._texts:
            words = texts.texts(plan["batch"], self.grid.seed)
            self._texts[shape] = encode(self.matrix.tokenizer, words, plan["length"], self.source.vocab_size)
        return self._texts[shape]

    def _store(self, process: Worker, recipe: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        def write(folder: Path) -> dict[str, Any]:
            return process.request({**request, "folder": str(folder.resolve())}, self.timeout_seconds)

        self.store.make(recipe, write)

    def _inputs_recipe(self, key: Key) -> dict[str, Any]:
        plan = self.inputs(key) if isinstance(key, Shape) else self.prompts()
        return {**plan, "version": INPUTS_VERSION, "texts": recipe_key({"ids": self.texts(plan)})}

    def _recipe(self, weights: Artifact, key: Key, precision: str, device: str) -> dict[str, Any]:
        recipe: dict[str, Any] = {
            "format": "reference",
            "version": VERSION,
            "checkpoint": weights.key,
            "inputs": self._inputs_recipe(key),
            "precision": precision,
            "device": device,
            "threads": self.grid.threads,
            "libraries": weights.recipe["libraries"],
        }
        if precision != REFERENCE_PRECISION:  # rounding errors are the machine's; float64's matter to nobody
            recipe["machine"] = machine.name_of(device)
            recipe |= {"tf32": True} if self._has_tf32(precision) else {}
        if key == GENERATION:
            recipe["steps"] = self.matrix.new_tokens
            recipe |= {"way": "cache"} if self.matrix.with_cache else {}
            reference = self.found.get((REFERENCE_PRECISION, key))
            if precision != REFERENCE_PRECISION and isinstance(reference, Artifact):
                recipe["forced_by"] = reference.checksum
        return recipe


def drop_damaged(store: ArtifactStore, recipes: Sequence[Mapping[str, Any]], say: Say) -> None:
    """Remove those artifacts of `recipes` that are damaged, and say so; they are made again."""
    stored = {store.path_of(recipe) for recipe in recipes}
    present = [path for path in sorted(stored) if path.exists() or path.is_symlink()]
    for path, damage in store.drop_damaged(present).items():
        say(f"artifact {path.name} is damaged ({damage}); it is made again")
