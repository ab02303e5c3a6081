"""`bench doctor`: one page on this machine, before anything is measured on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import spellings
from bench.cli.options import Artifacts, Device, Json, Threads
from bench.cli.streams import stopping, tell

OLD_SPELLINGS = spellings.OF_FORMATS


def command(
    model: Annotated[
        str, typer.Option(help="Model that eager runs against itself; its noise is that of calls of its length.")
    ] = "bert-tiny",
    device: Device = "auto",
    threads: Threads = None,
    artifacts: Artifacts = Path("artifacts"),
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes a minute: peaks and noise.")] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="End with exit code 6 unless the noise is known and no verdict false."),
    ] = False,
    json: Json = False,
) -> None:
    """Look at this machine: what is missing, what would disturb, its peaks, its noise, and what bench itself costs."""
    from bench import doctor
    from bench.errors import UNDECIDED, foremost
    from bench.report import doctor as page

    with stopping("exported models and peaks are kept"):
        findings = doctor.examine(
            model=model, device=device, threads=threads, artifacts=artifacts, is_quick=quick, say=tell
        )
    print(page.render(findings, "json" if json else "table"), end="")
    is_open = strict and not findings.is_fit
    raise typer.Exit(foremost((findings.exit_code, UNDECIDED if is_open else 0)))
