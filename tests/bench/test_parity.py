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
    with_loss,
    worst_case,
)

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(size=(2, 6, 8))
EAGER = REFERENCE.astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
FP32, FP16 = TOLERANCES["fp32"], TOLERANCES["fp16"]

#: A larger output with an error of eager's that float32's rounding does not disturb.
WIDE = RNG.normal(size=(2, 40, 64))
NOISE = 1e-5
WIDE_EAGER = (WIDE + NOISE * RNG.normal(size=WIDE.shape)).astype(np.float32)


def dtype_of(precision: str) -> type[np.floating[Any]]:
    return np.float16 if precision == "fp16" else np.float32


def figures_of(
    output: np.ndarray, precision: str = "fp32", eager: np.ndarray = EAGER, reference: np.ndarray = REFERENCE,
    mask: np.ndarray | None = None, tolerance: Tolerance | None = None, name: str = "y",
) -> dict[str, Any]:  # fmt: skip
    """Figures of one output in the precision's type; nothing is masked except in `REFERENCE`."""
    kept = mask if mask is not None else MASK if reference.shape == REFERENCE.shape else np.ones(reference.shape[:2])
    allowed = tolerance or TOLERANCES[precision]
    outputs = {name: output.astype(dtype_of(precision))}
    (found,) = compare(
        outputs, {name: reference}, {name: eager}, kept.astype(np.int64), precision, allowed.atol, allowed.rtol
    )
    return found


def judged(output: np.ndarray, precision: str = "fp32", **arrays: Any) -> str:
    return verdict(figures_of(output, precision, **arrays), TOLERANCES[precision])[0]


def like_eager(seed: int = 1) -> np.ndarray:
    """An output with errors of its own that are drawn like eager's, in float64."""
    return WIDE + NOISE * np.random.default_rng(seed).normal(size=WIDE.shape)


def wide_figures(output: np.ndarray, eager: np.ndarray = WIDE_EAGER, **rest: Any) -> dict[str, Any]:
    return figures_of(output, eager=eager, reference=WIDE, **rest)


def changed(place: Any, value: float, by: str = "add") -> np.ndarray:
    """Eager's output with one place changed."""
    output = EAGER.copy()
    output[place] = {"add": output[place] + value, "times": output[place] * value, "set": value}[by]
    return output


# Figures.


def test_eager_against_itself_has_eagers_error() -> None:
    figures = figures_of(EAGER)
    assert (figures["compared"], figures["tokens"], figures["identical_to_eager"]) == (9 * 8, 9, True)
    assert figures["max_abs_error"] == pytest.approx(np.abs(EAGER - REFERENCE)[MASK == 1].max())
    assert figures["rmse_ratio"] == pytest.approx(1)


def test_a_difference_is_measured_and_placed() -> None:
    figures = figures_of(changed((1, 2, 5), 0.25))
    assert (figures["max_abs_at"], figures["worst_token"]) == ([1, 2, 5], [1, 2])
    expected = {
        "max_abs_error": 0.25, "rmse": 0.25 / np.sqrt(72), "mean_abs_error": 0.25 / 72,
        "p99_abs_error": np.quantile(np.r_[np.zeros(71), 0.25], 0.99), "out_of_tolerance": 1 / 72,
        "rms_reference": np.sqrt((REFERENCE[MASK == 1] ** 2).mean()),
    }  # fmt: skip
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert figures_of(changed((0, 3), -1, "times"))["min_cosine"] == pytest.approx(-1, abs=1e-6)  # per token


def test_a_relative_difference_is_against_a_floor_where_the_reference_is_small() -> None:
    """Without the floor, a difference of 1e-6 at a reference of 1e-12 would be a million times too large."""
    reference = np.full((1, 4, 2), 10.0)
    reference[0, 1, 0] = 1e-12
    output = reference.copy()
    output[0, 1, 0] += 1e-6
    figures = figures_of(output, eager=reference.astype(np.float32), reference=reference)
    assert figures["max_rel_error"] == pytest.approx(1e-6 / (1e-3 * 10), rel=1e-3)


