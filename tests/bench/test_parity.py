"""The judge: known differences get known figures and verdicts, and planted faults are called broken."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.parity.metrics import LEAST_TOKENS, TOP_K, compare
from bench.parity.verdict import (
    LOCAL_FACTOR,
    OUTCOMES,
    TOLERANCES,
    Tolerance,
    badness,
    judge,
    share_of_limit,
    verdict,
    worst_case,
)

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(size=(2, 6, 8))
EAGER = REFERENCE.astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
FP32 = TOLERANCES["fp32"]

#: A larger output with an error of eager's that float32's rounding does not disturb.
WIDE = RNG.normal(size=(2, 40, 64))
NOISE = 1e-5
WIDE_EAGER = (WIDE + NOISE * RNG.normal(size=WIDE.shape)).astype(np.float32)
WIDE_MASK = np.ones(WIDE.shape[:2], dtype=np.int64)


def figures_of(output: np.ndarray, precision: str = "fp32", eager: np.ndarray = EAGER) -> dict[str, Any]:
    tolerance = TOLERANCES[precision]
    (figures,) = compare({"y": output}, {"y": REFERENCE}, {"y": eager}, MASK, precision, tolerance.atol, tolerance.rtol)
    return figures


def judged(output: np.ndarray, precision: str = "fp32") -> str:
    return verdict(figures_of(output, precision), TOLERANCES[precision])[0]


def like_eager(seed: int = 1) -> np.ndarray:
    """An output with errors of its own that are drawn like eager's, in float64."""
    return WIDE + NOISE * np.random.default_rng(seed).normal(size=WIDE.shape)


def wide_figures(output: np.ndarray, tolerance: Tolerance = FP32, name: str = "y") -> dict[str, Any]:
    (figures,) = compare(
        {name: output.astype(np.float32)}, {name: WIDE}, {name: WIDE_EAGER}, WIDE_MASK, "fp32", tolerance.atol,
        tolerance.rtol,
    )  # fmt: skip
    return figures


def test_eager_against_itself_is_exact() -> None:
    figures = figures_of(EAGER)
    assert judged(EAGER) == "exact"
    assert (figures["compared"], figures["tokens"]) == (9 * 8, 9)
    assert figures["max_abs_error"] == pytest.approx(np.abs(EAGER - REFERENCE)[MASK == 1].max())
    assert figures["rmse_ratio"] == pytest.approx(1)
    assert figures["identical_to_eager"] is True


def test_a_difference_is_measured_and_placed() -> None:
    output = EAGER.copy()
    output[1, 2, 5] += 0.25
    figures = figures_of(output)
    assert figures["max_abs_error"] == pytest.approx(0.25, rel=1e-4)
    assert figures["max_abs_at"] == [1, 2, 5]
    assert figures["worst_token"] == [1, 2]
    assert figures["rmse"] == pytest.approx(0.25 / np.sqrt(72), rel=1e-4)
    assert figures["mean_abs_error"] == pytest.approx(0.25 / 72, rel=1e-3)
    assert figures["p99_abs_error"] == pytest.approx(np.quantile(np.r_[np.zeros(71), 0.25], 0.99), rel=1e-3)
    assert figures["rms_reference"] == pytest.approx(np.sqrt((REFERENCE[MASK == 1] ** 2).mean()))
    assert figures["out_of_tolerance"] == pytest.approx(1 / 72)
    assert judged(output) == "broken"


def test_a_relative_difference_is_against_a_floor_where_the_reference_is_small() -> None:
    """Without the floor, a difference of 1e-6 at a reference of 1e-12 would be a million times too large."""
    reference = np.full((1, 4, 2), 10.0)
    reference[0, 1, 0] = 1e-12
    output = reference.copy()
    output[0, 1, 0] += 1e-6
    (figures,) = compare(
        {"y": output.astype(np.float32)}, {"y": reference}, {"y": reference.astype(np.float32)},
        np.ones((1, 4), dtype=np.int64), "fp32", 0, 0,
    )  # fmt: skip
    assert figures["max_rel_error"] == pytest.approx(1e-6 / (1e-3 * 10), rel=1e-3)


