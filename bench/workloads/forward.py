"""Forward passes: `bench compare` times one shape after another, on inputs that stay on the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from bench import options
from bench.columns import Column, Section
from bench.errors import UserError
from bench.options import option
from bench.parity import inputs, judging
from bench.parity.cell import TimedCell, settle
from bench.parity.inputs import InputPlan
from bench.process import abilities, timing
from bench.process.timing import KINDS_OF_TIME, Sampling
from bench.run import columns, doubling, guesses, sections
from bench.run.racing import Racing
from bench.run.record import Record, Run, Turn
from bench.run.schedule import Schedule
from bench.run.stopping import TimedOptions
from bench.spec import AUTO, DEFAULT_BATCHES, DEFAULT_LENGTHS, Candidate, Shape, check_lengths
from bench.traffic import Counts, parse_traffic
from bench.workloads import published
from bench.workloads.weighing import Weighing

if TYPE_CHECKING:
    from bench.machine.roofline import Peaks
    from bench.parity.reference import Inputs
    from exporters.sources import ModelSource

#: Turns that a cell's ceiling of seconds is shared out to, or more for many rounds.
TURNS_OF_A_CEILING = 50
#: Share of a grid's tokens above which the reference of one shape is made with those of the others like it, last.
COSTLY_SHARE = 0.25


def batches(value: Any, name: str) -> str | tuple[int, ...]:
    """Batch sizes, or "auto"."""
    return AUTO if isinstance(value, str) and value.strip() == AUTO else options.sizes(value, name)


@dataclass(frozen=True, kw_only=True)
class ForwardOptions(TimedOptions):
    """Options of `bench compare`."""

    command: ClassVar[str] = "compare"
    function: ClassVar[str] = "compare"
    summary: ClassVar[str] = "Time backends against each other on one grid, and check each against a float64 reference."

    preset: str | None = option(
        "A grid by name (`bench list presets`) or .toml file; options given beside it win.", options.text, default=None
    )
    batches: str | tuple[int, ...] = option(
        "Batch sizes, or auto: double, per length, until throughput gains under 5% or memory ends.",
        batches, default=DEFAULT_BATCHES,
    )  # fmt: skip
    lengths: tuple[int, ...] = option(
        "Sequence lengths in tokens.", options.sizes, default=(), default_shown="16,128,512 as far as the model goes"
    )
    shapes: tuple[tuple[int, int], ...] = option(
        "Batch×length pairs in place of batches and lengths, e.g. 1x512,16x512.", options.shapes, default=(),
        show=options.shown_shapes,
    )  # fmt: skip
    boundary: str = option(
        "device (inputs and outputs stay on it) or host (host arrays in and out, copies timed).",
        options.one_of(("device", "host")), default="device",
    )  # fmt: skip
    naive_timer: bool = option(
        "Also time calls without synchronising: wrong, to explain old figures.", options.flag, default=False
    )
    traffic: str | None = option(
        "CSV or JSON Lines with batch, length and maybe count, by which the choice weighs the shapes.", parse_traffic,
        default=None, default_shown="every shape counts alike",
    )  # fmt: skip
    until_decided: float | None = option(
        "Go on beyond the ceilings until it is known what to take, for this long from the start, e.g. 5m.",
        options.seconds(example="5m"), default=None, show=options.shown_seconds,
    )  # fmt: skip
    max_loss: float | None = option(
        "Largest RMSE over the output's RMS, e.g. 2%; lets the choice take what is below fp32.", options.share,
        default=None, show=options.shown_share,
    )  # fmt: skip
    grad: bool = option("Also run eager with autograd on, to show what that costs.", options.flag, default=False)
    served: Counts = options.settled(())  # noqa: RUF009
    """Every shape of the traffic."""
    served_from: str = options.settled("")

    @classmethod
    def parsed(cls, given: Mapping[str, Any]) -> ForwardOptions:
        """Options; those of a preset under those that are given."""
        found = super().parsed(given)
        if found.preset is None:
            return found
        from bench.workloads import presets

        named = {name for name, value in given.items() if value is not None}
        of_preset = presets.load(found.preset).options(named)
        return super().parsed({**of_preset, **given})

    @property
    def sampling(self) -> Sampling:
        """How a worker warms up and samples."""
        return Sampling(warmup_seconds=self.warmup, warmup_most_seconds=self.max_warmup, naive_timer=self.naive_timer)


def _per(name: str, of: Callable[[float, Shape], float], **more: Any) -> Column:
    """A figure of the median (ms) and the shape."""
    median_ms = columns.MEDIAN.value
    return Column(
        name, lambda run, record: of(median_ms(run, record), record.point) if record.samples else None, **more
    )


def with_gradients(found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Candidates, eager followed by its variant that runs with autograd on."""
    plain = [one for one in found if (one.backend, one.variant, one.copy) == ("eager", "default", 1)]
    grad = {one: replace(one, variant="grad") for one in plain}
    return tuple(dict.fromkeys(each for one in found for each in (one, grad.get(one, one))))


