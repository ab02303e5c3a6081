"""`bench report`: print a saved run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[Path, typer.Argument(help="Run that bench compare wrote.")],
    format: Annotated[str, typer.Option(help="table, csv, json or markdown.")] = "table",
) -> None:
    """Print a saved run as a table, CSV, JSON or Markdown."""
    from bench import report
    from bench.runfile import read_run

    print(report.render(read_run(file), format), end="")