def test_noise_like_eagers_own_is_equivalent() -> None:
    noise = np.abs(EAGER - REFERENCE)
    output = (REFERENCE - (EAGER - REFERENCE)).astype(np.float32)
    assert noise.max() > 0
    assert judged(np.nextafter(output, np.float32(10))) == "equivalent"


@pytest.mark.parametrize("seed", range(20))
def test_a_backend_as_good_as_eager_is_never_called_broken(seed: int) -> None:
    """A/A: other errors of the same size; the local ratios must leave room for the worst of many places."""
    figures = wide_figures(like_eager(seed + 100))
    assert verdict(figures, FP32)[0] == "equivalent"
    assert figures["rmse_ratio"] == pytest.approx(1, rel=0.1)


def test_within_tolerance_is_equivalent_though_eager_is_better() -> None:
    """Two units in the last place are no other model, where eager happens to be right to a tenth of one."""
    close = (REFERENCE + 1e-9).astype(np.float32)
    output = np.nextafter(close, np.float32(9))
    (figures,) = compare({"y": output}, {"y": REFERENCE}, {"y": EAGER}, MASK, "fp32", FP32.atol, FP32.rtol)
    figures |= {"rmse_ratio": 5.0, "tokens": 100}
    assert verdict(figures, FP32)[0] == "equivalent"
    assert verdict(figures | {"out_of_tolerance": 1 / 72}, FP32)[0] == "broken"


def test_fp32_has_no_room_beyond_eagers_own_error() -> None:
    """A difference of 5e-5 is small against many a tolerance, and ten thousand times what float32 explains."""
    output = (REFERENCE + 5e-5).astype(np.float32)
    assert figures_of(output)["rmse_ratio"] > 100
    assert judged(output) == "broken"


def test_a_fault_in_one_unit_is_seen_though_it_is_lost_in_the_whole() -> None:
    output = like_eager()
    output[..., 7] += 8 * NOISE
    figures = wide_figures(output)
    assert figures["rmse_ratio"] == pytest.approx(np.sqrt(1 + 64 / 64), rel=0.05)
    assert figures["rmse_ratio"] < FP32.eager_factor
    assert (figures["worst_unit"], figures["unit_ratio"]) == (7, pytest.approx(np.sqrt(65), rel=0.2))
    outcome, reason = verdict(figures, FP32)
    assert outcome == "broken"
    assert re.fullmatch(r"RMSE of unit 7 is [0-9.]+ times eager's; allowed are 6", reason)


def test_a_fault_at_one_token_is_seen_though_it_is_lost_in_the_whole() -> None:
    output = like_eager()
    output[1, 33] += 8 * NOISE
    figures = wide_figures(output)
    assert figures["rmse_ratio"] == pytest.approx(np.sqrt(1 + 64 / 80), rel=0.05)
    assert figures["rmse_ratio"] < FP32.eager_factor
    assert (figures["worst_token"], figures["token_ratio"]) == ([1, 33], pytest.approx(np.sqrt(65), rel=0.2))
    assert verdict(figures, FP32) == (
        "broken", f"RMSE at row 1, position 33 is {figures['token_ratio']:.3g} times eager's; allowed are 6",
    )  # fmt: skip


def test_the_worst_token_is_where_eager_does_not_err_alike() -> None:
    """Eager errs ten times more at one token: the same error there is its own, and at another token it is a fault."""
    eager = WIDE + NOISE * RNG.normal(size=WIDE.shape)
    eager[0, 3] = WIDE[0, 3] + 100 * NOISE * RNG.normal(size=64)
    output = like_eager()
    output[0, 3] = WIDE[0, 3] + 100 * NOISE * RNG.normal(size=64)
    arrays = ({"y": WIDE}, {"y": eager.astype(np.float32)}, WIDE_MASK, "fp32", FP32.atol, FP32.rtol)
    (same,) = compare({"y": output.astype(np.float32)}, *arrays)
    assert verdict(same, FP32)[0] == "equivalent"
    output[0, 3], output[0, 4] = like_eager()[0, 3], output[0, 3] - WIDE[0, 3] + WIDE[0, 4]
    (other,) = compare({"y": output.astype(np.float32)}, *arrays)
    assert other["worst_token"] == [0, 4]
    assert verdict(other, FP32)[0] == "broken"


