"""`compare` and `resume`: one run from arguments to records. The command line is a thin layer over these."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import machine
from bench.errors import UserError
from bench.passes import Passes
from bench.preparation import Preparation
from bench.records import SCHEMA, Record, Run
from bench.runfile import RunFile, peaks_line, read_run
from bench.spec import (
    DEFAULT_BATCHES,
    DEFAULT_LENGTHS,
    TARGET_PRECISION,
    Contestant,
    Grid,
    Shape,
    TimingPlan,
    check_lengths,
    check_seed,
    command_of,
    parse_boundary,
    parse_contestants,
    parse_share,
    parse_sizes,
)
from exporters import checkpoint, sources
from exporters.store import ArtifactStore, recipe_key

DEFAULT_ARTIFACTS = "artifacts"
DEFAULT_BACKENDS = ("eager", "onnx", "torchscript")

#: Rough speed that a plan's time is guessed from, in FLOP/s: per thread on the CPU, per GPU.
GUESSED_FLOPS = {"cpu": 4e10, "cuda": 2e13}
#: The pause before a turn and the calls that settle it.
SECONDS_BESIDE_A_TURN = 0.11


@dataclass
class Listener:
    """What a run tells while it goes on; each is called between timed calls, never during one."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[Run, Preparation], None] = lambda run, prepared: None
    progress: Callable[[list[Record], float], None] = lambda records, seconds_left: None


def compare(
    model: str,
    *,
    backends: str | Iterable[str] = DEFAULT_BACKENDS,
    batches: str | Iterable[int] = DEFAULT_BATCHES,
    lengths: str | Iterable[int] | None = None,
    device: str = "auto",
    precisions: str | Iterable[str] = ("fp32",),
    threads: int | None = None,
    weights: str = "auto",
    task: str = "base",
    rounds: int = TimingPlan.rounds,
    max_seconds_per_cell: float = TimingPlan.seconds_per_cell,
    target_precision: str | float | None = None,
    naive_timer: bool = False,
    boundary: str = "device",
    grad: bool = False,
    timeout: float = TimingPlan.timeout_seconds,
    plan: TimingPlan | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    artifacts: str | Path = DEFAULT_ARTIFACTS,
    listener: Listener | None = None,
) -> Run:
    """Export, time and judge `model` on every backend at every batch × length; returns the Run.

    `backends` are names like "eager" or "compile:max-autotune"; `lengths` are in tokens and
    default to those of 16, 128 and 512 that the model has positions for. `target_precision` is a share or
    "2%" (default: 2 % on the CPU, 1 % on a GPU). `boundary` "host" times copies from and to the host. `grad`
    adds eager with autograd on. `plan` settles every detail of timing, in place of `rounds`,
    `max_seconds_per_cell`, `target_precision`, `naive_timer` and `timeout` (seconds). Records are written to
    `output` (default: a new file under ARTIFACTS/runs) as they come. Raises UserError for wrong
    input before anything starts, and BenchError when the run cannot go on.
    """
    contestants = parse_contestants(backends, precisions)
    if grad:
        contestants = _with_grad(contestants)
    parse_boundary(boundary)
    batch_sizes = parse_sizes(batches, "--batches")
    length_sizes = None if lengths is None else parse_sizes(lengths, "--lengths")
    check_seed(seed)
    budget = machine.thread_budget(threads)
    settled_device = machine.settle_device(device)
    source = sources.resolve(model, weights=weights, task=task, seed=seed)
    if length_sizes is None:
        length_sizes = tuple(n for n in DEFAULT_LENGTHS if source.positions is None or n <= source.positions)
    shapes = tuple(Shape(batch, length) for batch in batch_sizes for length in length_sizes)
    check_lengths(shapes, model, source.positions)
    grid = Grid(model, contestants, shapes, settled_device, budget, weights, task, seed, boundary)
    if target_precision is None:
        target_precision = TARGET_PRECISION[settled_device]
    share = parse_share(target_precision, "--target-precision")
    plan = plan or TimingPlan(
        rounds, max_seconds_per_cell, timeout_seconds=timeout, target_precision=share, naive_timer=naive_timer
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
        path=Path(output) if output else default_output(Path(artifacts), model, now),
    )
    run.command = command_of(grid, run.plan, grid.contestants, grid.shapes)
    assert run.path is not None
    store = ArtifactStore(Path(artifacts))
    with sole_writer(store, run.path):
        return _measure(run, source, store, listener or Listener(), is_new=True)


