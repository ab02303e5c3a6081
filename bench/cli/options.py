"""Options that several commands take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Module = Annotated[
    str | None,
    typer.Option(help="Your own model: path/to/file.py:FUNCTION that returns a torch.nn.Module; see the README."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precisions = Annotated[str, typer.Option(help="Any of fp32, fp16, bf16, int8.")]
Tf32 = Annotated[bool, typer.Option("--tf32", help="Let fp32 products on a GPU round their inputs to TF32.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads for every runtime alike. [default: the CPUs this process may use]")
]
Weights = Annotated[
    str, typer.Option(help="auto (pretrained if on this machine, else random), random, or pretrained (may download).")
]
Task = Annotated[str, typer.Option(help="base (last hidden state) or lm (logits).")]
TargetPrecision = Annotated[
    str | None,
    typer.Option(help="Stop a cell when the interval of its median is this narrow. [default: 2% on cpu, 1% on cuda]"),
]
Pythons = Annotated[
    list[str] | None,
    typer.Option(
        "--python",
        metavar="BACKEND=PATH",
        help="Interpreter of an environment of yours for a backend, e.g. onnx@old=old/bin/python. May be repeated.",
    ),
]
Timeout = Annotated[float, typer.Option(help="Seconds of silence after which a worker is taken for hung.")]
Silence = Annotated[
    str, typer.Option("--timeout", metavar="TIME", help="Silence after which a worker is taken for hung, e.g. 60s.")
]
RecordsFile = Annotated[
    Path | None, typer.Option(help="File for the records (JSON Lines). [default: a new one under ARTIFACTS/runs]")
]
Artifacts = Annotated[Path, typer.Option(help="Folder for exported models and runs.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result alone.")]
