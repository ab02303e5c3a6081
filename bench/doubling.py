"""`--batches auto`: how far the batch is doubled at each length, and which batch is the best; pure functions.

A contestant's throughput (sequences a second, by the median) gains at a batch where it is `GAIN` or more above the best
of its smaller batches. A contestant is done at a batch

- that it has no figure for: out of memory, foreseen not to fit, failed, broken or implausible;
- where it gains less, and the whole interval of the gain lies under `GAIN`;
- where it gains less for the second time in a row: with an interval that reaches above `GAIN`, one step may be noise.

A length ends where all contestants that take turns and compute the model are done, or at `LARGEST_BATCH`. Until then
all of them are measured, those that are done too, so that each batch has its speed-ups and one that seemed done may
gain again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import statistics
from bench.spec import AUTO as AUTO
from bench.spec import Candidate

if TYPE_CHECKING:
    from bench.records import Record, Run

LARGEST_BATCH = 1024
#: Every batch that may be taken.
BATCHES = tuple(2**power for power in range(LARGEST_BATCH.bit_length()))
#: Share by which throughput has to grow for a larger batch to be worth its latency.
GAIN = 0.05
#: How the reason of a cell begins whose batch was not taken any more.
ENDED = "beyond the last doubling: "
#: Batches whose references are made together, as each time starts two processes.
TOGETHER = 3


@dataclass(frozen=True)
class Step:
    """What one contestant gained at a batch over the best of its smaller ones."""

    contestant: Candidate
    smaller: int
    """The batch that was the best before."""
    batch: int
    gain: float
    """Share, e.g. 0.02; negative for a loss."""
    highest: float
    """High end of its interval; infinite where the rounds give none."""


@dataclass(frozen=True)
class Best:
    """The batch to take for one contestant at one length: the smallest that no larger one outdoes by `GAIN`."""

    record: Record
    largest_measured: int
    """The largest batch that this contestant was measured at."""
    rounds: tuple[tuple[float, ...], ...]
    """Nanoseconds a sequence, by round."""

    @property
    def sequences_per_second(self) -> float:
        """By the median."""
        return throughput(self.record)


@dataclass(frozen=True)
class Length:
    """What became of one length."""

    length: int
    bests: tuple[Best, ...]
    """One a contestant that was measured, in the order of the run."""
    winner: Best | None
    """The highest throughput among those that are the same model; None where fewer than two can be compared."""
    ties: tuple[Best, ...]
    """Those whose throughput cannot be told from the winner's."""
    ending: str
    """Why no larger batch was taken."""


def throughput(record: Record) -> float:
    """Sequences a second by the median call."""
    return record.batch / (statistics.median(record.samples) / 1e9)


def ending(run: Run, length: int, batch: int, contestants: Collection[Candidate]) -> str:
    """Why `batch` is not taken at `length` by `contestants`, which take turns; "" where it is."""
    records = [r for r in run.records if r.length == length and r.batch < batch and r.contestant in contestants]
    if stated := next((r.reason for r in records if is_beyond(r)), ""):
        return stated
    # What computes nothing gains for ever; it decides only where there is nothing else.
    if judged := {record.contestant for record in records if record.judged}:
        contestants = [contestant for contestant in contestants if contestant in judged]
    last = max((record.batch for record in records), default=0)
    if not last:
        return ""
    steps = []
    for contestant in contestants:
        figures = _figures(run, [record for record in records if record.contestant == contestant])
        if last not in figures:
            continue
        step = _step(contestant, figures, last)
        if step is None or not _is_done(step, figures):
            return ""
        steps.append(step)
    if not steps:
        return f"{ENDED}nobody could be measured at batch {last}"
    most = max(steps, key=lambda step: step.gain)
    return (
        f"{ENDED}throughput gained under {GAIN:.0%} from batch {most.smaller} to {last} "
        f"(at most {most.gain:.1%}, {most.contestant.label})"
    )


def is_beyond(record: Record) -> bool:
    """True for a planned cell that was not measured since its length had ended."""
    return record.status == "skipped" and record.reason.startswith(ENDED)


def lengths(run: Run) -> list[Length]:
    """What became of each length that has a record."""
    found = []
    for length in sorted({record.length for record in run.records}):
        records = [record for record in run.records if record.length == length]
        bests = [
            best
            for contestant in run.grid.contestants
            if (best := _best(run, [record for record in records if record.contestant == contestant])) is not None
        ]
        winner, ties = _winner(bests)
        found.append(Length(length, tuple(bests), winner, ties, _why(records)))
    return found


def _why(records: Sequence[Record]) -> str:
    """Why a length ended; contestants that ran one after another each have a reason of their own."""
    told = dict.fromkeys(r.reason.removeprefix(ENDED) for r in records if is_beyond(r))
    if told:
        return "; ".join(told)
    return f"{LARGEST_BATCH} is the largest batch" if any(r.batch == LARGEST_BATCH for r in records) else ""


def _counts(run: Run, record: Record) -> bool:
    """True for a cell whose time is that of work which was done."""
    return record.status == "ok" and record.verdict != "broken" and not run.is_implausible(record)


def _figures(run: Run, records: Iterable[Record]) -> dict[int, Record]:
    return {record.batch: record for record in records if _counts(run, record)}


def _step(contestant: Candidate, figures: Mapping[int, Record], batch: int) -> Step | None:
    """What `contestant` gained at `batch`; None where it has no smaller figure."""
    smaller = [record for size, record in figures.items() if size < batch]
    if not smaller:
        return None
    before, now = max(smaller, key=throughput), figures[batch]
    ratio = statistics.ratio_of_runs(_per_sequence(before), _per_sequence(now))
    highest = ratio.interval.high - 1 if ratio is not None and ratio.interval is not None else float("inf")
    return Step(contestant, before.batch, batch, throughput(now) / throughput(before) - 1, highest)


def _is_done(step: Step, figures: Mapping[int, Record]) -> bool:
    if step.gain >= GAIN:
        return False
    if step.highest < GAIN:
        return True
    earlier = [batch for batch in figures if batch < step.batch]
    previous = _step(step.contestant, {batch: figures[batch] for batch in earlier}, max(earlier))
    return previous is not None and previous.gain < GAIN


def _per_sequence(record: Record) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(sample / record.batch for sample in round_) for round_ in record.rounds)


def _best(run: Run, records: Sequence[Record]) -> Best | None:
    figures = _figures(run, records)
    if not figures:
        return None
    most = max(map(throughput, figures.values()))
    batch = min(size for size, record in figures.items() if throughput(record) * (1 + GAIN) > most)
    return Best(figures[batch], max(figures), _per_sequence(figures[batch]))


def _winner(bests: Sequence[Best]) -> tuple[Best | None, tuple[Best, ...]]:
    rivals = [best for best in bests if best.record.is_comparable and best.record.judged]
    if len(rivals) < 2:
        return None, ()
    fastest = max(rivals, key=lambda best: best.sequences_per_second)
    return fastest, tuple(best for best in rivals if best is not fastest and not _is_beaten(fastest, best))


def _is_beaten(fastest: Best, other: Best) -> bool:
    ratio = statistics.ratio_of_runs(other.rounds, fastest.rounds)
    return ratio is not None and ratio.verdict == "faster"
