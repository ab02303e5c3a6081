"""Which constraints a runtime fails for the traffic, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import statistics
from bench.choose.constraints import Constraints
from bench.parity.verdict import is_within
from bench.run.record import Record, Run
from bench.spec import Shape
from bench.traffic import Slo, duration

if TYPE_CHECKING:
    from bench.choose.candidates import Weighed


@dataclass(frozen=True)
class Failure:
    """A constraint that a runtime does not keep."""

    constraint: str
    """"measured", "plausible", "parity", "memory", or a service level as "p95"."""
    reason: str
    """In one line, with by how much."""
    is_unknown: bool = False
    """True if it is not known whether it keeps it, and a longer measurement may tell."""


def not_measured(shape: Shape, record: Record | None, cells: Mapping[Shape, float], run: Run) -> Failure:
    """That a cell which so much of the traffic rests on has no time."""
    share = cells[shape] / sum(cells.values())
    if record is None:
        why = "has no record, as the run is incomplete" if not run.is_complete else "was not planned"
    else:
        why = f"{record.status}: {record.reason}" if record.reason else record.status
    return Failure("measured", f"{shape} {why} ({percent(share)} of the calls rest on it)")


def percent(share: float) -> str:
    """`34%`, and `under 1%` in place of 0."""
    return f"{share:.0%}" if share >= 0.01 or share <= 0 else "under 1%"


def is_sound(run: Run, record: Record, min_parity: str) -> bool:
    """True if a measured cell keeps the parity that is asked, and is no faster than the machine can be."""
    return is_within(record.verdict, min_parity) and not run.is_implausible(record)


def of_measured(candidate: Weighed, constraints: Constraints, outside_share: float = 0.0) -> list[Failure]:
    """Every constraint that a measured candidate does not keep; `outside_share` of the requests is beyond the grid."""
    failures = _of_parity(candidate, constraints.min_parity)
    below = [str(shape) for shape, record in candidate.records.items() if candidate.run.is_implausible(record)]
    if below:
        failures.append(Failure("plausible", f"implausible at {', '.join(below)}: faster than this machine can be"))
    for slo in constraints.slos:
        failures += _of_slo(candidate, slo, outside_share)
    if constraints.requests_per_restart is not None and candidate.one_time_seconds is None:
        failures.append(Failure("start", "its start was not timed, so --requests-per-restart cannot count it", True))
    return failures + _of_memory(candidate, constraints.max_memory_bytes, outside_share)


def _of_parity(candidate: Weighed, least: str) -> list[Failure]:
    bad = [record for record in candidate.records.values() if not is_within(record.verdict, least)]
    if not bad:
        return []
    worst = max(bad, key=lambda record: float(record.parity.get("max_abs_error") or 0.0))
    error = worst.parity.get("max_abs_error")
    off = f", max |Δ| {error:.1e} at {worst.point}" if error is not None else ""
    places = "every shape" if len(bad) == len(candidate.records) > 1 else ", ".join(str(r.point) for r in bad)
    verdicts = " and ".join(sorted({record.verdict or "unjudged" for record in bad}))
    return [Failure("parity", f"parity {verdicts} at {places}{off}; {least} is asked")]


def _of_slo(candidate: Weighed, slo: Slo, outside_share: float) -> list[Failure]:
    """Why a service level is not kept, or cannot be told from so few calls (measurement.md, rule 8).

    Requests beyond the grid count as longer than any limit: they are larger than all that was measured, or in a hole.
    """
    demand, records = candidate.demand, candidate.records
    name, limit = f"p{slo.rank}", duration(slo.limit_ns)
    rank = slo.rank / (1 - outside_share)
    if rank > 100:
        return [
            Failure(name, f"{name} not known: {percent(outside_share)} of the requests lie off the measured grid", True)
        ]
    told = demand.mixture(records)
    # If samples are means of several calls, a level is kept only if those calls cannot have missed it.
    judged = told if demand.are_single_calls(records) else demand.mixture(records, is_bounded=True)
    found, middle = judged.percentile_ns(rank), told.percentile_ns(50)
    if middle > slo.limit_ns:
        return [Failure(name, f"p50 {duration(middle)}: {middle / slo.limit_ns - 1:.0%} above {limit}")]
    needed, has = statistics.PERCENTILE_SAMPLES[slo.rank], judged.effective_samples(rank)
    if has < needed:
        about = f"{name} not known (about {duration(told.percentile_ns(rank))}): {has} calls where {needed} are needed"
        return [Failure(name, f"{about}; more --max-seconds-per-cell", True)]
    if found <= slo.limit_ns:
        return []
    if judged is not told and told.percentile_ns(rank) <= slo.limit_ns:
        return [Failure(name, f"{name} unknown: calls under a millisecond were timed several at once", True)]
    over = told.percentile_ns(rank) / slo.limit_ns - 1
    return [Failure(name, f"{name} {duration(told.percentile_ns(rank))}: {over:.0%} above {limit}")]


def _of_memory(candidate: Weighed, most: int | None, outside_share: float) -> list[Failure]:
    if most is None:
        return []
    held = candidate.peak_bytes
    if held is None:
        return [Failure("memory", "memory not known: the peak of some call was not noted", True)]
    if held > most:
        return [Failure("memory", f"memory {size(held)}: {held / most - 1:.0%} above {size(most)}")]
    if outside_share:
        return [Failure("memory", f"memory not known for {percent(outside_share)} of the requests, off the grid", True)]
    return []


def size(count: int) -> str:
    """Bytes as `1.25 GB` or `310 MB`, in powers of ten as --max-memory has them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