def test_units_are_not_judged_over_a_handful_of_tokens() -> None:
    """The spread of one unit over few tokens is that of single numbers."""
    few = np.zeros_like(WIDE_MASK)
    few[0, : LEAST_TOKENS - 1] = 1
    for mask, is_judged in ((few, False), (WIDE_MASK, True)):
        (figures,) = compare({"y": like_eager().astype(np.float32)}, {"y": WIDE}, {"y": WIDE_EAGER}, mask, "fp32", 0, 0)
        assert (figures["unit_ratio"] is not None, figures["worst_unit"] is not None) == (is_judged, is_judged)


def test_a_broken_output_beside_a_larger_sound_one_is_broken() -> None:
    """Flattened together, errors of 1e-3 in the small output vanish beside magnitudes of 1000 in the large one."""
    noise = 1e-4 * RNG.normal(size=WIDE.shape)
    reference = {"large": 1000 * WIDE, "small": 1e-2 * WIDE}
    eager = {"large": (1000 * (WIDE + noise)).astype(np.float32), "small": (1e-2 * (WIDE + noise)).astype(np.float32)}
    sound = 1e-4 * np.random.default_rng(9).normal(size=WIDE.shape)
    outputs = {
        "large": (1000 * (WIDE + sound)).astype(np.float32),
        "small": (1e-2 * (WIDE + 10 * sound)).astype(np.float32),
    }
    figures = compare(outputs, reference, eager, WIDE_MASK, "fp32", FP32.atol, FP32.rtol)
    assert [entry["output"] for entry in figures] == ["large", "small"]
    assert [verdict(entry, FP32)[0] for entry in figures] == ["equivalent", "broken"]
    found = judge(figures, FP32)
    assert (found["verdict"], found["output"]) == ("broken", "small")
    assert found["rmse_ratio"] == pytest.approx(10, rel=0.05)
    assert figures[0]["rmse"] > 100 * figures[1]["rmse"]


def test_outputs_under_each_others_names_are_broken() -> None:
    reference = {"one": REFERENCE, "two": REFERENCE + 1}
    eager = {name: array.astype(np.float32) for name, array in reference.items()}
    swapped = {"one": eager["two"], "two": eager["one"]}
    figures = compare(swapped, reference, eager, MASK, "fp32", FP32.atol, FP32.rtol)
    assert judge(figures, FP32)["verdict"] == "broken"
    assert judge(compare(eager, reference, eager, MASK, "fp32", 0, 0), FP32)["verdict"] == "exact"


def test_masked_positions_are_not_judged_and_reported_apart() -> None:
    output = EAGER.copy()
    output[1, 4] = 1e6
    assert judged(output) == "exact"
    assert figures_of(output)["masked_max_abs_error"] > 1e5
    output[1, 5] = np.nan
    assert judged(output) == "exact"
    assert figures_of(output)["masked_max_abs_error"] is None


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_are_broken(value: float, precision: str) -> None:
    output = EAGER.astype(np.float16 if precision == "fp16" else np.float32)
    output[0, 0, 0] = value
    assert judged(output, precision) == "broken"
    assert figures_of(output, precision)["nonfinite"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_proves_nothing(value: float) -> None:
    reference = REFERENCE.copy()
    reference[0, 1, 2] = value
    same = reference.astype(np.float32)
    found = judge(compare({"y": same}, {"y": reference}, {"y": same}, MASK, "fp32", 1e-4, 1e-4), FP32)
    assert found["verdict"] == "broken"
    assert "float64 reference itself has 1 NaN or infinite" in found["reason"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "outputs are \\[\\] instead of \\['y'\\]"),
        ({"y": EAGER, "z": EAGER}, "outputs are"),
        ({"z": EAGER}, "outputs are"),
        ({"y": EAGER[:, :5]}, r"y has shape \[2, 5, 8\] instead of \[2, 6, 8\]"),
        ({"y": EAGER.astype(np.float64)}, "dtype float64 instead of float32"),
        ({"y": EAGER.astype(np.float16)}, "dtype float16"),
    ],
    ids=["missing", "extra", "renamed", "shape", "double", "half"],
)
def test_a_mismatch_is_broken(outputs: dict, message: str) -> None:
    figures = compare(outputs, {"y": REFERENCE}, {"y": EAGER}, MASK, "fp32", 1e-4, 1e-4)
    found = judge(figures, FP32)
    assert found["verdict"] == "broken"
    assert found["compared"] == 0
    assert re.search(message, found["reason"])
    assert found["share_of_limit"] is None


