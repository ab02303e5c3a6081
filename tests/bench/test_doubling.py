"""`--batches auto`: when a length ends, which batch is the best, and whole runs of it; data and scripted backends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import bench
import bench.api
from bench import doubling, report
from bench.choice.api import choose
from bench.choice.candidates import places_of
from bench.comparison import compare_runs
from bench.errors import UserError
from bench.preparation import Preparation
from bench.process import channel
from bench.records import Record, Run
from bench.runfile import read_run
from bench.spec import Candidate, Grid, Shape, TimingPlan
from bench.traffic import Traffic
from tests.in_process import InThisProcess

FAST = TimingPlan(rounds=3, seconds_per_cell=0.03, warmup_seconds=0.0, warmup_most_seconds=0.02, timeout_seconds=60)
EAGER, ONNX = Candidate("eager", "default", "fp32"), Candidate("onnx", "default", "fp32")
OOM = {"status": "oom", "reason": "no memory", "rounds": [], "parity": {}}


def record(who: Candidate, shape: Shape, ms: float, **values) -> Record:
    fields = {
        "model": "bert", "backend": who.backend, "variant": who.variant, "precision": who.precision, "device": "cpu",
        "batch": shape.batch, "length": shape.length, "status": "ok", "rounds": [[round(ms * 1e6)] * 3] * 6,
        "parity": {"verdict": "equivalent"},
    }  # fmt: skip
    return Record(**(fields | values))


def run_of(speeds: dict[Candidate, dict[int, float | None]], length: int = 128, **values) -> Run:
    """Sequences a second by contestant and batch, the same in every round; None for out of memory."""
    records = [
        record(who, Shape(batch, length), 1e3 * batch / speed, **values)
        if speed
        else record(who, Shape(batch, length), 1, **OOM)
        for who, by_batch in speeds.items()
        for batch, speed in by_batch.items()
    ]
    records.sort(key=lambda entry: entry.batch)
    shapes = tuple(Shape(batch, length) for batch in doubling.BATCHES)
    grid = Grid("bert", tuple(speeds), shapes, "cpu", 2, batches=doubling.AUTO)
    return Run(grid, TimingPlan(), {}, "random", "c0ffee", "bench compare", "2026-01-01", records)


def ended(run: Run, batch: int, length: int = 128) -> str:
    return doubling.ending(run, length, batch, run.grid.contestants)


def noisy(speed: float, batch: int) -> list[list[int]]:
    """Rounds about a speed that disagree by a fifth either way."""
    return [[round(1e9 * batch / speed * share)] * 3 for share in (0.8, 0.9, 1.0, 1.0, 1.1, 1.2)]


def test_the_batches_are_doubled_up_to_a_cap() -> None:
    assert doubling.BATCHES == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert doubling.BATCHES[-1] == doubling.LARGEST_BATCH


def test_a_length_ends_where_throughput_gains_under_five_percent() -> None:
    run = run_of({EAGER: {1: 100, 2: 150, 4: 153}})
    assert [ended(run, batch) for batch in (1, 2, 4)] == ["", "", ""]
    reason = "beyond the last doubling: throughput gained under 5% from batch 2 to 4 (at most 2.0%, eager)"
    assert ended(run, 8) == reason
    assert ended(run_of({EAGER: {1: 100, 2: 105.1}}), 4) == ""
    assert ended(run_of({EAGER: {1: 100, 2: 104.9}}), 4)
    assert ended(run_of({EAGER: {1: 100, 2: 90}}), 4).endswith("(at most -10.0%, eager)")


def test_one_contestant_that_gains_keeps_the_length_going() -> None:
    """Speed-ups are within rounds, against the first: it must be measured wherever another one still gains."""
    speeds = {EAGER: {1: 100, 2: 101, 4: 101}, ONNX: {1: 100, 2: 150, 4: 200}}
    assert ended(run_of(speeds), 8) == ""
    assert doubling.ending(run_of(speeds), 128, 8, [EAGER])  # those that run apart end on their own
    speeds[ONNX][4] = 155
    assert "at most 3.3%, onnx" in ended(run_of(speeds), 8)


def test_memory_ends_a_contestant_and_the_last_one_the_length() -> None:
    assert ended(run_of({EAGER: {1: 100, 2: None}, ONNX: {1: 100, 2: 150}}), 4) == ""
    assert ended(run_of({EAGER: {1: 100, 2: None}, ONNX: {1: 100, 2: None}}), 4) == (
        "beyond the last doubling: nobody could be measured at batch 2"
    )
    assert ended(run_of({EAGER: {1: None}, ONNX: {1: None}}), 2)


@pytest.mark.parametrize("verdict", ["broken"])
def test_the_speed_of_another_model_keeps_nothing_going(verdict: str) -> None:
    run = run_of({EAGER: {1: 100, 2: 200}})
    assert ended(run, 4) == ""
    run.records[1] = replace(run.records[1], parity={"verdict": verdict})
    assert ended(run, 4).endswith("nobody could be measured at batch 2")


def test_a_step_that_may_be_noise_needs_a_second() -> None:
    """One disturbed cell must not end a length that still gains; wide intervals alone must not go on for ever."""
    run = run_of({EAGER: {1: 100, 2: 102}})
    run.records[1] = replace(run.records[1], rounds=noisy(102, 2))
    assert ended(run, 4) == ""
    run.records.append(record(EAGER, Shape(4, 128), 1, rounds=noisy(150, 4)))
    assert ended(run, 8) == ""  # it was noise: the next one gains
    run.records[2] = replace(run.records[2], rounds=noisy(104, 4))
    assert "from batch 2 to 4 (at most 2.0%" in ended(run, 8)  # twice in a row


def test_one_slow_cell_is_no_gain_of_the_next() -> None:
    """A gain is over the best of all smaller batches, so that recovering from a dip is none."""
    assert "from batch 2 to 8 (at most 1.0%" in ended(run_of({EAGER: {1: 100, 2: 200, 4: 120, 8: 202}}), 16)


def test_an_ending_stands_for_all_larger_batches() -> None:
    run = run_of({EAGER: {1: 100, 2: 101}})
    reason = ended(run, 4)
    run.records.append(record(EAGER, Shape(4, 128), 1, status="skipped", reason=reason, rounds=[], parity={}))
    assert [ended(run, batch) for batch in (8, 16, 1024)] == [reason] * 3
    assert run.planned() == [(Shape(1, 128), EAGER), (Shape(2, 128), EAGER)] + [
        (Shape(batch, 128), EAGER) for batch in doubling.BATCHES[3:]
    ]
    assert run.is_left_out(run.records[-1])


def test_the_best_batch_is_the_smallest_that_no_larger_one_exceeds_by_the_gain() -> None:
    run = run_of({EAGER: {1: 100, 2: 150, 4: 153, 8: 156}, ONNX: {1: 100, 2: 200, 4: 300, 8: None}})
    (found,) = doubling.lengths(run)
    assert [(best.record.batch, round(best.sequences_per_second)) for best in found.bests] == [(2, 150), (4, 300)]
    assert [best.largest_measured for best in found.bests] == [8, 4]
    assert found.winner is found.bests[1]
    assert found.ties == ()


def test_throughputs_that_cannot_be_told_apart_tie() -> None:
    (found,) = doubling.lengths(run_of({EAGER: {1: 100, 2: 200}, ONNX: {1: 101, 2: 201}}))
    assert found.winner is not None
    assert found.winner.record.backend == "onnx"
    assert [tied.record.backend for tied in found.ties] == ["eager"]


def test_reports_say_the_best_batch_and_leave_the_rest_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = run_of({EAGER: {1: 100, 2: 150, 4: 153}, ONNX: {1: 1000, 2: 2000, 4: None}})
    reason = ended(run, 8)
    run.records += [
        record(who, Shape(batch, 128), 1, status="skipped", reason=reason, rounds=[], parity={})
        for batch in doubling.BATCHES[3:]
        for who in run.grid.contestants
    ]
    run.is_complete = True
    text = report.render(run, "table")
    assert max(map(len, text.splitlines())) <= 80
    assert "Best batch of each length" in text
    words = " ".join(text.split())
    assert "128 eager 2 150 13.33 4" in words
    assert "onnx 2 2,000 1.00 2" in words
    assert "length 128: onnx at batch 2, 2,000 sequences/s; ended, as throughput gained under 5%" in words
    assert "beyond" not in text
    assert "1024" not in text
    assert "onnx at 4×128: oom: no memory" in text
    markdown = report.render(run, "markdown")
    assert "- length 128: onnx at batch 2, 2,000 sequences/s; ended, as" in markdown
    assert "1024" not in markdown
    assert len(report.render(run, "csv").splitlines()) == 1 + 2 * len(doubling.BATCHES)  # every planned cell


def test_a_shorter_doubling_is_no_regression() -> None:
    """Where a length ends is a finding that noise may move by a step; a gate must not fail on it."""
    old = run_of({EAGER: {1: 100, 2: 150, 4: 160}})
    new = run_of({EAGER: {1: 100, 2: 150}})
    new.records.append(
        record(EAGER, Shape(4, 128), 1, status="skipped", reason=doubling.ENDED + "nobody", rounds=[], parity={})
    )
    comparison = compare_runs([old, new])
    assert [cell.verdict for cell in comparison.cells] == ["same", "same", "gone"]
    assert comparison.cells[2].reason == "not planned"
    assert comparison.exit_code == 0


def test_a_choice_knows_nothing_of_batches_that_were_not_reached() -> None:
    """Traffic at batch 512 lies beyond what was measured, and must be said to; it is no cell that failed."""
    run = run_of({EAGER: {1: 100, 2: 150, 4: 153}, ONNX: {1: 1000, 2: 2000, 4: 2010}})
    reason = ended(run, 8)
    run.records += [
        record(who, Shape(8, 128), 1, status="skipped", reason=reason, rounds=[], parity={})
        for who in run.grid.contestants
    ]
    assert places_of(run) == (Shape(1, 128), Shape(2, 128), Shape(4, 128))
    found = choose(run, traffic=Traffic({Shape(2, 128): 3.0, Shape(512, 128): 1.0}, "a test", is_given=True))
    assert found.chosen is not None
    assert found.chosen.label == "onnx"
    assert found.outside == ((Shape(512, 128), 0.25),)


# Whole runs.


@pytest.fixture(autouse=True)
def no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.driver.REST_SECONDS", 0.0)
    monkeypatch.setattr("bench.machine.busy_share", lambda: 0.0)


def compare(tmp_path: Path, backends: str = "null,null:oom", **options) -> bench.Run:
    options = {
        "output": tmp_path / "run.jsonl", "batches": "auto", "lengths": [8, 16], "artifacts": tmp_path / "artifacts",
    } | options  # fmt: skip
    return bench.compare("bert-tiny", backends=backends, device="cpu", plan=FAST, threads=1, **options)


def gaining(step: doubling.Step, figures: dict) -> bool:
    """Nobody is done for want of throughput, whatever the clock of this machine says."""
    return False


def test_a_run_to_the_cap_keeps_the_cells_that_memory_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`null:oom` has memory for a batch below 4."""
    monkeypatch.setattr(doubling, "_is_done", gaining)
    done = compare(tmp_path, lengths=[8])
    assert [entry.shape for entry in done.records if entry.backend == "null" and entry.variant == "default"] == [
        Shape(batch, 8) for batch in doubling.BATCHES
    ]
    statuses = [entry.status for entry in done.records if entry.variant == "oom"]
    assert statuses == ["ok", "ok", "oom", *["skipped"] * 8]
    assert not any(done.is_left_out(entry) for entry in done.records)
    assert doubling.lengths(done)[0].ending == "1024 is the largest batch"
    assert "--batches auto --lengths 8 " in done.command
    assert "--batches 4 --lengths 8 " in done.records[4].repeat
    assert read_run(tmp_path / "run.jsonl").grid == done.grid


