"""The runtime to take, as the page's first screen has it: the one place that asks bench.choice for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.choose import lines as choice_lines
from bench.choose.api import choose
from bench.choose.candidates import is_of_shapes
from bench.choose.choice import Choice
from bench.errors import UserError
from bench.report.page.entries import labels
from bench.run import alike
from bench.run.record import Run


@dataclass(frozen=True)
class Chosen:
    """A choice in words; `choice` is None if one choice among the runs means nothing."""

    choice: Choice | None
    headline: str
    lines: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    """What each runtime that does not qualify fails, and by how much."""
    unknown: tuple[str, ...] = ()
    """What the choice does not know, with the command that would tell."""


def chosen(runs: Sequence[Run]) -> Chosen | None:
    """The choice among all `runs`, or one for each of them if they do not compare.

    None for a workload that no choice rests on.
    """
    if not all(is_of_shapes(run.workload) for run in runs):
        return None
    if len(runs) > 1 and alike.obstacles(runs):
        apart = [_chosen([run]) for run in runs]
        each = tuple(f"{label}: {one.headline}" for label, one in zip(labels(runs), apart, strict=True))
        return Chosen(None, "These runs do not compare: one choice a run", each)
    return _chosen(runs)


def _chosen(runs: Sequence[Run]) -> Chosen:
    try:
        choice = choose(runs)
    except UserError as error:  # nothing was measured, by `null` alone, or the file was altered
        return Chosen(None, "There is nothing to choose", (str(error),))
    headline = choice_lines.headline(choice)
    failures, unknown = choice_lines.failures(choice), choice_lines.not_measured(choice)
    lines = (f"traffic: {choice.traffic.source}", *choice_lines.lines(choice))
    return Chosen(choice, headline[:1].upper() + headline[1:], lines, tuple(failures), tuple(unknown))
