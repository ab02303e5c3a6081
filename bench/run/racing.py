"""Racing: a few rounds everywhere, then rounds where they are needed; a schedule, and the rule by which cells end.

Every cell gets `LEAST_ROUNDS` rounds, point by point. From then on a round goes where it takes most variance
a second away from the decision (`bench.regret.rounds_to_settle`), to those that it is still open between; then to cells
whose verdict is not settled, against the baseline or against the fastest at their point. A clear loser takes no further
part, and all that still race at a point take turns within one round. Slow calls get rounds for the decision alone. The
ceilings of rounds and of seconds hold throughout; `until_seconds` lets the decision go beyond them.

A look after every round would find a difference by chance sooner or later. So a look asks for a constant higher
confidence (Pocock 1977, Biometrika 64, 191-199): a tenth of the error. Over looks after 3, 4, … rounds, up to 10 or
150, that adds up to 0.5 or 1.0 times the error of one look at the end (simulated; docs/measuring.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bench import regret, statistics
from bench.machine import conditions
from bench.moderated import Prior, prior_of
from bench.process.timing import SLOW_CALL_NS
from bench.regret import Stakes
from bench.run.record import WALL, Point, Turn
from bench.run.schedule import LEAST_ROUNDS, Enough, Schedule, State, fewest_turns
from bench.spec import Candidate

#: Share of an error that one look may have, so that all looks together have about the error.
SHARE_OF_A_LOOK = 0.1
#: Share of the rounds that would settle the decision after which these are counted anew.
SHARE_OF_A_PLAN = 0.25
#: Verdicts of parity with which a cell takes no part in a comparison.
UNSOUND = ("broken", "unjudged")


@dataclass(frozen=True)
class Racing(Schedule):
    """Rounds where they are needed."""

    enough: Enough
    """The ceilings of each cell, and a width of its median's interval if that was asked for."""
    may_be_taken: Callable[[Candidate], bool] = lambda candidate: True
    """False for a candidate that no choice would take, however fast."""
    until_seconds: float = 0.0
    """Seconds from the start of the command for which the decision may go beyond the ceilings."""
    weights: Mapping[Point, float] = field(default_factory=dict)
    """How often each point is called; empty if nobody knows, so that all count alike in a geometric mean."""
    _known: dict[Hashable, Race] = field(default_factory=dict, init=False, compare=False, repr=False)
    """How things stand, by what was measured: the last one alone."""
    _plan: dict[Point, int] = field(default_factory=dict, init=False, compare=False, repr=False)
    """The point that rounds for the decision go to, and turns of the leader there with which that is thought over."""

    @property
    def least_rounds(self) -> int:
        """Rounds that every cell gets, however slow it is."""
        return min(self.enough.rounds, LEAST_ROUNDS)

    def next_turns(self, state: State) -> Sequence[tuple[Point, Candidate]]:
        for point in state.points:
            short = [one for one in state.left(point) if len(state.cell(point, one).turns) < self.least_rounds]
            if short:
                return [(point, candidate) for candidate in fewest_turns(state, point, short)]
        race = self.race(state)
        return race.for_the_decision() or race.for_verdicts()

    def is_open(self, state: State, point: Point, candidate: Candidate) -> bool:
        if len(state.turns(point, candidate)) < self.least_rounds:
            return True
        race = self.race(state)
        if not race.has_room(point, [candidate]):
            return False
        if any(len(state.cell(at, one).turns) < self.least_rounds for at in state.points for one in state.left(at)):
            return True
        return candidate in race.deciding or (point, candidate) in race.for_verdicts(point)

    def judges(self, state: State, point: Point, candidate: Candidate) -> bool:
        return len(state.cell(point, candidate).turns) >= self.least_rounds

    def race(self, state: State) -> Race:
        """How things stand."""
        cells = tuple((len(cell.turns), cell.verdict, cell.is_deferred) for cell in state.open.values())
        measured = (id(state), tuple(state.candidates), len(state.records), cells)
        if measured not in self._known:
            self._known.clear()
            self._known[measured] = Race(self, state)
        return self._known[measured]


