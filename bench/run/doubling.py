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

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench import statistics
from bench.columns import Section, Table
from bench.run import pairs
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

    label: str
    smaller: int
    """The batch that was the best before."""
    gain: float
    """Share, e.g. 0.02; negative for a loss."""
    highest: float
    """High end of its interval; infinite if the rounds give none."""


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
    at_length = (one for one in records if one.point.length == point.length and one.candidate in candidates)
    smaller = [record for record in at_length if record.point.batch < point.batch]
    if not smaller:
        return ""
    if stated := next((record.reason for record in smaller if is_beyond(record)), ""):
        return stated
    # What computes nothing gains for ever; it decides only if there is nothing else.
    if judged := {record.candidate for record in smaller if record.is_judged}:
        candidates = [candidate for candidate in candidates if candidate in judged]
    last, steps = max(record.point.batch for record in smaller), list[Step]()
    for candidate in candidates:
        figures = _figures(smaller, candidate, is_implausible)
        if last in figures:
            step = _step(figures, last)
            if step is None or not _is_done(step, figures, last):
                return ""
            steps.append(step)
    if not steps:
        return f"{ENDED}no candidate could be measured at batch {last}"
    most = max(steps, key=lambda step: step.gain)
    return (
        f"{ENDED}throughput gained under {GAIN:.0%} from batch {most.smaller} to {last} "
        f"(at most {most.gain:.1%}, {most.label})"
    )


def is_beyond(record: Record) -> bool:
    """True for a planned cell that was not measured since its length had ended."""
    return record.status == "skipped" and record.reason.startswith(ENDED)


def _figures(
    records: Iterable[Record], candidate: Candidate, is_implausible: Callable[[Record], bool]
) -> dict[int, Record]:
    """Records of a candidate by batch whose time is that of work which was done."""
    return {
        record.point.batch: record
        for record in records
        if record.candidate == candidate and record.status == "ok" and record.samples
        if record.verdict != "broken" and not is_implausible(record)
    }


def _step(figures: Mapping[int, Record], batch: int) -> Step | None:
    """What was gained at `batch`; None without a smaller figure."""
    smaller = [record for size, record in figures.items() if size < batch]
    if not smaller:
        return None
    before, now = max(smaller, key=throughput), figures[batch]
    ratio = _times_faster(before, now)
    highest = ratio.interval.high - 1 if ratio is not None and ratio.interval is not None else float("inf")
    return Step(now.candidate.label, before.point.batch, throughput(now) / throughput(before) - 1, highest)


def _is_done(step: Step, figures: Mapping[int, Record], batch: int) -> bool:
    if step.gain >= GAIN:
        return False
    if step.highest < GAIN:
        return True
    previous = _step(figures, max(size for size in figures if size < batch))
    return previous is not None and previous.gain < GAIN


def _times_faster(one: Record, other: Record) -> statistics.Ratio | None:
    """How many times more sequences a second `other` has, of medians apart; None if quiet rounds are too few."""
    if not (pairs.has_quiet_rounds(one) and pairs.has_quiet_rounds(other)):
        return None
    first, second = (
        [[sample / record.point.batch for sample in round_] for round_ in pairs.quiet_rounds(record)]
        for record in (one, other)
    )
    return statistics.ratio_of_runs(first, second)


# The batch to take.


def best_batches(run: Run) -> Section:
    """The batch to take at each length, its throughput, and why no larger one was taken."""
    rows: list[tuple[str, ...]] = []
    items = []
    for length in sorted({record.point.length for record in run.records}):
        records = [record for record in run.records if record.point.length == length]
        of_each = (_figures(records, candidate, run.is_implausible) for candidate in run.candidates)
        bests = [(best, max(figures)) for figures in of_each if (best := _best(figures)) is not None]
        for place, (best, largest) in enumerate(bests):
            ms = statistics.median(best.samples) / 1e6
            cells = (shown(throughput(best)), f"{ms:.{2 if ms < 100 else 1}f}", str(largest))
            rows.append(("" if place else str(length), run.name(best.candidate), str(best.point.batch), *cells))
        if parts := [*_winner(run, [best for best, _ in bests]), *_why(records)]:
            items.append(f"length {length}: {'; '.join(parts)}")
    titles = ("length", "backend", "batch", "sequences/s", "ms", "tried up to")
    table = Table(titles, tuple(rows), (False, True, False, False, False, False))
    rule = f"the smallest whose throughput no larger one exceeds by {GAIN:.0%}"
    return Section("Best batch of each length", (rule,), table, items)


def _best(figures: Mapping[int, Record]) -> Record | None:
    """The smallest batch that no larger one outdoes by `GAIN`."""
    most = max(map(throughput, figures.values()), default=0.0)
    return next((one for _, one in sorted(figures.items()) if throughput(one) * (1 + GAIN) > most), None)


def _winner(run: Run, bests: Sequence[Record]) -> Iterator[str]:
    """Who has the most throughput among those that are the same model, if two can be compared."""
    rivals = [best for best in bests if best.is_comparable and best.is_judged]
    if len(rivals) < 2:
        return
    fastest = max(rivals, key=throughput)
    at = {best.candidate: f"{run.name(best.candidate)} at batch {best.point.batch}" for best in rivals}
    found = {best.candidate: _times_faster(best, fastest) for best in rivals if best is not fastest}
    verdicts = {one: "undecided" if ratio is None else ratio.verdict for one, ratio in found.items()}
    same = [at[one] for one, verdict in verdicts.items() if verdict == "same"]
    doubtful = [at[one] for one, verdict in verdicts.items() if verdict not in ("same", "faster")]
    line = f"{at[fastest.candidate]}, {shown(throughput(fastest))} sequences/s"
    line += f" (same as {', '.join(same)})" if same else ""
    yield f"undecided: {line} leads, {', '.join(doubtful)} may do more" if doubtful else line


def _why(records: Sequence[Record]) -> Iterator[str]:
    """Why a length ended; candidates that ran one after another each have a reason of their own."""
    if stated := dict.fromkeys(one.reason.removeprefix(ENDED) for one in records if is_beyond(one)):
        yield f"ended, as {'; '.join(stated)}"
    elif any(one.point.batch == LARGEST_BATCH for one in records):
        yield f"ended, as {LARGEST_BATCH} is the largest batch"


def shown(value: float) -> str:
    """Sequences a second with about three significant digits: `0.42`, `4.21`, `42.1`, `4,213`."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
