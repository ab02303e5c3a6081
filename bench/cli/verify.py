"""`bench verify`: does a certificate belong to an artifact, and does its check still come out?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Quiet, Timeout
from bench.cli.streams import tell


def command(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="File that bench parity --output wrote.")],
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Artifact's folder, or a file in it.")],
    model: Annotated[
        str | None, typer.Option(help="Where the model lies now, if it is a folder that has moved.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Where the tokenizer lies now, if it has moved.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. [default: the certificate's]")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads. [default: the certificate's]")] = None,
    timeout: Timeout = 900.0,
    format: Annotated[str, typer.Option(help="table, json or markdown.")] = "table",
    artifacts: Annotated[Path, typer.Option(help="Folder for the model and references.")] = Path("artifacts"),
    quiet: Quiet = False,
) -> None:
    """Say whether a certificate belongs to an artifact, and repeat its check; 0 only when both are so."""
    from bench.parity.verify import verify
    from bench.report import check_format, parity

    check_format(format, parity.FORMATS)
    try:
        found = verify(
            certificate,
            artifact,
            model=model,
            text_tokenizer=tokenizer,
            device=device,
            threads=threads,
            timeout=timeout,
            artifacts=artifacts,
            say=(lambda line: None) if quiet else tell,
        )
    except KeyboardInterrupt:
        tell("bench: stopped; nothing was verified")
        raise typer.Exit(130) from None
    if format == "json":
        print(json.dumps(found.to_json(), indent=2))
    else:
        print(parity.render(found.repeated, format), end="")
        for line in found.lines:
            tell(line)
    raise typer.Exit(found.exit_code)
