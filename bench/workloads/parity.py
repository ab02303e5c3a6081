"""Parity: `bench parity` judges every candidate against eager in float64 on a matrix of inputs; nothing is timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench import options
from bench.columns import Column, Section
from bench.errors import UserError
from bench.options import CommonOptions, option
from bench.parity import generation, inputs, judging, matrix
from bench.parity.cell import Cell
from bench.parity.inputs import OWN, InputPlan
from bench.parity.matrix import PROMPT_LENGTH, Matrix
from bench.parity.verdict import Tolerance, tolerance_of, worst_case, worst_generation
from bench.run import columns, guesses
from bench.run.model import notes_on, tokenizer_of
from bench.run.record import Record, Run, Turn
from bench.run.schedule import Enough, Grid, Schedule
from bench.run.workload import Workload
from bench.spec import Candidate, Shape, check_lengths
from bench.workloads import judgements

if TYPE_CHECKING:
    from bench.machine.roofline import Peaks
    from bench.parity.reference import Inputs
    from bench.run.preparation import Preparation
    from exporters.sources import ModelSource

DEFAULT_NEW_TOKENS = 16
#: Options that replace a tolerance's own values, by the field of `Tolerance` that each sets.
OVERRIDES = ("atol", "rtol", "max_kl", "min_top1")
OF_LOGITS = ("max_kl", "min_top1")
GENERATION = "generation"
#: A case of which one call is watched; its inputs need no text.
DRAWN = "random-full"


@dataclass(frozen=True, kw_only=True)
class ParityOptions(CommonOptions):
    """Options of `bench parity`."""

    command: ClassVar[str] = "parity"
    function: ClassVar[str] = "check_parity"
    summary: ClassVar[str] = (
        "Judge every backend against eager in float64 on a matrix of inputs; exit code 3 when one is broken."
    )

    batches: tuple[int, ...] = option("Batch sizes.", options.sizes, default=matrix.DEFAULT_BATCHES)
    lengths: tuple[int, ...] = option(
        "Sequence lengths in tokens.", options.sizes, default=(), default_shown="1,16,37 and the largest"
    )
    shapes: tuple[tuple[int, int], ...] = option(
        "Batch×length pairs in place of batches and lengths, e.g. 1x16,2x37.", options.shapes, default=(),
        show=options.shown_shapes,
    )  # fmt: skip
    masks: tuple[str, ...] = option("Any of full, right, left, holes.", matrix.parse_masks, default=inputs.MASKS)
    tokenizer: str | None = option(
        "tokenizer.json, or a folder with one, for a model that has none of its own.", options.text, default=None
    )
    new_tokens: int | None = option(
        "Tokens that a decoder generates with --task lm.", options.whole(0, 1_000_000, 16), default=None,
        default_shown="16",
    )  # fmt: skip
    atol: float | None = option(
        "Absolute difference that is equivalent whatever eager's is.", options.from_0(1e9, "0.001"), default=None
    )
    rtol: float | None = option(
        "Relative difference that is, beside --atol.", options.from_0(1e9, "0.001"), default=None
    )
    max_kl: float | None = option(
        "Largest mean KL divergence (nats) that is still lossy; with --task lm.", options.from_0(1e9, "0.001"),
        default=None,
    )  # fmt: skip
    min_top1: float | None = option(
        "Least top-1 agreement beside near-ties that is still lossy; with --task lm.", options.from_0(1.0, "0.99"),
        default=None,
    )  # fmt: skip
    bisect: bool = option("If something is broken, look for the first layer and node.", options.flag, default=False)
    ids: tuple[str, ...] = options.settled(())
    """Kinds of token ids."""

    @property
    def overrides(self) -> dict[str, Any]:
        """What replaces the tolerances' own values."""
        return {name: value for name in OVERRIDES if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, order=True)
class Check:
    """A shape whose outputs are judged; or prompts, with so many tokens generated behind them."""

    batch: int
    length: int
    new_tokens: int = 0

    def __str__(self) -> str:
        return f"{self.new_tokens} tokens behind {self.length}" if self.new_tokens else f"{self.batch}×{self.length}"


def _figure(name: str, about: str = "") -> Column:
    return Column(name, lambda run, record: record.parity.get(name), help=about)