def test_throughput_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubling, "GAIN", 1e9)  # nothing gains so much
    done = compare(tmp_path, "null", lengths=[8])
    measured = [entry.batch for entry in done.records if entry.status == "ok"]
    assert measured in ([1, 2], [1, 2, 4])  # three rounds may not give an interval, and then two steps decide
    assert len(done.records) == len(done.grid.shapes)
    assert all(done.is_left_out(entry) for entry in done.records[len(measured) :])
    assert doubling.lengths(done)[0].ending.startswith("throughput gained under")
    assert done.exit_code == 0


def test_memory_ends_a_run_and_an_interrupted_one_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubling, "_is_done", gaining)
    path = tmp_path / "run.jsonl"
    whole = compare(tmp_path, "null:oom", lengths=[8])
    assert [entry.shape for entry in whole.records] == list(whole.grid.shapes)
    assert [entry.status for entry in whole.records] == ["ok", "ok", "oom", *["skipped"] * 8]
    assert [whole.is_left_out(entry) for entry in whole.records] == [False] * 3 + [True] * 8
    assert doubling.lengths(whole)[0].ending == "nobody could be measured at batch 4"
    assert whole.is_complete
    assert whole.exit_code == 0
    lines = path.read_text().splitlines()
    for kept in (2, 6):  # the header and one batch; also the last doubling and what lies beyond
        path.write_text("\n".join(lines[:kept]) + "\n")
        again = bench.resume(path, artifacts=tmp_path / "artifacts")
        assert [(r.shape, r.status, r.reason) for r in again.records] == [
            (r.shape, r.status, r.reason) for r in whole.records
        ]
        assert again.is_complete


