"""Generation: `bench generate` times prompts and the tokens behind them, with a cache of keys and values or without."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench import options, statistics
from bench.columns import DASH, Column, Section, milliseconds
from bench.errors import UserError
from bench.options import CommonOptions, declared_as, option
from bench.parity import inputs, tokens
from bench.parity.cell import Cell, settle
from bench.parity.inputs import InputPlan
from bench.parity.tokens import Timed
from bench.parity.verdict import Tolerance, worst_generation
from bench.process.decoding import Decoding, parse_decoding
from bench.process.generating import Prompts
from bench.process.loop import CACHE, FULL_PASSES
from bench.process.timing import Sampling
from bench.run import columns, guesses, sections
from bench.run.record import Record, Run
from bench.run.stopping import TimedOptions, TimedWorkload
from bench.spec import Candidate, Shape

if TYPE_CHECKING:
    from backends.base import Backend
    from bench.machine.roofline import Peaks
    from bench.parity.reference import Inputs
    from bench.run.preparation import Loading
    from exporters.sources import ModelSource

FIRST_TOKEN, DECODE = "first_token", "decode"
#: Names of what references are computed on: the prompts, and a pass over one token, whose operations are counted.
GENERATION, STEP = "generation", "step"
WAYS = {CACHE: "cache", FULL_PASSES: "full passes"}
#: A pass over fewer tokens is guessed to take as long as one over so many, as it waits for the weights.
TOKENS_OF_A_STEP = 8


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(TimedOptions):
    """Options of `bench generate`."""

    command: ClassVar[str] = "generate"
    function: ClassVar[str] = "generate"
    summary: ClassVar[str] = "Time backends generating tokens, prompt and further tokens apart, and check the tokens."

    model: str = declared_as("model", CommonOptions, "gpt2", "A decoder: built-in name, folder, or Hub id.")
    task: str = options.settled("lm")
    rounds: int = declared_as("rounds", TimedOptions, 5, "Generations per backend and batch, at least.")
    max_seconds_per_cell: float = declared_as("max_seconds_per_cell", TimedOptions, 60.0)
    prompt_length: int = option("Tokens of each prompt.", options.whole(1, 1_000_000, 16), default=16)
    new_tokens: int = option(
        "Tokens that are generated behind it; none ends early.", options.whole(1, 1_000_000, 128), default=128
    )
    batches: tuple[int, ...] = option("Prompts at once.", options.sizes, default=(1,), aliases=("--batch",))
    decoding: str = option(
        "greedy, sample, or beam:4 for four beams.", options.checked(lambda text, _: parse_decoding(text)),
        default="greedy",
    )  # fmt: skip
    top_k: int = option("Tokens that --decoding sample draws from.", options.whole(1, 1_000_000, 40), default=40)
    temperature: float = option("Of --decoding sample.", options.number(0, 1000, "0.7"), default=0.7)

    @property
    def choice(self) -> Decoding:
        """How the next token is taken from the logits."""
        return parse_decoding(self.decoding, self.top_k, self.temperature)

    @property
    def room(self) -> int:
        """Tokens of a whole sequence."""
        return self.prompt_length + self.new_tokens


@dataclass(frozen=True, order=True)
class Batch:
    """Prompts at once."""

    batch: int

    def __str__(self) -> str:
        return f"batch {self.batch}"


# Figures of a record.


def _total_seconds(run: Run, record: Record) -> float | None:
    return statistics.median(record.samples) / 1e9 if record.samples else None


def _tokens_per_second(run: Run, record: Record) -> float | None:
    """New tokens of all prompts over the time of a whole generation; a beam counts once."""
    total = _total_seconds(run, record)
    return None if total is None else record.point.batch * run.workload.options.new_tokens / total


def _peak_bytes(run: Run, record: Record) -> int | None:
    """Resident, or on a GPU what the runtime's allocator reserved, as replays of CUDA graphs allocate nothing."""
    peak: dict[str, int] = record.memory.get("peak", {})
    return peak.get("peak_reserved_bytes" if run.options.kind == "cuda" else "peak_process_bytes")


