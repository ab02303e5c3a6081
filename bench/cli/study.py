"""`bench study`: old claims held against runs of this machine, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.streams import tell


def command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Runs (.jsonl) of bench compare, corpus, generate and memory."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Page to write, .md or .html. [default: Markdown on standard output]")
    ] = None,
    plots: Annotated[
        str | None,
        typer.Option(help="svg, png or none; beside a .md page, within an .html one. [default: svg if possible]"),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Put runs of different machines on one page too.")] = False,
) -> None:
    """Say of every claim of the study and of the hand-made measurements whether it is confirmed or refuted here."""
    from bench.errors import UserError
    from bench.study import output as page_files
    from bench.study import plots as page_plots
    from bench.study.api import judge_study

    if output is None:
        if plots not in (None, page_plots.NONE):
            raise UserError(f"--plots {plots} needs a place; give --output page.md or page.html too")
        print(judge_study(files, anyway=anyway).markdown(), end="")
        return
    page_files.check(output)
    settled = page_plots.settle(plots)
    if plots is None and settled == page_plots.NONE:
        tell(f"bench: no plots, as matplotlib is not installed; {page_plots.REMEDY}")
    for path in judge_study(files, anyway=anyway).write(output, settled):
        tell(f"bench: wrote {path}")
