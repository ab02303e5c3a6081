"""What is known of each runtime for the traffic at hand, and which constraints it fails, by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from backends import load_class
from bench import statistics
from bench.choice import failures
from bench.choice.constraints import PARITIES, Constraints
from bench.choice.failures import Failure
from bench.choice.grid import Place, place
from bench.choice.workload import Workload, as_requests, as_sequences, interval_of
from bench.records import Record, Run
from bench.spec import Contestant, Shape
from bench.statistics import Interval

#: What upstream says of a backend that a user would regret not to know.
DEPRECATED = {
    "torchscript": "TorchScript is deprecated upstream (torch 2.9 on): no new operators, mended no more; "
    "torch.export is its successor",
}


@dataclass(frozen=True)
class Candidate:
    """One runtime in one run, weighed for the traffic."""

    run: Run
    contestant: Contestant
    label: str
    """As the report calls it: with the precision where there are several, and the run where there are several."""
    workload: Workload
    """Empty where a cell that it needs was not measured."""
    records: Mapping[Shape, Record]
    """Of the cells of the workload; all measured, or empty."""
    failures: tuple[Failure, ...]
    batches: Mapping[int, int]
    """For throughput and cost: the batch that it does best at, by length; empty for latency."""
    dollars_an_hour: float | None = None
    requests_per_restart: int | None = None
    sequences_per_request: float = 1.0

    @property
    def is_qualified(self) -> bool:
        """True where it keeps every constraint."""
        return not self.failures

    @property
    def is_measured(self) -> bool:
        """True where its time for the traffic is known."""
        return bool(self.records)

    @cached_property
    def mean_ns(self) -> float | None:
        """Nanoseconds of a unit of work (a request; a sequence for throughput and cost), with a restart's share."""
        return self.workload.time_ns(self.records) + self._share_of_restart_ns if self.is_measured else None

    @cached_property
    def rounds_ns(self) -> list[float]:
        """The same by round."""
        if not self.is_measured:
            return []
        return [value + self._share_of_restart_ns for value in self.workload.rounds_ns(self.records)]

    @property
    def interval(self) -> Interval | None:
        """95 % interval of `mean_ns`; None where it is not measured, or in a single round."""
        interval, mean = interval_of(self.rounds_ns), self.mean_ns
        if interval is None or mean is None:
            return None
        return Interval(min(interval.low, mean), max(interval.high, mean))

    @cached_property
    def one_time_seconds(self) -> float | None:
        """Seconds of each start: loading, and the first call; with static shapes, the first call of every shape.

        A first call's own part is what it takes beyond the median. None where loading was not timed.
        """
        if not self.is_measured:
            return None
        loads = [record.load_seconds for record in self.records.values() if record.load_seconds is not None]
        if not loads:
            return None
        excess = {shape: _first_call_excess_seconds(record) for shape, record in self.records.items()}
        if self.has_static_shapes:
            firsts = sum(share * excess[cell] for _, _, at in self.workload.calls for cell, share in at.cells)
        else:
            firsts = max(excess.values())
        return max(loads) + firsts

    @property
    def has_static_shapes(self) -> bool:
        """True for a backend that compiles every shape anew; False where the backend is not installed here."""
        try:
            return load_class(self.contestant.backend).has_static_shapes
        except (KeyError, ImportError, AttributeError):
            return False

    @property
    def _share_of_restart_ns(self) -> float:
        if self.requests_per_restart is None:
            return 0.0
        return (self.one_time_seconds or 0.0) * 1e9 / (self.requests_per_restart * self.sequences_per_request)

    @property
    def verdict(self) -> str:
        """The worst parity verdict of its cells, or ""."""
        verdicts = {record.verdict for record in self.records.values()}
        return next((v for v in ("broken", "unjudged", *reversed(PARITIES)) if v in verdicts), "")

    @property
    def worst_parity(self) -> Record | None:
        """The cell with the largest absolute difference from the reference, where there is one."""
        with_error = [r for r in self.records.values() if r.parity.get("max_abs_error") is not None]
        return max(with_error, key=lambda record: float(record.parity["max_abs_error"]), default=None)

    @property
    def peak_bytes(self) -> int | None:
        """The most that it held at any of its cells: resident, or on a GPU; None where no cell's was noted."""
        return _peak_bytes(list(self.records.values()))

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that it gets through in a second, one call after the other, restarts included."""
        if self.mean_ns is None:
            return None
        tokens = sum(calls * shape.batch * shape.length for shape, calls, _ in self.workload.calls)
        return tokens / (self.mean_ns / 1e9)

    @property
    def sequences_per_second(self) -> float | None:
        """Sequences that it gets through in a second, one call after the other, restarts included."""
        if self.mean_ns is None:
            return None
        return sum(calls * shape.batch for shape, calls, _ in self.workload.calls) / (self.mean_ns / 1e9)

    @property
    def tokens_per_dollar(self) -> float | None:
        """Tokens for a US dollar at full load; None without a price."""
        if self.dollars_an_hour is None or self.tokens_per_second is None:
            return None
        return self.tokens_per_second * 3600 / self.dollars_an_hour

    @property
    def notes(self) -> list[str]:
        """What else its user should know."""
        found = [DEPRECATED[self.contestant.backend]] if self.contestant.backend in DEPRECATED else []
        if disturbed := [str(shape) for shape, record in self.records.items() if self.run.taint(record)]:
            found.append(f"the machine was disturbed while it was timed at {', '.join(disturbed)}")
        return found


def weigh(
    run: Run,
    contestant: Contestant,
    label: str,
    shares: Sequence[tuple[Shape, float]],
    constraints: Constraints,
    dollars_an_hour: float | None,
) -> Candidate:
    """One contestant weighed for `shares` of the traffic, all of which lie on the run's grid."""
    grid = places_of(run)
    of_contestant = {record.shape: record for record in run.records if record.contestant == contestant}
    measured = {shape: record for shape, record in of_contestant.items() if record.status == "ok"}
    batches: Mapping[int, int] = {}
    if constraints.objective == "latency":
        workload = as_requests(shares, {shape: _certain(grid, shape) for shape, _ in shares})
    else:
        lengths = {shape.length for shape, _ in shares}
        at_best = {length: _best_batch(length, grid, measured, constraints) for length in lengths}
        workload, batches = as_sequences(shares, at_best)
    cells = workload.cells
    missing = [shape for shape in cells if shape not in measured]
    records = {} if missing else {shape: measured[shape] for shape in cells}
    candidate = Candidate(
        run, contestant, label, workload, records, (), batches, dollars_an_hour, constraints.requests_per_restart,
        1.0 if constraints.objective == "latency" else sum(shape.batch * share for shape, share in shares),
    )  # fmt: skip
    found = (
        [failures.not_measured(shape, of_contestant.get(shape), cells, run) for shape in missing]
        if missing
        else failures.of_measured(candidate, constraints)
    )
    return replace(candidate, failures=tuple(found))