def _tokens_as_eager(run: Run, record: Record) -> int | None:
    """None without eager and its growing cache at the same precision and batch."""
    eager = run.record(record.point, Candidate("eager", "default", record.candidate.precision))
    if eager is None or not record.is_judged:
        return None
    both = zip(eager.figures.get("tokens", ()), record.figures.get("tokens", ()), strict=False)
    return min((tokens.agreement(one, other) for one, other in both), default=None)


def _as_eager_cell(run: Run, record: Record) -> str:
    alike = _tokens_as_eager(run, record)
    return DASH if alike is None else f"{alike} of {run.workload.options.new_tokens}"


def _diverges_at(run: Run, record: Record) -> int | None:
    cases = record.parity.get("cases", {}).values()
    return min((one["diverges_at"] + 1 for one in cases if one.get("diverges_at") is not None), default=None)


#: How the tokens were made, and whether they are eager's: a table of their own.
TOKENS = (
    columns.figure("way", title="way", show=WAYS.__getitem__, is_left=True, help="cache, or no-cache for full passes"),
    Column(
        "tokens_as_eager", _tokens_as_eager, title="as eager's", cell=_as_eager_cell,
        help="tokens from the first on that are eager's",
    ),
    Column(
        "diverges_at", _diverges_at, title="diverges at", is_optional=True,
        help="first greedy token that is not the reference's, from 1 on",
    ),
    columns.PARITY,
    columns.MAX_ABS_ERROR,
    columns.figure("cache_bytes", title="cache MiB", show=lambda value: f"{value / sections.MIB:.2f}"),
    Column(
        "peak_bytes", _peak_bytes, title="peak MiB", show=lambda value: f"{value / sections.MIB:.0f}",
        help="the most that was held during one generation",
    ),
)  # fmt: skip


