"""The largest batch that fits, by doubling and then halving: pure functions over turns, and a schedule. No clock.

A turn is one call on a batch. Its figures are "batch" and "fits" (None if the process died for no reason that is known,
and the batch is tried once more); "is_above_limit" (the loaded model left nothing of the limit), "reason" and "failure"
of one that does not fit; "peak_bytes" and "stored_bytes" of one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bench.columns import Column, Section, Table
from bench.run.held import mebibytes, size
from bench.run.record import Point, Record, Run, Turn
from bench.run.schedule import OpenCell, Schedule, State
from bench.spec import Candidate

if TYPE_CHECKING:
    from bench.process.channel import WorkerError

Ending = Literal["boundary", "most", "time", "failure", "above-limit"]
ENDS = {
    "most": "the search ended at --max-batch, which fits",
    "time": "the search ended with --max-seconds-per-search",
}


@dataclass(frozen=True)
class Boundary:
    """Where batches stop fitting, as far as it was looked for."""

    largest: int
    """The largest batch that fits; 0 if one sequence does not."""
    too_large: int | None
    """The smallest batch that was seen not to fit; None if every one tried did."""
    ended_by: Ending
    """"boundary" (it was found), "most" (the largest batch that was to be tried fits), "time", "failure", or
    "above-limit" (the loaded model leaves nothing of the limit)."""
    is_confirmed: bool
    """True if `largest` fitted twice, and at a boundary the next one twice did not."""
    is_steady: bool
    """False if a batch fitted once and another time did not."""

    @property
    def is_exact(self) -> bool:
        """True if the next batch does not fit; otherwise `largest` is a lower bound."""
        return self.ended_by in ("boundary", "above-limit")


def next_step(tries: Sequence[Turn], most: int, most_seconds: float = float("inf")) -> int | Boundary:
    """The batch to try after `tries`, or where the search ended, within `most_seconds`: batches up to `most` are
    doubled until one does not fit, the gap is halved until it is 1, and both its ends are tried again; if the lower one
    does not fit then, the search goes on below it.
    """
    if any(one.figures.get("is_above_limit") for one in tries):
        return Boundary(0, None, "above-limit", True, True)
    search = _search(most)
    batch = next(search)
    try:
        for fits in (one.figures["fits"] for one in tries):
            batch = batch if fits is None else search.send(fits)
        return batch if sum(one.seconds for one in tries) < most_seconds else search.send(None)
    except StopIteration as ended:
        found: Boundary = ended.value
        return found


def unfinished(tries: Sequence[Turn]) -> Boundary:
    """What is known if a failure ended the search."""
    answers = [(one.figures["batch"], one.figures["fits"]) for one in tries]
    too_large = min((batch for batch, fits in answers if fits is False), default=None)
    fitted = {batch for batch, fits in answers if fits}
    largest = max((batch for batch in fitted if too_large is None or batch < too_large), default=0)
    return Boundary(largest, too_large, "failure", False, largest == max(fitted, default=0))


def _search(most: int) -> Generator[int, bool | None, Boundary]:
    """Yields the batch to try, is sent whether it fits or None once time is over, and returns the boundary."""
    fitted: set[int] = set()
    high: int | None = None
    is_steady = True
    while True:
        low = max((batch for batch in fitted if high is None or batch < high), default=0)
        if low == most or (high is not None and high - low == 1):
            if not low:
                break
            fits = yield low
            if fits is None:
                return Boundary(low, high, "most" if high is None else "boundary", False, is_steady)
            if fits:
                break
            high, is_steady = low, False
            fitted.discard(low)
            continue
        batch = min(max(1, 2 * low), most) if high is None else (low + high) // 2
        fits = yield batch
        if fits is None:
            return Boundary(low, high, "time", False, is_steady)
        if fits:
            fitted.add(batch)
        else:
            high = batch
    if high is None:
        return Boundary(low, None, "most", True, is_steady)
    fits = yield high
    if fits is None:
        return Boundary(low, high, "boundary", False, is_steady)
    return Boundary(low, high, "boundary", not fits, is_steady and not fits)


@dataclass(frozen=True)
class BatchSearch(Schedule):
    """A schedule: one cell after another, point by point, each until `is_done`."""

    is_done: Callable[[Point, OpenCell], bool]

    def next_turns(self, state: State) -> Sequence[tuple[Point, Candidate]]:
        return next(([(point, one)] for point in state.points for one in state.left(point)), [])

    def is_open(self, state: State, point: Point, candidate: Candidate) -> bool:
        return not self.is_done(point, state.cell(point, candidate))


def ran_out(error: WorkerError) -> bool:
    """True if memory ran out, as the runtime, the kernel or the last words of a library say that ended the process."""
    from backends.base import parse_out_of_memory

    words = " ".join(error.details.get("stderr", []))
    return error.status == "oom" or (error.is_gone and parse_out_of_memory(words) is not None)


# What a record's turns say.


def boundary_of(record: Record, most: int, most_seconds: float) -> Boundary | None:
    """Where a record's search ended; None if nothing was tried."""
    if record.status != "ok":
        return unfinished(record.turns) if record.turns else None
    found = next_step(record.turns, most, most_seconds)
    return found if isinstance(found, Boundary) else replace(unfinished(record.turns), ended_by="time")


def refusal_of(record: Record, batch: int | None) -> Mapping[str, Any]:
    """Figures of the last try that did not fit, of `batch` or of any."""
    refused = [turn.figures for turn in record.turns if turn.figures["fits"] is False]
    return next((one for one in reversed(refused) if batch in (None, one["batch"])), {})


