"""`bench study`: old claims held against runs of this machine, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.streams import tell

OLD_SPELLINGS = {"--anyway": "--force"}


def command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Runs (.jsonl) of bench compare, corpus, generate and memory."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Page to write, .md or .html. [default: text on standard output]")
    ] = None,
    plots: Annotated[
        str | None,
        typer.Option(
            help="svg, png or none: files beside a .md page; .html has them within. [default: svg if possible]"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Put runs of different machines on one page too.")] = False,
) -> None:
    """Say of every claim of the study and of the hand-made measurements whether it is confirmed or refuted here."""
    from bench.errors import UserError
    from bench.report import study as page
    from bench.report.page import render
    from bench.study.api import judge_study

    if output is None:
        if plots not in (None, "none"):
            raise UserError(f"--plots {plots} needs a place; give --output page.md too")
        print(page.text(judge_study(files, force=force)), end="")
        return
    page.check(output, plots)
    if plots is None and output.suffix == ".md" and not render.is_available():
        tell(f"bench: no plots, as they need {' and '.join(render.NEEDED)}; {render.REMEDY}")
    for path in page.write_study(judge_study(files, force=force), output, plots):
        tell(f"bench: wrote {path}")
