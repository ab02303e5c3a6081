"""What is known of each runtime for the traffic at hand, and which constraints it fails, by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from backends import load_class
from bench import statistics
from bench.choose import failures
from bench.choose.constraints import Constraints
from bench.choose.demand import Demand, as_requests, as_sequences, interval_of
from bench.choose.failures import Failure
from bench.choose.grid import Place, place
from bench.parity.verdict import OUTCOMES
from bench.run import budget
from bench.run.record import Record, Run
from bench.run.workload import Workload
from bench.spec import Candidate, Shape
from bench.statistics import Interval

#: What upstream says of a backend that a user would regret not to know.
DEPRECATED = {
    "torchscript": "TorchScript is deprecated upstream (torch 2.9 on): no new operators or fixes; "
    "torch.export is its successor",
}


@dataclass(frozen=True)
class Weighed:
    """One runtime in one run, weighed for the traffic."""

    run: Run
    candidate: Candidate
    label: str
    """As the report calls it: with the precision if there are several, and the run if there are several."""
    demand: Demand
    """Empty if a cell that it needs was not measured."""
    records: Mapping[Shape, Record]
    """Of the cells of the demand; all measured, or empty."""
    failures: tuple[Failure, ...]
    batches: Mapping[int, int]
    """For throughput and cost: the batch that it does best at, by length; empty for latency."""
    dollars_an_hour: float | None = None
    requests_per_restart: int | None = None
    sequences_per_request: float = 1.0
    is_weighed_by_price: bool = False

    @property
    def is_qualified(self) -> bool:
        """True if it keeps every constraint."""
        return not self.failures

    @property
    def is_measured(self) -> bool:
        """True if its time for the traffic is known."""
        return bool(self.records)

    @cached_property
    def mean_ns(self) -> float | None:
        """Nanoseconds of a unit of work (a request; a sequence for throughput and cost), with a restart's share."""
        return self.demand.time_ns(self.records) + self._share_of_restart_ns if self.is_measured else None

    @property
    def least_rounds(self) -> int:
        """Rounds of its cell that has the fewest; 0 if it is not measured."""
        return self.demand.least_rounds(self.records) if self.is_measured else 0

    def rounds_ns(self, count: int) -> list[float]:
        """The same by round, in so many rounds."""
        if not self.is_measured:
            return []
        return [value + self._share_of_restart_ns for value in self.demand.rounds_ns(self.records, count)]

    @property
    def interval(self) -> Interval | None:
        """95 % interval of `mean_ns`; None if it is not measured, or in a single round."""
        interval, mean = interval_of(self.rounds_ns(self.least_rounds)), self.mean_ns
        if interval is None or mean is None:
            return None
        return Interval(min(interval.low, mean), max(interval.high, mean))

    @cached_property
    def one_time_seconds(self) -> float | None:
        """Seconds of each start: loading, and the first call; with static shapes, the first call of every shape.

        A first call's own part is what it takes beyond the median. None if a start was not timed.
        """
        return self._start_seconds(None)

    def _start_seconds(self, requests: int | None) -> float | None:
        """`one_time_seconds`; with static shapes only those that are to be expected among so many requests."""
        records = self.records.values()
        loads = [record.once.load_seconds for record in records if record.once.load_seconds is not None]
        excess = {shape: _first_call_excess_seconds(record) for shape, record in self.records.items()}
        known = {shape: seconds for shape, seconds in excess.items() if seconds is not None}
        if not loads or len(known) < len(excess):
            return None
        if not self.has_static_shapes:
            return max(loads) + max(known.values())
        total = math.fsum(calls for _, calls, _ in self.demand.calls)
        firsts = 0.0
        for _, calls, at in self.demand.calls:
            is_met = 1.0 if requests is None else 1 - (1 - calls / total) ** requests
            firsts += is_met * math.fsum(share * known[cell] for cell, share in at.cells)
        return max(loads) + firsts

    @property
    def has_static_shapes(self) -> bool:
        """True for a backend that compiles every shape anew; False if the backend is not installed here."""
        try:
            return load_class(self.candidate.backend).spec.compiles_every_shape(self.candidate.variant)
        except (KeyError, ImportError, AttributeError):
            return False

    @property
    def _share_of_restart_ns(self) -> float:
        if self.requests_per_restart is None:
            return 0.0
        seconds = self._start_seconds(self.requests_per_restart)
        return (seconds or 0.0) * 1e9 / (self.requests_per_restart * self.sequences_per_request)

    @property
    def verdict(self) -> str:
        """The worst parity verdict of its cells, or ""."""
        verdicts = {record.verdict for record in self.records.values()}
        return next((v for v in reversed(OUTCOMES) if v in verdicts), "")

    @property
    def worst_parity(self) -> Record | None:
        """The cell with the largest absolute difference from the reference, if there is one."""
        with_error = [r for r in self.records.values() if r.parity.get("max_abs_error") is not None]
        return max(with_error, key=lambda record: float(record.parity["max_abs_error"]), default=None)

    @property
    def peak_bytes(self) -> int | None:
        """The most that it held at any of its cells: resident, or on a GPU; None if any cell's was not noted."""
        return _peak_bytes(self.run, list(self.records.values()))

    @property
    def is_deprecated(self) -> bool:
        """True for a backend that upstream no longer maintains."""
        return self.candidate.backend in DEPRECATED

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that it gets through in a second, one call after the other, restarts included."""
        if self.mean_ns is None:
            return None
        tokens = sum(calls * shape.batch * shape.length for shape, calls, _ in self.demand.calls)
        return tokens / (self.mean_ns / 1e9)

    @property
    def sequences_per_second(self) -> float | None:
        """Sequences that it gets through in a second, one call after the other, restarts included."""
        if self.mean_ns is None:
            return None
        return sum(calls * shape.batch for shape, calls, _ in self.demand.calls) / (self.mean_ns / 1e9)

    @property
    def tokens_per_dollar(self) -> float | None:
        """Tokens for a US dollar at full load; None without a price."""
        if self.dollars_an_hour is None or self.tokens_per_second is None:
            return None
        return self.tokens_per_second * 3600 / self.dollars_an_hour

    @property
    def notes(self) -> list[str]:
        """What else its user should know."""
        found = [DEPRECATED[self.candidate.backend]] if self.is_deprecated else []
        if disturbed := [str(shape) for shape, record in self.records.items() if self.run.disturbances(record)]:
            found.append(f"the machine was disturbed while it was timed at {', '.join(disturbed)}")
        return found


def weigh(
    run: Run,
    candidate: Candidate,
    label: str,
    shares: Sequence[tuple[Shape, float]],
    constraints: Constraints,
    dollars_an_hour: float | None,
    outside_share: float = 0.0,
) -> Weighed:
    """One candidate weighed for `shares` of the traffic, all on the run's grid; `outside_share` of it is not."""
    grid = places_of(run)
    of_candidate = {record.point: record for record in run.records if record.candidate == candidate}
    measured = {shape: record for shape, record in of_candidate.items() if record.status == "ok"}
    batches: Mapping[int, int] = {}
    if constraints.objective == "latency":
        demand = as_requests(shares, {shape: _certain(grid, shape) for shape, _ in shares})
    else:
        lengths = {shape.length for shape, _ in shares}
        at_best = {length: _best_batch(run, length, grid, measured, constraints) for length in lengths}
        demand, batches = as_sequences(shares, at_best)
    cells = demand.cells
    missing = [shape for shape in cells if shape not in measured]
    records = {} if missing else {shape: measured[shape] for shape in cells}
    weighed = Weighed(
        run, candidate, label, demand, records, (), batches, dollars_an_hour, constraints.requests_per_restart,
        1.0 if constraints.objective == "latency" else sum(shape.batch * share for shape, share in shares),
        constraints.objective == "cost",
    )  # fmt: skip
    found = (
        [failures.not_measured(shape, of_candidate.get(shape), cells, run) for shape in missing]
        if missing
        else failures.of_measured(weighed, constraints, outside_share)
    )
    return replace(weighed, failures=tuple(found))


