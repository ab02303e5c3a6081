"""Runs against each other, cell by cell: which cells became slower, faster, or are lost; pure functions.

Two runs are a diff, OLD and NEW. Three or more are a history, in the order of time, and its last run is held against
what came before: a diff is a history of two. Rules that every verdict follows:

- A cell counts as measured if its status is ok, its parity is not broken and its median is not below the roofline
  (implausible). Its standing is one of: the same model (equivalent or better, or a backend that computes nothing),
  lossy, unjudged. Times are compared between equal standings alone, since the time of another function is no speed.
- Compared cells are judged by equivalence testing (Schuirmann 1987, doi:10.1007/BF01068419): with the interval of
  new time / old time from `statistics.ratio_of_runs` and threshold T, `slower` if all of it lies above 1+T, `faster`
  if all lies below 1/(1+T), `same` if all lies within the two, else `ambiguous`; also with fewer than two rounds, which
  give no interval.
- `gone`: measured before, and now not at all or with a lower standing. If the last run planned the cell, that is a
  regression whatever the reason: oom, failed, timeout, unsupported, skipped, parity lost, implausible, or no record
  because the run is incomplete; a gate must not pass on what was not measured. Otherwise it is not.
- `new`: measured now, and before not at all or with a lower standing.
- `slower` is a regression. A disturbed cell keeps its verdict and is marked: on a busy machine every cell is disturbed,
  and a gate that passes all of them is useless.
- In a history the last run is held against the first run that measured the cell with the highest standing it ever had.
- A cell that no run measured has no verdict, and is listed apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench import statistics
from bench.errors import UserError
from bench.machine import GPU_SETTINGS
from bench.options import declaration
from bench.run.alike import OF_ONE_MACHINE, name_of
from bench.run.file import check_unaltered
from bench.run.record import SAME_MODEL, Point, Record, Run
from bench.spec import Candidate
from bench.statistics import Interval

VERDICTS = ("slower", "faster", "same", "ambiguous", "new", "gone")
THRESHOLD = 0.05
REGRESSION_EXIT_CODE = 4
#: Standings of a cell, by `SAME_MODEL` and "lossy"; what else was measured is unjudged.
NOT_MEASURED, UNJUDGED, LOSSY, SAME = range(4)
#: Facts of a fingerprint that may differ within one machine and may explain a change.
EXPLAINING = (
    "python", "system", "hypervisor", "container", "governor", "boost_is_on", "smt_is_on", "cpu_quota", "huge_pages",
    "commit", "is_dirty",
)  # fmt: skip
#: Options that choose model, cells and files, and explain no change of a cell's time.
CHOOSING = (
    "model",
    "module",
    "weights",
    "task",
    "backends",
    "precisions",
    "baseline",
    "budget",
    "artifacts",
    "timeout",
)


@dataclass(frozen=True)
class Change:
    """Time of one call now over its time before; above 1 is slower."""

    value: float
    interval: Interval | None
    """At `statistics.RATIO_CONFIDENCE`; None if either has fewer than two rounds."""
    inverse: Interval | None
    """Of time before over time now, from the same medians: an inverted end would differ in its last bit, and then
    exchanging the runs would not exchange the verdicts."""

    def verdict(self, threshold: float) -> str:
        """`slower`, `faster`, `same` or `ambiguous`; at a `threshold` of 0.05 `same` is from 1/1.05 to 1.05."""
        if self.interval is None or self.inverse is None:
            return "ambiguous"
        limit = 1 + threshold
        if self.interval.low > limit:
            return "slower"
        if self.inverse.low > limit:
            return "faster"
        return "same" if max(self.interval.high, self.inverse.high) <= limit else "ambiguous"


@dataclass(frozen=True)
class Cell:
    """One cell in all compared runs."""

    point: Point
    candidate: Candidate
    verdict: str
    """One of `VERDICTS`."""
    medians_ns: tuple[float | None, ...]
    """By run; None if it was not measured with the standing that is compared."""
    rounds: tuple[int, ...]
    """By run; 0 without a median."""
    is_disturbed: tuple[bool, ...]
    """By run."""
    change: Change | None = None
    """None for `new` and `gone`."""
    is_regression: bool = False
    reason: str = ""
    """Why a cell is gone, or why it was not there before."""
    trend: float | None = None
    """Change of the runs' medians from first to last as a share of their median; None if there is no trend."""
    remarks: tuple[str, ...] = ()
    """What else a reader must know before trusting the verdict."""


