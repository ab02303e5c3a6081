"""`bench parity`: is each backend still the same model? The verdict with its evidence, and a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.models import model_of
from bench.cli.options import Device, Module, Precisions, Pythons, Quiet, Task, Tf32, Threads, Timeout, Weights
from bench.cli.streams import tell


def command(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="Built-in name (`bench list models`), folder of a saved model, or Hub id.")
    ] = "bert",
    module: Module = None,
    backends: Annotated[str, typer.Option(help="Comma-separated backend[:variant].")] = "eager,onnx,torchscript",
    precisions: Precisions = "fp32",
    task: Task = "base",
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,3",
    lengths: Annotated[
        str | None, typer.Option(help="Sequence lengths in tokens. [default: 1,16,37 and the largest]")
    ] = None,
    masks: Annotated[str, typer.Option(help="Any of full, right, left, holes.")] = "full,right,left,holes",
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json, or a folder with one, for a model that has none of its own.")
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(help="Tokens that a decoder generates with --task lm. [default: 16]")
    ] = None,
    atol: Annotated[
        float | None, typer.Option(help="Absolute difference that is equivalent whatever eager's is.")
    ] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative difference that is, beside --atol.")] = None,
    max_kl: Annotated[
        float | None, typer.Option(help="Largest mean KL divergence (nats) that is still lossy; with --task lm.")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option(help="Least top-1 agreement beside near-ties that is still lossy; with --task lm.")
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Where something is broken, look for the first layer and node.")
    ] = False,
    device: Device = "auto",
    tf32: Tf32 = False,
    threads: Threads = None,
    weights: Weights = "auto",
    seed: Annotated[int, typer.Option(help="Seed of random weights and inputs.")] = 0,
    timeout: Timeout = 900.0,
    python: Pythons = None,
    format: Annotated[str, typer.Option(help="table, json or markdown.")] = "table",
    output: Annotated[Path | None, typer.Option(help="Write the certificate (JSON) here, for `bench verify`.")] = None,
    artifacts: Annotated[Path, typer.Option(help="Folder for exported models and references.")] = Path("artifacts"),
    quiet: Quiet = False,
) -> None:
    """Judge every backend against eager in float64 on a matrix of inputs; exit code 3 when one is broken."""
    from bench.parity import certificate
    from bench.parity.check import check_parity
    from bench.report import check_format, parity

    check_format(format, parity.FORMATS)
    if output is not None:
        certificate.check_writable(output)
    model, weights = model_of(context, model, module, weights)
    try:
        found = check_parity(
            model,
            backends=backends,
            precisions=precisions,
            task=task,
            batches=batches,
            lengths=lengths,
            masks=masks,
            text_tokenizer=tokenizer,
            new_tokens=new_tokens,
            atol=atol,
            rtol=rtol,
            max_kl=max_kl,
            min_top1=min_top1,
            bisect=bisect,
            device=device,
            tf32=tf32,
            threads=threads,
            weights=weights,
            seed=seed,
            timeout=timeout,
            python=python or (),
            artifacts=artifacts,
            say=(lambda line: None) if quiet else tell,
        )
    except KeyboardInterrupt:
        tell("bench: stopped; exported models and references are kept, nothing was certified")
        raise typer.Exit(130) from None
    print(parity.render(found, format), end="")
    if output is not None:
        found.write(output)
    raise typer.Exit(found.exit_code)
