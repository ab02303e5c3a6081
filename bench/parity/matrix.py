"""Which inputs a model is judged on: kinds of ids times kinds of masks at every batch × length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.errors import UserError
from bench.parity.inputs import JUDGED_ROWS, MASKS
from bench.spec import Shape, nearest, parse_names

#: One sequence and several, so that rows that are mixed up are seen.
DEFAULT_BATCHES = (1, 3)
#: One token, the length that exports are made with, and one that is no multiple of anything; the largest is added.
DEFAULT_LENGTHS = (1, 16, 37)
#: Tokens of the prompts that generation is judged on.
PROMPT_LENGTH = 16
#: The largest length where the configuration names none.
LARGEST_LENGTH = 512
#: From this length on one seeded row of a batch is judged, and all rows below.
LONG = 257


@dataclass(frozen=True)
class Matrix:
    """Kinds of ids and of masks."""

    ids: tuple[str, ...]
    masks: tuple[str, ...] = MASKS

    def cases(self, shape: Shape, takes_mask: bool = True) -> tuple[str, ...]:
        """Names of a shape's cases; a single token cannot be padded, nor anything for a model without a mask."""
        masks = self.masks if shape.length > 1 and takes_mask else ("full",)
        return tuple(f"{ids}-{mask}" for ids in self.ids for mask in masks)


def most_rows(shape: Shape) -> int:
    """Rows of a batch that are judged."""
    return 1 if shape.length >= LONG else JUDGED_ROWS


def parse_masks(text: str | Iterable[str], option: str = "--masks") -> tuple[str, ...]:
    """Some of `MASKS`; raises UserError with the nearest."""
    names = parse_names(text, option)
    for name in names:
        if name not in MASKS:
            raise UserError(f"unknown mask {name[:40]!r}{nearest(name, MASKS)}; use any of {','.join(MASKS)}")
    return names


def default_lengths(positions: int | None) -> tuple[int, ...]:
    """`DEFAULT_LENGTHS` as far as the model has positions, and the largest."""
    largest = positions or LARGEST_LENGTH
    return tuple(sorted({*(length for length in DEFAULT_LENGTHS if length < largest), largest}))