def test_masked_positions_are_reported_apart() -> None:
    assert figures_of(changed((1, 4), 1e6, "set"))["masked_max_abs_error"] > 1e5
    assert figures_of(changed((1, 5), np.nan, "set"))["masked_max_abs_error"] is None


def test_units_are_not_judged_over_a_handful_of_tokens() -> None:
    """The spread of one unit over few tokens is that of single numbers."""
    few = np.zeros(WIDE.shape[:2])
    few[0, : LEAST_TOKENS - 1] = 1
    for mask, is_judged in ((few, False), (None, True)):
        figures = wide_figures(like_eager(), mask=mask)
        assert [figures[name] is not None for name in ("unit_ratio", "worst_unit")] == [is_judged] * 2


# Verdicts on arrays.


@pytest.mark.parametrize(
    ("output", "precision", "expected"),
    [
        (EAGER, "fp32", "exact"),
        (changed((1, 2, 5), 0.25), "fp32", "broken"),
        (np.nextafter((2 * REFERENCE - EAGER).astype(np.float32), np.float32(10)), "fp32", "equivalent"),
        (REFERENCE + 5e-5, "fp32", "broken"),  # small against many a tolerance, 10,000 times what float32 explains
        (EAGER[::-1], "fp32", "broken"),
        (changed((1, 4), 1e6, "set"), "fp32", "exact"),
        (changed((1, 5), np.nan, "set"), "fp32", "exact"),
        (REFERENCE * 1.0001, "fp32", "broken"),
        (REFERENCE * 1.0001, "bf16", "equivalent"),
        *((changed((0, 0, 0), value, "set"), p, "broken") for p in TOLERANCES for value in (np.nan, np.inf, -np.inf)),
        *(
            (REFERENCE * (1 + share * float(TOLERANCES[p].max_rms_share or 0)), p, expected)
            for p in ("fp16", "bf16", "int8")
            for share, expected in ((0.95, "lossy"), (1.05, "broken"))
        ),
    ],
)
def test_what_an_output_is_called(output: np.ndarray, precision: str, expected: str) -> None:
    assert judged(output, precision) == expected


def test_a_backend_as_good_as_eager_is_never_called_broken() -> None:
    """A/A: other errors of the same size; the local ratios must leave room for the worst of many places."""
    for seed in range(20):
        figures = wide_figures(like_eager(seed + 100))
        assert verdict(figures, FP32)[0] == "equivalent"
        assert figures["rmse_ratio"] == pytest.approx(1, rel=0.1)


def test_within_tolerance_is_equivalent_though_eager_is_better() -> None:
    """Two units in the last place are no other model, where eager happens to be right to a tenth of one."""
    figures = figures_of(np.nextafter((REFERENCE + 1e-9).astype(np.float32), np.float32(9)))
    figures |= {"rmse_ratio": 5.0, "tokens": 100}
    assert verdict(figures, FP32)[0] == "equivalent"
    assert verdict(figures | {"out_of_tolerance": 1 / 72}, FP32)[0] == "broken"


@pytest.mark.parametrize(
    ("place", "ratio", "at", "name", "told"),
    [
        ((..., 7), 1 + 64 / 64, "worst_unit", "unit_ratio", "of unit 7"),
        ((1, 33), 1 + 64 / 80, "worst_token", "token_ratio", "at row 1, position 33"),
    ],
)
def test_a_fault_in_one_place_is_seen_though_it_is_lost_in_the_whole(
    place: Any, ratio: float, at: str, name: str, told: str
) -> None:
    output = like_eager()
    output[place] += 8 * NOISE
    figures = wide_figures(output)
    assert figures["rmse_ratio"] == pytest.approx(np.sqrt(ratio), rel=0.05)
    assert figures["rmse_ratio"] < FP32.eager_factor
    assert (figures[at], figures[name]) == (7 if at == "worst_unit" else [1, 33], pytest.approx(np.sqrt(65), rel=0.2))
    assert verdict(figures, FP32) == (
        "broken", f"RMSE {told} is {figures[name]:.3g} times eager's; allowed are 6",
    )  # fmt: skip


