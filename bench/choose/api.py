"""`choose`: from runs on disk or in memory to a decision. The command line is a thin layer over it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from bench.choose.candidates import Weighed, is_of_shapes, places_of, weigh
from bench.choose.choice import Choice, decide
from bench.choose.constraints import Constraints, parse_constraints
from bench.errors import UNDECIDED, UserError, foremost
from bench.grid import place
from bench.run import alike
from bench.run.file import check_unaltered, read_run
from bench.run.record import Run
from bench.spec import Shape
from bench.traffic import Traffic, read_traffic


def choose(
    runs: Run | str | Path | Sequence[Run | str | Path],
    *,
    traffic: Traffic | str | Path | None = None,
    objective: str = "latency",
    slo: str | None = None,
    max_memory: str | int | None = None,
    min_parity: str | None = None,
    max_loss: str | float | None = None,
    allow_deprecated: bool = False,
    max_regret: str | float | None = None,
    requests_per_restart: int | None = None,
    price: str | float | None = None,
    device_map: bool = False,
) -> Choice:
    """Which runtime of `runs` (files, or Runs of one model) to deploy for `traffic` (a file, or Traffic).

    `objective` is "latency" (time of a request as it comes), "throughput" (sequences a second, in the batches that suit
    each runtime best) or "cost" (the same for a dollar, with `price` in US dollars an hour: one, or one a run as
    "0.4,2.5"). `slo` is e.g. "p95=20ms", `max_memory` bytes, "2GB" or "2GiB", `min_parity` exact, equivalent (unless
    `max_loss` is given) or lossy. Below fp32 nothing is taken without `max_loss`, a share of the output's RMS such as
    0.02 or "2%", and nothing deprecated without `allow_deprecated`. A runtime is taken if it is known to be within
    `max_regret` (0.03) of the best; else the choice is undecided. `requests_per_restart` is the number of requests over
    which the one-time costs are spread. With `device_map` the runs may be from several machines. Without traffic every
    shape counts alike, in a geometric mean. Raises UserError for wrong input, for runs that cannot be compared, and for
    traffic of which no shape lies within what was measured.
    """
    given = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    found = [run if isinstance(run, Run) else read_run(Path(run)) for run in given]
    if not found:
        raise UserError("no run was given; name a file that bench compare wrote")
    for run in found:
        if not is_of_shapes(run.workload):
            raise UserError(
                f"{alike.name_of(run)} is a run of bench {run.options.command}, which does not time one call at each "
                "shape; give a run of bench compare"
            )
        check_unaltered(run)
    constraints = parse_constraints(
        len(found), objective=objective, slo=slo, max_memory=max_memory, min_parity=min_parity, price=price,
        max_loss=max_loss, allow_deprecated=allow_deprecated, max_regret=max_regret,
        requests_per_restart=requests_per_restart,
    )  # fmt: skip
    _check_together(found, device_map)
    if not isinstance(traffic, Traffic):
        traffic = _even_traffic(found) if traffic is None else read_traffic(Path(traffic))
    inside, outside = _within(traffic, found, objective != "latency")
    candidates = _weighed(found, inside, constraints, sum(share for _, share in outside), traffic.is_given)
    if not candidates:
        raise UserError(f"{alike.name_of(found[0])} has no runtime that computes the model; measure e.g. eager,onnx")
    return Choice(
        **vars(decide(candidates, not traffic.is_given, constraints.max_regret)),
        constraints=constraints, traffic=traffic, candidates=tuple(candidates), outside=tuple(outside),
    )  # fmt: skip


def _check_together(runs: Sequence[Run], is_across_machines: bool) -> None:
    """Raise UserError if one choice among all `runs` would mean nothing."""
    if not is_across_machines:
        if found := alike.obstacles(runs):
            hint = "--device-map chooses among machines" if "machine" in found[0] else "give runs that agree"
            raise UserError(f"{found[0]}, so one choice among them means nothing; {hint}")
        return
    for one, other in combinations(runs, 2):
        if alike.is_same(one, other):
            raise UserError(f"{alike.name_of(one)} and {alike.name_of(other)} are the same run; give each once")
    for run in runs[1:]:
        if found := alike.differences(runs[0], run, is_across_machines=True):
            raise UserError(f"the runs differ in {found[0]}; --device-map is for one model")


def _even_traffic(runs: Sequence[Run]) -> Traffic:
    """Every shape that was measured in all runs, each as often as any other."""
    grids = [places_of(run) for run in runs]
    measured = {record.point for run in runs for record in run.records if record.status == "ok" and record.is_judged}
    shared = [shape for shape in grids[0] if all(shape in grid for grid in grids)]
    if not shared:
        raise UserError("the runs share no shape, so only traffic can weigh them; give --traffic FILE")
    counts = dict.fromkeys([shape for shape in shared if shape in measured] or shared, 1.0)
    return Traffic(counts, "none given: every measured shape counts alike", is_given=False)


def _within(
    traffic: Traffic, runs: Sequence[Run], is_rebatched: bool
) -> tuple[list[tuple[Shape, float]], list[tuple[Shape, float]]]:
    """The traffic that every run's grid tells of, its shares scaled to 1; and the rest, with shares of all of it.

    If requests are `is_rebatched`, their lengths alone must lie on the grid.
    """
    grids = [places_of(run) for run in runs]
    inside: list[tuple[Shape, float]] = []
    outside: list[tuple[Shape, float]] = []
    for shape, share in traffic.shares():
        is_inside = all(
            any(
                place(Shape(batch, shape.length), grid)
                for batch in ({s.batch for s in grid} if is_rebatched else {shape.batch})
            )
            for grid in grids
        )
        (inside if is_inside else outside).append((shape, share))
    if not inside:
        shape = max(outside, key=lambda entry: entry[1])[0]
        raise UserError(
            f"no request of the traffic lies within what was measured, e.g. batch {shape.batch} × length {shape.length}"
            f"; measure it: bench compare --batches … --lengths … up to those"
        )
    total = sum(share for _, share in inside)
    return [(shape, share / total) for shape, share in inside], outside


def _weighed(
    runs: Sequence[Run],
    shares: Sequence[tuple[Shape, float]],
    constraints: Constraints,
    outside_share: float,
    is_traffic: bool,
) -> list[Weighed]:
    """Every candidate of every run that computes the model; A/A copies are excluded."""
    weighed = []
    has_precisions = len({one.precision for run in runs for one in run.candidates}) > 1
    for index, run in enumerate(runs):
        not_judged = {record.candidate for record in run.records if not record.is_judged}
        price = constraints.prices[index] if constraints.prices else None
        for candidate in run.candidates:
            if candidate.copy > 1 or candidate in not_judged:
                continue
            label = candidate.label + (f" {candidate.precision}" if has_precisions else "")
            label += f" (run {index + 1})" if len(runs) > 1 else ""
            weighed.append(weigh(run, candidate, label, shares, constraints, price, outside_share, is_traffic))
    return weighed


def exit_code(run: Run) -> int:
    """What a command that measured `run` ends with: its own code, or 6 if its choice is undecided."""
    choice = choice_of(run)
    return foremost((run.exit_code, UNDECIDED if choice is not None and choice.exit_code == UNDECIDED else 0))


def choice_of(run: Run) -> Choice | None:
    """The choice that a measuring command itself makes, under what its options allow; None if nothing can be chosen
    from the run.
    """
    if not is_of_shapes(run.workload) or run.integrity == "altered":
        return None
    if not any(record.status == "ok" and record.is_judged for record in run.records):
        return None
    try:
        traffic = getattr(run.workload, "traffic", None)
        return choose(run, traffic=traffic, max_loss=getattr(run.options, "max_loss", None))
    except UserError:  # the tables say what became of what was measured
        return None
