"""`compare` and `resume`: one run from arguments to records. The command line is a thin layer over these."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from backends import load_class
from bench import doubling, machine
from bench.budget import Budget, Spending, choose, parse_budget
from bench.errors import BenchError, UserError
from bench.guesses import Pace, guessed_cell_seconds, guessed_seconds, most_cell_seconds, most_shape_seconds
from bench.passes import Passes
from bench.preparation import Preparation
from bench.process import peaks
from bench.process.environments.asking import changed_versions, check_environments
from bench.process.environments.stored import settle_candidates
from bench.records import OLDEST_RESUMED_SCHEMA, Record, Run
from bench.run.model import MakeInputs, find_source, introduced
from bench.runfile import RunFile, peaks_line, read_run
from bench.spec import (
    DEFAULT_ARTIFACTS,
    MODULE,
    TARGET_PRECISION,
    Candidate,
    Grid,
    Shape,
    TimingPlan,
    artifacts_option,
    check_lengths,
    check_seed,
    command_of,
    parse_boundary,
    parse_share,
)
from bench.workloads import presets
from bench.workloads.presets import Preset
from exporters import checkpoint, sources
from exporters.store import ArtifactStore, recipe_key

DEFAULT_BACKENDS = ("eager", "onnx", "torchscript")


@dataclass
class Listener:
    """What a run tells while it goes on; each is called between timed calls, never during one."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[Run, Preparation], None] = lambda run, prepared: None
    progress: Callable[[list[Record], float], None] = lambda records, seconds_left: None


def compare(
    model: Any = None,
    *,
    make_inputs: MakeInputs | None = None,
    preset: str | Path | None = None,
    backends: str | Iterable[str] | None = None,
    batches: str | Iterable[int] | None = None,
    lengths: str | Iterable[int] | None = None,
    device: str = "auto",
    precisions: str | Iterable[str] | None = None,
    threads: int | None = None,
    weights: str = "auto",
    task: str | None = None,
    rounds: int | None = None,
    max_seconds_per_cell: float = TimingPlan.seconds_per_cell,
    target_precision: str | float | None = None,
    naive_timer: bool | None = None,
    boundary: str = "device",
    tf32: bool = False,
    grad: bool | None = None,
    timeout: float = TimingPlan.timeout_seconds,
    budget: str | float | None = None,
    plan: TimingPlan | None = None,
    seed: int = 0,
    python: str | Iterable[str] = (),
    output: str | Path | None = None,
    artifacts: str | Path = DEFAULT_ARTIFACTS,
    floors: bool = True,
    listener: Listener | None = None,
) -> Run:
    """Export, time and judge `model` on every backend at every batch × length; returns the Run.

    `model` is a name, a folder, "path/to/file.py:factory" or a torch.nn.Module; with a module goes
    `make_inputs(batch, length, seed)`, which returns name -> array or tensor, batch first, in the order of forward's
    arguments. Without it the module is a language model with a `vocab_size`, and forward takes input_ids, and
    attention_mask where it has an argument of that name.

    `preset` is a name that `bench list presets` shows or the path of a .toml file; what is given beside it replaces
    its own. Without one, `backends` (names like "eager" or "compile:max-autotune") are eager, onnx and torchscript,
    `batches` 1 and 8 ("auto": doubled at each length while throughput gains 5 %), `precisions` fp32, `task` "base"
    and `rounds` 10; `lengths` are in tokens and default to those of 16, 128 and 512 that the model has positions for.
    `target_precision` is a share or
    "2%" (default: 2 % on the CPU, 1 % on a GPU). `boundary` "host" times copies from and to the host. `grad`
    adds eager with autograd on. `tf32` lets fp32 products on a GPU round their inputs to TF32.
    `budget` ("20m", "90s", "1h", or seconds) is what the run may last in all; what does
    not fit is left out. Without `floors` nothing is held against what this machine can do at most. `plan` settles every
    detail of timing, in place of `rounds`, `max_seconds_per_cell`, `target_precision`, `naive_timer` and `timeout`
    (seconds). `python` ("onnx@old=PATH", or several) has a backend run by the interpreter of another environment.
    Records are written to `output` (default: a new file under ARTIFACTS/runs) as they come. Raises UserError for wrong
    input before anything starts, and BenchError when the run cannot go on.
    """
    begun = time.monotonic()
    given = presets.load(preset) if preset is not None else None
    if model is None and given is None:
        raise UserError("no model was given; name one, e.g. bert, or a preset")
    wanted = given.backends if given else DEFAULT_BACKENDS
    contestants, pythons = settle_candidates(
        wanted if backends is None else backends,
        (given.precisions if given else ("fp32",)) if precisions is None else precisions,
        python,
        Path(artifacts),
    )
    has_eager = any(contestant.backend == "eager" for contestant in contestants)
    if grad or (grad is None and given and given.grad and has_eager):
        contestants = with_grad(contestants)
    parse_boundary(boundary)
    check_seed(seed)
    budgeted = None if budget is None else parse_budget(budget)
    if budgeted is not None and presets.is_auto(batches):
        raise UserError("--budget has no share for --batches auto, which are not known beforehand; give e.g. 1,4,16")
    threads = machine.thread_budget(threads)
    settled_device = machine.settle_device(device)
    machine.check_tf32(tf32, settled_device)
    task = task if task is not None else given.task if given else "base"
    store, listener = ArtifactStore(Path(artifacts)), listener or Listener()
    source = find_source(
        model if model is not None else given.model if given else "",
        store, make_inputs=make_inputs, weights=weights, task=task, seed=seed, threads=threads, say=listener.say,
    )  # fmt: skip
    name, task = source.name, source.task
    shapes = presets.shapes_of(given, batches, lengths, source.positions)
    check_lengths(shapes, name, source.positions)
    weights = MODULE if source.weights == MODULE else weights
    doubled = doubling.AUTO if presets.is_auto(batches) else ""
    grid = Grid(
        name, contestants, shapes, settled_device, threads, weights, task, seed, boundary, doubled, pythons, tf32
    )
    check_environments(grid, store.root)
    if target_precision is None:
        target_precision = TARGET_PRECISION[settled_device]
    plan = plan or TimingPlan(
        rounds if rounds is not None else given.rounds if given else TimingPlan.rounds,
        max_seconds_per_cell,
        timeout_seconds=timeout,
        target_precision=parse_share(target_precision, "--target-precision"),
        naive_timer=naive_timer if naive_timer is not None else bool(given and given.naive_timer),
    )
    now = datetime.now(UTC)
    run = Run(
        grid=grid,
        plan=plan,
        fingerprint=machine.fingerprint(),
        origin=source.origin,
        checkpoint=recipe_key(checkpoint.recipe(source)),
        command="",
        started=now.isoformat(timespec="seconds"),
        path=Path(output) if output else default_output(Path(artifacts), name, now),
    )
    if given is not None:
        run.preset = {"name": given.name, "title": given.title, "source": given.source}
        run.published = given.published(grid)
    has_sizes = given is None or shapes != given.shapes
    run.command = command_of(grid, plan, contestants, shapes, _beside(run, given, budgeted, store.root), has_sizes)
    assert run.path is not None
    with sole_writer(store, run.path):
        if budgeted is not None:
            _keep_within(run, source, store, *budgeted, listener.say)
        return _measure(run, source, store, listener, is_new=True, begun=begun, floors=floors)


