"""Requests that arrive by themselves: `bench load` serves each candidate the same arrivals, and finds its largest rate."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench import options, statistics
from bench.errors import UserError
from bench.options import CommonOptions, option
from bench.parity import inputs
from bench.process.queue import Batching, Slice, Slices
from bench.run.record import Record, Turn
from bench.run.schedule import Schedule
from bench.run.search import RateSearch
from bench.run.workload import Workload
from bench.spec import DEFAULT_LENGTHS, Candidate, Shape, check_lengths
from bench.traffic import Slo, Traffic, even, parse_slo, read_traffic

if TYPE_CHECKING:
    from bench.parity.reference import Inputs
    from exporters.sources import ModelSource

#: Requests of one rate above which a run and its file are no use to anybody.
MOST_REQUESTS = 200_000
MOST_DELAY_NS, MOST_ROWS = 10_000_000_000, 4096
#: Fewest requests of each rate of a search, and how many times what the percentile needs.
SEARCH_REQUESTS, SEARCH_FACTOR = 200, 2
#: Distinct sequences of each length: rows of one call are not all alike.
SEQUENCES = 3
#: A slice ends when it has lasted this many times as long as its requests took to arrive, and some seconds.
MOST_OF_A_SLICE, SECONDS_BESIDE = 2.0, 1.0
#: Below this share of the time in calls hardly any request waits for a call before, so a lower rate is no remedy.
IDLE_SHARE = 0.05
KEPT, MISSED, UNJUDGED = "kept", "missed", "unjudged"
STYLES = {KEPT: "green", MISSED: "red", UNJUDGED: "yellow"}
#: No sound candidate keeps the service levels at the rate that was asked for.
NOTHING_KEEPS_EXIT_CODE = 5
_UNITS_NS = {"us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}


def batching(value: Any, name: str) -> str:
    """`none`, or `dynamic:MAX_BATCH:MAX_DELAY` as in "dynamic:8:5ms"."""
    rule_of(str(value))
    return str(value)


def slo(value: Any, name: str) -> str:
    """`p95=20ms`, or several with commas."""
    parse_slo(value, name)
    return str(value)


def rule_of(text: str) -> Batching:
    """A batching rule; raises UserError for anything else."""
    if text == "none":
        return Batching()
    show = "write none, or dynamic:MAX_BATCH:MAX_DELAY, e.g. --batching dynamic:8:5ms"
    found = re.fullmatch(r"dynamic:([0-9]{1,9}):([0-9]{1,9}(?:\.[0-9]{1,9})?)(us|µs|ms|s)", text)
    if not found:
        raise UserError(f"--batching {text[:40]!r} is no batching rule; {show}")
    rows, delay_ns = int(found[1]), round(float(found[2]) * _UNITS_NS[found[3]])
    if not 1 <= rows <= MOST_ROWS:
        raise UserError(f"MAX_BATCH {rows} of --batching {text!r} is not within 1 and {MOST_ROWS}; {show}")
    if delay_ns > MOST_DELAY_NS:
        raise UserError(f"MAX_DELAY of --batching {text!r} is above 10 s; {show}")
    return Batching(rows, delay_ns)


@dataclass(frozen=True, kw_only=True)
class LoadOptions(CommonOptions):
    """Options of `bench load`."""

    command: ClassVar[str] = "load"

    rate: float = option("Requests a second.", options.number(0, 1_000_000, "20"), default=10.0)
    duration: float = option(
        "How long requests arrive, about.", options.seconds(3600.0), default=30.0, show=options.shown_seconds
    )
    traffic: str | None = option(
        "CSV or JSON Lines with batch, length and maybe count, that shapes are drawn from.", options.text, default=None,
        default_shown="single sequences of the usual lengths",
    )  # fmt: skip
    batching: str = option("none, or dynamic:MAX_BATCH:MAX_DELAY: join queued requests.", batching, default="none")
    slo: str | None = option("Service levels to keep, e.g. p95=20ms,p99=50ms.", slo, default=None)
    search: bool = option("Look for the largest rate that keeps --slo.", options.flag, default=True)
    search_requests: int | None = option(
        "Requests of each rate of the search.", options.whole(1, MOST_REQUESTS, 400), default=None,
        default_shown="twice what the percentile needs",
    )  # fmt: skip
    rounds: int = option("Slices that the requests are served in.", options.whole(1, 100, 5), default=5)
    bucket: int | None = option("Round lengths up to a multiple of this.", options.whole(1, 100_000, 16), default=None)
    max_shapes: int = option(
        "Shapes that a backend may have to compile.", options.whole(1, 100_000, 16), default=16,
        aliases=("--most-shapes",),
    )  # fmt: skip
    served: tuple[tuple[int, int, float], ...] = options.settled(())
    """Batch, length and count of every shape of the traffic."""
    served_from: str = options.settled("")

    @property
    def slos(self) -> tuple[Slo, ...]:
        """Service levels."""
        return () if self.slo is None else parse_slo(self.slo)

    @property
    def requests(self) -> int:
        """Of the rate that was asked for, over all slices."""
        count = max(1, round(self.rate * self.duration))
        return -(-count // self.rounds) * self.rounds

    @property
    def shapes(self) -> Traffic:
        """The traffic, as it was settled."""
        return Traffic({Shape(batch, length): count for batch, length, count in self.served}, self.served_from)


@dataclass(frozen=True, order=True)
class Rate:
    """Requests a second: those that were asked for (step 0), or of a step of a candidate's search."""

    step: int
    rate: float

    def __str__(self) -> str:
        return f"{self.rate:.4g}/s"


