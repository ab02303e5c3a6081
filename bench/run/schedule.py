"""Which turn comes next: schedules are values that workloads compose; they see the state and change nothing in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bench import statistics
from bench.run import pairs
from bench.run.record import WALL, Point, Record, Turn

if TYPE_CHECKING:
    from bench.spec import Candidate

#: Fewest rounds from which anything is decided.
LEAST_ROUNDS = 3
#: Rounds that are taken on a disturbed machine, over those that were asked for.
MOST_ROUNDS = 2


@dataclass
class OpenCell:
    """A cell that has no record yet: the turns that it has so far."""

    turns: list[Turn] = field(default_factory=list)
    is_deferred: bool = False
    """True if it ran out of memory beside the others and waits to be tried alone."""
    verdict: str = ""
    """Of parity, if its outputs were judged before its last turn."""

    @property
    def spent_seconds(self) -> float:
        """Time of its turns so far, pauses included."""
        return sum(turn.seconds for turn in self.turns)

    @property
    def rounds(self) -> list[list[int]]:
        """Wall time of its samples, by turn."""
        return [turn.times_ns[WALL] for turn in self.turns if turn.times_ns.get(WALL)]


@dataclass
class State:
    """What a schedule sees: who takes turns now, the records so far and the open cells."""

    candidates: Sequence[Candidate]
    """Those that take turns with each other now; all of the run, or one where memory does not hold all."""
    peers: Sequence[Candidate] = ()
    """Those and the ones that they took turns with, if they are measured alone now for want of memory."""
    points: Sequence[Point] = ()
    """Points that are known beforehand, in the order to take them."""
    records: dict[tuple[Point, Candidate], Record] = field(default_factory=dict)
    open: dict[tuple[Point, Candidate], OpenCell] = field(default_factory=dict)
    elapsed_seconds: Callable[[], float] = lambda: 0.0
    """Since the run began, all its sessions together."""
    is_implausible: Callable[[Record], bool] = lambda record: False
    """True for a median that this machine's peaks forbid."""
    baseline: Candidate | None = None
    seconds_left: Callable[[], float] = lambda: math.inf
    """Of the budget, to those that take turns now."""
    session_seconds: Callable[[], float] = lambda: 0.0
    """Since the command began."""
    computes: Callable[[Candidate], bool] = lambda candidate: True
    """False for a candidate whose outputs are not the model's."""

    def turns(self, point: Point, candidate: Candidate) -> Sequence[Turn]:
        """The turns of a cell, whether it has its record or not."""
        record = self.records.get((point, candidate))
        return self.cell(point, candidate).turns if record is None else record.turns

    def left(self, point: Point) -> list[Candidate]:
        """Candidates that take turns now and have no record at `point` yet."""
        return [
            one for one in self.candidates if (point, one) not in self.records and not self.cell(point, one).is_deferred
        ]

    def next_round(self, cells: Sequence[tuple[Point, Candidate]]) -> int:
        """Number of the next round of open cells at one point: turns of one number are of one round."""
        taken = (self.cell(*cell).turns for cell in cells)
        return max((turns[-1].round + 1 for turns in taken if turns), default=0)

    def cell(self, point: Point, candidate: Candidate) -> OpenCell:
        """The open cell of a candidate at a point, with no turns if it has not begun."""
        return self.open.get((point, candidate), _EMPTY)


_EMPTY = OpenCell()


class Schedule(Protocol):
    """An order of turns."""

    def next_turns(self, state: State) -> Sequence[tuple[Point, Candidate]]:
        """The cells that take a turn next, in the order of the candidates, as long as they are open; the driver
        shuffles them. Empty: done.
        """

    def is_open(self, state: State, point: Point, candidate: Candidate) -> bool:
        """True if a cell that has begun may get further turns; if not, it is judged and its record written."""

    def refusal(self, state: State, point: Point) -> str:
        """Why a point is left out, asked before it begins; "" if it is not."""
        return ""

    def judges(self, state: State, point: Point, candidate: Candidate) -> bool:
        """True if the outputs of a cell that stays open are judged now; those of one that closes are in any case."""
        return False


@dataclass(frozen=True)
class Enough:
    """When the cells of a point have turns enough."""

    rounds: int
    """Turns that every cell gets, as far as `most_seconds` lets it."""
    most_seconds: float = float("inf")
    """Ceiling of one cell's turns, in seconds."""
    target_precision: float | None = None
    """Half-width of the median's interval, as a share of the median, until which sampling goes on."""

    @property
    def least_rounds(self) -> int:
        """Turns that every cell gets, however slow it is."""
        return min(self.rounds, LEAST_ROUNDS)

    def is_reached(self, cells: Sequence[OpenCell]) -> bool:
        """True if all of `cells`, which take turns at one point, have enough."""
        taken = min(len(cell.turns) for cell in cells)
        if taken < (self.least_rounds if self.most_seconds < float("inf") else self.rounds):
            return False
        if max(cell.spent_seconds for cell in cells) >= self.most_seconds:
            return True
        return self.has_rounds([cell.turns for cell in cells]) and all(self.is_precise(cell.rounds) for cell in cells)

    def has_rounds(self, cells: Sequence[Sequence[Turn]]) -> bool:
        """True if `cells`, the turns of each at one point, have the rounds that were asked for: so many in which all
        were quiet, or, on a machine that never is, `MOST_ROUNDS` times as many. Too few for a decision are not
        repeated.
        """
        taken = min(map(len, cells))
        if taken < self.rounds or self.rounds < pairs.LEAST_QUIET_ROUNDS or taken >= MOST_ROUNDS * self.rounds:
            return taken >= self.rounds
        return pairs.quiet_in_all(cells) >= self.rounds

    def is_precise(self, rounds: Sequence[Sequence[float]]) -> bool:
        """True if the interval of the median is as narrow as was asked."""
        if self.target_precision is None:
            return True
        reached = statistics.precision(rounds)
        return reached is not None and reached <= self.target_precision


@dataclass(frozen=True)
class Grid(Schedule):
    """Point after point; at each, all candidates in rounds until all have enough."""

    enough: Callable[[Point], Enough]

    def next_turns(self, state: State) -> Sequence[tuple[Point, Candidate]]:
        for point in state.points:
            if left := state.left(point):
                return [(point, candidate) for candidate in fewest_turns(state, point, left)]
        return []

    def is_open(self, state: State, point: Point, candidate: Candidate) -> bool:
        return not self.enough(point).is_reached([state.cell(point, one) for one in state.left(point)])


def fewest_turns(state: State, point: Point, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of `candidates` with the fewest turns at `point`, so that rounds stay paired after a run was resumed."""
    least = min(len(state.cell(point, one).turns) for one in candidates)
    return [one for one in candidates if len(state.cell(point, one).turns) == least]
