"""The pipeline on scripted backends: turns, every fault's containment, files that are resumed, toy schedules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError, UserError
from bench.run import driver, registry
from bench.run.experiment import resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.workloads.forward import ForwardCell
from tests.run.conftest import FAST
from tests.run.toys import Fresh, Lap, Racing

Measured = Callable[..., Run]


def statuses(run: Run, label: str) -> list[str]:
    return [record.status for record in run.records if record.candidate.label == label]


@pytest.mark.usefixtures("in_this_process")
def test_every_planned_cell_has_one_record_on_disk(tmp_path: Path, measured: Measured) -> None:
    found = measured("null,null:slow", batches="1,4", lengths="8,16")
    planned = [(point, candidate) for point in found.workload.points() for candidate in found.candidates]
    assert [record.cell for record in found.records] == planned
    again = read_run(tmp_path / "run.jsonl")
    assert again.records == found.records
    assert (again.options, again.candidates, again.model) == (found.options, found.candidates, found.model)
    assert (again.is_complete, again.integrity) == (True, "sealed")
    for record in found.records:
        assert (record.status, len(record.rounds), found.exit_code) == ("ok", 3, 0)
        assert [turn.round for turn in record.turns] == [0, 1, 2]
        assert all(len(turn.outputs) == 8 and turn.conditions for turn in record.turns)
        assert record.once.first_call_ns
        assert record.once.load_seconds is not None


@pytest.mark.parametrize(
    ("variant", "expected", "reason"),
    [
        ("crash", ["ok", "ok", "failed", "failed"], "killed by SIGKILL"),
        ("fail", ["ok", "ok", "failed", "failed"], "fails by design"),
        ("oom", ["ok", "ok", "oom", "skipped"], "also with no other worker loaded"),
        ("unloadable", ["unsupported"] * 4, "never loads"),
        ("chatty", ["ok"] * 4, ""),
    ],
)
def test_a_fault_costs_its_cells_and_not_the_run(
    request: pytest.FixtureRequest, measured: Measured, variant: str, expected: list[str], reason: str
) -> None:
    if variant not in ("crash", "chatty"):  # which need a process of their own
        request.getfixturevalue("in_this_process")
    found = measured(f"null,null:{variant}", batches="1,4", lengths="8,16")
    assert statuses(found, "null") == ["ok"] * 4
    assert statuses(found, f"null:{variant}") == expected
    faulty = [record for record in found.records if record.status != "ok"]
    if reason:
        assert reason in faulty[0].reason
    if variant == "oom":
        assert faulty[0].failure == {"requested_bytes": 2**30}
        assert faulty[1].reason == "a smaller cell, 4×8, ran out of memory"
    if variant == "crash":
        assert faulty[0].failure["signal"] == "SIGKILL"
        assert "about to kill its own process" in faulty[0].failure["stderr"][-1]
    assert found.exit_code == (1 if "failed" in expected else 0)


def test_a_hung_worker_is_killed_and_given_up_after_three_strikes(measured: Measured) -> None:
    found = measured("null:hang", batches="4,5,6,7", timeout=5)
    assert [record.status for record in found.records] == ["timeout", "timeout", "timeout", "skipped"]
    assert found.records[-1].reason == "given up after 3 dead or hung workers in a row"
    assert "no answer within 5 s" in found.records[0].reason


# Files.


def _killed_after(tmp_path: Path, turns: int) -> Path:
    """A run whose process was killed once its file had so many turns."""
    path = tmp_path / "run.jsonl"
    given = {
        **FAST, "max_seconds_per_cell": "20s", "rounds": 8, "target_precision": 0.9, "backends": "null:5ms,null:slow",
        "batches": "1,2",
        "artifacts": str(tmp_path / "artifacts"), "output": str(path),
    }  # fmt: skip
    code = (
        "from bench.run.experiment import measure\nfrom bench.workloads.forward import Forward\n"
        f"measure(Forward, Forward.Options.parsed({given!r}))\n"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    end = time.monotonic() + 120
    while time.monotonic() < end and (not path.exists() or path.read_text().count('"kind":"turn"') < turns):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return path


@pytest.mark.parametrize("turns", [3, 19])
def test_a_killed_run_costs_one_turn_and_is_resumed_from_the_turns_that_are_there(tmp_path: Path, turns: int) -> None:
    path = _killed_after(tmp_path, turns)
    cut = read_run(path)
    assert cut.integrity == "cut"
    before = {cell: list(found) for cell, found in cut.turns.items()}
    before |= {record.cell: list(record.turns) for record in cut.records}
    assert sum(map(len, before.values())) >= turns
    found = resume(path, artifacts=tmp_path / "artifacts")
    assert found.is_complete
    assert len(found.records) == 4
    for record in found.records:
        assert list(record.turns)[: len(before.get(record.cell, []))] == before.get(record.cell, [])
        assert len(record.turns) == 8  # rounds stay paired
    assert read_run(path).integrity == "sealed"


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("is_alike", [True, False])
def test_a_resumed_cell_with_all_its_turns_is_judged_on_outputs_that_are_those_of_its_last(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch, is_alike: bool
) -> None:
    """Killed between a cell's last turn and its record. Outputs that are not the same again are another turn's."""
    whole = measured("null,null:50us")
    path = tmp_path / "run.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: next(n for n, line in enumerate(lines) if '"kind":"record"' in line)]))
    taken, turn = [], ForwardCell.turn

    def noted(self: Any, **request: Any) -> dict[str, Any]:
        taken.append(turn(self, **request) | ({} if is_alike else {"outputs": "0ther000"}))
        return taken[-1]

    monkeypatch.setattr(ForwardCell, "turn", noted)
    again = resume(path, artifacts=tmp_path / "artifacts")
    assert len(taken) == 2  # each once, whose outputs are judged
    assert [(one.cell, one.status) for one in again.records] == [(one.cell, one.status) for one in whole.records]
    for record, before in zip(again.records, whole.records, strict=True):
        assert record.turns[:3] == before.turns
        assert [turn.outputs for turn in record.turns[3:]] == ([] if is_alike else ["0ther000"])


@pytest.mark.usefixtures("in_this_process")
def test_a_stopped_run_is_sealed_and_goes_on(tmp_path: Path, measured: Measured) -> None:
    def stop(run: Run, record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured("null,null:50us", Listener(record=stop), batches="1,4")
    cut = read_run(tmp_path / "run.jsonl")
    assert (cut.integrity, cut.is_complete, len(cut.records)) == ("sealed", False, 1)
    found = resume(tmp_path / "run.jsonl", artifacts=tmp_path / "artifacts")
    assert (found.is_complete, len(found.records)) == (True, 4)
    said: list[str] = []
    resume(tmp_path / "run.jsonl", artifacts=tmp_path / "artifacts", listener=Listener(say=said.append))
    assert "nothing is left to measure" in said[0]


@pytest.mark.usefixtures("in_this_process")
def test_a_file_that_was_altered_is_not_gone_on_with(tmp_path: Path, measured: Measured) -> None:
    measured("null")
    path = tmp_path / "run.jsonl"
    whole = path.read_bytes()
    turn = next(line for line in whole.splitlines(keepends=True) if line.startswith(b'{"kind":"turn"'))
    sample = json.loads(turn)["turn"]["times_ns"]["wall"][0]
    path.write_bytes(whole.replace(str(sample).encode(), str(sample + 1).encode(), 1))
    with pytest.raises(UserError, match="was altered after it was written"):
        resume(path, artifacts=tmp_path / "artifacts")


def test_a_second_run_does_not_write_on_the_file_of_the_first(tmp_path: Path, measured: Measured) -> None:
    (tmp_path / "run.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match="exists; go on with --resume"):
        measured("null")
    assert (tmp_path / "run.jsonl").read_text() == "mine\n"


# Toy schedules.


@pytest.fixture
def toy(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> Measured:
    homes = {"racing": "tests.run.toys:Racing", "fresh": "tests.run.toys:Fresh"}
    monkeypatch.setattr(registry, "BUILT_IN", registry.BUILT_IN | homes)
    return lambda workload, backends, **options: measured(backends, workload=workload, **options)


@pytest.mark.usefixtures("in_this_process")
def test_a_schedule_may_go_back_to_earlier_points(tmp_path: Path, toy: Measured) -> None:
    """Turns visit lap 0, 1, 0, 1, …: cells of both stay begun, and each closes when its schedule says so."""
    found = toy(Racing, "null,null:50us", points=2, turns=3)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    turns = [line["point"]["number"] for line in lines if line["kind"] == "turn"]
    assert turns == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    assert [len(record.turns) for record in found.records] == [3] * 4
    assert all(record.figures == {"number": record.point.number} for record in found.records)
    assert read_run(tmp_path / "run.jsonl").records == found.records


@pytest.mark.usefixtures("in_this_process")
def test_more_points_than_a_worker_holds_are_begun_again(toy: Measured) -> None:
    points = driver.MOST_BEGUN + 2
    found = toy(Racing, "null", points=points, turns=2)
    assert [len(record.turns) for record in found.records] == [2] * points
    assert all(turn.figures["number"] == record.point.number for record in found.records for turn in record.turns)


def test_a_workload_may_have_a_process_for_each_turn_and_a_turn_that_ends_may_be_a_finding(toy: Measured) -> None:
    found = toy(Fresh, "null:oom", points=2, turns=2)
    first, second = found.records
    assert (first.point, first.status, second.status) == (Lap(0), "ok", "ok")
    pids = {turn.figures["pid"] for turn in first.turns}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert [turn.figures for turn in second.turns] == [{"survived": "oom"}] * 2


@pytest.mark.usefixtures("in_this_process")
def test_a_schedule_that_asks_for_closed_cells_is_stopped(toy: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        def next_turns(self, state: Any) -> Any:
            return [(Lap(0), one) for one in state.candidates]

        def is_open(self, state: Any, point: Any, candidate: Any) -> bool:
            return False

        def refusal(self, state: Any, point: Any) -> str:
            return ""

    monkeypatch.setattr(Racing, "schedule", lambda self: Stuck())
    with pytest.raises(BenchError, match="asks for turns of cells that are closed"):
        toy(Racing, "null", points=1, turns=1)
