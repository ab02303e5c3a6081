"""`tune`: search runtimes × variants × precisions × threads for the fastest way to run one shape or one traffic."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import api, machine
from bench.budget import parse_budget
from bench.choice.api import choose
from bench.choice.choice import ratio_between
from bench.errors import BenchError, UserError
from bench.process.environments.stored import parse_pythons
from bench.records import Run
from bench.run.model import find_source
from bench.spec import (
    DEFAULT_ARTIFACTS,
    PRECISIONS,
    Candidate,
    Shape,
    TimingPlan,
    artifacts_option,
    check_lengths,
    check_seed,
    command_of,
    parse_names,
    parse_share,
    parse_sizes,
)
from bench.statistics import Ratio
from bench.traffic import Traffic, read_traffic
from bench.tuning.halving import FINAL_ROUNDS, FINAL_SECONDS_PER_CELL, FINAL_TURNS, RUNGS, Rung, survivors
from bench.tuning.results import Goal, Outcome, Tuning, means, outcome_of
from bench.tuning.space import Space, Trial, asked_space, thread_counts, whole_space
from exporters.store import ArtifactStore

DEFAULT_BUDGET = "10m"
#: Shapes that stand for a traffic of more.
MOST_SHAPES = 6


@dataclass
class TuneListener:
    """What a search tells while it goes on; nothing is told during a timed call."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[Tuning, Space], None] = lambda tuning, space: None
    progress: Callable[[int, Trial, Outcome], None] = lambda rung, trial, outcome: None


def tune(
    model: str,
    *,
    batch: int = 1,
    length: int = 128,
    traffic: Traffic | str | Path | None = None,
    budget: str | float = DEFAULT_BUDGET,
    max_loss: str | float | None = None,
    backends: str | Iterable[str] | None = None,
    precisions: str | Iterable[str] | None = None,
    tf32: bool = False,
    threads: int | None = None,
    device: str = "auto",
    weights: str = "auto",
    task: str = "base",
    seed: int = 0,
    timeout: float = TimingPlan.timeout_seconds,
    python: str | Iterable[str] = (),
    output: str | Path | None = None,
    artifacts: str | Path = DEFAULT_ARTIFACTS,
    listener: TuneListener | None = None,
) -> Tuning:
    """Search for the fastest way to run `model` at `batch` × `length` (tokens), or for `traffic` (a file, or Traffic).

    Short comparisons of everything that is installed, longer ones of who is left (bench/tuning/halving.py), at last one
    under the usual rules; whoever is not the same model any more is out. `max_loss` is the largest RMSE over the
    reference's RMS that may be lost (0.02 or "2%"); without it fp32 alone is tried, and only what is exact or
    equivalent qualifies. `backends` are all that are installed unless named; `threads` the most that are tried.
    `budget` ("10m", or seconds): nothing begins that it has no time for, and what has begun is ended. `tf32` lets fp32
    products on a GPU round their inputs to TF32; `python` ("onnx@old=PATH", or several) has a backend tried in another
    environment. Raises UserError for wrong input.
    """
    begun = time.monotonic()
    text, seconds = parse_budget(budget)
    loss = None if max_loss is None else parse_share(max_loss, "--max-loss")
    if loss is not None and not 0 < loss < 1:
        raise UserError(f"--max-loss {loss:g} is not above 0 and below 1; use e.g. 2%")
    check_seed(seed)
    most_threads = machine.thread_budget(threads)
    settled = machine.settle_device(device)
    machine.check_tf32(tf32, settled)
    given = _precisions(precisions, settled, loss)
    pythons = parse_pythons(python)
    space = (
        whole_space(settled, given, Path(artifacts), pythons)
        if backends is None
        else asked_space(backends, settled, given, Path(artifacts), pythons)
    )
    if not space.contestants:
        raise UserError(f"no backend can be tried on {settled}; `bench list backends` shows what each needs")
    listener = listener or TuneListener()
    store = ArtifactStore(Path(artifacts))
    source = find_source(model, store, weights=weights, task=task, seed=seed, threads=most_threads, say=listener.say)
    goal = _goal(batch, length, traffic, loss)
    check_lengths(goal.shapes, source.name, source.positions)
    now = datetime.now(UTC)
    folder = api.default_output(Path(artifacts), f"{Path(model).name}-tune", now).with_suffix("")
    path = Path(output) if output else folder / "tuning.json"
    if path.exists():
        raise UserError(f"{str(path)!r} exists; give another --output")
    tuning = Tuning(
        source.name, settled, goal, text, now.isoformat(timespec="seconds"), "", machine.fingerprint(),
        not_tried=dict(space.left_out), path=path,
    )  # fmt: skip
    options = {
        "device": settled, "tf32": tf32, "weights": weights, "task": task, "seed": seed, "timeout": timeout,
    }  # fmt: skip
    tuning.command = _command(
        model, goal, batch, length, traffic, text, loss, backends, given, most_threads, options, pythons
    )
    search = _Search(tuning, model, folder, Path(artifacts), options, pythons, listener, begun, seconds)
    store.prepare()
    _check_output(path)
    listener.plan(tuning, space)
    try:
        search.run(space, thread_counts(most_threads, settled))
    finally:
        tuning.seconds = round(time.monotonic() - begun, 1)
        if tuning.rungs:
            _write(tuning)
    return tuning