def resume(path: str | Path, *, artifacts: str | Path = DEFAULT_ARTIFACTS, listener: Listener | None = None) -> Run:
    """Go on with an interrupted run: shapes that lack a record are measured, whole, so that turns stay interleaved.

    Raises UserError when `path` is no run, or was begun on another machine.
    """
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
        recorded = {(record.shape, record.contestant) for record in run.records}
        torn = {shape for shape, contestant in run.grid.cells() if (shape, contestant) not in recorded}
        if run.is_complete and not torn:
            (listener or Listener()).say(f"nothing is left to measure in {path}")
            return run
        if run.schema < SCHEMA:
            raise UserError(
                f"{str(path)!r} was begun by an older bench (schema {run.schema}), under other rules; start a new run"
            )
        run.records = [record for record in run.records if record.shape not in torn or record.turns == "sequential"]
        run.is_complete = False
        return _measure(run, source, store, listener or Listener(), is_new=False)


def _with_grad(contestants: tuple[Contestant, ...]) -> tuple[Contestant, ...]:
    """`contestants` with eager's variant `grad` behind eager, at each of its precisions."""
    if not any(contestant.backend == "eager" for contestant in contestants):
        raise UserError("--grad is eager's alone, and eager is not among the backends; use --backends eager,…")
    both = []
    for contestant in contestants:
        both.append(contestant)
        if contestant.backend == "eager" and contestant.variant == "default" and contestant.copy == 1:
            both.append(Contestant("eager", "grad", contestant.precision))
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


def _measure(run: Run, source: sources.ModelSource, store: ArtifactStore, listener: Listener, is_new: bool) -> Run:
    assert run.path is not None
    file = RunFile(run.path)
    if is_new:
        file.create(run)
    else:
        file.rewrite(run)
    prepared = Preparation(run.grid, source, store, run.plan.timeout_seconds, listener.say)
    listener.plan(run, prepared)
    pace = Pace(guessed_seconds(source, run))

    def progress(records: list[Record]) -> None:
        done = sum(guessed_cell_seconds(source, run, record.shape) for record in records)
        listener.progress(records, pace.seconds_left_after(done))

    try:
        prepared.make()
        _note_peaks(run, prepared, file)
        run.parent_cpu_share = Passes(run, prepared, file.append, listener.say).measure(pace.start, progress)
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


def _note_peaks(run: Run, prepared: Preparation, file: RunFile, again: bool = False) -> None:
    """Have the run and its file know what this machine can do at most."""
    run.peaks = prepared.peaks(again=again) or run.peaks
    if run.peaks is not None:
        file.append(peaks_line(run.peaks))


class Pace:
    """Time left, from the guessed seconds of what is left and how the guess has held so far."""

    def __init__(self, guessed_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.left, self.done, self._clock = guessed_seconds, 0.0, clock
        self.start()

    def start(self) -> None:
        """Note that measuring begins now."""
        self._started = self._clock()

    def seconds_left_after(self, guessed: float) -> float:
        """Seconds left once what was guessed to take `guessed` seconds is done."""
        self.done += guessed
        self.left = max(0.0, self.left - guessed)
        return self.left * (self._clock() - self._started) / self.done if self.done else self.left


def guessed_seconds(source: sources.ModelSource, run: Run) -> float:
    """Rough seconds until every cell of `run` has its record; a plan's guess and no figure."""
    recorded = {(record.shape, record.contestant) for record in run.records}
    return sum(guessed_cell_seconds(source, run, cell[0]) for cell in run.grid.cells() if cell not in recorded)


def guessed_cell_seconds(source: sources.ModelSource, run: Run, shape: Shape) -> float:
    """Rough seconds that one contestant takes at one shape."""
    grid, plan = run.grid, run.plan
    speed = GUESSED_FLOPS[grid.device] * (grid.threads if grid.device == "cpu" else 1)
    call = source.flops(shape.batch, shape.length) / speed
    warm_up = max(plan.warmup_calls * call, plan.warmup_seconds)
    rounds = min(max(plan.rounds, plan.least_rounds), max(plan.least_rounds, plan.seconds_per_cell / max(call, 1e-9)))
    return 3 * call + warm_up + rounds * (max(plan.turn_seconds, call) + SECONDS_BESIDE_A_TURN)
