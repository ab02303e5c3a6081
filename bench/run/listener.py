"""What a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.run.preparation import Preparation
    from bench.run.record import Record, Run


@dataclass
class Listener:
    """Each is called between timed calls, never during one."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[Run, Preparation], None] = lambda run, prepared: None
    """What is about to be measured, before anything is exported."""
    record: Callable[[Run, Record], None] = lambda run, record: None
    """A record that is on disk."""
