"""The arithmetic of benchmarks/regret.py: draws, regret and its noise, and rules that a choice is held against."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench.errors import BenchError
from bench.spec import Candidate, Shape

SCRIPT = "regret"


def replay_of(script: ModuleType, chosen: str, number: int = 0, **rounds: list[int]) -> Any:
    draw = script.Draw(number, "uniform", "fixed", (Shape(2, 10), Shape(1, 30)))
    estimates = dict.fromkeys(rounds, 100.0)
    return script.Replay(draw, {script.CHOSEN: chosen}, estimates, rounds, 0.5)


def test_regret_is_over_the_best_of_the_median_rounds(script: ModuleType) -> None:
    replay = replay_of(script, "eager", eager=[110, 105, 500], onnx=[100, 101, 99])
    assert replay.best == "onnx"
    assert replay.regret("eager") == pytest.approx(0.10)
    assert replay.regret("onnx") == 0.0
    assert replay.range("eager") == (pytest.approx(105 / 101 - 1), pytest.approx(500 / 99 - 1))
    assert replay.noise == pytest.approx((500 / 99) / (105 / 101) - 1)
    assert replay_of(script, "a", a=[10], b=[10]).noise == 0.0


def test_without_the_first_round_its_best_is_judged_by_the_others(script: ModuleType) -> None:
    split = script.with_split(replay_of(script, "eager", eager=[90, 105, 106], onnx=[100, 101, 99]))
    assert split.picks == {script.FIRST_ROUND: "eager"}
    assert split.regret("eager") == pytest.approx(0.055)
    assert script.with_split(replay_of(script, "eager", eager=[1], onnx=[2])) is None


def test_draws_are_seeded_within_the_grid_and_of_every_family(script: ModuleType) -> None:
    draws = script.make_draws(100, 10, Shape(8, 256), 0)
    assert draws == script.make_draws(100, 10, Shape(8, 256), 0)
    assert draws[:20] == script.make_draws(20, 10, Shape(8, 256), 0)
    assert draws != script.make_draws(100, 10, Shape(8, 256), 1)
    assert len({(draw.lengths, draw.batches) for draw in draws}) == 12
    shapes = [shape for draw in draws for shape in draw.shapes]
    assert len(shapes) == 1000
    assert all(1 <= shape.batch <= 8 and 1 <= shape.length <= 256 for shape in shapes)
    assert len(set(shapes)) > 300
    assert {shape.batch for shape in shapes} == set(range(1, 9))
    tails = [max(s.length for s in draw.shapes) for draw in draws if draw.lengths == "long-tailed"]
    middles = [sorted(s.length for s in draw.shapes)[5] for draw in draws if draw.lengths == "long-tailed"]
    assert sum(tails) > 2 * sum(middles)
    assert all(1 <= shape.batch <= 2 for draw in script.make_draws(24, 5, Shape(2, 9), 0) for shape in draw.shapes)


def record(backend: str, shape: Shape, ms: float, is_comparable: bool = True) -> SimpleNamespace:
    candidate = Candidate(backend, "default", "fp32")
    return SimpleNamespace(point=shape, candidate=candidate, samples=[ms, ms], is_comparable=is_comparable)


def test_one_shape_picks_the_fastest_that_is_the_same_model(script: ModuleType) -> None:
    shape = Shape(1, 128)
    records = [record("eager", shape, 3), record("onnx", shape, 2), record("compile", shape, 1, is_comparable=False)]
    assert script.fastest_at(SimpleNamespace(records=records), shape) == "onnx"
    with pytest.raises(BenchError, match="no comparable record at 2×128"):
        script.fastest_at(SimpleNamespace(records=records), Shape(2, 128))
    cells = [Shape(1, 16), Shape(1, 128), Shape(8, 128)]
    assert script.nearest_cell([Shape(1, 100), Shape(3, 120)], cells) == Shape(1, 128)
    assert script.nearest_cell([Shape(6, 100)], cells) == Shape(8, 128)


def test_the_report_says_the_share_the_rules_the_noise_and_the_worst(script: ModuleType) -> None:
    good = [replay_of(script, "onnx", number, eager=[200, 200], onnx=[100, 100]) for number in range(18)]
    tie = replay_of(script, "eager", 18, eager=[101, 104], onnx=[100, 100])
    bad = replay_of(script, "eager", 19, eager=[150, 150], onnx=[100, 100])
    lines = list(script.report([*good, tie, bad]))
    assert lines[0] == (
        "20 draws of 2 requests, 2 rounds, 50% of the requests off the grid: 95% within 3% of the best; "
        "goal 95% reached"
    )
    rules = {line[:28].strip(): line[28:].split() for line in lines if "%" in line[28:40]}
    assert rules["bench choose"] == ["95%", "0.0%", "2.6%", "50.0%"]
    assert rules["always eager"] == ["5%", "100.0%", "92.6%", "100.0%"]
    assert rules["always onnx"] == ["100%", "0.0%", "0.0%", "0.0%"]
    assert any(
        line.startswith("in every round within 3%: 18; in every round beyond: 1; one way and the other: 1; 0 choices")
        for line in lines
    )
    worst = next(line for line in lines if line.startswith("draw 19"))
    assert "35 tokens" not in worst
    assert "25 tokens a request" in worst
    assert "took eager, best onnx; regret 50.0% (rounds 50.0% to 50.0%), foretold +0.0%" in worst
    assert all(len(line) < 200 for line in lines)
    assert "goal 95% missed" in next(script.report([bad]))
