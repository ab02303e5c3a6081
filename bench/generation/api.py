"""`generate`: one run of generations from arguments to records. The command line is a thin layer over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.api import default_output, sole_writer
from bench.errors import UserError
from bench.generation.driver import Generations
from bench.generation.plan import GenerationPlan, check_sizes, parse_decoding, variants_of
from bench.generation.preparation import GenerationPreparation
from bench.generation.records import GenerationRecord, GenerationRun
from bench.linesfile import LinesFile
from bench.parity.matrix import Matrix
from bench.process.environments.asking import check_environments
from bench.process.environments.stored import settle_candidates
from bench.run.model import find_source
from bench.runfile import peaks_line
from bench.spec import (
    DEFAULT_ARTIFACTS,
    MODULE,
    TARGET_PRECISION,
    Grid,
    Shape,
    TimingPlan,
    check_lengths,
    check_seed,
    parse_share,
    parse_sizes,
)
from exporters import checkpoint, sources
from exporters.store import ArtifactStore, recipe_key

DEFAULT_BACKENDS = ("eager", "onnx", "torchscript")
DEFAULT_ROUNDS, DEFAULT_SECONDS = 5, 60.0
#: What references and weights are counted on: a pass over one token.
ONE_TOKEN = Shape(1, 1)


@dataclass
class Listener:
    """What a run tells while it goes on; each is called between timed generations, never during one."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[GenerationRun, GenerationPreparation], None] = lambda run, prepared: None
    progress: Callable[[list[GenerationRecord]], None] = lambda records: None


def generate(
    model: Any,
    *,
    backends: str | Iterable[str] = DEFAULT_BACKENDS,
    prompt_length: int = GenerationPlan.prompt_length,
    new_tokens: int = GenerationPlan.new_tokens,
    batches: str | Iterable[int] = (1,),
    decoding: str = "greedy",
    top_k: int = 40,
    temperature: float = 0.7,
    device: str = "auto",
    precisions: str | Iterable[str] = ("fp32",),
    tf32: bool = False,
    threads: int | None = None,
    weights: str = "auto",
    rounds: int = DEFAULT_ROUNDS,
    max_seconds_per_cell: float = DEFAULT_SECONDS,
    target_precision: str | float | None = None,
    timeout: float = TimingPlan.timeout_seconds,
    plan: TimingPlan | None = None,
    seed: int = 0,
    python: str | Iterable[str] = (),
    output: str | Path | None = None,
    artifacts: str | Path = DEFAULT_ARTIFACTS,
    listener: Listener | None = None,
) -> GenerationRun:
    """Time `model`, with its language model's head, generating `new_tokens` tokens on every backend; returns the run.

    `model` is a name, a folder, "file.py:factory" or a torch.nn.Module with a step; see the README.
    Prompts are `prompt_length` random ids, seeded, one a sequence of each of `batches`; nothing ends before its last
    token. `decoding` is "greedy", "sample" (`top_k`, `temperature`) or "beam:4". The other arguments are those of
    `compare`; `plan` settles every detail of timing in their place. Raises UserError for wrong input before anything
    starts, and BenchError when the run cannot go on.
    """
    contestants, pythons = settle_candidates(backends, precisions, python, Path(artifacts), variants_of)
    batch_sizes = parse_sizes(batches, "--batches")
    generation = GenerationPlan(prompt_length, new_tokens, parse_decoding(decoding, top_k, temperature))
    check_seed(seed)
    budget = machine.thread_budget(threads)
    settled_device = machine.settle_device(device)
    machine.check_tf32(tf32, settled_device)
    store, listener = ArtifactStore(Path(artifacts)), listener or Listener()
    source = find_source(model, store, weights=weights, task="lm", seed=seed, threads=budget, say=listener.say)
    if not source.is_decoder:
        lacks = "offers no step" if source.weights == MODULE else "is no decoder"
        raise UserError(f"{source.name} {lacks}, so it generates nothing; use e.g. --model gpt2")
    model, weights = source.name, MODULE if source.weights == MODULE else weights
    check_sizes(prompt_length, new_tokens, model, source.positions)
    share = parse_share(TARGET_PRECISION[settled_device] if target_precision is None else target_precision,
                        "--target-precision")  # fmt: skip
    timing = plan or TimingPlan(rounds, max_seconds_per_cell, timeout_seconds=timeout, target_precision=share)
    grid = Grid(
        model, contestants, (ONE_TOKEN,), settled_device, budget, weights, "lm", seed, pythons=pythons, tf32=tf32
    )
    check_environments(grid, store.root)
    now = datetime.now(UTC)
    run = GenerationRun(
        grid=grid,
        batches=batch_sizes,
        generation=generation,
        plan=timing,
        fingerprint=machine.fingerprint(),
        origin=source.origin,
        checkpoint=recipe_key(checkpoint.recipe(source)),
        command="",
        started=now.isoformat(timespec="seconds"),
        path=Path(output) if output else default_output(Path(artifacts), f"{model}-generate", now),
    )
    run.command = run.command_of(contestants, batch_sizes)
    assert run.path is not None
    with sole_writer(store, run.path):
        return _measure(run, source, store, listener)


def _measure(
    run: GenerationRun, source: sources.ModelSource, store: ArtifactStore, listener: Listener
) -> GenerationRun:
    assert run.path is not None
    file = LinesFile(run.path)
    file.create(run.header())
    generation = run.generation
    matrix = Matrix(
        # Two prompts where there is room for both, so that rows that are mixed up are seen.
        ids=("random", "zipf") if max(run.batches) > 1 else ("random",),
        masks=("full",),
        new_tokens=generation.new_tokens,
        prompt_length=generation.prompt_length,
        is_timed=True,
    )
    prepared = GenerationPreparation(run.grid, source, store, run.plan.timeout_seconds, listener.say, matrix)
    listener.plan(run, prepared)
    try:
        prepared.make()
        if prepared.weights is not None:
            check_lengths([Shape(1, generation.room)], run.grid.model, prepared.weights.metadata["positions"])
        if (found := prepared.peaks()) is not None:
            run.peaks = found
            file.append(peaks_line(found))
        driver = Generations(run, prepared, file.append, listener.say)
        run.parent_cpu_share = driver.measure(lambda: None, listener.progress)
        run.is_complete = True
    except UserError:
        if not run.records:
            run.path.unlink(missing_ok=True)
        raise
    return run
