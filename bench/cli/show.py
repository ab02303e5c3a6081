"""`bench show`: the newest results again, of whatever kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Artifacts

if TYPE_CHECKING:
    from bench.saved import Saved

#: Files that `--list` names.
MOST_LISTED = 20


def command(
    number: Annotated[int, typer.Argument(metavar="[N]", help="1 for the newest, 2 for the one before, …")] = 1,
    list_: Annotated[bool, typer.Option("--list", help="Name the newest files instead.")] = False,
    artifacts: Artifacts = Path("artifacts"),
) -> None:
    """Print the newest results of any command again."""
    from bench.cli import report
    from bench.errors import UserError
    from bench.report import ending
    from bench.run.file import read_run
    from bench.saved import look, saved

    paths = saved(artifacts)
    if not paths:
        raise UserError(f"there are no results under {artifacts / 'runs'}; make some, e.g. bench compare --model bert")
    if list_:
        for index, path in enumerate(paths[:MOST_LISTED], start=1):
            print(f"{index:>2}  {_described(look(path))}")
        if len(paths) > MOST_LISTED:
            print(f"    and {len(paths) - MOST_LISTED} older ones in {artifacts / 'runs'}")
        return
    if not 1 <= number <= len(paths):
        held = "1 result" if len(paths) == 1 else f"{len(paths)} results"
        raise UserError(f"there is no result {number} among {held}, newest first; see bench show --list")
    path = paths[number - 1]
    print(f"{path}\n")
    report.command([path])
    if look(path).kind == "run" and (text := ending.render(read_run(path))):
        print(f"\n{text}", end="")


def _described(found: Saved) -> str:
    """`2026-11-23 20:51  bench compare   bert  artifacts/runs/….jsonl`, with what is left to do."""
    from bench.cli.report import writer_of

    writer = writer_of(found)
    state = "" if found.has_ended or not writer else "  (interrupted, or going on)"
    started = found.started[:16].replace("T", " ")
    return f"{started:<16}  {writer or 'no results':<14} {found.model}{state}\n    {found.path}"
