"""The judge: known differences get known figures and verdicts, and planted faults are called broken."""

from __future__ import annotations

import numpy as np
import pytest

from bench.parity.metrics import compare
from bench.parity.verdict import TOLERANCES, verdict, worst_case

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(size=(2, 6, 8))
EAGER = REFERENCE.astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


def figures_of(output: np.ndarray, precision: str = "fp32", yardstick: np.ndarray = EAGER) -> dict:
    tolerance = TOLERANCES[precision]
    return compare({"y": output}, {"y": REFERENCE}, {"y": yardstick}, MASK, precision, tolerance.atol, tolerance.rtol)


def judged(output: np.ndarray, precision: str = "fp32") -> str:
    return verdict(figures_of(output, precision), precision)[0]


def test_eager_against_itself_is_exact() -> None:
    figures = figures_of(EAGER)
    assert judged(EAGER) == "exact"
    assert figures["compared"] == 9 * 8
    assert figures["max_abs_error"] == pytest.approx(np.abs(EAGER - REFERENCE)[MASK == 1].max())


def test_a_difference_is_measured_and_placed() -> None:
    output = EAGER.copy()
    output[1, 2, 5] += 0.25
    figures = figures_of(output)
    assert figures["max_abs_error"] == pytest.approx(0.25, rel=1e-4)
    assert figures["max_abs_at"] == [1, 2, 5]
    assert figures["rmse"] == pytest.approx(0.25 / np.sqrt(72), rel=1e-4)
    assert figures["out_of_tolerance"] == pytest.approx(1 / 72)
    assert judged(output) == "broken"


def test_noise_like_eagers_own_is_equivalent() -> None:
    noise = np.abs(EAGER - REFERENCE)
    output = (REFERENCE - (EAGER - REFERENCE)).astype(np.float32)
    assert noise.max() > 0
    assert judged(np.nextafter(output, np.float32(10))) == "equivalent"


def test_within_tolerance_is_equivalent_though_eager_is_better() -> None:
    output = (REFERENCE + 5e-5).astype(np.float32)
    figures = figures_of(output)
    assert figures["rmse"] > 2 * figures["rmse_eager"]
    assert judged(output) == "equivalent"


def test_masked_positions_are_not_judged_and_reported_apart() -> None:
    output = EAGER.copy()
    output[1, 4] = 1e6
    assert judged(output) == "exact"
    assert figures_of(output)["masked_max_abs_error"] > 1e5
    output[1, 5] = np.nan
    assert judged(output) == "exact"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_are_broken(value: float) -> None:
    output = EAGER.copy()
    output[0, 0, 0] = value
    assert judged(output) == "broken"
    assert figures_of(output)["nonfinite"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_proves_nothing(value: float) -> None:
    reference = REFERENCE.copy()
    reference[0, 1, 2] = value
    same = reference.astype(np.float32)
    figures = compare({"y": same}, {"y": reference}, {"y": same}, MASK, "fp32", 1e-4, 1e-4)
    assert verdict(figures, "fp32")[0] == "broken"


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "outputs are \\[\\] instead of \\['y'\\]"),
        ({"y": EAGER, "z": EAGER}, "outputs are"),
        ({"z": EAGER}, "outputs are"),
        ({"y": EAGER[:, :5]}, "shape"),
        ({"y": EAGER.astype(np.float64)}, "dtype float64 instead of float32"),
        ({"y": EAGER.astype(np.float16)}, "dtype float16"),
    ],
    ids=["missing", "extra", "renamed", "shape", "double", "half"],
)
def test_a_mismatch_is_broken(outputs: dict, message: str) -> None:
    figures = compare(outputs, {"y": REFERENCE}, {"y": EAGER}, MASK, "fp32", 1e-4, 1e-4)
    outcome, reason = verdict(figures, "fp32")
    assert outcome == "broken"
    assert pytest.approx(0) == figures["compared"]
    import re

    assert re.search(message, reason)


def test_nothing_compared_is_broken() -> None:
    figures = compare({"y": EAGER}, {"y": REFERENCE}, {"y": EAGER}, np.zeros_like(MASK), "fp32", 1e-4, 1e-4)
    assert verdict(figures, "fp32") == ("broken", "nothing could be compared")
    assert worst_case({}, "fp32")["verdict"] == "broken"


def test_swapped_rows_are_broken() -> None:
    assert judged(EAGER[::-1].copy()) == "broken"


def test_cosine_is_per_token() -> None:
    output = EAGER.copy()
    output[0, 3] *= -1
    assert figures_of(output)["min_cosine"] == pytest.approx(-1, abs=1e-6)


def test_half_precision_may_be_lossy_and_single_may_not() -> None:
    output = REFERENCE + 0.035 * (np.arange(8) == 0)
    assert judged(output.astype(np.float16), "fp16") == "lossy"
    assert judged(output.astype(np.float32), "fp32") == "broken"
    assert judged((2 * REFERENCE).astype(np.float16), "fp16") == "broken"


def test_the_worst_case_counts() -> None:
    good, bad = figures_of(EAGER), figures_of(EAGER + np.float32(1))
    parity = worst_case({"timed": good, "padded": bad}, "fp32")
    assert (parity["verdict"], parity["case"]) == ("broken", "padded")
    assert parity["cases"]["timed"]["verdict"] == "exact"
    assert parity["max_abs_error"] == pytest.approx(1, rel=1e-3)
