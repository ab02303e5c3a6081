"""The pipeline on scripted backends: turns, and toy schedules. Faults: tests/workloads/test_faults.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import regret
from bench.errors import BenchError, UserError
from bench.run import driver, registry
from bench.run.experiment import resume
from bench.run.file import read_run
from bench.run.listener import Listener, Provisional
from bench.run.preparation import Preparation
from bench.run.racing import Race
from bench.run.record import Run
from bench.run.schedule import Schedule
from bench.spec import Candidate, Shape
from bench.traffic import read_traffic
from bench.workloads.forward import ForwardCell
from tests.run.toys import Fresh, Lap, Racing

Measured = Callable[..., Run]


@pytest.mark.usefixtures("in_this_process")
def test_every_planned_cell_has_one_record_on_disk(tmp_path: Path, measured: Measured) -> None:
    found = measured("null,null:slow", batches="1,4", lengths="8,16")
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
def test_a_first_figure_and_a_first_ratio_come_before_references_and_peaks(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    start = Preparation.start
    monkeypatch.setattr(Preparation, "peaks", lambda self, again=False: told.append("peaks"))

    def started(self: Preparation, candidate: Candidate) -> Any:
        told.append(f"start {candidate.label}")
        return start(self, candidate)

    monkeypatch.setattr(Preparation, "start", started)

    def figure(run: Run, found: Provisional) -> None:
        compared = "" if found.speedup is None else " compared"
        told.append(f"{found.candidate.label} {found.point} {found.turns} {found.verdict or 'not judged'}{compared}")

    listener = Listener(told.append, figure=figure, record=lambda run, record: told.append(f"record {record.point}"))
    found = measured("eager,torchscript", listener, batches="16,1", lengths="8")
    order = [
        "start eager", "exporting checkpoint", "eager 1×8 1 not judged",
        "start torchscript", "exporting torchscript fp32",
        "torchscript 1×8 1 not judged compared", "computing the float64 reference for 1×8", "record 1×8", "peaks",
        "computing the float64 reference for 16×8", "record 16×8",
    ]  # fmt: skip
    assert [line for line in dict.fromkeys(told) if line in order] == order
    assert [told.count(line) for line in ("peaks", "start eager", "start torchscript")] == [1, 1, 1]
    assert all([turn.round for turn in record.turns] == [0, 1, 2] for record in found.records)


@pytest.mark.usefixtures("in_this_process")
def test_a_whole_run_goes_on_until_it_is_decided(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided with five rounds at either shape; cells that were closed are opened again, and closed."""
    monkeypatch.setattr(Preparation, "peaks", lambda self, again=False: None)
    found = measured("eager,eager:math", batches="1,2")
    path, store = tmp_path / "run.jsonl", tmp_path / "artifacts"
    assert found.is_complete
    before = path.read_text()
    assert resume(path, artifacts=store).records == found.records
    assert path.read_text() == before

    traffic, weights = tmp_path / "traffic.csv", []
    traffic.write_text("batch,length\n2,8\n")

    def is_decided(race: Race) -> bool:
        weights.append(race.schedule.weights)
        cells = [(point, one) for point in race.state.points for one in race.state.candidates]
        return any(len(race.state.turns(*cell)) >= 5 for cell in cells)

    monkeypatch.setattr(Race, "is_decided", property(is_decided))
    monkeypatch.setattr(Race, "_is_open_between", lambda race, leader, other: True)
    monkeypatch.setattr(regret, "rounds_to_settle", lambda *asked, **more: {Shape(2, 8): 2})
    again = resume(path, artifacts=store, until_decided="100s", traffic=traffic)
    assert weights[0] == {Shape(2, 8): 1.0}
    assert again.workload.traffic == replace(read_traffic(traffic), path="")  # type: ignore[attr-defined]
    rounds = {(record.point, len(record.turns)) for record in again.records}
    assert rounds == {(Shape(1, 8), 3), (Shape(2, 8), 5)}
    assert all(record.is_comparable for record in again.records)
    assert read_run(path).records == again.records
    assert read_run(path).is_complete
    with pytest.raises(UserError, match="--until-decided 'soon'"):
        resume(path, artifacts=store, until_decided="soon")
    traffic.write_text("batch,length\n64,8\n")
    with pytest.raises(UserError, match="no request of the traffic lies within the grid"):
        resume(path, artifacts=store, traffic=traffic)


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
    class Stuck(Schedule):
        def next_turns(self, state: Any) -> Any:
            return [(Lap(0), one) for one in state.candidates]

        def is_open(self, state: Any, point: Any, candidate: Any) -> bool:
            return False

        def refusal(self, state: Any, point: Any) -> str:
            return ""

    monkeypatch.setattr(Racing, "schedule", lambda self: Stuck())
    with pytest.raises(BenchError, match="asks for turns of cells that are closed"):
        toy(Racing, "null", points=1, turns=1)
