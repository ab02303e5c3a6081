"""The verdict on one cell's figures: `exact`, `equivalent`, `lossy` or `broken`. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERDICTS = ("exact", "equivalent", "lossy", "broken")


@dataclass(frozen=True)
class Tolerance:
    """What a precision may differ from the float64 reference by."""

    atol: float
    rtol: float
    eager_factor: float
    """Times eager's own error at the same precision."""
    lossy_budget: float | None
    """Largest RMSE over the reference's RMS that is still `lossy`; None where nothing may be lost."""


#: Starting values; fp32 exports of BERT, GPT and GPT-2 were seen at 2e-6 to 7e-6.
TOLERANCES = {
    "fp32": Tolerance(1e-4, 1e-4, 2.0, None),
    "fp16": Tolerance(2e-2, 1e-2, 3.0, 0.02),
    "bf16": Tolerance(1e-1, 5e-2, 3.0, 0.05),
    "int8": Tolerance(0.0, 0.0, 1.0, 0.3),
}


def verdict(figures: Mapping[str, Any], precision: str) -> tuple[str, str]:
    """One of `VERDICTS` and the reason for it, from what `metrics.compare` measured."""
    tolerance = TOLERANCES[precision]
    if figures.get("mismatch"):
        return "broken", str(figures["mismatch"])
    if figures["reference_nonfinite"]:
        return "broken", f"the float64 reference itself has {figures['reference_nonfinite']} NaN or infinite values"
    if figures["nonfinite"]:
        return "broken", f"{figures['nonfinite']} values are NaN or infinite where the reference is finite"
    if not figures["compared"]:
        return "broken", "nothing could be compared"
    if figures["identical_to_eager"]:
        return "exact", "bit for bit eager's"
    rmse, eager = figures["rmse"], figures["rmse_eager"]
    if rmse <= tolerance.eager_factor * eager:
        return "equivalent", f"RMSE {rmse:.1e} is within {tolerance.eager_factor:g} times eager's {eager:.1e}"
    if not figures["out_of_tolerance"]:
        return "equivalent", f"within {tolerance.atol:g} + {tolerance.rtol:g}·|reference| everywhere"
    share = rmse / figures["rms_reference"] if figures["rms_reference"] else float("inf")
    worst = f"RMSE is {share:.1%} of the reference's RMS; largest difference {figures['max_abs_error']:.1e}"
    if tolerance.lossy_budget is not None and share <= tolerance.lossy_budget:
        return "lossy", f"{worst}; the budget of {precision} is {tolerance.lossy_budget:.0%}"
    return "broken", f"{worst}, outside every tolerance of {precision}"


def worst_case(cases: Mapping[str, Mapping[str, Any]], precision: str) -> dict[str, Any]:
    """The record's `parity`: verdict and figures of the worst case, and each case's own beside them."""
    judged = {name: (*verdict(figures, precision), figures) for name, figures in cases.items()}
    if not judged:
        return {"verdict": "broken", "reason": "nothing was compared", "cases": {}}

    def badness(name: str) -> tuple[int, float]:
        outcome, _, figures = judged[name]
        return VERDICTS.index(outcome), figures.get("max_abs_error") or 0.0

    worst = max(judged, key=badness)
    outcome, reason, figures = judged[worst]
    return {
        "verdict": outcome,
        "reason": reason,
        "case": worst,
        **figures,
        "cases": {name: {"verdict": entry[0], "reason": entry[1], **entry[2]} for name, entry in judged.items()},
    }
