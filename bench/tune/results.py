"""What a search found: every trial's figures by rung, what is taken and by how much, and what was not tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import statistics
from bench.parity.verdict import OUTCOMES
from bench.run.record import SAME_MODEL, Run
from bench.spec import Candidate, Shape
from bench.statistics import Ratio
from bench.tune.space import Trial

NOTHING_QUALIFIES_EXIT_CODE = 5


@dataclass(frozen=True)
class Goal:
    """What is to be fast, and what may be lost for it."""

    shares: tuple[tuple[Shape, float], ...]
    """Shapes that are measured, with the share of the requests that each stands for; the shares sum to 1."""
    source: str
    """Where they are from, in one line."""
    max_loss: float | None = None
    """Largest RMSE over the reference's RMS; None if only the same model may be taken (`SAME_MODEL`)."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Those that are measured."""
        return tuple(shape for shape, _ in self.shares)


@dataclass(frozen=True)
class Outcome:
    """One trial in one rung."""

    score_ns: float | None = None
    """Mean nanoseconds of a request: the shapes' medians by their shares; None if it does not qualify."""
    reason: str = ""
    """Why not."""
    verdict: str = ""
    loss: float | None = None
    """Largest RMSE over the reference's RMS of all cases, e.g. 1e-6; None if one is not known."""


@dataclass(frozen=True)
class Tried:
    """A trial and what became of it in a rung."""

    trial: Trial
    outcome: Outcome


@dataclass
class Tuning:
    """A whole search."""

    model: str
    device: str
    goal: Goal
    budget_seconds: float
    started: str
    """UTC, ISO 8601."""
    command: str
    fingerprint: dict[str, Any]
    rungs: list[list[Tried]] = field(default_factory=list)
    """The last one is the finalists' comparison, unless the budget ended before."""
    is_decided: bool = False
    """True if the last rung is the finalists' comparison."""
    not_tried: dict[str, str] = field(default_factory=dict)
    """Reason by what was left out."""
    winner: Trial | None = None
    runner_up: Trial | None = None
    ratio: Ratio | None = None
    """How many times faster the winner is than the runner-up."""
    reproduce: str = ""
    """The command that measures the winner again."""
    runs: list[str] = field(default_factory=list)
    """Files of the runs that were made."""
    seconds: float = 0.0
    path: Path | None = None
    """The file of the search."""

    @property
    def exit_code(self) -> int:
        """0, or 5 if nothing qualifies."""
        return 0 if self.winner is not None else NOTHING_QUALIFIES_EXIT_CODE

    def outcomes(self) -> list[dict[Trial, Outcome]]:
        """What became of each trial, by rung."""
        return [{tried.trial: tried.outcome for tried in rung} for rung in self.rungs]

    def order(self) -> list[Trial]:
        """Every trial: those that came furthest first, then by their last figure."""
        last: dict[Trial, tuple[int, float]] = {}
        for number, rung in enumerate(self.outcomes()):
            for trial, outcome in rung.items():
                score = float("inf") if outcome.score_ns is None else outcome.score_ns
                last[trial] = (-number, score)
        return sorted(last, key=lambda trial: (last[trial], trial))


def outcome_of(run: Run, candidate: Candidate, goal: Goal, is_final: bool) -> Outcome:
    """What `run` says of a candidate: its mean time by the goal's shares, or why it does not qualify.

    A cell's time is its median; before the final that of its best round, so that no disturbance decides.
    """
    records = []
    for shape in goal.shapes:
        record = run.record(shape, candidate)
        if record is None or record.status != "ok":
            why = "was not measured" if record is None else f"{record.status}: {record.reason}"
            return Outcome(reason=f"{shape} {why}")
        if run.is_implausible(record):
            return Outcome(reason=f"{shape} came out below this machine's roofline", verdict=record.verdict)
        records.append(record)
    verdict = max((record.verdict or "unjudged" for record in records), key=OUTCOMES.index)
    losses: list[float | None] = [record.parity.get("loss") for record in records]
    known = [one for one in losses if one is not None]
    loss = max(known) if known and len(known) == len(losses) else None
    if reason := _too_lossy(verdict, loss, goal.max_loss):
        return Outcome(reason=reason, verdict=verdict, loss=loss)
    times = [
        statistics.median(record.samples) if is_final else min(map(statistics.median, record.rounds))
        for record in records
    ]
    score = sum(share * time for time, (_, share) in zip(times, goal.shares, strict=True))
    return Outcome(score, verdict=verdict, loss=loss)


def _too_lossy(verdict: str, loss: float | None, max_loss: float | None) -> str:
    """Why parity keeps a trial out; "" if it does not."""
    if max_loss is None:
        return "" if verdict in SAME_MODEL else f"parity is {verdict}; --max-loss lets a lossy one in"
    if verdict not in (*SAME_MODEL, "lossy"):
        return f"parity is {verdict}"
    if loss is None or loss > max_loss:
        return f"it loses {'an unknown share' if loss is None else f'{loss:.2g}'}, --max-loss is {max_loss:g}"
    return ""


def means(turns: Sequence[Mapping[Trial, Outcome]]) -> dict[Trial, Outcome]:
    """Of the turns that groups of trials took, each trial's median score; one that failed once has failed."""
    found = {}
    for trial in dict.fromkeys(trial for turn in turns for trial in turn):
        taken = [turn[trial] for turn in turns if trial in turn]
        scores = [outcome.score_ns for outcome in taken if outcome.score_ns is not None]
        failed = next((outcome for outcome in taken if outcome.score_ns is None), None)
        found[trial] = failed or replace(taken[-1], score_ns=statistics.median(scores))
    return found
