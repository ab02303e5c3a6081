"""Which constraints a runtime fails for the traffic, and by how much."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import statistics
from bench.choose.constraints import Constraints
from bench.choose.demand import Demand, Mixture
from bench.columns import size
from bench.parity.verdict import is_within
from bench.run.record import Record, Run
from bench.spec import PRECISIONS, Candidate
from bench.traffic import Slo, duration
from bench.words import shown_share

if TYPE_CHECKING:
    from bench.choose.candidates import Weighed


#: The constraint that a backend is maintained upstream.
DEPRECATED = "deprecated"


@dataclass(frozen=True)
class Failure:
    """A constraint that a runtime does not keep."""

    constraint: str
    """"measured", "plausible", "parity", "loss", "deprecated", "memory", "start", or a service level as "p95"."""
    reason: str
    """In one line, with by how much."""
    is_unknown: bool = False
    """True if it is not known whether it keeps it, and a longer measurement may tell."""


def failures_of(candidate: Weighed, outside_share: float) -> list[Failure]:
    """Every constraint that a candidate does not keep; `outside_share` of the requests is beyond the grid.

    Without a time of some cell nothing but that is known.
    """
    run, demand, constraints = candidate.run, candidate.demand, candidate.constraints
    if demand.missing:
        return _not_measured(candidate)
    records = demand.records.values()
    found = of_cells(run, records, constraints.min_parity) + of_loss(candidate.candidate, records, constraints)
    if candidate.is_deprecated and not constraints.allow_deprecated:
        found.append(Failure(DEPRECATED, "deprecated upstream; --allow-deprecated lets it in"))
    for slo in constraints.slos:
        found += _of_slo(demand, slo, outside_share)
    if constraints.requests_per_restart is not None and candidate.one_time_seconds is None:
        found.append(Failure("start", "its start was not timed, so --requests-per-restart cannot count it", True))
    return found + of_memory(run, records, constraints, outside_share)


def _not_measured(candidate: Weighed) -> list[Failure]:
    run, cells = candidate.run, candidate.demand.cells
    found = []
    for shape in candidate.demand.missing:
        record = run.record(shape, candidate.candidate)
        if record is None:
            why = "was not planned" if run.is_complete else "has no record, as the run is incomplete"
        else:
            why = f"{record.status}: {record.reason}" if record.reason else record.status
        rests = f"{percent(cells[shape] / sum(cells.values()))} of the calls rest on it"
        found.append(Failure("measured", f"{shape} {why} ({rests})"))
    return found


def of_cells(run: Run, records: Collection[Record], least: str) -> list[Failure]:
    """What measured cells fail by themselves: the parity that is asked, or the machine's limits."""
    found = []
    if bad := [record for record in records if not is_within(record.verdict, least)]:
        worst = max(bad, key=lambda record: float(record.parity.get("max_abs_error") or 0.0))
        places = "every shape" if len(bad) == len(records) > 1 else ", ".join(str(r.point) for r in bad)
        verdicts = " and ".join(sorted({record.verdict or "unjudged" for record in bad}))
        found.append(Failure("parity", f"parity {verdicts} at {places}{largest_error(worst)}; {least} is asked"))
    if below := ", ".join(str(record.point) for record in records if run.is_implausible(record)):
        found.append(Failure("plausible", f"implausible at {below}: faster than this machine can be"))
    return found


def of_loss(candidate: Candidate, records: Collection[Record], constraints: Constraints) -> list[Failure]:
    """Whether a candidate below fp32 loses more than may be lost, or it is not known what it loses."""
    if candidate.precision == PRECISIONS[0]:
        return []
    known = [loss for record in records if (loss := record.parity.get("loss")) is not None]
    if constraints.max_loss is None:
        return [Failure("loss", "below fp32, of which nothing is taken without --max-loss, e.g. 2%")]
    if len(known) < len(records):
        why = "what it loses is not known, as its run does not say; measure it again by bench compare"
        return [Failure("loss", why, True)]
    if (most := max(known)) > constraints.max_loss:
        return [
            Failure(
                "loss",
                f"it loses {most:.2%} of the output's RMS, and --max-loss is {shown_share(constraints.max_loss)}",
            )
        ]
    return []


def of_memory(
    run: Run, records: Collection[Record], constraints: Constraints, outside_share: float = 0.0
) -> list[Failure]:
    """Whether memory is above what may be held, or not known."""
    most, held = constraints.max_memory_bytes, peak_bytes(run, records)
    if most is None:
        return []
    if held is None:
        return [Failure("memory", "memory not known: the peak of some call was not noted", True)]
    if held > most:
        return [Failure("memory", f"memory {size(held)}: {held / most - 1:.0%} above {constraints.memory_text}")]
    if outside_share:
        return [Failure("memory", f"memory not known for {percent(outside_share)} of the requests, off the grid", True)]
    return []


def peak_bytes(run: Run, records: Collection[Record]) -> int | None:
    """The most that any cell held: resident, or on a GPU; None if some cell's was not noted."""
    held = [run.most_held_bytes(record) for record in records]
    return None if None in held else max((value for value in held if value is not None), default=None)


def _of_slo(demand: Demand, slo: Slo, outside_share: float) -> list[Failure]:
    """Why a service level is not kept, or cannot be told from so few calls (measurement.md, rule 8).

    Requests beyond the grid count as longer than any limit: they are larger than all that was measured, or in a hole.
    """
    name, limit = f"p{slo.rank}", duration(slo.limit_ns)
    rank = slo.rank / (1 - outside_share)
    if rank > 100:
        off = f"{percent(outside_share)} of the requests lie off the measured grid"
        return [Failure(name, f"{name} not known: {off}", True)]
    told = Mixture(demand)
    # If samples are means of several calls, a level is kept only if those calls cannot have missed it.
    judged = told if demand.are_single_calls else Mixture(demand, is_bounded=True)
    middle, at_rank = told.percentile_ns(50), told.percentile_ns(rank)
    if middle > slo.limit_ns:
        return [Failure(name, f"p50 {duration(middle)}: {middle / slo.limit_ns - 1:.0%} above {limit}")]
    needed, has = statistics.PERCENTILE_SAMPLES[slo.rank], judged.effective_samples(rank)
    if has < needed:
        about = f"{name} not known (about {duration(at_rank)}): {has} calls where {needed} are needed"
        return [Failure(name, f"{about}; more --max-seconds-per-cell", True)]
    if judged.percentile_ns(rank) <= slo.limit_ns:
        return []
    if judged is not told and at_rank <= slo.limit_ns:
        return [Failure(name, f"{name} unknown: calls under a millisecond were timed several at once", True)]
    return [Failure(name, f"{name} {duration(at_rank)}: {at_rank / slo.limit_ns - 1:.0%} above {limit}")]


def largest_error(record: Record | None) -> str:
    """`, max |Δ| 2.0e-06 at 1×128`; "" without one."""
    error = None if record is None else record.parity.get("max_abs_error")
    return "" if record is None or error is None else f", max |Δ| {error:.1e} at {record.point}"


def percent(share: float) -> str:
    """`34%`, and `under 1%` in place of 0."""
    return f"{share:.0%}" if share >= 0.01 or share <= 0 else "under 1%"
