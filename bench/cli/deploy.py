"""`bench deploy`: the chosen runtime of a run as a folder that runs it alone and can prove itself again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import (
    AllowDeprecated,
    Artifacts,
    MaxLoss,
    MaxMemory,
    MaxRegret,
    MinParity,
    Objective,
    Price,
    Quiet,
    Restarts,
    Silence,
    Slo,
    Traffic,
)
from bench.cli.streams import stopping, teller

OLD_SPELLINGS = {"--format": "--layout"}


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="File that bench compare wrote.")],
    output: Annotated[Path, typer.Option(help="New folder for the bundle.")],
    choose: Annotated[
        str | None,
        typer.Option(help="BACKEND[:VARIANT][/PRECISION] of the run. [default: the one that bench choose takes]"),
    ] = None,
    module: Annotated[
        str | None, typer.Option(help="Your own module that was measured, path/to/file.py:FUNCTION; it is imported.")
    ] = None,
    min_parity: MinParity = None,
    max_loss: MaxLoss = None,
    allow_deprecated: AllowDeprecated = False,
    max_regret: MaxRegret = None,
    traffic: Traffic = None,
    slo: Slo = None,
    max_memory: MaxMemory = None,
    objective: Objective = None,
    requests_per_restart: Restarts = None,
    price: Price = None,
    layout: Annotated[
        str, typer.Option(help="folder, or triton: with a model repository of Triton Inference Server.")
    ] = "folder",
    timeout: Silence = "15m",
    artifacts: Artifacts = Path("artifacts"),
    quiet: Quiet = False,
) -> None:
    """Write the runtime to deploy as one folder: artifact, run.py, pins, certificate, samples and latency envelope."""
    from bench.bundle.api import deploy
    from bench.report import bundle

    with stopping("exported models and references are kept, no bundle was written"):
        made = deploy(
            run, output, choose=choose, module=module, min_parity=min_parity, traffic=traffic, slo=slo,
            max_memory=max_memory, objective=objective, requests_per_restart=requests_per_restart, price=price,
            layout=layout, max_loss=max_loss, allow_deprecated=allow_deprecated, max_regret=max_regret, timeout=timeout,
            artifacts=artifacts, say=teller(quiet),
        )  # fmt: skip
    print(bundle.made(made), end="")
