"""Runs against each other, cell by cell: which cells became slower, faster, or are lost; pure functions.

Two runs are a diff, OLD and NEW; three or more are a history, whose last run is held against what came before.

- A cell counts as measured if its status is ok, its parity is not broken and its median is not below the roofline.
  Its standing is one of: the same model (equivalent or better, or a backend that computes nothing), lossy, unjudged.
  Times are compared between equal standings alone, since the time of another function is no speed.
- Compared cells are judged by equivalence testing (Schuirmann 1987, doi:10.1007/BF01068419): see `Change.verdict`.
- `gone`: measured before, and now not at all or with a lower standing: a regression if the last run planned the cell,
  whatever the reason, as a gate must not pass on what was not measured. `new` is the reverse.
- `slower` is a regression. Quiet rounds decide; a cell with fewer than 3 of them in either run is `undecided`.
- In a history the last run is held against the first run that measured the cell with the highest standing it ever had.
- A cell that no run measured has no verdict, and is listed apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from bench import statistics
from bench.columns import count
from bench.errors import REGRESSION, UNDECIDED, UserError, foremost
from bench.machine import GPU_SETTINGS
from bench.options import declaration
from bench.run import pairs
from bench.run.alike import OF_ONE_MACHINE, name_of
from bench.run.file import check_unaltered
from bench.run.record import SAME_MODEL, Point, Record, Run
from bench.spec import Candidate
from bench.statistics import Interval

VERDICTS = ("slower", "faster", "same", "undecided", "new", "gone")
THRESHOLD = 0.05
#: Standings of a cell, by `SAME_MODEL` and "lossy"; what else was measured is unjudged.
NOT_MEASURED, UNJUDGED, LOSSY, SAME = range(4)
#: Facts of a fingerprint that may differ within one machine and may explain a change.
EXPLAINING = (
    "python", "system", "hypervisor", "container", "governor", "boost_is_on", "smt_is_on", "cpu_quota", "huge_pages",
    "commit", "is_dirty",
)  # fmt: skip
#: Options that choose model, cells and files, and explain no change of a cell's time.
CHOOSING = (
    "model", "module", "weights", "task", "backends", "precisions", "baseline", "budget", "artifacts", "timeout",
)  # fmt: skip


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
        """`slower` if all of the interval lies above 1 + `threshold`, `faster` if all lies below the inverse of that.

        `same` if all lies within the two; else, and without an interval, `undecided`.
        """
        if self.interval is None or self.inverse is None:
            return "undecided"
        limit = 1 + threshold
        if self.interval.low > limit:
            return "slower"
        if self.inverse.low > limit:
            return "faster"
        return "same" if max(self.interval.high, self.inverse.high) <= limit else "undecided"


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
        """4 with a regression, else 6 if what became of a cell is not known, else 0."""
        is_open = any(cell.verdict == "undecided" for cell in self.cells)
        return foremost((REGRESSION if self.regressions else 0, UNDECIDED if is_open else 0))


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
    records = [(record, run.workload.headline) for run in runs for record in run.records]
    if any(one.status == "ok" for one, _ in records) and not any(one.rounds_ns(kind) for one, kind in records):
        raise UserError(f"bench {runs[0].options.command} measures no times to compare; bench report shows its figures")


def compare_runs(runs: Sequence[Run], threshold: float = THRESHOLD) -> Comparison:
    """Every cell of two `runs`, or of more in the order that they started, with its verdict at `threshold` (a share).

    Raises UserError for runs that `check` refuses, and if the last has no planned cell in common with any other.
    """
    check(runs)
    runs = sorted(runs, key=lambda run: run.started) if len(runs) > 2 else runs
    planned = [dict.fromkeys(run.planned()) for run in runs]
    if not planned[-1].keys() & {cell for of_run in planned[:-1] for cell in of_run}:
        last = f"{name_of(runs[-1])} has no cell in common with {' or '.join(map(name_of, runs[:-1][:3]))}"
        raise UserError(f"{last}; compare runs of the same backends, precisions and {runs[-1].workload.point_noun}s")
    keys = list(dict.fromkeys(cell for of_run in planned for cell in of_run))
    points = list(dict.fromkeys(point for point, _ in keys))
    found = {}
    for key in sorted(keys, key=lambda key: points.index(key[0])):
        of_runs = zip(labels(len(runs)), runs, planned, strict=True)
        measured = [_Measured(label, run, run.record(*key), key in of_run) for label, run, of_run in of_runs]
        found[key] = _cell(measured, threshold)
    cells = tuple(cell for cell in found.values() if cell is not None)
    return Comparison(tuple(runs), threshold, cells, tuple(key for key, cell in found.items() if cell is None))


@dataclass(frozen=True)
class _Measured:
    """What one run has of a cell."""

    label: str
    run: Run
    record: Record | None
    is_planned: bool

    @cached_property
    def rounds(self) -> list[list[int]]:
        """The samples that are compared, by round; none if the cell was not measured."""
        if self.record is None or self.record.status != "ok":
            return []
        return self.record.rounds_ns(self.run.workload.headline)

    @cached_property
    def quiet(self) -> list[list[int]]:
        """Those of its rounds in which nothing disturbed it, by which it is judged."""
        return pairs.quiet_rounds(self.record, self.run.workload.headline) if self.record and self.rounds else []

    @property
    def why_undecided(self) -> str:
        """Why its time decides nothing; "" if it may."""
        if len(self.quiet) >= pairs.LEAST_QUIET_ROUNDS:
            return ""
        of = "" if len(self.quiet) == len(self.rounds) else f" of {len(self.rounds)}"
        return f"only {count(len(self.quiet), 'quiet round')}{of} in {self.label}"

    @cached_property
    def standing(self) -> int:
        """How far the time is that of the model."""
        record = self.record
        if record is None or not self.rounds or record.verdict == "broken" or self.run.is_implausible(record):
            return NOT_MEASURED
        if not record.is_judged or record.verdict in SAME_MODEL:
            return SAME
        return LOSSY if record.verdict == "lossy" else UNJUDGED

    @property
    def disturbances(self) -> list[str]:
        """What disturbed the machine meanwhile."""
        return [] if self.record is None else self.run.disturbances(self.record)

    @property
    def reason(self) -> str:
        """Why the run has no time of the cell that can be compared."""
        record = self.record
        if not self.is_planned:
            return "not planned"
        if record is None:
            return f"no record, as the run is incomplete; bench {self.run.options.command} --resume goes on with it"
        if record.status != "ok":
            return f"{record.status}: {record.reason}" if record.reason else record.status
        if self.run.is_implausible(record):
            return "implausible: the median lies below the roofline"
        if not self.rounds:
            return "no time was measured"
        why = str(record.parity.get("reason", ""))
        return f"parity {record.verdict or 'unjudged'}" + (f": {why}" if why else "")


def _cell(measured: Sequence[_Measured], threshold: float) -> Cell | None:
    """One cell, from what each run has of it; None if no run measured it."""
    *before, last = measured
    best = max(one.standing for one in before)
    compared = max(best, last.standing)
    if compared == NOT_MEASURED:
        return None
    used = [one if one.standing == compared else None for one in measured]
    there = [(one, one.record) for one in used if one is not None and one.record is not None]
    first, record = there[0]
    cell = Cell(
        point=record.point,
        candidate=record.candidate,
        verdict="new",
        medians_ns=tuple(None if one is None else statistics.median(statistics.pooled(one.rounds)) for one in used),
        rounds=tuple(0 if one is None else len(one.rounds) for one in used),
        is_disturbed=tuple(one is not None and bool(one.disturbances) for one in used),
        remarks=tuple(_remarks(there)),
    )
    if used[-1] is None:
        was = f" (was {record.verdict or 'unjudged'})" if last.standing != NOT_MEASURED else ""
        return replace(cell, verdict="gone", is_regression=last.is_planned, reason=last.reason + was)
    if best < last.standing:
        _, latest = max(enumerate(before), key=lambda one: (one[1].standing, one[1].is_planned, one[0]))
        return replace(cell, reason=f"before: {latest.reason}" if latest.is_planned else "")
    if whys := [one.why_undecided for one in (first, last) if one.why_undecided]:
        remark = f"{' and '.join(whys)}, and {pairs.LEAST_QUIET_ROUNDS} are needed"
        change = Change(change_of(first.rounds, last.rounds).value, None, None)
        return replace(cell, verdict=change.verdict(threshold), change=change, remarks=(*cell.remarks, remark))
    change = change_of(first.quiet, last.quiet)
    verdict = change.verdict(threshold)
    trend = statistics.drift([[median] for median in cell.medians_ns if median is not None])
    return replace(cell, verdict=verdict, change=change, is_regression=verdict == "slower", trend=trend)


def _remarks(there: Sequence[tuple[_Measured, Record]]) -> Iterator[str]:
    for one, _ in there:
        yield from (f"disturbed in {one.label}: {line}" for line in one.disturbances)
    if len({record.is_interleaved for _, record in there}) > 1:
        alone = ", ".join(one.label for one, record in there if not record.is_interleaved)
        yield f"not measured in turns with the others in {alone}; the time may differ for that alone"


def change_of(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Change:
    """Time of `new` over time of `old`, each as samples by round, measured apart."""
    # How many times faster the old one is, is how many times longer the new one takes.
    growth, speedup = statistics.ratio_of_runs(new, old), statistics.ratio_of_runs(old, new)
    if growth is None or speedup is None:
        return Change(statistics.median(statistics.pooled(new)) / statistics.median(statistics.pooled(old)), None, None)
    return Change(growth.value, growth.interval, speedup.interval)


# What else differs.


def changes(one: Run, other: Run) -> list[str]:
    """What differs between two runs of one machine and may explain a change, e.g. `torch 2.12.0 → 2.13.0`."""
    facts, its = one.fingerprint, other.fingerprint
    # An older bench asked for fewer versions: there a missing one says nothing.
    is_older = "environment" not in facts or "environment" not in its
    found = _changed(facts.get("versions", {}), its.get("versions", {}), is_of_both=is_older)
    found += [] if is_older else _changed(facts["environment"], its["environment"])
    found += _changed(facts, its, EXPLAINING, is_of_both=True)
    for card, twin in zip(facts.get("gpus", []), its.get("gpus", []), strict=False):
        found += [f"gpu {line}" for line in _changed(card, twin, GPU_SETTINGS, is_of_both=True)]
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


def _changed(
    one: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str] = (), is_of_both: bool = False
) -> list[str]:
    """What differs of the facts with `names`, or of all; with `is_of_both` only of what both know."""
    values = [(name, one.get(name), other.get(name)) for name in names or dict.fromkeys([*one, *other])]
    return [
        f"{name} {_short(mine)} → {_short(its)}"
        for name, mine, its in values
        if mine != its and not (is_of_both and (mine is None or its is None))
    ]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{40}", text) else text