def slices_of(record: Record, requests: int) -> Slices:
    """What became of a record's requests."""
    kinds = (record.rounds_ns("due"), record.rounds_ns("waits"), record.rounds_ns("latency"))
    return Slices([Slice(*one) for one in zip(*kinds, strict=True)], requests)


class Load(Workload):
    """Every candidate at one rate, then its own search."""

    name = "load"
    Options = LoadOptions
    point_type = Rate
    point_noun = "rate"
    cell = "bench.workloads.load_cell:LoadCell"

    options: LoadOptions

    @classmethod
    def settle(cls, options: LoadOptions, source: ModelSource) -> LoadOptions:
        if source.inputs != inputs.INPUTS or source.makes_inputs:
            raise UserError(
                f"{source.name} takes no ids with an attention mask, so requests cannot be padded for it; "
                "give a model that does"
            )
        is_searching = bool(options.slos) and options.search
        if options.search_requests is not None and not is_searching:
            raise UserError(
                f"--search-requests {options.search_requests} is for a search, which needs --slo, e.g. --slo p95=20ms"
            )
        _check(options)
        lengths = [n for n in DEFAULT_LENGTHS if source.positions is None or n <= source.positions]
        if options.traffic is not None:
            served = read_traffic(Path(options.traffic))
        else:
            served = even(Shape(1, length) for length in lengths or [source.positions or 1])
        check_lengths(served.counts, source.name, source.positions)
        counts = tuple((shape.batch, shape.length, count) for shape, count in sorted(served.counts.items()))
        needed = max((statistics.PERCENTILE_SAMPLES[one.rank] for one in options.slos), default=1)
        asked = options.search_requests
        if is_searching and asked is None:
            asked = max(SEARCH_REQUESTS, SEARCH_FACTOR * needed)
        if asked is not None and asked < needed:
            raise UserError(f"--search-requests {asked} is below {needed}, what the percentile needs; use {2 * needed}")
        return replace(options, search_requests=asked, served=counts, served_from=served.source)

    def points(self) -> Sequence[Rate]:
        return [Rate(0, self.options.rate)]

    def schedule(self) -> Schedule:
        asked = self.options
        return RateSearch(asked.rate, asked.rounds, asked.search_requests, Rate, self._trials)

    def padded(self, length: int, positions: int | None) -> int:
        """`length` rounded up to a multiple of the bucket, within the model's positions."""
        if self.options.bucket is None:
            return length
        up = -(-length // self.options.bucket) * self.options.bucket
        return up if positions is None else max(length, min(up, positions))

    def begin(self, point: Rate, source: ModelSource) -> dict[str, Any]:
        lengths = {shape.length for shape in self.options.shapes.counts}
        return {
            "ids": {str(length): self._sequences(length, source) for length in lengths},
            "shapes": self.called_shapes(source.positions, is_static=False),
            "static_shapes": self.called_shapes(source.positions, is_static=True),
            "batching": asdict(rule_of(self.options.batching)),
            "lengths": {str(length): self.padded(length, source.positions) for length in lengths},
            "pad_token_id": source.pad_token_id,
            "max_shapes": self.options.max_shapes,
        }

    def called_shapes(self, positions: int | None, is_static: bool) -> list[list[int]]:
        """Every shape that a call can have, largest first; `is_static` for a runtime that rows are filled up for."""
        rule, shapes = rule_of(self.options.batching), self.options.shapes.counts
        lengths = {self.padded(shape.length, positions) for shape in shapes}
        found = {Shape(shape.batch, self.padded(shape.length, positions)) for shape in shapes}
        if rule.most_rows is not None:
            counts = range(min(shape.batch for shape in shapes), rule.most_rows + 1)
            joined = {rule.padded_rows(rows) for rows in counts} if is_static else set(counts)
            found = {shape for shape in found if shape.batch > rule.most_rows}
            found |= {Shape(rows, length) for rows in joined for length in lengths}
        ordered = sorted(found, key=lambda shape: (-shape.batch * shape.length, shape))
        return [[shape.batch, shape.length] for shape in ordered]

    def turn(self, point: Rate, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        due_ns, shapes = self._arrivals(point, len(taken))
        most_seconds = MOST_OF_A_SLICE * due_ns[-1] / 1e9 + SECONDS_BESIDE
        rows = [[shape.batch, shape.length] for shape in shapes]
        return {"due_ns": due_ns, "shapes": rows, "most_seconds": most_seconds}

    def _requests(self, point: Rate) -> int:
        return self.options.requests if point.step == 0 else self.options.search_requests or 1

    def _arrivals(self, point: Rate, slice_: int) -> tuple[list[int], list[Shape]]:
        """When requests of one slice are due (ns), and their shapes: a Poisson process of the point's rate.

        Every candidate and rate gets the same shapes and the same exponential draws, which the rate only scales
        (common random numbers: Law, Simulation Modeling and Analysis, 5th ed., 11.2), and a longer slice begins as a
        shorter one does.
        """
        seed, count = self.options.seed, self._requests(point) // (self.options.rounds if point.step == 0 else 1)
        gaps, shapes = random.Random(f"arrivals {seed} {slice_}"), random.Random(f"shapes {seed} {slice_}")
        at, due = 0.0, []
        for _ in range(count):
            at += gaps.expovariate(1.0)
            due.append(round(at / point.rate * 1e9))
        return due, self.options.shapes.draw(shapes, count)

    # Parity.

    def _sequences(self, length: int, source: ModelSource) -> list[list[int]]:
        """Seeded ids of every sequence of a length, over the vocabulary without the padding id."""
        draw, pad = random.Random(f"sequences {self.options.seed} {length}"), source.pad_token_id
        rows = (draw.choices(range(source.vocab_size - 1), k=length) for _ in range(SEQUENCES))
        return [[one + (one >= pad) for one in row] for row in rows]

    def cases(self, point: Rate, source: ModelSource) -> Mapping[str, Inputs]:
        """Single sequences without padding: of the longest and the shortest length, and of each last request's."""
        from bench.parity.reference import Inputs

        lengths = [shape.length for shape in self.options.shapes.counts]
        judged = {min(lengths), max(lengths)}
        for step in (0, 1) if self.options.search_requests is not None else (0,):
            last = (self.options.rounds if step == 0 else 1) - 1
            judged.add(self._arrivals(Rate(step, 1.0), last)[1][-1].length)
        found = {}
        for length in sorted(judged):
            names = tuple(case_of(draw) for draw in range(SEQUENCES))
            plan = inputs.plan_of(source, 1, length, self.options.seed, names)
            ids = {name: [row] for name, row in zip(names, self._sequences(length, source), strict=True)}
            found[unit_of(length)] = Inputs(plan, ids)
        return found

    def judged(self, point: Rate, candidate: Candidate) -> Mapping[str, Any]:
        """What is judged: the last request that was served, and one more call of others.

        That call joins a sequence of the longest length with as many of the shortest as may be; if none are joined, it
        is a request of each of the two. All their shapes are among those that were warmed up.
        """
        _, shapes = self._arrivals(point, (self.options.rounds if point.step == 0 else 1) - 1)
        place, last = len(shapes) - 1, shapes[-1]
        served = sorted(self.options.shapes.counts, key=lambda shape: (shape.length, shape.batch))
        shortest, longest = served[0], served[-1]
        most_rows = rule_of(self.options.batching).most_rows or 1
        calls = {LAST: (sequences_of(place, last.batch, last.length), last.batch)}
        if most_rows > 1 and min(shape.batch for shape in served) <= most_rows:
            joined = [*sequences_of(0, 1, longest.length), *sequences_of(1, most_rows - 1, shortest.length)]
            calls["joined"] = (joined, most_rows)
        else:
            for name, one in (("longest", longest), ("shortest", shortest)):
                calls[name] = (sequences_of(0, one.batch, one.length), one.batch)
        found: dict[str, Any] = {}
        for name, (sequences, count) in calls.items():
            rows = [
                {"row": row, "unit": unit_of(sequences[row][0]), "case": case_of(sequences[row][1])}
                for row in sorted({0, count // 2, count - 1})
            ]
            found[name] = {"sequences": sequences, "rows": rows}
        found[LAST] |= {"place": place, "rows_before": [shape.batch for shape in shapes]}
        return {"calls": found}
