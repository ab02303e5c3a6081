"""`bench compare`: time every backend on one grid, judge each, and say which to take."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    Task,
    Tf32,
    Threads,
    Timeout,
    Weights,
)
from bench.cli.streams import tell

if TYPE_CHECKING:
    from bench.preparation import Preparation
    from bench.records import Record, Run


def command(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="Built-in name (`bench list models`), folder of a saved model, or Hub id.")
    ] = "bert",
    preset: Annotated[
        str | None,
        typer.Option(help="A grid by name (`bench list presets`) or .toml file; options given beside it win."),
    ] = None,
    module: Module = None,
    backends: Annotated[
        str, typer.Option(help="Comma-separated backend[:variant]; speed-ups are against the first.")
    ] = "eager,onnx,torchscript",
    batches: Annotated[
        str,
        typer.Option(help="Batch sizes, or auto: double, per length, until throughput gains under 5% or memory ends."),
    ] = "1,8",
    lengths: Annotated[
        str | None, typer.Option(help="Sequence lengths in tokens. [default: 16,128,512 as far as the model goes]")
    ] = None,
    device: Device = "auto",
    precisions: Precisions = "fp32",
    tf32: Tf32 = False,
    threads: Threads = None,
    weights: Weights = "auto",
    task: Task = "base",
    target_precision: TargetPrecision = None,
    rounds: Annotated[
        int, typer.Option(help="Turns per backend and cell, at least, as far as --max-seconds-per-cell lets them.")
    ] = 10,
    max_seconds_per_cell: Annotated[
        float,
        typer.Option(
            help="Seconds of turns per cell, of the slowest backend, at most; slow calls get 5 rounds of one."
        ),
    ] = 5.0,
    boundary: Annotated[
        str, typer.Option(help="device (inputs and outputs stay on it) or host (host arrays in and out, copies timed).")
    ] = "device",
    naive_timer: Annotated[
        bool,
        typer.Option(
            "--naive-timer/--no-naive-timer",
            help="Also time calls without synchronising: wrong, to explain old figures.",
        ),
    ] = False,
    grad: Annotated[
        bool,
        typer.Option("--grad/--no-grad", help="Also run eager with autograd on, to show what that costs."),
    ] = False,
    timeout: Timeout = 900.0,
    budget: Annotated[
        str | None, typer.Option(help="Time for the whole run, e.g. 20m, 90s, 1h: thin the shapes to what fits.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Further columns of the table, e.g. us-per-step,ms-per-sample.")
    ] = None,
    output: RecordsFile = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with an interrupted run, under the options it began with.")
    ] = None,
    artifacts: Artifacts = Path("artifacts"),
    python: Pythons = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights, inputs and turns.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Time backends against each other on one grid, and check each against a float64 reference."""
    from bench import api
    from bench.errors import BenchError
    from bench.report import table
    from bench.report.columns import parse_columns

    further = parse_columns(columns)
    screen = _Screen(quiet)
    listener = api.Listener(screen.say, screen.plan, screen.progress)
    try:
        if resume is not None:
            _refuse_other_options(context)
            run = api.resume(resume, artifacts=artifacts, listener=listener)
        else:
            model, weights = model_of(context, model, module, weights)
            options: dict[str, Any] = {
                "model": model,
                "backends": backends,
                "batches": batches,
                "lengths": lengths,
                "precisions": precisions,
                "task": task,
                "rounds": rounds,
                "naive_timer": naive_timer,
                "grad": grad,
            }
            if preset is not None:
                options = {name: value for name, value in options.items() if _is_given(context, name)}
                options |= {} if module is None else {"model": model}
            run = api.compare(
                **options,
                preset=preset,
                device=device,
                tf32=tf32,
                threads=threads,
                weights=weights,
                max_seconds_per_cell=max_seconds_per_cell,
                target_precision=target_precision,
                boundary=boundary,
                timeout=timeout,
                budget=budget,
                seed=seed,
                python=python or (),
                output=output,
                artifacts=artifacts,
                listener=listener,
            )
    except KeyboardInterrupt:
        screen.interrupted(artifacts)
        raise typer.Exit(130) from None
    except BenchError:
        if screen.run is not None and screen.run.records:
            print(table.render(screen.run, further))
        raise
    print(table.render(run, further))
    raise typer.Exit(run.exit_code)


