"""`--batches auto`: when a length ends, which batch is the best, and whole runs of it; data and scripted backends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.diff import compare_runs
from bench.errors import UserError
from bench.run import doubling
from bench.run.experiment import resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.spec import Candidate, Shape
from bench.workloads.forward import Forward
from tests import made

EAGER, ONNX = Candidate("eager", "default", "fp32"), Candidate("onnx", "default", "fp32")
#: Shares of the median in six rounds: alike, and disagreeing by a fifth either way.
EVEN, NOISY = (1.0,) * 6, (0.8, 0.9, 1.0, 1.0, 1.1, 1.2)


def noisy(speed: float) -> dict[str, Any]:
    return {"speed": speed, "shares": NOISY}


def record(who: Candidate, batch: int, speed: Any) -> Record:
    """A cell with so many sequences a second; None for out of memory, a string for why it was skipped."""
    if not isinstance(speed, int | float | dict):
        status, reason = ("oom", "no memory") if speed is None else ("skipped", speed)
        return made.record(who.label, Shape(batch, 128), status=status, reason=reason)
    given = speed if isinstance(speed, dict) else {"speed": speed}
    rounds = [[1e3 * batch / given["speed"] * share] * 3 for share in given.get("shares", EVEN)]
    return made.record(who.label, Shape(batch, 128), ms=rounds, verdict=given.get("verdict", "equivalent"))


def run_of(speeds: dict[Candidate, dict[int, Any]]) -> Run:
    records = [record(who, batch, speed) for who, found in speeds.items() for batch, speed in found.items()]
    records.sort(key=lambda one: one.point.batch)
    return made.run_of(records, Forward, shapes=None, batches="auto", lengths=[128])


def ended(run: Run, batch: int, candidates: Any = None) -> str:
    return doubling.ending(run.records, Shape(batch, 128), candidates or run.candidates, run.is_implausible)


REASON = "beyond the last doubling: throughput gained under 5% from batch 2 to 4 (at most 2.0%, eager)"


@pytest.mark.parametrize(
    ("speeds", "batch", "said"),
    [
        *(({EAGER: {1: 100, 2: 150, 4: 153}}, batch, REASON if batch == 8 else "") for batch in (1, 2, 4, 8)),
        ({EAGER: {1: 100, 2: 105.1}}, 4, ""),
        ({EAGER: {1: 100, 2: 104.9}}, 4, "from batch 1 to 2"),
        ({EAGER: {1: 100, 2: 90}}, 4, "(at most -10.0%, eager)"),
        # Speed-ups are within rounds, against the first: it is measured wherever another one still gains.
        ({EAGER: {1: 100, 2: 101, 4: 101}, ONNX: {1: 100, 2: 150, 4: 200}}, 8, ""),
        ({EAGER: {1: 100, 2: 101, 4: 101}, ONNX: {1: 100, 2: 150, 4: 155}}, 8, "at most 3.3%, onnx"),
        # Memory ends a candidate, and the last one the length.
        ({EAGER: {1: 100, 2: None}, ONNX: {1: 100, 2: 150}}, 4, ""),
        ({EAGER: {1: 100, 2: None}, ONNX: {1: 100, 2: None}}, 4, "no candidate could be measured at batch 2"),
        ({EAGER: {1: None}, ONNX: {1: None}}, 2, "no candidate could be measured at batch 1"),
        # The speed of another model keeps nothing going.
        ({EAGER: {1: 100, 2: 200}}, 4, ""),
        ({EAGER: {1: 100, 2: {"speed": 200, "verdict": "broken"}}}, 4, "no candidate could be measured at batch 2"),
        # One disturbed cell must not end a length that still gains; wide intervals alone must not go on for ever.
        ({EAGER: {1: 100, 2: noisy(102)}}, 4, ""),
        ({EAGER: {1: 100, 2: noisy(102), 4: noisy(150)}}, 8, ""),
        ({EAGER: {1: 100, 2: noisy(102), 4: noisy(104)}}, 8, "from batch 2 to 4 (at most 2.0%"),
        # A gain is over the best of all smaller batches, so that recovering from a dip is none.
        ({EAGER: {1: 100, 2: 200, 4: 120, 8: 202}}, 16, "from batch 2 to 8 (at most 1.0%"),
    ],
)
def test_when_a_length_ends(speeds: dict[Candidate, dict[int, Any]], batch: int, said: str) -> None:
    found = ended(run_of(speeds), batch)
    assert said in found
    assert bool(found) == bool(said)


def test_those_that_run_apart_end_on_their_own_and_an_ending_stands_for_all_larger_batches() -> None:
    run = run_of({EAGER: {1: 100, 2: 101, 4: 101}, ONNX: {1: 100, 2: 150, 4: 200}})
    reason = ended(run, 8, [EAGER])
    assert reason and not ended(run, 8)
    run.records.append(record(EAGER, 8, reason))
    assert [ended(run, batch, [EAGER]) for batch in (16, 1024)] == [reason] * 2
    assert run.workload.is_left_out(run.records[-1])


@pytest.mark.parametrize(
    ("speeds", "rows", "item"),
    [
        (
            {EAGER: {1: 100, 2: 150, 4: 153, 8: 156}, ONNX: {1: 100, 2: 200, 4: 300, 8: None}},
            [("128", "eager", "2", "150", "13.33", "8"), ("", "onnx", "4", "300", "13.33", "4")],
            "length 128: onnx at batch 4, 300 sequences/s",
        ),
        (
            {EAGER: {1: 100, 2: 200}, ONNX: {1: 101, 2: 201, 4: "beyond the last doubling: a reason"}},
            [("128", "eager", "2", "200", "10.00", "2"), ("", "onnx", "2", "201", "9.95", "2")],
            "length 128: onnx at batch 2, 201 sequences/s (same as eager at batch 2); ended, as a reason",
        ),
    ],
)
def test_the_best_batch_is_the_smallest_that_no_larger_one_exceeds_by_the_gain(
    speeds: dict[Candidate, dict[int, Any]], rows: list[Any], item: str
) -> None:
    found = doubling.best_batches(run_of(speeds))
    assert found.table is not None
    assert (list(found.table.rows), found.items) == (rows, [item])


def test_a_shorter_doubling_is_no_regression() -> None:
    """Where a length ends is a finding that noise may move by a step; a gate must not fail on it."""
    new = run_of({EAGER: {1: 100, 2: 150, 4: doubling.ENDED + "nothing"}})
    comparison = compare_runs([run_of({EAGER: {1: 100, 2: 150, 4: 160}}), new])
    assert [cell.verdict for cell in comparison.cells] == ["same", "same", "gone"]
    assert comparison.exit_code == 0


# Whole runs, in this process.

Measured = Callable[..., Run]


@pytest.fixture
def doubled(measured: Measured, in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Measures with `--batches auto` where no candidate is done for want of throughput, whatever the clock says."""
    monkeypatch.setattr(doubling, "_is_done", lambda step, figures, batch: False)
    return lambda backends, *rest, **options: measured(backends, *rest, batches="auto", **options)


