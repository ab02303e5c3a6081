"""`measure_memory`: what each model holds once it is loaded, and the largest batch that fits. One file of results."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import api, machine
from bench.errors import UserError
from bench.footprint import boundary
from bench.footprint.results import KIND, Largest, Loaded, MemoryRun, Subject, as_line
from bench.footprint.tries import AboveLimitError, Tries
from bench.linesfile import LinesFile
from bench.parity.references import Say
from bench.preparation import Preparation
from bench.process.channel import WorkerError
from bench.process.environments.asking import check_environments
from bench.process.environments.stored import settle_candidates
from bench.run.model import find_source
from bench.spec import (
    DAY_SECONDS,
    DEFAULT_ARTIFACTS,
    MODULE,
    Candidate,
    Grid,
    Shape,
    check_lengths,
    check_seed,
    check_timeout,
    model_option,
    parse_names,
    parse_size,
    parse_sizes,
    python_options,
    tf32_option,
    weights_options,
)
from bench.workers import start_worker
from exporters import sources
from exporters.store import ArtifactStore

DEFAULT_LENGTH = 512
MOST_BATCH = 4096
SEARCH_SECONDS = 900.0
#: Share of what is free that the limit leaves alone unless the user gives one, and the least of it: the system, this
#: process, and on a GPU the context, which no allocator counts.
MARGIN_SHARE, MARGIN_BYTES = 0.1, {"cpu": 512 * 2**20, "cuda": 2**30}


def measure_memory(
    models: str | Iterable[str],
    *,
    backends: str | Iterable[str] = api.DEFAULT_BACKENDS,
    precisions: str | Iterable[str] = ("fp32",),
    tf32: bool = False,
    lengths: str | Iterable[int] | None = None,
    largest_batch: bool = False,
    memory_limit: str | int | None = None,
    most_batch: int = MOST_BATCH,
    max_seconds_per_search: float = SEARCH_SECONDS,
    device: str = "auto",
    threads: int | None = None,
    weights: str = "auto",
    task: str = "base",
    seed: int = 0,
    timeout: float = 900.0,
    python: str | Iterable[str] = (),
    output: str | Path | None = None,
    artifacts: str | Path = DEFAULT_ARTIFACTS,
    say: Say = lambda line: None,
) -> MemoryRun:
    """Load each of `models` on every backend and note what is held before any input; returns the MemoryRun.

    `lengths` (tokens; by default 512 as far as a model goes) are what keys and values are reckoned at, and with
    `largest_batch` those at which the largest batch within `memory_limit` (bytes or "8GiB"; by default what is free
    less a margin) is looked for, with gradients too where a backend runs so. A search ends at `most_batch`, or once
    `max_seconds_per_search` are over. `python` ("BACKEND=PATH") gives backends an interpreter of their own; `tf32` lets
    fp32 products on a GPU be computed in TF32. Entries are written to `output` (default: a new file under
    ARTIFACTS/runs) as they come. Raises UserError for wrong input before anything starts, and BenchError when it cannot
    go on.
    """
    contestants, pythons = settle_candidates(backends, precisions, python, Path(artifacts))
    asked = None if lengths is None else parse_sizes(lengths, "--length")
    names = (models,) if isinstance(models, str) else parse_names(models, "--model")
    (most_batch,) = parse_sizes([most_batch], "--most-batch")
    if not 0 < max_seconds_per_search <= DAY_SECONDS:
        raise UserError(f"--max-seconds-per-search {max_seconds_per_search} is not above 0 and at most a day; use 900")
    check_seed(seed)
    check_timeout(timeout)
    budget = machine.thread_budget(threads)
    settled = machine.settle_device(device)
    machine.check_tf32(tf32, settled)
    store = ArtifactStore(Path(artifacts))
    found = [find_source(name, store, weights=weights, task=task, seed=seed, threads=budget, say=say) for name in names]
    subjects = tuple(_subject(source, asked) for source in found)
    limit = _limit(memory_limit, settled, largest_batch)
    if largest_batch:
        contestants = _with_gradients(contestants)
    grids = [
        Grid(
            s.name,
            contestants,
            tuple(Shape(1, n) for n in s.lengths),
            settled,
            budget,
            MODULE if source.weights == MODULE else weights,
            source.task,
            seed,
            pythons=pythons,
            tf32=tf32,
        )
        for s, source in zip(subjects, found, strict=True)
    ]
    check_environments(grids[0], store.root)  # contestants are the same for every model
    now = datetime.now(UTC)
    name = f"{names[0]}-{KIND}" if len(names) == 1 else f"{len(names)}-models-{KIND}"
    run = MemoryRun(
        subjects=subjects,
        device=settled,
        threads=budget,
        precisions=tuple(dict.fromkeys(contestant.precision for contestant in contestants)),
        task=task,
        fingerprint=machine.fingerprint(),
        command=_command_of(grids, limit, most_batch, max_seconds_per_search, timeout),
        started=now.isoformat(timespec="seconds"),
        limit_bytes=limit,
        tf32=tf32,
        path=Path(output) if output else api.default_output(Path(artifacts), name, now),
    )
    assert run.path is not None
    store.prepare()
    with store.in_use():
        file = LinesFile(run.path)
        file.create(run.header())
        say(f"entries: {run.path}")
        try:
            for grid, source in zip(grids, found, strict=True):
                prepared = Preparation(grid, source, store, timeout, say)
                prepared.make(with_references=False)
                _measure(run, prepared, file, most_batch, max_seconds_per_search)
        except UserError:
            # The model's exact positions are known only once it is built; nothing was measured.
            if not run.loaded:
                run.path.unlink(missing_ok=True)
            raise
        file.append({"kind": "end"})
        run.is_complete = True
    return run


def _subject(source: sources.ModelSource, asked: tuple[int, ...] | None) -> Subject:
    lengths = asked or (min(DEFAULT_LENGTH, source.positions or DEFAULT_LENGTH),)
    check_lengths([Shape(1, length) for length in lengths], source.name, source.positions)
    return Subject(source.name, source.origin, source.positions, lengths, source.keys_and_values)


def _limit(asked: str | int | None, device: str, is_wanted: bool) -> int | None:
    """Bytes that a worker may hold; raises UserError for a limit that this machine cannot grant."""
    if not is_wanted:
        if asked is not None:
            raise UserError("--memory-limit bounds the search for the largest batch; add --largest-batch")
        return None
    if device == "cuda":
        cards = machine.gpus()
        free = int(cards[0]["free_bytes"]) if cards else 0
    else:
        free = machine.available_memory_bytes()
    margin = max(round(free * MARGIN_SHARE), MARGIN_BYTES[device])
    if asked is None:
        if free <= margin:
            raise UserError(f"only {free / 2**30:.1f} GiB of memory are free; close something, or use --memory-limit")
        return free - margin
    limit = parse_size(asked, "--memory-limit")
    if limit < 1:
        raise UserError(f"--memory-limit {str(asked)[:40]!r} is no memory at all; write e.g. --memory-limit 8GiB")
    if limit > free:
        raise UserError(
            f"--memory-limit {limit / 2**30:.1f} GiB is above the {free / 2**30:.1f} GiB that are free now, so the "
            "machine could swap or kill; use less, or leave it out"
        )
    return limit


def _with_gradients(contestants: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """`contestants` with eager's variant `grad` behind eager."""
    has_eager = any(contestant.backend == "eager" for contestant in contestants)
    return api.with_grad(contestants) if has_eager else contestants