class Parity(Workload):
    """Every candidate at every shape of a matrix, and generating."""

    name = "parity"
    Options = ParityOptions
    point_type = Check
    point_noun = "check"
    cell = "bench.workloads.parity:ParityCell"
    columns: ClassVar[tuple[Column, ...]] = (
        *columns.point_columns(Check),
        columns.PARITY,
        _figure("case", "the worst of its cases"),
        _figure("share_of_limit", "largest ratio to eager's error over what is allowed"),
        _figure("rmse_ratio", "RMSE over eager's own"),
        *(_figure(name) for name in ("rmse", "rmse_eager", "p99_abs_error", "min_cosine", "kl_mean")),
        *(_figure(name) for name in ("top1_agreement", "top_k_overlap", "diverges_at", "is_near_tie")),
    )

    options: ParityOptions

    @classmethod
    def settle(cls, options: ParityOptions, source: ModelSource) -> ParityOptions:
        from bench.parity import texts
        from exporters import tokenizer

        if options.tf32 and options.bisect:
            raise UserError("--bisect looks for a fault, and --tf32 rounds every product; leave one of the two out")
        for name in OF_LOGITS:
            if getattr(options, name) is not None and source.task != "lm":
                raise UserError(f"--{name.replace('_', '-')} is about a language model's head; add --task lm")
        lengths = options.lengths or matrix.default_lengths(source.positions)
        ids = options.ids
        if (file := tokenizer_of(source, options.tokenizer)) is not None:
            words = texts.texts(1, options.seed)
            tokenizer.encode(file, words, PROMPT_LENGTH, source.vocab_size)  # is it this model's?
        if not ids:
            ids = (OWN,) if source.makes_inputs else ("random", "text" if file else "zipf")
        settled = replace(
            options, lengths=lengths, ids=ids, masks=("full",) if notes_on(source) else options.masks,
            new_tokens=_new_tokens(options.new_tokens, source),
        )  # fmt: skip
        check_lengths([Shape(one.batch, one.length) for one in cls(settled).points()], source.name, source.positions)
        return settled

    def notes(self, source: ModelSource) -> Mapping[str, Any]:
        from exporters.store import file_checksum

        remarks, file = notes_on(source), self.tokenizer(source)
        if not source.makes_inputs and "text" not in self.options.ids:
            remarks.append(
                "no tokenizer lies beside this model: in place of text, ids are drawn by Zipf's law; --tokenizer names "
                "one"
            )
        checksum = file_checksum(file) if file else None
        return {"remarks": remarks, "weights_checksum": source.weights_checksum(), "tokenizer_sha256": checksum}

    def tokenizer(self, source: ModelSource) -> Path | None:
        return tokenizer_of(source, self.options.tokenizer) if "text" in self.options.ids else None

    def points(self) -> Sequence[Check]:
        asked = self.options
        pairs = asked.shapes or [(batch, length) for batch in asked.batches for length in asked.lengths]
        found = [Check(batch, length) for batch, length in pairs]
        return [*found, *([Check(1, PROMPT_LENGTH, asked.new_tokens)] if asked.new_tokens else [])]

    def schedule(self) -> Schedule:
        return Grid(lambda point: Enough(1))

    def begin(self, point: Check, source: ModelSource) -> dict[str, Any]:
        return {"plan": self._plan(point, source).to_json(), "new_tokens": point.new_tokens}

    def turn(self, point: Check, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        return {}

    def is_larger(self, point: Check, than: Check) -> bool:
        are_shapes = not point.new_tokens and not than.new_tokens
        return are_shapes and point.batch >= than.batch and point.length >= than.length

    def shape_of(self, point: Check) -> Shape:
        return Shape(point.batch, point.length + point.new_tokens)

    def guessed_seconds(self, point: Check, source: ModelSource, peaks: Peaks | None) -> float:
        calls = 2 * len(self._cases(point, source)) * (point.new_tokens or 1) + 1
        return calls * guesses.call_seconds(source, self.options, peaks, self.shape_of(point))

    def cases(self, point: Check, source: ModelSource) -> Mapping[str, Inputs]:
        from bench.parity.reference import Inputs

        name = GENERATION if point.new_tokens else str(point)
        return {name: Inputs(self._plan(point, source), steps=point.new_tokens)}

    def _plan(self, point: Check, source: ModelSource) -> InputPlan:
        rows = matrix.most_rows(Shape(point.batch, point.length))
        return inputs.plan_of(source, point.batch, point.length, self.options.seed, self._cases(point, source), rows)

    def _cases(self, point: Check, source: ModelSource) -> tuple[str, ...]:
        takes_mask = "attention_mask" in source.inputs and not source.makes_inputs
        cases = Matrix(self.options.ids, self.options.masks)
        return cases.cases(Shape(point.batch, point.length), takes_mask and not point.new_tokens)

    def judged(self, point: Check, candidate: Candidate) -> Mapping[str, Any]:
        return {name: value for name, value in self.options.overrides.items() if name in ("atol", "rtol")}

    def parity(self, reply: Mapping[str, Any], tolerance: Tolerance) -> dict[str, Any]:
        allowed = replace(tolerance, **self.options.overrides)
        generated = reply.get(GENERATION)
        return worst_generation(generated, allowed) if generated else worst_case(reply["cases"], allowed)

    def tolerances(self) -> dict[str, Tolerance]:
        """By precision, with the user's own values in place."""
        asked = self.options
        own = {precision: tolerance_of(precision, tf32=asked.tf32) for precision in asked.precisions}
        return {precision: replace(tolerance, **asked.overrides) for precision, tolerance in own.items()}

    def conclude(self, run: Run, prepared: Preparation) -> Mapping[str, Any]:
        """Where the outputs of broken candidates begin to differ, each on its worst case of moderate size."""
        found = {}
        for place, one in enumerate(judgements.judgements(run) if self.options.bisect else ()):
            if one.verdict == "broken":
                prepared.say(f"bisecting {one.label}")
                found[str(place)] = judgements.bisection_of(one, prepared)
        return {"bisections": found} if found else {}

    # What is said of it.

    def table_title(self, record: Record) -> None:
        """Its sections have the tables."""

    def progress(self, run: Run, record: Record) -> str:
        if record.status != "ok":
            return f"{record.status}: {record.reason}"
        return f"{record.verdict}: {record.parity.get('reason', '')}"

    def heading(self, run: Run) -> Iterable[str]:
        return judgements.heading(run, self.tolerances())

    def sections(self, run: Run) -> Iterable[Section]:
        return judgements.sections(run, run.notes.get("remarks", ()))

    def narrowed(self, point: Check) -> dict[str, Any]:
        shape = (1, PROMPT_LENGTH) if point.new_tokens else (point.batch, point.length)
        return {"batches": shape[:1], "lengths": shape[1:], "shapes": ()}

    def exit_code(self, run: Run) -> int:
        return judgements.exit_code([one.verdict for one in judgements.judgements(run)])


def _new_tokens(given: int | None, source: ModelSource) -> int | None:
    """Tokens to generate; only a decoder with its head generates."""
    if given is None:
        wanted = DEFAULT_NEW_TOKENS if source.generates else 0
        return min(wanted, max(0, (source.positions or wanted + PROMPT_LENGTH) - PROMPT_LENGTH)) or None
    if given and not source.generates:
        why = "add --task lm" if source.task != "lm" else f"{source.name} is no decoder"
        raise UserError(f"--new-tokens {given}: only a decoder with its head generates; {why}")
    if given and source.positions is not None and given + PROMPT_LENGTH > source.positions:
        raise UserError(
            f"--new-tokens {given} and a prompt of {PROMPT_LENGTH} exceed the {source.positions} positions of "
            f"{source.name}; use --new-tokens ≤ {source.positions - PROMPT_LENGTH}"
        )
    return given


class ParityCell(Cell):
    """Watches one call, and judges those on the inputs that lie with the reference."""

    def begin(self, plan: dict[str, Any], new_tokens: int = 0) -> dict[str, Any]:
        from backends.base import UnsupportedError

        if not self.backend.spec.computes_the_model:
            raise UnsupportedError(f"{self.backend.spec.name} computes no model")
        self.plan, self.new_tokens = InputPlan.from_json(plan), new_tokens
        if "watched" not in self.kept:  # also ends ONNX Runtime's profiling, under which nothing is judged
            batch = self.batch(self.plan, DRAWN if self.stored is None else self.plan.cases[0])
            self.kept["watched"] = self.watch(self.backend.prepare(batch))
        return {"facts": self.backend.facts() | self.kept["watched"]}

    def turn(self) -> dict[str, Any]:
        return {}

    def judge(self, units: Mapping[str, dict[str, Any]], atol: float, rtol: float, **further: Any) -> dict[str, Any]:
        ((_, self.unit),) = units.items()
        if not self.new_tokens or "reference" not in self.unit:
            return super().judge(units, atol, rtol, **further) if "reference" in self.unit else {}
        found = generation.check(
            self.backend, self.plan, Path(self.unit["reference"]), eager_error=self.unit["eager_error"],
            precision=self.args.precision, atol=atol, rtol=rtol, device=self.args.device,
        )  # fmt: skip
        return {GENERATION: found, "facts": self.facts_after()}

    def outputs(self, unit: str, case: str, plan: InputPlan, ids: Any) -> Any:
        return self.run_once(judging.whole_batch(plan, case, Path(self.unit["reference"])))
