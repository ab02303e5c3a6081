"""Rough seconds that a cell takes, for a run's plan, progress and budget; guesses and no figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.options import CommonOptions
from bench.spec import Shape

if TYPE_CHECKING:
    from bench.machine.roofline import Peaks
    from exporters.sources import ModelSource

#: Rough FLOP/s that time is guessed from until the machine's peak is known: per thread on the CPU, per GPU.
GUESSED_FLOPS = {"cpu": 4e10, "cuda": 2e13}
#: Share of the machine's measured peak that a pass is guessed to reach.
GUESSED_SHARE = 0.4
#: Calls that are not timed, beside the warm-up: the first, and those that are judged.
CALLS_BESIDE = 3
#: The pause before a turn and the calls that settle it.
SECONDS_BESIDE_A_TURN = 0.11


def call_seconds(source: ModelSource, options: CommonOptions, peaks: Peaks | None, shape: Shape) -> float:
    """Rough seconds of one forward pass."""
    peak = None if peaks is None else peaks.flops_bound("fp32")
    threads = options.settled_threads if options.kind == "cpu" else 1
    speed = GUESSED_SHARE * peak if peak else GUESSED_FLOPS[options.kind] * threads
    return source.flops(shape.batch, shape.length) / speed


def cell_seconds(
    call_seconds: float, warmup_seconds: float, least_rounds: int, rounds: int, turn_seconds: float, most_seconds: float
) -> float:
    """Rough seconds of one cell that has all its `rounds`, as far as its ceiling of `most_seconds` lets it."""
    turn = max(call_seconds, turn_seconds) + SECONDS_BESIDE_A_TURN
    turns = max(least_rounds * turn, min(rounds * turn, most_seconds))
    return CALLS_BESIDE * call_seconds + max(warmup_seconds, call_seconds) + turns