def test_the_worst_token_is_where_eager_does_not_err_alike() -> None:
    """Eager errs ten times more at one token: the same error there is its own, and at another token it is a fault."""
    eager = WIDE + NOISE * RNG.normal(size=WIDE.shape)
    eager[0, 3] = WIDE[0, 3] + 100 * NOISE * RNG.normal(size=64)
    output = like_eager()
    output[0, 3] = WIDE[0, 3] + 100 * NOISE * RNG.normal(size=64)
    assert verdict(wide_figures(output, eager.astype(np.float32)), FP32)[0] == "equivalent"
    output[0, 3], output[0, 4] = like_eager()[0, 3], output[0, 3] - WIDE[0, 3] + WIDE[0, 4]
    other = wide_figures(output, eager.astype(np.float32))
    assert (other["worst_token"], verdict(other, FP32)[0]) == ([0, 4], "broken")


def test_a_broken_output_beside_a_larger_sound_one_is_broken() -> None:
    """Flattened together, errors of 1e-3 in the small output vanish beside magnitudes of 1000 in the large one."""
    noise, sound = (1e-4 * np.random.default_rng(seed).normal(size=WIDE.shape) for seed in (8, 9))
    scales = {"large": (1000.0, 1.0), "small": (1e-2, 10.0)}
    reference = {name: scale * WIDE for name, (scale, _) in scales.items()}
    eager = {name: (scale * (WIDE + noise)).astype(np.float32) for name, (scale, _) in scales.items()}
    outputs = {name: (scale * (WIDE + off * sound)).astype(np.float32) for name, (scale, off) in scales.items()}
    figures = compare(outputs, reference, eager, np.ones(WIDE.shape[:2]), "fp32", FP32.atol, FP32.rtol)
    assert [(one["output"], verdict(one, FP32)[0]) for one in figures] == [
        ("large", "equivalent"), ("small", "broken"),
    ]  # fmt: skip
    found = judge(figures, FP32)
    assert (found["verdict"], found["output"]) == ("broken", "small")
    assert found["rmse_ratio"] == pytest.approx(10, rel=0.05)
    assert figures[0]["rmse"] > 100 * figures[1]["rmse"]


def test_outputs_under_each_others_names_are_broken() -> None:
    reference = {"one": REFERENCE, "two": REFERENCE + 1}
    eager = {name: array.astype(np.float32) for name, array in reference.items()}
    for outputs, expected in (({"one": eager["two"], "two": eager["one"]}, "broken"), (eager, "exact")):
        assert judge(compare(outputs, reference, eager, MASK, "fp32", 0, 0), FP32)["verdict"] == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_proves_nothing(value: float) -> None:
    assert figures_of(changed((0, 0, 0), value, "set"))["nonfinite"] == 1
    reference = REFERENCE.copy()
    reference[0, 1, 2] = value
    found = judge([figures_of(reference, eager=reference.astype(np.float32), reference=reference)], FP32)
    assert found["verdict"] == "broken"
    assert "float64 reference itself has 1 NaN or infinite" in found["reason"]
    eager = REFERENCE.astype(np.float16)
    eager[0, 0, 0] = value
    noise = np.random.default_rng(3).normal(size=REFERENCE.shape)
    found = judge([figures_of(noise, "fp16", eager)], FP16)
    assert found["verdict"] == "broken"
    assert "eager has 1 NaN or infinite values itself" in found["reason"]
    json.dumps(found, allow_nan=False)
    assert judged(REFERENCE, "fp16", eager=eager) == "equivalent"  # within two units in the last place of the reference


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
    found = judge(compare(outputs, {"y": REFERENCE}, {"y": EAGER}, MASK, "fp32", 1e-4, 1e-4), FP32)
    assert (found["verdict"], found["compared"], found["share_of_limit"]) == ("broken", 0, None)
    assert re.search(message, found["reason"])


def test_nothing_compared_is_broken() -> None:
    assert verdict(figures_of(EAGER, mask=np.zeros_like(MASK)), FP32) == ("broken", "nothing could be compared")
    for found in (judge([], FP32), worst_case({}, FP32), worst_case({"timed": []}, FP32)):
        assert found["verdict"] == "broken"