@cache
def _grid(batches: tuple[int, ...], lengths: tuple[int, ...]) -> tuple[Shape, ...]:
    """Every batch at every length; made once, as it is asked for at each turn."""
    return tuple(Shape(batch, length) for batch in batches for length in lengths)


def _tokens(shape: Shape) -> int:
    return shape.batch * shape.length


class Forward(Weighing):
    """Every candidate at every shape of a grid."""

    name = "forward"
    Options = ForwardOptions
    point_type = Shape
    point_noun = "shape"
    point_title = "batch × length"
    cell = "bench.workloads.forward:ForwardCell"
    has_roofline = True
    tells_early = True
    races = True
    decisive = ("boundary",)
    columns: ClassVar[tuple[Column, ...]] = (
        *columns.point_columns(Shape),
        *columns.TIMES,
        _per(
            "ms_per_sample", lambda ms, shape: ms / shape.batch, title="ms/sample", show=columns.ms, drop=30,
            is_wide=True, help="median over the batch size, ms",
        ),
        _per(
            "us_per_step", lambda ms, shape: ms / (shape.length / 1e3), title="us/step", is_on_request=True,
            help="median over the length, µs",
        ),
        _per(
            "tokens_per_second", lambda ms, shape: shape.batch * shape.length * 1e3 / ms, title="tokens/s",
            is_on_request=True,
        ),
        *columns.SPEEDUP,
        *columns.ROOFLINE,
        columns.PARITY,
        columns.MAX_ABS_ERROR,
        *columns.OTHER_TIMES,
        columns.option("boundary"),
        Column("key_value_bytes_per_sequence", lambda run, record: record.memory.get("key_value_bytes_per_sequence")),
        *published.COLUMNS,
    )  # fmt: skip

    options: ForwardOptions

    @classmethod
    def settle(cls, options: ForwardOptions, source: ModelSource) -> ForwardOptions:
        positions = source.positions
        if not options.lengths:
            options = replace(options, lengths=tuple(n for n in DEFAULT_LENGTHS if positions is None or n <= positions))
        if options.budget is not None and options.batches == AUTO:
            raise UserError("--budget has no share for --batches auto, which are not known beforehand; give e.g. 1,4")
        check_lengths(cls(options).points(), source.name, positions)
        found: ForwardOptions = cls.weighed(options)
        return found

    @classmethod
    def candidates(cls, options: ForwardOptions, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        if not options.grad:
            return found
        if not any(candidate.backend == "eager" for candidate in found):
            raise UserError("--grad is eager's alone, and eager is not among the backends; use --backends eager,…")
        return with_gradients(found)

    @property
    def is_open_ended(self) -> bool:
        """True if batches are doubled as long as that gains throughput."""
        return self.options.batches == AUTO and not self.options.shapes

    def points(self) -> tuple[Shape, ...]:
        if self.options.shapes:
            return tuple(Shape(*pair) for pair in self.options.shapes)
        sizes = doubling.BATCHES if self.is_open_ended else self.options.batches
        return _grid(tuple(map(int, sizes)), tuple(self.options.lengths))

    def in_order(self) -> Sequence[Shape]:
        return self.points() if self.is_open_ended else sorted(self.points(), key=_tokens)

    def first_points(self) -> Sequence[Shape]:
        first = doubling.BATCHES[: doubling.TOGETHER]
        return [point for point in self.points() if point.batch in first] if self.is_open_ended else ()

    def referenced_with(self, point: Shape) -> Sequence[Shape]:
        if self.is_open_ended:
            return [point]
        most = COSTLY_SHARE * sum(map(_tokens, self.points()))
        return [one for one in self.in_order() if (_tokens(one) > most) == (_tokens(point) > most)]

    def schedule(self) -> Schedule:
        asked = self.options
        if self.is_open_ended:
            return doubling.Doubling(lambda point: asked.enough)
        return Racing(asked.enough, self.may_be_taken, asked.until_decided or 0.0, self.weights())

    def begin(self, point: Shape, source: ModelSource) -> dict[str, Any]:
        plan = self._plan(point, source).to_json()
        found = {"plan": plan, "sampling": asdict(self.options.sampling), "boundary": self.options.boundary}
        return found | {"shapes": 1 if self.is_open_ended else len(self.points())}

    def turn(self, point: Shape, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        return {"seconds": self._turn_seconds}

    @property
    def _turn_seconds(self) -> float:
        return self.options.max_seconds_per_cell / max(TURNS_OF_A_CEILING, self.options.rounds)

    def is_larger(self, point: Shape, than: Shape) -> bool:
        return point.batch >= than.batch and point.length >= than.length

    def shape_of(self, point: Shape) -> Shape:
        return point

    def guessed_seconds(self, point: Shape, source: ModelSource, peaks: Peaks | None) -> float:
        asked = self.options
        call = guesses.call_seconds(source, asked, peaks, point)
        most, least = asked.max_seconds_per_cell, asked.enough.least_rounds
        rounds = least if call > timing.SLOW_CALL_NS / 1e9 else asked.rounds
        return guesses.cell_seconds(call, asked.warmup, least, rounds, self._turn_seconds, most)

    def cases(self, point: Shape, source: ModelSource) -> Mapping[str, Inputs]:
        from bench.parity.reference import Inputs

        return {str(point): Inputs(self._plan(point, source), counts=True, shares=not source.makes_inputs)}

    def _plan(self, point: Shape, source: ModelSource) -> InputPlan:
        takes_mask = "attention_mask" in source.inputs and not source.makes_inputs
        cases = inputs.timed_cases(point.length, takes_mask)
        return inputs.plan_of(
            source, point.batch, point.length, self.options.seed, cases, padded_rows=self._padded_rows(point)
        )

    def _padded_rows(self, point: Shape) -> int:
        """Rows of the padded case that are judged: one for each kind of mask at the shortest length of the run, if a
        batch there has as many rows, else one that has all kinds.
        """
        least, points = inputs.LEAST_PADDED_LENGTH, self.points()
        is_shortest = point.length <= min((one.length for one in points if one.length >= least), default=point.length)
        most = max((one.batch for one in points if one.length == point.length), default=point.batch)
        has_each = point.length < least or (is_shortest and most >= inputs.JUDGED_ROWS)
        return inputs.JUDGED_ROWS if has_each else 1

    def memory(self, point: Shape, candidate: Candidate, source: ModelSource) -> dict[str, Any]:
        cache = source.key_value_bytes(point.length, candidate.precision)
        return {} if cache is None else {"key_value_bytes_per_sequence": cache}

    def warnings(self, run: Run, record: Record) -> Iterable[str]:
        yield from super().warnings(run, record)
        if record.parity.get("cases") and record.point.length > 1 and "padded" not in record.parity["cases"]:
            yield (
                "no padded case: the module takes no attention_mask, or makes its inputs itself; all positions are "
                "judged"
            )

    def notes(self, source: ModelSource) -> Mapping[str, Any]:
        return published.notes(self.options.preset, source, self.points())

    def heading(self, run: Run) -> Iterable[str]:
        if preset := run.notes.get("preset"):
            yield f"preset {preset['name']}: {preset['title']} ({preset['source']})"
        on_device = self.options.boundary == "device"
        within = "inputs and outputs on the device" if on_device else "host arrays in and out, copies timed"
        yield (
            f"median of synchronised calls, {within}; {columns.legend(run)}; "
            "roofline: share of what this machine's peaks allow"
        )
        if self.options.naive_timer:
            yield "naive: a clock that never waits for the device; wrong if that works on its own"

    def table_title(self, record: Record) -> str:
        return f"batch {record.point.batch} × length {record.point.length}"

    def sections(self, run: Run) -> Iterable[Section]:
        for point, records in sections.iter_points(run):
            yield sections.fastest_at(run, point, records)
            yield sections.kinds_of_time(run, point, records, KINDS_OF_TIME)
        if self.is_open_ended:
            yield doubling.best_batches(run)
        yield published.section(run)
        yield sections.memory(run)
        yield published.cache_section(run)

    def plan(self, run: Run) -> Iterable[str]:
        if self.is_open_ended:
            yield (
                f"batches double at each length while throughput gains {doubling.GAIN:.0%}, "
                f"up to {doubling.LARGEST_BATCH}"
            )

    def progress(self, run: Run, record: Record) -> str:
        if self.is_left_out(record):
            return f"length {record.point.length} ends: {record.reason.removeprefix(doubling.ENDED)}"
        return super().progress(run, record)

    def is_left_out(self, record: Record) -> bool:
        return self.is_open_ended and doubling.is_beyond(record)

    def narrowed(self, point: Shape) -> dict[str, Any]:
        without = {"preset": None, "grad": False, "shapes": (), "traffic": None, "until_decided": None}
        return without | super().narrowed(point)


class ForwardCell(TimedCell):
    """Warms one shape up, times calls, and judges the outputs of each turn's last one."""

    timed_case = "timed"

    def begin(self, plan: dict[str, Any], sampling: dict[str, Any], boundary: str, shapes: int = 1) -> dict[str, Any]:
        """Prepare and warm up; turns come back to each of `shapes`, so a backend holds what it compiled for all."""
        backend = self.backend
        if shapes > 1 and not self.kept.get("shapes"):
            abilities.keep_shapes(backend, shapes)
            self.kept["shapes"] = shapes
        self.plan, self.sampling, self.boundary = InputPlan.from_json(plan), Sampling(**sampling), boundary
        batch = self.batch(self.plan)
        prepared = backend.prepare(batch)
        call = partial(backend.run, prepared) if boundary == "device" else partial(self._from_host, batch)
        # Between host and host a call copies and waits, so its events would time the host.
        self.step = timing.step(backend, call, has_clock=boundary == "device")
        settle()
        if boundary == "device":
            return self.warmed_up(*self.first_call(prepared))
        first_ns = self.step.wall_ns(time.perf_counter_ns)
        self.step.outputs = None  # two calls' outputs at once would double what autograd or a language model holds
        return self.warmed_up(first_ns, self.watch(prepared))

    def warm_up(self, first_ns: int) -> timing.WarmUp:
        """A slow call is warmed up by one on the case that is judged beside the timed one, whose shape is the same."""
        others = [case for case in self.plan.cases if case != self.timed_case]
        if first_ns <= timing.SLOW_CALL_NS or not others:
            return super().warm_up(first_ns)
        backend, case = self.backend, others[0]
        step = timing.Step(partial(backend.run, backend.prepare(self.batch(self.plan, case))), backend.synchronize)
        call_ns, held = self.held_by(partial(step.wall_ns, time.perf_counter_ns))
        self.ahead[case] = judging.judged(backend.fetch(step.outputs), self.plan, case), held
        self.release(step.outputs)
        return timing.slow(call_ns) if call_ns > timing.SLOW_CALL_NS else super().warm_up(first_ns)

    def turn(self, seconds: float) -> dict[str, Any]:
        graphs = self.backend.facts()["graphs"] if "graphs" in self.facts_before else 0
        found = super().turn(seconds)
        self.step.outputs = None  # what is judged was taken from it; held outputs of many shapes would fill a GPU
        if graphs and (again := self.backend.facts()["graphs"] - graphs):
            found["figures"] = {"recompiles": again}
        return found

    def facts_after(self) -> dict[str, Any]:
        facts = self.backend.facts()  # other shapes were compiled meanwhile; each turn says what it compiled itself
        return facts | ({"recompiles_while_timing": 0} if "graphs" in facts else {})

    def outputs(self, unit: str, case: str, plan: InputPlan, ids: Any) -> Any:
        if case == self.timed_case and self.distinct.kept and plan.cases[-1] != case:
            return {}, {}  # those of the timed calls are at hand, and a later case says what a call holds
        return self.run_once(self.batch(self.plan, case))

    def end(self) -> None:
        del self.step

    def _from_host(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.backend.fetch(self.backend.run(self.backend.prepare(batch)))
