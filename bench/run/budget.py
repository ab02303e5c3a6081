"""What a budget of seconds lets be measured: the points that it is thinned to, and whether a next one still fits.

The choice is a function of points, guessed seconds and budget alone, and a run's file holds it. Guesses are rough, so
points are measured in an order that can be cut anywhere: the ends of a grid of shapes first, then always what lies
farthest from all that is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.errors import Say
from bench.options import shown_seconds
from bench.run.file import RunFile
from bench.run.record import Point, Record, Run
from bench.run.schedule import State
from bench.spec import Shape

if TYPE_CHECKING:
    from bench.run.workload import Workload
    from exporters.sources import ModelSource

#: Share of the budget above which one point is left for what the others leave over: it would cost many.
LARGE_SHARE = 0.25
#: How the reason of a cell begins that there was no time for.
LEFT_OUT = "left out by --budget"


@dataclass
class Budget:
    """The seconds that a run may take in all, the points that were chosen for them, and how guesses have held."""

    kept: Sequence[Point]
    """In the order in which they are measured."""
    seconds: float = math.inf
    guess: Callable[[Point], float] = lambda point: 0.0
    """Rough seconds of one candidate at a point."""
    measured: dict[Point, tuple[int, float]] = field(default_factory=dict)
    """Candidates and seconds that each finished point took."""
    _limit: float = field(default=math.inf, init=False)
    """Seconds since the run began at which the group that takes turns now ends."""

    def order(self, points: Sequence[Point]) -> tuple[Point, ...]:
        """Every point, in the order to take them."""
        return tuple(dict.fromkeys((*self.kept, *points)))

    def first(self, workload: Workload) -> Sequence[Point]:
        """Points whose references are made before anything is timed; those of others when they begin."""
        first = workload.first_points()
        return first if self.seconds == math.inf else [point for point in self.kept if point in first]

    def begin_group(self, groups_left: int, elapsed_seconds: float) -> None:
        """Note that one of so many groups begins: each gets its share of what is left."""
        self._limit = elapsed_seconds + max(0.0, self.seconds - elapsed_seconds) / groups_left

    def seconds_left(self, elapsed_seconds: float) -> float:
        """What the group that takes turns now has left; infinite without a budget."""
        return self._limit - elapsed_seconds

    def refusal(self, state: State, point: Point) -> str:
        """Why there is no time for `point`; "" if there is. The first point always has time."""
        if self.seconds == math.inf or point == self.kept[0]:
            return ""
        guessed = sum(self.guess(at) * count for at, (count, _) in self.measured.items())
        pace = sum(seconds for _, seconds in self.measured.values()) / guessed if guessed else 1.0
        needed = self.guess(point) * len(state.candidates) * pace
        has_time = point in self.kept and state.elapsed_seconds() + needed <= self._limit
        return "" if has_time else f"{LEFT_OUT} {shown_seconds(self.seconds)}"

    def note(self, point: Point, candidates: int, seconds: float) -> None:
        """Note what a point took."""
        count, spent = self.measured.get(point, (0, 0.0))
        self.measured[point] = (count + candidates, spent + seconds)


def budget_of(run: Run, source: ModelSource, file: RunFile, say: Say) -> Budget:
    """The budget of a run; its choice is noted in the file, and stays what it was if the run goes on."""
    workload, seconds, points = run.workload, run.options.budget, run.workload.points()
    if seconds is None:
        return Budget(workload.in_order())

    def guess(point: Point) -> float:
        return workload.guessed_seconds(point, source, run.peaks)

    if points and "budget" not in run.notes:
        guesses = {point: len(run.candidates) * guess(point) for point in points}
        shapes = {point: shape for point in points if (shape := workload.shape_of(point)) is not None}
        kept = choose(points, shapes, guesses, seconds)
        left_out = [str(point) for point in points if point not in kept]
        total = sum(guesses[point] for point in kept)
        say(
            f"--budget {seconds:g}s has time for {len(kept)} of {len(points)} {workload.point_noun}s "
            f"(about {total:.0f} s)" + (f"; left out: {', '.join(left_out)}" if left_out else "")
        )
        file.note("budget", [points.index(point) for point in kept])
    return Budget(kept_points(run), seconds, guess)


def kept_points(run: Run) -> tuple[Point, ...]:
    """The points that a run's budget was given to, in the order to take them; all of them without a budget."""
    points = run.workload.points()
    return tuple(points[place] for place in run.notes.get("budget", range(len(points))))


def is_left_out(record: Record) -> bool:
    """True for a cell that the budget had no time for."""
    return record.status == "skipped" and record.reason.startswith(LEFT_OUT)


def choose(
    points: Sequence[Point], shapes: Mapping[Point, Shape], seconds: Mapping[Point, float], budget_seconds: float
) -> tuple[Point, ...]:
    """The points whose guessed `seconds` fit into the budget together, in the order to measure them.

    Ends first, the middle thinned evenly, if all points have their `shapes`; else in their own order. Points that would
    take a large share of the budget each come last, cheapest first. The first of the order is always among them.
    """
    order = [point for point in points if seconds[point] <= LARGE_SHARE * budget_seconds]
    large = [point for point in points if seconds[point] > LARGE_SHARE * budget_seconds]
    if len(set(shapes.values())) == len(points):
        by_shape = {shapes[point]: point for point in order}
        order = [by_shape[shape] for shape in _spread({shape: seconds[point] for shape, point in by_shape.items()})]
    kept: list[Point] = []
    left = budget_seconds
    for point in (*order, *sorted(large, key=lambda point: (seconds[point], shapes.get(point, Shape(0, 0))))):
        if seconds[point] <= left or not kept:
            kept.append(point)
            left -= seconds[point]
    return tuple(kept)


def _spread(seconds: Mapping[Shape, float]) -> list[Shape]:
    """Shapes with the grid's ends first, cheapest first, then always the one farthest from those before it, by rank
    among batches and lengths; of those equally far the one in the emptiest neighbourhood.
    """
    batches, lengths = sorted({shape.batch for shape in seconds}), sorted({shape.length for shape in seconds})
    ends = {
        min(seconds, key=key, default=Shape(0, 0))
        for key in (
            lambda shape: (shape.batch * shape.length, shape.batch),
            lambda shape: (-shape.batch, shape.length),
            lambda shape: (-shape.length, shape.batch),
            lambda shape: (-shape.batch * shape.length, -shape.batch),
        )
    }
    left, order = set(seconds), list[Shape]()
    nearest, crowd = dict.fromkeys(seconds, math.inf), dict.fromkeys(seconds, 0.0)

    def rank(shape: Shape) -> tuple[float, ...]:
        far = (0.0, 0.0) if shape in ends else (-nearest[shape], round(crowd[shape], 6))
        return shape not in ends, *far, seconds[shape], shape.batch, shape.length

    while left:
        following = min(left, key=rank)
        left.remove(following)
        order.append(following)
        for shape in left:
            across = _place(batches, shape.batch) - _place(batches, following.batch)
            along = _place(lengths, shape.length) - _place(lengths, following.length)
            distance = round(across**2 + along**2, 9)  # so that equal ones are equal on every machine
            nearest[shape] = min(nearest[shape], distance)
            crowd[shape] += 1 / distance
    return order


def _place(sizes: Sequence[int], size: int) -> float:
    """0 for the first of `sizes`, 1 for the last."""
    return sizes.index(size) / max(1, len(sizes) - 1)
