"""Batches and masks: seeded, alike in every worker, of every kind of ids, padded in every way."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from bench.parity import texts
from bench.parity.inputs import (
    IDS,
    JUDGED_ELEMENTS,
    MASKS,
    TIMED_CASES,
    InputPlan,
    judged_positions,
    judged_rows,
    kinds_of,
    make_batch,
    mask_row,
    timed_cases,
)
from bench.workloads.forward import Forward, ForwardOptions
from exporters.sources import resolve

#: One tokenised text a row, without the padding id 1.
TEXTS = [list(range(10 + row, 90 + row)) for row in range(8)]


def plan(batch: int = 8, length: int = 32, seed: int = 0, **values: object) -> InputPlan:
    return InputPlan(
        batch, length, **({"vocab_size": 100, "pad_token_id": 1, "seed": seed, "output_width": 64} | values)
    )


@pytest.mark.parametrize("case", ["timed", "padded", "random-holes", "zipf-left"])
def test_the_same_seed_draws_the_same_batch(case: str) -> None:
    one, two, other = make_batch(plan(), case), make_batch(plan(), case), make_batch(plan(seed=1), case)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["input_ids"], other["input_ids"])


@pytest.mark.parametrize("kind", ["timed", "zipf-full"])
def test_ids_cover_the_vocabulary_without_the_padding_id(kind: str) -> None:
    batch = make_batch(plan(64, 512, pad_token_id=7), kind)
    assert batch["input_ids"].dtype == np.int64
    assert set(np.unique(batch["input_ids"])) == set(range(100)) - {7}
    assert batch["attention_mask"].all()


def test_zipfs_ids_are_as_frequent_as_words_and_random_ones_alike() -> None:
    """Mandelbrot's law over 99 ranks: 1 / (rank + 2.7), so the first rank is (100 + 1.7) / 3.7 times the last."""
    ranks = np.arange(99) + 1 + 2.7
    shares = 1 / ranks / (1 / ranks).sum()
    ids = make_batch(plan(64, 2048, pad_token_id=99), "zipf-full")["input_ids"]
    found = np.bincount(ids.ravel(), minlength=100)[:99] / ids.size
    assert found == pytest.approx(shares, rel=0.2)
    uniform = make_batch(plan(64, 2048, pad_token_id=99), "random-full")["input_ids"]
    assert np.bincount(uniform.ravel(), minlength=100)[:99] / uniform.size == pytest.approx(1 / 99, rel=0.2)


@pytest.mark.parametrize("case", ["timed", "padded", "zipf-left", "text-holes"])
def test_judged_rows_are_the_same_in_every_batch_of_one_length(case: str) -> None:
    """So 1×L and 64×L have one reference; where they stand in a batch is drawn anew."""
    texts = [TEXTS[row % 8] for row in range(64)]
    wanted = make_batch(plan(3), case, texts)
    places = set()
    for batch in (1, 2, 8, 64):
        found, rows = make_batch(plan(batch), case, texts), judged_rows(plan(batch))
        places.add(tuple(rows))
        assert all(np.array_equal(found[name][rows], wanted[name][: len(rows)]) for name in wanted)
    assert len(places) == 4
    assert len({row.tobytes() for row in make_batch(plan(64), "timed")["input_ids"]}) == 64  # nobody's twin
    other = make_batch(plan(3, length=33), case, texts)
    assert case == "text-holes" or not np.array_equal(other["input_ids"][:, :32], wanted["input_ids"])


@pytest.mark.parametrize("length", [8, 9, 16, 128])
def test_one_padded_row_has_every_mask_at_once(length: int) -> None:
    for seed in range(20):
        cell = plan(8, length, seed, padded_rows=1)
        (row,) = judged_rows(cell, "padded")
        mask = make_batch(cell, "padded")["attention_mask"][row]
        kept = np.flatnonzero(mask)
        assert kept[0] > 0
        assert kept[-1] < length - 1
        assert len(kept) >= 2
        assert (np.diff(kept) > 1).any()
        assert judged_rows(cell)[0] == row


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


@pytest.mark.parametrize("ids", IDS)
def test_a_case_masks_every_row_in_its_own_way(ids: str) -> None:
    texts = TEXTS if ids == "text" else None
    batches = {mask: make_batch(plan(), f"{ids}-{mask}", texts) for mask in MASKS}
    assert batches["full"]["attention_mask"].all()
    right, left, holes = (batches[mask]["attention_mask"] for mask in MASKS[1:])
    assert (right[:, 0] == 1).all()
    assert (right[:, -1] == 0).all()
    assert (np.diff(right) <= 0).all()
    assert (np.diff(left) >= 0).all()
    assert (left[:, -1] == 1).all()
    assert (holes[:, 0] == 1).all()
    assert all((np.diff(row) > 0).any() for row in holes)
    for batch in batches.values():
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == np.int64
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 1).all()
        assert (batch["input_ids"][batch["attention_mask"] == 1] != 1).all()


