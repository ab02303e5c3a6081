"""`bench doctor`: one page on this machine, before anything is measured on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Device, Threads
from bench.cli.streams import tell


def command(
    model: Annotated[
        str, typer.Option(help="Model that eager runs against itself; its noise is that of calls of its length.")
    ] = "bert-tiny",
    device: Device = "auto",
    threads: Threads = None,
    artifacts: Annotated[Path, typer.Option(help="Folder for exported models and peaks.")] = Path("artifacts"),
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes a minute: peaks and noise.")] = False,
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
) -> None:
    """Look at this machine: what is missing, what would disturb, its peaks, its noise, and what bench itself costs."""
    from bench import doctor
    from bench.report import check_format
    from bench.report import doctor as page

    check_format(format, page.FORMATS)
    try:
        findings = doctor.examine(
            model=model, device=device, threads=threads, artifacts=artifacts, is_quick=quick, say=tell
        )
    except KeyboardInterrupt:
        tell("bench: stopped; exported models and peaks are kept")
        raise typer.Exit(130) from None
    print(page.render(findings, format), end="")
    raise typer.Exit(findings.exit_code)
