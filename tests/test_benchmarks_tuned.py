"""benchmarks/tuned.py: who is held against tuning's winner, which way round, and what misses the goal."""

from __future__ import annotations

from types import ModuleType

import pytest

from bench.run.record import Run
from bench.spec import Candidate, Shape
from bench.tune.results import Goal
from bench.tune.space import Trial
from tests import made

GOAL = Goal(((Shape(1, 8), 1.0),), "1×8 alone", None)
EAGER, ONNX, AOTI = (Candidate(name, "default", "fp32") for name in ("eager", "onnx", "aoti"))


SCRIPT = "tuned"


def run_of(threads: int, verdict: str = "equivalent", **ms: float) -> tuple[int, Run]:
    records = [
        made.record(name, Shape(1, 8), ms=[[value * (1 + 0.001 * (i % 3))] * 3 for i in range(10)], verdict=verdict)
        for name, value in ms.items()
    ]
    return threads, made.run_of(records)


def test_who_is_over_three_percent_faster_misses_the_goal(script: ModuleType) -> None:
    winner = Trial(ONNX, 2)
    held = script.held_against(winner, [run_of(2, onnx=10, eager=9.8, aoti=9.0)], GOAL)
    assert held[Trial(AOTI, 2)].ratio.value == pytest.approx(10 / 9)
    assert [trial.candidate for trial, entry in held.items() if entry.is_faster] == [AOTI]
    said = list(script.lines(winner, held))
    assert said[0].endswith("1.11 (1.11–1.11) times the winner's speed, FASTER")
    assert said[-1] == "goal, nothing more than 3% faster among 3 points: missed by aoti fp32, 2 threads"
    reached = script.held_against(Trial(AOTI, 2), [run_of(2, onnx=10, aoti=9.0)], GOAL)
    assert list(script.lines(Trial(AOTI, 2), reached))[-1].endswith("among 2 points: reached")


def test_other_numbers_of_threads_are_held_against_the_winners_median(script: ModuleType) -> None:
    held = script.held_against(Trial(ONNX, 2), [run_of(2, onnx=10, eager=12), run_of(1, onnx=9, eager=20)], GOAL)
    alone = held[Trial(ONNX, 1)]
    assert (alone.ratio.value, alone.ratio.interval) == (pytest.approx(10 / 9, rel=0.01), None)
    assert alone.is_faster
    assert not held[Trial(EAGER, 1)].is_faster


def test_what_is_another_model_breaks_nothing(script: ModuleType) -> None:
    runs = [run_of(2, onnx=10), run_of(2, "broken", aoti=1)]
    held = script.held_against(Trial(ONNX, 2), runs, GOAL)
    assert held[Trial(AOTI, 2)].time_ns is None
    assert not held[Trial(AOTI, 2)].is_faster
    assert "parity is broken" in held[Trial(AOTI, 2)].reason


def test_the_winner_stands_in_each_group_of_its_precision(script: ModuleType) -> None:
    others = [Candidate(f"b{number}", "default", "fp32") for number in range(7)]
    int8 = Candidate("onnx", "default", "int8")
    found = list(script.groups([ONNX, *others, int8], ONNX))
    assert found == [[ONNX, *others[:5]], [ONNX, *others[5:]], [int8]]
    assert list(script.groups([ONNX], ONNX)) == [[ONNX]]
