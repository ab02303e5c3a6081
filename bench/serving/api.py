"""`measure_load`: requests that arrive at a rate, from arguments to records. The command line is a thin layer on it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.api import DEFAULT_BACKENDS, default_output, sole_writer
from bench.budget import parse_budget
from bench.errors import UserError
from bench.linesfile import LinesFile
from bench.parity.inputs import INPUTS
from bench.preparation import Preparation
from bench.process.environments.asking import check_environments
from bench.process.environments.stored import settle_candidates
from bench.run.model import find_source
from bench.run.search import MOST_TRIAL_SECONDS
from bench.serving import plan as plans
from bench.serving.passes import LoadPasses
from bench.serving.plan import MOST_SHAPES, LoadPlan, schedule
from bench.serving.records import LoadRecord, LoadRun
from bench.serving.references import LoadReferences
from bench.serving.runfile import WRITER
from bench.spec import (
    DAY_SECONDS,
    DEFAULT_ARTIFACTS,
    MODULE,
    Candidate,
    Grid,
    TimingPlan,
    check_lengths,
    check_seed,
    check_timeout,
    model_option,
    python_options,
    tf32_option,
    weights_options,
)
from bench.traffic import Traffic, parse_slo, read_traffic
from exporters import checkpoint
from exporters.store import ArtifactStore, recipe_key

DEFAULT_RATE = 10.0
DEFAULT_DURATION = "30s"


@dataclass
class LoadListener:
    """What a run tells while it goes on; each is called between slices, never during one."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[LoadRun, Preparation], None] = lambda run, prepared: None
    progress: Callable[[list[LoadRecord]], None] = lambda records: None


def measure_load(
    model: Any,
    *,
    backends: str | Iterable[str] = DEFAULT_BACKENDS,
    rate: float = DEFAULT_RATE,
    duration: str | float = DEFAULT_DURATION,
    traffic: Traffic | str | Path | None = None,
    batching: str = "none",
    slo: str | None = None,
    search: bool = True,
    search_requests: int | None = None,
    rounds: int = 5,
    bucket: int | None = None,
    most_shapes: int = MOST_SHAPES,
    device: str = "auto",
    precisions: str | Iterable[str] = ("fp32",),
    tf32: bool = False,
    threads: int | None = None,
    weights: str = "auto",
    task: str = "base",
    seed: int = 0,
    timeout: float = TimingPlan.timeout_seconds,
    python: str | Iterable[str] = (),
    output: str | Path | None = None,
    artifacts: str | Path = DEFAULT_ARTIFACTS,
    listener: LoadListener | None = None,
) -> LoadRun:
    """Serve `model` on every backend to requests that arrive by themselves, `rate` a second; returns the LoadRun.

    Arrivals are a Poisson process of about `duration` ("30s", "2m" or seconds), shapes are drawn from `traffic` (a file
    with batch, length and maybe count, or Traffic), and every backend gets the same. `batching` is "none", or
    "dynamic:8:5ms": queued requests are joined up to 8 rows, and the first waits at most 5 ms for more. With `slo`
    ("p95=20ms", several with commas) each backend is judged at `rate`, and unless `search` is False the largest rate
    that keeps it is looked for, with `search_requests` at each rate. `model` is a name, a folder, "file.py:factory" or
    a torch.nn.Module that takes ids and an attention mask. Records are written to `output` (default: a new file under
    ARTIFACTS/runs) as they come. Raises UserError for wrong input before anything starts, and BenchError when the run
    cannot go on.
    """
    contestants, pythons = settle_candidates(backends, precisions, python, Path(artifacts))
    slos = parse_slo(slo) if slo is not None else ()
    if search_requests is not None and not (slos and search):
        raise UserError(f"--search-requests {search_requests} is for a search, which needs --slo, e.g. --slo p95=20ms")
    load = LoadPlan(
        rate=rate,
        duration_seconds=parse_budget(duration, "--duration")[1],
        rounds=rounds,
        batching=batching,
        slos=slos,
        search_requests=(search_requests or plans.settled_search_requests(slos)) if slos and search else None,
        bucket=bucket,
        most_shapes=most_shapes,
    )
    plans.check(load)
    check_seed(seed)
    check_timeout(timeout)
    settled_traffic = traffic if isinstance(traffic, Traffic) or traffic is None else read_traffic(Path(traffic))
    budget = machine.thread_budget(threads)
    settled_device = machine.settle_device(device)
    machine.check_tf32(tf32, settled_device)
    listener, store = listener or LoadListener(), ArtifactStore(Path(artifacts))
    source = find_source(model, store, weights=weights, task=task, seed=seed, threads=budget, say=listener.say)
    if source.inputs != INPUTS or source.makes_inputs:
        raise UserError(
            f"{source.name} takes no ids with an attention mask, so requests cannot be padded for it; "
            "give a model that does"
        )
    model, task = source.name, source.task
    weights = MODULE if source.weights == MODULE else weights
    served = settled_traffic or plans.assumed_traffic(source.positions)
    shapes = tuple(sorted(served.counts))
    check_lengths(shapes, model, source.positions)
    grid = Grid(model, contestants, shapes, settled_device, budget, weights, task, seed, pythons=pythons, tf32=tf32)
    check_environments(grid, store.root)
    longest = _longest_slice_seconds(load)
    timing = TimingPlan(rounds, timeout_seconds=min(DAY_SECONDS, timeout + longest))
    now = datetime.now(UTC)
    run = LoadRun(
        grid=grid,
        plan=timing,
        load=load,
        traffic=served,
        fingerprint=machine.fingerprint(),
        origin=source.origin,
        checkpoint=recipe_key(checkpoint.recipe(source)),
        command="",
        started=now.isoformat(timespec="seconds"),
        path=Path(output) if output else default_output(Path(artifacts), f"{Path(model).name}-load", now),
    )
    options = {
        "--traffic": traffic if isinstance(traffic, str | Path) else None,
        "--slo": slo,
        "--timeout": f"{timeout:g}",
    }
    run.command = _command_of(run, contestants, rate, options)
    assert run.path is not None
    with sole_writer(store, run.path):
        file = LinesFile(run.path)
        file.create(run.header())
        try:
            prepared = Preparation(grid, source, store, timing.timeout_seconds, listener.say)
            references = LoadReferences(grid, source, store, timing.timeout_seconds, listener.say, _judged_lengths(run))
            prepared.judged_by = references
            listener.plan(run, prepared)
            prepared.make()
            passes = LoadPasses(
                run, prepared, references, lambda who, at, step: _command_of(run, [who], at, options, step),
                file.append, listener.say,
            )  # fmt: skip
            run.parent_cpu_share = passes.measure(lambda: None, listener.progress)
            run.is_complete = True
        except UserError:
            if not run.records:  # nothing was measured
                run.path.unlink(missing_ok=True)
            raise
    return run