def is_of_shapes(workload: Workload | type[Workload]) -> bool:
    """True for a workload whose runs can be chosen from: points are shapes, and a sample is a call at one."""
    return workload.point_type is Shape and workload.has_roofline


def places_of(run: Run) -> tuple[Shape, ...]:
    """The shapes of the run's grid, less those that were left out for every candidate."""
    left_out = {record.point for record in run.records if _is_left_out(run, record)}
    tried = {record.point for record in run.records if not _is_left_out(run, record)}
    if run.workload.is_open_ended:
        return tuple(point for point in run.workload.points() if point in tried)
    return tuple(point for point in budget.kept_points(run) if point not in left_out - tried)


def _is_left_out(run: Run, record: Record) -> bool:
    return run.workload.is_left_out(record) or budget.is_left_out(record)


def _certain(grid: Sequence[Shape], shape: Shape) -> Place:
    found = place(shape, grid)
    if found is None:
        raise ValueError(f"{shape} does not lie on the grid")
    return found


def _best_batch(
    run: Run, length: int, grid: Sequence[Shape], measured: Mapping[Shape, Record], constraints: Constraints
) -> tuple[int, Place]:
    """The measured batch that gets most sequences of `length` through in a second, within limits; with its place.

    Batches that break parity or memory by themselves are left out, and then those whose calls miss a service level:
    what every length keeps, all of them together keep. If no batch is left, the one with the shortest calls is
    taken, so that what fails is told; if nothing was measured, the smallest.
    """
    calls = {}
    for batch in sorted({shape.batch for shape in grid}):
        at = place(Shape(batch, length), grid)
        if at is not None and all(cell in measured for cell, _ in at.cells):
            calls[batch] = Demand(((Shape(batch, length), 1.0, at),))
    if not calls:
        smallest = min(shape.batch for shape in grid if place(Shape(shape.batch, length), grid) is not None)
        return smallest, _certain(grid, Shape(smallest, length))
    times_ns = {batch: demand.time_ns(measured) for batch, demand in calls.items()}
    sound = [batch for batch in calls if _keeps_its_cells(run, [measured[s] for s in calls[batch].cells], constraints)]
    mixtures = {batch: calls[batch].mixture(measured) for batch in sound} if constraints.slos else {}
    keeping = [
        batch
        for batch in sound
        if all(mixtures[batch].percentile_ns(slo.rank) <= slo.limit_ns for slo in constraints.slos)
    ]
    if keeping:
        best = min(keeping, key=lambda batch: (times_ns[batch] / batch, batch))
    else:
        best = min(sound or calls, key=lambda batch: (times_ns[batch], batch))
    return best, calls[best].calls[0][2]


def _keeps_its_cells(run: Run, records: Sequence[Record], constraints: Constraints) -> bool:
    """True if no cell breaks parity or plausibility, nor memory, by itself."""
    if not all(failures.is_sound(run, record, constraints.min_parity) for record in records):
        return False
    held = _peak_bytes(run, records)
    return constraints.max_memory_bytes is None or (held is not None and held <= constraints.max_memory_bytes)


def _first_call_excess_seconds(record: Record) -> float | None:
    if record.once.first_call_ns is None:
        return None
    return max(0.0, record.once.first_call_ns - statistics.median(record.samples)) / 1e9


def _peak_bytes(run: Run, records: Sequence[Record]) -> int | None:
    held = [run.most_held_bytes(record) for record in records]
    return None if None in held else max((value for value in held if value is not None), default=None)