def _precisions(asked: str | Iterable[str] | None, device: str, max_loss: float | None) -> tuple[str, ...]:
    """What is tried: as asked, else fp32, and all of them where something may be lost."""
    if asked is None:
        return ("fp32",) if max_loss is None else PRECISIONS
    found = parse_names(asked, "--precisions")
    if unknown := [name for name in found if name not in PRECISIONS]:
        raise UserError(f"unknown precision {unknown[0]!r}; use {','.join(PRECISIONS)}")
    return found


def _goal(batch: int, length: int, traffic: Traffic | str | Path | None, max_loss: float | None) -> Goal:
    if traffic is None:
        shape = Shape(parse_sizes([batch], "--batch")[0], parse_sizes([length], "--length")[0])
        return Goal(((shape, 1.0),), f"{shape} alone", max_loss)
    found = traffic if isinstance(traffic, Traffic) else read_traffic(Path(traffic))
    shares = representatives(found)
    told = found.source if len(shares) == len(found.counts) else f"{found.source}, by {len(shares)} shapes of it"
    return Goal(shares, told, max_loss)


def representatives(traffic: Traffic, most: int = MOST_SHAPES) -> tuple[tuple[Shape, float], ...]:
    """At most `most` shapes that stand for a traffic, each with the share of the requests that it stands for.

    Shapes in the order of their tokens are cut into groups of equal shares of all tokens; the one that is nearest to
    the mean tokens of its group's requests stands for it.
    """
    shares = traffic.shares()
    if len(shares) <= most:
        return tuple(shares)
    ordered = sorted(shares, key=lambda entry: (entry[0].batch * entry[0].length, entry[0]))
    work = [share * shape.batch * shape.length for shape, share in ordered]
    groups: dict[int, list[tuple[Shape, float]]] = {}
    passed, total = 0.0, sum(work)
    for (shape, share), tokens in zip(ordered, work, strict=True):
        groups.setdefault(min(most - 1, int(most * (passed + tokens / 2) / total)), []).append((shape, share))
        passed += tokens
    return tuple(_middle(group) for group in groups.values())


def _middle(group: Sequence[tuple[Shape, float]]) -> tuple[Shape, float]:
    """The shape nearest to the mean tokens of a group's requests, and the share of the whole group."""
    share = sum(part for _, part in group)
    mean = sum(part * shape.batch * shape.length for shape, part in group) / share
    return min((shape for shape, _ in group), key=lambda shape: abs(shape.batch * shape.length - mean)), share


