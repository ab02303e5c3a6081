"""What a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.run.preparation import Preparation
    from bench.run.record import Point, Record, Run
    from bench.spec import Candidate


@dataclass(frozen=True)
class Provisional:
    """What a cell came to so far."""

    point: Point
    candidate: Candidate
    median_ns: float
    turns: int
    against: Candidate | None = None
    speedup: float | None = None
    """Median of `against` over its own."""
    verdict: str = ""
    """Of parity; "" if its outputs were not judged yet."""


@dataclass
class Listener:
    """Each is called between timed calls, never during one."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[Run, Preparation], None] = lambda run, prepared: None
    """What is about to be measured, before anything is exported."""
    figure: Callable[[Run, Provisional], None] = lambda run, figure: None
    """A cell that is still being measured."""
    record: Callable[[Run, Record], None] = lambda run, record: None
    """A record that is on disk."""
