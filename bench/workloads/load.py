"""Requests that arrive by themselves: `bench load` serves all the same arrivals, then searches each top rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench import options, statistics
from bench.columns import DASH, Column, Section, Table
from bench.errors import UserError
from bench.options import CommonOptions, option
from bench.parity import inputs
from bench.process.levels import MISSED, UNJUDGED
from bench.process.queue import Slice, called_shapes, next_slice, parse_batching
from bench.process.served import Slices
from bench.process.serving import SEQUENCES, judged_calls
from bench.run import columns, search
from bench.run.record import Record, Run, Turn
from bench.run.schedule import Schedule
from bench.run.search import MOST_REQUESTS, Evidence, RateSearch, Tried
from bench.run.workload import Workload, exit_code_of
from bench.spec import DEFAULT_LENGTHS, LARGEST_SIZE, Candidate, Shape, check_lengths
from bench.traffic import Counts, Slo, Traffic, arrivals, even, parse_slo, parse_traffic, read_traffic

if TYPE_CHECKING:
    from bench.machine.roofline import Peaks
    from bench.parity.reference import Inputs
    from exporters.sources import ModelSource

#: Fewest requests of each rate of a search, and how many times what the percentile needs.
SEARCH_REQUESTS, SEARCH_FACTOR = 200, 2
#: The last slice ends when it has lasted as long again as its requests took to arrive, and some seconds.
SECONDS_BESIDE = 1.0
#: Exit codes if every sound candidate misses --slo at --rate, and if that or the range of a largest rate is open.
NOTHING_KEEPS, UNDECIDED = 5, 6


@dataclass(frozen=True, kw_only=True)
class LoadOptions(CommonOptions):
    """Options of `bench load`."""

    command: ClassVar[str] = "load"
    summary: ClassVar[str] = (
        "Serve requests that arrive at a rate: latency with queueing, and the largest rate that keeps --slo."
    )

    rate: float = option("Requests a second.", options.number(0, 1_000_000, "20"), default=10.0)
    duration: float = option(
        "How long requests arrive, in a test at least.",
        options.seconds(3600.0),
        default=30.0,
        show=options.shown_seconds,
    )
    traffic: str | None = option(
        "CSV or JSON Lines with batch, length and maybe count.",
        parse_traffic,
        default=None,
        default_shown="single sequences of the usual lengths",
    )
    batching: str = option(
        "none, or dynamic:MAX_BATCH:MAX_DELAY: join queued requests.", options.checked(parse_batching), default="none"
    )
    slo: str | None = option(
        "Service levels to keep, e.g. p95=20ms,p99=50ms.", options.checked(parse_slo), default=None
    )
    search: bool = option("Look for the largest rate that keeps --slo.", options.flag, default=True)
    search_requests: int | None = option(
        "Requests of each rate of the search.",
        options.whole(1, MOST_REQUESTS, 400),
        default=None,
        default_shown="twice what the percentile needs",
    )
    rounds: int = option("Slices that the requests are served in.", options.whole(1, 100, 5), default=5)
    bucket: int | None = option("Round lengths up to a multiple of this.", options.whole(1, 100_000, 16), default=None)
    max_shapes: int = option(
        "Shapes that a backend may have to compile.",
        options.whole(1, 100_000, 16),
        default=16,
        aliases=("--most-shapes",),
    )
    served: Counts = options.settled(())  # noqa: RUF009
    """Every shape of the traffic."""
    served_from: str = options.settled("")

    @property
    def slos(self) -> tuple[Slo, ...]:
        """Service levels."""
        return () if self.slo is None else parse_slo(self.slo)

    @property
    def shapes(self) -> Traffic:
        """The traffic, as it was settled."""
        return Traffic.of(self.served, self.served_from)


@dataclass(frozen=True, order=True)
class Rate:
    """Requests a second: those that were asked for (step 0), or of a step of a candidate's search."""

    step: int
    rate: float
    fresh: int = 0
    """Requests of a test, on draws of its own; 0 for the rate that was asked for and for a search."""

    def __str__(self) -> str:
        return f"{self.rate:.4g}/s"


