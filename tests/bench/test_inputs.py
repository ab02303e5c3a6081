"""Batches and masks: seeded, alike in every worker, padded in every way."""

from __future__ import annotations

import numpy as np
import pytest

from bench.inputs import JUDGED_ELEMENTS, InputPlan, judged_rows, make_batch, mask_row


def plan(batch: int = 8, length: int = 32, seed: int = 0, **values: int) -> InputPlan:
    return InputPlan(
        batch, length, **({"vocab_size": 100, "pad_token_id": 1, "seed": seed, "output_width": 64} | values)
    )


def test_the_same_seed_draws_the_same_batch() -> None:
    for case in ("timed", "padded"):
        one, two, other = make_batch(plan(), case), make_batch(plan(), case), make_batch(plan(seed=1), case)
        assert all(np.array_equal(one[name], two[name]) for name in one)
        assert not np.array_equal(one["input_ids"], other["input_ids"])


def test_ids_cover_the_vocabulary_without_the_padding_id() -> None:
    ids = make_batch(plan(64, 512, pad_token_id=7), "timed")["input_ids"]
    assert ids.dtype == np.int64
    assert set(np.unique(ids)) == set(range(100)) - {7}


def test_the_timed_batch_is_not_masked() -> None:
    assert make_batch(plan(), "timed")["attention_mask"].all()


def test_judged_rows_see_every_kind_of_padding() -> None:
    cell = plan()
    batch = make_batch(cell, "padded")
    rows = judged_rows(cell)
    masks = batch["attention_mask"][rows]
    assert len(rows) == 3
    kinds = [(bool(mask[0]), bool(mask[-1])) for mask in masks]
    assert kinds[0] == (True, False)
    assert kinds[1] == (False, True)
    assert masks[2][0] == 1
    assert 0 in masks[2]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 1).all()
    timed = make_batch(cell, "timed")["input_ids"]
    assert np.array_equal(timed[batch["attention_mask"] == 1], batch["input_ids"][batch["attention_mask"] == 1])


@pytest.mark.parametrize("kind", ["right", "left", "holes"])
@pytest.mark.parametrize("length", [2, 3, 5, 128])
def test_a_mask_keeps_something_and_masks_something(kind: str, length: int) -> None:
    for seed in range(20):
        mask = mask_row(kind, length, np.random.default_rng(seed))
        assert 0 < mask.sum() < length


def test_a_single_token_is_not_padded() -> None:
    assert plan(4, 1).cases == ("timed",)
    assert plan(4, 2).cases == ("timed", "padded")


def test_judged_rows_are_few_and_bounded_by_memory() -> None:
    assert judged_rows(plan(1)) == [0]
    assert len(judged_rows(plan(64))) == 3
    assert judged_rows(plan(64)) == judged_rows(plan(64))
    assert len(judged_rows(plan(64, 1024, output_width=JUDGED_ELEMENTS // 1024))) == 1
