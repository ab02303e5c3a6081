"""A search as text for a terminal from 80 columns on, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bench.columns import Section, Table, factor, milliseconds
from bench.errors import UserError
from bench.options import shown_seconds
from bench.report import console, documents
from bench.tune.file import as_json
from bench.tune.results import Tuning
from bench.tune.space import Trial

#: Untried candidates that are named in one line.
MOST_NAMED = 3
TITLE = "The fastest way to run"


def render(tuning: Tuning, format: str) -> str:
    """The search as "table", "markdown" or "json"; raises UserError for another format."""
    if format == "csv":
        raise UserError("a search of bench tune is no table of records; give --json, --markdown, or neither")
    if format == "json":
        return json.dumps(as_json(tuning), indent=1) + "\n"
    reproduce = f"reproduce: {tuning.reproduce}\n" if tuning.reproduce else ""
    reproduce += f"{incomplete(tuning)}\n" if tuning.could_win else ""
    if format == "markdown":
        title = f"{TITLE} {tuning.model}"
        return documents.sections_as_markdown(title, _heading(tuning), sections(tuning)) + f"\n{reproduce}"
    return console.render_sections(_heading(tuning), sections(tuning)) + reproduce  # not filled: it is copied


def sections(tuning: Tuning) -> Iterator[Section]:
    """Every trial with its figures, what is out and why, what was not tried, and what to take."""
    titles = ("backend", "threads", *(f"{name} ms" for name in _rung_names(tuning)), "loss", "parity")
    is_left = tuple(title in ("backend", "parity") for title in titles)
    yield Section("", table=Table(titles, tuple(_row(tuning, trial) for trial in tuning.order()), is_left))
    yield Section("Out", items=list(_out(tuning)))
    yield Section("Not tried", items=[f"{name}: {why}" for name, why in tuning.not_tried.items()])
    yield Section("", [headline(tuning)], style="bold green" if tuning.winner else "bold red")


def headline(tuning: Tuning) -> str:
    """One line: what to take and by how much, or why nothing is taken."""
    winner, other, ratio = tuning.winner, tuning.runner_up, tuning.ratio
    if winner is None:
        why = "none of the finalists kept what was asked" if tuning.is_decided else "nothing that was tried qualifies"
        return f"take none: {why}"
    if other is None or ratio is None:
        return f"take {winner.label}: nothing else came as far"
    times = f"{factor(ratio.value)}×"
    if ratio.interval is None:
        return f"take {winner.label}: {times} as fast as {other.label}, the next, in turns apart"
    ends = f"{factor(ratio.interval.low)}–{factor(ratio.interval.high)}"
    if ratio.verdict == "same":
        return f"take {winner.label}: the same as {other.label}, the next ({times}, {ends})"
    if ratio.verdict == "undecided":
        return f"undecided: {winner.label} leads, {other.label} may be faster ({times}, {ends})"
    return f"take {winner.label}: {times} ({ends}) as fast as {other.label}, the next"


def incomplete(tuning: Tuning) -> str:
    """One line: how much of the space was tried, and what of the rest may be faster."""
    more = len(tuning.could_win) - MOST_NAMED
    named = ", ".join(tuning.could_win[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"INCOMPLETE: {tuning.tried} of {tuning.known} tried; with a longer --budget, may be faster: {named}"


def _heading(tuning: Tuning) -> Iterator[str]:
    tried = {trial for rung in tuning.outcomes() for trial in rung}
    yield (
        f"{tuning.model} on {tuning.device}, for {tuning.goal.source}: {len(tried)} ways tried in "
        f"{tuning.seconds:.0f} s of --budget {shown_seconds(tuning.budget_seconds)}"
    )
    if tuning.goal.max_loss is not None:
        yield f"at most {tuning.goal.max_loss:g} of the output's RMS may be lost (RMSE against float64)"


def _rung_names(tuning: Tuning) -> list[str]:
    names = [f"rung {number + 1}" for number in range(len(tuning.rungs))]
    last = ["final", "fresh"] if tuning.is_fresh else ["final"] if tuning.is_decided else []
    return [*names[: len(names) - len(last)], *last]


def _row(tuning: Tuning, trial: Trial) -> tuple[str, ...]:
    found = [rung.get(trial) for rung in tuning.outcomes()]
    cells = ("" if one is None else "out" if one.score_ns is None else milliseconds(one.score_ns) for one in found)
    last = next(one for one in reversed(found) if one is not None)
    name = f"{trial.candidate.label} {trial.candidate.precision}{' ←' if trial == tuning.winner else ''}"
    return (name, str(trial.threads), *cells, "" if last.loss is None else f"{last.loss:.1e}", last.verdict)


def _out(tuning: Tuning) -> Iterator[str]:
    """What does not qualify, and why."""
    for trial in tuning.order():
        found = [rung[trial] for rung in tuning.outcomes() if trial in rung]
        yield from [f"{trial.label}: {one.reason}" for one in found if one.score_ns is None][:1]