def _served(value: Callable[[Slices], Any]) -> Callable[[Run, Record], Any]:
    """A figure of what became of a record's requests; None if none was served."""

    def found(run: Run, record: Record) -> Any:
        slices = run.workload.slices(record)  # type: ignore[attr-defined]
        return value(slices) if slices.calls_ns else None

    return found


def _slices(turns: Iterable[Turn]) -> list[Slice]:
    times = [turn.times_ns for turn in turns if turn.times_ns.get("due")]
    return [Slice(one["due"], one.get("waits", []), one.get("latency", [])) for one in times]


def _percentile_ms(rank: int) -> Callable[[Run, Record], Any]:
    return _served(lambda slices: None if (ns := slices.percentile(rank)) is None else ns / 1e6)


def _figure(name: str, *shown: Any, **more: Any) -> Column:
    return Column(name, _served(lambda slices: getattr(slices, name)), *shown, **more)


def _slo(run: Run, record: Record) -> Any:
    slos, tried = run.workload.options.slos, run.workload.tried(record)  # type: ignore[attr-defined]
    return tried.outcome(slos) if slos and tried.slices.calls_ns else None


def _is_sound(records: Sequence[Record]) -> bool:
    """True if all that was measured of a candidate computed the model."""
    return bool(records) and all(one.status == "ok" and (one.is_comparable or not one.is_judged) for one in records)