def _beside(run: Run, given: Preset | None, budgeted: tuple[str, float] | None, root: Path) -> list[str]:
    """Words of the run's command that stand beside the options of its grid and plan."""
    words = artifacts_option(root)
    if given is not None:
        words += ["--preset", given.name]
        has_grad = any((c.backend, c.variant) == ("eager", "grad") for c in run.grid.contestants)
        words += ["--no-grad"] if given.grad and not has_grad else []
        words += ["--no-naive-timer"] if given.naive_timer and not run.plan.naive_timer else []
    return words if budgeted is None else [*words, "--budget", budgeted[0]]


def _keep_within(
    run: Run, source: sources.ModelSource, store: ArtifactStore, text: str, seconds: float, say: Callable[[str], None]
) -> None:
    """Choose the shapes that the budget of `seconds` has time for, by what is known of this machine's speed."""
    grid = run.grid
    classes = {load_class(contestant.backend) for contestant in grid.contestants}
    if any(backend.spec.computes_the_model for backend in classes):
        precisions = sorted({grid.computed_in(contestant.precision) for contestant in grid.contestants})
        try:
            run.peaks = peaks.measure(store.root, grid.device, precisions, grid.threads, run.plan.timeout_seconds, say)
        except BenchError as error:
            say(f"the budget is shared out by a guess, as the machine's peaks could not be measured: {error}")
    guesses = {shape: most_shape_seconds(source, run, shape) for shape in grid.shapes}
    run.budget = Budget(text, seconds, choose(grid.shapes, guesses, seconds))
    left_out = [str(shape) for shape in grid.shapes if shape not in set(run.budget.kept)]
    total = sum(guesses[shape] for shape in run.budget.kept)
    fits = f"--budget {text} has time for {len(run.budget.kept)} of {len(grid.shapes)} shapes (about {total:.0f} s)"
    say(fits + (f"; left out: {', '.join(left_out)}" if left_out else ""))


