"""Which rounds decide: those in which neither of two candidates was disturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import statistics
from bench.machine.conditions import LEAST_QUIET as LEAST_QUIET_ROUNDS
from bench.machine.conditions import MOST_OTHERS as MOST_OTHERS

if TYPE_CHECKING:
    from bench.run.record import Record


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
    return all(len(quiet_rounds(cell)) >= LEAST_QUIET_ROUNDS for cell in (one, other))


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


def quiet_rounds(record: Record) -> list[list[int]]:
    """Wall times (ns) of the rounds in which one cell was quiet."""
    return list(_by_round(record).values())


def _by_round(record: Record) -> dict[int, list[int]]:
    """Wall times of the quiet turns by their round."""
    return {
        turn.round: turn.times_ns["wall"]
        for turn, is_quiet in zip(record.turns, record.quiet, strict=True)
        if is_quiet and turn.times_ns.get("wall")
    }


def ratio_between(one: Record, other: Record) -> statistics.Ratio | None:
    """How many times faster `other` is than `one` in quiet rounds: within rounds at one point, or of medians if they
    were measured apart; None if these are too few to decide.
    """
    if not may_decide(one, other):
        return None
    if not are_paired(one, other):
        return statistics.ratio_of_runs(quiet_rounds(one), quiet_rounds(other))
    found = paired(one, other)
    return statistics.ratio_within_rounds([mine for mine, _ in found], [its for _, its in found])
