"""`bench diff`: compare a run with an earlier one, or the last of a history with what came before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import spellings
from bench.cli.options import Json

OLD_SPELLINGS = {"--anyway": "--force"} | spellings.OF_FORMATS


def command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Run of bench compare, or of another command.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Run of the same cells, later.")],
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MORE", help="Further runs: a history, in the order of the time they started."),
    ] = None,
    threshold: Annotated[
        str, typer.Option(metavar="SHARE", help="Share by which a time may grow or shrink and still be the same.")
    ] = "5%",
    force: Annotated[
        bool, typer.Option("--force", help="Compare runs of different machines, models, weights or options too.")
    ] = False,
    json: Json = False,
) -> None:
    """Say of every cell whether it is slower, faster, the same, undecided, new or gone; exit code 4 on a regression."""
    from bench import diff as comparing
    from bench import options
    from bench.errors import UserError
    from bench.report import diff
    from bench.run import alike
    from bench.run.file import read_run

    share = options.share(threshold, "--threshold")
    runs = [read_run(path) for path in (old, new, *(more or ()))]
    comparing.check(runs)
    found = alike.obstacles(runs)
    if found and not force:
        others = f" (and {len(found) - 1} more such pairs)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{others}; compare runs that agree, or use --force")
    compared = comparing.compare_runs(runs, share)
    print(diff.render(compared, "json" if json else "table", found), end="")
    raise typer.Exit(compared.exit_code)
