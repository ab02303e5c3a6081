"""What `bench compare` ends with: the crossover map, and the choice in two lines."""

from __future__ import annotations

import shlex
import sys

from bench.choose.api import choose
from bench.choose.candidates import is_of_shapes
from bench.choose.lines import headline
from bench.columns import Section
from bench.errors import UserError
from bench.report.console import WIDTH, render_sections
from bench.report.crossover import render_map
from bench.run.record import Run


def render(run: Run) -> str:
    """The map, which runtime to take if all shapes count alike, and how to weigh them otherwise.

    "" for a run that measured no model, and for one that no choice can rest on.
    """
    if not is_of_shapes(run.workload) or run.integrity == "altered":
        return ""
    found = render_map(run, WIDTH, sys.stdout.isatty())
    if not any(record.status == "ok" and record.is_judged for record in run.records):
        return found
    try:
        choice = choose(run)
    except UserError:  # of what was measured nothing can be chosen from; the tables say what became of it
        return found
    style = "bold green" if choice.chosen else "bold red"
    found += render_sections((), [Section("", [headline(choice)], style=style)])
    rests_on = choice.traffic.source.removeprefix("none given: ")
    found += render_sections([f"by {rests_on}; by your own traffic:"], ())
    file = shlex.quote(str(run.path)) if run.path is not None else "RUN"
    command = f"  bench choose {file} --traffic FILE"
    if len(command) > WIDTH:
        command = f"  bench choose --traffic FILE \\\n    {file}"
    return f"{found}{command}\n".lstrip("\n")