def resume(path: str | Path, *, artifacts: str | Path = DEFAULT_ARTIFACTS, listener: Listener | None = None) -> Run:
    """Go on with an interrupted run: shapes that lack a record are measured, whole, so that turns stay interleaved.

    Raises UserError when `path` is no run, or was begun on another machine.
    """
    begun = time.monotonic()
    store = ArtifactStore(Path(artifacts))
    with sole_writer(store, Path(path)):
        run = read_run(Path(path))
        if differing := machine.same_machine(run.fingerprint, machine.fingerprint()):
            raise UserError(
                f"{str(path)!r} was begun on another machine ({', '.join(differing)} differ); start a new run there"
            )
        source = sources.resolve(run.grid.model, weights=run.grid.weights, task=run.grid.task, seed=run.grid.seed)
        if source.origin != run.origin or recipe_key(checkpoint.recipe(source)) != run.checkpoint:
            raise UserError(
                f"{str(path)!r} was begun with other weights or libraries ({run.origin}; now {source.origin}); "
                "start a new run"
            )
        versions = {record.contestant: record.facts.get("versions", {}) for record in run.records}
        if changed := changed_versions(run.grid.contestants, run.grid.device, run.grid.pythons, store.root, versions):
            raise UserError(f"{str(path)!r} was begun with other versions ({changed[0]}); start a new run")
        source = introduced(source, store, run.grid.threads, (listener or Listener()).say)
        recorded = {(record.shape, record.contestant) for record in run.records}
        torn = {shape for shape, contestant in run.grid.cells() if (shape, contestant) not in recorded}
        if run.is_complete and not torn:
            (listener or Listener()).say(f"nothing is left to measure in {path}")
            return run
        if run.schema < OLDEST_RESUMED_SCHEMA:
            raise UserError(
                f"{str(path)!r} was begun by an older bench (schema {run.schema}), under other rules; start a new run"
            )
        run.records = [record for record in run.records if record.shape not in torn or record.turns == "sequential"]
        run.is_complete = False
        return _measure(run, source, store, listener or Listener(), is_new=False, begun=begun)


def with_grad(contestants: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """`contestants` with eager's variant `grad` behind eager, at each of its precisions."""
    if not any(contestant.backend == "eager" for contestant in contestants):
        raise UserError("--grad is eager's alone, and eager is not among the backends; use --backends eager,…")
    both = []
    for contestant in contestants:
        both.append(contestant)
        if contestant.backend == "eager" and contestant.variant == "default" and contestant.copy == 1:
            both.append(replace(contestant, variant="grad"))
    return tuple(dict.fromkeys(both))


@contextmanager
def sole_writer(store: ArtifactStore, path: Path) -> Iterator[None]:
    """Keep other runs off the file `path`, and `prune` off the store."""
    store.prepare()
    with store.in_use(), store.alone_with(path) as is_alone:
        if not is_alone:
            raise UserError(f"{str(path)!r} is being written by another bench; wait for it, or give another --output")
        yield


def default_output(artifacts: Path, model: str, now: datetime) -> Path:
    """A new file's name under ARTIFACTS/runs, from the model's name and the time."""
    name = "".join(
        character if character.isalnum() or character in "-." else "-" for character in Path(model).name or model
    )
    return artifacts / "runs" / f"{name}-{now:%Y%m%d-%H%M%S-%f}.jsonl"


def _measure(
    run: Run,
    source: sources.ModelSource,
    store: ArtifactStore,
    listener: Listener,
    is_new: bool,
    begun: float,
    floors: bool = True,
) -> Run:
    assert run.path is not None
    file = RunFile(run.path)
    if is_new:
        file.create(run)
    else:
        file.rewrite(run)
    grid, budget = run.grid, run.budget

    spending = Spending(
        budget, grid.shapes, partial(most_cell_seconds, source, run), run.spent_seconds + time.monotonic() - begun
    )
    kept = replace(grid, shapes=_first_shapes(run))
    prepared = Preparation(kept, source, store, run.plan.timeout_seconds, listener.say)
    listener.plan(run, prepared)
    pace = Pace(guessed_seconds(source, run))

    def progress(records: list[Record]) -> None:
        done = sum(
            guessed_cell_seconds(source, run, record.shape) for record in records if record.shape in run.sure_shapes
        )
        listener.progress(records, pace.seconds_left_after(done))

    try:
        prepared.make()
        if is_new and run.peaks is not None:  # the budget's choice has measured them
            file.append(peaks_line(run.peaks))
        elif floors:
            _note_peaks(run, prepared, file)
        passes = Passes(run, prepared, file.append, listener.say, spending)
        run.parent_cpu_share = passes.measure(pace.start, progress)
        run.is_complete = True
        if any(run.is_implausible(record) for record in run.records):
            listener.say("some cells lie below their floor; is it the floor that is wrong?")
            _note_peaks(run, prepared, file, again=True)
    except UserError:
        # The model's exact positions are known only once it is built; nothing was measured.
        if is_new and not run.records:
            run.path.unlink(missing_ok=True)
        raise
    return run


def _first_shapes(run: Run) -> tuple[Shape, ...]:
    """Shapes whose references are made before anything is timed, in the order of the grid."""
    if run.is_doubling:
        first = doubling.BATCHES[: doubling.TOGETHER]
        return tuple(shape for shape in run.grid.shapes if shape.batch in first)
    kept = set(run.sure_shapes)
    return tuple(shape for shape in run.grid.shapes if shape in kept)


def _note_peaks(run: Run, prepared: Preparation, file: RunFile, again: bool = False) -> None:
    """Have the run and its file know what this machine can do at most."""
    run.peaks = prepared.peaks(again=again) or run.peaks
    if run.peaks is not None:
        file.append(peaks_line(run.peaks))
