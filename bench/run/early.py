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


def show(driver: Driver, shown: list[Candidate], candidate: Candidate) -> None:
    """Load a candidate that is at hand, and tell the figure of one turn beside those that were `shown` before."""
    state, prepared, workload = driver.state, driver.prepared, driver.workload
    if not workload.tells_early or prepared.source.makes_inputs or state.records or driver.run.turns:
        return
    if len(shown) == MOST_SHOWN or candidate.copy > 1 or not prepared.computes(candidate) or not state.points:
        return
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
