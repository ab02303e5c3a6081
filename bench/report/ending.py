"""What `bench compare` ends with: the crossover map, and the choice in two lines."""

from __future__ import annotations

import shlex
import sys

from bench.choose.api import choice_of
from bench.choose.candidates import is_of_shapes
from bench.choose.lines import headline, settling, settling_command
from bench.columns import Section
from bench.report.choice import style
from bench.report.console import WIDTH, render_sections
from bench.report.crossover import render_map
from bench.run.record import Run


def render(run: Run) -> str:
    """The map, which runtime to take for the run's traffic or if all shapes count alike, and how to weigh otherwise.

    "" for a run that measured no model, and for one that no choice can rest on.
    """
    if not is_of_shapes(run.workload) or run.integrity == "altered":
        return ""
    found = render_map(run, WIDTH, sys.stdout.isatty())
    if (choice := choice_of(run)) is None:
        return found
    found += render_sections((), [Section("", [headline(choice)], style=style(choice), items=list(settling(choice)))])
    if command := settling_command(choice):
        found += _to_copy(command)
    rests_on = choice.traffic.source.removeprefix("none given: ")
    found += render_sections([f"{rests_on}; by {'other' if choice.traffic.is_given else 'your own'} traffic:"], ())
    file = shlex.quote(str(run.path)) if run.path is not None else "RUN"
    command = f"  bench choose {file} --traffic FILE"
    if len(command) > WIDTH:
        command = f"  bench choose --traffic FILE \\\n    {file}"
    return f"{found}{command}\n".lstrip("\n")


def _to_copy(command: str) -> str:
    """A command in lines that fit as far as its words do, each but the last ended so that a shell goes on."""
    lines = ["  "]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1].strip() and len(lines[-1]) + len(word) + 3 > WIDTH:
            lines.append("    ")
        lines[-1] += f" {word}" if lines[-1].strip() else word
    return " \\\n".join(lines) + "\n"
