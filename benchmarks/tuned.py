"""Is anything in the searched space faster than what `bench tune` took?

    python benchmarks/tuned.py [--model bert] [--batches 1] [--lengths 128] [--budget 10m] [--max-loss 2%]

Tunes, then measures every point of the space again under the usual rules: all runtimes with each number of threads, a
few at a time, the winner among each few. Who is told as faster took turns with the winner; where its number of threads
is another, it is held against the winner's median of the other comparisons. Goal: nothing that qualifies by parity is
more than 3 % faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine, statistics
from bench.cli.streams import tell
from bench.run.experiment import measure
from bench.run.listener import Listener
from bench.run.pairs import ratio_between
from bench.run.record import Run
from bench.spec import Candidate
from bench.statistics import Ratio
from bench.tune.api import TuneListener, tune
from bench.tune.results import Goal, outcome_of
from bench.tune.space import Space, Trial, thread_counts
from bench.workloads.forward import Forward, ForwardOptions

GOAL = 0.03
#: Candidates beside the winner in one run: each holds the model in memory.
TOGETHER = 5


@dataclass(frozen=True)
class Held:
    """One point of the space against the winner."""

    trial: Trial
    time_ns: float | None
    """Median; None if it does not qualify."""
    reason: str
    """Why it does not."""
    ratio: Ratio | None
    """How many times faster than the winner it is."""

    @property
    def is_faster(self) -> bool:
        """True if it breaks the goal."""
        return self.ratio is not None and self.ratio.value > 1 + GOAL


def groups(candidates: Sequence[Candidate], winner: Candidate) -> Iterator[list[Candidate]]:
    """The others of one precision at a time, a few with the winner in front where its precision is theirs."""
    for precision in dict.fromkeys(candidate.precision for candidate in candidates):
        others = [c for c in candidates if c.precision == precision and c != winner]
        front = [winner] if winner.precision == precision else []
        for start in range(0, max(len(others), 1), TOGETHER):
            if found := [*front, *others[start : start + TOGETHER]]:
                yield found


def held_against(winner: Trial, runs: Sequence[tuple[int, Run]], goal: Goal) -> dict[Trial, Held]:
    """Every point that `runs` (number of threads, run) measured, against the winner."""
    alike = [run for threads, run in runs if threads == winner.threads]
    own = [outcome_of(run, winner.candidate, goal, is_final=True) for run in alike]
    medians = [outcome.score_ns for outcome in own if outcome.score_ns is not None]
    usual = statistics.median(medians) if medians else None
    found: dict[Trial, Held] = {}
    for threads, run in runs:
        records = {record.candidate: record for record in run.records}
        for candidate, record in records.items():
            trial = Trial(candidate, threads)
            outcome = outcome_of(run, candidate, goal, is_final=True)
            ratio = None
            if trial != winner and outcome.score_ns is not None:
                beside = records.get(winner.candidate) if threads == winner.threads else None
                if beside is not None and beside.samples:
                    ratio = ratio_between(beside, record)
                elif usual is not None:
                    ratio = Ratio(usual / outcome.score_ns, None, len(medians))
            found.setdefault(trial, Held(trial, outcome.score_ns, outcome.reason, ratio))
    return found


def lines(winner: Trial, held: Mapping[Trial, Held]) -> Iterator[str]:
    """Every point, the fastest first, and whether the goal is reached."""
    for entry in sorted(held.values(), key=lambda entry: (entry.time_ns is None, entry.time_ns or 0.0, entry.trial)):
        if entry.time_ns is None:
            yield f"{entry.trial.label:<44}          {entry.reason}"
            continue
        told = "the winner" if entry.trial == winner else f"{shown(entry.ratio)} the winner's speed"
        yield f"{entry.trial.label:<44} {entry.time_ns / 1e6:8.2f}  {told}{', FASTER' if entry.is_faster else ''}"
    faster = [entry.trial.label for entry in held.values() if entry.is_faster]
    verdict = f"missed by {', '.join(faster)}" if faster else "reached"
    yield f"goal, nothing more than {GOAL:.0%} faster among {len(held)} points: {verdict}"


def shown(ratio: Ratio | None) -> str:
    """A ratio with its interval where it has one."""
    if ratio is None:
        return "unknown against"
    low_high = "" if ratio.interval is None else f" ({ratio.interval.low:.2f}–{ratio.interval.high:.2f})"
    return f"{ratio.value:.2f}{low_high} times"


def main() -> None:
    """Tune, measure everything, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bert")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--lengths", default="128")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--max-loss")
    parser.add_argument("--backends", help="as `bench tune` has it")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    args = parser.parse_args()
    spaces: list[Space] = []

    tuning = tune(
        args.model, batches=args.batches, lengths=args.lengths, budget=args.budget, max_loss=args.max_loss,
        backends=args.backends, artifacts=args.artifacts,
        listener=TuneListener(tell, lambda _, space: spaces.append(space)),
    )  # fmt: skip
    if tuning.winner is None:
        parser.exit(1, "tuning took nothing\n")
    winner, runs = tuning.winner, []
    for threads in thread_counts(machine.thread_budget(None), tuning.device):
        for group in groups(spaces[0].candidates, winner.candidate):
            asked = {
                "model": args.model, "backends": [one.label for one in group], "precisions": [group[0].precision],
                "batches": args.batches, "lengths": args.lengths, "rounds": args.rounds, "threads": threads,
                "device": tuning.device, "artifacts": args.artifacts,
            }  # fmt: skip
            runs.append((threads, measure(Forward, ForwardOptions.parsed(asked), Listener(say=tell))))
    took = f"{tuning.seconds:.0f} s{'' if tuning.is_decided else ', ended by the budget before the final'}"
    print(f"\n{args.model} at {args.batches}×{args.lengths} on {machine.cpu_name()}")
    print(f"tuning took {winner.label} in {took}; median ms of every point")
    print("\n".join(lines(winner, held_against(winner, runs, tuning.goal))))
    for _, run in runs:
        print(f"records: {run.path}")


if __name__ == "__main__":
    main()
