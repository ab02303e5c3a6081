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