@dataclass(frozen=True)
class Comparison:
    """What became of every cell of the first runs in the last one."""

    runs: tuple[Run, ...]
    """Two or more of one workload, oldest first."""
    threshold: float
    cells: tuple[Cell, ...]
    """By point, then in the order of the candidates."""
    unmeasured: tuple[tuple[Point, Candidate], ...]
    """Planned cells that no run measured."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the runs are called in a report."""
        return labels(len(self.runs))

    @property
    def counts(self) -> dict[str, int]:
        """Cells of each verdict."""
        return {verdict: sum(cell.verdict == verdict for cell in self.cells) for verdict in VERDICTS}

    @property
    def regressions(self) -> int:
        """Cells that are slower beyond the threshold, or lost though planned."""
        return sum(cell.is_regression for cell in self.cells)

    @property
    def exit_code(self) -> int:
        """4 with a regression, else 0."""
        return REGRESSION_EXIT_CODE if self.regressions else 0


def labels(count: int) -> tuple[str, ...]:
    """ "OLD" and "NEW", or "run 1" to "run N"."""
    return ("OLD", "NEW") if count == 2 else tuple(f"run {number}" for number in range(1, count + 1))


def check(runs: Sequence[Run]) -> None:
    """Raise UserError for runs that no option makes comparable: altered, of several workloads, or without times."""
    for run in runs:
        check_unaltered(run)
    for run in runs[1:]:
        if type(run.workload) is not type(runs[0].workload):
            of = (f"{name_of(one)} of bench {one.options.command}" for one in (runs[0], run))
            raise UserError(f"{' and '.join(of)} measured different things; compare runs of one command")
    if not any(_rounds(record, run) for run in runs for record in run.records) and any(
        record.status == "ok" for run in runs for record in run.records
    ):
        raise UserError(f"bench {runs[0].options.command} measures no times to compare; bench report shows its figures")


def compare_runs(runs: Sequence[Run], threshold: float = THRESHOLD) -> Comparison:
    """Every cell of two or more `runs`, oldest first, with its verdict at `threshold` (a share).

    Raises UserError for runs that `check` refuses, and if the last has no planned cell in common with any other.
    """
    check(runs)
    planned = [dict.fromkeys(run.planned()) for run in runs]
    if not planned[-1].keys() & {cell for of_run in planned[:-1] for cell in of_run}:
        last = f"{name_of(runs[-1])} has no cell in common with {' or '.join(map(name_of, runs[:-1][:3]))}"
        raise UserError(f"{last}; compare runs of the same backends, precisions and {runs[-1].workload.point_noun}s")
    found = {
        cell: _cell(runs, [run.record(*cell) for run in runs], [cell in of_run for of_run in planned], threshold)
        for cell in _in_order([cell for of_run in planned for cell in of_run])
    }
    cells = tuple(cell for cell in found.values() if cell is not None)
    return Comparison(tuple(runs), threshold, cells, tuple(key for key, cell in found.items() if cell is None))


def _in_order(cells: Sequence[tuple[Point, Candidate]]) -> list[tuple[Point, Candidate]]:
    """Distinct cells by point, points and candidates as they first come."""
    place = {point: at for at, point in enumerate(dict.fromkeys(point for point, _ in cells))}
    return sorted(dict.fromkeys(cells), key=lambda cell: place[cell[0]])


def _rounds(record: Record, run: Run) -> list[list[int]]:
    """The samples that are compared, by round."""
    return record.rounds_ns(run.workload.headline)


def _cell(
    runs: Sequence[Run], records: Sequence[Record | None], is_planned: Sequence[bool], threshold: float
) -> Cell | None:
    """One cell, from its record and whether it was planned, by run; None if no run measured it."""
    standings = [_standing(run, record) for run, record in zip(runs, records, strict=True)]
    best_before, now = max(standings[:-1]), standings[-1]
    compared = max(best_before, now)
    if compared == NOT_MEASURED:
        return None
    used = [record if standing == compared else None for record, standing in zip(records, standings, strict=True)]
    first, last = next(record for record in used if record is not None), used[-1]
    rounds = [_rounds(record, run) if record is not None else [] for run, record in zip(runs, used, strict=True)]
    cell = Cell(
        point=first.point,
        candidate=first.candidate,
        verdict="gone" if last is None else "new",
        medians_ns=tuple(statistics.median(statistics.pooled(one)) if one else None for one in rounds),
        rounds=tuple(map(len, rounds)),
        is_disturbed=tuple(
            record is not None and bool(run.disturbances(record)) for run, record in zip(runs, used, strict=True)
        ),
        remarks=tuple(_remarks(runs, used)),
    )
    if last is None:
        reason = _reason(runs[-1], records[-1], is_planned[-1])
        was = f" (was {first.verdict or 'unjudged'})" if now != NOT_MEASURED else ""
        return replace(cell, is_regression=is_planned[-1], reason=reason + was)
    if best_before < now:
        before = max(range(len(runs) - 1), key=lambda index: (standings[index], is_planned[index], index))
        reason = f"before: {_reason(runs[before], records[before], True)}" if is_planned[before] else ""
        return replace(cell, reason=reason)
    change = change_of(next(filter(None, rounds)), rounds[-1])
    verdict = change.verdict(threshold)
    trend = statistics.drift([[median] for median in cell.medians_ns if median is not None])
    return replace(cell, verdict=verdict, change=change, is_regression=verdict == "slower", trend=trend)


