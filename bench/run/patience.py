"""What a run does on a disturbed machine: it waits a little for other work to end, and says so.

The schedule then takes further rounds in place of those that were disturbed; see `bench.run.schedule.Enough`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from bench.columns import count
from bench.machine.conditions import LEAST_QUIET, Source, quiet
from bench.run.record import Run, Turn

if TYPE_CHECKING:
    from bench.run.file import RunFile

#: Length of one look at the machine, in seconds, and the most that one wait takes.
LOOK_SECONDS = 0.25
MOST_WAIT_SECONDS = 2.0
#: Seconds of waiting in all, as a share of those that turns took.
WAIT_SHARE = 0.25
#: Turns of a cell that are looked at: ticks are evidence only over several.
RECENT = 10
#: The note that says how long a run waited; its file keeps the sum over all sessions.
WAITED = "waited_seconds"


class Patience:
    """Waits before a round if other work took part in the one before it."""

    def __init__(self, source: Source, device: str, file: RunFile) -> None:
        self.source, self.device, self.file = source, device, file
        self.left_seconds = 0.0
        """That turns so far allow for."""

    def earn(self, turn: Turn) -> None:
        """Count the time of a turn towards what may be waited."""
        self.left_seconds += WAIT_SHARE * turn.seconds

    def wait(self, cells: Iterable[Sequence[Turn]]) -> None:
        """Wait until the machine is quiet, a little at most, if the last turn of one of `cells` was disturbed."""
        if not any(is_disturbed(turns[-RECENT:]) for turns in cells):
            return
        most, waited = min(MOST_WAIT_SECONDS, self.left_seconds), 0.0
        while waited < most:
            seconds = min(LOOK_SECONDS, most - waited)
            before = self.source.snapshot(self.device)
            self.source.pause(seconds)
            waited += seconds
            if quiet([self.source.between(before, self.source.snapshot(self.device), 0.0)])[0]:
                break
        self.left_seconds -= waited
        self.file.note(WAITED, round(self.file.run.notes.get(WAITED, 0.0) + waited, 3))


def is_disturbed(turns: Sequence[Turn]) -> bool:
    """True if other work took part in the last of a cell's turns, and it timed something."""
    return bool(turns) and bool(turns[-1].times_ns) and not quiet([turn.conditions for turn in turns])[-1]


def said(run: Run) -> Iterator[str]:
    """What a run says of its disturbed turns if it waited for them to end."""
    if (waited := run.notes.get(WAITED)) is None:
        return
    timed = [record for record in run.records if record.is_timed]
    turns = [is_quiet for record in timed for is_quiet in record.quiet]
    few = sum(sum(record.quiet) < min(LEAST_QUIET, len(record.quiet)) for record in timed)
    left = f"{count(few, 'cell')} still {'has' if few == 1 else 'have'} fewer than {LEAST_QUIET} quiet rounds"
    yield (
        f"{turns.count(False)} of {count(len(turns), 'turn')} were disturbed and decide nothing; the run waited "
        f"{waited:.1f} s for other work to end and took further rounds{f'; {left}' if few else ''}; stop it and "
        "measure again"
    )
