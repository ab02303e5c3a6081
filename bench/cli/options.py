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
    str, typer.Option("--timeout", metavar="TIME", help="Silence after which a worker is taken for hung, e.g. 60s.")
]
Artifacts = Annotated[Path, typer.Option(help="Folder for exported models and runs.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result alone.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON in place of the table.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown that fits a pull request comment.")]
# Of a choice.
Traffic = Annotated[
    Path | None,
    typer.Option(help="CSV or JSON Lines of batch,length[,count]. [default: every shape for the same share of time]"),
]
Slo = Annotated[str | None, typer.Option(help="Limits of percentiles of the time of a call, e.g. p95=20ms.")]
MaxMemory = Annotated[str | None, typer.Option(help="Most memory that may be held, e.g. 2GB.")]
MinParity = Annotated[str, typer.Option(help="exact, equivalent or lossy; what is worse does not qualify.")]
Objective = Annotated[str | None, typer.Option(help="latency, throughput or cost. [default: latency]")]
Restarts = Annotated[
    int | None, typer.Option(help="Requests between two starts; their share of the one-time costs counts.")
]
Price = Annotated[str | None, typer.Option(help="US dollars an hour of the machine; one, or one a run with commas.")]