def change_of(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Change:
    """Time of `new` over time of `old`, each as samples by round, measured apart."""
    # How many times faster the old one is, is how many times longer the new one takes.
    growth, speedup = statistics.ratio_of_runs(new, old), statistics.ratio_of_runs(old, new)
    if growth is None or speedup is None:
        return Change(statistics.median(statistics.pooled(new)) / statistics.median(statistics.pooled(old)), None, None)
    return Change(growth.value, growth.interval, speedup.interval)


def _standing(run: Run, record: Record | None) -> int:
    if record is None or record.status != "ok" or not _rounds(record, run):
        return NOT_MEASURED
    if record.verdict == "broken" or run.is_implausible(record):
        return NOT_MEASURED
    if not record.is_judged or record.verdict in SAME_MODEL:
        return SAME
    return LOSSY if record.verdict == "lossy" else UNJUDGED


def _reason(run: Run, record: Record | None, is_planned: bool) -> str:
    """Why `run` has no time of a cell that can be compared."""
    if not is_planned:
        return "not planned"
    if record is None:
        return f"no record, as the run is incomplete; bench {run.options.command} --resume goes on with it"
    if record.status != "ok":
        return f"{record.status}: {record.reason}" if record.reason else record.status
    if run.is_implausible(record):
        return "implausible: the median lies below the roofline"
    if not _rounds(record, run):
        return "no time was measured"
    why = str(record.parity.get("reason", ""))
    return f"parity {record.verdict or 'unjudged'}" + (f": {why}" if why else "")


def _remarks(runs: Sequence[Run], used: Sequence[Record | None]) -> list[str]:
    found = []
    measured = [
        (label, run, record) for label, run, record in zip(labels(len(runs)), runs, used, strict=True) if record
    ]
    for label, run, record in measured:
        found += [f"disturbed in {label}: {line}" for line in run.disturbances(record)]
    if len({record.is_interleaved for _, _, record in measured}) > 1:
        alone = ", ".join(label for label, _, record in measured if not record.is_interleaved)
        found.append(f"not measured in turns with the others in {alone}; the time may differ for that alone")
    return found


# What else differs.


def in_order(runs: Sequence[Run]) -> list[Run]:
    """`runs` by the time that they started, which all files write alike."""
    return sorted(runs, key=lambda run: run.started)


def changes(one: Run, other: Run) -> list[str]:
    """What differs between two runs of one machine and may explain a change, e.g. `torch 2.12.0 → 2.13.0`."""
    facts, its_facts = one.fingerprint, other.fingerprint
    versions, its_versions = facts.get("versions", {}), its_facts.get("versions", {})
    found = []
    if "environment" in facts and "environment" in its_facts:
        found += _changed(versions, its_versions) + _changed(facts["environment"], its_facts["environment"])
    else:  # an older bench asked for fewer versions: a missing one says nothing
        found += _changed(*_known_to_both(versions, its_versions, [*versions]))
    found += _changed(*_known_to_both(facts, its_facts, EXPLAINING))
    for card, twin in zip(facts.get("gpus", []), its_facts.get("gpus", []), strict=False):
        found += [f"gpu {line}" for line in _changed(*_known_to_both(card, twin, GPU_SETTINGS))]
    return found + _changed(_explaining(one), _explaining(other))


def _explaining(run: Run) -> dict[str, str]:
    """Options that may explain a change, as they are written on a command line."""
    left_out = (*CHOOSING, *OF_ONE_MACHINE, *run.workload.decisive)
    return {
        option.name: declaration(option).show(value)
        for option in run.options.declared()
        if option.name not in left_out
        and declaration(option).in_command
        and (value := getattr(run.options, option.name)) not in (None, ())
    }


def _known_to_both(
    one: Mapping[str, Any], other: Mapping[str, Any], names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    known = [name for name in names if one.get(name) is not None and other.get(name) is not None]
    return {name: one[name] for name in known}, {name: other[name] for name in known}


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {_short(one.get(name))} → {_short(other.get(name))}"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{40}", text) else text
