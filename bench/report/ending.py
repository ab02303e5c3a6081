"""What `bench compare` ends with: the crossover map, and the choice in two lines."""

from __future__ import annotations

import io
import shlex
import sys
import textwrap

from bench.choose.candidates import is_of_shapes
from bench.errors import UserError
from bench.report.console import WIDTH
from bench.report.crossover import render_map
from bench.run.record import Run


def render(run: Run) -> str:
    """Text of at most 80 columns, but for a file's name that is longer; coloured if standard output is a terminal.

    "" for a run that measured no model, and for one that no choice can rest on.
    """
    if not is_of_shapes(run.workload) or run.integrity == "altered":
        return ""
    parts = [render_map(run, WIDTH, sys.stdout.isatty()), _choice(run)]
    return "\n".join(part for part in parts if part)


def _choice(run: Run) -> str:
    """Which runtime to take if all measured shapes count alike, and how to weigh them otherwise."""
    from rich.console import Console
    from rich.text import Text

    from bench.choose.api import choose
    from bench.choose.lines import headline

    if not any(record.status == "ok" and record.is_judged for record in run.records):
        return ""
    try:
        choice = choose(run)
    except UserError:  # of what was measured nothing can be chosen from; the tables say what became of it
        return ""
    text = io.StringIO()
    console = Console(file=text, width=WIDTH, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)
    style = "bold green" if choice.chosen else "bold red"
    console.print(Text(_filled(headline(choice)), style=style), soft_wrap=True)
    rests_on = choice.traffic.source.removeprefix("none given: ")
    console.print(Text(_filled(f"by {rests_on}; by your own traffic:")), soft_wrap=True)
    file = shlex.quote(str(run.path)) if run.path is not None else "RUN"
    command = f"  bench choose {file} --traffic FILE"
    if len(command) > WIDTH:
        command = f"  bench choose --traffic FILE \\\n    {file}"
    console.print(Text(command), soft_wrap=True)
    return text.getvalue()


def _filled(line: str) -> str:
    return textwrap.fill(line, WIDTH, break_on_hyphens=False, break_long_words=False)
