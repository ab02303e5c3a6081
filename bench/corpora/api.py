"""`measure_corpus`: whole passes over a corpus, from arguments to records. The command line is a thin layer over it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.api import DEFAULT_BACKENDS, default_output, sole_writer
from bench.corpora import sentences as corpora
from bench.corpora.passes import CorpusPasses
from bench.corpora.plan import (
    DEFAULT_BATCHES,
    MOST_SHAPES,
    CorpusPlan,
    Packing,
    PaddedBatch,
    check_sizes,
    pack,
    parse_orders,
)
from bench.corpora.records import Baseline, CorpusRecord, CorpusRun
from bench.corpora.references import CorpusReferences
from bench.corpora.runfile import WRITER, read_corpus_run
from bench.errors import UserError
from bench.guesses import GUESSED_FLOPS, Pace
from bench.linesfile import LinesFile
from bench.parity.inputs import INPUTS
from bench.preparation import Preparation
from bench.process.environments.asking import check_environments
from bench.process.environments.stored import settle_candidates
from bench.run.model import find_source
from bench.spec import (
    DEFAULT_ARTIFACTS,
    MODULE,
    Candidate,
    Grid,
    Shape,
    TimingPlan,
    check_seed,
    model_option,
    parse_boundary,
    parse_sizes,
    python_options,
    tf32_option,
    weights_options,
)
from exporters import checkpoint, sources
from exporters.store import ArtifactStore, recipe_key

#: Seconds that a worker may be silent: one pass, or all compilations and a pass.
TIMEOUT_SECONDS = 3600.0
WARMUP_SECONDS = 0.3
#: Calls of each shape and one pass, beside the timed ones.
PASSES_BESIDE = 2
SECONDS_OF_A_CALL = 0.002


@dataclass
class CorpusListener:
    """What a run tells while it goes on; each is called between timed passes, never during one."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[CorpusRun, Preparation, float], None] = lambda run, prepared, seconds: None
    progress: Callable[[list[CorpusRecord], float], None] = lambda records, seconds_left: None