def test_nothing_compared_is_broken() -> None:
    (figures,) = compare({"y": EAGER}, {"y": REFERENCE}, {"y": EAGER}, np.zeros_like(MASK), "fp32", 1e-4, 1e-4)
    assert verdict(figures, FP32) == ("broken", "nothing could be compared")
    assert judge([], FP32)["verdict"] == "broken"
    assert worst_case({}, FP32)["verdict"] == "broken"
    assert worst_case({"timed": []}, FP32)["verdict"] == "broken"


def test_swapped_rows_are_broken() -> None:
    assert judged(EAGER[::-1].copy()) == "broken"


def test_cosine_is_per_token() -> None:
    output = EAGER.copy()
    output[0, 3] *= -1
    assert figures_of(output)["min_cosine"] == pytest.approx(-1, abs=1e-6)


def test_where_eager_makes_no_error_none_is_explained() -> None:
    """Integers are exact in float32; the tolerance of two last places is all that is left."""
    whole = np.arange(96.0).reshape(2, 6, 8)
    eager = whole.astype(np.float32)
    for step, expected in ((0, "exact"), (1, "equivalent"), (5, "broken")):
        output = eager.copy()
        for _ in range(step):
            output[1, 2] = np.nextafter(output[1, 2], np.float32(1e9))
        figures = compare({"y": output}, {"y": whole}, {"y": eager}, MASK, "fp32", FP32.atol, FP32.rtol)
        found = judge(figures, FP32)
        assert found["verdict"] == expected
        assert found["rmse_ratio"] is found["share_of_limit"] is None
    assert "where eager's is 0" in found["reason"]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_what_a_precision_may_lose_is_lossy_and_more_is_broken(precision: str) -> None:
    share = TOLERANCES[precision].max_rms_share
    assert share is not None
    dtype = np.float16 if precision == "fp16" else np.float32
    assert judged((REFERENCE * (1 + 0.95 * share)).astype(dtype), precision) == "lossy"
    assert judged((REFERENCE * (1 + 1.05 * share)).astype(dtype), precision) == "broken"


def test_single_precision_may_lose_nothing() -> None:
    assert not FP32.has_budget
    assert judged((REFERENCE * 1.0001).astype(np.float32)) == "broken"
    assert judged((REFERENCE * 1.0001).astype(np.float32), "bf16") == "equivalent"


# Distributions over a vocabulary.


def logits_figures(output: np.ndarray, reference: np.ndarray, eager: np.ndarray) -> dict[str, Any]:
    """Figures of logits [tokens, vocabulary], as a batch of one row."""
    (figures,) = compare(
        {"logits": output[None].astype(np.float32)}, {"logits": reference[None]},
        {"logits": eager[None].astype(np.float32)}, np.ones((1, len(reference)), dtype=np.int64), "fp32", 0.0, 0.0,
    )  # fmt: skip
    return figures


HALF, QUARTER = np.log(0.5), np.log(0.25)
#: KL(p ‖ q) of p = (1/2, 1/4, 1/4) from q = (1/4, 1/2, 1/4): 1/2 · ln 2 − 1/4 · ln 2.
P, Q, KL_OF_P_FROM_Q = [HALF, QUARTER, QUARTER], [QUARTER, HALF, QUARTER], 0.25 * np.log(2)


