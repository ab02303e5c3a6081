"""Rough seconds that a run takes, for its plan, its progress and its budget; guesses and no figures."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.parity.inputs import JUDGED_ROWS
from bench.records import Run
from bench.spec import Shape
from exporters.sources import ModelSource

#: Rough FLOP/s that a plan's time is guessed from until the machine's peak is known: per thread on the CPU, per GPU.
GUESSED_FLOPS = {"cpu": 4e10, "cuda": 2e13}
#: Share of the machine's measured peak that a pass is guessed to reach.
GUESSED_SHARE = 0.4
#: The pause before a turn and the calls that settle it.
SECONDS_BESIDE_A_TURN = 0.11
#: Passes over the judged rows that a shape's references take, in passes at fp32: the timed and the padded case, each
#: in float64, at half the speed, and as eager's own.
REFERENCE_PASSES = 6


class Pace:
    """Time left, from the guessed seconds of what is left and how the guess has held so far."""

    def __init__(self, guessed_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.left, self.done, self._clock = guessed_seconds, 0.0, clock
        self.start()

    def start(self) -> None:
        """Note that measuring begins now."""
        self._started = self._clock()

    def seconds_left_after(self, guessed: float) -> float:
        """Seconds left once what was guessed to take `guessed` seconds is done."""
        self.done += guessed
        self.left = max(0.0, self.left - guessed)
        return self.left * (self._clock() - self._started) / self.done if self.done else self.left


def guessed_seconds(source: ModelSource, run: Run) -> float:
    """Rough seconds until every cell of `run` at its `sure_shapes` has its record."""
    recorded = {(record.shape, record.contestant) for record in run.records}
    kept = set(run.sure_shapes)
    left = (cell for cell in run.grid.cells() if cell not in recorded and cell[0] in kept)
    return sum(guessed_cell_seconds(source, run, shape) for shape, _ in left)


def guessed_cell_seconds(source: ModelSource, run: Run, shape: Shape) -> float:
    """Rough seconds that one contestant takes at one shape."""
    plan = run.plan
    call = _call_seconds(source, run, shape)
    warm_up = max(plan.warmup_calls * call, plan.warmup_seconds)
    rounds = min(max(plan.rounds, plan.least_rounds), max(plan.least_rounds, plan.seconds_per_cell / max(call, 1e-9)))
    return 3 * call + warm_up + rounds * (max(plan.turn_seconds, call) + SECONDS_BESIDE_A_TURN)


def most_cell_seconds(source: ModelSource, run: Run, shape: Shape) -> float:
    """Rough seconds that one contestant takes at one shape where its figures become precise only at their ceiling.

    That is what a budget has to reckon with: on a machine that others use too, hardly any cell ends before.
    """
    plan = run.plan
    call = _call_seconds(source, run, shape)
    turns = max(plan.seconds_per_cell, plan.least_rounds * (call + SECONDS_BESIDE_A_TURN))
    return 6 * call + plan.warmup_seconds + turns


def most_shape_seconds(source: ModelSource, run: Run, shape: Shape) -> float:
    """Rough seconds that all contestants take at one shape so, its references included."""
    judged = Shape(min(shape.batch, JUDGED_ROWS), shape.length)
    references = REFERENCE_PASSES * _call_seconds(source, run, judged)
    return references + len(run.grid.contestants) * most_cell_seconds(source, run, shape)


def _call_seconds(source: ModelSource, run: Run, shape: Shape) -> float:
    device, threads = run.grid.device, run.grid.threads
    peak = None if run.peaks is None else run.peaks.flops_bound("fp32")
    speed = GUESSED_SHARE * peak if peak else GUESSED_FLOPS[device] * (threads if device == "cpu" else 1)
    return source.flops(shape.batch, shape.length) / speed
