"""`bench deploy`: the chosen runtime of a run as a folder that runs it alone and can prove itself again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Quiet, Silence
from bench.cli.streams import tell

#: Older spellings of its options.
OLD_SPELLINGS = {"--format": "--layout"}


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="File that bench compare wrote.")],
    output: Annotated[Path, typer.Option(help="New folder for the bundle.")],
    choose: Annotated[
        str | None,
        typer.Option(help="BACKEND[:VARIANT][/PRECISION] of the run. [default: the one that bench choose takes]"),
    ] = None,
    min_parity: Annotated[
        str, typer.Option(help="exact, equivalent or lossy: what is worse is refused.")
    ] = "equivalent",
    traffic: Annotated[Path | None, typer.Option(help="Requests by shape, as for bench choose.")] = None,
    slo: Annotated[str | None, typer.Option(help="Latency to keep, as for bench choose: p95=20ms.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Memory to keep within, as for bench choose: 2GB.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="latency, throughput or cost, as for bench choose. [default: latency]")
    ] = None,
    requests_per_restart: Annotated[
        int | None, typer.Option(help="Requests that pay for starting, as for bench choose.")
    ] = None,
    price: Annotated[str | None, typer.Option(help="US dollars an hour, as for bench choose.")] = None,
    layout: Annotated[
        str, typer.Option(help="folder, or triton: with a model repository of Triton Inference Server.")
    ] = "folder",
    timeout: Silence = "15m",
    artifacts: Annotated[Path, typer.Option(help="Folder for exported models and references.")] = Path("artifacts"),
    quiet: Quiet = False,
) -> None:
    """Write the runtime to deploy as one folder: artifact, run.py, pins, certificate, samples and latency envelope."""
    from bench.bundle.api import deploy
    from bench.report import bundle

    try:
        made = deploy(
            run,
            output,
            choose=choose,
            min_parity=min_parity,
            traffic=traffic,
            slo=slo,
            max_memory=max_memory,
            objective=objective,
            requests_per_restart=requests_per_restart,
            price=price,
            layout=layout,
            timeout=timeout,
            artifacts=artifacts,
            say=(lambda line: None) if quiet else tell,
        )
    except KeyboardInterrupt:
        tell("bench: stopped; exported models and references are kept, no bundle was written")
        raise typer.Exit(130) from None
    print(bundle.made(made), end="")
