"""`bench choose`: from runs to the runtime to deploy, with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs (.jsonl) that bench compare wrote.")],
    traffic: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON Lines of batch,length[,count]. [default: every shape for the same share of time]"
        ),
    ] = None,
    slo: Annotated[
        str | None, typer.Option(help="Longest time of so many percent of the calls, e.g. p95=20ms.")
    ] = None,
    max_memory: Annotated[str | None, typer.Option(help="Most memory that may be held, e.g. 2GB.")] = None,
    min_parity: Annotated[str, typer.Option(help="exact, equivalent or lossy.")] = "equivalent",
    objective: Annotated[str, typer.Option(help="latency, throughput or cost.")] = "latency",
    requests_per_restart: Annotated[
        int | None, typer.Option(help="Requests between two starts; their share of the one-time costs counts.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(help="US dollars an hour of the machine; one, or one a run with commas.")
    ] = None,
    map: Annotated[bool, typer.Option("--map", help="Also print which runtime wins where on the grid.")] = False,
    device_map: Annotated[
        bool,
        typer.Option("--device-map", help="Choose among runs of several machines, in tokens a second and a dollar."),
    ] = False,
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
) -> None:
    """Say which runtime to deploy for your traffic and limits, and why; exit code 5 when nothing qualifies."""
    from bench.choose.api import choose
    from bench.report import check_format, choice

    check_format(format, choice.FORMATS)
    found = choose(
        runs,
        traffic=traffic,
        objective=objective,
        slo=slo,
        max_memory=max_memory,
        min_parity=min_parity,
        requests_per_restart=requests_per_restart,
        price=price,
        device_map=device_map,
    )
    print(choice.render(found, format, with_map=map), end="")
    raise typer.Exit(found.exit_code)