def test_the_divergence_of_known_distributions() -> None:
    reference, output = np.array([P, P, P, P]), np.array([Q, P, P, P])
    figures = logits_figures(output, reference, reference)
    assert figures["kl_max"] == pytest.approx(KL_OF_P_FROM_Q, rel=1e-6)
    assert figures["kl_mean"] == pytest.approx(KL_OF_P_FROM_Q / 4, rel=1e-6)
    assert (figures["top1_n"], figures["top1_flips"], figures["top1_agreement"]) == (4, 1, 0.75)
    assert figures["top1_largest_loss"] == pytest.approx(np.log(2))


def test_the_divergence_is_of_the_reference_from_ours() -> None:
    """It is not symmetric: p = (9/10, 1/10) from (1/2, 1/2) is 0.368 nats, the other way 0.511."""
    sure, even = np.log([[0.9, 0.1]] * 2), np.log([[0.5, 0.5]] * 2)
    assert logits_figures(even, sure, sure)["kl_mean"] == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2), rel=1e-5)
    assert logits_figures(sure, even, even)["kl_mean"] == pytest.approx(
        -0.5 * np.log(0.9 * 2) - 0.5 * np.log(0.1 * 2), rel=1e-5
    )


def test_a_shift_of_all_logits_is_the_same_distribution_and_huge_ones_do_not_overflow() -> None:
    reference = RNG.normal(size=(20, 50))
    shifted = logits_figures(reference + 3, reference, reference)
    assert shifted["kl_max"] == pytest.approx(0, abs=1e-9)
    assert shifted["top1_flips"] == 0
    assert shifted["max_abs_error"] == pytest.approx(3, rel=1e-5)
    far = logits_figures(1e4 * (reference + 1), 1e4 * reference, 1e4 * reference)
    assert np.isfinite([far["kl_mean"], far["kl_max"]]).all()


@pytest.mark.parametrize(("margin", "near"), [(1.5e-3, 1), (2.5e-3, 0)])
def test_a_flip_that_eager_itself_may_make_is_a_near_tie(margin: float, near: int) -> None:
    """Eager errs by 1e-3 there, up for one and down for the other: a margin of twice that may turn over."""
    reference = np.tile(np.linspace(0, 9, 30), (20, 1))
    reference[4, 11] = reference[4, 29] - margin
    eager, output = reference.copy(), reference.copy()
    eager[4, 2] += 1e-3
    output[4, 11] += 2 * margin
    figures = logits_figures(output, reference, eager)
    assert (figures["top1_flips"], figures["top1_near_ties"]) == (1, near)
    assert figures["top1_largest_loss"] == pytest.approx(margin, rel=1e-3)
    assert figures["top1_n"] == 20


def test_eagers_error_elsewhere_makes_no_near_tie_here() -> None:
    reference = np.tile(np.linspace(0, 9, 30), (20, 1))
    eager, output = reference.copy(), reference.copy()
    eager[5] += 1.0
    output[4, 28] += 1
    figures = logits_figures(output, reference, eager)
    assert (figures["top1_flips"], figures["top1_near_ties"]) == (1, 0)


def test_the_overlap_of_the_first_few_is_of_sets() -> None:
    reference = np.tile(np.arange(10.0), (4, 1))
    output = reference.copy()
    output[:, [8, 9]] = output[:, [9, 8]]  # order within the set is top-1's business
    assert logits_figures(output, reference, reference)["top_k_overlap"] == 1
    output[0, 0] = 100.0  # one of five is another, at one of four positions
    figures = logits_figures(output, reference, reference)
    assert figures["top_k"] == TOP_K == 5
    assert figures["top_k_overlap"] == pytest.approx(1 - 1 / 5 / 4)


def test_only_logits_are_taken_for_distributions() -> None:
    assert "kl_mean" in wide_figures(like_eager(), name="logits")
    assert "kl_mean" not in wide_figures(like_eager(), name="last_hidden_state")


# The verdict on given figures.