def test_a_padded_text_begins_behind_its_padding_and_keeps_its_places_around_holes() -> None:
    """A text cut at its head would lack the first token, which models give a meaning of its own."""
    for mask in MASKS:
        batch = make_batch(plan(most_rows=8), f"text-{mask}", TEXTS)
        for ids, kept, text in zip(batch["input_ids"], batch["attention_mask"] == 1, TEXTS, strict=True):
            wanted = np.array(text[:32])[kept] if mask == "holes" else text[: kept.sum()]
            assert ids[kept].tolist() == list(wanted)


def test_a_case_of_text_without_texts_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs tokenised texts"):
        make_batch(plan(), "text-full")


def test_the_names_of_cases_say_their_kinds() -> None:
    assert [kinds_of(case) for case in (*TIMED_CASES, "text-left", "zipf-holes")] == [
        ("random", "full"), ("random", "mixed"), ("text", "left"), ("zipf", "holes"),
    ]  # fmt: skip
    assert timed_cases(1) == ("timed",)  # a single token is not padded
    assert timed_cases(2) == ("timed", "padded")


@pytest.mark.parametrize("kind", ["right", "left", "holes"])
@pytest.mark.parametrize("length", [2, 3, 5, 128])
def test_a_mask_keeps_something_and_masks_something(kind: str, length: int) -> None:
    for seed in range(20):
        mask = mask_row(kind, length, np.random.default_rng(seed))
        assert 0 < mask.sum() < length


def test_judged_rows_are_few_seeded_and_as_many_as_asked_for() -> None:
    assert judged_rows(plan(1)) == [0]
    assert len(judged_rows(plan(64))) == 3
    assert judged_rows(plan(64)) == judged_rows(plan(64)) != judged_rows(plan(64, seed=1))
    assert len(judged_rows(plan(64, most_rows=1))) == 1
    assert judged_rows(plan(3, most_rows=9)) == [0, 1, 2]


def test_judged_positions_are_all_unless_outputs_are_wide() -> None:
    assert judged_positions(plan(8, 1)) == [0]
    assert judged_positions(plan(8, 512)) == list(range(512))
    wide = plan(8, 512, output_width=JUDGED_ELEMENTS // 300)  # 3 rows of 100 positions
    positions = judged_positions(wide)
    assert len(positions) == 100
    assert (positions[0], positions[-1]) == (0, 511)
    assert all(one < other for one, other in pairwise(positions))
    assert positions == judged_positions(wide) != judged_positions(plan(8, 512, seed=1, output_width=wide.output_width))
    alone = judged_positions(wide, rows=1)
    assert len(alone) == 300
    assert set(positions) < set(alone)
    assert judged_positions(plan(1, 512, output_width=wide.output_width)) == alone
    widest = plan(8, 512, output_width=2 * JUDGED_ELEMENTS)
    assert judged_positions(widest) == [0, 511]


def test_a_plan_survives_its_journey_to_a_worker() -> None:
    sent = plan(2, 16, cases=("random-full", "zipf-left"), most_rows=1)
    assert InputPlan.from_json(json.loads(json.dumps(asdict(sent)))) == sent


def test_texts_are_seeded_and_each_row_has_its_own() -> None:
    found = texts.texts(8, seed=0)
    assert found == texts.texts(8, seed=0) != texts.texts(8, seed=1)
    assert len(set(found)) == 8
    assert texts.texts(3, seed=0) == found[:3]


def test_compare_tries_each_mask_by_itself_at_its_shortest_length_and_all_at_once_elsewhere() -> None:
    source = resolve("bert-tiny", weights="random")

    def padded_rows(batches: tuple[int, ...], lengths: tuple[int, ...]) -> list[int]:
        workload = Forward(ForwardOptions(model="bert-tiny", batches=batches, lengths=lengths))
        cases = [case for point in workload.points() for case in workload.cases(point, source).values()]
        assert all(case.shares for case in cases)
        return [case.plan.padded_rows for case in cases]

    assert padded_rows((1, 8), (16, 128)) == [3, 1, 3, 1]
    assert padded_rows((1,), (16, 128)) == [1, 1]
    assert padded_rows((1, 8), (4, 16, 128)) == [3, 3, 1, 3, 3, 1]  # too short to show holes between paddings
