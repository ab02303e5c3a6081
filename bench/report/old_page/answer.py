"""The first screen: which runtime, by how much, the same model or not, on which machine, and is any of it tainted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import comparison
from bench.choice.candidates import Weighed
from bench.choice.choice import CONFIDENCE
from bench.records import Run
from bench.report import summary
from bench.report.old_page.chosen import Told, told
from bench.report.old_page.entries import labels
from bench.report.table import machine_line
from bench.statistics import Interval


@dataclass(frozen=True)
class Fact:
    """One thing that the first screen answers."""

    title: str
    value: str
    detail: str = ""
    tone: str = ""
    """As of `tables.Cell`."""


@dataclass(frozen=True)
class Answer:
    """The first screen."""

    headline: str
    facts: tuple[Fact, ...]
    alarms: tuple[str, ...]
    """What a reader must know before believing any of it."""
    told: Told


def answer(runs: Sequence[Run]) -> Answer:
    """What the page says before all else."""
    found = told(runs)
    chosen = found.choice.chosen if found.choice else None
    facts = [_runtime(chosen, runs), _margin(found), _parity(chosen, runs), _machine(runs), _taint(runs)]
    return Answer(found.headline, tuple(facts), tuple(_alarms(runs)), found)


def _runtime(chosen: Weighed | None, runs: Sequence[Run]) -> Fact:
    if chosen is None:
        measured = sum(record.status == "ok" for run in runs for record in run.records)
        value = "one a run, below" if len(runs) > 1 and measured else "none"
        return Fact("Runtime", value, f"{measured} cell{'' if measured == 1 else 's'} measured", "doubtful")
    return Fact("Runtime", chosen.label, f"{chosen.run.grid.model}, {chosen.contestant.precision}", "good")


def _margin(found: Told) -> Fact:
    choice = found.choice
    if choice is None or choice.chosen is None:
        return Fact("By how much", "–")
    if choice.runner_up is None or choice.ratio is None:
        return Fact("By how much", "–", "no other runtime qualifies")
    ratio, other = choice.ratio, choice.runner_up
    ends = ratio.interval
    detail = f"as fast as {other.label}" + (
        f"; {CONFIDENCE:.0%} interval {_span(ends)}" if ends else "; a single round"
    )
    if choice.is_tie:
        return Fact("By how much", "a tie", f"{summary.factor(ratio.value)}× {detail}", "doubtful")
    return Fact("By how much", f"{summary.factor(ratio.value)}×", detail, "good")


def _span(interval: Interval) -> str:
    return f"{summary.factor(interval.low)}–{summary.factor(interval.high)}"


def _parity(chosen: Weighed | None, runs: Sequence[Run]) -> Fact:
    broken = sorted({r.contestant.label for run in runs for r in run.records if r.verdict == "broken"})
    others = f"broken: {', '.join(broken)}" if broken else "no backend is broken"
    if chosen is None:
        return Fact("Same model?", "–", others, "bad" if broken else "")
    errors = [r.parity["max_abs_error"] for r in chosen.records.values() if r.parity.get("max_abs_error") is not None]
    worst = f"max |Δ| {max(errors):.1e} over {len(errors)} cell{'' if len(errors) == 1 else 's'}; " if errors else ""
    tone = {"exact": "good", "equivalent": "good"}.get(chosen.verdict, "doubtful")
    return Fact("Same model?", chosen.verdict or "unjudged", worst + others, tone)


def _machine(runs: Sequence[Run]) -> Fact:
    lines = list(dict.fromkeys(machine_line(run.grid, run.fingerprint) for run in runs))
    dates = sorted({run.started[:10] for run in runs})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return Fact("Machine", "; ".join(lines), when)


def _taint(runs: Sequence[Run]) -> Fact:
    measured = [(run, record) for run in runs for record in run.records if record.status == "ok"]
    tainted = [run.taint(record) for run, record in measured if run.taint(record)]
    if not measured:
        return Fact("Tainted?", "–", "nothing was measured")
    watched = sum(bool(record.conditions) for _, record in measured)
    if not watched:
        return Fact("Tainted?", "not known", "nothing watched the machine while it was measured", "doubtful")
    if not tainted:
        return Fact("Tainted?", "no", f"nothing disturbed any of {watched} watched cells of {len(measured)}", "good")
    causes = dict.fromkeys(line for lines in tainted for line in lines)
    tone = "doubtful" if len(tainted) < len(measured) else "bad"
    return Fact("Tainted?", f"{len(tainted)} of {len(measured)} cells", "; ".join(list(causes)[:2]), tone)


def _alarms(runs: Sequence[Run]) -> list[str]:
    found = [f"These runs do not compare: {line}" for line in comparison.obstacles(runs)] if len(runs) > 1 else []
    for run, label in zip(runs, labels(runs), strict=True):
        who = f"{label}: " if label else ""
        planned = len(run.planned())
        if not run.is_complete:
            found.append(
                f"{who}incomplete, {len(run.records)} of {planned} cells; bench compare --resume goes on with it"
            )
        lost = sum(record.status != "ok" and not run.is_left_out(record) for record in run.records)
        if lost:
            found.append(f"{who}{lost} of {planned} cells could not be measured; the section on what was not says why")
        implausible = sum(run.is_implausible(record) for record in run.records)
        if implausible:
            found.append(f"{who}{implausible} cells are implausible: faster than this machine's peak allows")
    return found
