"""How a corpus is cut into batches, and all that one run of `bench corpus` measures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.errors import UserError
from bench.spec import nearest, parse_names

ORDERS = ("unsorted", "sorted", "bucketed")
#: Width of the buckets of "bucketed" where --bucket does not say.
DEFAULT_BUCKET = 16
DEFAULT_BATCHES = (1, 2, 4, 8, 16, 32, 64)
MOST_SHAPES = 16


@dataclass(frozen=True, order=True)
class Packing:
    """What every contestant takes the corpus in: a batch size, and the order that the sentences come in."""

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
class CorpusPlan:
    """Batch sizes and orders of one run, and what lengths are rounded up to."""

    batches: tuple[int, ...]
    orders: tuple[str, ...]
    bucket: int | None = None
    """Lengths of batches are rounded up to a multiple of it; None rounds those of "bucketed" alone."""
    most_shapes: int = MOST_SHAPES
    """Shapes that a backend may have to compile for one packing."""
    rounds: int = 5
    """Timed passes of each contestant at each packing."""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CorpusPlan:
        """The plan that `to_json` wrote; raises ValueError where it plans nothing."""
        found = cls(**{**data, "batches": tuple(data["batches"]), "orders": tuple(data["orders"])})
        if not found.batches or not all(isinstance(batch, int) and batch > 0 for batch in found.batches):
            raise ValueError("batches that are no positive integers")
        if not found.orders or not set(found.orders) <= set(ORDERS):
            raise ValueError("unknown orders")
        return found

    @property
    def packings(self) -> tuple[Packing, ...]:
        """Every order at every batch size, orders outermost."""
        return tuple(Packing(batch, order) for order in self.orders for batch in self.batches)

    def multiple(self, order: str) -> int:
        """What a batch's length is rounded up to a multiple of."""
        return self.bucket or (DEFAULT_BUCKET if order == "bucketed" else 1)


def pack(lengths: Sequence[int], plan: CorpusPlan, packing: Packing, most: int | None, seed: int) -> list[PaddedBatch]:
    """The corpus of `lengths` (tokens) in batches of one packing, rounded-up lengths cut at `most`.

    Sorted is longest first, so that a packing that does not fit into memory fails at once. Bucketed draws sentences and
    then batches of the same bucket in seeded order.
    """
    multiple = plan.multiple(packing.order)
    places = list(range(len(lengths)))
    groups = [places]
    draw = random.Random(f"{packing.order} {packing.batch} {seed}")
    if packing.order == "sorted":
        groups = [sorted(places, key=lambda place: (-lengths[place], place))]
    elif packing.order == "bucketed":
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
    if packing.order == "bucketed":
        draw.shuffle(found)
    return found


def _rounded(length: int, multiple: int, most: int | None) -> int:
    up = -(-length // multiple) * multiple
    return up if most is None else max(length, min(up, most))


def parse_orders(text: str | Sequence[str]) -> tuple[str, ...]:
    """`"unsorted,sorted"` as distinct orders; raises UserError with the nearest name."""
    found = parse_names(text, "--order")
    for order in found:
        if order not in ORDERS:
            raise UserError(f"unknown order {order!r}{nearest(order, ORDERS)}; use any of {', '.join(ORDERS)}")
    return found


def check_sizes(plan: CorpusPlan, sentences: int) -> None:
    """Raise UserError for a bucket, bound or batch that packs nothing new."""
    for option, size in (("--bucket", plan.bucket), ("--most-shapes", plan.most_shapes)):
        if size is not None and not 1 <= size <= 100_000:
            raise UserError(f"{option} {size} is not within 1 and 100000; use 16")
    if plan.batches[-1] > sentences:
        raise UserError(
            f"--batches {plan.batches[-1]} exceeds the {sentences:,} sentences of the corpus; "
            f"use --batches ≤ {sentences}, or more sentences"
        )
