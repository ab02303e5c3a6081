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
    """Where `shape` lies among `measured` shapes; None beyond all of them, and in a hole of their grid.

    A call's time is about a fixed cost and one in proportion to its tokens, so a straight line is right but for
    attention's part in the square of the length; docs/choosing.md has how far off it was. Nothing is continued
    beyond the largest cell: there memory ends, and caches are missed.
    """
    if shape in measured:
        return Place(MEASURED, ((shape, 1.0),))
    if not measured:
        return None
    least = Shape(min(s.batch for s in measured), min(s.length for s in measured))
    risen = Shape(max(shape.batch, least.batch), max(shape.length, least.length))
    cells = ((risen, 1.0),) if risen in measured else _around(risen, measured)
    if cells is None:
        return None
    return Place(INTERPOLATED if risen == shape else ROUNDED_UP, cells)


def _around(shape: Shape, measured: Collection[Shape]) -> tuple[tuple[Shape, float], ...] | None:
    """Cells and shares on the nearest rows (of one batch each) above and below that have lengths on both sides."""
    rows: dict[int, list[int]] = {}
    for each in sorted(measured):
        rows.setdefault(each.batch, []).append(each.length)
    bracketing = [batch for batch, lengths in rows.items() if lengths[0] <= shape.length <= lengths[-1]]
    below = max((batch for batch in bracketing if batch <= shape.batch), default=None)
    above = min((batch for batch in bracketing if batch >= shape.batch), default=None)
    if below is None or above is None:
        return None
    cells: dict[Shape, float] = {}
    for batch, batch_share in _between(shape.batch, below, above):
        shorter = max(length for length in rows[batch] if length <= shape.length)
        longer = min(length for length in rows[batch] if length >= shape.length)
        for length, length_share in _between(shape.length, shorter, longer):
            cells[Shape(batch, length)] = batch_share * length_share
    return tuple(cells.items())


def _between(value: int, low: int, high: int) -> list[tuple[int, float]]:
    """`low` and `high` with their shares in `value`; the one of them where they are the same."""
    if low == high:
        return [(low, 1.0)]
    share = (value - low) / (high - low)
    return [(end, part) for end, part in ((low, 1 - share), (high, share)) if part > 0]
