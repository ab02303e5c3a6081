"""`bench choose`: from runs to the runtime to deploy, with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import spellings
from bench.cli.options import (
    AllowDeprecated,
    Json,
    MaxLoss,
    MaxMemory,
    MaxRegret,
    MinParity,
    Objective,
    Price,
    Restarts,
    Slo,
    Traffic,
)

OLD_SPELLINGS = spellings.OF_FORMATS


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs (.jsonl) that bench compare wrote.")],
    traffic: Traffic = None,
    slo: Slo = None,
    max_memory: MaxMemory = None,
    min_parity: MinParity = None,
    max_loss: MaxLoss = None,
    allow_deprecated: AllowDeprecated = False,
    max_regret: MaxRegret = None,
    objective: Objective = None,
    requests_per_restart: Restarts = None,
    price: Price = None,
    map: Annotated[bool, typer.Option("--map", help="Also print which runtime wins where on the grid.")] = False,
    device_map: Annotated[
        bool,
        typer.Option("--device-map", help="Choose among runs of several machines, in tokens a second and a dollar."),
    ] = False,
    json: Json = False,
) -> None:
    """Say which runtime to deploy for your traffic and limits, and why; exit code 5 if nothing qualifies, 6 if it is
    undecided."""
    from bench.choose.api import choose
    from bench.report import choice

    found = choose(
        runs, traffic=traffic, objective=objective or "latency", slo=slo, max_memory=max_memory, min_parity=min_parity,
        max_loss=max_loss, allow_deprecated=allow_deprecated, max_regret=max_regret,
        requests_per_restart=requests_per_restart, price=price, device_map=device_map,
    )  # fmt: skip
    print(choice.render(found, "json" if json else "table", with_map=map), end="")
    raise typer.Exit(found.exit_code)
