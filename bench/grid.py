"""Where a shape lies on a measured grid: the cells that its time is read off, and their shares. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
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
    cells: dict[Shape, float]
    """Measured shapes and their shares, which sum to 1."""


def place(shape: Shape, measured: Collection[Shape]) -> Place | None:
    """Where `shape` lies among `measured` shapes; None beyond all of them, and in a hole of their grid.

    Straight lines between the nearest rows (of one batch each) that have lengths on both sides; docs/choosing.md has
    how far off they were. Nothing is continued beyond the largest cell: there memory ends, and caches are missed.
    """
    if not measured:
        return None
    risen = Shape(max(shape.batch, min(s.batch for s in measured)), max(shape.length, min(s.length for s in measured)))
    rows: dict[int, list[int]] = {}
    for each in sorted(measured):
        rows.setdefault(each.batch, []).append(each.length)
    around = [batch for batch, lengths in rows.items() if lengths[0] <= risen.length <= lengths[-1]]
    cells = {
        Shape(batch, length): batch_share * length_share
        for batch, batch_share in _shares(risen.batch, around)
        for length, length_share in _shares(risen.length, rows[batch])
    }
    if not cells:
        return None
    return Place(ROUNDED_UP if risen != shape else MEASURED if shape in cells else INTERPOLATED, cells)


def _shares(value: int, known: Collection[int]) -> Iterable[tuple[int, float]]:
    """The nearest of `known` at or below `value` and at or above it, with their shares in it; none beyond all."""
    low = max((one for one in known if one <= value), default=None)
    high = min((one for one in known if one >= value), default=None)
    if low is None or high is None:
        return ()
    share = (value - low) / (high - low) if low < high else 1.0
    return ((low, 1 - share), (high, share)) if low < high else ((high, share),)
