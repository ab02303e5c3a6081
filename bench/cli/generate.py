"""`bench generate`: time to first token, ms a token and tokens a second of every backend, with a cache or without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.compare import count
from bench.cli.models import model_of
from bench.cli.options import (
    Artifacts,
    Device,
    Module,
    Precisions,
    Pythons,
    Quiet,
    RecordsFile,
    TargetPrecision,
    Tf32,
    Threads,
    Timeout,
    Weights,
)
from bench.cli.streams import tell

if TYPE_CHECKING:
    from bench.generation.preparation import GenerationPreparation
    from bench.generation.records import GenerationRecord, GenerationRun


def command(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="A decoder: built-in name (`bench list models`), folder of a saved model, or Hub id.")
    ] = "gpt2",
    module: Module = None,
    backends: Annotated[
        str,
        typer.Option(help="Comma-separated backend[:variant], e.g. eager:static; speed-ups are against the first."),
    ] = "eager,onnx,torchscript",
    prompt_length: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 16,
    new_tokens: Annotated[int, typer.Option(help="Tokens that are generated behind it; none ends early.")] = 128,
    batches: Annotated[str, typer.Option(help="Prompts at once.")] = "1",
    decoding: Annotated[str, typer.Option(help="greedy, sample, or beam:4 for four beams.")] = "greedy",
    top_k: Annotated[int, typer.Option(help="Likeliest tokens that --decoding sample draws from.")] = 40,
    temperature: Annotated[float, typer.Option(help="Of --decoding sample.")] = 0.7,
    device: Device = "auto",
    precisions: Precisions = "fp32",
    tf32: Tf32 = False,
    threads: Threads = None,
    weights: Weights = "auto",
    rounds: Annotated[int, typer.Option(help="Generations per backend and batch, at least.")] = 5,
    max_seconds_per_cell: Annotated[
        float, typer.Option(help="Seconds of generations per batch, of the slowest backend; 5 rounds come in any case.")
    ] = 60.0,
    target_precision: TargetPrecision = None,
    timeout: Timeout = 900.0,
    output: RecordsFile = None,
    format: Annotated[str, typer.Option(help="table, csv or json.")] = "table",
    python: Pythons = None,
    artifacts: Artifacts = Path("artifacts"),
    seed: Annotated[int, typer.Option(help="Seed of random weights, prompts, sampling and turns.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Time every backend generating tokens; prefill and decode apart, and the tokens held against eager's."""
    from bench.errors import BenchError
    from bench.generation import api
    from bench.report import check_format, generation

    check_format(format, generation.FORMATS)
    screen = _Screen(quiet)
    model, weights = model_of(context, model, module, weights)
    try:
        run = api.generate(
            model,
            backends=backends,
            prompt_length=prompt_length,
            new_tokens=new_tokens,
            batches=batches,
            decoding=decoding,
            top_k=top_k,
            temperature=temperature,
            device=device,
            precisions=precisions,
            tf32=tf32,
            threads=threads,
            weights=weights,
            rounds=rounds,
            max_seconds_per_cell=max_seconds_per_cell,
            target_precision=target_precision,
            timeout=timeout,
            seed=seed,
            output=output,
            python=python or (),
            artifacts=artifacts,
            listener=api.Listener(screen.say, screen.plan, screen.progress),
        )
    except KeyboardInterrupt:
        kept = screen.run.path if screen.run is not None else None
        tell(f"bench: stopped; what is measured is kept: bench report {kept}" if kept else "bench: stopped")
        raise typer.Exit(130) from None
    except BenchError:
        if screen.run is not None and screen.run.records:
            print(generation.render(screen.run, format), end="")
        raise
    print(generation.render(run, format), end="")
    raise typer.Exit(run.exit_code)


class _Screen:
    """Progress on standard error: a line an event, nothing while a worker is timing."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.run: GenerationRun | None = None

    def say(self, line: str) -> None:
        if not self.quiet:
            tell(line)

    def plan(self, run: GenerationRun, prepared: GenerationPreparation) -> None:
        self.run = run
        missing = prepared.missing_exports()
        self.say(f"{run.grid.model}: {run.origin}")
        self.say(
            f"plan: {count(len(run.grid.contestants), 'contestant')} × {count(len(run.batches), 'batch size')} on "
            f"{run.grid.device} with {count(run.grid.threads, 'thread')}, {run.generation.new_tokens} new tokens each"
        )
        for contestant, refusal in prepared.refused.items():
            self.say(f"cannot run: {contestant.label} {contestant.precision}: {refusal.reason}")
        self.say(f"to export: {', '.join(missing) if missing else 'nothing, all in the store'}")
        self.say(f"records: {run.path}")

    def progress(self, records: list[GenerationRecord]) -> None:
        assert self.run is not None
        for record in records:
            what = record.status if not record.reason else f"{record.status}: {record.reason}"
            if record.status == "ok":
                what = f"{self.run.total_seconds(record):.3g} s  {record.verdict}".rstrip()
            self.say(f"batch {record.batch}: {record.contestant.label} {record.precision}: {what}")
