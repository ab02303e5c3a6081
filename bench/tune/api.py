"""`tune`: search backends × variants × precisions × threads for the fastest way to run one shape or one traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from bench import machine
from bench.choose.api import choose
from bench.choose.choice import ratio_between
from bench.errors import UserError
from bench.options import shown_seconds
from bench.process.environments.stored import parse_pythons
from bench.run.experiment import default_output, leaves_translated, measure, source_of
from bench.run.listener import Listener
from bench.run.record import Run
from bench.spec import DEFAULT_BATCHES, PRECISIONS, Shape, check_lengths
from bench.statistics import Ratio
from bench.traffic import Traffic, even, read_traffic
from bench.tune.file import write_tuning
from bench.tune.halving import (
    FINAL_ROUNDS,
    FINAL_SECONDS_PER_CELL,
    FINAL_TURNS,
    RUNGS,
    Rung,
    survivors,
)
from bench.tune.options import TuneOptions
from bench.tune.results import (
    Goal,
    Outcome,
    Tried,
    Tuning,
    means,
    outcome_of,
)
from bench.tune.space import (
    Space,
    Trial,
    asked_space,
    thread_counts,
    whole_space,
)
from bench.workloads.forward import Forward, ForwardOptions
from exporters.store import ArtifactStore

#: Shapes that stand for a traffic of more.
MOST_SHAPES = 6
#: Options of a search that its runs have too.
OF_EVERY_RUN = ("model", "module", "weights", "task", "device", "tf32", "seed", "timeout", "artifacts")


class Trying(Forward):
    """Forward without rooflines, as the peaks that they rest on take seconds for each number of threads."""

    has_roofline: ClassVar[bool] = False


@dataclass
class TuneListener:
    """What a search tells while it goes on; nothing is told during a timed call."""

    say: Callable[[str], None] = lambda line: None
    plan: Callable[[Tuning, Space], None] = lambda tuning, space: None
    progress: Callable[[int, Trial, Outcome], None] = lambda rung, trial, outcome: None


def tune(
    model: str | Path | None = None,
    *,
    traffic: Traffic | str | Path | None = None,
    listener: TuneListener | None = None,
    **options: Any,
) -> Tuning:
    """Search for the fastest way to run `model` at `batches` × `lengths`, or for `traffic` (a file, or Traffic).

    Short runs of everything that is installed, longer ones of what is left (bench/tuning/halving.py), at last one under
    the usual rules; what is not the same model is out. `max_loss` is the largest RMSE over the reference's RMS that may
    be lost (0.02 or "2%"); without it fp32 alone is tried, and only what is equivalent or better qualifies. `backends`
    are all that are installed unless named; `threads` the most that are tried. Nothing begins that `budget` ("10m", or
    seconds) has no time for, and what has begun is ended. Further `options` are those of `bench tune`. Raises UserError
    for wrong input.
    """
    named = None if traffic is None else traffic.source if isinstance(traffic, Traffic) else str(traffic)
    given = {"model": None if model is None else str(model), "traffic": named, **options}
    asked = TuneOptions.parsed(given)
    return search(asked, traffic if isinstance(traffic, Traffic) else None, listener)


def search(options: TuneOptions, traffic: Traffic | None = None, listener: TuneListener | None = None) -> Tuning:
    """The search that `options` ask for; `traffic` is in place of the file that they name."""
    begun, listener = time.monotonic(), listener or TuneListener()
    with leaves_translated():
        options = replace(
            options,
            device=machine.settle_device(options.device),
            threads=machine.thread_budget(options.threads),
            precisions=options.precisions or (("fp32",) if options.max_loss is None else PRECISIONS),
            python=tuple(f"{place}={path}" for place, path in parse_pythons(options.python)),
        )
        machine.check_tf32(options.tf32, options.kind)
        space = _space(options)
        goal = _goal(options, traffic)
        store = ArtifactStore(Path(options.artifacts))
        source = source_of(options, store, listener.say)
        check_lengths(goal.shapes, source.name, source.positions)
        now = datetime.now(UTC)
        folder = default_output(options, "tune", now).with_suffix("")
        tuning = Tuning(
            source.name, options.device, goal, options.budget, now.isoformat(timespec="seconds"),
            options.command_line(), machine.fingerprint(), not_tried=dict(space.left_out),
            path=Path(options.output) if options.output else folder / "tuning.json",
        )  # fmt: skip
        store.prepare()
        _check_output(tuning)
        listener.plan(tuning, space)
        try:
            _Search(tuning, options, folder, listener, begun).run(space)
        finally:
            tuning.seconds = round(time.monotonic() - begun, 1)
            if tuning.rungs:
                write_tuning(tuning)
    return tuning


def _space(options: TuneOptions) -> Space:
    """What can be tried here; raises UserError if nothing can."""
    where = (options.kind, options.precisions, Path(options.artifacts), parse_pythons(options.python))
    found = asked_space(options.backends, *where) if options.backends else whole_space(*where)
    if not found.candidates:
        raise UserError(f"no backend can be tried on {options.kind}; `bench list backends` shows what each needs")
    return found


def _goal(options: TuneOptions, traffic: Traffic | None) -> Goal:
    if traffic is None and options.traffic is not None:
        traffic = read_traffic(Path(options.traffic))
    if traffic is None:
        traffic = even(Shape(batch, length) for batch in options.batches for length in options.lengths)
    shares = representatives(traffic)
    if len(traffic.counts) == 1 and not traffic.is_given:
        return Goal(shares, f"{shares[0][0]} alone", options.max_loss)
    is_whole = len(shares) == len(traffic.counts)
    return Goal(
        shares, traffic.source if is_whole else f"{traffic.source}, by {len(shares)} shapes of it", options.max_loss
    )


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
        self, tuning: Tuning, options: TuneOptions, folder: Path, listener: TuneListener, begun: float
    ) -> None:
        self.tuning, self.options, self.folder, self.listener, self.begun = tuning, options, folder, listener, begun

    def run(self, space: Space) -> None:
        """Search, and settle the winner."""
        counts = thread_counts(self.options.settled_threads, self.options.kind)
        left = self._rung(0, RUNGS[0], [Trial(candidate, counts[0]) for candidate in space.candidates])
        for number, rung in enumerate(RUNGS[1:], start=1):
            # Threads are tried from here on, by those that are left: what is far behind with all of them stays behind.
            wanted = [Trial(trial.candidate, count) for trial in left for count in counts]
            left = self._rung(number, rung, list(dict.fromkeys(wanted))) or left
        if left:
            self._finals(left)

    def _rung(self, number: int, rung: Rung, trials: Sequence[Trial]) -> list[Trial]:
        """Measure `trials` and return those that go on."""
        tried: list[Tried] = []
        self.tuning.rungs.append(tried)
        for group in _together(trials, one_by_one=number == 0):
            if self._spent() > rung.until and tried:
                reason = f"--budget {shown_seconds(self.options.budget)} had no time for it"
                for trial in group:
                    self.tuning.not_tried.setdefault(trial.label, reason)
                continue
            run = self._measured(Trying, group, rung.rounds, rung.seconds_per_cell, f"rung-{number + 1}")
            for trial in group:
                outcome = outcome_of(run, trial.candidate, self.tuning.goal, is_final=False)
                tried.append(Tried(trial, outcome))
                self.listener.progress(number, trial, outcome)
        scores = {one.trial: one.outcome.score_ns for one in tried if one.outcome.score_ns is not None}
        return survivors(scores, rung)

    def _finals(self, finalists: Sequence[Trial]) -> None:
        """The finalists under the usual rules; in turns of groups if they differ in threads."""
        groups, goal = _together(finalists, one_by_one=False), self.tuning.goal
        taken: list[dict[Trial, Outcome]] = []
        last: dict[Trial, Run] = {}
        for turn in range(FINAL_TURNS if len(groups) > 1 else 1):
            for group in groups if turn % 2 == 0 else list(reversed(groups)):
                run = self._measured(Forward, group, FINAL_ROUNDS, FINAL_SECONDS_PER_CELL, f"final-{turn + 1}")
                taken.append({trial: outcome_of(run, trial.candidate, goal, is_final=True) for trial in group})
                last.update(dict.fromkeys(group, run))
        found = means(taken)
        self.tuning.rungs.append([Tried(trial, outcome) for trial, outcome in found.items()])
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
        again = runs[winner].workload.repeated(tuning.goal.shapes[0], winner.candidate)
        if len(tuning.goal.shapes) > 1:
            again = replace(again, batches=DEFAULT_BATCHES, lengths=(), shapes=_pairs(tuning.goal))  # type: ignore[call-arg]
        tuning.reproduce = again.command_line()

    def _ratio(self, winner: Trial, other: Trial, runs: dict[Trial, Run], scores: dict[Trial, float]) -> Ratio:
        """How many times faster the winner is: with an interval if both took turns in one run."""
        if runs[winner] is runs[other]:
            traffic = Traffic(dict(self.tuning.goal.shares), self.tuning.goal.source)
            weighed = {
                one.candidate: one for one in choose(runs[winner], traffic=traffic, min_parity="lossy").candidates
            }
            found = ratio_between(weighed[other.candidate], weighed[winner.candidate])
            if found is not None:
                return found
        return Ratio(scores[other] / scores[winner], None, FINAL_TURNS)

    def _measured(
        self, workload: type[Forward], group: Sequence[Trial], rounds: int, seconds_per_cell: float, name: str
    ) -> Run:
        """A run of trials that share their number of threads, at the shapes of the goal."""
        candidates = [trial.candidate for trial in group]
        used = {candidate.place for candidate in candidates}
        pythons = parse_pythons(self.options.python)
        output = self.folder / f"{len(self.tuning.runs) + 1:03}-{name}.jsonl"
        asked = ForwardOptions(
            **{name: getattr(self.options, name) for name in OF_EVERY_RUN},
            backends=tuple(dict.fromkeys(candidate.label for candidate in candidates)),
            precisions=tuple(dict.fromkeys(candidate.precision for candidate in candidates)),
            shapes=_pairs(self.tuning.goal),
            rounds=rounds,
            max_seconds_per_cell=seconds_per_cell,
            threads=group[0].threads,
            python=tuple(f"{place}={path}" for place, path in pythons if place in used),
            output=str(output),
        )
        run = measure(workload, asked, Listener(say=self.listener.say))
        self.tuning.runs.append(str(output))
        return run

    def _spent(self) -> float:
        """Share of the budget that is gone."""
        return (time.monotonic() - self.begun) / self.options.budget


def _pairs(goal: Goal) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((shape.batch, shape.length) for shape in goal.shapes))


def _together(trials: Sequence[Trial], one_by_one: bool) -> list[list[Trial]]:
    """Trials that one run measures: of one number of threads, and of one precision.

    `one_by_one`: of one backend and variant as well, so that a long export or compilation costs no other its turn.
    """
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        key: tuple[object, ...] = (trial.threads, trial.candidate.precision)
        groups.setdefault((*key, trial.candidate) if one_by_one else key, []).append(trial)
    return list(groups.values())


def _check_output(tuning: Tuning) -> None:
    """Raise UserError if the search, which is written at its end, could not be."""
    path = tuning.path
    assert path is not None
    if path.exists():
        raise UserError(f"{str(path)!r} exists; give another --output")
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        aside.unlink()
    except OSError as error:
        raise UserError(f"output file {str(path)!r} cannot be made ({error.strerror}); give another --output") from None
