"""The largest batch that fits, by doubling and then halving; no workers, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Boundary:
    """Where batches stop fitting, as far as it was looked for."""

    largest: int
    """The largest batch that fits; 0 where one sequence does not."""
    too_large: int | None
    """The smallest batch that was seen not to fit; None where every one tried did."""
    ended_by: str
    """"boundary" (it was found), "most" (the largest batch that was to be tried fits) or "time"."""
    is_confirmed: bool
    """True when `largest` fitted twice, and at a boundary the next one twice did not."""
    is_steady: bool
    """False when a batch fitted once and another time did not."""

    @property
    def is_exact(self) -> bool:
        """True when the next batch does not fit; otherwise `largest` is a lower bound."""
        return self.ended_by == "boundary"


def find(fits: Callable[[int], bool], most: int, may_go_on: Callable[[], bool] = lambda: True) -> Boundary:
    """Search batches 1 to `most` for the largest that `fits`, which is taken to be monotone and then checked.

    Batches are doubled until one does not fit, the gap is halved until it is 1, and both its ends are tried again.
    Where the lower end does not fit again, the search goes on below it. `may_go_on` is asked before every try.
    """
    fitted: set[int] = set()
    high: int | None = None
    is_steady = True
    while True:
        low = max((batch for batch in fitted if high is None or batch < high), default=0)
        if low == most or (high is not None and high - low == 1):
            ended_by = "most" if high is None else "boundary"
            if not may_go_on():
                return Boundary(low, high, ended_by, False, is_steady)
            if low and not fits(low):
                high, is_steady = low, False
                fitted.discard(low)
                continue
            break
        if not may_go_on():
            return Boundary(low, high, "time", False, is_steady)
        batch = min(max(1, 2 * low), most) if high is None else (low + high) // 2
        if fits(batch):
            fitted.add(batch)
        else:
            high = batch
    if high is None:
        return Boundary(low, None, "most", True, is_steady)
    if not may_go_on():
        return Boundary(low, high, ended_by, False, is_steady)
    is_refuted = fits(high)
    return Boundary(low, high, ended_by, not is_refuted, is_steady and not is_refuted)
