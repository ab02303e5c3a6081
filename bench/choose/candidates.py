"""What is known of each runtime for the traffic at hand: figures of one candidate of one run, and what it fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from backends import load_class
from bench import statistics
from bench.choose import failures
from bench.choose.constraints import Constraints
from bench.choose.demand import Demand, Mixture
from bench.choose.failures import Failure
from bench.grid import Place, place
from bench.parity.verdict import OUTCOMES
from bench.run import budget
from bench.run.record import Record, Run
from bench.run.workload import Workload
from bench.spec import DEPRECATED, Candidate, Shape


@dataclass(frozen=True)
class Weighed:
    """One runtime in one run, weighed for the traffic."""

    run: Run
    candidate: Candidate
    label: str
    """As the report calls it: with the precision if there are several, and the run if there are several."""
    demand: Demand
    constraints: Constraints
    dollars_an_hour: float | None
    batches: Mapping[int, int]
    """For throughput and cost: the batch that it does best at, by length; empty for latency."""
    sequences_per_request: float = 1.0
    failures: tuple[Failure, ...] = ()

    @property
    def is_qualified(self) -> bool:
        """True if it keeps every constraint."""
        return not self.failures

    @property
    def records(self) -> Mapping[Shape, Record]:
        """Of the cells of the demand; empty if one of them was not measured."""
        return self.demand.records

    @property
    def price(self) -> float:
        """What a time is weighed by: dollars an hour if the cost is what counts."""
        return self.dollars_an_hour or 1.0 if self.constraints.objective == "cost" else 1.0

    @cached_property
    def mean_ns(self) -> float | None:
        """Nanoseconds of a unit of work (a request; a sequence for throughput and cost), with a restart's share."""
        return self.demand.time_ns + self.share_of_restart_ns if self.records else None

    @cached_property
    def one_time_seconds(self) -> float | None:
        """Seconds of each start: loading, and the first call; with static shapes, the first call of every shape.

        A first call's own part is what it takes beyond the median. None if a start was not timed.
        """
        return self._start_seconds(None)

    def _start_seconds(self, requests: int | None) -> float | None:
        """`one_time_seconds`; with static shapes only those that are to be expected among so many requests."""
        known = {shape: seconds for shape, r in self.records.items() if (seconds := _first_call_seconds(r)) is not None}
        loads = [r.once.load_seconds for r in self.records.values() if r.once.load_seconds is not None]
        if not loads or len(known) < len(self.records):
            return None
        if not self.has_static_shapes:
            return max(loads) + max(known.values())
        firsts = 0.0
        for _, calls, at in self.demand.calls:
            is_met = 1.0 if requests is None else 1 - (1 - calls / self.demand.all_calls) ** requests
            firsts += is_met * math.fsum(share * known[cell] for cell, share in at.cells.items())
        return max(loads) + firsts

    @property
    def has_static_shapes(self) -> bool:
        """True for a backend that compiles every shape anew; False if the backend is not installed here."""
        try:
            return load_class(self.candidate.backend).spec.compiles_every_shape(self.candidate.variant)
        except (KeyError, ImportError, AttributeError):
            return False

    @cached_property
    def share_of_restart_ns(self) -> float:
        """What a unit of work has of the one-time costs, as far as the constraints spread them."""
        requests = self.constraints.requests_per_restart
        if requests is None:
            return 0.0
        return (self._start_seconds(requests) or 0.0) * 1e9 / (requests * self.sequences_per_request)

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
        return failures.peak_bytes(self.run, self.records.values())

    @property
    def is_deprecated(self) -> bool:
        """True for a backend that upstream no longer maintains."""
        return self.candidate.backend in DEPRECATED

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that it gets through in a second, one call after the other, restarts included."""
        if self.mean_ns is None:
            return None
        return sum(calls * shape.batch * shape.length for shape, calls, _ in self.demand.calls) / (self.mean_ns / 1e9)

    @property
    def tokens_per_dollar(self) -> float | None:
        """Tokens for a US dollar at full load; None without a price."""
        if self.dollars_an_hour is None or self.tokens_per_second is None:
            return None
        return self.tokens_per_second * 3600 / self.dollars_an_hour

    @property
    def notes(self) -> list[str]:
        """What else its user should know."""
        return [DEPRECATED[self.candidate.backend]] if self.is_deprecated else []


def weigh(
    run: Run,
    candidate: Candidate,
    label: str,
    shares: Sequence[tuple[Shape, float]],
    constraints: Constraints,
    dollars_an_hour: float | None,
    outside_share: float,
    is_traffic: bool = True,
) -> Weighed:
    """One candidate weighed for `shares` of the traffic, all on the run's grid; `outside_share` of it is not. Without
    traffic (not `is_traffic`) nothing lies between measured shapes.

    For latency every request is one call, as it comes, and the unit of work; else a sequence is, and each length comes
    in the batches that suit this candidate best.
    """
    grid = places_of(run)
    measured = {r.point: r for r in run.records if r.candidate == candidate and r.status == "ok"}
    sequences: dict[int, float] = {}
    if constraints.objective == "latency":
        calls = [(shape, share, at) for shape, share in shares if (at := place(shape, grid)) is not None]
    else:
        for shape, share in shares:
            sequences[shape.length] = sequences.get(shape.length, 0.0) + share * shape.batch
        best = {length: _best_batch(run, length, grid, measured, constraints, is_traffic) for length in sequences}
        total = math.fsum(sequences.values())
        calls = [(best[n][0], count / total / best[n][0].batch, best[n][1]) for n, count in sequences.items()]
    weighed = Weighed(
        run, candidate, label, Demand(tuple(calls), measured), constraints, dollars_an_hour,
        {shape.length: shape.batch for shape, _, _ in calls} if sequences else {},
        math.fsum(sequences.values()) if sequences else 1.0,
    )  # fmt: skip
    return replace(weighed, failures=tuple(failures.failures_of(weighed, outside_share)))


def is_of_shapes(workload: Workload | type[Workload]) -> bool:
    """True for a workload whose runs can be chosen from: points are shapes, and a sample is a call at one."""
    return workload.point_type is Shape and workload.has_roofline


def places_of(run: Run) -> tuple[Shape, ...]:
    """The shapes of the run's grid, less those that were left out for every candidate."""
    left_out = {r.point for r in run.records if run.workload.is_left_out(r) or budget.is_left_out(r)}
    tried = {r.point for r in run.records if not (run.workload.is_left_out(r) or budget.is_left_out(r))}
    if run.workload.is_open_ended:
        return tuple(point for point in run.workload.points() if point in tried)
    return tuple(point for point in budget.kept_points(run) if point not in left_out - tried)


