"""What a decision rests on: the rounds of weighed candidates, as `bench.regret` takes them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from bench.choose.candidates import Weighed
from bench.regret import LEAST_ROUNDS, Cell, Stakes
from bench.run import joint
from bench.run.deciding import Times, by_round, told
from bench.run.record import WALL, Record, Turn
from bench.spec import Shape


def stakes_of(
    candidates: Sequence[Weighed], is_geometric: bool, *, is_quiet: bool = True, without: Collection[Shape] = ()
) -> Stakes:
    """Quiet rounds by cell and label, less the cells at the shapes `without`; if not `is_quiet`, also all rounds of
    cells that have too few quiet ones.

    A geometric mean is over the times of a unit of work at each shape (for throughput: a sequence), a restart's share
    included, every shape alike.
    """
    weights: dict[str, dict[Cell, float]] = {}
    rounds: dict[Cell, dict[str, Times]] = {}
    constants: dict[str, float] = {}
    for one in candidates:
        records = {shape: record for shape, record in one.records.items() if shape not in without}
        mine = weights[one.label] = {}
        constants[one.label] = 0.0 if is_geometric else one.share_of_restart_ns * one.price
        for shape, record in records.items():
            times, cell = by_round(record) if is_quiet else told(record), cell_of(one, record)
            mine[cell] = one.demand.cells[shape] * one.price
            if is_geometric:
                mine[cell] = 1 / len(records)
                scale, more = one.price / (shape.batch if one.batches else 1), one.share_of_restart_ns * one.price
                times = [None if time is None else time * scale + more for time in times]
            rounds.setdefault(cell, {})[one.label] = times
    return Stakes(
        weights, rounds, constants, is_geometric, max((joint.of(one.run).rho for one in candidates), default=0.0)
    )


def cell_of(one: Weighed, record: Record) -> Cell:
    """What took turns: candidates of another run, or timed apart, share no cell."""
    return id(one.run), record.point, None if record.is_interleaved else record.candidate


def too_few(candidates: Sequence[Weighed]) -> list[Shape]:
    """Shapes at which the first of `candidates` and some other have fewer than `LEAST_ROUNDS` quiet rounds, together
    if they took turns.
    """
    leader = candidates[0]
    mine = {cell_of(leader, record): by_round(record) for record in leader.records.values()}
    found = {shape: True for shape, record in leader.records.items() if _count(by_round(record)) < LEAST_ROUNDS}
    for one in candidates[1:]:
        for shape, record in one.records.items():
            its = by_round(record)
            both = [a for a, b in zip(its, mine.get(cell_of(one, record), its), strict=False) if b is not None]
            if _count(both) < LEAST_ROUNDS:
                found[shape] = True
    return sorted(found)


def _count(times: Times) -> int:
    return sum(one is not None for one in times)


def share_of(shapes: Collection[Shape], candidates: Sequence[Weighed], stakes: Stakes) -> float:
    """The share of the figure that `shapes` have, of the candidate of which they have most."""

    def weight(one: Weighed, shape: Shape, record: Record) -> float:
        if stakes.is_geometric:
            return 1.0
        times = [time for time in stakes.rounds[cell_of(one, record)][one.label] if time is not None]
        return one.demand.cells[shape] * fmean(times)

    def share(one: Weighed) -> float:
        weights = {shape: weight(one, shape, record) for shape, record in one.records.items()}
        return math.fsum(weights[shape] for shape in shapes if shape in weights) / math.fsum(weights.values())

    return max(map(share, candidates))


def round_seconds(candidates: Sequence[Weighed]) -> Mapping[Cell, float]:
    """Seconds that one more round of each cell takes, all candidates together."""
    found: dict[Cell, float] = {}
    for one in candidates:
        for record in one.records.values():
            cell = cell_of(one, record)
            found[cell] = found.get(cell, 0.0) + fmean(turn.seconds or _sampled(record, turn) for turn in record.turns)
    return found


def _sampled(record: Record, turn: Turn) -> float:
    """Seconds of a turn's samples, for a file that has no more of it."""
    return math.fsum(turn.times_ns.get(WALL, [])) * record.once.calls_per_sample / 1e9 or 1.0
