"""Where a shape lies on a measured grid: the cells that its time is read off, and their shares. Pure functions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bench.spec import Shape

#: How a shape's time is known, best first.
MEASURED, INTERPOLATED, ROUNDED_UP = "measured", "interpolated", "rounded up"


@dataclass(frozen=True)
class Place:
    """A shape's time is the sum of its cells' times by their shares."""

    basis: str
    """MEASURED; INTERPOLATED: linearly over batch and over length, between the nearest measured ones around it;
    ROUNDED_UP: taken for the smallest batch or length that was measured, which takes at least as long."""
    cells: tuple[tuple[Shape, float], ...]
    """Measured shapes and their shares, which sum to 1."""


def place(shape: Shape, measured: Collection[Shape]) -> Place | None:
    """Where `shape` lies among `measured` shapes; None for a batch or length beyond all of them.

    A call's time is about a fixed cost and one in proportion to its tokens, so a straight line is right but for
    attention's part in the square of the length; docs/choosing.md has how far off it was. Nothing is continued
    beyond the largest cell: there memory ends, and caches are missed.
    """
    if shape in measured:
        return Place(MEASURED, ((shape, 1.0),))
    rows = {batch: sorted(s.length for s in measured if s.batch == batch) for batch in {s.batch for s in measured}}
    reaching = sorted(batch for batch, lengths in rows.items() if lengths[-1] >= shape.length)
    if not reaching or reaching[-1] < shape.batch:
        return None
    above = next(batch for batch in reaching if batch >= shape.batch)
    below = max((batch for batch in reaching if batch <= shape.batch), default=above)
    cells: dict[Shape, float] = {}
    for batch, batch_share in _between(shape.batch, below, above):
        lengths = rows[batch]
        longer = next(length for length in lengths if length >= shape.length)
        shorter = max((length for length in lengths if length <= shape.length), default=longer)
        for length, length_share in _between(shape.length, shorter, longer):
            cells[Shape(batch, length)] = batch_share * length_share
    is_within = below <= shape.batch and all(rows[batch][0] <= shape.length for batch in {below, above})
    return Place(INTERPOLATED if is_within else ROUNDED_UP, tuple(cells.items()))


def _between(value: int, low: int, high: int) -> list[tuple[int, float]]:
    """`low` and `high` with their shares in `value`; the one of them where they are the same."""
    if low == high:
        return [(low, 1.0)]
    share = (value - low) / (high - low)
    return [(end, part) for end, part in ((low, 1 - share), (high, share)) if part > 0]