#: Of a language model at a precision that may lose something; the error is not like eager's.
LOSSY = {
    "output": "logits", "compared": 1000, "nonfinite": 0, "reference_nonfinite": 0, "identical_to_eager": False,
    "tokens": 1000, "eager_nonfinite": 0, "rmse": 0.01, "rmse_of_worst_token": 0.012, "rmse_eager": 0.001, "rmse_ratio": 10.0, "token_ratio": 12.0, "worst_token": [0, 3], "unit_ratio": 11.0,
    "worst_unit": 5, "rms_reference": 1.0, "out_of_tolerance": 0.5, "max_abs_error": 0.1, "kl_mean": 1e-4,
    "top1_n": 1000, "top1_flips": 0, "top1_near_ties": 0,
}  # fmt: skip
FP16 = TOLERANCES["fp16"]


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({}, "lossy", "within the budget"),
        ({"rmse": 0.019}, "lossy", ""),
        ({"rmse": 0.021}, "broken", r"RMSE is 2\.10% of the reference's RMS, allowed are 2\.00%"),
        ({"rms_reference": 0.0}, "broken", "RMSE is inf%"),
        ({"kl_mean": 0.99e-3}, "lossy", ""),
        ({"kl_mean": 1.01e-3}, "broken", r"mean KL is 1\.0e-03, allowed are 0\.001"),
        ({"top1_flips": 10}, "lossy", ""),
        ({"top1_flips": 100}, "broken", r"top-1 agreement beside near-ties is 90\.00% of 1000, wanted are 99\.00%"),
        ({"top1_flips": 100, "top1_near_ties": 90}, "lossy", ""),
        ({"top1_flips": 100, "top1_near_ties": 60}, "broken", r"96\.00% of 1000"),
        ({"out_of_tolerance": 0.0, "kl_mean": 9.0}, "equivalent", "every error is within"),
        ({"rmse_ratio": 2.9, "token_ratio": 5.9, "unit_ratio": 5.9, "kl_mean": 9.0}, "equivalent", "3 times eager's"),
        ({"rmse_ratio": 2.9, "token_ratio": 9.1, "unit_ratio": 1.0}, "lossy", "row 0, position 3 is 9.1"),
        ({"rmse_ratio": 2.9, "token_ratio": 1.0, "unit_ratio": 9.1}, "lossy", "of unit 5 is 9.1"),
        ({"rmse_ratio": 3.1, "token_ratio": 1.0, "unit_ratio": None}, "lossy", "of 1.0e-02 is 3.1"),
        ({"identical_to_eager": True}, "exact", "bit for bit"),
        ({"identical_to_eager": True, "nonfinite": 1}, "broken", "1 values are NaN"),
    ],
)  # fmt: skip
def test_the_verdict_on_given_figures(changes: dict[str, Any], expected: str, words: str) -> None:
    outcome, reason = verdict(LOSSY | changes, FP16)
    assert outcome == expected
    assert re.search(words, reason)


@pytest.mark.parametrize(
    ("count", "flips", "expected"),
    [(1, 1, "lossy"), (6, 1, "lossy"), (6, 2, "broken"), (100, 4, "lossy"), (100, 5, "broken"), (1000, 18, "lossy"),
     (1000, 19, "broken")],
)  # fmt: skip
def test_flips_that_chance_explains_are_no_evidence(count: int, flips: int, expected: str) -> None:
    """Of 6 positions that agree at 99 % each, one flips in 6 % of cases; two in 0.15 %, below the 1 % that is chance."""
    assert verdict(LOSSY | {"top1_n": count, "top1_flips": flips}, FP16)[0] == expected


@pytest.mark.parametrize(
    ("overrides", "changes", "expected"),
    [
        ({"max_kl": 1e-5}, {}, "broken"),
        ({"max_kl": 1.0}, {"kl_mean": 0.5}, "lossy"),
        ({"min_top1": 1.0}, {"top1_flips": 1}, "broken"),
        ({"min_top1": 0.5}, {"top1_flips": 499}, "lossy"),
        ({"min_top1": 0.5}, {"top1_flips": 600}, "broken"),
        ({"min_top1": 0.0}, {"top1_flips": 1000}, "lossy"),
    ],
)
def test_the_users_own_budgets_take_the_place_of_ours(overrides: dict, changes: dict, expected: str) -> None:
    assert verdict(LOSSY | changes, replace(FP16, **overrides))[0] == expected


