"""Outputs of a cell's turns at the judged rows and positions, each distinct one once. Runs in a worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.parity import judging
from bench.parity.inputs import InputPlan

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray[Any, Any]]

#: Distinct outputs of one cell that are kept and judged: the first, and the ones that differ most from it.
MOST_KEPT = 4


class Distinct:
    """What turns gave. A runtime that is right in its last call alone is told by an earlier one's outputs."""

    def __init__(self) -> None:
        self.kept: dict[str, Arrays | str] = {}
        """By checksum: arrays as `judging.judged` takes them, or what is wrong with their shape."""
        self.seen: dict[str, float] = {}
        """Distance from the first, of all that were ever there, by checksum."""

    def take(self, outputs: Mapping[str, Any], plan: InputPlan) -> str:
        """The checksum of a turn's outputs, which are kept if they are new."""
        taken = judging.judged(outputs, plan)
        found = judging.checksum(outputs if isinstance(taken, str) else taken)
        if found not in self.seen:
            first = next(iter(self.kept.values()), taken)
            self.seen[found] = _distance(first, taken) if self.seen else float("inf")
            self.kept[found] = taken
            if len(self.kept) > MOST_KEPT:
                del self.kept[min(self.kept, key=self.seen.__getitem__)]
        return found


def _distance(one: Arrays | str, other: Arrays | str) -> float:
    """Largest RMS of the difference of two outputs over one's own RMS; infinite if they cannot be compared."""
    import numpy as np

    if isinstance(one, str) or isinstance(other, str) or one.keys() != other.keys():
        return float("inf")
    found = [0.0]
    for name, array in one.items():
        if array.shape != other[name].shape:
            return float("inf")
        difference = other[name].astype(np.float64) - array
        share = np.sqrt(np.mean(difference**2)) / max(float(np.sqrt(np.mean(array.astype(np.float64) ** 2))), 1e-300)
        found.append(float(share) if np.isfinite(share) else float("inf"))
    return max(found)
