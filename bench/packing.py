"""Sentences of varying length in batches: every order that a corpus may be taken in, and what padding that takes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from bench import statistics
from bench.errors import UserError
from bench.spec import nearest, parse_names

UNSORTED, SORTED, BUCKETED = ORDERS = ("unsorted", "sorted", "bucketed")
#: Width of the buckets of "bucketed" unless another is asked for.
DEFAULT_BUCKET = 16
#: Bars of a histogram of lengths, at most.
BINS = 10
#: The batch that is judged on what a timed pass returned.
LAST = "last"


def parse_orders(value: Any, option: str) -> tuple[str, ...]:
    """Any of `ORDERS`, distinct; raises UserError with the nearest name."""
    found = parse_names(value, option)
    for one in found:
        if one not in ORDERS:
            raise UserError(f"unknown order {one[:40]!r}{nearest(one, ORDERS)}; use any of {', '.join(ORDERS)}")
    return found


@dataclass(frozen=True)
class Summary:
    """Sentences without their ids: enough to know them again, and to report on what was measured over them."""

    source: str = ""
    """Where they came from, in one line."""
    lengths: tuple[int, ...] = ()
    """Tokens of each, special ones included."""
    checksum: str = ""
    """Of all ids, in order."""
    truncated: int = 0
    """Sentences that were cut at `most_tokens`."""
    most_tokens: int | None = None
    tokenizer: str | None = None
    """SHA-256 of the tokenizer's file; None if ids were drawn."""
    note: str = ""
    """What a user must know of where they came from."""

    @cached_property
    def tokens(self) -> int:
        """Of all sentences."""
        return sum(self.lengths)

    @property
    def quartiles(self) -> tuple[int, int, int, int, int]:
        """Shortest, quartiles and longest length."""
        q1, q2, q3 = statistics.quartiles(self.lengths)
        return min(self.lengths), round(q1), round(q2), round(q3), max(self.lengths)

    def histogram(self) -> list[tuple[int, int, int]]:
        """First and last length of up to `BINS` equal bins, and the sentences in each."""
        shortest, longest = min(self.lengths), max(self.lengths)
        width = -(-(longest - shortest + 1) // BINS)
        bins = [(first, min(first + width - 1, longest)) for first in range(shortest, longest + 1, width)]
        return [(first, last, sum(first <= length <= last for length in self.lengths)) for first, last in bins]


@dataclass(frozen=True, order=True)
class Packing:
    """What a corpus is taken in: a batch size, and the order that the sentences come in."""

    batch: int
    order: str
    """Of `ORDERS`."""

    def __str__(self) -> str:
        return f"{self.batch} {self.order}"


@dataclass(frozen=True)
class PaddedBatch:
    """Sentences that are passed together, each padded to `length` tokens."""

    sentences: tuple[int, ...]
    """Their places in the corpus."""
    length: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length."""
        return len(self.sentences), self.length

    @property
    def positions(self) -> int:
        """Tokens and padding."""
        return len(self.sentences) * self.length


@dataclass(frozen=True)
class Packed:
    """A corpus in the batches of one packing."""

    batches: tuple[PaddedBatch, ...]

    @cached_property
    def positions(self) -> int:
        """Tokens and padding of all batches."""
        return sum(batch.positions for batch in self.batches)

    def padding_share(self, tokens: int) -> float:
        """Share of all positions that are padding, if the sentences have so many `tokens`."""
        return 1 - tokens / self.positions

    @cached_property
    def shapes(self) -> frozenset[tuple[int, int]]:
        """Distinct rows × length."""
        return frozenset(batch.shape for batch in self.batches)

    @cached_property
    def largest(self) -> PaddedBatch:
        """The first batch of the most positions."""
        return max(self.batches, key=lambda batch: batch.positions)

    @cached_property
    def judged(self) -> dict[str, int]:
        """Places of the batches that are judged, each once: the last, the largest and the smallest."""
        positions = [batch.positions for batch in self.batches]
        places = {
            LAST: len(positions) - 1,
            "largest": positions.index(max(positions)),
            "smallest": positions.index(min(positions)),
        }
        first = {place: name for name, place in reversed(places.items())}
        return {name: place for name, place in places.items() if first[place] == name}


@lru_cache(maxsize=64)
def pack(lengths: tuple[int, ...], packing: Packing, multiple: int, most: int | None, seed: int) -> Packed:
    """A corpus of `lengths` (tokens) in batches; their lengths are rounded up to a `multiple`, within `most`. Sorted is
    longest first, so that what does not fit fails at once; bucketed batches come in seeded order.
    """
    places = list(range(len(lengths)))
    groups = [places]
    draw = random.Random(f"{packing.order} {packing.batch} {seed}")
    if packing.order == SORTED:
        groups = [sorted(places, key=lambda place: (-lengths[place], place))]
    elif packing.order == BUCKETED:
        draw.shuffle(places)
        by_bucket: dict[int, list[int]] = {}
        for place in places:
            by_bucket.setdefault(_rounded(lengths[place], multiple, most), []).append(place)
        groups = [by_bucket[length] for length in sorted(by_bucket)]
    found = []
    for group in groups:
        for start in range(0, len(group), packing.batch):
            rows = tuple(group[start : start + packing.batch])
            found.append(PaddedBatch(rows, _rounded(max(lengths[row] for row in rows), multiple, most)))
    if packing.order == BUCKETED:
        draw.shuffle(found)
    return Packed(tuple(found))


def _rounded(length: int, multiple: int, most: int | None) -> int:
    up = -(-length // multiple) * multiple
    return up if most is None else max(length, min(up, most))
