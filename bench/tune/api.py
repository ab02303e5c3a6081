"""`tune`: search backends × variants × precisions × threads for the fastest way to run one shape or one traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from bench import machine, regret, statistics
from bench.choose.api import choose
from bench.choose.stakes import stakes_of
from bench.columns import count
from bench.errors import Say, UserError
from bench.options import shown_seconds
from bench.process.environments.stored import parse_pythons
from bench.process.peaks import known as known_peaks
from bench.run.experiment import default_output, leaves_translated, measure, source_of
from bench.run.listener import Listener
from bench.run.record import Run
from bench.run.schedule import LEAST_ROUNDS
from bench.spec import DEFAULT_BATCHES, PRECISIONS, Candidate, Shape, check_lengths
from bench.statistics import MEDIAN_CONFIDENCE, Ratio
from bench.traffic import Traffic, even, read_traffic
from bench.tune import promise
from bench.tune.file import write_tuning
from bench.tune.halving import EXPORT_SHARE, FINAL_ROUNDS, FINAL_SECONDS_PER_CELL, FINAL_TURNS, RUNGS, Rung, survivors
from bench.tune.options import TuneOptions
from bench.tune.results import Goal, Outcome, Tried, Tuning, means, outcome_of
from bench.tune.space import (
    Space,
    Trial,
    asked_space,
    format_of,
    guessed_seconds,
    in_order,
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

    say: Say = lambda line: None
    plan: Callable[[Tuning, Space], None] = lambda tuning, space: None


def tune(
    model: str | Path | None = None,
    *,
    traffic: Traffic | str | Path | None = None,
    listener: TuneListener | None = None,
    **options: Any,
) -> Tuning:
    """Search for the fastest way to run `model` at `batches` × `lengths`, or for `traffic` (a file, or Traffic).

    Short runs of everything that is installed, longer ones of what is left (bench/tune/halving.py), at last one under
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
        pythons = parse_pythons(options.python)
        options = replace(
            options,
            device=machine.settle_device(options.device),
            threads=machine.thread_budget(options.threads),
            precisions=options.precisions or (("fp32",) if options.max_loss is None else PRECISIONS),
            python=tuple(f"{place}={path}" for place, path in pythons),
        )
        machine.check_tf32(options.tf32, options.kind)
        store = ArtifactStore(Path(options.artifacts))
        where = (options.kind, options.precisions, store.root, pythons)
        space = asked_space(options.backends, *where) if options.backends else whole_space(*where)
        if not space.candidates:
            raise UserError(f"no backend can be tried on {options.kind}; `bench list backends` shows what each needs")
        goal = _goal(options, traffic)
        source = source_of(options, store, listener.say)
        check_lengths(goal.shapes, source.name, source.positions)
        now = datetime.now(UTC)
        folder = default_output(options, "tune", now).with_suffix("")
        path = Path(options.output) if options.output else folder / "tuning.json"
        tuning = Tuning(
            source.name, options.device, goal, options.budget, now.isoformat(timespec="seconds"),
            options.command_line(), machine.fingerprint(), not_tried=dict(space.left_out), path=path,
        )  # fmt: skip
        store.prepare()
        _check_output(path)
        listener.say(f"{tuning.model} on {tuning.device}, for {goal.source}")
        within = f"then threads; within {shown_seconds(tuning.budget_seconds)}"
        listener.say(f"space: {count(len(space.candidates), 'candidate')}, {within}")
        listener.say(f"search: {path}")
        listener.plan(tuning, space)
        try:
            _Search(tuning, options, folder, listener.say, begun).run(space)
        finally:
            tuning.seconds = round(time.monotonic() - begun, 1)
            if any(tuning.rungs):
                write_tuning(tuning)
    return tuning


def _goal(options: TuneOptions, traffic: Traffic | None) -> Goal:
    if traffic is None and options.traffic is not None:
        traffic = read_traffic(Path(options.traffic))
    if traffic is None:
        traffic = even(Shape(batch, length) for batch in options.batches for length in options.lengths)
    shares, source = representatives(traffic), traffic.source
    if len(traffic.counts) == 1 and not traffic.is_given:
        source = f"{shares[0][0]} alone"
    elif len(shares) < len(traffic.counts):
        source = f"{source}, by {len(shares)} shapes of it"
    return Goal(shares, source, options.max_loss)


def representatives(traffic: Traffic, most: int = MOST_SHAPES) -> tuple[tuple[Shape, float], ...]:
    """At most `most` shapes that stand for a traffic, each with the share of the requests that it stands for.

    Shapes in the order of their tokens are cut into groups of equal shares of all tokens; the one that is nearest to
    the mean tokens of its group's requests stands for it.
    """
    shares = traffic.shares()
    if len(shares) <= most:
        return tuple(shares)
    ordered = sorted(((shape.batch * shape.length, shape, share) for shape, share in shares))
    groups: dict[int, list[tuple[int, Shape, float]]] = {}
    passed, total = 0.0, sum(share * tokens for tokens, _, share in ordered)
    for tokens, shape, share in ordered:
        at = min(most - 1, int(most * (passed + share * tokens / 2) / total))
        groups.setdefault(at, []).append((tokens, shape, share))
        passed += share * tokens
    found = []
    for group in groups.values():
        whole = sum(share for _, _, share in group)
        mean = sum(share * tokens for tokens, _, share in group) / whole
        found.append((min(group, key=lambda one: abs(one[0] - mean))[1], whole))
    return tuple(found)