def test_where_eager_makes_no_error_none_is_explained() -> None:
    """Integers are exact in float32; the tolerance of two last places is all that is left."""
    whole = np.arange(96.0).reshape(2, 6, 8)
    eager = whole.astype(np.float32)
    for step, expected in ((0, "exact"), (1, "equivalent"), (5, "broken")):
        output = eager.copy()
        for _ in range(step):
            output[1, 2] = np.nextafter(output[1, 2], np.float32(1e9))
        found = judge([figures_of(output, eager=eager, reference=whole)], FP32)
        assert found["verdict"] == expected
        assert found["rmse_ratio"] is found["share_of_limit"] is None
    assert "where eager's is 0" in found["reason"]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_one_token_of_noise_among_many_is_broken_within_any_budget(precision: str) -> None:
    rng = np.random.default_rng(5)
    reference = rng.normal(size=(1, 2048, 32))
    eager = (reference * (1 + 2e-3 * rng.normal(size=reference.shape))).astype(np.float32)
    output = eager + np.float32(1e-7)
    output[0, 700] = rng.normal(size=32)
    entry = judge([figures_of(output, precision, eager, reference)], TOLERANCES[precision])
    assert entry["rmse"] < TOLERANCES[precision].max_rms_share * entry["rms_reference"]  # lost in the overall figure
    assert entry["verdict"] == "broken"
    assert "RMSE of the worst token" in entry["reason"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_nothing_at_all_is_not_equivalent_however_small_the_outputs_are(precision: str) -> None:
    """A tolerance that knows nothing of the outputs' scale would let zeros pass."""
    rng = np.random.default_rng(6)
    reference = 4e-3 * rng.normal(size=(1, 64, 32))
    eager = (reference * (1 + 1e-4 * rng.normal(size=reference.shape))).astype(np.float32)
    figures = figures_of(np.zeros_like(reference), precision, eager, reference)
    assert (verdict(figures, TOLERANCES[precision])[0], figures["min_cosine"]) == ("broken", 0)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_larger_error_never_gets_a_better_verdict(precision: str) -> None:
    direction = np.random.default_rng(4).normal(size=WIDE.shape)
    eager = (WIDE + 1e-3 * RNG.normal(size=WIDE.shape)).astype(dtype_of(precision))
    sizes = np.geomspace(1e-7, 10, 33)
    seen = [
        judged(WIDE + size * direction, precision, eager=eager, reference=WIDE, name="logits") for size in sizes
    ]  # fmt: skip
    assert seen == sorted(seen, key=OUTCOMES.index)
    assert (seen[0], seen[-1]) == ("equivalent", "broken")
    assert ("lossy" in seen) == TOLERANCES[precision].has_budget


@pytest.mark.parametrize("option", ["atol", "rtol"])
def test_the_users_own_tolerance_is_equivalent_up_to_itself(option: str) -> None:
    ones = np.ones_like(WIDE)
    for value, expected in ((4e-3, "broken"), (6e-3, "equivalent")):
        own = replace(FP32, **{option: value})
        figures = figures_of(
            ones + 5e-3, eager=(ones + 1e-6).astype(np.float32), reference=ones, tolerance=own
        )  # fmt: skip
        assert verdict(figures, own)[0] == expected


# Distributions over a vocabulary.


def logits_figures(output: np.ndarray, reference: np.ndarray, eager: np.ndarray | None = None) -> dict[str, Any]:
    """Figures of logits [tokens, vocabulary], as a batch of one row; without `eager` it makes no error."""
    eager = reference if eager is None else eager
    return figures_of(output[None], eager=eager[None].astype(np.float32), reference=reference[None], name="logits")


def test_the_divergence_of_known_distributions() -> None:
    """KL(p ‖ q) of p = (1/2, 1/4, 1/4) from q = (1/4, 1/2, 1/4) is 1/2 · ln 2 − 1/4 · ln 2; it is not symmetric."""
    p, q = np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.5, 0.25])
    figures = logits_figures(np.array([q, p, p, p]), np.array([p, p, p, p]))
    assert figures["kl_max"] == pytest.approx(0.25 * np.log(2), rel=1e-6)
    assert figures["kl_mean"] == pytest.approx(0.25 * np.log(2) / 4, rel=1e-6)
    assert (figures["top1_n"], figures["top1_flips"], figures["top1_agreement"]) == (4, 1, 0.75)
    assert figures["top1_largest_loss"] == pytest.approx(np.log(2))
    sure, even = np.log([[0.9, 0.1]] * 2), np.log([[0.5, 0.5]] * 2)
    for output, reference, expected in (
        (even, sure, 0.9 * np.log(1.8) + 0.1 * np.log(0.2)),
        (sure, even, -0.5 * np.log(0.9 * 2) - 0.5 * np.log(0.1 * 2)),
    ):
        assert logits_figures(output, reference)["kl_mean"] == pytest.approx(expected, rel=1e-5)


