"""What one run of `bench load` serves: a rate, a schedule of arrivals, a batching rule; every check of its options."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.errors import UserError
from bench.process.queue import Batching
from bench.spec import DEFAULT_LENGTHS, Shape
from bench.statistics import PERCENTILE_SAMPLES
from bench.traffic import Slo, Traffic, even

#: Requests of one rate above which a run and its file are no use to anybody.
MOST_REQUESTS = 200_000
HIGHEST_RATE = 1_000_000.0
LONGEST_SECONDS = 3600.0
MOST_DELAY_NS = 10_000_000_000
MOST_ROWS = 4096
MOST_SHAPES = 16
#: Fewest requests of each rate of a search, and how many times what the percentile needs.
SEARCH_REQUESTS, SEARCH_FACTOR = 200, 2
#: Distinct sequences of each length: rows of one call are not all alike.
SEQUENCES = 3
_UNITS_NS = {"us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}


@dataclass(frozen=True)
class LoadPlan:
    """Rate, length and rules of one run."""

    rate: float
    """Requests a second."""
    duration_seconds: float
    rounds: int = 5
    """Slices that the requests of `rate` are served in; each begins with an empty queue. Those of a search's rates are
    served in one, as a queue near its capacity takes long to grow."""
    batching: str = "none"
    slos: tuple[Slo, ...] = ()
    search_requests: int | None = None
    """Requests of each rate that is tried in the search for the largest; None: no search."""
    bucket: int | None = None
    most_shapes: int = MOST_SHAPES

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LoadPlan:
        """The plan that `to_json` wrote; raises UserError where it plans nothing."""
        found = cls(**{**data, "slos": tuple(Slo(**slo) for slo in data["slos"])})
        check(found)
        return found

    @property
    def rule(self) -> Batching:
        """`batching` as a rule."""
        return parse_batching(self.batching)

    @property
    def requests(self) -> int:
        """Of the rate that was asked for, over all slices."""
        count = max(1, round(self.rate * self.duration_seconds))
        return -(-count // self.rounds) * self.rounds

    def requests_of(self, step: int) -> int:
        """Of the rate that was asked for (0), or of one of the search."""
        return self.requests if step == 0 else self.search_requests or 1

    def slices_of(self, step: int) -> int:
        """Slices that they are served in."""
        return self.rounds if step == 0 else 1

    def slice_of(self, step: int) -> int:
        """Requests of one slice."""
        return self.requests_of(step) // self.slices_of(step)

    def padded(self, length: int, positions: int | None) -> int:
        """`length` rounded up to a multiple of the bucket, within the model's positions."""
        if self.bucket is None:
            return length
        up = -(-length // self.bucket) * self.bucket
        return up if positions is None else max(length, min(up, positions))


@dataclass(frozen=True)
class Schedule:
    """Requests of one slice, in the order of their arrival."""

    due_ns: list[int]
    """After the slice's start."""
    shapes: list[Shape]


def schedule(traffic: Traffic, rate: float, count: int, seed: int, slice_: int) -> Schedule:
    """`count` requests of a Poisson process of `rate` (requests a second), their shapes drawn from `traffic`.

    Every contestant and every rate gets the same shapes and the same exponential draws, which the rate only scales
    (common random numbers: Law, Simulation Modeling and Analysis, 5th ed., 11.2), and a longer slice begins as a
    shorter one does.
    """
    gaps, shapes = random.Random(f"arrivals {seed} {slice_}"), random.Random(f"shapes {seed} {slice_}")
    at, due = 0.0, []
    for _ in range(count):
        at += gaps.expovariate(1.0)
        due.append(round(at / rate * 1e9))
    return Schedule(due, traffic.draw(shapes, count))


def called_shapes(shapes: Sequence[Shape], plan: LoadPlan, positions: int | None, is_static: bool) -> list[Shape]:
    """Every shape that a call can have, largest first; `is_static` for a runtime that rows are filled up for."""
    rule = plan.rule
    lengths = {plan.padded(shape.length, positions) for shape in shapes}
    found = {Shape(shape.batch, plan.padded(shape.length, positions)) for shape in shapes}
    if rule.most_rows is not None:
        smallest = min(shape.batch for shape in shapes)
        counts = range(smallest, rule.most_rows + 1)
        joined = {rule.padded_rows(rows) for rows in counts} if is_static else set(counts)
        found = {shape for shape in found if shape.batch > rule.most_rows}
        found |= {Shape(rows, length) for rows in joined for length in lengths}
    return sorted(found, key=lambda shape: (-shape.batch * shape.length, shape))


def parse_batching(text: str) -> Batching:
    """`none`, or `dynamic:MAX_BATCH:MAX_DELAY` as in "dynamic:8:5ms"; raises UserError for anything else."""
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


def check(plan: LoadPlan) -> None:
    """Raise UserError for a plan that serves nothing, or more than a run should hold."""
    if not 0 < plan.rate <= HIGHEST_RATE:
        raise UserError(f"--rate {plan.rate:g} is not above 0 and at most {HIGHEST_RATE:,.0f}; use e.g. --rate 20")
    if not 0 < plan.duration_seconds <= LONGEST_SECONDS:
        raise UserError(f"--duration {plan.duration_seconds:g}s is not above 0 and at most an hour; use e.g. 30s")
    if not 1 <= plan.rounds <= 100:
        raise UserError(f"--rounds {plan.rounds} is not within 1 and 100; use 5")
    if plan.requests > MOST_REQUESTS:
        raise UserError(
            f"--rate {plan.rate:g} for {plan.duration_seconds:g} s are {plan.requests:,} requests, above "
            f"{MOST_REQUESTS:,}; use a shorter --duration"
        )
    if plan.rate * plan.duration_seconds < plan.rounds:
        raise UserError(
            f"--rate {plan.rate:g} for {plan.duration_seconds:g} s are fewer requests than --rounds {plan.rounds}; "
            "use a longer --duration"
        )
    for option, size in (("--bucket", plan.bucket), ("--most-shapes", plan.most_shapes)):
        if size is not None and not 1 <= size <= 100_000:
            raise UserError(f"{option} {size} is not within 1 and 100000; use 16")
    if plan.search_requests is not None:
        needed = max((PERCENTILE_SAMPLES[slo.rank] for slo in plan.slos), default=1)
        if not needed <= plan.search_requests <= MOST_REQUESTS:
            raise UserError(
                f"--search-requests {plan.search_requests} is not within {needed} (what the percentile needs) and "
                f"{MOST_REQUESTS}; use {settled_search_requests(plan.slos)}"
            )
    parse_batching(plan.batching)


def settled_search_requests(slos: Sequence[Slo]) -> int:
    """Requests of each rate of a search where the user does not say: twice what the percentile needs, 200 at least."""
    needed = max((PERCENTILE_SAMPLES[slo.rank] for slo in slos), default=1)
    return max(SEARCH_REQUESTS, SEARCH_FACTOR * needed)


def assumed_traffic(positions: int | None) -> Traffic:
    """Single sequences of the usual lengths that a model has positions for, each as often as any other."""
    lengths = [length for length in DEFAULT_LENGTHS if positions is None or length <= positions]
    return even(Shape(1, length) for length in lengths or [positions or 1])


def traffic_to_json(traffic: Traffic) -> dict[str, Any]:
    """As JSON types."""
    counts = [[shape.batch, shape.length, count] for shape, count in sorted(traffic.counts.items())]
    return {"counts": counts, "source": traffic.source, "is_given": traffic.is_given}


def traffic_from_json(data: Mapping[str, Any]) -> Traffic:
    """The traffic that `traffic_to_json` wrote; raises ValueError where it is none."""
    counts = {Shape(batch, length): count for batch, length, count in data["counts"]}
    sizes = (size for shape in counts for size in (shape.batch, shape.length))
    if not counts or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError("traffic without shapes")
    if not all(isinstance(count, int | float) and count > 0 for count in counts.values()):
        raise ValueError("traffic that never comes")
    return Traffic(counts, str(data["source"]), bool(data["is_given"]))
