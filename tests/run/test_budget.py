"""What a budget leaves of a grid, and when a run stops taking further points; data and injected times, no timing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine import capacity
from bench.run import budget as budgets
from bench.run.budget import Budget
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Run
from bench.run.schedule import State
from bench.spec import Candidate, Shape
from bench.workloads.forward import Forward
from tests.in_process import here

GRID = [Shape(batch, length) for batch in (1, 2, 4, 8, 16, 32, 64) for length in (8, 16, 32, 64, 128, 256, 512)]
EVEN = dict.fromkeys(GRID, 1.0)
BY_TOKENS = {shape: 1 + shape.batch * shape.length / 100 for shape in GRID}
shapes = st.lists(st.builds(Shape, st.integers(1, 64), st.integers(1, 512)), min_size=1, max_size=30, unique=True)
ONE, TWO = Candidate("null", "default", "fp32"), Candidate("null", "instant", "fp32")


def chosen(points: Sequence[Shape], seconds: Mapping[Shape, float], budget: float) -> tuple[Shape, ...]:
    return budgets.choose(points, {point: point for point in points}, seconds, budget)


def test_all_is_kept_where_all_fits() -> None:
    assert set(chosen(GRID, EVEN, 49)) == set(GRID)
    assert len(chosen(GRID, EVEN, 48.5)) == 48


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


def test_the_largest_sizes_that_can_be_paid_for_stay() -> None:
    kept = chosen(GRID, BY_TOKENS, 400)
    assert sum(BY_TOKENS[shape] for shape in kept) <= 400
    assert {shape.batch for shape in kept} >= {1, 64}
    assert {shape.length for shape in kept} >= {8, 512}
    assert Shape(64, 512) not in kept  # it alone would take 329 of 400
    assert max(shape.batch * shape.length for shape in kept) >= 64 * 64


def test_a_costly_shape_is_taken_where_the_others_leave_room_for_it() -> None:
    seconds = {Shape(1, 1): 5.0, Shape(1, 512): 30.0, Shape(16, 512): 420.0, Shape(32, 512): 840.0}
    assert chosen(list(seconds), seconds, 180) == (Shape(1, 1), Shape(1, 512))
    assert chosen(list(seconds), seconds, 480) == (Shape(1, 1), Shape(1, 512), Shape(16, 512))


def test_the_cheapest_is_kept_however_small_the_budget() -> None:
    assert chosen(GRID, BY_TOKENS, 0.001) == (Shape(1, 8),)


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


def test_memory_is_foreseen_along_a_line_over_tokens() -> None:
    peaks = {Shape(1, 1): 1000, Shape(1, 512): 2000, Shape(16, 512): 17000}
    assert capacity.foreseen_bytes(peaks, Shape(32, 512)) == 33000
    assert capacity.foreseen_bytes({Shape(1, 256): 1000, Shape(1, 512): 1100}, Shape(2, 512)) == 1300
    assert capacity.foreseen_bytes(peaks, Shape(8, 512)) is None  # not larger than what was measured
    assert capacity.foreseen_bytes(peaks, Shape(512, 64)) is None  # shorter: attention would be counted too high
    assert capacity.foreseen_bytes({Shape(1, 512): 2000}, Shape(2, 512)) is None
    few = {Shape(1, 1): 1000, Shape(1, 8): 2000}
    assert capacity.foreseen_bytes(few, Shape(32, 8)) is not None
    assert capacity.foreseen_bytes(few, Shape(33, 8)) is None  # so few tokens say nothing of so many
    assert capacity.foreseen_bytes({}, Shape(2, 512)) is None
    assert capacity.foreseen_bytes({Shape(1, 8): 500, Shape(1, 64): 500}, Shape(64, 64)) is None  # it does not grow


def test_a_cell_that_cannot_fit_is_not_tried_and_says_why() -> None:
    gib = 2**30
    peaks = {Shape(1, 512): gib, Shape(16, 512): 8 * gib}
    reason = capacity.refusal(peaks, Shape(64, 512), 20 * gib)
    assert (
        reason
        == "not tried, as it would take about 30 GiB (continued from smaller cells up to 16×512), and 20 GiB are to be had"
    )
    assert capacity.refusal(peaks, Shape(64, 512), 26 * gib) == ""  # within the margin it is tried
    assert capacity.refusal(peaks, Shape(64, 512), 24 * gib)


# Spending.


def spending(seconds: float) -> tuple[Budget, State, list[float]]:
    """A budget, the state of its run, and the seconds since the run began, as a test sets them."""
    now = [0.0]
    kept = (Shape(1, 8), Shape(4, 8), Shape(2, 8))
    found = Budget(seconds, kept, lambda shape: float(shape.batch))
    state = State((ONE,), elapsed_seconds=lambda: now[0])
    found.begin_group(1, 0.0)
    return found, state, now


def test_points_go_on_while_the_time_lasts() -> None:
    found, state, now = spending(10)
    grid = [Shape(1, 8), Shape(2, 8), Shape(3, 8), Shape(4, 8)]
    assert found.order(grid) == (Shape(1, 8), Shape(4, 8), Shape(2, 8), Shape(3, 8))
    assert found.refusal(state, Shape(1, 8)) == ""
    now[0] = 2
    found.note(Shape(1, 8), 1, 2.0)  # guessed 1 s: everything takes twice as long
    assert found.refusal(state, Shape(4, 8)) == ""  # 2 + 8 of 10
    now[0] = 7
    found.note(Shape(4, 8), 1, 5.0)  # 7 s for 5 guessed
    assert found.refusal(state, Shape(2, 8)) == ""  # 7 + 2.8
    now[0] = 7.5
    assert found.refusal(state, Shape(2, 8)) == "left out by --budget 10s"
    assert found.refusal(state, Shape(3, 8)) == "left out by --budget 10s"


def test_the_first_point_is_measured_however_late_it_is() -> None:
    found, state, now = spending(10)
    now[0] = 100
    assert found.refusal(state, Shape(1, 8)) == ""
    assert found.refusal(state, Shape(4, 8))


def test_candidates_that_are_timed_apart_share_the_time() -> None:
    found, state, now = spending(20)
    found.begin_group(2, 0.0)
    now[0] = 9
    assert found.refusal(state, Shape(4, 8))  # 9 + 4 of 10: the other half is the other candidate's
    now[0] = 10
    found.begin_group(1, 10.0)
    assert found.refusal(state, Shape(2, 8)) == ""


# Whole runs.


@pytest.fixture(autouse=True)
def _in_this_process() -> Iterator[None]:
    with here():
        yield


def measured(tmp_path: Path, backends: str, listener: Listener | None = None, **given: Any) -> Run:
    options = {
        "model": "bert-tiny", "backends": backends, "device": "cpu", "threads": 1, "rounds": 1, "warmup": "1ms",
        "max_seconds_per_cell": "20ms", "max_warmup": "10ms", "timeout": 60, "lengths": "8",
        "artifacts": str(tmp_path / "store"), "output": str(tmp_path / "run.jsonl"), **given,
    }  # fmt: skip
    return measure(Forward, Forward.Options.parsed(options), listener)


def test_a_run_keeps_to_its_budget_and_its_choice_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {Shape(1, 8): 5.0, Shape(1, 16): 100.0, Shape(2, 8): 5.0, Shape(2, 16): 10.0}
    monkeypatch.setattr(Forward, "guessed_seconds", lambda self, point, source, peaks: costs[point])
    said: list[str] = []
    run = measured(tmp_path, "null,null:instant", Listener(say=said.append), batches="1,2", lengths="8,16", budget="3m")
    assert any("has time for 3 of 4 shapes" in line and "left out: 1×16" in line for line in said)
    left_out = [record for record in run.records if record.status == "skipped"]
    assert [(record.point, record.reason) for record in left_out] == [(Shape(1, 16), "left out by --budget 180s")] * 2
    assert len(run.records) == 8
    assert "--budget 180s" in run.command
    assert not any("--budget" in run.repeat(record) for record in run.records)
    assert run.exit_code == 0

    path = tmp_path / "run.jsonl"
    assert read_run(path).records == run.records
    assert read_run(path).notes["spent_seconds"] > 0
    lines = path.read_text().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if '"kind":"record"' in line)
    path.write_text("".join(lines[: first + 1]))  # stopped after the first record
    monkeypatch.setattr(budgets, "choose", None)  # nothing is chosen anew
    again = resume(path, artifacts=tmp_path / "store")
    assert {record.cell: record.status for record in again.records} == {
        record.cell: record.status for record in run.records
    }


@pytest.mark.parametrize(("free_gib", "statuses"), [(1, ["ok", "ok", "skipped"]), (4096, ["ok", "ok", "ok"])])
def test_a_run_leaves_out_what_the_hosts_memory_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: int, statuses: list[str]
) -> None:
    from bench.workloads.forward import ForwardCell

    judge = ForwardCell.judge

    def grow(self: Any, units: Any, atol: float, rtol: float, **further: Any) -> dict[str, Any]:
        reply = judge(self, units, atol, rtol, **further)
        return reply | {"memory": {"peak_process_bytes": self.plan.batch * 2**30}}

    monkeypatch.setattr(ForwardCell, "judge", grow)
    monkeypatch.setattr("bench.machine.available_memory_bytes", lambda: free_gib * 2**30)
    run = measured(tmp_path, "null", batches="1,2,64")
    assert [record.status for record in run.records] == statuses
    if free_gib == 1:
        assert "would take about 64 GiB" in run.records[2].reason
