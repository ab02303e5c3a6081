"""Sentences of varying length: `bench corpus` times whole passes over them, each batch padded to its longest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench import options
from bench.errors import UserError
from bench.options import CommonOptions, declared_as, option
from bench.packing import BUCKETED, DEFAULT_BUCKET, LAST, SORTED, UNSORTED, Packed, Packing, Summary, pack, parse_orders
from bench.parity import inputs
from bench.parity import sentences as reading
from bench.parity.cell import TimedCell, settle
from bench.parity.inputs import InputPlan
from bench.parity.sentences import Sentences
from bench.process import abilities, timing
from bench.process.timing import Sampling
from bench.run import guesses
from bench.run.record import Turn
from bench.run.schedule import Enough, Grid, Schedule
from bench.spec import Candidate, Shape
from bench.workloads.forward import ForwardOptions
from bench.workloads.passes import OneByOne, Passes, read_one_by_one, run_in

if TYPE_CHECKING:
    from bench.machine.roofline import Peaks
    from bench.parity.reference import Inputs
    from exporters.sources import ModelSource

#: Calls of each shape and one pass, beside the timed ones.
PASSES_BESIDE = 2
SECONDS_OF_A_CALL = 0.002
COUNT = options.whole(1, reading.MOST_SENTENCES, reading.DEFAULT_SENTENCES)


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(CommonOptions):
    """Options of `bench corpus`."""

    command: ClassVar[str] = "corpus"
    summary: ClassVar[str] = "Time whole passes over sentences of varying length, each batch padded to its longest."

    texts: str | None = option("Text file, one sentence a line.", options.text, default=None)
    lengths_from: str | None = option(
        "File with one length in tokens a line, or a run of this command; ids are drawn.", options.text, default=None
    )
    synthetic: int | None = option(
        "This many lengths, drawn like those of sentences; ids are drawn too.", COUNT, default=None
    )
    sentences: int | None = option(
        "This many of our own sentences, or a file's first ones.", COUNT, default=None, default_shown="1000; all"
    )
    batches: tuple[int, ...] = option("Batch sizes.", options.sizes, default=(1, 2, 4, 8, 16, 32, 64))
    orders: tuple[str, ...] = option("Any of unsorted, sorted, bucketed.", parse_orders, default=(UNSORTED, SORTED))
    bucket: int | None = option(
        "Round the length of each batch up to a multiple of this.",
        options.whole(1, 100_000, 16),
        default=None,
        default_shown="16 for bucketed",
    )
    max_shapes: int = option(
        "Shapes that a backend may have to compile for one batch size and order.",
        options.whole(1, 100_000, 16),
        default=16,
        aliases=("--most-shapes",),
    )
    rounds: int = option("Timed passes of each backend.", options.whole(1, 10_000, 5), default=5)
    tokenizer: str | None = option(
        "tokenizer.json, or a folder with one.", options.text, default=None, default_shown="the model's own"
    )
    max_tokens: int | None = option(
        "Cut sentences at this many tokens.",
        options.whole(reading.SPECIAL_TOKENS + 1, 10_000_000, 128),
        default=None,
        default_shown="the model's positions",
    )
    boundary: str = declared_as(
        "boundary", ForwardOptions, "device",
        "device (batches are on it before) or host (host arrays in and out, copies timed).",
    )  # fmt: skip
    warmup: float = declared_as("warmup", ForwardOptions, 0.3, "Warm-up of a cell by whole passes.")
    cpu_run: str | None = option(
        "A run of this command on the CPU: speed-ups are also against its eager at batch 1.", options.text, default=None
    )
    timeout: float = declared_as(
        "timeout", CommonOptions, 3600.0,
        "Silence after which a process is taken for hung; a pass, or all compilations, is one silence. An export or a "
        "reference may take four times that.",
    )  # fmt: skip
    corpus: Summary = options.settled(Summary())  # noqa: RUF009
    positions: int | None = options.settled(None)
    """The model's, beyond which no length is rounded up."""
    one_by_one: OneByOne | None = options.settled(None)  # noqa: RUF009
    """What `cpu_run` says."""

    def multiple(self, order: str) -> int:
        """What the length of a batch is rounded up to a multiple of."""
        return self.bucket or (DEFAULT_BUCKET if order == BUCKETED else 1)

    def packed(self, point: Packing) -> Packed:
        """The sentences in batches."""
        return pack(self.corpus.lengths, point, self.multiple(point.order), self.positions, self.seed)

    def read(self, source: ModelSource) -> Sentences:
        """The sentences, with their ids."""
        lengths: Sequence[int] = ()
        if (name := self.lengths_from) is not None:
            text = reading.read(Path(name), "--lengths-from")
            is_run = text.lstrip().startswith("{")
            lengths = (
                run_in(name, "--lengths-from").workload.options.corpus.lengths
                if is_run
                else reading.read_lengths(text, Path(name))
            )
        return reading.make(
            source,
            texts=self.texts,
            lengths_from=name,
            lengths=lengths,
            synthetic=self.synthetic,
            sentences=self.sentences,
            text_tokenizer=self.tokenizer,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )


