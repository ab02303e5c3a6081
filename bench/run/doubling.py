"""`--batches auto`: a schedule that doubles the batch at each length, and which batch is the best; no clock.

A candidate's throughput (sequences a second, by the median) gains at a batch if it is `GAIN` or more above the best of
its smaller batches. A candidate is done at a batch

- that it has no figure for: out of memory, foreseen not to fit, failed, broken or implausible;
- at which it gains less, and the whole interval of the gain lies under `GAIN`;
- at which it gains less for the second time in a row: one step may be noise if its interval reaches above `GAIN`.

A length ends once all candidates that take turns and compute the model are done, or at `LARGEST_BATCH`. Until then
those that are done are measured too, so that each batch has its speed-ups and one that seemed done may gain again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench import statistics
from bench.columns import Section, Table
from bench.run.record import Point, Record, Run
from bench.run.schedule import Grid, State
from bench.spec import Candidate, Shape

LARGEST_BATCH = 1024
#: Every batch that may be taken.
BATCHES = tuple(2**power for power in range(LARGEST_BATCH.bit_length()))
#: Share by which throughput has to grow for a larger batch to be worth its latency.
GAIN = 0.05
#: How the reason of a cell begins whose batch was not taken any more.
ENDED = "beyond the last doubling: "
#: Batches whose references are made before anything is timed, as each time starts two processes.
TOGETHER = 3


class Doubling(Grid):
    """Length by length within a batch, batch after batch; a length that has ended is refused."""

    def refusal(self, state: State, point: Point) -> str:
        return ending(list(state.records.values()), point, state.peers, state.is_implausible)


@dataclass(frozen=True)
class Step:
    """What one candidate gained at a batch over the best of its smaller ones."""

    candidate: Candidate
    smaller: int
    """The batch that was the best before."""
    batch: int
    gain: float
    """Share, e.g. 0.02; negative for a loss."""
    highest: float
    """High end of its interval; infinite if the rounds give none."""


@dataclass(frozen=True)
class Best:
    """The batch to take for one candidate at one length: the smallest that no larger one outdoes by `GAIN`."""

    record: Record
    largest_measured: int
    """The largest batch that this candidate was measured at."""
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
    """One a candidate that was measured, in the order of the run."""
    winner: Best | None
    """The highest throughput among those that are the same model; None if fewer than two can be compared."""
    ties: tuple[Best, ...]
    """Those whose throughput cannot be told from the winner's."""
    ending: str
    """Why no larger batch was taken."""


def throughput(record: Record) -> float:
    """Sequences a second by the median call."""
    batch: int = record.point.batch
    return batch / (statistics.median(record.samples) / 1e9)


def ending(
    records: Sequence[Record],
    point: Shape,
    candidates: Collection[Candidate],
    is_implausible: Callable[[Record], bool],
) -> str:
    """Why `point` is not measured by `candidates`, which take turns; "" if it is."""
    smaller = [
        record
        for record in records
        if record.point.length == point.length and record.point.batch < point.batch and record.candidate in candidates
    ]
    if stated := next((record.reason for record in smaller if is_beyond(record)), ""):
        return stated
    # What computes nothing gains for ever; it decides only if there is nothing else.
    if judged := {record.candidate for record in smaller if record.is_judged}:
        candidates = [candidate for candidate in candidates if candidate in judged]
    last = max((record.point.batch for record in smaller), default=0)
    if not last:
        return ""
    steps = []
    for candidate in candidates:
        figures = _figures((one for one in smaller if one.candidate == candidate), is_implausible)
        if last not in figures:
            continue
        step = _step(candidate, figures, last)
        if step is None or not _is_done(step, figures):
            return ""
        steps.append(step)
    if not steps:
        return f"{ENDED}no candidate could be measured at batch {last}"
    most = max(steps, key=lambda step: step.gain)
    return (
        f"{ENDED}throughput gained under {GAIN:.0%} from batch {most.smaller} to {last} "
        f"(at most {most.gain:.1%}, {most.candidate.label})"
    )


def is_beyond(record: Record) -> bool:
    """True for a planned cell that was not measured since its length had ended."""
    return record.status == "skipped" and record.reason.startswith(ENDED)


def lengths(run: Run) -> list[Length]:
    """What became of each length of a run, shortest first."""
    found = []
    for length in sorted({record.point.length for record in run.records}):
        records = [record for record in run.records if record.point.length == length]
        of_each = ([one for one in records if one.candidate == candidate] for candidate in run.candidates)
        bests = tuple(best for its_own in of_each if (best := _best(run, its_own)) is not None)
        winner, ties = _winner(bests)
        found.append(Length(length, bests, winner, ties, _why(records)))
    return found


