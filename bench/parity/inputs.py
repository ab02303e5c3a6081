"""Seeded batches and masks. Runs in workers; every worker draws the same arrays from the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

#: Raise when the same seed would give other arrays; part of the key of stored references.
VERSION = 3
#: What a run of `compare` judges. "timed": the batch that is timed, nothing masked. "padded": the same ids, each
#: judged row under another kind of mask.
TIMED_CASES = ("timed", "padded")
#: Where ids come from: uniform over the vocabulary, tokenised text, or frequencies like those of words in a text.
IDS = ("random", "text", "zipf")
MASKS = ("full", "right", "left", "holes")
PADDED_MASKS = MASKS[1:]
#: All of `PADDED_MASKS` in one row.
EVERY_MASK = "every"
#: The least length at which a row of each of `PADDED_MASKS` shows what a model makes of them.
LEAST_PADDED_LENGTH = 8
JUDGED_ROWS = 3
#: The one kind of case of a module that makes its inputs itself.
OWN = "own"
INPUTS = ("input_ids", "attention_mask")
#: Elements of one judged output that a worker compares in float64 at once (16 MiB).
JUDGED_ELEMENTS = 2**21
#: Shift of the ranks in Zipf's law as Mandelbrot gave it for English words (1953).
MANDELBROT_SHIFT = 2.7


@dataclass(frozen=True)
class InputPlan:
    """What decides a shape's inputs: batch and length, vocabulary and seed, and the cases that are judged."""

    batch: int
    length: int
    vocab_size: int
    pad_token_id: int
    seed: int
    output_width: int
    cases: tuple[str, ...] = TIMED_CASES
    """Of `TIMED_CASES`, or `ids-mask` with one of `IDS` and one of `MASKS`."""
    most_rows: int = JUDGED_ROWS
    """Rows of a batch that are judged, at most."""
    inputs: tuple[str, ...] = INPUTS
    """Names of the model's inputs, in its order."""
    makes_inputs: bool = False
    """True where the user's own module makes them, and not this file."""
    whole_outputs: tuple[str, ...] = ()
    """Outputs without an axis of positions, [batch, …]."""
    padded_rows: int = JUDGED_ROWS
    """Rows of the case "padded" that are judged, at most; one has `EVERY_MASK`, where a shorter length showed each."""

    def to_json(self) -> dict[str, Any]:
        """As a request carries it; what was added later is left out where it says nothing, as keys hash this."""
        later = {field.name: field.default for field in fields(self)[-4:]}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputPlan:
        """The plan that a request carries."""
        lists = {name: tuple(data[name]) for name in ("cases", "inputs", "whole_outputs") if name in data}
        return cls(**{**data, **lists})


def plan_of(
    source: Any, batch: int, length: int, seed: int, cases: tuple[str, ...], most_rows: int = 3, padded_rows: int = 3
) -> InputPlan:
    """The plan of the inputs of a model's `source` at one shape."""
    return InputPlan(
        batch=batch,
        length=length,
        vocab_size=source.vocab_size,
        pad_token_id=source.pad_token_id,
        seed=seed,
        output_width=source.output_width,
        cases=cases,
        most_rows=most_rows,
        inputs=source.inputs,
        makes_inputs=source.makes_inputs,
        whole_outputs=source.whole_outputs,
        padded_rows=padded_rows,
    )


def drawn_sequences(source: Any, length: int, count: int, seed: int) -> list[list[int]]:
    """`count` seeded sequences of ids of one length."""
    return drawn_rows(source, [length] * count, f"sequences {seed} {length}")


def drawn_rows(source: Any, lengths: Sequence[int], seed: str) -> list[list[int]]:
    """Seeded rows of ids of these lengths, over the vocabulary without the padding id."""
    draw, pad = random.Random(seed), source.pad_token_id
    rows = (draw.choices(range(source.vocab_size - 1), k=length) for length in lengths)
    return [[one + (one >= pad) for one in row] for row in rows]


def rows_of_reference(plan: InputPlan) -> InputPlan:
    """The plan of the rows alone that a reference of `plan` is computed on: they are the same in every batch of one
    length. Inputs that the user's own module makes are those of the whole batch.
    """
    return plan if plan.makes_inputs else replace(plan, batch=min(plan.batch, plan.most_rows))


def timed_cases(length: int, takes_mask: bool = True) -> tuple[str, ...]:
    """The cases that a run of `compare` judges; a single token cannot be padded, nor anything without a mask."""
    return TIMED_CASES if length > 1 and takes_mask else TIMED_CASES[:1]


def judged_rows(plan: InputPlan, case: str = "") -> list[int]:
    """Seeded choice of the places in the batch that are compared with the reference, in ascending order."""
    import numpy as np

    rng = np.random.default_rng([plan.seed, plan.batch, plan.length, 1])
    size = min(plan.batch, plan.most_rows)
    found = sorted(int(row) for row in rng.choice(plan.batch, size=size, replace=False))
    return found[: plan.padded_rows] if case == "padded" else found


def rows_at(plan: InputPlan) -> list[int]:
    """Which drawn row stands at each place of the batch: the first ones at the judged places, in their order."""
    judged = {place: row for row, place in enumerate(judged_rows(plan))}
    others = count(len(judged))
    return [judged[place] if place in judged else next(others) for place in range(plan.batch)]


