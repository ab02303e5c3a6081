"""`bench tune`: the fastest runtime, variant, precision and number of threads for one shape or one traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.compare import count
from bench.cli.options import Artifacts, Device, Pythons, Quiet, Task, Tf32, Timeout, Weights
from bench.cli.streams import tell

if TYPE_CHECKING:
    from bench.tuning.results import Outcome, Tuning
    from bench.tuning.space import Space, Trial


def command(
    model: Annotated[
        str,
        typer.Option(help="Built-in name (`bench list models`), folder of a saved model, Hub id, or file.py:function."),
    ] = "bert",
    batch: Annotated[int, typer.Option(help="Batch size of the one shape.")] = 1,
    length: Annotated[int, typer.Option(help="Its sequence length, in tokens.")] = 128,
    traffic: Annotated[
        Path | None, typer.Option(help="In place of one shape: CSV or JSON Lines with batch, length[, count].")
    ] = None,
    budget: Annotated[str, typer.Option(help="Time for the whole search, e.g. 10m; what has begun is ended.")] = "10m",
    max_loss: Annotated[
        str | None,
        typer.Option(help="Largest RMSE over the output's RMS, e.g. 2%; lets other precisions in."),
    ] = None,
    backends: Annotated[
        str | None, typer.Option(help="Comma-separated backend[:variant]. [default: all that are installed]")
    ] = None,
    precisions: Annotated[
        str | None, typer.Option(help="Any of fp32, fp16, bf16, int8. [default: fp32; all with --max-loss]")
    ] = None,
    tf32: Tf32 = False,
    threads: Annotated[
        int | None, typer.Option(help="Most threads that are tried. [default: the CPUs this process may use]")
    ] = None,
    device: Device = "auto",
    weights: Weights = "auto",
    task: Task = "base",
    seed: Annotated[int, typer.Option(help="Seed of random weights, ids and turns.")] = 0,
    timeout: Timeout = 900.0,
    output: Annotated[
        Path | None, typer.Option(help="File for the search (JSON). [default: in a new folder under ARTIFACTS/runs]")
    ] = None,
    format: Annotated[str, typer.Option(help="table or json.")] = "table",
    python: Pythons = None,
    artifacts: Artifacts = Path("artifacts"),
    quiet: Quiet = False,
) -> None:
    """Search for the fastest way to run one shape, or one traffic, that is still the same model."""
    from bench.report import check_format
    from bench.report import tuning as report
    from bench.tuning import api

    check_format(format, report.FORMATS)
    screen = _Screen(quiet)
    try:
        found = api.tune(
            model,
            batch=batch,
            length=length,
            traffic=traffic,
            budget=budget,
            max_loss=max_loss,
            backends=backends,
            precisions=precisions,
            tf32=tf32,
            threads=threads,
            device=device,
            weights=weights,
            task=task,
            seed=seed,
            timeout=timeout,
            output=output,
            python=python or (),
            artifacts=artifacts,
            listener=api.TuneListener(screen.say, screen.plan, screen.progress),
        )
    except KeyboardInterrupt:
        screen.interrupted()
        raise typer.Exit(130) from None
    print(report.render(found, format), end="")
    raise typer.Exit(found.exit_code)


class _Screen:
    """Progress on standard error: a line an event, nothing while a worker is timed."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.tuning: Tuning | None = None

    def say(self, line: str) -> None:
        if not self.quiet:
            tell(line)

    def plan(self, tuning: Tuning, space: Space) -> None:
        self.tuning = tuning
        self.say(f"{tuning.model} on {tuning.device}, for {tuning.goal.source}")
        self.say(f"space: {count(len(space.contestants), 'runtime')}, then threads; within {tuning.budget}")
        self.say(f"search: {tuning.path}")

    def progress(self, rung: int, trial: Trial, outcome: Outcome) -> None:
        shown = outcome.reason if outcome.score_ns is None else f"{outcome.score_ns / 1e6:.2f} ms  {outcome.verdict}"
        self.say(f"[rung {rung + 1}] {trial.label:<36} {shown}")

    def interrupted(self) -> None:
        """Say what is kept."""
        if self.tuning is None or not self.tuning.rungs:
            tell("bench: stopped before anything was measured")
            return
        tell(f"bench: stopped; what was measured is kept in {self.tuning.path}")