def _measure(run: MemoryRun, prepared: Preparation, file: LinesFile, most_batch: int, seconds: float) -> None:
    """Every entry of one model, written as it comes."""
    for contestant in prepared.grid.contestants:
        loaded = None
        # With gradients a loaded model holds what it holds without.
        if contestant.variant != "grad" or replace(contestant, variant="default") not in prepared.grid.contestants:
            loaded = _load(prepared, contestant)
            run.loaded.append(loaded)
            file.append(as_line(loaded))
            prepared.say(f"{loaded.model} {contestant.label} {contestant.precision}: {loaded.reason or 'loaded'}")
        if run.limit_bytes is None or (loaded is not None and loaded.status != "ok"):
            continue
        for shape in prepared.grid.shapes:
            entry = _search(prepared, contestant, shape.length, run.limit_bytes, most_batch, seconds)
            run.largest.append(entry)
            file.append(as_line(entry))


def _load(prepared: Preparation, contestant: Candidate) -> Loaded:
    """What one contestant holds once its model is loaded, in a worker of its own."""
    who, timeout = _names(prepared, contestant), prepared.timeout_seconds
    if contestant in prepared.refused:
        refusal = prepared.refused[contestant]
        return Loaded(**who, **_failure(refusal))
    worker = start_worker(prepared, contestant)
    try:
        told = worker.request({"op": "hello"}, timeout)["versions"]
        before = worker.request({"op": "survey"}, timeout)
        reply = worker.request({"op": "load"}, timeout)
        held = reply["memory"] | worker.request({"op": "survey"}, timeout)
    except WorkerError as error:
        return Loaded(**who, **_failure(error))
    finally:
        worker.kill()
    versions = prepared.versions(contestant, told)
    return Loaded(**who, load_seconds=reply["seconds"], memory=held, before=before, versions=versions)


