"""Which inputs a model is judged on: kinds of ids times kinds of masks at every batch × length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.parity.inputs import JUDGED_ROWS, MASKS, timed_cases
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
    """The cases of every shape; without ids, those that a run of `compare` judges."""

    ids: tuple[str, ...] = ()
    masks: tuple[str, ...] = MASKS
    tokenizer: Path | None = None
    """File that "text" is tokenised with."""
    new_tokens: int = 0
    """Tokens that are generated behind each prompt, one prompt for each kind of ids; 0 for none."""
    prompt_length: int = PROMPT_LENGTH
    is_timed: bool = False
    """True where what is judged is timed too, so that its operations are counted; always so without ids."""
    with_cache: bool = False
    """True where eager generates the reference with its cache, and not by full passes."""

    def cases(self, shape: Shape, takes_mask: bool = True) -> tuple[str, ...]:
        """Names of a shape's cases; a single token cannot be padded, nor anything for a model without a mask."""
        if not self.ids:
            return timed_cases(shape.length, takes_mask)
        masks = self.masks if shape.length > 1 and takes_mask else ("full",)
        return tuple(f"{ids}-{mask}" for ids in self.ids for mask in masks)

    def prompts(self) -> tuple[str, ...]:
        """Names of the prompts' cases."""
        return tuple(f"{ids}-full" for ids in self.ids)

    def most_rows(self, shape: Shape) -> int:
        """Rows of a batch that are judged."""
        return 1 if self.ids and shape.length >= LONG else JUDGED_ROWS


def parse_masks(text: str | Iterable[str]) -> tuple[str, ...]:
    """Some of `MASKS`; raises UserError with the nearest."""
    names = parse_names(text, "--masks")
    for name in names:
        if name not in MASKS:
            raise UserError(f"unknown mask {name[:40]!r}{nearest(name, MASKS)}; use any of {','.join(MASKS)}")
    return names


def default_lengths(positions: int | None) -> tuple[int, ...]:
    """`DEFAULT_LENGTHS` as far as the model has positions, and the largest."""
    largest = positions or LARGEST_LENGTH
    return tuple(sorted({*(length for length in DEFAULT_LENGTHS if length < largest), largest}))
