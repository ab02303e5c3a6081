"""Which rounds decide: those in which neither of two candidates was disturbed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench import statistics
from bench.machine import conditions
from bench.moderated import NONE, Prior

if TYPE_CHECKING:
    from bench.run.record import Record, Turn

#: The kind of time of a headline: synchronised wall time of one call.
WALL = "wall"
#: Share of others in a turn above which its round decides nothing; rounds of two candidates that are needed.
MOST_OTHERS = conditions.MOST_OTHERS
LEAST_QUIET_ROUNDS = conditions.LEAST_QUIET


def are_paired(one: Record, other: Record) -> bool:
    """True if the rounds of two cells can be held against each other: taken in turn at one point."""
    return one.point == other.point and one.is_interleaved and other.is_interleaved


def paired(one: Record, other: Record) -> list[tuple[list[int], list[int]]]:
    """Wall times (ns) of both in each round in which both turns were quiet, in the order of the rounds."""
    mine, its = _by_round(one), _by_round(other)
    return [(samples, its[number]) for number, samples in mine.items() if number in its]


def may_decide(one: Record, other: Record) -> bool:
    """True if two cells have quiet rounds enough for a decision: together, or each if they were measured apart."""
    if are_paired(one, other):
        return len(paired(one, other)) >= LEAST_QUIET_ROUNDS
    return has_quiet_rounds(one) and has_quiet_rounds(other)


def why_undecided(one: Record, other: Record) -> str:
    """Why two cells have too few quiet rounds for a decision, "disturbed: …" or "too few rounds: …"; "" if they have
    enough.
    """
    if may_decide(one, other):
        return ""
    found = len(paired(one, other)) if are_paired(one, other) else min(len(quiet_rounds(cell)) for cell in (one, other))
    taken = min(len(cell.rounds) for cell in (one, other))
    if found == taken:
        return f"too few rounds: {found}, and {LEAST_QUIET_ROUNDS} are needed"
    return f"disturbed: only {found} of {taken} rounds were quiet, and {LEAST_QUIET_ROUNDS} are needed"


def quiet_rounds(record: Record, kind: str = WALL) -> list[list[int]]:
    """Samples (ns) of one kind of time of the rounds in which a cell was quiet."""
    return list(_by_round(record, kind).values())


def has_quiet_rounds(record: Record, kind: str = WALL) -> bool:
    """True if a cell alone has quiet rounds enough for a decision."""
    return len(quiet_rounds(record, kind)) >= LEAST_QUIET_ROUNDS


def quiet_in_all(cells: Sequence[Sequence[Turn]]) -> int:
    """Rounds in which the turns of all `cells`, each given by its turns at one point, were quiet."""
    found = []
    for turns in cells:
        judged = conditions.quiet([turn.conditions for turn in turns])
        found.append({turn.round for turn, is_quiet in zip(turns, judged, strict=True) if is_quiet})
    return len(set.intersection(*found)) if found else 0


def _by_round(record: Record, kind: str = WALL) -> dict[int, list[int]]:
    """Samples of the quiet turns by their round."""
    return {
        turn.round: turn.times_ns[kind]
        for turn, is_quiet in zip(record.turns, record.quiet, strict=True)
        if is_quiet and turn.times_ns.get(kind)
    }


def log_ratios(one: Record, other: Record) -> list[float | None]:
    """Logarithm of how many times faster `other` is than `one`, by round; None for a round that does not count."""
    mine, its = _by_round(one), _by_round(other)
    both = mine.keys() & its.keys()
    return [
        math.log(statistics.median(mine[number]) / statistics.median(its[number])) if number in both else None
        for number in (range(min(both), max(both) + 1) if both else ())
    ]


def ratio_between(
    one: Record, other: Record, confidence: float = statistics.RATIO_CONFIDENCE, widening: float = 1.0,
    prior: Prior = NONE,
) -> statistics.Ratio | None:  # fmt: skip
    """How many times faster `other` is than `one` in quiet rounds: within rounds at one point, or of medians if they
    were measured apart; None if these are too few to decide. `Run.between` holds all verdicts of a run together.
    """
    if not are_paired(one, other):
        return ratio_apart(one, other, confidence, widening)
    if not may_decide(one, other):
        return None
    found = paired(one, other)
    rounds = [mine for mine, _ in found], [its for _, its in found]
    return statistics.ratio_within_rounds(*rounds, confidence, widening, prior)


def ratio_apart(
    one: Record, other: Record, confidence: float = statistics.RATIO_CONFIDENCE, widening: float = 1.0
) -> statistics.Ratio | None:
    """How many times faster `other` is than `one` where nothing pairs their rounds; None if either has too few quiet
    ones.
    """
    if not (has_quiet_rounds(one) and has_quiet_rounds(other)):
        return None
    return statistics.ratio_of_runs(quiet_rounds(one), quiet_rounds(other), confidence, widening)