class Generate(TimedWorkload):
    """Every candidate at every batch; a sample is one whole generation."""

    name = "generate"
    Options = GenerateOptions
    point_type = Batch
    point_noun = "batch size"
    point_title = "batch"
    plotted = ("first_token_ms", "ms_per_token", "tokens_per_second")
    cell = "bench.workloads.generate:GenerateCell"
    has_roofline = True
    roofline_kind = DECODE
    columns: ClassVar[tuple[Column, ...]] = (
        *columns.point_columns(Batch),
        *(columns.option(name) for name in ("prompt_length", "new_tokens", "decoding", "top_k", "temperature")),
        Column(
            "first_token_ms", columns.median_ms(FIRST_TOKEN), title="first ms", cell=columns.median_cell(FIRST_TOKEN),
            help="median until the first token is there: the prompt's pass, ms; ! marks a disturbed cell",
        ),
        Column(
            "ms_per_token", columns.median_ms(DECODE), title="ms/token", show=lambda value: milliseconds(value * 1e6),
            help="median of a decoding step: one more token of every sequence, ms",
        ),
        Column("tokens_per_second", _tokens_per_second, title="tokens/s", show=lambda value: f"{value:.4g}"),
        Column("total_s", _total_seconds, title="total s", show=lambda value: f"{value:.4g}"),
        *(replace(one, title="") if one is columns.MEDIAN else one for one in columns.TIMES),
        *columns.SPEEDUP,
        *columns.ROOFLINE,
        *(replace(one, title="") for one in TOKENS),
        Column("key_value_bytes_per_token", lambda run, record: record.memory.get("key_value_bytes_per_token")),
    )  # fmt: skip

    options: GenerateOptions

    @classmethod
    def settle(cls, options: GenerateOptions, source: ModelSource) -> GenerateOptions:
        if not source.is_decoder:
            lacks = "offers no step" if source.weights == "module" else "is no decoder"
            raise UserError(f"{source.name} {lacks}, so it generates nothing; use e.g. --model gpt2")
        if source.positions is not None and options.room > source.positions:
            raise UserError(
                f"--prompt-length {options.prompt_length} and --new-tokens {options.new_tokens} exceed the "
                f"{source.positions} positions of {source.name}; use --new-tokens ≤ "
                f"{max(0, source.positions - options.prompt_length)}"
            )
        return options.with_precision()

    @classmethod
    def variants_of(cls, backend: Any) -> Mapping[str, Any]:
        return {"default": {}} | dict(backend.spec.generation) | {FULL_PASSES: {}}

    def loading(
        self, candidate: Candidate, backend: type[Backend], source: ModelSource, metadata: Mapping[str, Any]
    ) -> Loading:
        from bench.run.preparation import Loading

        spec, variant = backend.spec, candidate.variant
        model_keeps = bool(metadata.get("keeps_keys_and_values", source.keeps_keys_and_values))
        if not spec.computes_the_model or (model_keeps and variant in spec.generation):
            return Loading(spec.generation_format or spec.format_of(variant), CACHE)
        if variant in (*spec.variants, FULL_PASSES):
            return Loading(spec.format_of(variant), FULL_PASSES)
        refusal = (
            f"this {'backend' if model_keeps else 'model'} keeps no keys and values, so {candidate.label} has none to "
            f"keep; use {candidate.backend}, which passes over all tokens at each step"
        )
        return Loading(spec.format_of(variant), FULL_PASSES, refusal)

    def points(self) -> tuple[Batch, ...]:
        return tuple(Batch(size) for size in self.options.batches)

    def begin(self, point: Batch, source: ModelSource) -> dict[str, Any]:
        asked, prompts = self.options, self._prompts(source)
        return {
            "plans": [replace(prompts, batch=point.batch).to_json(), prompts.to_json()],
            "choice": [asked.new_tokens, asdict(asked.choice), asked.seed],
            "sampling": {"warmup_seconds": asked.warmup, "warmup_most_seconds": asked.max_warmup},
        }

    def is_larger(self, point: Batch, than: Batch) -> bool:
        return point.batch >= than.batch

    def shape_of(self, point: Batch) -> Shape:
        return Shape(self._sequences(point), self.options.room)

    def _sequences(self, point: Batch) -> int:
        return point.batch * self.options.choice.beams

    def guessed_seconds(self, point: Batch, source: ModelSource, peaks: Peaks | None) -> float:
        asked, rows = self.options, self._sequences(point)
        length = TOKENS_OF_A_STEP if source.keeps_keys_and_values else asked.room // 2
        call = guesses.call_seconds(source, asked, peaks, Shape(rows, asked.prompt_length))
        call += asked.new_tokens * guesses.call_seconds(source, asked, peaks, Shape(rows, length))
        return guesses.cell_seconds(call, asked.warmup, asked.enough.least_rounds, asked.max_seconds_per_cell)

    # What it is judged by.

    def cases(self, point: Batch, source: ModelSource) -> Mapping[str, Inputs]:
        from bench.parity.reference import Inputs

        prompts, steps = self._prompts(source), self.options.new_tokens
        one_token = inputs.plan_of(source, 1, 1, self.options.seed, inputs.timed_cases(1))
        return {
            GENERATION: Inputs(prompts, steps=steps, with_cache=source.keeps_keys_and_values),
            STEP: Inputs(one_token, counts=True),
        }

    def _prompts(self, source: ModelSource) -> InputPlan:
        """One prompt a case: two if any batch has room for both, so that rows that are mixed up are seen."""
        cases = ("random-full", "zipf-full") if max(self.options.batches) > 1 else ("random-full",)
        return inputs.plan_of(source, 1, self.options.prompt_length, self.options.seed, cases, most_rows=1)

    def parity(self, reply: Mapping[str, Any], tolerance: Tolerance) -> dict[str, Any]:
        return worst_generation(reply["cases"], tolerance)

    def memory(self, point: Batch, candidate: Candidate, source: ModelSource) -> dict[str, Any]:
        token = source.key_value_bytes(1, candidate.precision)
        return {} if token is None else {"key_value_bytes_per_token": token}

    def least_work(self, record: Record) -> tuple[int, int]:
        """A decoding step reads the weights once and, with a cache, each sequence's keys and values so far: the mean
        over the steps behind the first.
        """
        asked, sequences, held = self.options, self._sequences(record.point), 0
        if record.figures.get("way") == CACHE:
            mean_length = asked.prompt_length + asked.new_tokens / 2
            held = round(record.memory.get("key_value_bytes_per_token", 0) * mean_length * sequences)
        return record.operations["flops"] * sequences, record.operations["weight_bytes"] + held

    # What is said of it.

    def warnings(self, run: Run, record: Record) -> Iterable[str]:
        yield from super().warnings(run, record)
        if record.figures.get("way") == FULL_PASSES:
            yield "no keys and values are kept: each token is a pass over all tokens before it"
        alike = _tokens_as_eager(run, record)
        if alike is not None and alike < self.options.new_tokens and record.is_comparable:
            yield (
                "some tokens differ from eager's, though with the reference's tokens forced the logits are like "
                "eager's at every step: rounding decides between near-ties"
            )

    def heading(self, run: Run) -> Iterable[str]:
        asked = self.options
        yield f"{asked.new_tokens} new tokens behind prompts of {asked.prompt_length}, {asked.choice}; none ends early"
        yield (
            "medians of whole generations, prompts and tokens on the device; first: until the first token is there; "
            f"ms/token: of those behind it; total: all of it, {columns.legend(run)}; roofline: share of a token's time "
            "that reading weights, keys and values takes at this machine's peak"
        )

    def sections(self, run: Run) -> Iterable[Section]:
        for point, records in sections.iter_points(run):
            yield sections.fastest_at(run, point, records)
            yield sections.of_columns(run, "tokens", point, records, TOKENS)


