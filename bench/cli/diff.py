"""`bench diff`: hold a run against an earlier one, or the last of a history against what came before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Run that bench compare wrote.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Run of the same cells, later.")],
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MORE", help="Further runs: a history, in the order of the time they started."),
    ] = None,
    threshold: Annotated[
        str, typer.Option(help="Share by which a time may grow or shrink and still be the same.")
    ] = "5%",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare runs of different machines, models, weights or options too.")
    ] = False,
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
) -> None:
    """Say of every cell whether it is slower, faster, the same, ambiguous, new or gone; exit code 4 on a regression."""
    from bench import comparison
    from bench.errors import UserError
    from bench.report import check_format, diff
    from bench.runfile import read_run

    check_format(format, diff.FORMATS)
    share = _parse_threshold(threshold)
    runs = [read_run(path) for path in (old, new, *(more or ()))]
    found = comparison.obstacles(runs)
    if found and not anyway:
        others = f" (and {len(found) - 1} more such pairs)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{others}; compare runs that agree, or use --anyway")
    compared = comparison.compare_runs(comparison.in_order(runs) if more else runs, share)
    print(diff.render(compared, format, found), end="")
    raise typer.Exit(compared.exit_code)


def _parse_threshold(text: str) -> float:
    from bench.errors import UserError
    from bench.spec import parse_share

    share = parse_share(text, "--threshold")
    if share >= 1:  # 5 for 5 % would let everything pass
        raise UserError(f"--threshold {text.strip()} is not below 100%; use e.g. 5%")
    return share
