"""What a budget leaves of a grid, and when a run stops taking further shapes; data and a scripted clock, no timing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench.api import Listener
from bench.budget import Budget, Spending, choose, parse_budget
from bench.errors import UserError
from bench.machine import capacity
from bench.runfile import read_run
from bench.spec import Shape, TimingPlan

GRID = [Shape(batch, length) for batch in (1, 2, 4, 8, 16, 32, 64) for length in (8, 16, 32, 64, 128, 256, 512)]
EVEN = dict.fromkeys(GRID, 1.0)
BY_TOKENS = {shape: 1 + shape.batch * shape.length / 100 for shape in GRID}
shapes = st.lists(st.builds(Shape, st.integers(1, 64), st.integers(1, 512)), min_size=1, max_size=30, unique=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20m", 1200), ("90s", 90), ("1h", 3600), ("1.5h", 5400), (" 2 m ", 120), (45, 45), (0.5, 0.5)],
)
def test_budgets(text: str | float, seconds: float) -> None:
    shown, found = parse_budget(text)
    assert found == seconds
    assert parse_budget(shown) == (shown, seconds)


@pytest.mark.parametrize("text", ["", "20", "m", "-3m", "20 minutes", "1e3s", "0s", "9999h", "nan", float("nan"), -1])
def test_wrong_budgets(text: str | float) -> None:
    with pytest.raises(UserError, match="--budget"):
        parse_budget(text)


def test_all_is_kept_where_all_fits() -> None:
    assert set(choose(GRID, EVEN, 49)) == set(GRID)
    assert len(choose(GRID, EVEN, 48.5)) == 48


@pytest.mark.parametrize("budget", [9, 16, 25, 36])
def test_the_middle_is_thinned_evenly_and_the_ends_stay(budget: int) -> None:
    kept = choose(GRID, EVEN, budget)
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
    kept = choose(GRID, BY_TOKENS, 400)
    assert sum(BY_TOKENS[shape] for shape in kept) <= 400
    assert {shape.batch for shape in kept} >= {1, 64}
    assert {shape.length for shape in kept} >= {8, 512}
    assert Shape(64, 512) not in kept  # it alone would take 329 of 400
    assert max(shape.batch * shape.length for shape in kept) >= 64 * 64


def test_a_costly_shape_is_taken_where_the_others_leave_room_for_it() -> None:
    seconds = {Shape(1, 1): 5.0, Shape(1, 512): 30.0, Shape(16, 512): 420.0, Shape(32, 512): 840.0}
    assert choose(list(seconds), seconds, 180) == (Shape(1, 1), Shape(1, 512))
    assert choose(list(seconds), seconds, 480) == (Shape(1, 1), Shape(1, 512), Shape(16, 512))


def test_the_cheapest_is_kept_however_small_the_budget() -> None:
    assert choose(GRID, BY_TOKENS, 0.001) == (Shape(1, 8),)


@given(shapes, st.data())
def test_what_is_chosen_fits_and_is_the_same_again(grid: list[Shape], data: st.DataObject) -> None:
    seconds = {shape: data.draw(st.floats(0.01, 1e4)) for shape in grid}
    budget = data.draw(st.floats(0.01, 1e5))
    kept = choose(grid, seconds, budget)
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(grid)
    assert len(kept) == 1 or sum(seconds[shape] for shape in kept) <= budget + 1e-6
    left_out = set(grid) - set(kept)
    spent = sum(seconds[shape] for shape in kept)
    assert all(spent + seconds[shape] > budget - 1e-6 for shape in left_out)  # nothing that fits is left out
    assert choose(list(reversed(grid)), seconds, budget) == kept


class Clock:
    """Seconds as a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def spending(seconds: float, clock: Clock, spent: float = 0.0) -> Spending:
    budget = Budget(f"{seconds:g}s", seconds, (Shape(1, 8), Shape(4, 8), Shape(2, 8)))
    grid = [Shape(1, 8), Shape(2, 8), Shape(3, 8), Shape(4, 8)]
    return Spending(budget, grid, lambda shape: float(shape.batch), spent, clock)


def test_shapes_go_on_while_the_time_lasts() -> None:
    clock = Clock()
    found = spending(10, clock)
    found.begin(1)
    assert found.order == (Shape(1, 8), Shape(4, 8), Shape(2, 8), Shape(3, 8))
    assert found.refusal(Shape(1, 8), 1) == ""
    clock.now = 2
    found.note(Shape(1, 8), 1, 2.0)  # guessed 1 s: everything takes twice as long
    assert found.refusal(Shape(4, 8), 1) == ""  # 2 + 8 of 10
    clock.now = 7
    found.note(Shape(4, 8), 1, 5.0)  # 7 s for 5 guessed
    assert found.refusal(Shape(2, 8), 1) == ""  # 7 + 2.8
    clock.now = 7.5
    assert found.refusal(Shape(2, 8), 1) == "left out by --budget 10s"
    assert found.refusal(Shape(3, 8), 1) == "left out by --budget 10s"
    clock.now = 0
    assert found.refusal(Shape(2, 8), 1)  # what is left out stays so for every contestant


