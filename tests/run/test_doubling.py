"""`--batches auto`: when a length ends, which batch is the best, and whole runs of it; data and scripted backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.diff import compare_runs
from bench.errors import UserError
from bench.report import console, documents
from bench.run import doubling
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.spec import Candidate, Shape
from bench.workloads.forward import Forward
from tests.in_process import here
from tests.made import record as made_record
from tests.made import run_of as made_run

EAGER, ONNX = Candidate("eager", "default", "fp32"), Candidate("onnx", "default", "fp32")
SAME = 6


def record(who: Candidate, shape: Shape, ms: float, rounds: list[list[float]] | None = None, **values: Any) -> Record:
    return made_record(who.label, shape, ms=rounds or [[ms] * 3] * SAME, **values)


def run_of(speeds: dict[Candidate, dict[int, float | None]], length: int = 128) -> Run:
    """Sequences a second by candidate and batch, the same in every round; None for out of memory."""
    records = [
        record(who, Shape(batch, length), 1e3 * batch / speed)
        if speed
        else record(who, Shape(batch, length), 1, status="oom", reason="no memory")
        for who, by_batch in speeds.items()
        for batch, speed in by_batch.items()
    ]
    records.sort(key=lambda entry: entry.point.batch)
    return made_run(records, Forward, shapes=None, batches="auto", lengths=[length])


def skipped(who: Candidate, batch: int, reason: str) -> Record:
    return record(who, Shape(batch, 128), 1, status="skipped", reason=reason)


def ended(run: Run, batch: int, candidates: Any = None) -> str:
    who = candidates or run.candidates
    return doubling.ending(run.records, Shape(batch, 128), who, run.is_implausible)


def noisy(speed: float, batch: int) -> list[list[float]]:
    """Rounds (ms) about a speed that disagree by a fifth either way."""
    return [[1e3 * batch / speed * share] * 3 for share in (0.8, 0.9, 1.0, 1.0, 1.1, 1.2)]


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


def test_one_candidate_that_gains_keeps_the_length_going() -> None:
    """Speed-ups are within rounds, against the first: it must be measured wherever another one still gains."""
    speeds = {EAGER: {1: 100, 2: 101, 4: 101}, ONNX: {1: 100, 2: 150, 4: 200}}
    assert ended(run_of(speeds), 8) == ""
    assert ended(run_of(speeds), 8, [EAGER])  # those that run apart end on their own
    speeds[ONNX][4] = 155
    assert "at most 3.3%, onnx" in ended(run_of(speeds), 8)


def test_memory_ends_a_candidate_and_the_last_one_the_length() -> None:
    assert ended(run_of({EAGER: {1: 100, 2: None}, ONNX: {1: 100, 2: 150}}), 4) == ""
    assert ended(run_of({EAGER: {1: 100, 2: None}, ONNX: {1: 100, 2: None}}), 4) == (
        "beyond the last doubling: no candidate could be measured at batch 2"
    )
    assert ended(run_of({EAGER: {1: None}, ONNX: {1: None}}), 2)


@pytest.mark.parametrize("verdict", ["broken"])
def test_the_speed_of_another_model_keeps_nothing_going(verdict: str) -> None:
    run = run_of({EAGER: {1: 100, 2: 200}})
    assert ended(run, 4) == ""
    run.records[1] = replace(run.records[1], parity={"verdict": verdict})
    assert ended(run, 4).endswith("no candidate could be measured at batch 2")


def test_a_step_that_may_be_noise_needs_a_second() -> None:
    """One disturbed cell must not end a length that still gains; wide intervals alone must not go on for ever."""
    run = run_of({EAGER: {1: 100, 2: 102}})
    run.records[1] = record(EAGER, Shape(2, 128), 1, noisy(102, 2))
    assert ended(run, 4) == ""
    run.records.append(record(EAGER, Shape(4, 128), 1, noisy(150, 4)))
    assert ended(run, 8) == ""  # it was noise: the next one gains
    run.records[2] = record(EAGER, Shape(4, 128), 1, noisy(104, 4))
    assert "from batch 2 to 4 (at most 2.0%" in ended(run, 8)  # twice in a row


def test_one_slow_cell_is_no_gain_of_the_next() -> None:
    """A gain is over the best of all smaller batches, so that recovering from a dip is none."""
    assert "from batch 2 to 8 (at most 1.0%" in ended(run_of({EAGER: {1: 100, 2: 200, 4: 120, 8: 202}}), 16)


def test_an_ending_stands_for_all_larger_batches() -> None:
    run = run_of({EAGER: {1: 100, 2: 101}})
    reason = ended(run, 4)
    run.records.append(skipped(EAGER, 4, reason))
    assert [ended(run, batch) for batch in (8, 16, 1024)] == [reason] * 3
    assert run.workload.is_left_out(run.records[-1])


def test_the_best_batch_is_the_smallest_that_no_larger_one_exceeds_by_the_gain() -> None:
    run = run_of({EAGER: {1: 100, 2: 150, 4: 153, 8: 156}, ONNX: {1: 100, 2: 200, 4: 300, 8: None}})
    (found,) = doubling.lengths(run)
    assert [(best.record.point.batch, round(best.sequences_per_second)) for best in found.bests] == [(2, 150), (4, 300)]
    assert [best.largest_measured for best in found.bests] == [8, 4]
    assert found.winner is found.bests[1]
    assert found.ties == ()


def test_throughputs_that_cannot_be_told_apart_tie() -> None:
    (found,) = doubling.lengths(run_of({EAGER: {1: 100, 2: 200}, ONNX: {1: 101, 2: 201}}))
    assert found.winner is not None
    assert found.winner.record.candidate.backend == "onnx"
    assert [tied.record.candidate.backend for tied in found.ties] == ["eager"]


def test_reports_say_the_best_batch_and_leave_the_rest_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = run_of({EAGER: {1: 100, 2: 150, 4: 153}, ONNX: {1: 1000, 2: 2000, 4: None}})
    reason = ended(run, 8)
    run.records += [skipped(who, batch, reason) for batch in doubling.BATCHES[3:] for who in run.candidates]
    text = console.render(run)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "Best batch of each length" in words
    assert "128 eager 2 150 13.33 4" in words
    assert "onnx 2 2,000 1.00 2" in words
    assert "length 128: onnx at batch 2, 2,000 sequences/s; ended, as throughput gained under 5%" in words
    assert "beyond" not in text
    assert "1024" not in text
    assert "onnx at 4×128: oom: no memory" in words
    markdown = documents.as_markdown(run)
    assert "- length 128: onnx at batch 2, 2,000 sequences/s; ended, as" in markdown
    assert "1024" not in markdown
    assert len(documents.as_csv(run).splitlines()) == 1 + 2 * len(doubling.BATCHES)  # every planned cell


def test_a_shorter_doubling_is_no_regression() -> None:
    """Where a length ends is a finding that noise may move by a step; a gate must not fail on it."""
    old, new = run_of({EAGER: {1: 100, 2: 150, 4: 160}}), run_of({EAGER: {1: 100, 2: 150}})
    new.records.append(skipped(EAGER, 4, doubling.ENDED + "nothing"))
    comparison = compare_runs([old, new])
    assert [cell.verdict for cell in comparison.cells] == ["same", "same", "gone"]
    assert comparison.exit_code == 0


# Whole runs.


@pytest.fixture(autouse=True)
def _in_this_process() -> Iterator[None]:
    with here():
        yield


def measured(tmp_path: Path, backends: str = "null,null:oom", listener: Listener | None = None, **given: Any) -> Run:
    options = {
        "model": "bert-tiny", "backends": backends, "device": "cpu", "threads": 1, "rounds": 3, "warmup": "1ms",
        "max_seconds_per_cell": "30ms", "max_warmup": "20ms", "timeout": 60, "batches": "auto", "lengths": "8",
        "artifacts": str(tmp_path / "artifacts"), "output": str(tmp_path / "run.jsonl"), **given,
    }  # fmt: skip
    return measure(Forward, Forward.Options.parsed(options), listener)


def gaining(step: doubling.Step, figures: Any) -> bool:
    """No candidate is done for want of throughput, whatever the clock of this machine says."""
    return False


def test_a_run_to_the_cap_keeps_the_cells_that_memory_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`null:oom` has memory for a batch below 4."""
    monkeypatch.setattr(doubling, "_is_done", gaining)
    run = measured(tmp_path)
    plain = [one.point for one in run.records if one.candidate.variant == "default"]
    assert plain == [Shape(batch, 8) for batch in doubling.BATCHES]
    statuses = [one.status for one in sorted(run.records, key=lambda one: one.point) if one.candidate.variant == "oom"]
    assert statuses == ["ok", "ok", "oom", *["skipped"] * 8]
    assert not any(run.workload.is_left_out(one) for one in run.records)
    assert doubling.lengths(run)[0].ending == "1024 is the largest batch"
    assert "--batches auto" in run.command
    of_four = next(one for one in run.records if one.point.batch == 4)
    assert "--batches 4 " in run.repeat(of_four)
    assert read_run(tmp_path / "run.jsonl").options == run.options