def judged_positions(plan: InputPlan, rows: int | None = None) -> list[int]:
    """Positions of each judged row that are compared: all, or where outputs are wide a seeded choice with both ends.

    With fewer `rows` than the plan's they are more, those of the plan among them; a reference is stored at those of 1.
    """
    import numpy as np

    most = max(2, JUDGED_ELEMENTS // (plan.output_width * (rows or len(judged_rows(plan)))))
    if plan.length <= most:
        return list(range(plan.length))
    rng = np.random.default_rng([plan.seed, plan.length, 2])
    inner = rng.permutation(np.arange(1, plan.length - 1))[: most - 2]
    return [0, *sorted(int(position) for position in inner), plan.length - 1]


def kinds_of(case: str) -> tuple[str, str]:
    """Kind of ids and kind of mask of a case; the mask of "padded" is "mixed"."""
    if case in TIMED_CASES:
        return "random", "full" if case == "timed" else "mixed"
    ids, _, mask = case.partition("-")
    return ids, mask


def make_batch(
    plan: InputPlan, case: str, texts: Sequence[Sequence[int]] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """`input_ids` and, where the model takes it, `attention_mask`, int64 [batch, length], for one of the plan's cases.

    A row is drawn by its own number and the length, whatever the batch. The padding id stands where the mask is 0, and
    nowhere else among random ids. `texts` are the token ids of one tokenised text a row, each at least `length` long;
    "text" needs them.
    """
    import numpy as np

    kind, mask_kind = kinds_of(case)
    mixed = PADDED_MASKS if plan.padded_rows >= len(PADDED_MASKS) else (EVERY_MASK, *PADDED_MASKS)
    draw = _drawing(kind, plan, texts)
    ids, mask = np.empty((plan.batch, plan.length), dtype=np.int64), np.ones((plan.batch, plan.length), dtype=np.int64)
    for place, row in enumerate(rows_at(plan)):
        ids[place] = draw(row)
        if mask_kind != "full":
            rng = np.random.default_rng([plan.seed, plan.length, row, 4])
            mask[place] = mask_row(mixed[row % len(mixed)] if mask_kind == "mixed" else mask_kind, plan.length, rng)
        if kind == "text" and mask_kind in ("right", "left"):  # a padded text begins behind its padding
            ids[place, mask[place] == 1] = ids[place, : mask[place].sum()].copy()
    ids[mask == 0] = plan.pad_token_id
    found = {"input_ids": ids, "attention_mask": mask}
    return {name: array for name, array in found.items() if name in plan.inputs or plan.makes_inputs}


def padded(rows: Sequence[Sequence[int]], plan: InputPlan) -> dict[str, np.ndarray[Any, Any]]:
    """Rows of ids as `input_ids` and `attention_mask`, int64 [rows, length], padded on the right."""
    import numpy as np

    ids = np.full((len(rows), plan.length), plan.pad_token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    found = {"input_ids": ids, "attention_mask": mask}
    return {name: array for name, array in found.items() if name in plan.inputs}


def kept(batch: Mapping[str, np.ndarray[Any, Any]], length: int) -> np.ndarray[Any, Any]:
    """Which positions of a batch are judged, [batch, length]: those its mask keeps, or all."""
    import numpy as np

    mask = batch.get("attention_mask")
    rows = len(next(iter(batch.values())))
    is_mask = mask is not None and mask.shape == (rows, length)
    return mask if mask is not None and is_mask else np.ones((rows, length), dtype=np.int64)


def _drawing(
    kind: str, plan: InputPlan, texts: Sequence[Sequence[int]] | None
) -> Callable[[int], np.ndarray[Any, Any]]:
    """What draws the ids of a row, int64 [length], by its number."""
    import numpy as np

    if kind == "text":
        if texts is None:
            raise ValueError("a case of text needs tokenised texts")
        return lambda row: np.array(texts[row][: plan.length], dtype=np.int64)
    # A module that makes its inputs has no vocabulary; `null` takes ids in their place.
    words = max(1, plan.vocab_size - 1)
    frequency = 1 / (np.arange(words if kind == "zipf" else 1) + 1 + MANDELBROT_SHIFT)
    cumulative = np.cumsum(frequency / frequency.sum())

    def draw(row: int) -> np.ndarray[Any, Any]:
        rng = np.random.default_rng([plan.seed, plan.length, row, 3])
        if kind == "zipf":
            ids = np.minimum(cumulative.searchsorted(rng.random(plan.length), side="right"), words - 1)
        else:
            ids = rng.integers(0, words, size=plan.length, dtype=np.int64)
        return ids + (ids >= plan.pad_token_id)

    return draw


def mask_row(kind: str, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """One row of a mask, int64 [length]: padded "right" or "left", with "holes", or `EVERY_MASK`; has a 1 and a 0."""
    import numpy as np

    mask = np.ones(length, dtype=np.int64)
    if kind == EVERY_MASK:
        left, right = (int(rng.integers(1, max(1, length * 7 // 20) + 1)) for _ in range(2))
        mask[:left] = mask[length - right :] = 0
        inner = np.arange(left + 1, length - right - 1)
        mask[rng.choice(inner, size=min(len(inner), max(1, length // 10)), replace=False)] = 0
        return mask
    padding = int(rng.integers(max(1, length // 10), max(1, length * 7 // 10) + 1)) if length > 2 else 1
    if kind == "right":
        mask[length - padding :] = 0
    elif kind == "left":
        mask[:padding] = 0
    else:
        holes = rng.choice(np.arange(1, length), size=max(1, length // 5), replace=False)
        mask[holes] = 0
    return mask
