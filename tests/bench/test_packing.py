"""Sentences in batches: every one once, and no more padding than an order needs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.packing import BINS, ORDERS, Packing, Summary, pack, parse_orders


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    batch=st.integers(1, 9),
    order=st.sampled_from(ORDERS),
    multiple=st.sampled_from((1, 7, 16)),
)
def test_every_sentence_is_in_one_batch_and_fits_into_it(
    lengths: list[int], batch: int, order: str, multiple: int
) -> None:
    packed = pack(tuple(lengths), Packing(batch, order), multiple, 64, seed=1)
    assert sorted(place for one in packed.batches for place in one.sentences) == list(range(len(lengths)))
    for one in packed.batches:
        longest = max(lengths[place] for place in one.sentences)
        assert 1 <= len(one.sentences) <= batch
        assert longest <= one.length < longest + multiple
        assert one.length % multiple == 0 or one.length == 64
        if order == "bucketed":
            assert len({-(-lengths[place] // multiple) for place in one.sentences}) == 1
    assert 0 <= packed.padding_share(sum(lengths)) < 1
    pack.cache_clear()
    assert packed == pack(tuple(lengths), Packing(batch, order), multiple, 64, seed=1)


def test_sorting_takes_the_padding_away_and_puts_the_longest_first() -> None:
    lengths = (3, 30, 4, 29, 5, 28)
    unsorted, ordered = (pack(lengths, Packing(2, order), 1, None, 0) for order in ("unsorted", "sorted"))
    assert [one.shape for one in unsorted.batches] == [(2, 30), (2, 29), (2, 28)]
    assert [(one.sentences, one.length) for one in ordered.batches] == [((1, 3), 30), ((5, 4), 28), ((2, 0), 4)]
    assert unsorted.padding_share(99) == pytest.approx(1 - 99 / 174)
    assert ordered.padding_share(99) == pytest.approx(1 - 99 / 124)
    assert (len(unsorted.shapes), unsorted.largest.shape) == (3, (2, 30))
    assert list(unsorted.judged.items()) == [("last", 2), ("largest", 0)]  # the last first, and none twice
    assert pack((9, 1, 5), Packing(1, "unsorted"), 1, None, 0).judged == {"last": 2, "largest": 0, "smallest": 1}
    assert pack((4, 4), Packing(2, "unsorted"), 1, None, 0).judged == {"last": 0}


def test_the_histogram_holds_every_sentence_once() -> None:
    for lengths in ((5,), (5, 5, 5), (1, 2), tuple(range(3, 130)), (1, 1000)):
        bins = Summary("ours", lengths).histogram()
        assert sum(count for _, _, count in bins) == len(lengths)
        assert len(bins) <= BINS
        assert (bins[0][0], bins[-1][1]) == (min(lengths), max(lengths))


def test_an_unknown_order_is_one_line_with_the_nearest() -> None:
    assert parse_orders("sorted, unsorted,sorted", "--orders") == ("sorted", "unsorted")
    with pytest.raises(UserError, match="unknown order 'sorte'; did you mean 'sorted'"):
        parse_orders("sorte", "--orders")
