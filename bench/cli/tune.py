"""`bench tune`: the fastest backend, variant, precision and number of threads for one shape or one traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from bench.cli import measure, spellings
from bench.cli.streams import tell
from bench.columns import count
from bench.options import shown_seconds
from bench.tune.options import TuneOptions

if TYPE_CHECKING:
    from bench.tune.results import Outcome, Tuning
    from bench.tune.space import Space, Trial

#: Options of the command that say how to report.
OF_THE_COMMAND = {
    "json": measure.OF_THE_COMMAND["json"],
    "quiet": measure.OF_THE_COMMAND["quiet"],
}
OLD_SPELLINGS = spellings.of_options(TuneOptions) | spellings.OF_FORMATS


def _run(context: typer.Context, given: dict[str, Any], json: bool, quiet: bool) -> int:
    from bench.report import tuning as report
    from bench.tune import api

    screen = _Screen(quiet)
    listener = api.TuneListener(screen.say, screen.plan, screen.progress)
    try:
        found = api.search(TuneOptions.parsed(given), listener=listener)
    except KeyboardInterrupt:
        screen.interrupted()
        return 130
    print(report.render(found, "json" if json else "table"), end="")
    return found.exit_code


command = measure.made_of(TuneOptions, OF_THE_COMMAND, _run)


class _Screen:
    """Progress on standard error: a line an event, nothing while a worker is timed."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.tuning: Tuning | None = None

    def say(self, line: str) -> None:
        if not self.quiet:
            tell(line)

    def plan(self, tuning: Tuning, space: Space) -> None:
        self.tuning = tuning
        budget = shown_seconds(tuning.budget_seconds)
        self.say(f"{tuning.model} on {tuning.device}, for {tuning.goal.source}")
        self.say(f"space: {count(len(space.candidates), 'candidate')}, then threads; within {budget}")
        self.say(f"search: {tuning.path}")

    def progress(self, rung: int, trial: Trial, outcome: Outcome) -> None:
        shown = outcome.reason if outcome.score_ns is None else f"{outcome.score_ns / 1e6:.2f} ms  {outcome.verdict}"
        self.say(f"[rung {rung + 1}] {trial.label:<36} {shown}")

    def interrupted(self) -> None:
        """Say what is kept."""
        if self.tuning is None or not self.tuning.rungs:
            tell("bench: stopped before anything was measured")
            return
        tell(f"bench: stopped; what was measured is kept in {self.tuning.path}")
