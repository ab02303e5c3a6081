"""The pipeline on scripted backends: turns, every fault's containment, files that are resumed, toy schedules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.process import channel
from bench.run import driver, registry
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.run.workload import Workload
from bench.workloads.forward import Forward
from tests.in_process import InThisProcess
from tests.run.toys import Fresh, Lap, Racing, ToyOptions

FAST = {
    "model": "bert-tiny", "device": "cpu", "threads": 1, "rounds": 3, "max_seconds_per_cell": "30ms", "warmup": "1ms",
    "max_warmup": "20ms", "timeout": 60,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses for the machine's sake: scripted backends heat nothing."""
    monkeypatch.setattr(driver, "REST_SECONDS", 0.0)
    monkeypatch.setattr("bench.machine.busy_share", lambda: 0.0)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "Worker", InThisProcess)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    homes = {"racing": "tests.run.toys:Racing", "fresh": "tests.run.toys:Fresh"}
    monkeypatch.setattr(registry, "BUILT_IN", registry.BUILT_IN | homes)
    yield


def run(tmp_path: Path, backends: str, listener: Listener | None = None, **options: Any) -> Run:
    given = {
        **FAST, "backends": backends, "batches": "1,4", "lengths": "8,16", "artifacts": str(tmp_path / "artifacts"),
        "output": str(tmp_path / "run.jsonl"), **options,
    }  # fmt: skip
    return measure(Forward, Forward.Options.parsed(given), listener)


def toy(tmp_path: Path, workload: type[Workload], backends: str, **options: Any) -> Run:
    given = {
        "model": "bert-tiny", "backends": backends, "device": "cpu", "threads": 1, "timeout": 60,
        "artifacts": str(tmp_path / "artifacts"), "output": str(tmp_path / "run.jsonl"), **options,
    }  # fmt: skip
    return measure(workload, ToyOptions.parsed(given))


def statuses(run: Run, label: str) -> list[str]:
    return [record.status for record in run.records if record.candidate.label == label]


@pytest.mark.usefixtures("in_this_process")
def test_every_planned_cell_has_one_record_on_disk(tmp_path: Path) -> None:
    found = run(tmp_path, "null,null:slow")
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
    tmp_path: Path, variant: str, expected: list[str], reason: str
) -> None:
    found = run(tmp_path, f"null,null:{variant}")
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


def test_a_hung_worker_is_killed_and_given_up_after_three_strikes(tmp_path: Path) -> None:
    found = run(tmp_path, "null:hang", batches="4,5,6,7", lengths="8", timeout=5)
    assert [record.status for record in found.records] == ["timeout", "timeout", "timeout", "skipped"]
    assert found.records[-1].reason == "given up after 3 dead or hung workers in a row"
    assert "no answer within 5 s" in found.records[0].reason


# Files.


def _killed_after(tmp_path: Path, turns: int) -> Path:
    """A run whose process was killed once its file had so many turns."""
    path = tmp_path / "run.jsonl"
    given = {
        **FAST, "max_seconds_per_cell": "20s", "rounds": 8, "backends": "null:5ms,null:slow", "batches": "1,2",
        "lengths": "8", "artifacts": str(tmp_path / "artifacts"), "output": str(path),
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
        assert len(record.turns) >= 8
    assert len({len(record.turns) for record in found.records if record.point.batch == 1}) == 1  # rounds stay paired
    assert read_run(path).integrity == "sealed"


@pytest.mark.usefixtures("in_this_process")
def test_a_stopped_run_is_sealed_and_goes_on(tmp_path: Path) -> None:
    def stop(run: Run, record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "null,null:50us", Listener(record=stop))
    cut = read_run(tmp_path / "run.jsonl")
    assert (cut.integrity, cut.is_complete, len(cut.records)) == ("sealed", False, 1)
    found = resume(tmp_path / "run.jsonl", artifacts=tmp_path / "artifacts")
    assert (found.is_complete, len(found.records)) == (True, 8)
    said: list[str] = []
    resume(tmp_path / "run.jsonl", artifacts=tmp_path / "artifacts", listener=Listener(say=said.append))
    assert "nothing is left to measure" in said[0]


@pytest.mark.usefixtures("in_this_process")
def test_a_file_that_was_altered_is_named_and_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path, "null", batches="1", lengths="8")
    path = tmp_path / "run.jsonl"
    whole = path.read_bytes()
    turn = next(line for line in whole.splitlines(keepends=True) if line.startswith(b'{"kind":"turn"'))
    sample = json.loads(turn)["turn"]["times_ns"]["wall"][0]
    path.write_bytes(whole.replace(str(sample).encode(), str(sample + 1).encode(), 1))
    assert read_run(path).integrity == "altered"
    with pytest.raises(UserError, match="was altered after it was written"):
        resume(path, artifacts=tmp_path / "artifacts")
    path.write_bytes(whole + turn)
    assert read_run(path).integrity == "altered"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert read_run(path).integrity == "cut"
    path.write_bytes(whole[:-20])
    assert read_run(path).integrity == "cut"


