"""Options that several commands take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads for every runtime alike. [default: the CPUs this process may use]")
]
Silence = Annotated[
    str, typer.Option("--timeout", metavar="TIME", help="Silence after which a process is taken for hung, e.g. 60s.")
]
Artifacts = Annotated[Path, typer.Option(help="Folder for exported models and runs.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result alone.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON in place of the table.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown that fits a pull request comment.")]
# Of a choice.
Traffic = Annotated[
    Path | None,
    typer.Option(help="CSV or JSON Lines of batch,length[,count]. [default: every shape alike, in a geometric mean]"),
]
Slo = Annotated[str | None, typer.Option(help="Limits of percentiles of the time of a call, e.g. p95=20ms.")]
MaxMemory = Annotated[
    str | None, typer.Option(help="Most memory that may be held, e.g. 2GiB (2^30 bytes each) or 2GB (10^9).")
]
MinParity = Annotated[
    str | None,
    typer.Option(
        help="exact, equivalent or lossy; what is worse does not qualify. [default: equivalent; lossy with --max-loss]"
    ),
]
MaxLoss = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="Largest RMSE over the output's RMS, e.g. 2%; lets in what is below fp32."),
]
AllowDeprecated = Annotated[
    bool, typer.Option("--allow-deprecated", help="Let runtimes qualify that are deprecated upstream (TorchScript).")
]
MaxRegret = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE", help="Take what is known to be within this of the best; else it is undecided. [default: 3%]"
    ),
]
Objective = Annotated[str | None, typer.Option(help="latency, throughput or cost. [default: latency]")]
Restarts = Annotated[
    int | None, typer.Option(help="Requests between two starts; their share of the one-time costs counts.")
]
Price = Annotated[str | None, typer.Option(help="US dollars an hour of the machine; one, or one a run with commas.")]