def _longest_slice_seconds(load: LoadPlan) -> float:
    """Seconds that one slice may last at most."""
    arrivals = max(load.duration_seconds, MOST_TRIAL_SECONDS if load.search_requests is not None else 0.0)
    return 2 * arrivals + 60


def _judged_lengths(run: LoadRun) -> list[int]:
    """The longest, the shortest, and that of the last request of each rate's last slice, which is in its last call."""
    lengths = [shape.length for shape in run.traffic.counts]
    found = {min(lengths), max(lengths)}
    for step in (0, 1) if run.load.search_requests is not None else (0,):
        last = run.load.slices_of(step) - 1
        found.add(schedule(run.traffic, 1.0, run.load.slice_of(step), run.grid.seed, last).shapes[-1].length)
    return sorted(found)


def _command_of(
    run: LoadRun,
    contestants: Iterable[Candidate],
    rate: float,
    given: Mapping[str, Any],
    step: int | None = None,
) -> str:
    """The command line that serves `contestants` at `rate` under the run's other options; of one `step`, no search."""
    grid, load = run.grid, run.load
    contestants, searches = list(contestants), load.search_requests is not None and step is None
    seconds = load.requests_of(step) / rate if step else load.duration_seconds
    options: dict[str, Any] = {
        **model_option(grid),
        "--backends": ",".join(dict.fromkeys(contestant.label for contestant in contestants)),
        "--rate": f"{rate:g}" if rate == float(f"{rate:g}") else repr(rate),
        "--duration": f"{seconds:.9g}s",
        **given,
        "--batching": load.batching,
        "--search-requests": load.search_requests if searches else None,
        "--rounds": load.rounds,
        "--bucket": load.bucket,
        "--most-shapes": load.most_shapes,
        "--device": grid.device,
        "--precisions": ",".join(dict.fromkeys(contestant.precision for contestant in contestants)),
        "--threads": grid.threads,
        **weights_options(grid),
        "--seed": grid.seed,
    }
    flags = [*python_options(grid, contestants), *tf32_option(grid)]
    flags += ["--no-search"] if load.slos and not searches else []
    words = (str(part) for option, value in options.items() if value is not None for part in (option, value))
    return shlex.join([*WRITER.split(), *words, *flags])