class _Search:
    """The rungs, one after another, within the budget."""

    def __init__(
        self, tuning: Tuning, model: str, folder: Path, artifacts: Path, options: dict[str, Any],
        pythons: Sequence[tuple[str, str]], listener: TuneListener, begun: float, seconds: float,
    ) -> None:  # fmt: skip
        self.tuning, self.model, self.folder, self.artifacts = tuning, model, folder, artifacts
        self.options, self.pythons, self.listener = options, pythons, listener
        self.begun, self.seconds = begun, seconds

    def run(self, space: Space, counts: Sequence[int]) -> None:
        """Search, and settle the winner."""
        most = counts[0]
        left = self._rung(0, RUNGS[0], [Trial(contestant, most) for contestant in space.contestants])
        for number, rung in enumerate(RUNGS[1:], start=1):
            # Threads are tried from here on, by those that are left: who is far behind with all of them stays behind.
            wanted = [Trial(trial.contestant, count) for trial in left for count in counts]
            left = self._rung(number, rung, list(dict.fromkeys(wanted))) or left
        if left:
            self._finals(left)

    def _rung(self, number: int, rung: Rung, trials: Sequence[Trial]) -> list[Trial]:
        """Measure `trials` and return who goes on."""
        found: dict[Trial, Outcome] = {}
        self.tuning.rungs.append(found)
        plan = self._plan(rung.rounds, rung.seconds_per_cell)
        for group in _together(trials, one_by_one=number == 0):
            if self._spent() > rung.until and found:
                for trial in group:
                    self.tuning.not_tried.setdefault(trial.label, f"--budget {self.tuning.budget} had no time for it")
                continue
            outcomes = self._compared(group, plan, f"rung-{number + 1}", is_final=False)[0]
            found.update(outcomes)
            for trial, outcome in outcomes.items():
                self.listener.progress(number, trial, outcome)
        scores = {trial: outcome.score_ns for trial, outcome in found.items() if outcome.score_ns is not None}
        return survivors(scores, rung)

    def _finals(self, finalists: Sequence[Trial]) -> None:
        """The finalists under the usual rules; in turns of groups where they differ in threads."""
        plan = self._plan(FINAL_ROUNDS, FINAL_SECONDS_PER_CELL)
        groups = _together(finalists, one_by_one=False)
        turns = FINAL_TURNS if len(groups) > 1 else 1
        taken: list[dict[Trial, Outcome]] = []
        last: dict[Trial, Run] = {}
        for turn in range(turns):
            for group in groups if turn % 2 == 0 else list(reversed(groups)):
                outcomes, run = self._compared(group, plan, f"final-{turn + 1}", is_final=True)
                taken.append(outcomes)
                last.update(dict.fromkeys(group, run))
        found = means(taken)
        self.tuning.rungs.append(found)
        self.tuning.is_decided = True
        for trial, outcome in found.items():
            self.listener.progress(len(self.tuning.rungs) - 1, trial, outcome)
        order = sorted((o.score_ns, trial) for trial, o in found.items() if o.score_ns is not None)
        if order:
            self._take([trial for _, trial in order], last, {trial: score for score, trial in order})

    def _take(self, order: Sequence[Trial], runs: dict[Trial, Run], scores: dict[Trial, float]) -> None:
        winner, tuning = order[0], self.tuning
        tuning.winner, tuning.runner_up = winner, order[1] if len(order) > 1 else None
        if tuning.runner_up is not None:
            tuning.ratio = self._ratio(winner, tuning.runner_up, runs, scores)
        run = runs[winner]
        tuning.reproduce = command_of(
            run.grid, run.plan, [winner.contestant], run.grid.shapes, artifacts_option(self.artifacts)
        )

    def _ratio(self, winner: Trial, other: Trial, runs: dict[Trial, Run], scores: dict[Trial, float]) -> Ratio:
        """How many times faster the winner is: with an interval where both took turns in one comparison."""
        if runs[winner] is runs[other]:
            traffic = Traffic(dict(self.tuning.goal.shares), self.tuning.goal.source)
            weighed = {c.contestant: c for c in choose(runs[winner], traffic=traffic, min_parity="lossy").candidates}
            found = ratio_between(weighed[other.contestant], weighed[winner.contestant])
            if found is not None:
                return found
        return Ratio(scores[other] / scores[winner], None, FINAL_TURNS)

    def _compared(
        self, group: Sequence[Trial], plan: TimingPlan, name: str, is_final: bool
    ) -> tuple[dict[Trial, Outcome], Run]:
        """What one comparison says of trials that share their number of threads."""
        goal, threads = self.tuning.goal, group[0].threads
        contestants = [trial.contestant for trial in group]
        used = {contestant.place for contestant in contestants}
        python = [f"{place}={path}" for place, path in self.pythons if place in used]
        runs = []
        for batch in dict.fromkeys(shape.batch for shape in goal.shapes):  # a grid is a product, a traffic is none
            lengths = [shape.length for shape in goal.shapes if shape.batch == batch]
            output = self.folder / f"{len(self.tuning.runs) + 1:03}-{name}.jsonl"
            run = api.compare(
                self.model, backends=_labels(contestants), precisions=_precisions_of(contestants), batches=[batch],
                lengths=lengths, threads=threads, plan=plan, output=output, artifacts=self.artifacts,
                floors=is_final, listener=api.Listener(say=self.listener.say), **self.options, python=python,
            )  # fmt: skip
            self.tuning.runs.append(str(output))
            runs.append(run)
        merged = _joined(runs)
        return {trial: outcome_of(merged, trial.contestant, goal, is_final) for trial in group}, merged

    def _plan(self, rounds: int, seconds_per_cell: float) -> TimingPlan:
        precision = 0.02 if self.tuning.device == "cpu" else 0.01
        return TimingPlan(
            rounds, seconds_per_cell, timeout_seconds=float(str(self.options["timeout"])), target_precision=precision
        )

    def _spent(self) -> float:
        """Share of the budget that is gone."""
        return (time.monotonic() - self.begun) / self.seconds