def test_a_budget_of_the_users_lets_fp32_lose_what_it_names() -> None:
    assert verdict(LOSSY, FP32)[0] == "broken"
    assert verdict(LOSSY, replace(FP32, max_kl=1e-3))[0] == "lossy"
    assert verdict(LOSSY, replace(FP32, max_kl=1e-5))[0] == "broken"


@pytest.mark.parametrize("option", ["atol", "rtol"])
def test_the_users_own_tolerance_is_equivalent_up_to_itself(option: str) -> None:
    output = (np.ones_like(WIDE) + 5e-3).astype(np.float32)
    for value, expected in ((4e-3, "broken"), (6e-3, "equivalent")):
        tolerance = replace(FP32, **{option: value})
        figures = compare(
            {"y": output}, {"y": np.ones_like(WIDE)}, {"y": np.ones_like(output) + np.float32(1e-6)}, WIDE_MASK, "fp32",
            tolerance.atol, tolerance.rtol,
        )  # fmt: skip
        assert judge(figures, tolerance)["verdict"] == expected


def test_the_share_of_the_limit_is_the_nearest_of_the_three_ratios() -> None:
    ratios = {"rmse_ratio": 1.0, "token_ratio": 2.0, "unit_ratio": 3.0}
    assert share_of_limit(LOSSY | ratios, FP32) == 3.0 / (LOCAL_FACTOR * 2)
    assert share_of_limit(LOSSY | ratios | {"rmse_ratio": 1.8}, FP32) == 0.9
    assert share_of_limit(LOSSY | ratios | {"unit_ratio": None}, FP32) == 0.5
    assert share_of_limit({"mismatch": "outputs are none", "compared": 0}, FP32) is None


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_larger_error_never_gets_a_better_verdict(precision: str) -> None:
    tolerance, dtype = TOLERANCES[precision], np.float16 if precision == "fp16" else np.float32
    direction = np.random.default_rng(4).normal(size=WIDE.shape)
    eager = (WIDE + 1e-3 * RNG.normal(size=WIDE.shape)).astype(dtype)
    seen = []
    for size in np.geomspace(1e-7, 10, 33):
        figures = compare(
            {"logits": (WIDE + size * direction).astype(dtype)}, {"logits": WIDE}, {"logits": eager}, WIDE_MASK,
            precision, tolerance.atol, tolerance.rtol,
        )  # fmt: skip
        seen.append(OUTCOMES.index(judge(figures, tolerance)["verdict"]))
    assert seen == sorted(seen)
    assert (OUTCOMES[seen[0]], OUTCOMES[seen[-1]]) == ("equivalent", "broken")
    assert ("lossy" in {OUTCOMES[place] for place in seen}) == tolerance.has_budget


def test_the_worst_case_counts() -> None:
    good, bad = figures_of(EAGER), figures_of(EAGER + np.float32(1))
    parity = worst_case({"timed": [good], "padded": [bad]}, FP32)
    assert (parity["verdict"], parity["case"]) == ("broken", "padded")
    assert list(parity["cases"]) == ["padded", "timed"]
    assert parity["cases"]["timed"]["verdict"] == "exact"
    assert parity["max_abs_error"] == pytest.approx(1, rel=1e-3)


