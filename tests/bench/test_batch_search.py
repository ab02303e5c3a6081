"""The largest batch that fits, looked for on batches that fit or not by rule, and by turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.run.batch_search import BatchSearch, Boundary, next_step, unfinished
from bench.run.record import Turn
from bench.run.schedule import OpenCell, State
from bench.spec import Candidate


def tried(batch: int, fits: bool | None, seconds: float = 1.0, **figures: bool) -> Turn:
    return Turn(0, figures={"batch": batch, "fits": fits, **figures}, seconds=seconds)


def find(fits: Callable[[int], bool], most: int, most_tries: float = float("inf")) -> Boundary:
    """The whole search, each try of which takes a second."""
    tries: list[Turn] = []
    while not isinstance(step := next_step(tries, most, most_tries), Boundary):
        tries.append(tried(step, fits(step)))
    return step


class Scripted:
    """Batches up to `threshold` fit; notes what was tried. A batch in `odd` answers otherwise on those of its tries."""

    def __init__(self, threshold: int, odd: dict[int, set[int]] | None = None) -> None:
        self.threshold, self.odd = threshold, odd or {}
        self.tried: list[int] = []

    def __call__(self, batch: int) -> bool:
        self.tried.append(batch)
        is_odd = self.tried.count(batch) in self.odd.get(batch, set())
        return (batch <= self.threshold) != is_odd


@given(threshold=st.integers(0, 100_000), most=st.integers(1, 100_000))
def test_the_boundary_is_found_wherever_it_lies_and_both_sides_are_tried_twice(threshold: int, most: int) -> None:
    fits = Scripted(threshold)
    found = find(fits, most)
    assert found.largest == min(threshold, most)
    assert (found.is_confirmed, found.is_steady) == (True, True)
    assert all(1 <= batch <= most for batch in fits.tried)
    if threshold >= most:
        assert (found.ended_by, found.is_exact, found.too_large) == ("most", False, None)
        assert fits.tried.count(most) == 2
    else:
        assert (found.ended_by, found.is_exact, found.too_large) == ("boundary", True, threshold + 1)
        assert fits.tried.count(threshold + 1) == 2
        assert fits.tried.count(threshold) == (2 if threshold else 0)
    assert len(fits.tried) <= 2 * (threshold + 1).bit_length() + 4


@given(threshold=st.integers(0, 1000), most=st.integers(1, 1000), tries=st.integers(0, 30))
def test_what_is_known_when_the_time_is_over_holds(threshold: int, most: int, tries: int) -> None:
    fits = Scripted(threshold)
    found = find(fits, most, tries)
    assert len(fits.tried) <= tries
    assert found.largest <= threshold
    assert found.too_large is None or found.too_large > threshold
    if found.is_exact:
        assert found.largest == min(threshold, most)
        assert found.is_confirmed == (len(fits.tried) <= tries and fits.tried.count(threshold + 1) == 2)
    elif found.ended_by == "time":
        assert not found.is_confirmed
    else:
        assert found.largest == most


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        # 10 fitted once and then not: the search goes on below it, and 9 fits twice.
        ({10: {2, 3, 4}}, Boundary(9, 10, "boundary", True, False)),
        # 11 did not fit, and fitted when it was tried again: the boundary is not confirmed.
        ({11: {2}}, Boundary(10, 11, "boundary", False, False)),
    ],
)
def test_a_batch_that_answers_both_ways_is_said(odd: dict[int, set[int]], expected: Boundary) -> None:
    assert find(Scripted(10, odd), 4096) == expected


@given(answers=st.lists(st.booleans(), max_size=200))
def test_it_ends_whatever_is_answered_and_never_claims_more_than_it_saw(answers: list[bool]) -> None:
    stream: Iterator[bool] = iter(answers)
    seen: dict[int, list[bool]] = {}

    def fits(batch: int) -> bool:
        seen.setdefault(batch, []).append(next(stream, False))
        return seen[batch][-1]

    found = find(fits, 64)
    if found.largest:
        assert seen[found.largest][-1]
    if found.is_confirmed and found.is_exact:
        assert seen[found.largest + 1][-2:] == [False, False]
    assert found.is_steady or any(len(set(row)) == 2 for row in seen.values())


@pytest.mark.parametrize(
    ("tries", "seconds", "expected"),
    [
        # Time ends the search before the next try.
        ([], 0, Boundary(0, None, "time", False, True)),
        ([tried(1, True), tried(2, True), tried(4, True)], 3, Boundary(4, None, "time", False, True)),
        # A try that said neither is made once more.
        ([tried(1, True), tried(2, None)], 99, 2),
        ([tried(1, True), tried(2, None), tried(2, False)], 99, 1),
        ([tried(1, True), tried(2, None)], 2, Boundary(1, None, "time", False, True)),
        # A loaded model above the limit leaves no batch.
        ([tried(1, False, is_above_limit=True)], 99, Boundary(0, None, "above-limit", True, True)),
    ],
)
def test_what_follows_a_try(tries: list[Turn], seconds: float, expected: int | Boundary) -> None:
    assert next_step(tries, 64, seconds) == expected


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        ([], Boundary(0, None, "failure", False, True)),
        ([tried(1, True), tried(2, True), tried(4, None)], Boundary(2, None, "failure", False, True)),
        ([tried(1, True), tried(2, False)], Boundary(1, 2, "failure", False, True)),
        ([tried(4, True), tried(4, False)], Boundary(0, 4, "failure", False, False)),
    ],
)
def test_a_failure_leaves_what_was_seen(tries: list[Turn], expected: Boundary) -> None:
    assert unfinished(tries) == expected


def test_one_cell_is_searched_after_another() -> None:
    """Each candidate at the first point until it is done, then at the next; a recorded cell is left out."""
    one, two = Candidate("a", "default", "fp32"), Candidate("b", "default", "fp32")
    schedule = BatchSearch(lambda point, cell: len(cell.turns) >= 2)
    state = State([one, two], [one, two], ["x", "y"])
    assert schedule.next_turns(state) == [("x", one)]
    state.open["x", one] = OpenCell([Turn(0)])
    assert schedule.is_open(state, "x", one)
    state.open["x", one] = OpenCell([Turn(0), Turn(1)])
    assert not schedule.is_open(state, "x", one)
    state.records = dict.fromkeys([("x", one), ("x", two), ("y", one)])  # type: ignore[assignment]
    assert schedule.next_turns(state) == [("y", two)]
    state.records["y", two] = None  # type: ignore[assignment]
    assert schedule.next_turns(state) == []