def places_of(run: Run) -> tuple[Shape, ...]:
    """The shapes of the run's grid, less those that its budget left out for everybody, or that no doubling reached."""
    if run.is_doubling:
        reached = {record.shape for record in run.records if not run.is_left_out(record)}
        return tuple(shape for shape in run.grid.shapes if shape in reached)
    return tuple(run.grid.shapes) if run.budget is None else tuple(run.budget.kept)


def _certain(grid: Sequence[Shape], shape: Shape) -> Place:
    found = place(shape, grid)
    if found is None:
        raise ValueError(f"{shape} does not lie on the grid")
    return found


def _best_batch(
    length: int, grid: Sequence[Shape], measured: Mapping[Shape, Record], constraints: Constraints
) -> tuple[int, Place]:
    """The measured batch that gets most sequences of `length` through in a second, within limits; with its place.

    Limits are those that a batch breaks by itself: memory, and a median above a service level. Where all break one,
    they count no more, so that the constraint that fails is told. Where nothing was measured it is the smallest.
    """
    candidates = []
    for batch in sorted({shape.batch for shape in grid}):
        at = place(Shape(batch, length), grid)
        if at is None or not all(cell in measured for cell, _ in at.cells):
            continue
        time_ns = sum(share * statistics.median(measured[cell].samples) for cell, share in at.cells)
        candidates.append((time_ns / batch, batch, at, time_ns))
    if not candidates:
        smallest = min(shape.batch for shape in grid)
        return smallest, _certain(grid, Shape(smallest, length))
    limit_ns = min((slo.limit_ns for slo in constraints.slos), default=float("inf"))
    most = constraints.max_memory_bytes
    fitting = [
        entry
        for entry in candidates
        if entry[3] <= limit_ns
        and (most is None or (_peak_bytes([measured[cell] for cell, _ in entry[2].cells]) or 0) <= most)
    ]
    _, batch, at, _ = min(fitting or candidates, key=lambda entry: entry[:2])
    return batch, at


def _first_call_excess_seconds(record: Record) -> float:
    if record.first_call_ns is None:
        return 0.0
    return max(0.0, record.first_call_ns - statistics.median(record.samples)) / 1e9


def _peak_bytes(records: Sequence[Record]) -> int | None:
    held = [value for record in records for value in (record.process_bytes, record.peak_bytes) if value is not None]
    return max(held, default=None)