def test_throughput_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubling, "GAIN", 1e9)  # nothing gains so much
    run = measured(tmp_path, "null")
    taken = [one.point.batch for one in run.records if one.status == "ok"]
    assert taken in ([1, 2], [1, 2, 4])  # three rounds may not give an interval, and then two steps decide
    assert len(run.records) == len(run.workload.points())
    assert all(run.workload.is_left_out(one) for one in run.records[len(taken) :])
    assert doubling.lengths(run)[0].ending.startswith("throughput gained under")
    assert run.exit_code == 0


def test_memory_ends_a_run_and_a_cut_one_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubling, "_is_done", gaining)
    path = tmp_path / "run.jsonl"
    whole = measured(tmp_path, "null:oom")
    assert [one.status for one in whole.records] == ["ok", "ok", "oom", *["skipped"] * 8]
    assert [whole.workload.is_left_out(one) for one in whole.records] == [False] * 3 + [True] * 8
    assert doubling.lengths(whole)[0].ending == "no candidate could be measured at batch 4"
    assert (whole.is_complete, whole.exit_code) == (True, 0)
    lines = path.read_text().splitlines(keepends=True)
    for kept in (2, len(lines) - 4):
        path.write_text("".join(lines[:kept]))
        again = resume(path, artifacts=tmp_path / "artifacts")
        assert [(one.point, one.status, one.reason) for one in again.records] == [
            (one.point, one.status, one.reason) for one in whole.records
        ]


def test_references_of_larger_batches_are_made_as_they_are_reached(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far it goes is not known beforehand, and a cell without a reference has no speed-up."""
    monkeypatch.setattr(doubling, "BATCHES", (1, 2))
    monkeypatch.setattr(doubling, "TOGETHER", 1)
    monkeypatch.setattr(doubling, "_is_done", gaining)
    said: list[str] = []
    run = measured(tmp_path, "eager", Listener(say=said.append), lengths="5,7", artifacts=str(artifacts))
    assert [one.verdict for one in run.records] == ["exact"] * 4
    assert all(one.operations["flops"] for one in run.records)
    assert [line for line in said if line.startswith("computing the float64")] == [
        f"computing the float64 reference for {shapes}" for shapes in ("1×5, 1×7", "2×5", "2×7")
    ]


def test_what_cannot_be_asked_for_with_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--budget has no share for --batches auto"):
        measured(tmp_path, budget="1m")
    with pytest.raises(UserError, match="--batches 'automatic' is not a whole number"):
        measured(tmp_path, batches="automatic")