class _Search:
    """The rungs, one after another, within the budget."""

    def __init__(self, tuning: Tuning, options: TuneOptions, folder: Path, say: Say, begun: float) -> None:
        self.tuning, self.options, self.folder, self.say, self.begun = tuning, options, folder, say, begun
        peaks = known_peaks(Path(options.artifacts), options.kind, options.settled_threads)
        rates = None if peaks is None else peaks.flops_per_second
        self.machine = promise.Machine(options.kind, tuning.fingerprint.get("flags") or (), rates)
        self._taken: list[dict[Trial, Outcome]] = []
        """Outcomes of the last comparison, by turn and group."""
        self._formats: set[tuple[str | None, str]] = set()
        """Formats, with precision, that were exported for a candidate before."""

    def run(self, space: Space) -> None:
        """Search, and settle the winner."""
        counts = thread_counts(self.options.settled_threads, self.options.kind)
        self.tuning.known = len(space.candidates)
        first = in_order(space.candidates, self.machine, len(self.tuning.goal.shapes))
        left = self._rung(0, RUNGS[0], [Trial(candidate, counts[0]) for candidate in first])
        for number, rung in enumerate(RUNGS[1:], start=1):
            # Threads are tried from here on, by those that are left: what is far behind with all of them stays behind.
            wanted = [Trial(trial.candidate, count) for trial in left for count in counts]
            left = self._rung(number, rung, list(dict.fromkeys(wanted))) or left
        if left:
            self._finals(left)
        self._note_untried(space)

    def _note_untried(self, space: Space) -> None:
        """Note which of the candidates that the budget had no time for may be faster than the winner."""
        tuning, eager = self.tuning, None
        scores = {trial: one.score_ns for rung in tuning.outcomes() for trial, one in rung.items() if one.score_ns}
        tried = {trial.candidate for rung in tuning.outcomes() for trial in rung}
        if tuning.winner is None:
            return
        eager = min((ns for trial, ns in scores.items() if trial.candidate.is_original), default=None)
        gained = eager / scores[tuning.winner] if eager else 1.0
        untried = [one for one in space.candidates if one not in tried]
        winning = (one for one in untried if promise.could_win(one, self.machine, gained))
        tuning.could_win = [f"{one.label} {one.precision}" for one in winning]

    def _rung(self, number: int, rung: Rung, trials: Sequence[Trial]) -> list[Trial]:
        """Measure `trials` and return those that go on."""
        tried: list[Tried] = []
        self.tuning.rungs.append(tried)
        for group in _together(trials, one_by_one=number == 0):
            needs = self._guessed(group[0].candidate) / self.options.budget if number == 0 else 0.0
            if tried and self._spent() + needs > rung.until:
                reason = f"--budget {shown_seconds(self.options.budget)} had no time for it"
                for trial in group:
                    self.tuning.not_tried.setdefault(trial.label, reason)
                continue
            self._formats.update(format_of(trial.candidate) for trial in group)
            run = self._measured(Trying, group, rung.rounds, rung.seconds_per_cell, f"rung-{number + 1}")
            for trial in group:
                tried.append(Tried(trial, outcome_of(run, trial.candidate, self.tuning.goal, is_final=False)))
                self._tell(tried[-1])
        return survivors({one.trial: one.outcome.score_ns for one in tried if one.outcome.score_ns is not None}, rung)

    def _guessed(self, candidate: Candidate) -> float:
        """Guessed seconds of a first try, less what it shares with those before it."""
        return guessed_seconds(candidate, self._formats, len(self.tuning.goal.shapes))

    def _tell(self, tried: Tried) -> None:
        score, outcome = tried.outcome.score_ns, tried.outcome
        shown = outcome.reason if score is None else f"{score / 1e6:.2f} ms  {outcome.verdict}"
        self.say(f"[rung {len(self.tuning.rungs)}] {tried.trial.label:<36} {shown}")

    def _finals(self, finalists: Sequence[Trial]) -> None:
        """The finalists under the usual rules, and the first two of them again: a figure by which the fastest of
        several was selected is too good.
        """
        tuning = self.tuning
        scores, runs = self._compared(finalists, "final")
        tuning.is_decided = True
        order = sorted(scores, key=lambda trial: (scores[trial], trial))
        if len(order) > 1:
            fresh, runs = self._compared(order[:2], "fresh")
            tuning.is_fresh, scores = True, fresh
            order = [trial for trial in order if trial in fresh]
        if not order:
            return
        winner = tuning.winner = order[0]
        if len(order) > 1:
            tuning.runner_up, tuning.ratio = order[1], self._ratio(winner, order[1], runs, scores)
            if tuning.ratio.verdict == "slower":
                winner, other = order[1], winner
                tuning.winner, tuning.runner_up = winner, other
                tuning.ratio = self._ratio(winner, other, runs, scores)
        again = runs[winner].workload.repeated(tuning.goal.shapes[0], winner.candidate)
        if len(tuning.goal.shapes) > 1:
            again = replace(again, batches=DEFAULT_BATCHES, lengths=(), shapes=_pairs(tuning.goal))  # type: ignore[call-arg]
        tuning.reproduce = again.command_line()

    def _compared(self, trials: Sequence[Trial], name: str) -> tuple[dict[Trial, float], dict[Trial, Run]]:
        """Scores (ns) of trials under the usual rules, and their last runs; in turns of groups if they differ in
        threads.
        """
        groups, goal, tuning = _together(trials, one_by_one=False), self.tuning.goal, self.tuning
        taken: list[dict[Trial, Outcome]] = []
        runs: dict[Trial, Run] = {}
        for turn in range(FINAL_TURNS if len(groups) > 1 else 1):
            for group in groups if turn % 2 == 0 else list(reversed(groups)):
                run = self._measured(Forward, group, FINAL_ROUNDS, FINAL_SECONDS_PER_CELL, f"{name}-{turn + 1}")
                taken.append({trial: outcome_of(run, trial.candidate, goal, is_final=True) for trial in group})
                runs.update(dict.fromkeys(group, run))
        found = means(taken)
        self._taken = taken
        tuning.rungs.append([Tried(trial, outcome) for trial, outcome in found.items()])
        for tried in tuning.rungs[-1]:
            self._tell(tried)
        return {trial: one.score_ns for trial, one in found.items() if one.score_ns is not None}, runs

    def _ratio(self, winner: Trial, other: Trial, runs: dict[Trial, Run], scores: dict[Trial, float]) -> Ratio:
        """How many times faster the winner is: with an interval if both took turns in one run."""
        if runs[winner] is runs[other]:
            traffic = Traffic(dict(self.tuning.goal.shares), self.tuning.goal.source)
            weighed = choose(runs[winner], traffic=traffic).candidates
            next_, first = (next(one for one in weighed if one.candidate == each.candidate) for each in (other, winner))
            if found := regret.ratio(stakes_of([next_, first], is_geometric=False), next_.label, first.label):
                return found
        return self._ratio_of_turns(winner, other) or Ratio(scores[other] / scores[winner], None, 1)

    def _ratio_of_turns(self, winner: Trial, other: Trial) -> Ratio | None:
        """The same from turns that groups took apart, each a round; None with fewer than three."""
        scores = {trial: [turn[trial].score_ns for turn in self._taken if trial in turn] for trial in (winner, other)}
        ratios = [its / own for own, its in zip(scores[winner], scores[other], strict=True) if own and its]
        if len(ratios) < LEAST_ROUNDS:
            return None
        interval = statistics.ratio_interval(ratios, MEDIAN_CONFIDENCE)
        return Ratio(statistics.median(ratios), interval, len(ratios), MEDIAN_CONFIDENCE)

    def _measured(
        self, workload: type[Forward], group: Sequence[Trial], rounds: int, seconds_per_cell: float, name: str
    ) -> Run:
        """A run of trials that share their number of threads, at the shapes of the goal."""
        candidates = [trial.candidate for trial in group]
        used = {candidate.place for candidate in candidates}
        output = str(self.folder / f"{len(self.tuning.runs) + 1:03}-{name}.jsonl")
        asked = ForwardOptions(
            **{name: getattr(self.options, name) for name in OF_EVERY_RUN},
            backends=tuple(dict.fromkeys(candidate.label for candidate in candidates)),
            precisions=tuple(dict.fromkeys(candidate.precision for candidate in candidates)),
            shapes=_pairs(self.tuning.goal),
            rounds=rounds,
            max_seconds_per_cell=seconds_per_cell,
            threads=group[0].threads,
            python=tuple(python for python in self.options.python if python.partition("=")[0] in used),
            output=output,
        )
        hasty = type(workload.__name__, (workload,), {"export_seconds": EXPORT_SHARE * self.options.budget})
        run = measure(hasty, asked, Listener(say=self.say))
        self.tuning.runs.append(output)
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
        key = (trial.threads, trial.candidate.precision, trial.candidate if one_by_one else None)
        groups.setdefault(key, []).append(trial)
    return list(groups.values())


def _check_output(path: Path) -> None:
    """Raise UserError if the search, which is written at its end, could not be."""
    if path.exists():
        raise UserError(f"{str(path)!r} exists; give another --output")
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        aside.unlink()
    except OSError as error:
        raise UserError(f"output file {str(path)!r} cannot be made ({error.strerror}); give another --output") from None
