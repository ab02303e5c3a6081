"""Seeded batches and masks. Runs in workers; every worker draws the same arrays from the same seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

#: Raise when the same seed would give other arrays; part of the key of stored references.
VERSION = 1
#: "timed": the batch that is timed, nothing masked. "padded": the same ids under padded masks.
CASES = ("timed", "padded")
MASK_KINDS = ("right", "left", "holes")
JUDGED_ROWS = 3
#: Elements of one judged output that a worker compares in float64 at once (256 MiB).
JUDGED_ELEMENTS = 2**25


@dataclass(frozen=True)
class InputPlan:
    """What decides a cell's inputs: shape, vocabulary and seed."""

    batch: int
    length: int
    vocab_size: int
    pad_token_id: int
    seed: int
    output_width: int

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases that are judged; a single token cannot be padded."""
        return CASES if self.length > 1 else CASES[:1]


def judged_rows(plan: InputPlan) -> list[int]:
    """Seeded choice of the rows of the batch that are compared with the reference, in ascending order."""
    import numpy as np

    most = max(1, JUDGED_ELEMENTS // (plan.length * plan.output_width))
    count = min(plan.batch, JUDGED_ROWS, most)
    rng = np.random.default_rng([plan.seed, plan.batch, plan.length, 1])
    return sorted(int(row) for row in rng.choice(plan.batch, size=count, replace=False))


def make_batch(plan: InputPlan, case: str) -> dict[str, np.ndarray[Any, Any]]:
    """`input_ids` and `attention_mask`, int64 [batch, length], for one of `CASES`.

    Ids are uniform over the vocabulary without the padding id, which stands where the mask is 0.
    """
    import numpy as np

    rng = np.random.default_rng([plan.seed, plan.batch, plan.length, 0])
    shape = (plan.batch, plan.length)
    ids = rng.integers(0, plan.vocab_size - 1, size=shape, dtype=np.int64)
    ids[ids >= plan.pad_token_id] += 1
    mask = np.ones(shape, dtype=np.int64)
    if case == "padded":
        judged = {row: rank for rank, row in enumerate(judged_rows(plan))}
        for row in range(plan.batch):
            kind = MASK_KINDS[judged.get(row, row) % len(MASK_KINDS)]
            mask[row] = mask_row(kind, plan.length, rng)
        ids[mask == 0] = plan.pad_token_id
    return {"input_ids": ids, "attention_mask": mask}


def mask_row(kind: str, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """One row of a mask, int64 [length]: padded "right" or "left", or with "holes"; at least one 1 and one 0."""
    import numpy as np

    mask = np.ones(length, dtype=np.int64)
    padding = int(rng.integers(max(1, length // 10), max(1, length * 7 // 10) + 1)) if length > 2 else 1
    if kind == "right":
        mask[length - padding :] = 0
    elif kind == "left":
        mask[:padding] = 0
    else:
        holes = rng.choice(np.arange(1, length), size=max(1, length // 5), replace=False)
        mask[holes] = 0
    return mask