class Corpus(Passes):
    """Every candidate at every batch size in every order."""

    name = "corpus"
    Options = CorpusOptions
    point_type = Packing
    point_noun = "packing"
    point_title = "batch, order"
    call_nouns = ("pass", "passes")
    cell = "bench.workloads.corpus:CorpusCell"

    options: CorpusOptions
    _ids: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def settle(cls, options: CorpusOptions, source: ModelSource) -> CorpusOptions:
        if source.inputs != inputs.INPUTS or source.makes_inputs:
            raise UserError(
                f"{source.name} takes no attention mask, so sentences cannot be padded for it; add one to its forward"
            )
        found = options.read(source)
        if (largest := options.batches[-1]) > len(found.ids):
            raise UserError(
                f"--batches {largest} exceeds the {len(found.ids):,} sentences of the corpus; "
                f"use --batches ≤ {len(found.ids)}, or more sentences"
            )
        options = replace(options, corpus=found.summary, positions=source.positions)
        if options.cpu_run is None:
            return options
        return replace(options, one_by_one=read_one_by_one(options.cpu_run, options, source))

    @classmethod
    def candidates(cls, options: CorpusOptions, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        if options.baseline is not None and options.baseline.endswith(".jsonl"):
            raise UserError(f"--baseline names a backend now; give the run on the CPU as --cpu-run {options.baseline}")
        return found

    def check_unchanged(self, source: ModelSource) -> None:
        self.ids(source)

    def ids(self, source: ModelSource) -> tuple[tuple[int, ...], ...]:
        """Ids of all sentences, read or drawn again; raises UserError if they are not those that the run began with."""
        if not self._ids:
            found = self.options.read(source)
            if found.summary.checksum != self.options.corpus.checksum:
                raise UserError(
                    f"the run was begun with other sentences than {found.summary.source} has now; start a new run"
                )
            self._ids = found.ids
        return self._ids

    def points(self) -> Sequence[Packing]:
        return [Packing(batch, order) for order in self.options.orders for batch in self.options.batches]

    def schedule(self) -> Schedule:
        return Grid(lambda point: Enough(self.options.rounds))

    def begin(self, point: Packing, source: ModelSource) -> dict[str, Any]:
        asked, packed, ids = self.options, self.options.packed(point), self.ids(source)
        return {
            "batches": [{"rows": [ids[row] for row in one.sentences], "length": one.length} for one in packed.batches],
            "places": packed.judged,
            "plan": self._plan(packed, LAST, source).to_json(),
            "sampling": asdict(Sampling(warmup_seconds=asked.warmup, warmup_most_seconds=asked.warmup)),
            "boundary": asked.boundary,
            "max_shapes": asked.max_shapes,
        }

    def _plan(self, packed: Packed, case: str, source: ModelSource) -> InputPlan:
        rows, length = packed.batches[packed.judged[case]].shape
        return inputs.plan_of(source, rows, length, self.options.seed, (case,))

    def turn(self, point: Packing, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        return {"seconds": 0.0}  # one pass, however short

    def cases(self, point: Packing, source: ModelSource) -> Mapping[str, Inputs]:
        from bench.parity.reference import Inputs

        packed, ids = self.options.packed(point), self.ids(source)
        return {
            f"{point} {case}": Inputs(
                self._plan(packed, case, source), {case: [ids[row] for row in packed.batches[place].sentences]}
            )
            for case, place in packed.judged.items()
        }

    def shape_of(self, point: Packing) -> Shape:
        return Shape(*self.options.packed(point).largest.shape)

    def is_larger(self, point: Packing, than: Packing) -> bool:
        rows, length = self.options.packed(than).largest.shape
        return any(batch.shape[0] >= rows and batch.shape[1] >= length for batch in self.options.packed(point).batches)

    def guessed_seconds(self, point: Packing, source: ModelSource, peaks: Peaks | None) -> float:
        shapes = (Shape(*batch.shape) for batch in self.options.packed(point).batches)
        calls = (SECONDS_OF_A_CALL + guesses.call_seconds(source, self.options, peaks, shape) for shape in shapes)
        return (PASSES_BESIDE + self.options.rounds) * sum(calls) + self.options.warmup


class CorpusCell(TimedCell):
    """Holds every batch prepared, times passes over all of them, and judges up to three batches."""

    timed_case = LAST

    def begin(
        self,
        batches: list[dict[str, Any]],
        places: dict[str, int],
        plan: dict[str, Any],
        sampling: dict[str, Any],
        boundary: str,
        max_shapes: int,
    ) -> dict[str, Any]:
        """Prepare batches (`rows` of ids, `length`), call each shape once, warm passes up; `plan` is the last one.s."""
        from backends.base import UnsupportedError

        backend = self.backend
        self.plan, self.sampling, self.boundary = InputPlan.from_json(plan), Sampling(**sampling), boundary
        self.places, self.let_go = places, abilities.release_of(backend)
        self.batches = [inputs.padded(one["rows"], replace(self.plan, length=one["length"])) for one in batches]
        shapes = [batch["input_ids"].shape for batch in self.batches]
        self.largest = max(range(len(shapes)), key=lambda place: shapes[place][0] * shapes[place][1])
        firsts = {shape: shapes.index(shape) for shape in shapes}
        if abilities.has_static_shapes(backend) and len(firsts) > max_shapes:
            raise UnsupportedError(
                f"{backend.spec.name} would compile {len(firsts)} shapes, above --max-shapes {max_shapes}; "
                "round lengths up with --bucket 16 or more, use --orders bucketed, or raise it"
            )
        abilities.keep_shapes(backend, len(firsts))
        self.prepared = [backend.prepare(batch) for batch in self.batches]
        self.step = timing.Step(self._pass if boundary == "device" else self._pass_from_host, backend.synchronize)
        settle()
        first_ns, watched = 0, None
        for place in firsts.values():
            if watched is None:
                first_ns, watched = self.first_call(self.prepared[place])
                continue
            first = timing.Step(partial(backend.run, self.prepared[place]), backend.synchronize)
            first_ns += first.wall_ns(time.perf_counter_ns)
            self.release(first.outputs)
            first.outputs = None
        return self.warmed_up(first_ns, watched or {})

    def _pass(self) -> Any:
        """Start every batch in order; each one's outputs are let go before the next. Returns the last one's."""
        run, release, outputs = self.backend.run, self.let_go, None
        for prepared in self.prepared:
            if outputs is not None:
                release(outputs)
            outputs = None
            outputs = run(prepared)
        return outputs

    def _pass_from_host(self) -> Any:
        """The same from host arrays to host arrays, copies included."""
        outputs = None
        for batch in self.batches:
            outputs = self.backend.fetch(self.backend.run(self.backend.prepare(batch)))
        return outputs

    def outputs(self, unit: str, case: str, plan: InputPlan, ids: Any) -> Any:
        """Of the last timed pass for its last batch, else of one more call; the memory of the largest batch's call."""
        place = self.places[case]
        timed = None
        if case == LAST:
            timed, self.step.outputs = self._last_outputs(), None
            if place != self.largest:
                return timed, {}
        arrays, held = self.run_prepared(self.prepared[place])
        return arrays if timed is None else timed, held if place == self.largest else {}

    def end(self) -> None:
        del self.step, self.prepared, self.batches