def bytes_per_sequence(record: Record, name: str) -> float | None:
    """Bytes by which a figure of the tries grows for one sequence more, between the largest batch and the one next to
    its half, so that what does not grow cancels; None if that is not known.
    """
    fitted = [turn.figures for turn in record.turns if turn.figures.get("fits") and name in turn.figures]
    found = {one["batch"]: one[name] for one in fitted}
    larger = max(found, default=0)
    smaller = max((batch for batch in found if 2 * batch <= larger), default=None)
    return None if smaller is None else (found[larger] - found[smaller]) / (larger - smaller)


def bound(found: Boundary) -> str:
    """`8`, or `at least 8`."""
    return str(found.largest) if found.is_exact else f"at least {found.largest}"


def ending(record: Record, found: Boundary) -> str:
    """What ended a search, and what was not as it should be; "" if it found its boundary, and found it again."""
    said = [ENDS[found.ended_by]] if found.ended_by in ENDS else []
    refusal = refusal_of(record, found.too_large)
    if found.ended_by in ENDS and found.too_large is not None:
        said.append(f"batch {found.too_large} does not fit")
    if found.ended_by == "above-limit":
        said.append(refusal["reason"])
    if record.status != "ok":
        said.append(f"{record.status}: {record.reason}")
    if found.ended_by in ("boundary", "most") and found.is_steady and not found.is_confirmed:
        said.append("there was no time to try the boundary again")
    failure = refusal.get("failure", {})
    if record.status == "ok" and "signal" in failure:
        words = "".join(f": {word}" for word in failure.get("stderr", [])[-1:])
        said.append(
            f"at batch {found.too_large} the worker ended itself ({failure['signal']}{words}), "
            "which is taken for want of memory"
        )
    if not found.is_steady:
        answers = {(turn.figures["batch"], turn.figures["fits"]) for turn in record.turns}
        both = sorted(batch for batch, fits in answers if fits and (batch, False) in answers)
        said.append(f"batch {', '.join(map(str, both))} fitted once and another time did not")
    return "; ".join(said)


def taken_bytes(record: Record) -> int | None:
    """What the loaded model took of the limit."""
    figures = [turn.figures for turn in record.turns]
    found = (one.get("taken_bytes") or one.get("failure", {}).get("taken_bytes") for one in figures)
    return next((one for one in found if one is not None), None)


def requested_bytes(record: Record, found: Boundary) -> int | None:
    """The allocation at which the first batch too large failed, if its runtime said."""
    requested: int | None = refusal_of(record, found.too_large).get("failure", {}).get("requested_bytes")
    return requested


def columns(boundary: Callable[[Run, Record], Boundary | None]) -> tuple[Column, ...]:
    """Columns of a search; `boundary` says where that of a record ended, or None if nothing was tried."""

    def of(name: str, value: Callable[[Record, Boundary], Any], about: str = "") -> Column:
        return Column(name, lambda run, one: value(one, found) if (found := boundary(run, one)) else None, help=about)

    return (
        of("taken_bytes", lambda record, found: taken_bytes(record), "of the limit, by the loaded model"),
        of("largest_batch", lambda record, found: found.largest, "a lower bound unless ended_by is boundary"),
        of("too_large_batch", lambda record, found: found.too_large, "smallest that did not fit"),
        of("ended_by", lambda record, found: found.ended_by, "boundary, most, time, failure or above-limit"),
        of("is_confirmed", lambda record, found: found.is_confirmed, "both ends were tried twice"),
        of("is_steady", lambda record, found: found.is_steady, "no batch fitted once and another time did not"),
        of("tries", lambda record, found: len(record.turns)),
        of("peak_bytes_per_sequence", lambda record, found: bytes_per_sequence(record, "peak_bytes")),
        of("stored_bytes_per_sequence", lambda record, found: bytes_per_sequence(record, "stored_bytes")),
        of("requested_bytes", requested_bytes, "the allocation at which the first batch too large failed"),
    )


Searched = Sequence[tuple[Record, Boundary]]


def tables(run: Run, searched: Searched, limit_bytes: int, limits: str) -> Iterator[Section]:
    """The largest batch of each search and what a sequence takes; `limits` says what the limit counts."""
    rows = [
        (
            run.name(record.candidate),
            str(record.point.length),
            bound(found),
            mebibytes(bytes_per_sequence(record, "peak_bytes")),
            mebibytes(bytes_per_sequence(record, "stored_bytes")),
            mebibytes(requested_bytes(record, found)),
        )
        for record, found in searched
    ]
    legend = (
        f"{limits}. MiB/sequence: by which the peak of a call grows for one more. stored: what of it stays allocated "
        "while the outputs are kept. asked for: the allocation at which the first batch too large failed"
    )
    titles = ("backend", "length", "largest batch", "MiB/sequence", "stored", "asked for")
    if rows:
        yield Section(f"Largest batch within {size(limit_bytes)}", table=Table(titles, tuple(rows)))
        yield Section("", (legend,))


def endings(run: Run, searched: Searched) -> Section:
    """What ended each search."""
    told = [(record, line) for record, found in searched if (line := ending(record, found))]
    lines = [f"{run.name(record.candidate)} at {record.point}: {line}" for record, line in told]
    return Section("How the searches ended", items=lines or ["each found its boundary, and found it again"])
