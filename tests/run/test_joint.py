"""All verdicts of a run hold together: which level each comparison gets."""

from __future__ import annotations

import random

import pytest

from bench.run import joint
from bench.run.record import Run
from tests.made import record, run_of


def noisy(label: str, ms: float) -> list[list[float]]:
    draw = random.Random(label)
    return [[ms * draw.gauss(1, 0.03)] for _ in range(20)]


def made(**ms: float) -> Run:
    return run_of([record(label, ms=noisy(label, value)) for label, value in ms.items()])


def test_what_is_decided_leaves_and_the_rest_is_told_at_a_lower_level() -> None:
    """Three comparisons: onnx and openvino with eager, and openvino with onnx, the fastest."""
    run = made(eager=10.0, onnx=2.0, openvino=9.9)
    eager, onnx, openvino = run.records
    ratios = [run.between(*pair) for pair in ((eager, onnx), (openvino, onnx), (eager, openvino))]
    assert all(ratio is not None for ratio in ratios)
    assert [ratio.verdict for ratio in ratios if ratio] == ["faster", "faster", "undecided"]
    assert [ratio.confidence for ratio in ratios if ratio] == [pytest.approx(1 - 0.01 / left) for left in (3, 3, 1)]


def test_a_comparison_that_no_report_makes_is_one_more_among_them() -> None:
    run = made(eager=10.0, onnx=2.0, openvino=9.9, torchscript=10.1)
    found = run.between(run.records[2], run.records[3])
    assert found is not None
    assert found.confidence == pytest.approx(1 - 0.01 / (len(joint.of(run).levels) + 1))


def test_a_further_record_changes_the_levels() -> None:
    run = made(eager=10.0, onnx=9.9, openvino=9.8)
    last = run.records.pop()
    before = run.between(*run.records)
    run.records.append(last)
    after = run.between(*run.records[:2])
    assert before is not None
    assert after is not None
    assert before.confidence == pytest.approx(0.99)
    assert after.confidence > before.confidence