def ends(run: Run) -> str:
    return doubling.best_batches(run).items[0].rpartition("ended, as ")[2]


def test_a_run_to_the_cap_keeps_the_cells_that_memory_refused(tmp_path: Path, doubled: Measured) -> None:
    """`null:oom` has memory for a batch below 4."""
    run = doubled("null,null:oom")
    plain = [one.point for one in run.records if one.candidate.variant == "default"]
    assert plain == [Shape(batch, 8) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)]
    statuses = [one.status for one in sorted(run.records, key=lambda one: one.point) if one.candidate.variant == "oom"]
    assert statuses == ["ok", "ok", "oom", *["skipped"] * 8]
    assert not any(run.workload.is_left_out(one) for one in run.records)
    assert ends(run) == "1024 is the largest batch"
    assert "--batches auto" in run.command
    of_four = next(one for one in run.records if one.point.batch == 4)
    assert "--batches 4 " in run.repeat(of_four)
    assert read_run(tmp_path / "run.jsonl").options == run.options


@pytest.mark.usefixtures("in_this_process")
def test_throughput_ends_a_run(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubling, "GAIN", 1e9)  # nothing gains so much
    run = measured("null", batches="auto")
    taken = [one.point.batch for one in run.records if one.status == "ok"]
    assert taken in ([1, 2], [1, 2, 4])  # three rounds may not give an interval, and then two steps decide
    assert len(run.records) == len(run.workload.points())
    assert all(run.workload.is_left_out(one) for one in run.records[len(taken) :])
    assert ends(run).startswith("throughput gained under")
    assert run.exit_code == 0


def test_memory_ends_a_run_and_a_cut_one_goes_on_to_the_same_end(tmp_path: Path, doubled: Measured) -> None:
    path, whole = tmp_path / "run.jsonl", doubled("null:oom")
    assert [one.status for one in whole.records] == ["ok", "ok", "oom", *["skipped"] * 8]
    assert [whole.workload.is_left_out(one) for one in whole.records] == [False] * 3 + [True] * 8
    assert ends(whole) == "no candidate could be measured at batch 4"
    assert (whole.is_complete, whole.exit_code) == (True, 0)
    lines = path.read_text().splitlines(keepends=True)
    for kept in (2, len(lines) - 4):
        path.write_text("".join(lines[:kept]))
        again = resume(path, artifacts=tmp_path / "artifacts")
        assert [(one.point, one.status, one.reason) for one in again.records] == [
            (one.point, one.status, one.reason) for one in whole.records
        ]


def test_references_of_larger_batches_are_made_as_they_are_reached(
    artifacts: Path, doubled: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far it goes is not known beforehand, and a cell without a reference has no speed-up."""
    monkeypatch.setattr(doubling, "BATCHES", (1, 2))
    monkeypatch.setattr(doubling, "TOGETHER", 1)
    said: list[str] = []
    run = doubled("eager", Listener(say=said.append), lengths="5,7", artifacts=str(artifacts))
    assert [one.verdict for one in run.records] == ["original"] * 4
    assert all(one.operations["flops"] for one in run.records)
    assert [line for line in said if line.startswith("computing the float64")] == [
        f"computing the float64 reference for {shapes}" for shapes in ("1×5, 1×7", "2×5", "2×7")
    ]


def test_what_cannot_be_asked_for_with_it(measured: Measured) -> None:
    with pytest.raises(UserError, match="--budget has no share for --batches auto"):
        measured("null", batches="auto", budget="1m")
    with pytest.raises(UserError, match="--batches 'automatic' is not a whole number"):
        measured("null", batches="automatic")