class Load(Workload):
    """Every candidate at one rate, then its own search."""

    name = "load"
    Options = LoadOptions
    point_type = Rate
    point_noun = "rate"
    headline, moments = "latency", ("due",)
    decisive = ("served", "batching", "bucket")
    cell = "bench.workloads.load_cell:LoadCell"
    columns: ClassVar[tuple[Column, ...]] = (
        *columns.point_columns(Rate),
        Column("requests", lambda run, record: run.workload.requests(record.point)),  # type: ignore[attr-defined]
        Column(
            "p50_ms", _percentile_ms(50), "p50 ms", help="median latency, ms",
            cell=lambda run, record: columns.headline_cell(run, record, _percentile_ms(50)(run, record), columns.ms),
        ),
        *(Column(f"p{n}_ms", _percentile_ms(n), f"p{n} ms", columns.ms, help="latency, ms") for n in (95, 99)),
        Column(
            "call_ms", _served(lambda slices: statistics.median(slices.calls_ns) / 1e6), "call ms", columns.ms, drop=5,
            help="median of the call alone, ms",
        ),
        _figure("busy_share", "busy", lambda share: f"{share:.0%}", help="time in calls"),
        _figure("largest_queue", "queue", lambda count: f"{count:,}"),
        _figure("served_rate", "served/s", lambda rate: f"{rate:.4g}"),
        _figure("requests_per_call", help="requests that were joined, on average"),
        _figure("unserved"),
        _figure("keeps_up", help="false if the queue of an endless slice would grow"),
        Column("slo", _slo, help="kept, missed or unjudged"),
    )  # fmt: skip

    options: LoadOptions

    @classmethod
    def settle(cls, options: LoadOptions, source: ModelSource) -> LoadOptions:
        if source.inputs != inputs.INPUTS or source.makes_inputs:
            raise UserError(f"{source.name} takes no ids with an attention mask, so requests cannot be padded for it")
        is_searching, asked = bool(options.slos) and options.search, options.search_requests
        if asked is not None and not is_searching:
            raise UserError(f"--search-requests {asked} is for a search, which needs --slo, e.g. --slo p95=20ms")
        requests = round(options.rate * options.duration)
        if not options.rounds <= requests <= MOST_REQUESTS:
            raise UserError(
                f"--rate {options.rate:g} for {options.duration:g} s are {requests:,} requests, not within --rounds "
                f"{options.rounds} and {MOST_REQUESTS:,}; use another --duration"
            )
        needed = max((statistics.PERCENTILE_SAMPLES[one.rank] for one in options.slos), default=1)
        if is_searching and asked is None:
            asked = max(SEARCH_REQUESTS, SEARCH_FACTOR * needed)
        if asked is not None and asked < needed:
            raise UserError(f"--search-requests {asked} is below {needed}, what the percentile needs; use {2 * needed}")
        lengths = [n for n in DEFAULT_LENGTHS if source.positions is None or n <= source.positions]
        served = even(Shape(1, length) for length in lengths or [source.positions or 1])
        if isinstance(options.traffic, Traffic):  # of a caller of the API, who has no file
            served, options = options.traffic, replace(options, traffic=None)
        elif options.traffic is not None:
            served = read_traffic(Path(options.traffic))
        check_lengths(served.counts, source.name, source.positions)
        return replace(options, search_requests=asked, served=served.kept, served_from=served.source)

    @property
    def is_open_ended(self) -> bool:
        return self.options.search_requests is not None

    def points(self) -> Sequence[Rate]:
        return [Rate(0, self.options.rate)]

    def schedule(self) -> Schedule:
        asked = self.options
        requests, seconds = asked.search_requests, asked.duration
        return RateSearch(asked.rate, asked.rounds, requests, seconds, Rate, asked.slos, self._served)

    def tried(self, record: Record) -> Tried:
        """What a record says of its rate."""
        is_trial, is_evidence = not record.point.fresh, record.point.step == 0 or record.point.fresh > 0
        return Tried(self.slices(record), is_trial, is_evidence, not all(record.quiet))

    def _served(self, records: Sequence[Record]) -> list[Tried]:
        """What one candidate served; nothing if it is not sound, as a broken one keeps no service level."""
        return [self.tried(one) for one in records] if _is_sound(records) else []

    def _sound(self, run: Run) -> dict[Candidate, list[Tried]]:
        by = {who: [record for record in run.records if record.candidate == who] for who in run.candidates}
        return {candidate: tried for candidate, records in by.items() if (tried := self._served(records))}

    def found(self, run: Run) -> dict[Candidate, Evidence]:
        """What is known of the largest rate that keeps the service levels, by sound candidate; {} without a search."""
        sound = self._sound(run) if self.options.search_requests is not None else {}
        return {candidate: search.evidence_of(tried, self.options.slos) for candidate, tried in sound.items()}

    def slices(self, record: Record) -> Slices:
        """What became of a record's requests."""
        made = Slices(_slices(record.turns), self.requests(record.point), record.point.rate)
        return self._of_records.setdefault(id(record), (record, made))[1]

    @cached_property
    def _of_records(self) -> dict[int, tuple[Record, Slices]]:
        return {}  # every column asks, and a record may have 200,000 requests

    def begin(self, point: Rate, source: ModelSource) -> dict[str, Any]:
        shapes, rule = self.options.shapes.counts, parse_batching(self.options.batching)
        bucket, most = self.options.bucket or 1, source.positions or LARGEST_SIZE
        padded = {one.length: max(one.length, min(-(-one.length // bucket) * bucket, most)) for one in shapes}
        return {
            "ids": {str(length): self._sequences(length, source) for length in padded},
            "shapes": called_shapes(shapes, padded, rule, is_static=False),
            "static_shapes": called_shapes(shapes, padded, rule, is_static=True),
            "batching": asdict(rule),
            "padded_to": {str(length): to for length, to in padded.items()},
            "pad_token_id": source.pad_token_id,
            "max_shapes": self.options.max_shapes,
        }

    def requests(self, point: Rate) -> int:
        """Requests of a point, over all its slices."""
        if point.step and not point.fresh:
            return self.options.search_requests or 1
        requests = point.fresh or max(1, round(self.options.rate * self.options.duration))
        return -(-requests // self.options.rounds) * self.options.rounds

    def _arrivals(self, point: Rate) -> tuple[list[int], list[Shape]]:
        """When the requests of a point are due after its start, and their shapes; the last is of the longest length,
        on which it is judged.
        """
        draw = point.step if point.fresh else 0
        due_ns, shapes = arrivals(self.options.shapes, point.rate, self.requests(point), self.options.seed, draw)
        return due_ns, [*shapes[:-1], max(self.options.shapes.counts, key=lambda shape: (shape.length, shape.batch))]

    def turn(self, point: Rate, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        due_ns, shapes = self._arrivals(point)
        slices = 1 if point.step and not point.fresh else self.options.rounds
        due_ns, place, most_ns = next_slice(due_ns, _slices(taken), slices, round(SECONDS_BESIDE * 1e9))
        rows = [[shape.batch, shape.length] for shape in shapes[place : place + len(due_ns)]]
        return {"due_ns": due_ns, "shapes": rows, "most_ns": most_ns, "place": place}

    def _sequences(self, length: int, source: ModelSource) -> list[list[int]]:
        return inputs.drawn_sequences(source, length, SEQUENCES, self.options.seed)

    def cases(self, point: Rate, source: ModelSource) -> Mapping[str, Inputs]:
        """Single sequences without padding, of the longest and the shortest length."""
        from bench.parity.reference import Inputs

        lengths = {shape.length for shape in self.options.shapes.counts}
        names = tuple(f"sequence{draw}" for draw in range(SEQUENCES))
        return {
            f"sequences of {length}": Inputs(
                inputs.plan_of(source, 1, length, self.options.seed, names),
                {name: [row] for name, row in zip(names, self._sequences(length, source), strict=True)},
            )
            for length in sorted({min(lengths), max(lengths)})
        }

    def judged(self, point: Rate, candidate: Candidate) -> Mapping[str, Any]:
        _, shapes = self._arrivals(point)
        most_rows = parse_batching(self.options.batching).most_rows or 1
        calls = judged_calls(shapes, list(self.options.shapes.counts), most_rows)
        return {"calls": calls, "rows_before": [shape.batch for shape in shapes]}

    # Reports.

    def heading(self, run: Run) -> Iterable[str]:
        asked = self.options
        shapes = [str(shape) for shape in asked.shapes.counts]
        some = ", ".join(shapes) if len(shapes) <= 6 else f"{shapes[0]} to {shapes[-1]}"
        lengths = f"; lengths rounded up to a multiple of {asked.bucket}" if asked.bucket else ""
        yield f"traffic: {asked.served_from}; batch×length {some}{lengths}"
        yield (
            f"{asked.rate:g} requests/s for {asked.duration:g} s: {self.requests(Rate(0, asked.rate)):,} Poisson "
            f"arrivals in {asked.rounds} slices, the same for all; {parse_batching(asked.batching)}"
        )
        yield (
            "latency: from the moment a request was due until its call was done; call: its call alone (median); "
            "busy: share of the time in calls; queue: most that waited at once"
        )

    def is_in_tables(self, record: Record) -> bool:
        return bool(record.point.step == 0)

    def sections(self, run: Run) -> Iterable[Section]:
        yield self._verdicts(run)
        levels = " and ".join(map(str, self.options.slos))
        items = [f"{run.name(candidate)}: {search.line(one, levels)}" for candidate, one in self.found(run).items()]
        if items:
            items.append(search.RULE)
        served = [(run.name(one.candidate), self.slices(one)) for one in run.records]
        yield Section("Largest rate", items=items, plots=search.plots(self.options.slos, served) if items else ())

    def answer(self, run: Run) -> str:
        return search.answer(run, self.found(run), self.options.slos) or super().answer(run)

    def _verdicts(self, run: Run) -> Section:
        """Parity, and which service levels each candidate keeps at the rate that was asked for."""
        slos, sound, found = self.options.slos, self._sound(run), self.found(run)
        is_dynamic = parse_batching(self.options.batching).is_dynamic
        titles = ["backend", "parity", "max |Δ|", "keeps up", *(["a call"] if is_dynamic else []), *map(str, slos)]
        titles += ["largest rate"] if self.is_open_ended else []
        rows = []
        for record in (one for one in run.records if one.point.step == 0):
            of_all = [one for one in run.records if one.candidate == record.candidate]
            worst = next((one for one in of_all if one.verdict == "broken"), record)
            served = self.slices(record)
            cells = [run.name(record.candidate), worst.verdict or DASH, columns.MAX_ABS_ERROR.text(run, worst)]
            cells.append(record.status if record.status != "ok" else "yes" if served.keeps_up else "no")
            cells += [f"{served.requests_per_call:.2f}" if served.calls_ns else DASH] if is_dynamic else []
            cells += [self.tried(record).level(slo) if record.candidate in sound else DASH for slo in slos]
            cells += [search.shown(found.get(record.candidate))] if self.is_open_ended else []
            rows.append(tuple(cells))
        is_left = tuple(title not in ("max |Δ|", "largest rate") for title in titles)
        return Section(f"at {self.options.rate:g}/s", table=Table(tuple(titles), tuple(rows), is_left))

    def warnings(self, run: Run, record: Record) -> Iterable[str]:
        found = self.slices(record)
        if record.point.step or not found.calls_ns:
            return
        if found.unserved:
            yield (
                f"does not keep up: {found.unserved:,} of {found.requests:,} requests were still queued when their "
                "slices were ended, so there are no percentiles; use a lower --rate"
            )
        elif not found.keeps_up:
            yield "does not keep up: calls take longer than requests take to arrive; use a lower --rate"
        tried = self.tried(record)
        yield from (search.lacking(tried, slo) for slo in self.options.slos if tried.level(slo) == UNJUDGED)
        warmed, shapes = record.figures.get("warmed", 0), record.figures.get("shapes", 0)
        if warmed < shapes:
            yield f"{shapes - warmed} of {shapes} shapes were met while serving, not before"

    def plan(self, run: Run) -> Iterable[str]:
        asked = self.options
        yield f"traffic: {asked.served_from}"
        yield f"each candidate serves {self.requests(Rate(0, asked.rate)):,} requests at {asked.rate:g}/s"
        if asked.search_requests is not None:
            yield f"then the largest rate is searched for, with {asked.search_requests:,} requests at each, and tested"

    def guessed_seconds(self, point: Rate, source: ModelSource, peaks: Peaks | None) -> float:
        return self.requests(point) / point.rate

    def progress(self, run: Run, record: Record) -> str:
        found = self.slices(record)
        if not (found.calls_ns and found.keeps_up):
            return "does not keep up" if found.calls_ns else super().progress(run, record)
        parts = [f"p{rank} {ns / 1e6:.2f} ms" for rank in (50, 95) if (ns := found.percentile(rank)) is not None]
        kept = self.tried(record).outcome(self.options.slos) if self.options.slos else ""
        return "  ".join(filter(None, [", ".join(parts), kept, record.verdict]))

    def exit_code(self, run: Run) -> int:
        code, slos = exit_code_of(run.records), self.options.slos
        outcomes = {tried[0].outcome(slos) for tried in self._sound(run).values()} if slos else set()
        if code == 0 or (code == 1 and outcomes == {MISSED}):
            code = NOTHING_KEEPS if outcomes == {MISSED} else UNDECIDED if UNJUDGED in outcomes else 0
        return UNDECIDED if code == 0 and not all(one.is_decided for one in self.found(run).values()) else code

    def narrowed(self, point: Rate) -> dict[str, Any]:
        seconds = self.requests(point) / point.rate if point.step else self.options.duration
        return {"rate": point.rate, "duration": seconds, "search": not self.options.slos, "search_requests": None}
