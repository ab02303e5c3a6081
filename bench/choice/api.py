"""`choose`: from runs on disk or in memory to a decision. The command line is a thin layer over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import comparison, statistics
from bench.choice.candidates import Weighed, places_of, weigh
from bench.choice.choice import Choice, decide
from bench.choice.constraints import Constraints, parse_constraints
from bench.choice.failures import is_sound
from bench.choice.grid import place
from bench.errors import UserError
from bench.records import Run
from bench.runfile import read_run
from bench.spec import Shape
from bench.traffic import Traffic, even, even_in_time, read_traffic

#: What runs must share whatever machine they are from.
SHARED = ("model", "task", "boundary")


def choose(
    runs: Run | str | Path | Sequence[Run | str | Path],
    *,
    traffic: Traffic | str | Path | None = None,
    objective: str = "latency",
    slo: str | None = None,
    max_memory: str | int | None = None,
    min_parity: str = "equivalent",
    requests_per_restart: int | None = None,
    price: str | float | None = None,
    device_map: bool = False,
) -> Choice:
    """Which runtime of `runs` (files, or Runs of one model) to deploy for `traffic` (a file, or Traffic).

    `objective` is "latency" (time of a request as it comes), "throughput" (sequences a second, in the batches that suit
    each runtime best) or "cost" (the same for a dollar, with `price` in US dollars an hour: one, or one a run as
    "0.4,2.5"). `slo` is e.g. "p95=20ms", `max_memory` bytes or "2GB", `min_parity` exact, equivalent or lossy.
    `requests_per_restart` spreads the one-time costs over so many requests. With `device_map` the runs may be from
    several machines. Raises UserError for wrong input, for runs that cannot be compared, and for traffic of which no
    shape lies within what was measured.
    """
    given = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    found = [run if isinstance(run, Run) else read_run(Path(run)) for run in given]
    if not found:
        raise UserError("no run was given; name a file that bench compare wrote")
    constraints = parse_constraints(
        runs=len(found), objective=objective, slo=slo, max_memory=max_memory, min_parity=min_parity,
        requests_per_restart=requests_per_restart, price=price,
    )  # fmt: skip
    _check_together(found, device_map)
    settled = _traffic(traffic, found, min_parity)
    inside, outside = _within(settled, found, objective != "latency")
    candidates = _weighed(found, inside, constraints, sum(share for _, share in outside))
    if not candidates:
        raise UserError(
            f"{comparison.name_of(found[0])} has no runtime that computes the model; measure e.g. eager,onnx"
        )
    return decide(candidates, constraints, settled, outside, device_map)


def _check_together(runs: Sequence[Run], device_map: bool) -> None:
    """Raise UserError where one choice among all `runs` would mean nothing."""
    if not device_map:
        if found := comparison.obstacles(runs):
            hint = "; --device-map chooses among machines" if "machine" in found[0] else ""
            raise UserError(f"{found[0]}, so one choice among them means nothing{hint or '; give runs that agree'}")
        return
    if same := [line for line in comparison.obstacles(runs) if line.endswith("are the same run")]:
        raise UserError(f"{same[0]}; give each once")
    for run in runs[1:]:
        for name in SHARED:
            mine, its = getattr(runs[0].grid, name), getattr(run.grid, name)
            if mine != its:
                raise UserError(f"the runs differ in {name} ({mine} and {its}); --device-map is for one model")
        weights = [comparison.weights_of(each) for each in (runs[0], run)]
        if weights[0] != weights[1]:
            raise UserError(
                f"the runs differ in weights ({weights[0]} and {weights[1]}); --device-map is for one model"
            )


def _traffic(given: Traffic | str | Path | None, runs: Sequence[Run], min_parity: str) -> Traffic:
    """What was given, or every measured shape for the same share of the time of whoever may win there."""
    if given is not None:
        return given if isinstance(given, Traffic) else read_traffic(Path(given))
    least: dict[Shape, float] = {}
    for is_asked in (True, False):
        for run in runs:
            for record in run.records:
                if record.status != "ok" or not record.judged or (record.shape in least and not is_asked):
                    continue
                if is_asked and not is_sound(run, record, min_parity):
                    continue
                median = statistics.median(record.samples) / 1e9
                least[record.shape] = min(median, least.get(record.shape, median))
    shapes = {shape: seconds for shape, seconds in least.items() if all(place(shape, places_of(run)) for run in runs)}
    return even_in_time(shapes) if shapes else even(places_of(runs[0]))


def _within(
    traffic: Traffic, runs: Sequence[Run], is_rebatched: bool
) -> tuple[list[tuple[Shape, float]], list[tuple[Shape, float]]]:
    """The traffic that every run's grid tells of, its shares scaled to 1; and the rest, with shares of all of it.

    Where requests are `is_rebatched`, their lengths alone must lie on the grid.
    """

    def is_inside(shape: Shape) -> bool:
        if not is_rebatched:
            return all(place(shape, places_of(run)) is not None for run in runs)
        return all(
            any(place(Shape(batch, shape.length), places_of(run)) for batch in {s.batch for s in places_of(run)})
            for run in runs
        )

    inside: list[tuple[Shape, float]] = []
    outside: list[tuple[Shape, float]] = []
    for shape, share in traffic.shares():
        (inside if is_inside(shape) else outside).append((shape, share))
    if not inside:
        shape = max(outside, key=lambda entry: entry[1])[0]
        raise UserError(
            f"no request of the traffic lies within what was measured, e.g. batch {shape.batch} × length {shape.length}"
            f"; measure it: bench compare --batches … --lengths … up to those"
        )
    total = sum(share for _, share in inside)
    return [(shape, share / total) for shape, share in inside], outside


def _weighed(
    runs: Sequence[Run], shares: Sequence[tuple[Shape, float]], constraints: Constraints, outside_share: float
) -> list[Weighed]:
    """Every contestant of every run that computes the model; second copies of one tell of noise alone."""
    candidates = []
    for index, run in enumerate(runs):
        not_judged = {record.contestant for record in run.records if not record.judged}
        contestants = [c for c in run.grid.contestants if c.copy == 1 and c not in not_judged]
        has_precisions = len({c.precision for other in runs for c in other.grid.contestants}) > 1
        for contestant in contestants:
            label = contestant.label + (f" {contestant.precision}" if has_precisions else "")
            if len(runs) > 1:
                label += f" (run {index + 1})"
            price = constraints.prices[index] if constraints.prices else None
            candidates.append(weigh(run, contestant, label, shares, constraints, price, outside_share))
    return candidates
