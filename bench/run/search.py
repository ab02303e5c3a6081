"""The largest rate that keeps every service level: a search by bisection, then tests on fresh draws; pure functions and
a schedule.

The search goes by what its samples seem to show, and picks the rate that seems best, so it proves nothing itself. Rates
around what it found are then tested with requests of their own, and the report is a range: the largest rate that was
judged kept, and the smallest that was judged missed.

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
from bench.process.levels import KEPT, MISSED, RISK, UNJUDGED, requests_needed
from bench.process.served import Slices
from bench.run.record import Point, Record, Run
from bench.run.schedule import Schedule, State, fewest_turns
from bench.spec import Candidate
from bench.traffic import Slo

#: Rates are tried until the lowest that missed is within this factor of the largest that kept.
RESOLUTION = 1.05
#: Rates of one search at most, those that are tried again and those that are tested included.
MOST_STEPS = 24
#: Requests of one rate above which a run and its file are no use to anybody.
MOST_REQUESTS = 200_000
#: A rate whose requests would take longer than this to arrive is not tried.
MOST_TRIAL_SECONDS = 600.0
#: How far from the rate that was found a rate is tested, the nearest first, until one is judged on each side.
DISTANCES = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
#: A test has the requests that judge a server whose share of overruns is the level's over this, or times this.
CLEAR = 3
#: What a report says of how the largest rate was found.
RULE = (
    f"rates are bisected on the same draws, then some around the one that was found are tested on draws of their own; "
    f"each is kept or missed if a server exactly at the level would be called so in at most {RISK:.0%} of runs"
)


@dataclass(frozen=True)
class Tried:
    """One rate that a candidate served."""

    slices: Slices
    is_trial: bool = True
    """True if a search goes by it: the rate that was asked for, and those that it picks."""
    is_evidence: bool = True
    """True if its verdict proves something: the rate that was asked for, and tests. A search picks by its sample."""
    is_disturbed: bool = False

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.slices.rate

    def level(self, slo: Slo) -> str:
        """What became of a service level; a miss while other work disturbed the machine is unjudged."""
        found = self.slices.level(slo)
        return UNJUDGED if found == MISSED and self.is_disturbed else found

    def outcome(self, slos: Sequence[Slo]) -> str:
        """Worst of the levels, a miss before what cannot be judged."""
        found = {self.level(slo) for slo in slos}
        return next(one for one in (MISSED, UNJUDGED, KEPT) if one in found)


@dataclass(frozen=True)
class Trial:
    """One rate of a search, and what its sample seems to show."""

    rate: float
    is_kept: bool
    is_hopeless: bool = False
    """True for a miss that no lower rate would mend."""


@dataclass(frozen=True)
class Bracket:
    """What a search seems to show; rates in requests a second."""

    kept: float | None
    """The largest that kept the levels and lies below every one that missed; None if none did."""
    missed: float | None
    """The lowest that did not."""
    is_settled: bool
    """True when the two are within `RESOLUTION`, or no lower rate could help."""


def bracket(trials: Sequence[Trial]) -> Bracket:
    """What `trials` show of the largest rate so far."""
    missed = min((trial for trial in trials if not trial.is_kept), key=lambda trial: trial.rate, default=None)
    below = [trial.rate for trial in trials if trial.is_kept and (missed is None or trial.rate < missed.rate)]
    kept = max(below, default=None)
    if missed is None:
        return Bracket(kept, None, False)
    is_settled = missed.is_hopeless if kept is None else missed.rate / kept <= RESOLUTION
    return Bracket(kept, missed.rate, is_settled)


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
class Evidence:
    """All that the records of one candidate say of its largest rate."""

    trials: Sequence[Trial]
    tested: Mapping[float, str]
    """What was judged at each rate that no search picked for its own sample: the one that was asked for, and tests."""

    @property
    def kept(self) -> float | None:
        """The largest rate that was judged kept and lies below every one that was judged missed."""
        below = self.missed or math.inf
        return max((rate for rate, outcome in self.tested.items() if outcome == KEPT and rate < below), default=None)

    @property
    def missed(self) -> float | None:
        """The smallest rate that was judged missed."""
        return min((rate for rate, outcome in self.tested.items() if outcome == MISSED), default=None)

    @property
    def is_hopeless(self) -> bool:
        """True if a rate missed, and no lower one would do better."""
        return self.missed is not None and any(one.is_hopeless and one.rate == self.missed for one in self.trials)

    @property
    def is_decided(self) -> bool:
        """True if the largest rate lies between two that were judged, or there is none."""
        return self.missed is not None and (self.kept is not None or self.is_hopeless)

    def next_test(self, requests: Callable[[float, bool], int | None]) -> tuple[float, int] | None:
        """The rate to test next, and with how many requests; None if no test would narrow what is known.

        `requests` says how many show that a rate keeps the levels, or that it misses them (True); None for too many.
        """
        seems, known = bracket(self.trials), (self.kept or 0.0, self.missed or math.inf)
        ends = [rate for rate in (seems.kept, seems.missed) if rate is not None]
        centre = math.sqrt(ends[0] * ends[-1]) if ends else 0.0
        is_hopeless = seems.kept is None and seems.is_settled
        rates = [] if is_hopeless else [(centre / distance, False) for distance in DISTANCES]
        rates += [(centre * distance, True) for distance in ((1.0, *DISTANCES) if is_hopeless else DISTANCES)]
        for rate, is_above in (one for one in rates if known[0] < one[0] < known[1] and one[0] not in self.tested):
            if (needed := requests(rate, is_above)) is not None:
                return rate, needed
        return None


def evidence_of(tried: Sequence[Tried], slos: Sequence[Slo]) -> Evidence:
    """What was tried is evidence of; the first time that a rate seems to miss while other work disturbed the machine,
    it is none, and the rate is tried again.
    """
    trials, excused = [], set[float]()
    for one in (one for one in tried if one.is_trial):
        seems = one.slices.seems_kept(slos)
        if seems is False and one.is_disturbed and one.rate not in excused:
            excused.add(one.rate)
        elif seems is not None:
            trials.append(Trial(one.rate, seems, one.slices.is_hopeless(slos)))
    return Evidence(trials, {one.rate: one.outcome(slos) for one in tried if one.is_evidence})


def requests_to_test(
    tried: Sequence[Tried], slos: Sequence[Slo], rate: float, is_above: bool, least: int, seconds: float
) -> int | None:
    """Requests of a test at `rate`, by what was served at the rate next to it; None for too many. There are `least` or
    more, and if that rate can be served, as many as arrive in so many `seconds`.
    """
    nearest = min(tried, key=lambda one: abs(math.log(one.rate / rate)))
    inflation = nearest.slices.inflation(rate)
    if is_above and math.isinf(inflation):
        return least
    shares = [(min(CLEAR * one.share, (1 + one.share) / 2) if is_above else one.share / CLEAR, one) for one in slos]
    needed = [requests_needed(share, one.share, inflation) for share, one in shares]
    clear = max((MOST_REQUESTS + 1 if one is None else one for one in needed), default=0)
    most = math.floor(min(MOST_REQUESTS, MOST_TRIAL_SECONDS * rate))
    return min(most, max(least, clear, math.ceil(seconds * rate))) if clear <= most else None


@dataclass(frozen=True)
class RateSearch(Schedule):
    """A schedule: the rate that was asked for in several slices, then each candidate's search, one slice a rate, then
    its tests, in several slices again. `point` makes the point of a step (0 for the rate that was asked for) at a rate;
    that of a test has requests of its own, above 0.
    """

    rate: float
    slices: int
    requests: int | None
    """Of each rate of the search, and of a test at least; None for no search."""
    seconds: float
    """How long the requests of a test arrive, at least."""
    point: Callable[[int, float, int], Point]
    levels: Sequence[Slo]
    tried: Callable[[Sequence[Record]], Sequence[Tried]]
    """What one candidate served; empty if its search has no use."""

    def next_turns(self, state: State) -> Sequence[tuple[Point, Candidate]]:
        asked = self.point(0, self.rate, 0)
        if left := state.left(asked):
            return [(asked, candidate) for candidate in fewest_turns(state, asked, left)]
        if self.requests is None:
            return []
        found = ((candidate, self._next(state, candidate)) for candidate in state.candidates)
        return [(point, candidate) for candidate, point in found if point is not None]

    def _next(self, state: State, candidate: Candidate) -> Point | None:
        records = [record for (_, who), record in state.records.items() if who == candidate]
        tried, least = self.tried(records), self.requests
        if not tried or len(records) > MOST_STEPS or least is None:
            return None
        if any(who == candidate and cell.is_deferred for (_, who), cell in state.open.items()):
            return None
        evidence = evidence_of(tried, self.levels)
        if (rate := next_rate(evidence.trials, self.rate, least)) is not None:
            return self.point(len(records), rate, 0)
        test = evidence.next_test(
            lambda rate, is_above: requests_to_test(tried, self.levels, rate, is_above, least, self.seconds)
        )
        return None if test is None else self.point(len(records), *test)

    def is_open(self, state: State, point: Point, candidate: Candidate) -> bool:
        wanted = 1 if point.step and not point.fresh else self.slices
        return len(state.cell(point, candidate).turns) < wanted


def shown(found: Evidence | None) -> str:
    """`312–350/s`, or what was found instead."""
    if found is None:
        return DASH
    if found.is_hopeless and found.kept is None:
        return "none"
    if found.kept is None:
        return "not judged" if found.missed is None else f"< {found.missed:.4g}/s"
    return f"≥ {found.kept:.4g}/s" if found.missed is None else f"{found.kept:.4g}–{found.missed:.4g}/s"


def line(found: Evidence, levels: str) -> str:
    """What is known of the largest rate that keeps `levels`, in one sentence."""
    tried = count(len({one.rate for one in found.trials} | {*found.tested}), "rate") + " tried"
    kept, missed, seems = f"{found.kept or 0:.4g}/s", f"{found.missed or 0:.4g}/s", bracket(found.trials)
    if found.is_decided and found.kept is None:
        return f"no rate keeps {levels}: calls that no request waits for miss it already ({tried})"
    if found.is_decided:
        return f"{kept} keeps {levels}, {missed} misses it ({tried})"
    known = "no rate was judged"
    if found.kept is not None:
        known = f"{kept} keeps {levels}, no higher rate was judged missed"
    elif found.missed is not None:
        known = f"{missed} misses {levels}, no lower rate was judged kept"
    ends = " and ".join(f"{rate:.4g}/s" for rate in (seems.kept, seems.missed) if rate is not None)
    return f"{known}; the search ended at {ends}, which its own samples do not prove ({tried})"


def answer(run: Run, found: Mapping[Candidate, Evidence], levels: Sequence[Slo]) -> str:
    """The sound candidate that serves most, in one sentence; "" if none was judged to keep the service levels."""
    unsound = {one.candidate for one in run.records if not one.is_judged or one.verdict == "broken"}
    sound = {candidate: one for candidate, one in found.items() if candidate not in unsound}
    kept = {candidate: one.kept for candidate, one in sound.items() if one.kept is not None}
    if not kept:
        return ""
    best = max(kept, key=lambda candidate: kept[candidate])
    others = [math.inf if one.missed is None else one.missed for candidate, one in sound.items() if candidate != best]
    most = "" if not others else ", the most of all" if max(others) <= kept[best] else "; others may serve as many"
    within = " and ".join(map(str, levels))
    return f"{run.name(best)} serves at least {kept[best]:.4g} requests/s within {within}{most}"


def lacking(tried: Tried, slo: Slo) -> str:
    """Why a service level was not judged, and the option with which it would be."""
    served, needed = tried.slices, tried.slices.needed(slo)
    if served.level(slo) == MISSED:
        return f"{slo} was missed while other work disturbed the machine, which proves nothing; measure again"
    if served.load >= 1:
        return f"{slo} cannot be judged at {served.load:.0%} of what can be served; use a lower --rate"
    found = f"{slo} cannot be judged: {served.overruns(slo):,} of {served.requests:,} requests took longer"
    if needed is None or needed > MOST_REQUESTS:
        return f"{found}, too close to the level; use another --rate"
    return f"{found}; {needed - served.requests:,} more may do: use --duration {math.ceil(needed / served.rate):.0f}s"


def plots(levels: Sequence[Slo], served: Sequence[tuple[str, Slices]]) -> list[Plot]:
    """For each service level, its percentile over the rates that were tried, by candidate."""
    marks = {
        level: tuple(Mark(name, one.rate, ns / 1e6) for name, one in served if (ns := one.percentile(level.rank)))
        for level in levels
    }
    return [
        Plot(str(level), "requests a second", f"p{level.rank} ms", drawn, True, True)
        for level, drawn in marks.items()
        if drawn
    ]