def _refuse_other_options(context: typer.Context) -> None:
    """--resume takes its grid from the file; an option that would change it is a mistake."""
    from bench.errors import UserError

    allowed = {"resume", "quiet", "artifacts", "columns"}
    for name in context.params:
        if name not in allowed and _is_given(context, name):
            option = "--" + name.replace("_", "-")
            raise UserError(
                f"{option} cannot be given with --resume, which goes on under the run's own options; leave it out"
            )


def _is_given(context: typer.Context, name: str) -> bool:
    """True for a parameter that stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


class _Screen:
    """Progress on standard error: a line an event, nothing while a worker is timing."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.run: Run | None = None
        self.done = 0
        self.ended: set[tuple[int, str]] = set()

    def say(self, line: str) -> None:
        if not self.quiet:
            tell(line)

    def plan(self, run: Run, prepared: Preparation) -> None:
        from bench.doubling import GAIN, LARGEST_BATCH
        from bench.guesses import guessed_seconds

        self.run = run
        grid = run.grid
        self.done = len(run.records)
        self.total = len(grid.shapes) * len(grid.contestants)
        shapes = len(grid.shapes if run.budget is None else run.budget.kept)
        seconds = guessed_seconds(prepared.source, run)
        missing = prepared.missing_exports()
        self.say(f"{grid.model}: {run.origin}")
        cells = self.total - self.done - (len(grid.shapes) - shapes) * len(grid.contestants)
        if run.is_doubling:
            lengths = len({shape.length for shape in grid.shapes})
            self.done = sum(not run.is_left_out(record) for record in run.records)
            self.say(
                f"plan: {count(len(grid.contestants), 'contestant')} × {count(lengths, 'length')} on {grid.device}, "
                f"{count(grid.threads, 'thread')}; batches double while throughput gains {GAIN:.0%}, up to "
                f"{LARGEST_BATCH}; the first two take about {duration(seconds)} of measuring"
            )
        else:
            self.say(
                f"plan: {count(cells, 'cell')} ({count(len(grid.contestants), 'contestant')} × "
                f"{count(shapes, 'shape')}) on {grid.device} with {count(grid.threads, 'thread')}, "
                f"about {duration(seconds)} of measuring"
            )
        for contestant, refusal in prepared.refused.items():
            self.say(f"cannot run: {contestant.label} {contestant.precision}: {refusal.reason}")
        self.say(f"to export: {', '.join(missing) if missing else 'nothing, all in the store'}")
        self.say(f"records: {run.path}")

    def progress(self, records: list[Record], seconds_left: float) -> None:
        if self.run is not None and all(self.run.is_left_out(record) for record in records):
            if self.run.is_doubling:
                self._length_ended(records)
                return
            self.done += len(records)
            self.say(f"[{self.done}/{self.total}] {records[0].shape!s:>7} {records[0].reason}")
            return
        for record in records:
            self.done += 1
            left = "" if record is not records[-1] else f"  ({duration(seconds_left)} left)"
            if self.run is not None and self.run.is_doubling:
                left = ""
            elif self.done == self.total:
                left = "  (done)"
            label = f"{record.contestant.label} {record.precision}"
            self.say(f"{self._place()} {record.shape!s:>7} {label:<20} {_outcome(record)}{left}")

    def _place(self) -> str:
        """`[3/18]`; `[3]` where nobody knows how many there will be."""
        is_open = self.run is not None and self.run.is_doubling
        return f"[{self.done}]" if is_open else f"[{self.done}/{self.total}]"

    def _length_ended(self, records: list[Record]) -> None:
        """Say once why a length's batch is not doubled any more."""
        from bench.doubling import ENDED

        key = (records[0].length, records[0].reason)
        if key not in self.ended:
            self.ended.add(key)
            self.say(f"length {key[0]} ends: {key[1].removeprefix(ENDED)}")

    def interrupted(self, artifacts: Path) -> None:
        """Say what is kept and how to go on."""
        if self.run is None or self.run.path is None or not self.run.path.exists():
            tell("bench: stopped before anything was measured")
            return
        again = ["bench", "compare", "--resume", str(self.run.path)]
        if artifacts != Path("artifacts"):
            again += ["--artifacts", str(artifacts)]
        tell(f"bench: stopped; {len(self.run.records)} records are kept. Go on with: {shlex.join(again)}")


def _outcome(record: Record) -> str:
    from bench import statistics

    if record.status == "ok":
        return f"{statistics.median(record.samples) / 1e6:.2f} ms  {record.verdict}".rstrip()
    return f"{record.status}: {record.reason}" if record.reason else record.status


def count(number: int, noun: str) -> str:
    """`1 cell`, `3 cells`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """`45 s` or `3 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