def _why(records: Sequence[Record]) -> str:
    """Why a length ended; candidates that ran one after another each have a reason of their own."""
    stated = dict.fromkeys(one.reason.removeprefix(ENDED) for one in records if is_beyond(one))
    if stated:
        return "; ".join(stated)
    has_largest = any(one.point.batch == LARGEST_BATCH for one in records)
    return f"{LARGEST_BATCH} is the largest batch" if has_largest else ""


def _figures(records: Iterable[Record], is_implausible: Callable[[Record], bool]) -> dict[int, Record]:
    """Records by batch whose time is that of work which was done."""
    return {
        record.point.batch: record
        for record in records
        if record.status == "ok" and record.samples and record.verdict != "broken" and not is_implausible(record)
    }


def _step(candidate: Candidate, figures: Mapping[int, Record], batch: int) -> Step | None:
    """What a candidate gained at `batch`; None if it has no smaller figure."""
    smaller = [record for size, record in figures.items() if size < batch]
    if not smaller:
        return None
    before, now = max(smaller, key=throughput), figures[batch]
    ratio = statistics.ratio_of_runs(_per_sequence(before), _per_sequence(now))
    highest = ratio.interval.high - 1 if ratio is not None and ratio.interval is not None else float("inf")
    return Step(candidate, before.point.batch, batch, throughput(now) / throughput(before) - 1, highest)


def _is_done(step: Step, figures: Mapping[int, Record]) -> bool:
    if step.gain >= GAIN:
        return False
    if step.highest < GAIN:
        return True
    earlier = [batch for batch in figures if batch < step.batch]
    previous = _step(step.candidate, {batch: figures[batch] for batch in earlier}, max(earlier))
    return previous is not None and previous.gain < GAIN


def _per_sequence(record: Record) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(sample / record.point.batch for sample in round_) for round_ in record.rounds)


def _best(run: Run, records: Sequence[Record]) -> Best | None:
    figures = _figures(records, run.is_implausible)
    if not figures:
        return None
    most = max(map(throughput, figures.values()))
    batch = min(size for size, record in figures.items() if throughput(record) * (1 + GAIN) > most)
    return Best(figures[batch], max(figures), _per_sequence(figures[batch]))


def _winner(bests: Sequence[Best]) -> tuple[Best | None, tuple[Best, ...]]:
    rivals = [best for best in bests if best.record.is_comparable and best.record.is_judged]
    if len(rivals) < 2:
        return None, ()
    fastest = max(rivals, key=lambda best: best.sequences_per_second)
    return fastest, tuple(best for best in rivals if best is not fastest and not _is_beaten(fastest, best))


def _is_beaten(fastest: Best, other: Best) -> bool:
    ratio = statistics.ratio_of_runs(other.rounds, fastest.rounds)
    return ratio is not None and ratio.verdict == "faster"


def best_batches(run: Run) -> Section:
    """The batch to take at each length, its throughput, and why no larger one was taken."""
    rows: list[tuple[str, ...]] = []
    items = []
    for found in lengths(run):
        for index, best in enumerate(found.bests):
            milliseconds = statistics.median(best.record.samples) / 1e6
            figures = (shown(best.sequences_per_second), f"{milliseconds:.{2 if milliseconds < 100 else 1}f}")
            length = str(found.length) if index == 0 else ""
            name = run.name(best.record.candidate)
            rows.append((length, name, str(best.record.point.batch), *figures, str(best.largest_measured)))
        if line := _line(run, found):
            items.append(line)
    titles = ("length", "backend", "batch", "sequences/s", "ms", "tried up to")
    table = Table(titles, tuple(rows), (False, True, False, False, False, False))
    rule = f"the smallest whose throughput no larger one exceeds by {GAIN:.0%}"
    return Section("Best batch of each length", (rule,), table, items)


def _line(run: Run, found: Length) -> str:
    """Who has the most throughput, at which batch, and why no larger one was taken."""
    parts = []
    if best := found.winner:
        at = f"{run.name(best.record.candidate)} at batch {best.record.point.batch}"
        ties = ", ".join(f"{run.name(tied.record.candidate)} at batch {tied.record.point.batch}" for tied in found.ties)
        parts.append(f"{at}, {shown(best.sequences_per_second)} sequences/s" + (f" (tie with {ties})" if ties else ""))
    if found.ending:
        parts.append(f"ended, as {found.ending}")
    return f"length {found.length}: {'; '.join(parts)}" if parts else ""


def shown(value: float) -> str:
    """Sequences a second with about three significant digits: `0.42`, `4.21`, `42.1`, `4,213`."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