class Race:
    """How things stand between the candidates that take turns now."""

    def __init__(self, schedule: Racing, state: State) -> None:
        self.schedule, self.state, self.enough = schedule, state, schedule.enough
        self._times: dict[tuple[Point, Candidate], list[float | None]] = {}

    # The decision.

    @cached_property
    def stakes(self) -> Stakes | None:
        """Those that may be taken, at every point that all of them were measured at; None if fewer than two are."""
        weights = self.schedule.weights
        points = [one for one in self.state.points if one in (weights or [one]) and not self._is_skipped(one)]
        taking = [one for one in self.state.candidates if self.schedule.may_be_taken(one) and self.state.computes(one)]
        taking = [one for one in taking if all(self._is_sound(point, one) for point in points)]
        if len(taking) < 2 or not points:
            return None
        rounds: dict[Hashable, dict[Hashable, list[float | None]]] = {
            point: {one: self.times(point, one) for one in taking} for point in points
        }
        calls: dict[Hashable, float] = {point: weights.get(point, 1 / len(points)) for point in points}
        return Stakes(dict.fromkeys(taking, calls), rounds, is_geometric=not weights, rho=self.rho)

    @cached_property
    def leader(self) -> Candidate | None:
        """Of the stakes, the candidate that is expected to be the fastest."""
        regrets = regret.regrets(self.stakes, self._confidence) if self.stakes else {}
        taking = (one for one in self.state.candidates if one in regrets)
        return min(taking, key=lambda one: regrets[one].expected, default=None)

    @cached_property
    def is_decided(self) -> bool:
        """True if some candidate is known to be good enough, or nothing is to be decided."""
        if self.stakes is None:
            return True
        found = regret.regrets(self.stakes, self._confidence)
        return any(each.bound <= regret.MOST_REGRET for each in found.values())

    @property
    def _confidence(self) -> float:
        return 1 - SHARE_OF_A_LOOK * (1 - regret.CONFIDENCE)

    @cached_property
    def deciding(self) -> list[Candidate]:
        """Those that the decision is still open between: the leader, and who may be better by more than is allowed."""
        if self.is_decided or self.stakes is None or (leader := self.leader) is None:
            return []
        others = (one for one in self.state.candidates if one in self.stakes.weights and one != leader)
        return [leader, *(one for one in others if self._is_open_between(leader, one))]

    def for_the_decision(self) -> list[tuple[Point, Candidate]]:
        """The cells whose next round helps the decision most."""
        if not (racing := self.deciding) or self.stakes is None:
            return []
        seconds: dict[Hashable, float] = {
            point: cost
            for point in self.state.points
            if self.has_room(point, racing) and self._has_time(cost := self._round_seconds(point, racing))
        }
        plan, leader = self.schedule._plan, racing[0]
        if not any(at in seconds and len(self.state.turns(at, leader)) < turns for at, turns in plan.items()):
            plan.clear()
            extra = regret.rounds_to_settle(self.stakes, leader, seconds, confidence=self._confidence) or {}
            if not extra:
                return []
            point = max(extra, key=lambda one: extra[one])
            plan[point] = len(self.state.turns(point, leader)) + math.ceil(extra[point] * SHARE_OF_A_PLAN)
        (point,) = plan
        # Who needs rounds there for a verdict takes part while the others do, so that they have them together.
        waiting = [one for _, one in self.for_verdicts(point)]
        return [(point, one) for one in self.state.candidates if one in racing or one in waiting]

    def _is_open_between(self, leader: Candidate, other: Candidate) -> bool:
        """True if the other may still be better than the leader by more than is allowed."""
        assert self.stakes is not None
        level = regret.each_confidence(self.stakes, self._confidence)
        bound = regret.contrast(self.stakes, leader, other).bound(level, self.stakes.rho)
        return bound > math.log1p(regret.MOST_REGRET)

    # Verdicts.

    def for_verdicts(self, at: Point | None = None) -> list[tuple[Point, Candidate]]:
        """The cells of the first point, or of one, whose verdict is not settled and which may take another turn."""
        for point in self.state.points if at is None else [at]:
            taking = [one for one in self.state.left(point) if self._is_measured(point, one)]
            if not taking or not self._is_below_ceilings(point, taking) or self._is_slow(point, taking):
                continue
            racing = self._unsettled(point, taking)
            if racing and self._has_time(self._round_seconds(point, racing)):
                return [(point, one) for one in racing]
        return []

    def _unsettled(self, point: Point, taking: Sequence[Candidate]) -> list[Candidate]:
        """Those of `taking` that another round is for."""
        if self.enough.target_precision is not None:
            rounds = [self.state.cell(point, one).rounds for one in taking]
            is_done = min(map(len, rounds)) >= self.enough.rounds and all(map(self.enough.is_precise, rounds))
            return [] if is_done else list(taking)
        if len(self.state.candidates) == 1:  # nothing to compare with: what is asked for is its time
            return list(taking)
        sound = [one for one in taking if self._is_sound(point, one)]
        found = {one for pair in self._pairs(point, sound) if not self._is_settled(point, *pair) for one in pair}
        return [one for one in taking if one in found]

    def _pairs(self, point: Point, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Candidate]]:
        """Each of `candidates` with the baseline, and with the fastest."""
        if not candidates:
            return
        fastest = min(candidates, key=lambda one: statistics.median(list(self._known(point, one)) or [math.inf]))
        for against in [one for one in candidates if one in (self.state.baseline, fastest)]:
            yield from ((one, against) for one in candidates if one != against)

    def _is_settled(self, point: Point, one: Candidate, other: Candidate) -> bool:
        """True if a verdict would stand at the confidence of a look, of all comparisons of the run."""
        ratios = [math.exp(log) for log in self._log_ratios(point, one, other) if log is not None]
        count = max(1, len(self.state.points) * (len(self.state.candidates) - 1))
        confidence = 1 - SHARE_OF_A_LOOK * statistics.PAGE_ERROR / count
        if len(ratios) < LEAST_ROUNDS:
            return False
        interval = statistics.ratio_interval(ratios, confidence, statistics.widening(self.rho), self.prior)
        return statistics.verdict(interval) != "undecided"

    # What was measured.

    @cached_property
    def rho(self) -> float:
        """Correlation between neighbouring rounds."""
        return statistics.correlation(self._to_baseline)

    @cached_property
    def prior(self) -> Prior:
        """What the variances of the cells' ratios have in common."""
        return prior_of(self._to_baseline, self.rho)

    @cached_property
    def _to_baseline(self) -> list[list[float | None]]:
        """Log ratios of each cell to the baseline, by round."""
        baseline, state = self.state.baseline, self.state
        others = [one for one in state.candidates if one != baseline]
        if baseline is None:
            return []
        return [self._log_ratios(point, one, baseline) for point in state.points for one in others]

    def _log_ratios(self, point: Point, one: Candidate, other: Candidate) -> list[float | None]:
        times = zip(self.times(point, one), self.times(point, other), strict=False)
        return [None if a is None or b is None else math.log(a / b) for a, b in times]

    def times(self, point: Point, candidate: Candidate) -> list[float | None]:
        """Median of each round (ns), by its number; None for one that does not count."""
        if (point, candidate) not in self._times:
            self._times[point, candidate] = self._medians(self.state.turns(point, candidate))
        return self._times[point, candidate]

    def _medians(self, turns: Sequence[Turn]) -> list[float | None]:
        found: list[float | None] = [None] * (max((turn.round for turn in turns), default=-1) + 1)
        for turn, is_quiet in zip(turns, conditions.quiet([turn.conditions for turn in turns]), strict=True):
            if is_quiet and turn.times_ns.get(WALL):
                found[turn.round] = max(1.0, statistics.median(turn.times_ns[WALL]))
        return found

    def _known(self, point: Point, candidate: Candidate) -> Iterable[float]:
        return (time for time in self.times(point, candidate) if time is not None)

    def _is_measured(self, point: Point, candidate: Candidate) -> bool:
        record = self.state.records.get((point, candidate))
        return (record is None or record.status == "ok") and bool(self.state.turns(point, candidate))

    def _is_sound(self, point: Point, candidate: Candidate) -> bool:
        """True for a cell that was measured and whose outputs, if they were judged, are those of the model."""
        record, cell = self.state.records.get((point, candidate)), self.state.cell(point, candidate)
        if not self._is_measured(point, candidate) or (record and self.state.is_implausible(record)):
            return False
        return (record.verdict if record else cell.verdict) not in UNSOUND

    def _is_skipped(self, point: Point) -> bool:
        """True for a point that nobody was measured at."""
        return not any(self._is_measured(point, one) for one in self.state.candidates)

    # Room for another round.

    def has_room(self, point: Point, candidates: Sequence[Candidate]) -> bool:
        """True if the ceilings, or the time until which the decision may go on, let `candidates` take another turn."""
        if self.state.session_seconds() < self.schedule.until_seconds:
            return True
        return all((point, one) not in self.state.records for one in candidates) and self._is_below_ceilings(
            point, candidates
        )

    def _is_below_ceilings(self, point: Point, candidates: Sequence[Candidate]) -> bool:
        cells = [self.state.turns(point, one) for one in candidates]
        if max(map(_seconds, cells)) >= self.enough.most_seconds:
            return False
        return self.enough.target_precision is not None or not self.enough.has_rounds(cells)

    def _is_slow(self, point: Point, candidates: Sequence[Candidate]) -> bool:
        """True if calls are slow and nobody asked for more than the decision."""
        times = (time for one in candidates for time in self._known(point, one))
        return self.enough.target_precision is None and max(times, default=0.0) > SLOW_CALL_NS

    def _has_time(self, seconds: float) -> bool:
        return seconds <= self.state.seconds_left()

    def _round_seconds(self, point: Point, candidates: Sequence[Candidate]) -> float:
        """What another round of `candidates` takes."""
        taken = [turns for one in candidates if (turns := self.state.turns(point, one))]
        return max(1e-6, sum(_seconds(turns) / len(turns) for turns in taken))


def _seconds(turns: Sequence[Turn]) -> float:
    return sum(turn.seconds for turn in turns)