def test_a_second_run_does_not_write_on_the_file_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match="exists; go on with --resume"):
        run(tmp_path, "null")
    assert (tmp_path / "run.jsonl").read_text() == "mine\n"


@pytest.mark.usefixtures("in_this_process")
def test_a_budget_leaves_points_out_and_says_so(tmp_path: Path) -> None:
    found = run(tmp_path, "null", batches="1,2,4,8", lengths="8,16,32", budget="1s", max_seconds_per_cell="300ms")
    left_out = [record for record in found.records if record.status == "skipped"]
    assert len(found.records) == 12
    assert left_out
    assert {record.reason for record in left_out} == {"left out by --budget 1s"}
    assert found.records[0].status == "ok"


# Toy schedules.


@pytest.mark.usefixtures("in_this_process", "toys")
def test_a_schedule_may_go_back_to_earlier_points(tmp_path: Path) -> None:
    """Turns visit lap 0, 1, 0, 1, …: cells of both stay begun, and each closes when its schedule says so."""
    found = toy(tmp_path, Racing, "null,null:50us", points=2, turns=3)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    turns = [line["point"]["number"] for line in lines if line["kind"] == "turn"]
    assert turns == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    assert [len(record.turns) for record in found.records] == [3] * 4
    assert all(record.figures == {"number": record.point.number} for record in found.records)
    assert read_run(tmp_path / "run.jsonl").records == found.records


@pytest.mark.usefixtures("in_this_process", "toys")
def test_more_points_than_a_worker_holds_are_begun_again(tmp_path: Path) -> None:
    points = driver.MOST_BEGUN + 2
    found = toy(tmp_path, Racing, "null", points=points, turns=2)
    assert [len(record.turns) for record in found.records] == [2] * points
    assert all(turn.figures["number"] == record.point.number for record in found.records for turn in record.turns)


@pytest.mark.usefixtures("toys")
def test_a_workload_may_have_a_process_for_each_turn(tmp_path: Path) -> None:
    found = toy(tmp_path, Fresh, "null", points=1, turns=3)
    pids = {turn.figures["pid"] for record in found.records for turn in record.turns}
    assert len(pids) == 3
    assert os.getpid() not in pids


@pytest.mark.usefixtures("toys")
def test_what_ends_a_turn_may_be_a_finding(tmp_path: Path) -> None:
    found = toy(tmp_path, Fresh, "null:oom", points=2, turns=2)
    first, second = found.records
    assert (first.point, first.status) == (Lap(0), "ok")
    assert second.status == "ok"
    assert [turn.figures for turn in second.turns] == [{"survived": "oom"}] * 2


@pytest.mark.usefixtures("in_this_process", "toys")
def test_a_schedule_that_asks_for_closed_cells_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.errors import BenchError

    class Stuck:
        def next_turns(self, state: Any) -> Any:
            return [(Lap(0), one) for one in state.candidates]

        def is_open(self, state: Any, point: Any, candidate: Any) -> bool:
            return False

        def refusal(self, state: Any, point: Any) -> str:
            return ""

    monkeypatch.setattr(Racing, "schedule", lambda self: Stuck())
    with pytest.raises(BenchError, match="asks for turns of cells that are closed"):
        toy(tmp_path, Racing, "null", points=1, turns=1)
