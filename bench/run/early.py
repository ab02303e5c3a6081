"""Figures of cells that are still being measured, for who watches; nothing of them is part of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import statistics
from bench.process.channel import WorkerError
from bench.run.listener import Provisional
from bench.run.record import WALL, Point
from bench.spec import Candidate

if TYPE_CHECKING:
    from bench.run.driver import Driver

#: Candidates whose figures are told before the first round: one, and one to compare with it.
MOST_SHOWN = 2


def is_shown(driver: Driver, candidate: Candidate) -> bool:
    """True for a candidate whose figure is told before the first round."""
    state, prepared = driver.state, driver.prepared
    if not driver.workload.tells_early or prepared.source.makes_inputs or state.records or driver.run.turns:
        return False
    may_be = candidate.copy == 1 and prepared.computes(candidate) and bool(state.points)
    return may_be and len(driver.shown) < MOST_SHOWN


def expect(driver: Driver, candidate: Candidate) -> None:
    """Have the process of a candidate import while what it loads is made, if its figure is told then."""
    if is_shown(driver, candidate):
        driver.pool.begin(candidate)


def show(driver: Driver, candidate: Candidate) -> None:
    """Load a candidate that is at hand, and tell the figure of one turn beside those that were shown before."""
    if not is_shown(driver, candidate):
        return
    shown, state, workload = driver.shown, driver.state, driver.workload
    point, medians = state.points[0], dict[Candidate, float]()
    try:
        driver.pool.load([candidate])
        if candidate not in driver.pool.loaded:
            return
        driver.begun[candidate] = {point: driver.ask_to_begin(point, candidate)}
        for one in (*shown, candidate):
            reply = driver.ask("turn", point, one, request=workload.turn(point, one, ()))
            medians[one] = statistics.median(reply["times_ns"][WALL])
    except WorkerError:  # what becomes of it is said when its cell begins
        driver.pool.unload(candidate)
        driver.begun.pop(candidate, None)
        return
    against = shown[0] if shown else None
    shown.append(candidate)
    speedup = medians[against] / medians[candidate] if against else None
    driver.listener.figure(driver.run, Provisional(point, candidate, medians[candidate], 1, against, speedup))


def tell(driver: Driver, point: Point, candidate: Candidate) -> None:
    """Tell what a cell that was judged came to so far."""
    cell, against = driver.state.cell(point, candidate), driver.run.baseline_candidate
    if not driver.workload.tells_early or not cell.rounds:
        return
    median_ns, speedup = statistics.median(statistics.pooled(cell.rounds)), None
    its = [sample for turn in driver.state.turns(point, against) for sample in turn.times_ns.get(WALL, ())]
    if against != candidate and its:
        speedup = statistics.median(its) / median_ns
    figure = Provisional(point, candidate, median_ns, len(cell.turns), against, speedup, cell.verdict)
    driver.listener.figure(driver.run, figure)