def _names(prepared: Preparation, contestant: Candidate) -> dict[str, Any]:
    """The fields of an entry that say whose it is."""
    return {"model": prepared.source.name, **asdict(contestant)}


def _failure(error: WorkerError) -> dict[str, Any]:
    """The fields of an entry that say why there is no figure."""
    return {"status": error.status, "reason": error.reason, "failure": error.details}


def _search(
    prepared: Preparation, contestant: Candidate, length: int, limit_bytes: int, most_batch: int, seconds: float
) -> Largest:
    """The largest batch of one contestant at one length."""
    who: dict[str, Any] = {**_names(prepared, contestant), "length": length, "limit_bytes": limit_bytes}
    backend = prepared.classes[contestant]
    label = f"{prepared.source.name} {contestant.label} {contestant.precision}, length {length}"
    if contestant in prepared.refused:
        refusal = prepared.refused[contestant]
        return Largest(**who, **_failure(refusal))
    if prepared.grid.device != "cpu" and not backend.spec.limits_device_memory:
        reason = f"{contestant.backend} cannot be kept within a limit on {prepared.grid.device}; leave it out"
        return Largest(**who, status="unsupported", reason=reason)
    tries = Tries(prepared, contestant, length, limit_bytes, prepared.timeout_seconds)
    told: dict[str, Any] = {}
    try:
        outcome = boundary.find(_told(tries, label, prepared.say), most_batch, _until(seconds))
        if outcome.too_large is not None:
            refusal = tries.refusals[outcome.too_large]
            told = {"reason": refusal.reason, "failure": refusal.details}
    except AboveLimitError as above:
        held = f"takes {above.taken_bytes / 2**20:.0f} MiB" if above.taken_bytes is not None else f"fails: {above}"
        reason = f"the loaded model alone {held}, and the limit is {limit_bytes / 2**20:.0f} MiB"
        return Largest(**who, status="above-limit", reason=reason, taken_bytes=above.taken_bytes)
    except WorkerError as error:
        outcome = tries.unfinished()
        told = _failure(error)
    return Largest(**who, **told, taken_bytes=tries.taken_bytes, boundary=outcome, tries=tries.made)


def _told(tries: Tries, label: str, say: Say) -> Callable[[int], bool]:
    """`tries.fits`, with a line on what each batch came to."""

    def fits(batch: int) -> bool:
        answer = tries.fits(batch)
        say(f"{label}: batch {batch} {'fits' if answer else 'does not fit'} ({tries.made[-1].seconds:.1f} s)")
        return answer

    return fits


def _until(seconds: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], bool]:
    """True as long as `seconds` are not over."""
    end = clock() + seconds
    return lambda: clock() < end


def _command_of(
    grids: Iterable[Grid], limit: int | None, most_batch: int, max_seconds_per_search: float, timeout: float
) -> str:
    """The command line that measures the same."""
    planned = list(grids)
    grid = planned[0]
    words = ["bench", "memory", *(word for one in planned for option in model_option(one).items() for word in option)]
    shown = [c.label for c in grid.contestants if limit is None or c.variant != "grad"]
    options = {
        "--backends": ",".join(dict.fromkeys(shown)),
        "--precisions": ",".join(dict.fromkeys(contestant.precision for contestant in grid.contestants)),
        "--length": ",".join(str(shape.length) for shape in grid.shapes),
        "--device": grid.device,
        "--threads": grid.threads,
        **weights_options(grid),
        "--seed": grid.seed,
        "--timeout": f"{timeout:g}",
    }
    words += [str(word) for option in options.items() for word in option]
    words += [*python_options(grid, grid.contestants), *tf32_option(grid)]
    if limit is not None:
        words += ["--largest-batch", "--memory-limit", str(limit), "--most-batch", str(most_batch)]
        words += ["--max-seconds-per-search", f"{max_seconds_per_search:g}"]
    return shlex.join(words)
