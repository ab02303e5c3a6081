"""One run from options to records: the only way to a record. `measure` is the whole program on one page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine
from bench.errors import Say, UserError
from bench.options import CommonOptions, declaration, spelling
from bench.process.environments.asking import changed_versions
from bench.process.environments.stored import check_given_again, parse_pythons, settle_candidates
from bench.run import early
from bench.run.budget import Budget, budget_of
from bench.run.driver import Driver
from bench.run.file import RunFile, check_unaltered, read_run
from bench.run.listener import Listener
from bench.run.model import MakeInputs, find_source, introduced, named_module
from bench.run.preparation import Preparation
from bench.run.record import Model, Run
from bench.run.workload import Workload
from bench.spec import Candidate
from bench.traffic import Traffic
from exporters import checkpoint, sources
from exporters.errors import ModelError
from exporters.sources import MODULE, ModelSource
from exporters.store import ArtifactStore, StoreError, recipe_key


def measure(
    workload: type[Workload],
    options: CommonOptions,
    listener: Listener | None = None,
    *,
    model: Any = None,
    make_inputs: MakeInputs | None = None,
) -> Run:
    """Export, measure and judge a model on every candidate at every point of a workload; returns the Run.

    `model` is a torch.nn.Module in memory, in place of the one that `options` name, with `make_inputs(batch, length,
    seed)` if it makes its inputs itself. Records are in a file as they come. Raises UserError for wrong input before
    anything starts, and BenchError if the run cannot go on.
    """
    began, listener = time.monotonic(), listener or Listener()
    with leaves_translated():
        candidates, options = settle(workload, options)
        store = ArtifactStore(Path(options.artifacts))
        source = source_of(options, store, listener.say, model, make_inputs)
        options = workload.settle(replace(options, model=source.name, task=source.task), source)
        run = _planned(workload(options), source, candidates)
        prepared = Preparation(run, source, store, listener.say)
        with sole_writer(store, run, listener.say):
            file = RunFile(run)
            file.create()
            return _measure(run, prepared, listener, file, began)


def resume(
    path: str | Path,
    *,
    artifacts: str | Path = "artifacts",
    listener: Listener | None = None,
    until_decided: str | float | None = None,
    traffic: str | Path | Traffic | None = None,
    module: str | None = None,
    python: str | Iterable[str] = (),
) -> Run:
    """Go on with an interrupted run of any workload, from the turns that are there.

    `python` gives again the interpreters ("onnx@old=PATH") that the run began with: none is started for a file's sake.
    `until_decided` ("5m", or seconds from now) goes on with a whole run too, beyond its ceilings, until it is known
    what to take, for `traffic` if that is given (a file, or Traffic); only `bench compare` has both. `module` names the
    user's own module again: none is imported for a file's sake. Raises UserError if `path` is no run, was altered, or
    was begun on another machine, with other weights or versions.
    """
    began, listener, path = time.monotonic(), listener or Listener(), Path(path)
    store = ArtifactStore(Path(artifacts))
    with leaves_translated():
        run = read_run(path)
        with sole_writer(store, run, listener.say):
            run = read_run(path)  # nobody else writes on it from here on
            if python or not run.is_complete or until_decided is not None:
                check_given_again(run.options.python, python, path)
            _go_on_until(run, until_decided, traffic)
            if run.is_complete and until_decided is None:
                listener.say(f"nothing is left to measure in {path}")
                return run
            source = _same_source(run, module, store, listener)
            run.workload.check_unchanged(source)
            _check_unchanged(run, store)
            prepared = Preparation(run, source, store, listener.say)
            run.is_complete = False
            file = RunFile(run)
            file.go_on()
            return _measure(run, prepared, listener, file, began, run.notes.get("spent_seconds", 0.0))


def _go_on_until(run: Run, until_decided: str | float | None, traffic: str | Path | Traffic | None) -> None:
    """Set the time that a resumed run has for its decision, and its traffic; raises UserError if it makes none."""
    declared = {one.name: declaration(one) for one in run.options.declared()}
    given: dict[str, Any] = {"until_decided": until_decided, "traffic": traffic}
    if "until_decided" not in declared:
        for name in (name for name, value in given.items() if value is not None):
            raise UserError(f"{spelling(name)} is of bench compare, and {str(run.path)!r} is of {run.options.command}")
        return
    if traffic is None:
        del given["traffic"]  # it goes on for its own, if it has one
    parsed: dict[str, Any] = {
        name: None if value is None else declared[name].parse(value, spelling(name)) for name, value in given.items()
    }
    run.workload.options = run.workload.weighed(replace(run.options, **parsed))


def measure_prepared(run: Run, prepared: Preparation, listener: Listener | None = None) -> Run:
    """Measure a run whose artifacts are at hand, e.g. in a bundle: nothing is exported, and what has no reference is
    unjudged.

    Raises UserError if its file cannot be made, and BenchError if the run cannot go on.
    """
    file = RunFile(run)
    file.create()
    try:
        file.note("artifacts", prepared.what_was_loaded())
        budget = Budget(run.workload.in_order())
        Driver(run, prepared, file, listener or Listener(), budget, time.monotonic()).measure()
        run.is_complete = True
    finally:
        file.seal()
    return run


def _measure(
    run: Run, prepared: Preparation, listener: Listener, file: RunFile, command_began: float, spent_seconds: float = 0.0
) -> Run:
    """Prepare, drive the workers, and seal the file however that ends; `spent_seconds` were in earlier sessions."""
    began, driver = command_began - spent_seconds, None
    has_peaks = False

    def note_peaks() -> None:
        nonlocal has_peaks
        if not has_peaks:
            _note_peaks(run, prepared, file)
        has_peaks = True

    try:
        budget = budget_of(run, prepared.source, file, listener.say)
        listener.plan(run, prepared)
        driver = Driver(run, prepared, file, listener, budget, began, command_began, note_peaks)
        prepared.make(budget.first(run.workload), partial(early.show, driver), partial(early.expect, driver))
        file.note("artifacts", prepared.what_was_loaded())
        if not run.workload.tells_early:
            note_peaks()
        driver.measure()
        note_peaks()
        for name, value in run.workload.conclude(run, prepared).items():
            file.note(name, value)
        if any(run.is_implausible(record) for record in run.records):
            listener.say("some medians lie below their roofline; the machine's peaks are measured again")
            _note_peaks(run, prepared, file, again=True)
        run.is_complete = True
    except UserError:
        # The model's exact positions are known only once it is built; nothing was measured.
        if not run.records and not run.turns and run.path is not None:
            run.path.unlink(missing_ok=True)
        raise
    finally:
        if driver is not None:
            driver.pool.close()
        if run.path is not None and run.path.exists():
            file.note("spent_seconds", round(time.monotonic() - began, 3))
            file.seal()
    return run


# Settling.


def settle(workload: type[Workload], options: CommonOptions) -> tuple[tuple[Candidate, ...], CommonOptions]:
    """Candidates, and options with device, threads and interpreters settled; raises UserError."""
    found, pythons = settle_candidates(
        options.backends, options.precisions, options.python, Path(options.artifacts), workload.variants_of
    )
    candidates = workload.candidates(options, found)
    labels = [candidate.label for candidate in candidates]
    if options.baseline is not None and options.baseline not in labels:
        raise UserError(f"--baseline {options.baseline!r} is none of the candidates; use one of {', '.join(labels)}")
    device = machine.settle_device(options.device)
    settled = replace(
        options,
        device=device,
        threads=machine.thread_budget(options.threads),
        python=tuple(f"{place}={path}" for place, path in pythons),
    )
    machine.check_tf32(options.tf32, settled.kind)
    return candidates, settled


def source_of(
    options: CommonOptions, store: ArtifactStore, say: Say, model: Any = None, make_inputs: MakeInputs | None = None
) -> ModelSource:
    """The model that settled options name, or `model` in memory."""
    named = options.module if options.module is not None else options.model
    return find_source(
        named if model is None else model, store, make_inputs=make_inputs,
        weights=MODULE if options.module is not None else options.weights, task=options.task, seed=options.seed,
        threads=options.settled_threads, say=say, timeout_seconds=options.timeout,
    )  # fmt: skip


def _planned(workload: Workload, source: ModelSource, candidates: tuple[Candidate, ...]) -> Run:
    now, options = datetime.now(UTC), workload.options
    return Run(
        workload=workload,
        model=model_of(source),
        candidates=candidates,
        fingerprint=machine.fingerprint(),
        started=now.isoformat(timespec="seconds"),
        notes=dict(workload.notes(source)),
        path=Path(options.output) if options.output else default_output(options, workload.name, now),
    )


def model_of(source: ModelSource) -> Model:
    """What a run says of its model."""
    key = recipe_key(checkpoint.recipe(source))
    return Model(source.name, source.origin, source.weights, key, source.task, source.positions)


def default_output(options: CommonOptions, workload: str, now: datetime) -> Path:
    """A new file's name under ARTIFACTS/runs, from the model's name, the workload and the time."""
    name = Path(options.model).name or options.model
    name = "".join(character if character.isalnum() or character in "-." else "-" for character in name)
    return Path(options.artifacts) / "runs" / f"{name}-{workload}-{now:%Y%m%d-%H%M%S-%f}.jsonl"


def _note_peaks(run: Run, prepared: Preparation, file: RunFile, again: bool = False) -> None:
    """Have the run and its file know what this machine can do at most."""
    if not run.workload.has_roofline:
        return
    if (found := prepared.peaks(again=again)) is not None:
        file.note("peaks", found.to_json())


# Resuming.


def _same_source(run: Run, module: str | None, store: ArtifactStore, listener: Listener) -> ModelSource:
    """The model that a run was begun with; raises UserError if it is another one by now."""
    options = run.options
    if differing := machine.same_machine(run.fingerprint, machine.fingerprint()):
        raise UserError(
            f"{str(run.path)!r} was begun on another machine ({', '.join(differing)} differ); start a new run there"
        )
    check_unaltered(run)
    weights = MODULE if run.model.weights == MODULE else options.weights
    found = sources.resolve(named_module(run, module), weights=weights, task=run.model.task, seed=options.seed)
    if found.origin != run.model.origin or recipe_key(checkpoint.recipe(found)) != run.model.checkpoint:
        raise UserError(
            f"{str(run.path)!r} was begun with other weights or libraries ({run.model.origin}; now {found.origin}); "
            "start a new run"
        )
    return introduced(found, store, options.settled_threads, listener.say, options.timeout)


def _check_unchanged(run: Run, store: ArtifactStore) -> None:
    """Raise UserError if a candidate would run with other versions than before."""
    versions = {record.candidate: record.facts.get("versions", {}) for record in run.records}
    options = run.options
    pythons = parse_pythons(options.python)
    if changed := changed_versions(run.candidates, options.kind, pythons, store.root, versions):
        raise UserError(f"{str(run.path)!r} was begun with other versions ({changed[0]}); start a new run")


# The doors.


@contextmanager
def sole_writer(store: ArtifactStore, run: Run, say: Say) -> Iterator[None]:
    """Keep other runs off the file of `run`, and `prune` off the store."""
    assert run.path is not None
    store.prepare()
    with store.in_use(say), store.alone_with(run.path) as is_alone:
        if not is_alone:
            raise UserError(
                f"{str(run.path)!r} is being written by another bench; wait for it, or give another --output"
            )
        yield


@contextmanager
def leaves_translated() -> Iterator[None]:
    """Raise UserError for what the exporters and the store refuse."""
    try:
        yield
    except (ModelError, StoreError) as error:
        raise UserError(str(error)) from None
