"""The largest rate that keeps every service level, by bisection over rates: pure functions and a schedule.

What it rests on: whoever keeps the levels at a rate keeps them at every lower one. With common random numbers that
holds on the very same draws where each request is served by itself and calls last equally long (Lindley's recursion:
shorter gaps, longer waits), and as far as the machine's noise allows; where requests are joined, a low rate may wait
for company longer than a middle one. A level that was missed bounds the search even if a higher rate kept it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.columns import DASH, Mark, Plot, count
from bench.process.queue import Slices
from bench.run.record import Point, Record, Run
from bench.run.schedule import Schedule, State, fewest_turns
from bench.spec import Candidate
from bench.traffic import Slo

#: Rates are tried until the lowest that missed is within this factor of the largest that kept.
RESOLUTION = 1.05
#: Rates of one search at most, those that are tried again included.
MOST_STEPS = 24
#: A rate whose requests would take longer than this to arrive is not tried.
MOST_TRIAL_SECONDS = 600.0


@dataclass(frozen=True)
class Trial:
    """One rate that was served."""

    rate: float
    is_kept: bool
    is_hopeless: bool = False
    """True for a miss that no lower rate would mend."""


@dataclass(frozen=True)
class Found:
    """What a search came to; rates in requests a second."""

    kept: float | None
    """The largest that kept the levels and lies below every one that missed; None where none did."""
    missed: float | None
    """The lowest that did not."""
    trials: int
    is_settled: bool
    """True when the two are within `RESOLUTION`, or no lower rate could help."""


def bracket(trials: Sequence[Trial]) -> Found:
    """What `trials` say of the largest rate so far."""
    missed = min((trial for trial in trials if not trial.is_kept), key=lambda trial: trial.rate, default=None)
    below = [trial.rate for trial in trials if trial.is_kept and (missed is None or trial.rate < missed.rate)]
    kept = max(below, default=None)
    if missed is None:
        return Found(kept, None, len(trials), False)
    is_settled = missed.is_hopeless if kept is None else missed.rate / kept <= RESOLUTION
    return Found(kept, missed.rate, len(trials), is_settled)


def next_rate(trials: Sequence[Trial], first: float, requests: int) -> float | None:
    """The rate to try next with so many `requests`, or None when the search has ended: from `first` doubled or halved
    until one rate keeps and one misses, then the geometric mean of the two.
    """
    if not trials:
        return first
    found = bracket(trials)
    if found.is_settled:
        return None
    if found.missed is None:
        assert found.kept is not None
        rate = 2 * found.kept
    elif found.kept is None:
        rate = found.missed / 2
    else:
        rate = math.sqrt(found.kept * found.missed)
    return rate if requests / rate <= MOST_TRIAL_SECONDS else None


@dataclass(frozen=True)
class RateSearch(Schedule):
    """A schedule: the rate that was asked for in several slices, then each candidate's search, one slice a rate;
    `point` makes the point of a step (0 for the rate that was asked for) at a rate.
    """

    rate: float
    slices: int
    requests: int | None
    """Of each rate of the search; None for no search."""
    point: Callable[[int, float], Point]
    trials: Callable[[Sequence[Record]], list[Trial] | None]
    """The trials of one candidate's records; None if its search has no use."""

    def next_turns(self, state: State) -> Sequence[tuple[Point, Candidate]]:
        asked = self.point(0, self.rate)
        if left := state.left(asked):
            return [(asked, candidate) for candidate in fewest_turns(state, asked, left)]
        if self.requests is None:
            return []
        found = ((candidate, self._next(state, candidate)) for candidate in state.candidates)
        return [(point, candidate) for candidate, point in found if point is not None]

    def _next(self, state: State, candidate: Candidate) -> Point | None:
        records = [record for (_, who), record in state.records.items() if who == candidate]
        trials = self.trials(records)
        if trials is None or len(records) > MOST_STEPS or self.requests is None:
            return None
        if any(who == candidate and cell.is_deferred for (_, who), cell in state.open.items()):
            return None
        rate = next_rate(trials, self.rate, self.requests)
        return None if rate is None else self.point(len(records), rate)

    def is_open(self, state: State, point: Point, candidate: Candidate) -> bool:
        wanted = self.slices if point.step == 0 else 1
        return len(state.cell(point, candidate).turns) < wanted


def shown(found: Found | None) -> str:
    """`312/s`, or what was found instead."""
    if found is None:
        return DASH
    if found.kept is None:
        return "none" if found.is_settled else f"< {found.missed:.4g}/s"
    return f"{found.kept:.4g}/s" if found.is_settled else f"≥ {found.kept:.4g}/s"


def line(found: Found, levels: str) -> str:
    """What a search for the largest rate that keeps `levels` came to, in one sentence."""
    tried = count(found.trials, "rate") + " tried"
    if found.kept is None and found.is_settled:
        return f"no rate keeps {levels}: calls that no request waits for miss it already ({tried})"
    if found.kept is None:
        return f"none found that keeps {levels}; {found.missed:.4g}/s missed it, and lower was not tried ({tried})"
    missed = "no higher one was tried" if found.missed is None else f"{found.missed:.4g}/s missed it"
    open_ = "" if found.is_settled else "; the search ended before it was settled"
    return f"{found.kept:.4g}/s keeps {levels}, {missed} ({tried}{open_})"


def answer(run: Run, found: Mapping[str, Found], levels: Sequence[Slo]) -> str:
    """The sound candidate that serves most, in one sentence; "" if none keeps the service levels."""
    unsound = {run.name(one.candidate) for one in run.records if not one.is_judged or one.verdict == "broken"}
    kept = {name: one.kept for name, one in found.items() if one.kept is not None and name not in unsound}
    if not kept:
        return ""
    best = max(kept, key=lambda name: kept[name])
    most = ", the most of all" if len(kept) > 1 else ""
    return f"{best} serves {kept[best]:.4g} requests/s within {' and '.join(map(str, levels))}{most}"


def plots(levels: Sequence[Slo], served: Sequence[tuple[str, float, Slices]]) -> list[Plot]:
    """For each service level, its percentile over the rates that were tried, by candidate."""
    marks = {
        level: tuple(Mark(name, rate, ns / 1e6) for name, rate, one in served if (ns := one.percentile(level.rank)))
        for level in levels
    }
    return [
        Plot(str(level), "requests a second", f"p{level.rank} ms", drawn, True, True)
        for level, drawn in marks.items()
        if drawn
    ]
