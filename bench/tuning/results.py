"""What a search found: every trial's figures by rung, who is taken and by how much, and what was not tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import statistics
from bench.records import SAME_MODEL, Record, Run
from bench.spec import Candidate, Shape
from bench.statistics import Ratio
from bench.tuning.space import Trial

SCHEMA = 1
NOTHING_QUALIFIES_EXIT_CODE = 5


@dataclass(frozen=True)
class Goal:
    """What is to be fast, and what may be lost for it."""

    shares: tuple[tuple[Shape, float], ...]
    """Shapes that are measured, with the share of the requests that each stands for; the shares sum to 1."""
    source: str
    """Where they are from, in one line."""
    max_loss: float | None = None
    """Largest RMSE over the reference's RMS; None where only the same model may be taken (exact, equivalent)."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Those that are measured."""
        return tuple(shape for shape, _ in self.shares)


@dataclass(frozen=True)
class Outcome:
    """One trial in one rung."""

    score_ns: float | None = None
    """Mean nanoseconds of a request: the shapes' medians by their shares; None where it does not qualify."""
    reason: str = ""
    """Why not."""
    verdict: str = ""
    loss: float | None = None
    """Largest RMSE over the reference's RMS of all cases, e.g. 1e-6; None where nothing was judged."""


@dataclass
class Tuning:
    """A whole search."""

    model: str
    device: str
    goal: Goal
    budget: str
    started: str
    """UTC, ISO 8601."""
    command: str
    fingerprint: dict[str, Any]
    rungs: list[dict[Trial, Outcome]] = field(default_factory=list)
    """By rung; the last one is the finalists' comparison, unless the budget ended before."""
    is_decided: bool = False
    """True where the last rung is the finalists' comparison."""
    not_tried: dict[str, str] = field(default_factory=dict)
    """Reason by what was left out."""
    winner: Trial | None = None
    runner_up: Trial | None = None
    ratio: Ratio | None = None
    """How many times faster the winner is than the runner-up."""
    reproduce: str = ""
    """The command that measures the winner again."""
    runs: list[str] = field(default_factory=list)
    """Files of the comparisons that were made."""
    seconds: float = 0.0
    path: Path | None = None
    """Where the search lies as JSON."""

    @property
    def exit_code(self) -> int:
        """0, or 5 where nothing qualifies."""
        return 0 if self.winner is not None else NOTHING_QUALIFIES_EXIT_CODE

    def order(self) -> list[Trial]:
        """Every trial: who came furthest first, then by its last figure."""
        last: dict[Trial, tuple[int, float]] = {}
        for number, rung in enumerate(self.rungs):
            for trial, outcome in rung.items():
                score = float("inf") if outcome.score_ns is None else outcome.score_ns
                last[trial] = (-number, score)
        return sorted(last, key=lambda trial: (last[trial], trial))

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "kind": "tuning", "schema": SCHEMA, "model": self.model, "device": self.device, "goal": asdict(self.goal),
            "budget": self.budget, "started": self.started, "command": self.command, "seconds": self.seconds,
            "rungs": [[_row(trial, outcome) for trial, outcome in rung.items()] for rung in self.rungs],
            "is_decided": self.is_decided, "not_tried": self.not_tried,
            "winner": None if self.winner is None else asdict(self.winner),
            "runner_up": None if self.runner_up is None else asdict(self.runner_up),
            "ratio": None if self.ratio is None else asdict(self.ratio),
            "reproduce": self.reproduce, "runs": self.runs, "exit_code": self.exit_code,
            "fingerprint": self.fingerprint,
        }  # fmt: skip


def _row(trial: Trial, outcome: Outcome) -> dict[str, Any]:
    return {**asdict(trial.contestant), "threads": trial.threads, **asdict(outcome)}


def outcome_of(run: Run, contestant: Candidate, goal: Goal, is_final: bool) -> Outcome:
    """What `run` says of a contestant: its mean time by the goal's shares, or why it does not qualify.

    A cell's time is its median; before the final that of its best round, as a disturbance must throw nobody out.
    """
    records = {record.shape: record for record in run.records if record.contestant == contestant}
    for shape in goal.shapes:
        record = records.get(shape)
        if record is None or record.status != "ok":
            told = "was not measured" if record is None else f"{record.status}: {record.reason}"
            return Outcome(reason=f"{shape} {told}")
        if run.is_implausible(record):
            return Outcome(reason=f"{shape} came out below this machine's floor", verdict=record.verdict)
    verdict, loss = _worst(records.values()), _loss(records.values())
    if reason := _too_lossy(verdict, loss, goal.max_loss):
        return Outcome(reason=reason, verdict=verdict, loss=loss)
    score = sum(share * _time_ns(records[shape], is_final) for shape, share in goal.shares)
    return Outcome(score, verdict=verdict, loss=loss)


def _time_ns(record: Record, is_final: bool) -> float:
    if is_final:
        return statistics.median(record.samples)
    return min(statistics.median(samples) for samples in record.rounds if samples)


def _worst(records: Any) -> str:
    from bench.parity.verdict import OUTCOMES

    return max((record.verdict or "unjudged" for record in records), key=OUTCOMES.index)


def _loss(records: Any) -> float | None:
    shares = [share for record in records for share in _shares(record)]
    return max(shares) if shares else None


def _shares(record: Record) -> list[float]:
    """RMSE over the reference's RMS, of every output in every case of a record."""
    found = []
    for entries in record.parity.get("cases", {}).values():
        for entry in entries if isinstance(entries, list) else [entries]:
            if entry.get("rms_reference") and entry.get("rmse") is not None:
                found += [entry["rmse"] / entry["rms_reference"]]
    return found


def _too_lossy(verdict: str, loss: float | None, max_loss: float | None) -> str:
    """Why parity keeps a trial out; "" where it does not."""
    if max_loss is None:
        return "" if verdict in SAME_MODEL else f"parity is {verdict}; --max-loss lets a lossy one in"
    if verdict not in (*SAME_MODEL, "lossy"):
        return f"parity is {verdict}"
    if loss is None or loss > max_loss:
        return f"it loses {'an unknown share' if loss is None else f'{loss:.2g}'}, --max-loss is {max_loss:g}"
    return ""


def means(outcomes: Sequence[Mapping[Trial, Outcome]]) -> dict[Trial, Outcome]:
    """Of the turns that groups of trials took, each trial's median score; whoever failed once has failed."""
    found: dict[Trial, list[Outcome]] = {}
    for turn in outcomes:
        for trial, outcome in turn.items():
            found.setdefault(trial, []).append(outcome)
    merged = {}
    for trial, turns in found.items():
        failed = next((outcome for outcome in turns if outcome.score_ns is None), None)
        scores = [outcome.score_ns for outcome in turns if outcome.score_ns is not None]
        merged[trial] = failed or Outcome(statistics.median(scores), verdict=turns[-1].verdict, loss=turns[-1].loss)
    return merged
