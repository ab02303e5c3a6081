"""The pipeline on scripted backends: turns, and toy schedules. Faults: tests/workloads/test_faults.py."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.run import driver, registry
from bench.run.experiment import measure
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Run
from bench.run.workload import Workload
from bench.workloads.forward import Forward
from tests.in_process import here
from tests.run.toys import Fresh, Lap, Racing, ToyOptions

FAST = {
    "model": "bert-tiny", "device": "cpu", "threads": 1, "rounds": 3, "max_seconds_per_cell": "30ms", "warmup": "1ms",
    "max_warmup": "20ms", "timeout": 60,
}  # fmt: skip


@pytest.fixture
def in_this_process() -> Iterator[None]:
    with here():
        yield


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


@pytest.mark.usefixtures("in_this_process")
def test_every_planned_cell_has_one_record_on_disk(tmp_path: Path) -> None:
    found = run(tmp_path, "null,null:slow")
    planned = [(point, candidate) for point in found.workload.points() for candidate in found.candidates]
    assert [record.cell for record in found.records] == planned
    again = read_run(tmp_path / "run.jsonl")
    assert (again.candidates, again.model) == (found.candidates, found.model)
    for record in found.records:
        assert (record.status, len(record.rounds), found.exit_code) == ("ok", 3, 0)
        assert [turn.round for turn in record.turns] == [0, 1, 2]
        assert all(len(turn.outputs) == 8 and turn.conditions for turn in record.turns)
        assert record.once.first_call_ns
        assert record.once.load_seconds is not None


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
