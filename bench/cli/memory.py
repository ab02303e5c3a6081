"""`bench memory`: what a loaded model takes beside its parameters, and the largest batch that fits beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.models import model_of
from bench.cli.options import (
    Artifacts,
    Device,
    Module,
    Precisions,
    Pythons,
    Quiet,
    Task,
    Tf32,
    Threads,
    Timeout,
    Weights,
)
from bench.cli.streams import tell


def command(
    context: typer.Context,
    model: Annotated[
        list[str],
        typer.Option(help="Built-in name, folder of a saved model, or Hub id; give it again to hold two side by side."),
    ] = ["bert"],  # noqa: B006 - typer copies it
    module: Module = None,
    backends: Annotated[str, typer.Option(help="Comma-separated backend[:variant].")] = "eager,onnx,torchscript",
    precisions: Precisions = "fp32",
    tf32: Tf32 = False,
    length: Annotated[
        str | None,
        typer.Option("--length", "--lengths", help="Lengths in tokens. [default: 512 as far as the model goes]"),
    ] = None,
    largest_batch: Annotated[
        bool, typer.Option("--largest-batch", help="Also find the largest batch that fits, with and without gradients.")
    ] = False,
    memory_limit: Annotated[
        str | None,
        typer.Option(help="What a worker may hold in that search, e.g. 8GiB. [default: what is free, less a margin]"),
    ] = None,
    most_batch: Annotated[int, typer.Option(help="Largest batch that is tried.")] = 4096,
    max_seconds_per_search: Annotated[
        float, typer.Option(help="Seconds after which no further batch is tried, per backend and length.")
    ] = 900.0,
    device: Device = "auto",
    threads: Threads = None,
    weights: Weights = "auto",
    task: Task = "base",
    seed: Annotated[int, typer.Option(help="Seed of random weights and inputs.")] = 0,
    timeout: Timeout = 900.0,
    output: Annotated[
        Path | None, typer.Option(help="File for the entries (JSON Lines). [default: a new one under ARTIFACTS/runs]")
    ] = None,
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
    python: Pythons = None,
    artifacts: Artifacts = Path("artifacts"),
    quiet: Quiet = False,
) -> None:
    """Memory of loaded models: parameters, allocator, process, runtime context; keys and values; the largest batch."""
    from bench.footprint.measure import measure_memory
    from bench.report import check_format, memory

    check_format(format, memory.FORMATS)
    models, weights = model_of(context, model, module, weights)
    try:
        run = measure_memory(
            models,
            backends=backends,
            precisions=precisions,
            tf32=tf32,
            lengths=length,
            largest_batch=largest_batch,
            memory_limit=memory_limit,
            most_batch=most_batch,
            max_seconds_per_search=max_seconds_per_search,
            device=device,
            threads=threads,
            weights=weights,
            task=task,
            seed=seed,
            timeout=timeout,
            python=python or (),
            output=output,
            artifacts=artifacts,
            say=(lambda line: None) if quiet else tell,
        )
    except KeyboardInterrupt:
        tell("bench: stopped; what was measured is kept, and `bench report FILE` shows it")
        raise typer.Exit(130) from None
    print(memory.render(run, format), end="")
    if run.is_above_every_limit:
        tell(f"bench: {run.largest[0].reason}; use a larger --memory-limit")
    raise typer.Exit(run.exit_code)
