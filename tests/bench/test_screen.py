"""What a run shows while it goes on, whichever workload it is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.cli.screen import Screen
from bench.process.channel import WorkerError
from bench.run import doubling
from bench.run.record import Record, Run
from bench.spec import Shape
from bench.workloads.forward import Forward
from exporters import sources
from tests.made import record, run_of


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Lines of a screen on which a run is planned, and then gets its records one by one."""

    def show(run: Run, records: list[Record], **prepared: object) -> list[str]:
        made = {"source": sources.resolve("bert"), "refused": {}, "missing_exports": list} | prepared
        screen = Screen()
        run.records = []
        screen.plan(run, SimpleNamespace(**made))  # type: ignore[arg-type]
        for one in records:
            run.records.append(one)
            screen.record(run, one)
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    return show


def cells(*labels: str, batches: tuple[int, ...] = (1, 8), **values: object) -> list[Record]:
    return [record(label, Shape(batch, 128), **values) for batch in batches for label in labels]


def test_the_plan_and_each_record_are_told(shown) -> None:
    records = cells("eager", "onnx")
    records[1] = replace(records[1], status="oom", reason="the machine has 1 GiB", turns=())
    run = run_of(records)
    refused = {run.candidates[1]: WorkerError("unsupported", "no GPU")}
    lines = shown(run, records, refused=refused, missing_exports=lambda: ["checkpoint", "onnx fp32"])
    assert lines[0] == f"bert: {run.model.origin}"
    assert lines[1].startswith("plan: 4 cells (2 candidates × 2 shapes) on cpu with 2 threads, about ")
    assert lines[2:4] == ["cannot run: onnx fp32: no GPU", "to export: checkpoint, onnx fp32"]
    assert [line.split()[0] for line in lines[5:]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert lines[5].startswith("[1/4] 1×128 eager fp32  10.00 ms  1.00×  equivalent  (")
    assert "onnx fp32   oom: the machine has 1 GiB  (" in lines[6]
    assert lines[8].endswith("  (done)")


def test_time_left_follows_the_pace_so_far(shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forward, "guessed_seconds", lambda self, point, source, peaks: 10.0 * point.batch)
    records = cells("eager", "onnx", batches=(1, 2))
    slow = [replace(one, turns=tuple(replace(turn, seconds=100.0) for turn in one.turns)) for one in records]
    lines = shown(run_of(slow), slow)
    assert lines[1].endswith("about 60 s of measuring")
    # Three turns of 100 s at batch 1, which was guessed at 10 s: what is left takes 30 times as long as was guessed.
    left = [line.rsplit("  ", 1)[1] for line in lines[4:]]
    assert left == ["(25 min left)", "(20 min left)", "(8 min left)", "(done)"]


def test_points_that_a_budget_leaves_out_are_neither_planned_nor_shown(shown) -> None:
    records = cells("eager", "onnx")
    left_out = [replace(one, status="skipped", reason="left out by --budget 5s", turns=()) for one in records[2:]]
    run = run_of(records, notes={"budget": [0]}, budget="5s")
    lines = shown(run, [*records[:2], *left_out])
    assert lines[1].startswith("plan: 2 cells (2 candidates × 1 shape)")
    assert [line.split()[0] for line in lines[4:]] == ["[1/2]", "[2/2]"]


def test_a_run_without_a_known_end_has_no_total_and_says_once_why_a_length_ends(shown) -> None:
    records = cells("eager", "onnx", batches=(1, 2))
    reason = f"{doubling.ENDED}throughput gained under 5% from batch 1 to 2"
    beyond = cells("eager", "onnx", batches=(4, 8), status="skipped", reason=reason)
    run = run_of([*records, *beyond], batches="auto", lengths=[128], shapes=())
    assert run.workload.is_open_ended
    lines = shown(run, [*records, *beyond])
    assert lines[1].startswith("plan: 2 candidates × 3 shapes at first, on cpu with 2 threads, about ")
    assert lines[2] == "batches double at each length while throughput gains 5%, up to 1024"
    assert [line.split()[0] for line in lines[5:9]] == ["[1]", "[2]", "[3]", "[4]"]
    assert "left" not in "".join(lines[5:9])
    assert lines[9:] == ["length 128 ends: throughput gained under 5% from batch 1 to 2"]


def test_a_run_that_was_stopped_early_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(quiet=True).stopped()
    assert capsys.readouterr().err == "bench: stopped before anything was measured\n"


def test_a_plan_of_many_points_is_not_made_anew_for_each_record(shown: Callable[..., list[str]]) -> None:
    """The driver asks between turns; 5,000 cells took it half a second each."""
    shapes = [Shape(batch, length) for batch in range(1, 11) for length in range(1, 11)]
    records = [record("eager", shape) for shape in shapes]
    run = run_of(records, shapes=[], batches=tuple(range(1, 11)), lengths=tuple(range(1, 11)))
    assert run.workload.points() is run.workload.points()
    assert shown(run, records)[-1].startswith("[100/100]")
    Screen(quiet=True).record(None, None)  # type: ignore[arg-type]
