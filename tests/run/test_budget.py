"""What a budget leaves of a grid, and when a run stops taking further points; data and injected times, no timing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine import capacity
from bench.run import budget as budgets
from bench.run.budget import Budget
from bench.run.experiment import resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Run
from bench.run.schedule import State
from bench.spec import Candidate, Shape
from bench.workloads.forward import Forward, ForwardCell

GRID = [Shape(batch, length) for batch in (1, 2, 4, 8, 16, 32, 64) for length in (8, 16, 32, 64, 128, 256, 512)]
EVEN = dict.fromkeys(GRID, 1.0)
BY_TOKENS = {shape: 1 + shape.batch * shape.length / 100 for shape in GRID}
COSTLY = {Shape(1, 1): 5.0, Shape(1, 512): 30.0, Shape(16, 512): 420.0, Shape(32, 512): 840.0}
shapes = st.lists(st.builds(Shape, st.integers(1, 64), st.integers(1, 512)), min_size=1, max_size=30, unique=True)
ONE = Candidate("null", "default", "fp32")
GIB = 2**30


def chosen(points: Sequence[Shape], seconds: Mapping[Shape, float], budget: float) -> tuple[Shape, ...]:
    return budgets.choose(points, {point: point for point in points}, seconds, budget)


@pytest.mark.parametrize("budget", [9, 16, 25, 36])
def test_the_middle_is_thinned_evenly_and_the_ends_stay(budget: int) -> None:
    kept = chosen(GRID, EVEN, budget)
    assert len(kept) == budget
    assert {Shape(1, 8), Shape(64, 8), Shape(1, 512), Shape(64, 512)} == set(kept[:4])
    for axis in ("batch", "length"):
        counts = [sum(getattr(shape, axis) == size for shape in kept) for size in {getattr(s, axis) for s in GRID}]
        assert max(counts) - min(counts) <= budget // 4 + 1, (axis, counts)
    quarters = [
        sum((shape.batch > 8) == right and (shape.length > 64) == low for shape in kept)
        for right in (False, True) for low in (False, True)
    ]  # fmt: skip
    assert min(quarters) >= budget // 8


def test_what_a_budget_can_pay_for_stays() -> None:
    assert set(chosen(GRID, EVEN, 49)) == set(GRID)
    assert len(chosen(GRID, EVEN, 48.5)) == 48
    assert chosen(GRID, BY_TOKENS, 0.001) == (Shape(1, 8),)  # the cheapest, however small the budget
    kept = chosen(GRID, BY_TOKENS, 400)
    assert sum(BY_TOKENS[shape] for shape in kept) <= 400
    assert {shape.batch for shape in kept} >= {1, 64}
    assert {shape.length for shape in kept} >= {8, 512}
    assert Shape(64, 512) not in kept  # it alone would take 329 of 400
    assert max(shape.batch * shape.length for shape in kept) >= 64 * 64
    # A costly shape is taken where the others leave room for it.
    assert chosen(list(COSTLY), COSTLY, 180) == (Shape(1, 1), Shape(1, 512))
    assert chosen(list(COSTLY), COSTLY, 480) == (Shape(1, 1), Shape(1, 512), Shape(16, 512))


@given(shapes, st.data())
def test_what_is_chosen_fits_and_is_the_same_again(grid: list[Shape], data: st.DataObject) -> None:
    seconds = {shape: data.draw(st.floats(0.01, 1e4)) for shape in grid}
    budget = data.draw(st.floats(0.01, 1e5))
    kept = chosen(grid, seconds, budget)
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(grid)
    assert len(kept) == 1 or sum(seconds[shape] for shape in kept) <= budget + 1e-6
    left_out = set(grid) - set(kept)
    spent = sum(seconds[shape] for shape in kept)
    assert all(spent + seconds[shape] > budget - 1e-6 for shape in left_out)  # nothing that fits is left out
    assert chosen(list(reversed(grid)), seconds, budget) == kept


@pytest.mark.parametrize(
    ("peaks", "at", "foreseen"),
    [
        ({Shape(1, 1): 1000, Shape(1, 512): 2000, Shape(16, 512): 17000}, Shape(32, 512), 33000),
        ({Shape(1, 256): 1000, Shape(1, 512): 1100}, Shape(2, 512), 1300),
        # Not larger than what was measured; shorter, so that attention would be counted too high; too few.
        ({Shape(1, 1): 1000, Shape(1, 512): 2000, Shape(16, 512): 17000}, Shape(8, 512), None),
        ({Shape(1, 1): 1000, Shape(1, 512): 2000, Shape(16, 512): 17000}, Shape(512, 64), None),
        ({Shape(1, 512): 2000}, Shape(2, 512), None),
        ({}, Shape(2, 512), None),
        # So few tokens say nothing of so many; it does not grow.
        ({Shape(1, 1): 1000, Shape(1, 8): 2000}, Shape(33, 8), None),
        ({Shape(1, 8): 500, Shape(1, 64): 500}, Shape(64, 64), None),
    ],
)
def test_memory_is_foreseen_along_a_line_over_tokens(peaks: dict[Shape, int], at: Shape, foreseen: int | None) -> None:
    assert capacity.foreseen_bytes(peaks, at) == foreseen


def test_a_cell_that_cannot_fit_is_not_tried_and_says_why() -> None:
    assert capacity.foreseen_bytes({Shape(1, 1): 1000, Shape(1, 8): 2000}, Shape(32, 8)) is not None
    peaks = {Shape(1, 512): GIB, Shape(16, 512): 8 * GIB}
    assert capacity.refusal(peaks, Shape(64, 512), 20 * GIB) == (
        "not tried, as it would take about 30 GiB (continued from smaller cells up to 16×512), and 20 GiB are to be had"
    )
    assert capacity.refusal(peaks, Shape(64, 512), 26 * GIB) == ""  # within the margin it is tried
    assert capacity.refusal(peaks, Shape(64, 512), 24 * GIB)


# Spending.


def spending(seconds: float) -> tuple[Budget, Callable[[Shape, float], str]]:
    """A budget of one second a row of a batch, and its refusal of a shape so many seconds after the run began."""
    found = Budget((Shape(1, 8), Shape(4, 8), Shape(2, 8)), seconds, lambda shape: float(shape.batch))
    found.begin_group(1, 0.0)
    return found, lambda shape, now: found.refusal(State((ONE,), elapsed_seconds=lambda: now), shape)


def test_points_go_on_while_the_time_lasts() -> None:
    found, refusal = spending(10)
    grid = [Shape(batch, 8) for batch in (1, 2, 3, 4)]
    assert found.order(grid) == (Shape(1, 8), Shape(4, 8), Shape(2, 8), Shape(3, 8))
    assert refusal(Shape(1, 8), 0) == refusal(Shape(1, 8), 100) == ""  # the first, however late it is
    found.note(Shape(1, 8), 1, 2.0)  # guessed 1 s: everything takes twice as long
    assert refusal(Shape(4, 8), 2) == ""  # 2 + 8 of 10
    assert refusal(Shape(4, 8), 2.1)
    found.note(Shape(4, 8), 1, 5.0)  # 7 s for 5 guessed
    assert refusal(Shape(2, 8), 7) == ""  # 7 + 2.8
    assert refusal(Shape(2, 8), 7.5) == refusal(Shape(3, 8), 7.5) == "left out by --budget 10s"


def test_candidates_that_are_timed_apart_share_the_time() -> None:
    found, refusal = spending(20)
    found.begin_group(2, 0.0)
    assert refusal(Shape(4, 8), 9)  # 9 + 4 of 10: the other half is the other candidate's
    found.begin_group(1, 10.0)
    assert refusal(Shape(2, 8), 10) == ""


# Whole runs, in this process.

pytestmark = pytest.mark.usefixtures("in_this_process")
Measured = Callable[..., Run]


def test_a_run_keeps_to_its_budget_and_its_choice_when_resumed(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = {Shape(1, 8): 5.0, Shape(1, 16): 100.0, Shape(2, 8): 5.0, Shape(2, 16): 10.0}
    monkeypatch.setattr(Forward, "guessed_seconds", lambda self, point, source, peaks: costs[point])
    said: list[str] = []
    run = measured("null,null:instant", Listener(say=said.append), batches="1,2", lengths="8,16", budget="3m")
    assert any("has time for 3 of 4 shapes" in line and "left out: 1×16" in line for line in said)
    left_out = [record for record in run.records if record.status == "skipped"]
    assert [(record.point, record.reason) for record in left_out] == [(Shape(1, 16), "left out by --budget 180s")] * 2
    assert (len(run.records), run.exit_code) == (8, 0)
    assert "--budget 180s" in run.command
    assert not any("--budget" in run.repeat(record) for record in run.records)

    path = tmp_path / "run.jsonl"
    assert read_run(path).records == run.records
    assert read_run(path).notes["spent_seconds"] > 0
    lines = path.read_text().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if '"kind":"record"' in line)
    path.write_text("".join(lines[: first + 1]))  # stopped after the first record
    monkeypatch.setattr(budgets, "choose", None)  # nothing is chosen anew
    again = resume(path, artifacts=tmp_path / "artifacts")
    assert {one.cell: one.status for one in again.records} == {one.cell: one.status for one in run.records}


@pytest.mark.parametrize(("free_gib", "last"), [(1, "skipped"), (4096, "ok")])
def test_a_run_leaves_out_what_the_hosts_memory_cannot_hold(
    measured: Measured, monkeypatch: pytest.MonkeyPatch, free_gib: int, last: str
) -> None:
    judge = ForwardCell.judge

    def grow(self: Any, *units: Any, **further: Any) -> dict[str, Any]:
        return judge(self, *units, **further) | {"memory": {"peak_process_bytes": self.plan.batch * GIB}}

    monkeypatch.setattr(ForwardCell, "judge", grow)
    monkeypatch.setattr("bench.machine.available_memory_bytes", lambda: free_gib * GIB)
    run = measured("null", batches="1,2,64")
    assert [record.status for record in run.records] == ["ok", "ok", last]
    assert ("would take about 64 GiB" in run.records[2].reason) == (last == "skipped")
