"""`bench load`: requests that arrive by themselves, queued before the loaded worker; service levels under load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.compare import count, duration
from bench.cli.models import model_of
from bench.cli.options import (
    Artifacts,
    Device,
    Module,
    Precisions,
    Pythons,
    Quiet,
    RecordsFile,
    Task,
    Tf32,
    Threads,
    Timeout,
    Weights,
)
from bench.cli.streams import tell

if TYPE_CHECKING:
    from bench.preparation import Preparation
    from bench.serving.records import LoadRecord, LoadRun


def command(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="Built-in name (`bench list models`), folder of a saved model, or Hub id.")
    ] = "bert",
    module: Module = None,
    backends: Annotated[str, typer.Option(help="Comma-separated backend[:variant].")] = "eager,onnx,torchscript",
    rate: Annotated[float, typer.Option(help="Requests a second, as they arrive on average.")] = 10.0,
    length_of_run: Annotated[
        str, typer.Option("--duration", help="How long requests arrive for each backend, e.g. 30s or 2m.")
    ] = "30s",
    traffic: Annotated[
        Path | None,
        typer.Option(help="CSV or JSON Lines with batch, length[, count]. [default: batch 1, lengths 16, 128, 512]"),
    ] = None,
    batching: Annotated[str, typer.Option(help="none, or dynamic:MAX_BATCH:MAX_DELAY as in dynamic:8:5ms.")] = "none",
    slo: Annotated[
        str | None, typer.Option(help="Service levels, e.g. p95=20ms; judged at --rate, and the largest rate found.")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Look for the largest rate that keeps --slo.")
    ] = True,
    search_requests: Annotated[
        int | None,
        typer.Option(help="Requests of each rate of the search. [default: twice what the percentile needs, ≥ 200]"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Slices of each rate's requests; backends take turns by slice.")] = 5,
    bucket: Annotated[int | None, typer.Option(help="Pad the length of every call up to a multiple of it.")] = None,
    most_shapes: Annotated[int, typer.Option(help="Shapes that a backend may have to compile.")] = 16,
    device: Device = "auto",
    precisions: Precisions = "fp32",
    tf32: Tf32 = False,
    threads: Threads = None,
    weights: Weights = "auto",
    task: Task = "base",
    seed: Annotated[int, typer.Option(help="Seed of random weights, arrivals, shapes, ids and turns.")] = 0,
    timeout: Timeout = 900.0,
    output: RecordsFile = None,
    python: Pythons = None,
    artifacts: Artifacts = Path("artifacts"),
    quiet: Quiet = False,
) -> None:
    """Serve requests that arrive at a rate: latency with queueing, and the largest rate that keeps --slo."""
    from bench.errors import BenchError
    from bench.report import load as report
    from bench.serving import api

    screen = _Screen(quiet)
    models, weights = model_of(context, model, module, weights)
    try:
        run = api.measure_load(
            models,
            backends=backends,
            rate=rate,
            duration=length_of_run,
            traffic=traffic,
            batching=batching,
            slo=slo,
            search=search,
            search_requests=search_requests,
            rounds=rounds,
            bucket=bucket,
            most_shapes=most_shapes,
            device=device,
            precisions=precisions,
            tf32=tf32,
            threads=threads,
            weights=weights,
            task=task,
            seed=seed,
            timeout=timeout,
            output=output,
            python=python or (),
            artifacts=artifacts,
            listener=api.LoadListener(screen.say, screen.plan, screen.progress),
        )
    except KeyboardInterrupt:
        screen.interrupted()
        raise typer.Exit(130) from None
    except BenchError:
        if screen.run is not None and screen.run.records:
            print(report.render(screen.run, "table"), end="")
        raise
    print(report.render(run, "table"), end="")
    raise typer.Exit(run.exit_code)


class _Screen:
    """Progress on standard error: a line an event, nothing while a worker is serving."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.run: LoadRun | None = None

    def say(self, line: str) -> None:
        if not self.quiet:
            tell(line)

    def plan(self, run: LoadRun, prepared: Preparation) -> None:
        self.run = run
        grid, load = run.grid, run.load
        self.say(f"{grid.model}: {run.origin}")
        self.say(f"traffic: {run.traffic.source}")
        seconds = len(grid.contestants) * load.requests / load.rate
        self.say(
            f"plan: {count(len(grid.contestants), 'contestant')}, each {count(load.requests, 'request')} at "
            f"{load.rate:g}/s on {grid.device} with {count(grid.threads, 'thread')}, about {duration(seconds)}"
        )
        if load.search_requests is not None:
            self.say(f"then a search of the largest rate, with {count(load.requests_of(1), 'request')} at each rate")
        for contestant, refusal in prepared.refused.items():
            self.say(f"cannot run: {contestant.label} {contestant.precision}: {refusal.reason}")
        self.say(f"records: {run.path}")

    def progress(self, records: list[LoadRecord]) -> None:
        assert self.run is not None
        for record in records:
            where = f"search {record.step}" if record.step else "asked"
            label = f"{record.contestant.label} {record.precision}"
            self.say(f"[{where}] {record.rate:.4g}/s {label:<20} {_outcome(self.run, record)}")

    def interrupted(self) -> None:
        """Say what is kept."""
        if self.run is None or self.run.path is None or not self.run.path.exists():
            tell("bench: stopped before anything was measured")
            return
        kept = count(len(self.run.records), "record")
        tell(f"bench: stopped; {kept} kept in {self.run.path}. Show them with: bench report {self.run.path}")


def _outcome(run: LoadRun, record: LoadRecord) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.reason}" if record.reason else record.status
    if not record.keeps_up:
        return "does not keep up"
    parts = [f"p{rank} {value / 1e6:.2f} ms" for rank in (50, 95) if (value := record.percentile(rank)) is not None]
    outcome = record.outcome_of_all(run.load.slos) if run.load.slos else ""
    return "  ".join(filter(None, [", ".join(parts), outcome, record.verdict]))
