"""Rounds as decisions take them: of quiet turns, by the number of the round. The rule itself is `bench.regret`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from bench import statistics
from bench.regret import LEAST_ROUNDS, MOST_REGRET, Candidate, Cell, Stakes, regrets
from bench.run import joint
from bench.run.record import WALL, Record, Run

Times = list[float | None]


def by_round(record: Record, is_quiet: bool = True) -> Times:
    """Median of each round's samples in nanoseconds; None for a round without any, or `is_quiet` and disturbed."""
    found: Times = [None] * (1 + max((turn.round for turn in record.turns), default=-1))
    for turn, was_quiet in zip(record.turns, record.quiet, strict=True):
        if turn.times_ns.get(WALL) and (was_quiet or not is_quiet):
            found[turn.round] = statistics.median(turn.times_ns[WALL])
    return found


def told(record: Record) -> Times:
    """The rounds that a figure rests on: the quiet ones, or all of them if these are too few to decide."""
    found = by_round(record)
    return found if sum(one is not None for one in found) >= LEAST_ROUNDS else by_round(record, is_quiet=False)


def mean_ns(record: Record) -> float:
    """Mean of the medians of the rounds that count, in nanoseconds."""
    return fmean(time for time in told(record) if time is not None)


def is_decided(run: Run, bests: Sequence[Record]) -> bool:
    """True if it is known of one of the candidates, each with its best record, that it is the best within
    `MOST_REGRET`; also if there are fewer than two.
    """
    if len(bests) < 2:
        return True
    weights: dict[Candidate, Mapping[Cell, float]] = {}
    rounds: dict[Cell, dict[Candidate, Times]] = {}
    for record in bests:
        cell = (record.point, None if record.is_interleaved else record.candidate)
        weights[record.candidate] = {cell: 1.0}
        rounds.setdefault(cell, {})[record.candidate] = by_round(record)
    found = regrets(Stakes(weights, rounds, rho=joint.of(run).rho))
    return min(one.bound for one in found.values()) <= MOST_REGRET
