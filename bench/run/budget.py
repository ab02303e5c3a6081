"""What a budget of seconds lets be measured: the points that it is thinned to, and whether a next one still fits.

The choice is a function of points, guessed seconds and budget alone, and a run's file holds it. Guesses are rough, so
points are measured in an order that can be cut anywhere: the ends of a grid of shapes first, then always what lies
farthest from all that is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.options import shown_seconds
from bench.run.record import Point, Record, Run
from bench.run.schedule import State
from bench.spec import Shape

#: Share of the budget above which one point is left for what the others leave over: it would cost many.
LARGE_SHARE = 0.25
#: How the reason of a cell begins that there was no time for.
LEFT_OUT = "left out by --budget"


@dataclass
class Budget:
    """The seconds that a run may take in all, the points that were chosen for them, and how guesses have held."""

    seconds: float
    kept: tuple[Point, ...]
    """In the order in which they are measured."""
    guess: Callable[[Point], float]
    """Rough seconds of one candidate at a point."""
    groups_left: int = 1
    """Groups of candidates that are timed one after another, this one included."""
    measured: dict[Point, tuple[int, float]] = field(default_factory=dict)
    """Candidates and seconds that each finished point took."""

    @property
    def reason(self) -> str:
        """Why a cell was not measured."""
        return f"{LEFT_OUT} {shown_seconds(self.seconds)}"

    def order(self, points: Sequence[Point]) -> tuple[Point, ...]:
        """Every point, in the order to take them."""
        kept = set(self.kept)
        return (*self.kept, *(point for point in points if point not in kept))

    def begin_group(self, groups_left: int, elapsed_seconds: float) -> None:
        """Note that one of so many groups begins: each gets its share of what is left."""
        self.groups_left = groups_left
        self._limit = elapsed_seconds + max(0.0, self.seconds - elapsed_seconds) / groups_left

    def refusal(self, state: State, point: Point) -> str:
        """Why there is no time for `point`; "" if there is. The first point always has time."""
        if point == self.kept[0]:
            return ""
        if point not in self.kept:
            return self.reason
        guessed = sum(self.guess(at) * count for at, (count, _) in self.measured.items())
        pace = sum(seconds for _, seconds in self.measured.values()) / guessed if guessed else 1.0
        needed = self.guess(point) * len(state.candidates) * pace
        return self.reason if state.elapsed_seconds() + needed > self._limit else ""

    def note(self, point: Point, candidates: int, seconds: float) -> None:
        """Note what a point took."""
        count, spent = self.measured.get(point, (0, 0.0))
        self.measured[point] = (count + candidates, spent + seconds)


def kept_points(run: Run) -> tuple[Point, ...]:
    """The points that a run's budget was given to, in the order to take them; all of them without a budget."""
    points = run.workload.points()
    return tuple(points[place] for place in run.notes.get("budget", range(len(points))))


def is_left_out(record: Record) -> bool:
    """True for a cell that the budget had no time for."""
    return record.status == "skipped" and record.reason.startswith(LEFT_OUT)


def choose(
    points: Sequence[Point],
    shapes: Mapping[Point, Shape],
    seconds: Mapping[Point, float],
    budget_seconds: float,
) -> tuple[Point, ...]:
    """The points whose guessed `seconds` fit into the budget together, in the order to measure them.

    Ends first, the middle thinned evenly, if all points have their `shapes`; else in their own order. Points that would
    take a large share of the budget each come last, cheapest first. The first of the order is always among them.
    """
    affordable = [point for point in points if seconds[point] <= LARGE_SHARE * budget_seconds]
    if len(set(shapes.values())) == len(points):
        by_shape = {shapes[point]: point for point in affordable}
        costs = {shape: seconds[point] for shape, point in by_shape.items()}
        order = [by_shape[shape] for shape in _spread(list(by_shape), costs)] if by_shape else []
    else:
        order = affordable
    large = [point for point in points if point not in set(affordable)]
    order += sorted(large, key=lambda point: (seconds[point], shapes.get(point, Shape(0, 0))))
    kept: list[Point] = []
    left = budget_seconds
    for point in order:
        if seconds[point] <= left or not kept:
            kept.append(point)
            left -= seconds[point]
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