def test_what_is_worse_comes_first() -> None:
    """By verdict, then by how far the error is off eager's, then by its size; what has no figures is worst of its kind."""
    ordered = [
        {"verdict": "exact", "share_of_limit": 0.5, "max_abs_error": 9.0},
        {"verdict": "equivalent", "share_of_limit": 0.2, "max_abs_error": 1e-6},
        {"verdict": "equivalent", "share_of_limit": 0.2, "max_abs_error": 2e-6},
        {"verdict": "equivalent", "share_of_limit": 0.9, "max_abs_error": 1e-9},
        {"verdict": "lossy", "share_of_limit": 1.5, "max_abs_error": 1e-9},
        {"verdict": "unjudged", "reason": "timeout"},
        {"verdict": "broken", "share_of_limit": 1.1, "max_abs_error": 1e-9},
        {"verdict": "broken", "share_of_limit": None, "max_abs_error": None},
    ]
    shuffled = [ordered[place] for place in (3, 7, 0, 5, 2, 6, 4, 1)]
    assert sorted(shuffled, key=badness) == ordered


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_eager_that_overflows_explains_no_error(value: float) -> None:
    eager = REFERENCE.astype(np.float16)
    eager[0, 0, 0] = value
    noise = np.random.default_rng(3).normal(size=REFERENCE.shape).astype(np.float16)
    entry = judge([figures_of(noise, "fp16", eager)], FP16)
    assert entry["verdict"] == "broken"
    assert "eager has 1 NaN or infinite values itself" in entry["reason"]
    json.dumps(entry, allow_nan=False)
    sound = judge([figures_of(REFERENCE.astype(np.float16), "fp16", eager)], FP16)
    assert sound["verdict"] == "equivalent"  # within two units in the last place of the reference itself


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_one_token_of_noise_among_many_is_broken_within_any_budget(precision: str) -> None:
    rng = np.random.default_rng(5)
    reference = rng.normal(size=(1, 2048, 32))
    eager = (reference * (1 + 2e-3 * rng.normal(size=reference.shape))).astype(np.float32)
    output = eager + np.float32(1e-7)
    output[0, 700] = rng.normal(size=32)
    tolerance = TOLERANCES[precision]
    mask = np.ones((1, 2048), dtype=np.int64)
    found = compare({"y": output}, {"y": reference}, {"y": eager}, mask, precision, tolerance.atol, tolerance.rtol)
    entry = judge(found, tolerance)
    assert entry["rmse"] < tolerance.max_rms_share * entry["rms_reference"]  # lost in the overall figure
    assert entry["verdict"] == "broken"
    assert "RMSE of the worst token" in entry["reason"]


def test_thousands_of_flips_are_counted_without_overflow() -> None:
    assert verdict(LOSSY | {"top1_n": 150_000, "top1_flips": 140_000}, FP16)[0] == "broken"
    assert verdict(LOSSY | {"top1_n": 150_000, "top1_flips": 1_400}, FP16)[0] == "lossy"


def test_a_flip_to_a_token_far_below_is_no_near_tie() -> None:
    """The first two are tied, and the third is taken."""
    reference = np.zeros((20, 30))
    reference[:, 0], reference[:, 1] = 5.0, 5.0 - 1e-9
    output = reference.copy()
    output[:, 2] = 6.0
    assert logits_figures(output, reference, reference + 1e-6)["top1_near_ties"] == 0


def test_a_few_tokens_are_held_to_the_limit_of_single_ones() -> None:
    """Over one token the overall RMSE is that of a token: sound exports came to 2.5 times eager's there."""
    few = LOSSY | {"rmse_ratio": 2.5, "token_ratio": 2.5, "unit_ratio": None, "identical_to_eager": False}
    assert verdict(few | {"tokens": 1}, FP32)[0] == "equivalent"
    assert verdict(few | {"tokens": 200}, FP32)[0] == "broken"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_nothing_at_all_is_not_equivalent_however_small_the_outputs_are(precision: str) -> None:
    """A tolerance that knows nothing of the outputs' scale would let zeros pass."""
    rng = np.random.default_rng(6)
    reference = 4e-3 * rng.normal(size=(1, 64, 32))
    eager = (reference * (1 + 1e-4 * rng.normal(size=reference.shape))).astype(np.float32)
    zeros = np.zeros_like(eager, dtype=np.float16 if precision == "fp16" else np.float32)
    tolerance = TOLERANCES[precision]
    mask = np.ones((1, 64), dtype=np.int64)
    found = compare({"y": zeros}, {"y": reference}, {"y": eager}, mask, precision, tolerance.atol, tolerance.rtol)
    assert judge(found, tolerance)["verdict"] == "broken"
    assert found[0]["min_cosine"] == 0