def test_a_shift_of_all_logits_is_the_same_distribution_and_huge_ones_do_not_overflow() -> None:
    reference = RNG.normal(size=(20, 50))
    shifted = logits_figures(reference + 3, reference)
    assert (shifted["kl_max"], shifted["top1_flips"]) == (pytest.approx(0, abs=1e-9), 0)
    assert shifted["max_abs_error"] == pytest.approx(3, rel=1e-5)
    far = logits_figures(1e4 * (reference + 1), 1e4 * reference)
    assert np.isfinite([far["kl_mean"], far["kl_max"]]).all()


@pytest.mark.parametrize(
    ("row", "off", "margin", "near"), [(4, 1e-3, 1.5e-3, 1), (4, 1e-3, 2.5e-3, 0), (5, 1.0, 1.5e-3, 0)]
)
def test_a_flip_that_eager_itself_may_make_is_a_near_tie(row: int, off: float, margin: float, near: int) -> None:
    """Eager errs by 1e-3 there, up for one and down for the other: a margin of twice that may turn over."""
    reference = np.tile(np.linspace(0, 9, 30), (20, 1))
    reference[4, 11] = reference[4, 29] - margin
    eager, output = reference.copy(), reference.copy()
    eager[row, 2] += off
    output[4, 11] += 2 * margin
    figures = logits_figures(output, reference, eager)
    assert (figures["top1_n"], figures["top1_flips"], figures["top1_near_ties"]) == (20, 1, near)
    assert figures["top1_largest_loss"] == pytest.approx(margin, rel=1e-3)


def test_a_flip_to_a_token_far_below_is_no_near_tie() -> None:
    """The first two are tied, and the third is taken."""
    reference = np.zeros((20, 30))
    reference[:, 0], reference[:, 1] = 5.0, 5.0 - 1e-9
    output = reference.copy()
    output[:, 2] = 6.0
    assert logits_figures(output, reference, reference + 1e-6)["top1_near_ties"] == 0


def test_the_overlap_of_the_first_few_is_of_sets() -> None:
    reference = np.tile(np.arange(10.0), (4, 1))
    output = reference.copy()
    output[:, [8, 9]] = output[:, [9, 8]]  # order within the set is top-1's business
    assert logits_figures(output, reference)["top_k_overlap"] == 1
    output[0, 0] = 100.0  # one of five is another, at one of four positions
    figures = logits_figures(output, reference)
    assert figures["top_k"] == TOP_K == 5
    assert figures["top_k_overlap"] == pytest.approx(1 - 1 / 5 / 4)


def test_only_logits_are_taken_for_distributions() -> None:
    for name in ("logits", "last_hidden_state"):
        assert ("kl_mean" in wide_figures(like_eager(), name=name)) == (name == "logits")


# The verdict on given figures.