class GenerateCell(Cell):
    """Warms generations of one batch up, times one a turn, and judges logits and tokens of its prompts."""

    def begin(self, plans: list[dict[str, Any]], choice: Sequence[Any], sampling: dict[str, Any]) -> dict[str, Any]:
        """`plans` are of the batch and of the reference's prompts, which take places in it."""
        rows, judged = (InputPlan.from_json(one) for one in plans)
        new_tokens, decoding, seed = choice
        ids, self.places = tokens.prompts_of(rows, judged)
        self.prompts = Prompts(
            self.backend, ids, new_tokens, Decoding(**decoding), seed, self.args.device,
            keeps_cache=self.args.generation == CACHE, names=rows.inputs,
        )  # fmt: skip
        settle()
        first_ns = self.prompts.first_call_ns()
        watched = self.prompts.watch()
        warm = self.prompts.warm_up(Sampling(**sampling))
        self.facts_before = self.backend.facts() | watched
        once = {"first_call_ns": first_ns, "warmup_ns": warm.warmup_ns, "is_stable": warm.is_stable}
        return {"once": once, "facts": self.facts_before, "figures": {"way": self.args.generation}}

    def turn(self) -> dict[str, Any]:
        self.choice, times = self.prompts.timed()
        written = self.choice.tokens().cpu().numpy().tobytes()
        return {"times_ns": times, "outputs": f"{zlib.crc32(written):08x}"}

    def judge(self, units: Mapping[str, dict[str, Any]], atol: float, rtol: float, **further: Any) -> dict[str, Any]:
        facts, asked = self.facts_after(), units[GENERATION]
        timed, cases = Timed(self.prompts, self.choice, self.held_by), {}
        if "reference" in asked:
            folders = Path(asked["reference"]), Path(asked["eager_error"])
            cases = timed.judge(self.places, *folders, self.args.precision, atol, rtol)
        else:
            timed.generate(self.prompts.chooser())
        figures = {"tokens": timed.tokens.tolist(), "cache_bytes": timed.cache_bytes}
        return {"cases": cases, "facts": facts, "memory": timed.memory, "figures": figures}