def test_the_first_shape_is_measured_however_late_it_is() -> None:
    clock = Clock()
    found = spending(10, clock, spent=100)
    found.begin(1)
    assert found.spent_seconds == 100
    assert found.refusal(Shape(1, 8), 3) == ""
    assert found.refusal(Shape(4, 8), 3)


def test_contestants_that_are_timed_apart_share_the_time() -> None:
    clock = Clock()
    found = spending(20, clock)
    found.begin(2)
    clock.now = 9
    assert found.refusal(Shape(4, 8), 1)  # 9 + 4 of 10: the other half is the other contestant's
    clock.now = 10
    found.begin(1)
    assert found.refusal(Shape(2, 8), 1) == ""


def test_without_a_budget_nothing_is_refused() -> None:
    clock = Clock()
    found = Spending(None, GRID, lambda shape: 1e9, 0.0, clock)
    found.begin(1)
    clock.now = 1e9
    assert found.order == tuple(GRID)
    assert not any(found.refusal(shape, 9) for shape in GRID)


FAST = TimingPlan(rounds=1, seconds_per_cell=0.02, warmup_seconds=0.0, warmup_most_seconds=0.01, timeout_seconds=60)


def test_a_run_keeps_to_its_budget_and_its_choice_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {Shape(1, 8): 10.0, Shape(1, 16): 200.0, Shape(2, 8): 10.0, Shape(2, 16): 20.0}
    monkeypatch.setattr("bench.api.most_shape_seconds", lambda source, run, shape: costs[shape])
    monkeypatch.setattr("bench.api.most_cell_seconds", lambda source, run, shape: 0.0)
    said: list[str] = []
    done = bench.compare(
        "bert-tiny", backends="null,null:instant", batches=[1, 2], lengths=[8, 16], device="cpu", threads=1, plan=FAST,
        budget="3m", artifacts=tmp_path / "store", output=tmp_path / "run.jsonl", listener=Listener(say=said.append),
    )  # fmt: skip
    assert any("has time for 3 of 4 shapes" in line and "left out: 1×16" in line for line in said)
    assert {(record.shape, record.contestant) for record in done.records} == set(done.grid.cells())
    left_out = [record for record in done.records if record.status == "skipped"]
    assert [(record.shape, record.reason) for record in left_out] == [(Shape(1, 16), "left out by --budget 3m")] * 2
    assert all(done.is_left_out(record) for record in left_out)
    assert done.command.endswith("--budget 3m")
    assert not any("--budget" in record.repeat for record in done.records)
    assert done.exit_code == 0

    path = tmp_path / "run.jsonl"
    again = read_run(path)
    assert (again.budget, again.schema, again.records) == (done.budget, 4, done.records)
    assert again.spent_seconds == pytest.approx(done.spent_seconds, abs=0.01)
    lines = path.read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"kind":"spent"' in line)
    path.write_text("".join(lines[: first + 1]))  # stopped after the first shape
    monkeypatch.setattr("bench.api.choose", None)  # nothing is chosen anew
    resumed = bench.resume(path, artifacts=tmp_path / "store")
    assert resumed.budget == done.budget
    assert resumed.spent_seconds > 0
    outcome = {(record.shape, record.contestant): record.status for record in resumed.records}
    assert outcome == {(record.shape, record.contestant): record.status for record in done.records}


def test_a_run_that_has_no_time_left_says_what_it_left_out(tmp_path: Path) -> None:
    done = bench.compare(
        "bert-tiny", backends="null", batches=[1, 2], lengths=[8], device="cpu", threads=1, plan=FAST,
        budget=0.001, artifacts=tmp_path / "store", output=tmp_path / "run.jsonl",
    )  # fmt: skip
    assert [(str(record.shape), record.status) for record in done.records] == [("1×8", "ok"), ("2×8", "skipped")]
    assert done.records[1].reason == "left out by --budget 0.001s"


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


@pytest.mark.parametrize(("free_gib", "statuses"), [(1, ["ok", "ok", "skipped"]), (4096, ["ok", "ok", "ok"])])
def test_a_run_leaves_out_what_the_hosts_memory_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: int, statuses: list[str]
) -> None:
    from bench.passes import Passes

    judge = Passes.judge

    def grow(self, shape, contestant, cell):
        judge(self, shape, contestant, cell)
        cell.memory["peak_process_bytes"] = shape.batch * 2**30

    monkeypatch.setattr(Passes, "judge", grow)
    monkeypatch.setattr("bench.machine.available_memory_bytes", lambda: free_gib * 2**30)
    done = bench.compare(
        "bert-tiny", backends="null", batches=[1, 2, 64], lengths=[8], device="cpu", threads=1, plan=FAST,
        artifacts=tmp_path / "store", output=tmp_path / "run.jsonl",
    )  # fmt: skip
    assert [record.status for record in done.records] == statuses
    if free_gib == 1:
        assert "would take about 64 GiB" in done.records[2].reason