#: Of a language model at a precision that may lose something; the error is not like eager's.
LOSSY = {
    "output": "logits", "compared": 1000, "nonfinite": 0, "reference_nonfinite": 0, "identical_to_eager": False,
    "tokens": 1000, "eager_nonfinite": 0, "rmse": 0.01, "rmse_of_worst_token": 0.012, "rmse_eager": 0.001,
    "rmse_ratio": 10.0, "token_ratio": 12.0, "worst_token": [0, 3], "unit_ratio": 11.0, "worst_unit": 5,
    "rms_reference": 1.0, "out_of_tolerance": 0.5, "max_abs_error": 0.1, "kl_mean": 1e-4, "top1_n": 1000,
    "top1_flips": 0, "top1_near_ties": 0,
}  # fmt: skip
#: Over one token the overall RMSE is that of a token: sound exports came to 2.5 times eager's there.
FEW = {"rmse_ratio": 2.5, "token_ratio": 2.5, "unit_ratio": None}


@pytest.mark.parametrize(
    ("tolerance", "changes", "expected", "words"),
    [
        (FP16, {}, "lossy", "within the budget"),
        (FP16, {"rmse": 0.019}, "lossy", ""),
        (FP16, {"rmse": 0.021}, "broken", r"RMSE is 2\.10% of the reference's RMS, allowed are 2\.00%"),
        (FP16, {"rms_reference": 0.0}, "broken", "RMSE is inf%"),
        (FP16, {"kl_mean": 0.99e-3}, "lossy", ""),
        (FP16, {"kl_mean": 1.01e-3}, "broken", r"mean KL is 1\.0e-03, allowed are 0\.001"),
        (FP16, {"top1_flips": 10}, "lossy", ""),
        (FP16, {"top1_flips": 100}, "broken", r"beside near-ties is 90\.00% of 1000, wanted are 99\.00%"),
        (FP16, {"top1_flips": 100, "top1_near_ties": 90}, "lossy", ""),
        (FP16, {"top1_flips": 100, "top1_near_ties": 60}, "broken", r"96\.00% of 1000"),
        (FP16, {"out_of_tolerance": 0.0, "kl_mean": 9.0}, "equivalent", "every error is within"),
        (FP16, {"rmse_ratio": 2.9, "token_ratio": 5.9, "unit_ratio": 5.9, "kl_mean": 9.0}, "equivalent", "3 times"),
        (FP16, {"rmse_ratio": 2.9, "token_ratio": 9.1, "unit_ratio": 1.0}, "lossy", "row 0, position 3 is 9.1"),
        (FP16, {"rmse_ratio": 2.9, "token_ratio": 1.0, "unit_ratio": 9.1}, "lossy", "of unit 5 is 9.1"),
        (FP16, {"rmse_ratio": 3.1, "token_ratio": 1.0, "unit_ratio": None}, "lossy", "of 1.0e-02 is 3.1"),
        (FP16, {"identical_to_eager": True}, "exact", "bit for bit"),
        (FP16, {"identical_to_eager": True, "nonfinite": 1}, "broken", "1 values are NaN"),
        # Of 6 positions that agree at 99 % each, one flips in 6 % of cases; two in 0.15 %, below the 1 % of chance.
        (FP16, {"top1_n": 1, "top1_flips": 1}, "lossy", ""),
        (FP16, {"top1_n": 6, "top1_flips": 1}, "lossy", ""),
        (FP16, {"top1_n": 6, "top1_flips": 2}, "broken", ""),
        (FP16, {"top1_n": 100, "top1_flips": 4}, "lossy", ""),
        (FP16, {"top1_n": 100, "top1_flips": 5}, "broken", ""),
        (FP16, {"top1_n": 1000, "top1_flips": 18}, "lossy", ""),
        (FP16, {"top1_n": 1000, "top1_flips": 19}, "broken", ""),
        (FP16, {"top1_n": 150_000, "top1_flips": 140_000}, "broken", ""),  # without overflow
        (FP16, {"top1_n": 150_000, "top1_flips": 1_400}, "lossy", ""),
        # The user's own budgets take the place of ours, and let fp32 lose what they name.
        (replace(FP16, max_kl=1e-5), {}, "broken", ""),
        (replace(FP16, max_kl=1.0), {"kl_mean": 0.5}, "lossy", ""),
        (replace(FP16, min_top1=1.0), {"top1_flips": 1}, "broken", ""),
        (replace(FP16, min_top1=0.5), {"top1_flips": 499}, "lossy", ""),
        (replace(FP16, min_top1=0.5), {"top1_flips": 600}, "broken", ""),
        (replace(FP16, min_top1=0.0), {"top1_flips": 1000}, "lossy", ""),
        (FP32, {}, "broken", ""),
        (replace(FP32, max_kl=1e-3), {}, "lossy", ""),
        (replace(FP32, max_kl=1e-5), {}, "broken", ""),
        (FP32, FEW | {"tokens": 1}, "equivalent", ""),
        (FP32, FEW | {"tokens": 200}, "broken", ""),
    ],
)
def test_the_verdict_on_given_figures(
    tolerance: Tolerance, changes: dict[str, Any], expected: str, words: str
) -> None:  # fmt: skip
    outcome, reason = verdict(LOSSY | changes, tolerance)
    assert outcome == expected
    assert re.search(words, reason)