def _best_batch(
    run: Run,
    length: int,
    grid: Sequence[Shape],
    measured: Mapping[Shape, Record],
    constraints: Constraints,
    is_traffic: bool,
) -> tuple[Shape, Place]:
    """The batch of the grid that gets most sequences of `length` through in a second, within limits; with its place.

    Batches that break parity or memory by themselves are left out, and then those whose calls miss a service level:
    what every length keeps, all of them together keep. If no batch is left, the one with the shortest calls is
    taken, so that what fails is told; if nothing was measured, the smallest.
    """
    asked = sorted({Shape(each.batch, length) for each in grid if is_traffic or each.length == length})
    on_grid = [(shape, at) for shape in asked if (at := place(shape, grid)) is not None]
    demands = [demand for shape, at in on_grid if not (demand := Demand(((shape, 1.0, at),), measured)).missing]
    sound = [demand for demand in demands if not _fails_by_itself(run, demand, constraints)]
    keeping = [
        demand
        for demand in sound
        if all(Mixture(demand).percentile_ns(slo.rank) <= slo.limit_ns for slo in constraints.slos)
    ]
    if keeping:
        best = min(keeping, key=lambda demand: demand.time_ns / demand.calls[0][0].batch)
    elif demands:
        best = min(sound or demands, key=lambda demand: demand.time_ns)
    else:
        return on_grid[0]
    return best.calls[0][0], best.calls[0][2]


def _fails_by_itself(run: Run, demand: Demand, constraints: Constraints) -> bool:
    """True if a cell breaks parity, plausibility or memory, whatever the rest does."""
    records = demand.records.values()
    return bool(
        failures.of_cells(run, records, constraints.min_parity) or failures.of_memory(run, records, constraints)
    )


def _first_call_seconds(record: Record) -> float | None:
    """What a first call takes beyond the median."""
    if record.once.first_call_ns is None:
        return None
    return max(0.0, record.once.first_call_ns - statistics.median(record.samples)) / 1e9