def measure_corpus(
    model: Any,
    *,
    backends: str | Iterable[str] = DEFAULT_BACKENDS,
    texts: str | Path | None = None,
    lengths_from: str | Path | None = None,
    synthetic: int | None = None,
    sentences: int | None = None,
    batches: str | Iterable[int] = DEFAULT_BATCHES,
    order: str | Iterable[str] = ("unsorted", "sorted"),
    bucket: int | None = None,
    most_shapes: int = MOST_SHAPES,
    rounds: int = 5,
    tokenizer: str | Path | None = None,
    max_tokens: int | None = None,
    device: str = "auto",
    precisions: str | Iterable[str] = ("fp32",),
    tf32: bool = False,
    threads: int | None = None,
    weights: str = "auto",
    task: str = "base",
    boundary: str = "device",
    baseline: str | Path | None = None,
    seed: int = 0,
    timeout: float = TIMEOUT_SECONDS,
    plan: TimingPlan | None = None,
    python: str | Iterable[str] = (),
    output: str | Path | None = None,
    artifacts: str | Path = DEFAULT_ARTIFACTS,
    listener: CorpusListener | None = None,
) -> CorpusRun:
    """Time whole passes of `model` over a corpus of sentences on every backend, batch size and order; returns the run.

    `model` is a name, a folder, "file.py:factory" or a torch.nn.Module that takes ids and an attention mask.
    The corpus is `texts` (a file, one sentence a line), the lengths in `lengths_from`, `synthetic` drawn ones, or by
    default `sentences` (1000) of this project's own where a tokenizer is found. Each of `rounds` rounds is one pass.
    `baseline` is a file of a run on the CPU, whose eager at batch 1 speed-ups are also against. `plan` settles every
    detail of timing in place of `rounds` and `timeout` (seconds). Raises UserError for wrong input before anything
    starts, and BenchError when the run cannot go on.
    """
    contestants, pythons = settle_candidates(backends, precisions, python, Path(artifacts))
    corpus_plan = CorpusPlan(
        parse_sizes(batches, "--batches"),
        parse_orders(order if isinstance(order, str) else tuple(order)),
        bucket,
        most_shapes,
        plan.rounds if plan else rounds,
    )
    parse_boundary(boundary)
    check_seed(seed)
    timing = plan or TimingPlan(
        rounds, warmup_seconds=WARMUP_SECONDS, warmup_most_seconds=WARMUP_SECONDS, timeout_seconds=timeout
    )
    budget = machine.thread_budget(threads)
    settled_device = machine.settle_device(device)
    machine.check_tf32(tf32, settled_device)
    listener, store = listener or CorpusListener(), ArtifactStore(Path(artifacts))
    source = find_source(model, store, weights=weights, task=task, seed=seed, threads=budget, say=listener.say)
    if source.inputs != INPUTS:
        raise UserError(
            f"{source.name} takes no attention mask, so sentences cannot be padded for it; add one to its forward"
        )

    model, task = source.name, source.task
    weights = MODULE if source.weights == MODULE else weights
    corpus, note = corpora.make(
        source,
        texts=_path(texts),
        lengths_from=_path(lengths_from),
        synthetic=synthetic,
        sentences=sentences,
        text_tokenizer=_path(tokenizer),
        max_tokens=max_tokens,
        seed=seed,
    )
    if note:
        listener.say(note)
    check_sizes(corpus_plan, len(corpus.ids))
    lengths = corpus.lengths
    packed = {packing: pack(lengths, corpus_plan, packing, source.positions, seed) for packing in corpus_plan.packings}
    shapes = {Shape(packing.batch, max(one.length for one in found)) for packing, found in packed.items()}
    grid = Grid(
        model, contestants, tuple(sorted(shapes)), settled_device, budget, weights, task, seed, boundary,
        pythons=pythons, tf32=tf32,
    )  # fmt: skip
    check_environments(grid, store.root)
    now = datetime.now(UTC)
    run = CorpusRun(
        grid=grid,
        plan=timing,
        corpus_plan=corpus_plan,
        corpus=corpus.summary(),
        fingerprint=machine.fingerprint(),
        origin=source.origin,
        checkpoint=recipe_key(checkpoint.recipe(source)),
        command="",
        started=now.isoformat(timespec="seconds"),
        path=Path(output) if output else default_output(Path(artifacts), f"{Path(model).name}-corpus", now),
    )
    corpus_options = {
        "--texts": texts, "--lengths-from": lengths_from, "--synthetic": synthetic, "--sentences": sentences,
        "--tokenizer": tokenizer, "--max-tokens": max_tokens, "--baseline": baseline,
    }  # fmt: skip

    def command(contestants: Iterable[Candidate], packings: Iterable[Packing]) -> str:
        return _command_of(run, tuple(contestants), tuple(packings), corpus_options)

    run.command = command(contestants, corpus_plan.packings)
    run.baseline = _baseline(Path(baseline), run) if baseline is not None else None
    assert run.path is not None
    with sole_writer(store, run.path):
        file = LinesFile(run.path)
        file.create(run.header())
        prepared = Preparation(grid, source, store, timing.timeout_seconds, listener.say)
        references = CorpusReferences(grid, source, store, timing.timeout_seconds, listener.say, corpus, packed)
        prepared.judged_by = references
        guessed = {packing: _guessed_seconds(source, run, packed[packing]) for packing in packed}
        pace = Pace(sum(guessed.values()) * len(contestants))
        listener.plan(run, prepared, pace.left)

        def progress(records: list[CorpusRecord]) -> None:
            listener.progress(records, pace.seconds_left_after(sum(guessed[one.packing] for one in records)))

        try:
            prepared.make()
            passes = CorpusPasses(
                run, prepared, references, packed, lambda who, where: command([who], [where]), file.append, listener.say
            )
            run.parent_cpu_share = passes.measure(pace.start, progress)
            run.is_complete = True
        except UserError:
            if not run.records:  # nothing was measured
                run.path.unlink(missing_ok=True)
            raise
    return run


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _baseline(path: Path, run: CorpusRun) -> Baseline:
    """Eager at batch 1 on the CPU from a file; raises UserError where it is of another corpus or model."""
    other = read_corpus_run(path)
    found = other.one
    if other.grid.device != "cpu":
        raise UserError(f"--baseline {str(path)!r} was measured on {other.grid.device}; give a run on the CPU")
    for name, mine, its in (
        ("corpus", run.corpus.checksum, other.corpus.checksum),
        ("model", run.grid.model, other.grid.model),
        ("task", run.grid.task, other.grid.task),
        ("weights", run.origin.partition(";")[0], other.origin.partition(";")[0]),
        ("boundary", run.grid.boundary, other.grid.boundary),
        ("bucket", run.corpus_plan.multiple("unsorted"), other.corpus_plan.multiple("unsorted")),
        ("precision", run.grid.contestants[0].precision, other.first.precision),
    ):
        if mine != its:
            raise UserError(f"--baseline {str(path)!r} is of another {name} ({its} and {mine}); measure it alike")
    if found is None or found.status != "ok":
        raise UserError(
            f"--baseline {str(path)!r} has no {other.first.label} at batch 1, unsorted; measure that on the CPU first"
        )
    if found.judged and (found.backend, found.variant) != ("eager", "default"):
        raise UserError(f"--baseline {str(path)!r} has no eager, only {other.first.label}; measure eager there too")
    return Baseline(found, str(other.fingerprint.get("cpu", "")), other.grid.threads, other.started)


def _guessed_seconds(source: sources.ModelSource, run: CorpusRun, batches: list[PaddedBatch]) -> float:
    """Rough seconds that one contestant takes in one packing; a plan's guess and no figure."""
    speed = GUESSED_FLOPS[run.grid.device] * (run.grid.threads if run.grid.device == "cpu" else 1)
    one_pass = sum(SECONDS_OF_A_CALL + source.flops(*batch.shape) / speed for batch in batches)
    return (PASSES_BESIDE + run.plan.rounds) * one_pass + run.plan.warmup_seconds


def _command_of(
    run: CorpusRun,
    contestants: tuple[Candidate, ...],
    packings: tuple[Packing, ...],
    corpus_options: Mapping[str, Any],
) -> str:
    """The command line that measures `contestants` in `packings` under the run's other options."""
    grid, plan = run.grid, run.corpus_plan
    options: dict[str, Any] = {
        **model_option(grid),
        "--backends": ",".join(dict.fromkeys(contestant.label for contestant in contestants)),
        **corpus_options,
        "--batches": ",".join(str(batch) for batch in dict.fromkeys(packing.batch for packing in packings)),
        "--order": ",".join(dict.fromkeys(packing.order for packing in packings)),
        "--bucket": plan.bucket,
        "--most-shapes": plan.most_shapes,
        "--rounds": run.plan.rounds,
        "--device": grid.device,
        "--precisions": ",".join(dict.fromkeys(contestant.precision for contestant in contestants)),
        "--threads": grid.threads,
        **weights_options(grid),
        "--boundary": grid.boundary,
        "--seed": grid.seed,
        "--timeout": f"{run.plan.timeout_seconds:g}",
    }
    given = ((option, value) for option, value in options.items() if value is not None)
    words = (str(part) for entry in given for part in entry)
    return shlex.join([*WRITER.split(), *words, *python_options(grid, contestants), *tf32_option(grid)])