def test_references_of_larger_batches_are_made_as_they_are_reached(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows beforehand how far it goes, and a cell without a reference has no speed-up."""
    monkeypatch.setattr(channel, "Worker", InThisProcess)
    monkeypatch.setattr(Preparation, "peaks", lambda self, again=False: None)
    monkeypatch.setattr(doubling, "BATCHES", (1, 2))
    monkeypatch.setattr(doubling, "TOGETHER", 1)
    monkeypatch.setattr(doubling, "_is_done", gaining)
    said: list[str] = []
    done = compare(tmp_path, "eager", lengths=[5, 7], artifacts=artifacts, listener=bench.api.Listener(say=said.append))
    assert [entry.verdict for entry in done.records] == ["exact"] * 4
    assert all(entry.operations["flops"] for entry in done.records)
    assert [line for line in said if line.startswith("computing the float64")] == [
        f"computing the float64 reference for {shapes}" for shapes in ("1×5, 1×7", "2×5, 2×7")
    ]


def test_what_cannot_be_asked_for_with_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--budget has no share for --batches auto"):
        compare(tmp_path, budget="1m")
    with pytest.raises(UserError, match="--batches 'automatic' is not a whole number"):
        compare(tmp_path, batches="automatic")


def test_a_file_with_batches_of_another_kind_is_damaged(tmp_path: Path) -> None:
    run = run_of({EAGER: {1: 100}})
    header = run.header()
    header["grid"]["batches"] = "some"
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(header) + "\n")
    with pytest.raises(UserError, match="batches that are neither given nor auto"):
        read_run(path)


def test_a_preset_with_batches_auto_keeps_its_lengths() -> None:
    from bench.workloads import presets

    given = presets.load("seed-bert")
    shapes = presets.shapes_of(given, "auto", None, 512)
    assert {shape.length for shape in shapes} == set(given.lengths)
    assert {shape.batch for shape in shapes} == set(doubling.BATCHES)
