"""A search as a table for a terminal of 80 columns, or as JSON."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.report import check_format, summary
from bench.report.table import PARITY_STYLES, WIDTH, milliseconds
from bench.tuning.results import Tuning
from bench.tuning.space import Trial

if TYPE_CHECKING:
    from rich.text import Text

FORMATS = ("table", "json")


def render(tuning: Tuning, format: str) -> str:
    """The search in one of `FORMATS`; raises UserError for another."""
    check_format(format, FORMATS)
    return json.dumps(tuning.to_json(), indent=1) + "\n" if format == "json" else _table(tuning)


def _table(tuning: Tuning) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    text = io.StringIO()
    width = max(WIDTH, min(shutil.get_terminal_size((WIDTH, 24)).columns, 120))
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)
    for line in _heading(tuning):
        console.print(Text(textwrap.fill(line, width, break_on_hyphens=False)))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("backend", no_wrap=True)
    table.add_column("threads", justify="right", no_wrap=True)
    for name in _rung_names(tuning):
        table.add_column(f"{name}\nms", justify="right", no_wrap=True)
    table.add_column("loss", justify="right", no_wrap=True)
    table.add_column("parity", no_wrap=True)
    for trial in tuning.order():
        table.add_row(*_cells(tuning, trial), style="bold" if trial == tuning.winner else "")
    console.print()
    console.print(table)
    sections = (("Out", _out(tuning)), ("Not tried", [f"{name}: {why}" for name, why in tuning.not_tried.items()]))
    for title, lines in sections:
        if found := list(lines):
            console.print(Text(f"\n{title}", style="bold"))
            for line in found:
                console.print(Text(textwrap.fill(f"- {line}", width, subsequent_indent="  ", break_on_hyphens=False)))
    console.print()
    console.print(Text(textwrap.fill(headline(tuning), width, break_on_hyphens=False), style="bold"))
    if tuning.reproduce:
        console.print(Text(f"reproduce: {tuning.reproduce}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def headline(tuning: Tuning) -> str:
    """One line: what to take and by how much, or why nothing is taken."""
    winner, other = tuning.winner, tuning.runner_up
    if winner is None:
        if not tuning.is_decided:
            return "take none: nothing that was tried qualifies"
        return "take none: none of the finalists kept what was asked"
    if other is None or tuning.ratio is None:
        return f"take {winner.label}: nothing else came as far"
    ratio = tuning.ratio
    if ratio.interval is None:
        return f"take {winner.label}: {summary.factor(ratio.value)}× as fast as {other.label}, the next, in turns apart"
    ends = f"{summary.factor(ratio.interval.low)}–{summary.factor(ratio.interval.high)}"
    if ratio.verdict == "tie":
        return f"take {winner.label}: fastest, in a tie with {other.label} ({summary.factor(ratio.value)}×, {ends})"
    return f"take {winner.label}: {summary.factor(ratio.value)}× ({ends}) as fast as {other.label}, the next"


def _heading(tuning: Tuning) -> Iterator[str]:
    tried = {trial for rung in tuning.rungs for trial in rung}
    yield (
        f"{tuning.model} on {tuning.device}, for {tuning.goal.source}: {len(tried)} ways tried in "
        f"{tuning.seconds:.0f} s of --budget {tuning.budget}"
    )
    if tuning.goal.max_loss is not None:
        yield f"at most {tuning.goal.max_loss:g} of the output's RMS may be lost (RMSE against float64)"


def _rung_names(tuning: Tuning) -> list[str]:
    names = [f"rung {number + 1}" for number in range(len(tuning.rungs))]
    return [*names[:-1], "final"] if tuning.is_decided else names


def _cells(tuning: Tuning, trial: Trial) -> Iterator[str | Text]:
    from rich import text

    yield f"{trial.contestant.label} {trial.contestant.precision}"
    yield str(trial.threads)
    loss, verdict = None, ""
    for rung in tuning.rungs:
        outcome = rung.get(trial)
        if outcome is None:
            yield ""
            continue
        yield "out" if outcome.score_ns is None else milliseconds(outcome.score_ns)
        loss, verdict = outcome.loss, outcome.verdict
    yield "" if loss is None else f"{loss:.1e}"
    yield text.Text(verdict, style=PARITY_STYLES.get(verdict, ""))


def _out(tuning: Tuning) -> Iterator[str]:
    """Who does not qualify, and why."""
    for trial in tuning.order():
        for rung in tuning.rungs:
            outcome = rung.get(trial)
            if outcome is not None and outcome.score_ns is None:
                yield f"{trial.label}: {outcome.reason}"
                break