def test_the_share_of_the_limit_is_the_nearest_of_the_three_ratios() -> None:
    ratios = {"rmse_ratio": 1.0, "token_ratio": 2.0, "unit_ratio": 3.0}
    for changes, expected in (({}, 3.0 / (LOCAL_FACTOR * 2)), ({"rmse_ratio": 1.8}, 0.9), ({"unit_ratio": None}, 0.5)):
        assert share_of_limit(LOSSY | ratios | changes, FP32) == expected
    assert share_of_limit({"mismatch": "outputs are none", "compared": 0}, FP32) is None


def test_the_worst_case_counts() -> None:
    parity = worst_case({"timed": [figures_of(EAGER)], "padded": [figures_of(EAGER + np.float32(1))]}, FP32)
    assert (parity["verdict"], parity["case"]) == ("broken", "padded")
    assert [(name, one["verdict"]) for name, one in parity["cases"].items()] == [
        ("padded", "broken"), ("timed", "exact"),
    ]  # fmt: skip
    assert parity["max_abs_error"] == pytest.approx(1, rel=1e-3)


def test_what_is_worse_comes_first() -> None:
    """By verdict, then by how far the error is off eager's, then by its size; without figures it is worst of its kind."""
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


def test_the_loss_is_the_largest_of_all_cases_and_outputs() -> None:
    """What the precision itself loses, whatever eager loses there."""
    small, large = (figures_of(REFERENCE * (1 + share), "bf16") for share in (1e-4, 1e-2))
    assert [round(one["loss"], 5) for one in (small, large)] == [1e-4, 1e-2]
    parity = worst_case({"timed": [large, small], "padded": [small]}, TOLERANCES["bf16"])
    assert parity["loss"] == parity["cases"]["timed"]["loss"] == large["loss"] > parity["cases"]["padded"]["loss"]


def test_a_loss_that_is_not_known_is_not_taken_for_none() -> None:
    """It must not pass `--max-loss`: outputs that are not finite, and errors where the reference is all 0."""
    nothing = figures_of(changed((0, 0, 0), np.nan, "set"))
    of_zeros = figures_of(EAGER, reference=np.zeros_like(REFERENCE), eager=np.zeros_like(EAGER))
    for unknown in (nothing, of_zeros):
        assert worst_case({"timed": [figures_of(EAGER)], "padded": [unknown]}, FP32)["loss"] is None
    zeros = np.zeros_like(REFERENCE)
    assert worst_case({"timed": [figures_of(zeros, eager=zeros, reference=zeros)]}, FP32)["loss"] == 0


def test_files_from_before_the_loss_have_it_from_their_figures() -> None:
    parity = worst_case({"timed": [figures_of(EAGER)], "padded": [figures_of(REFERENCE * 1.01, "bf16")]}, FP32)
    older = {name: value for name, value in parity.items() if name != "loss"}
    assert with_loss(older) == parity
    assert with_loss({"verdict": "unjudged"}) == {"verdict": "unjudged"}
    unknown = {**older, "cases": {**older["cases"], "more": {"verdict": "broken"}}}
    assert with_loss(unknown)["loss"] is None