def _together(trials: Sequence[Trial], one_by_one: bool) -> list[list[Trial]]:
    """Trials that one comparison measures: of one number of threads, and of one precision.

    `one_by_one`: of one backend and variant as well, so that a dear export or compilation costs nobody else its turn.
    """
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        key: tuple[object, ...] = (trial.threads, trial.contestant.precision)
        groups.setdefault((*key, trial.contestant) if one_by_one else key, []).append(trial)
    return list(groups.values())


def _labels(contestants: Sequence[Candidate]) -> list[str]:
    return list(dict.fromkeys(contestant.label for contestant in contestants))


def _precisions_of(contestants: Sequence[Candidate]) -> list[str]:
    return list(dict.fromkeys(contestant.precision for contestant in contestants))


def _joined(runs: Sequence[Run]) -> Run:
    """Comparisons of the same trials at different batches as one run."""
    first = runs[0]
    if len(runs) == 1:
        return first
    from dataclasses import replace

    shapes = tuple(shape for run in runs for shape in run.grid.shapes)
    records = [record for run in runs for record in run.records]
    return replace(first, grid=replace(first.grid, shapes=shapes), records=records)


def _command(
    model: str, goal: Goal, batch: int, length: int, traffic: Traffic | str | Path | None, budget: str,
    max_loss: float | None, backends: str | Iterable[str] | None, precisions: Sequence[str], threads: int,
    options: dict[str, Any], pythons: Sequence[tuple[str, str]],
) -> str:  # fmt: skip
    words = ["bench", "tune", "--model", model]
    words += ["--batch", str(batch), "--length", str(length)] if traffic is None else ["--traffic", str(traffic)]
    words += ["--budget", budget, "--precisions", ",".join(precisions), "--threads", str(threads)]
    words += [] if max_loss is None else ["--max-loss", f"{max_loss:g}"]
    if backends is not None:
        words += ["--backends", backends if isinstance(backends, str) else ",".join(backends)]
    for name, value in options.items():
        if isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    words += [word for place, path in pythons for word in ("--python", f"{place}={path}")]
    return shlex.join(words)


def _check_output(path: Path) -> None:
    """Raise UserError where the search, which is written at its end, could not be."""
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        aside.unlink()
    except OSError as error:
        raise UserError(f"output file {str(path)!r} cannot be made ({error.strerror}); give another --output") from None


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write(tuning: Tuning) -> None:
    """The search as JSON, whole or not at all."""
    assert tuning.path is not None
    aside = _aside(tuning.path)
    try:
        tuning.path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(tuning.to_json()) + "\n")  # one line, as every kind of results begins
        aside.replace(tuning.path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise BenchError(f"{str(tuning.path)!r} cannot be written ({error.strerror}); give another --output") from None
