"""What a budget of seconds lets be measured: the shapes that it is thinned to, and whether a next one still fits.

The choice is a function of shapes, guessed seconds and budget alone, and a run's file holds it. Guesses are rough, so
shapes are measured in an order that can be cut anywhere: the ends of the grid first, then always what lies farthest
from all that is measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.errors import UserError
from bench.spec import Shape

UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600}
MOST_SECONDS = 14 * 86400.0
#: Share of the budget above which one shape is left for what the others leave over: it would cost many.
LARGE_SHARE = 0.25


@dataclass(frozen=True)
class Budget:
    """The seconds that a run may take in all, and the shapes that were chosen for them."""

    text: str
    """As the user wrote it."""
    seconds: float
    kept: tuple[Shape, ...]
    """In the order in which they are measured."""

    @property
    def reason(self) -> str:
        """Why a cell was not measured."""
        return f"left out by --budget {self.text}"

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Budget:
        """What `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        budget = cls(str(data["text"]), float(data["seconds"]), tuple(Shape(**shape) for shape in data["kept"]))
        if not 0 < budget.seconds <= MOST_SECONDS or not budget.kept:
            raise ValueError("a budget without seconds or shapes")
        return budget


def parse_budget(text: str | float, option: str = "--budget") -> tuple[str, float]:
    """`"20m"`, `"90s"`, `"1h"` or seconds, as text and seconds; raises UserError for anything else."""
    if isinstance(text, int | float):
        text = f"{text:g}s"
    found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smh])\s*", text)
    if not found:
        raise UserError(f"{option} {text[:40]!r} is no time; write e.g. {option} 20m, 90s or 1h")
    seconds = float(found.group(1)) * UNITS_SECONDS[found.group(2)]
    if not 0 < seconds <= MOST_SECONDS:
        raise UserError(f"{option} {text.strip()} is not above 0 and at most 14 days; use e.g. {option} 20m")
    return "".join(text.split()), seconds


def choose(shapes: Sequence[Shape], seconds: Mapping[Shape, float], budget_seconds: float) -> tuple[Shape, ...]:
    """The shapes whose guessed `seconds` fit into the budget together, in the order to measure them.

    Ends first, the middle thinned evenly. Shapes that would take a large share of the budget each come last, cheapest
    first, as far as the others leave room. The cheapest end is always among them.
    """
    affordable = [shape for shape in shapes if seconds[shape] <= LARGE_SHARE * budget_seconds]
    order = _spread(affordable, seconds) if affordable else []
    large = set(shapes) - set(affordable)
    order += sorted(large, key=lambda shape: (seconds[shape], shape))
    kept: list[Shape] = []
    left = budget_seconds
    for shape in order:
        if seconds[shape] <= left or not kept:
            kept.append(shape)
            left -= seconds[shape]
    return tuple(kept)


def _spread(shapes: Sequence[Shape], seconds: Mapping[Shape, float]) -> list[Shape]:
    """`shapes` with the grid's ends first, cheapest first, then always the one farthest from those before it.

    Distance is in steps of the grid: by rank among its batches and among its lengths, each over its number. Of those
    equally far the one in the emptiest neighbourhood is next.
    """
    batches, lengths = sorted({shape.batch for shape in shapes}), sorted({shape.length for shape in shapes})

    def place(shape: Shape) -> tuple[float, float]:
        return _share(batches, shape.batch), _share(lengths, shape.length)

    ends = {
        min(shapes, key=lambda shape: (shape.batch * shape.length, shape)),
        min(shapes, key=lambda shape: (-shape.batch, shape.length)),
        min(shapes, key=lambda shape: (-shape.length, shape.batch)),
        max(shapes, key=lambda shape: (shape.batch * shape.length, shape)),
    }
    order = sorted(ends, key=lambda shape: (seconds[shape], shape))
    places = {shape: place(shape) for shape in shapes}
    left = set(shapes) - ends
    nearest = dict.fromkeys(left, float("inf"))
    crowd = dict.fromkeys(left, 0.0)

    def take(taken: Shape) -> None:
        for shape in left:
            distance = _distance(places[shape], places[taken])
            nearest[shape] = min(nearest[shape], distance)
            crowd[shape] += 1 / distance

    for end in order:
        take(end)
    while left:
        following = min(left, key=lambda shape: (-nearest[shape], round(crowd[shape], 6), seconds[shape], shape))
        left.remove(following)
        order.append(following)
        take(following)
    return order


def _share(sizes: Sequence[int], size: int) -> float:
    """0 for the first of `sizes`, 1 for the last."""
    return sizes.index(size) / max(1, len(sizes) - 1)


def _distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Squared, and rounded so that equal distances are equal on every machine."""
    return round((one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2, 9)


class Spending:
    """What is spent of a budget while a run goes on; without a budget everything may be measured.

    A guess is corrected by how the guesses of the shapes before it have held.
    """

    def __init__(
        self,
        budget: Budget | None,
        shapes: Sequence[Shape],
        guess: Callable[[Shape], float],
        spent_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget, self._guess, self._clock = budget, guess, clock
        self._started = clock() - spent_seconds
        kept = shapes if budget is None else budget.kept
        self.left_out = set(shapes) - set(kept)
        """Shapes that are not measured; the run may still add some."""
        self.order = (*kept, *(shape for shape in shapes if shape in self.left_out))
        """Every shape of the grid, in the order to take them."""
        self._limit_seconds = 0.0 if budget is None else budget.seconds
        self._guessed_seconds = self._measured_seconds = 0.0

    @property
    def spent_seconds(self) -> float:
        """Since the run began, all its sessions together."""
        return self._clock() - self._started

    def begin(self, groups_left: int) -> None:
        """Note that one of `groups_left` groups of contestants, which are timed one after another, begins."""
        if self.budget is not None:
            spent = self.spent_seconds
            self._limit_seconds = spent + max(0.0, self.budget.seconds - spent) / groups_left

    def refusal(self, shape: Shape, contestants: int) -> str:
        """Why `shape` is not measured on so many contestants, or "" where it fits; the first shape always does."""
        if self.budget is None or shape == self.budget.kept[0]:
            return ""
        needed = self._guess(shape) * contestants * self._pace
        if shape not in self.left_out and self.spent_seconds + needed > self._limit_seconds:
            self.left_out.add(shape)
        return self.budget.reason if shape in self.left_out else ""

    def note(self, shape: Shape, contestants: int, seconds: float) -> None:
        """Note that so many contestants took `seconds` together at `shape`."""
        self._guessed_seconds += self._guess(shape) * contestants
        self._measured_seconds += seconds

    @property
    def _pace(self) -> float:
        """Seconds taken for each second guessed, so far."""
        return self._measured_seconds / self._guessed_seconds if self._guessed_seconds else 1.0
