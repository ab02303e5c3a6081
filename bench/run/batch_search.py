"""The largest batch that fits, by doubling and then halving: pure functions over tries, and a schedule. No clock."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.run.record import Point
from bench.run.schedule import OpenCell, State
from bench.spec import Candidate

Ending = Literal["boundary", "most", "time", "failure", "above-limit"]


@dataclass(frozen=True)
class Try:
    """One call on a batch."""

    batch: int
    fits: bool | None
    """None if it said neither: the process died for no reason that is known, and the batch is tried once more."""
    seconds: float = 0.0
    """With starting the process and loading."""
    is_above_limit: bool = False
    """True if the loaded model left nothing of the limit, so that no batch could be tried."""


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


def next_step(tries: Sequence[Try], most: int, most_seconds: float = float("inf")) -> int | Boundary:
    """The batch to try after `tries`, or where the search has ended.

    Batches 1 to `most` are searched for the largest that fits, which is taken to be monotone and then checked: they
    are doubled until one does not fit, the gap is halved until it is 1, and both its ends are tried again. If the lower
    end does not fit again, the search goes on below it. No batch is tried once tries took `most_seconds`.
    """
    search, spent = _search(most), 0.0
    batch = next(search)
    try:
        for one in tries:
            if one.is_above_limit:
                return Boundary(0, None, "above-limit", True, True)
            spent += one.seconds
            if one.fits is not None:
                batch = search.send(one.fits)
        return batch if spent < most_seconds else search.send(None)
    except StopIteration as ended:
        found: Boundary = ended.value
        return found


def unfinished(tries: Sequence[Try]) -> Boundary:
    """What is known if a failure ended the search."""
    too_large = min((one.batch for one in tries if one.fits is False), default=None)
    fitted = {one.batch for one in tries if one.fits}
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
class BatchSearch:
    """A schedule: one cell after another, point by point, each until `is_done`."""

    is_done: Callable[[Point, OpenCell], bool]

    def next_turns(self, state: State) -> Sequence[tuple[Point, Candidate]]:
        return next(([(point, one)] for point in state.points for one in state.left(point)), [])

    def is_open(self, state: State, point: Point, candidate: Candidate) -> bool:
        return not self.is_done(point, state.cell(point, candidate))

    def refusal(self, state: State, point: Point) -> str:
        return ""
