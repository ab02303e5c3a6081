"""`bench corpus`: whole passes over sentences of varying length, batch by batch, sorted and unsorted."""

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
    from bench.corpora.records import CorpusRecord, CorpusRun
    from bench.preparation import Preparation


def command(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="Built-in name (`bench list models`), folder of a saved model, or Hub id.")
    ] = "bert",
    module: Module = None,
    backends: Annotated[
        str, typer.Option(help="Comma-separated backend[:variant]; speed-ups are against eager, or else the first.")
    ] = "eager,onnx,torchscript",
    texts: Annotated[Path | None, typer.Option(help="Text file, one sentence a line.")] = None,
    lengths_from: Annotated[
        Path | None,
        typer.Option(help="File with one length in tokens a line, or of a run of this command; ids are drawn."),
    ] = None,
    synthetic: Annotated[
        int | None, typer.Option(help="So many lengths, drawn like those of sentences; ids are drawn too.")
    ] = None,
    sentences: Annotated[
        int | None, typer.Option(help="Sentences: so many of our own, or a file's first ones. [default: 1000; all]")
    ] = None,
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,2,4,8,16,32,64",
    order: Annotated[str, typer.Option(help="Any of unsorted, sorted, bucketed.")] = "unsorted,sorted",
    bucket: Annotated[
        int | None, typer.Option(help="Round each batch's length up to a multiple of it. [default: 16 for bucketed]")
    ] = None,
    most_shapes: Annotated[
        int, typer.Option(help="Shapes that a backend may have to compile for one batch size and order.")
    ] = 16,
    rounds: Annotated[int, typer.Option(help="Timed passes of each backend.")] = 5,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json, or a folder with one. [default: the model's own]")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Cut sentences at so many tokens. [default: the model's positions]")
    ] = None,
    device: Device = "auto",
    precisions: Precisions = "fp32",
    tf32: Tf32 = False,
    threads: Threads = None,
    weights: Weights = "auto",
    task: Task = "base",
    boundary: Annotated[
        str, typer.Option(help="device (batches are on it before) or host (host arrays in and out, copies timed).")
    ] = "device",
    baseline: Annotated[
        Path | None,
        typer.Option(help="File of such a run on the CPU: speed-ups are also against its eager at batch 1."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights, sentences, order and turns.")] = 0,
    timeout: Timeout = 3600.0,
    output: RecordsFile = None,
    python: Pythons = None,
    artifacts: Artifacts = Path("artifacts"),
    quiet: Quiet = False,
) -> None:
    """Time whole passes over about 1,000 sentences, each batch padded to its longest; ms per sample."""
    from bench.corpora import api
    from bench.errors import BenchError
    from bench.report import corpus as report

    screen = _Screen(quiet)
    models, weights = model_of(context, model, module, weights)
    try:
        run = api.measure_corpus(
            models,
            backends=backends,
            texts=texts,
            lengths_from=lengths_from,
            synthetic=synthetic,
            sentences=sentences,
            batches=batches,
            order=order,
            bucket=bucket,
            most_shapes=most_shapes,
            rounds=rounds,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
            device=device,
            precisions=precisions,
            tf32=tf32,
            threads=threads,
            weights=weights,
            task=task,
            boundary=boundary,
            baseline=baseline,
            seed=seed,
            timeout=timeout,
            output=output,
            python=python or (),
            artifacts=artifacts,
            listener=api.CorpusListener(screen.say, screen.plan, screen.progress),
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
    """Progress on standard error: a line an event, nothing while a worker is timing."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.run: CorpusRun | None = None

    def say(self, line: str) -> None:
        if not self.quiet:
            tell(line)

    def plan(self, run: CorpusRun, prepared: Preparation, seconds: float) -> None:
        self.run = run
        grid, lengths = run.grid, run.corpus.lengths
        self.say(f"{grid.model}: {run.origin}")
        self.say(f"corpus: {run.corpus.source}; {sum(lengths):,} tokens")
        self.say(
            f"plan: {count(run.planned, 'cell')} ({count(len(grid.contestants), 'contestant')} × "
            f"{count(len(run.corpus_plan.batches), 'batch size')} × {count(len(run.corpus_plan.orders), 'order')}) on "
            f"{grid.device} with {count(grid.threads, 'thread')}, about {duration(seconds)} of passes"
        )
        for contestant, refusal in prepared.refused.items():
            self.say(f"cannot run: {contestant.label} {contestant.precision}: {refusal.reason}")
        missing = prepared.missing_exports()
        self.say(f"to export: {', '.join(missing) if missing else 'nothing, all in the store'}")
        self.say(f"records: {run.path}")

    def progress(self, records: list[CorpusRecord], seconds_left: float) -> None:
        assert self.run is not None
        done = len(self.run.records) - len(records)
        for record in records:
            done += 1
            left = f"  ({duration(seconds_left)} left)" if record is records[-1] else ""
            left = "  (done)" if done == self.run.planned else left
            label = f"{record.contestant.label} {record.precision}"
            self.say(f"[{done}/{self.run.planned}] {record.packing!s:>11} {label:<20} {_outcome(record)}{left}")

    def interrupted(self) -> None:
        """Say what is kept."""
        if self.run is None or self.run.path is None or not self.run.path.exists():
            tell("bench: stopped before anything was measured")
            return
        kept = count(len(self.run.records), "record")
        tell(f"bench: stopped; {kept} kept in {self.run.path}. Show them with: bench report {self.run.path}")


def _outcome(record: CorpusRecord) -> str:
    if record.status == "ok":
        return f"{record.ns_per_sample / 1e6:.2f} ms/sample  {record.verdict}".rstrip()
    return f"{record.status}: {record.reason}" if record.reason else record.status
