"""The runtime to take, as the page's first screen tells it: the one place that asks bench.choice for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import comparison
from bench.choice.api import choose
from bench.choice.choice import Choice
from bench.errors import UserError
from bench.records import Run
from bench.report import choice_lines
from bench.report.old_page.entries import labels


@dataclass(frozen=True)
class Told:
    """A choice in words; `choice` is None where one choice among the runs means nothing."""

    choice: Choice | None
    headline: str
    lines: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    """What each runtime that does not qualify fails, and by how much."""
    unknown: tuple[str, ...] = ()
    """What the choice does not know, with the command that would tell."""


def told(runs: Sequence[Run]) -> Told:
    """The choice among all `runs`; one for each of them where they do not compare."""
    if len(runs) > 1 and comparison.obstacles(runs):
        apart = [told([run]) for run in runs]
        each = tuple(f"{label}: {one.headline}" for label, one in zip(labels(runs), apart, strict=True))
        return Told(None, "These runs do not compare: one choice a run", each)
    try:
        choice = choose(runs)
    except UserError as error:  # nothing was measured, or by `null` alone
        return Told(None, "There is nothing to choose", (str(error),))
    traffic = (f"traffic: {choice.traffic.source}",)
    headline = _capitalised(choice_lines.headline(choice))
    failures, unknown = choice_lines.failures(choice), choice_lines.not_measured(choice)
    return Told(choice, headline, (*traffic, *choice_lines.lines(choice)), tuple(failures), tuple(unknown))


def _capitalised(line: str) -> str:
    return line[:1].upper() + line[1:]
