"""The matrix of judged inputs: which cases at which shapes, and what the user may ask for."""

from __future__ import annotations

import pytest

from bench.errors import UserError
from bench.parity.inputs import MASKS
from bench.parity.matrix import LONG, Matrix, default_lengths, most_rows, parse_masks
from bench.spec import Shape


def test_every_kind_of_ids_meets_every_mask() -> None:
    matrix = Matrix(ids=("random", "text"))
    assert matrix.cases(Shape(2, 16)) == (
        "random-full", "random-right", "random-left", "random-holes",
        "text-full", "text-right", "text-left", "text-holes",
    )  # fmt: skip


def test_a_single_token_is_judged_unmasked_whatever_masks_are_asked_for() -> None:
    assert Matrix(ids=("random", "zipf"), masks=("left",)).cases(Shape(3, 1)) == ("random-full", "zipf-full")
    assert Matrix(ids=("random", "zipf"), masks=("left",)).cases(Shape(3, 2)) == ("random-left", "zipf-left")


def test_a_long_row_is_judged_alone() -> None:
    assert [most_rows(Shape(3, length)) for length in (LONG - 1, LONG)] == [3, 1]


@pytest.mark.parametrize(
    ("positions", "lengths"),
    [(512, (1, 16, 37, 512)), (None, (1, 16, 37, 512)), (37, (1, 16, 37)), (20, (1, 16, 20)), (1, (1,))],
)
def test_default_lengths_end_with_the_largest(positions: int | None, lengths: tuple[int, ...]) -> None:
    assert default_lengths(positions) == lengths


def test_masks_are_read_in_the_order_given() -> None:
    assert parse_masks("left, full,left") == ("left", "full")
    assert parse_masks(MASKS) == MASKS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("full,rigth", "unknown mask 'rigth'; did you mean 'right'"),
        ("mixed", "unknown mask 'mixed'"),
        ("", "--masks is empty"),
        (" , ", "--masks is empty"),
    ],
)
def test_a_wrong_mask_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_masks(text)
