"""The verdict on one case's figures: `original`, `exact`, `equivalent`, `lossy` or `broken`. Pure functions.

The factors and budgets are measured: docs/parity.md, benchmarks/parity_budgets.py and benchmarks/planted_faults.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.parity.metrics import LEAST_TOKENS
from bench.spec import Candidate

#: From best to worst; `unjudged` is what could not be compared.
OUTCOMES = ("original", "exact", "equivalent", "lossy", "unjudged", "broken")
#: The error at one token or unit may be this many times further off eager's than the error overall.
LOCAL_FACTOR = 3.0
#: Coarser rounding and nothing else: an error overall of at most this many times eager's,
COARSER_FACTOR = 4.0
#: an RMSE of at most this many units of rounding, as a share of the reference's RMS,
COARSER_UNITS = 32.0
#: and spread evenly: the RMSE of the worst token, and of the worst unit, at most these multiples of the RMSE overall.
COARSER_TOKEN, COARSER_UNIT = 1.5, 2.0
#: Probability below which flips of the most likely token are not put down to chance.
CHANCE = 0.01


@dataclass(frozen=True)
class Tolerance:
    """What a precision may differ from the float64 reference by."""

    eager_factor: float
    """Times eager's own RMSE at the same precision, over `LEAST_TOKENS` or more; `LOCAL_FACTOR` times that at one token
    or unit, and over fewer tokens."""
    atol: float
    rtol: float
    """Absolute difference, and one relative to the reference or its RMS, that are equivalent whatever eager's is:
    two units in the last place."""
    has_original: bool = False
    """True if eager at the precision is the original, so that outputs that are bit-identical to its own are `exact`."""
    rounding: float | None = None
    """Unit of rounding, half the distance of 1 to the next number (Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, 2.1); None if errors are not of rounding alone."""
    max_rms_share: float | None = None
    """Largest RMSE over the reference's RMS that is still `lossy`, and `LOCAL_FACTOR` times that at one token; None
    where that may not be lost."""
    max_kl: float | None = None
    """Largest mean KL divergence of a language model's distributions, in nats, that is still `lossy`."""
    min_top1: float | None = None
    """Least share of positions whose most likely token is the same or a near-tie that is still `lossy`."""

    @property
    def has_budget(self) -> bool:
        """True where something may be lost."""
        return (self.max_rms_share, self.max_kl, self.min_top1) != (None, None, None)


TOLERANCES = {
    "fp32": Tolerance(2.0, 0.0, 2.4e-7, has_original=True, rounding=2**-24),
    "fp16": Tolerance(3.0, 0.0, 2e-3, rounding=2**-11, max_rms_share=0.02, max_kl=1e-3, min_top1=0.99),
    "bf16": Tolerance(3.0, 0.0, 1.6e-2, rounding=2**-8, max_rms_share=0.05, max_kl=1e-2, min_top1=0.97),
    "int8": Tolerance(1.0, 0.0, 0.0, max_rms_share=0.3, max_kl=0.1, min_top1=0.9),
}


def tolerance_of(precision: str, *, tf32: bool = False) -> Tolerance:
    """What `precision` may differ by; in fp32 with TF32 on, fp16's factors and budgets beside fp32's two units.

    TF32 rounds the inputs of products to fp16's mantissa of 10 bits and adds up in fp32 (NVIDIA, A100 architecture
    white paper, 2020). The eager whose error is allowed has TF32 on as well. Products round and sums do not, so that no
    unit of rounding describes both.
    """
    found = TOLERANCES[precision]
    return (
        replace(TOLERANCES["fp16"], rtol=found.rtol, has_original=True, rounding=None)
        if tf32 and precision == "fp32"
        else found
    )


def verdict(figures: Mapping[str, Any], tolerance: Tolerance) -> tuple[str, str]:
    """One of `OUTCOMES` and the reason for it, from one entry of what `metrics.compare` measured."""
    if figures.get("mismatch"):
        return "broken", str(figures["mismatch"])
    if not figures["compared"]:
        return "broken", "nothing could be compared"
    if figures["reference_nonfinite"]:
        return "broken", f"the float64 reference itself has {figures['reference_nonfinite']} NaN or infinite values"
    if figures["nonfinite"]:
        return "broken", f"{figures['nonfinite']} values are NaN or infinite where the reference is finite"
    if figures["identical_to_eager"] and tolerance.has_original:
        return "exact", "bit-identical to eager on the judged rows"
    excess = _excess(figures, tolerance)
    if excess is None:
        rmse, eager = figures["rmse"], figures["rmse_eager"]
        limit = _ratios(figures, tolerance)[0][2]
        return "equivalent", f"RMSE {rmse:.1e} is within {limit:g} times eager's {eager:.1e}"
    if not figures["out_of_tolerance"]:
        return "equivalent", f"every error is within {told(tolerance)}"
    if is_only_coarser(figures, tolerance):
        return "equivalent", f"coarser rounding and nothing else: {_coarseness_told(figures, tolerance)}"
    if not tolerance.has_budget:
        return "broken", excess
    lost = _beyond_budget(figures, tolerance)
    return ("broken", f"{excess}; beyond the budget: {lost}") if lost else ("lossy", f"{excess}; within the budget")


def told(tolerance: Tolerance) -> str:
    """`1e-05 + 2.4e-07·|reference|`, or its second half alone."""
    relative = f"{tolerance.rtol:g}·|reference|"
    return f"{tolerance.atol:g} + {relative}" if tolerance.atol else relative


def _excess(figures: Mapping[str, Any], tolerance: Tolerance) -> str | None:
    """In what the error is not like eager's own, or None."""
    if figures["rmse_ratio"] is None:
        if figures["eager_nonfinite"]:
            return (
                f"RMSE is {figures['rmse']:.1e}; eager has {figures['eager_nonfinite']} NaN or infinite values itself"
            )
        return f"RMSE is {figures['rmse']:.1e} where eager's is 0"
    name, ratio, limit = _nearest(figures, tolerance)
    return f"RMSE {name} is {ratio:.3g} times eager's; allowed are {limit:g}" if ratio > limit else None


def is_only_coarser(figures: Mapping[str, Any], tolerance: Tolerance) -> bool:
    """True for coarser rounding and nothing else. A sum in sequence errs 1.7 to 2 times as much as one in blocks."""
    share = coarseness(figures, tolerance)
    return share is not None and share <= 1


def coarseness(figures: Mapping[str, Any], tolerance: Tolerance) -> float | None:
    """Of the four figures of coarser rounding the largest over its limit; None if one is not known, as over few
    tokens.
    """
    limits = _limits_of_rounding(figures, tolerance)
    return None if limits is None else max(value / limit for _, value, limit in limits)


def _limits_of_rounding(figures: Mapping[str, Any], tolerance: Tolerance) -> list[tuple[str, float, float]] | None:
    """Each figure of coarser rounding with its name and limit."""
    rmse, of_unit, loss = (figures.get(name) for name in ("rmse", "rmse_of_worst_unit", "loss"))
    if tolerance.rounding is None or figures.get("rmse_ratio") is None or not (rmse and of_unit and loss):
        return None
    return [
        ("times eager's", figures["rmse_ratio"], COARSER_FACTOR),
        ("units of rounding", loss / tolerance.rounding, COARSER_UNITS),
        ("times that at the worst token", figures["rmse_of_worst_token"] / rmse, COARSER_TOKEN),
        ("times that at the worst unit", of_unit / rmse, COARSER_UNIT),
    ]


def _coarseness_told(figures: Mapping[str, Any], tolerance: Tolerance) -> str:
    limits = _limits_of_rounding(figures, tolerance) or ()
    return "RMSE is " + ", ".join(f"{value:.3g} {name} (of {limit:g})" for name, value, limit in limits)


def share_of_limit(figures: Mapping[str, Any], tolerance: Tolerance) -> float | None:
    """Largest ratio to eager's error over its limit, or None; above 1 the error is not like eager's own. Of what is
    only coarser, the share of those limits.
    """
    if figures.get("rmse_ratio") is None:
        return None
    _, ratio, limit = _nearest(figures, tolerance)
    return coarseness(figures, tolerance) if ratio > limit and is_only_coarser(figures, tolerance) else ratio / limit


def _nearest(figures: Mapping[str, Any], tolerance: Tolerance) -> tuple[str, float, float]:
    """Of the ratios to eager's error the one that comes nearest to its limit, with its place and its limit."""
    return max(_ratios(figures, tolerance), key=lambda entry: entry[1] / entry[2])


def _ratios(figures: Mapping[str, Any], tolerance: Tolerance) -> list[tuple[str, float, float]]:
    """Each ratio to eager's error with its place and its limit."""
    factor, local = tolerance.eager_factor, LOCAL_FACTOR * tolerance.eager_factor
    row, position = figures["worst_token"][:2]
    found = [
        (f"of {figures['rmse']:.1e}", figures["rmse_ratio"], factor if figures["tokens"] >= LEAST_TOKENS else local),
        (f"at row {row}, position {position}", figures["token_ratio"], local),
    ]
    if figures["unit_ratio"] is not None:
        found.append((f"of unit {figures['worst_unit']}", figures["unit_ratio"], local))
    return found


def _beyond_budget(figures: Mapping[str, Any], tolerance: Tolerance) -> str:
    """What exceeds the precision's budget, or nothing."""
    share = figures["rmse"] / figures["rms_reference"] if figures["rms_reference"] else float("inf")
    found = []
    if tolerance.max_rms_share is not None:
        local = share * figures["rmse_of_worst_token"] / figures["rmse"]
        if share > tolerance.max_rms_share:
            found.append(f"RMSE is {share:.2%} of the reference's RMS, allowed are {tolerance.max_rms_share:.2%}")
        elif local > LOCAL_FACTOR * tolerance.max_rms_share:
            allowed = f"allowed are {LOCAL_FACTOR * tolerance.max_rms_share:.2%}"
            found.append(f"RMSE of the worst token is {local:.2%} of the reference's RMS, {allowed}")
    if "kl_mean" in figures:
        if tolerance.max_kl is not None and figures["kl_mean"] > tolerance.max_kl:
            found.append(f"mean KL is {figures['kl_mean']:.1e}, allowed are {tolerance.max_kl:g}")
        if tolerance.min_top1 is not None and _is_less(figures, tolerance.min_top1):
            share = 1 - (figures["top1_flips"] - figures["top1_near_ties"]) / figures["top1_n"]
            kept = f"{share:.2%} of {figures['top1_n']}, wanted are {tolerance.min_top1:.2%}"
            found.append(f"top-1 agreement beside near-ties is {kept}")
    return ", ".join(found)


def _is_less(figures: Mapping[str, Any], share: float) -> bool:
    """True when so many flips beside near-ties happen in under `CHANCE` of cases if `share` of all positions agree.

    The upper tail of the binomial distribution: one flip among 6 positions is no evidence against 99 %.
    """
    count, flips = figures["top1_n"], figures["top1_flips"] - figures["top1_near_ties"]
    if share in (0.0, 1.0):
        return bool(share and flips)
    ways = (math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(flips))
    fewer = sum(math.exp(log + k * math.log1p(-share) + (count - k) * math.log(share)) for k, log in enumerate(ways))
    return bool(1 - fewer < CHANCE)


def judge(outputs: Sequence[Mapping[str, Any]], tolerance: Tolerance) -> dict[str, Any]:
    """Verdict, reason, `share_of_limit` and figures of the worst output of one case, with the largest `loss` of all."""
    judged: list[dict[str, Any]] = []
    for figures in outputs:
        outcome, reason = verdict(figures, tolerance)
        share = None if outcome == "exact" else share_of_limit(figures, tolerance)
        judged.append({"verdict": outcome, "reason": reason, "share_of_limit": share, **figures})
    if not judged:
        return {"verdict": "broken", "reason": "nothing was compared"}
    worst = max(judged, key=badness)
    return {**worst, "loss": _largest(one.get("loss") for one in judged)}


def _largest(losses: Iterable[float | None]) -> float | None:
    """The largest of all losses; None if there is none, or one is not known."""
    known = list(losses)
    return None if not known or None in known else max(one for one in known if one is not None)


def judge_generation(entry: Mapping[str, Any], tolerance: Tolerance) -> dict[str, Any]:
    """`entry`, the figures of steps and what is known of the tokens that were chosen freely, with its verdict in place
    of the figures.

    A greedy token that is not the reference's must be a near-tie: its margin within what errors like eager's explain.
    A beam's score must be the sum of its tokens' log probabilities within the same, and a sample must be drawn again.
    """
    judged = judge(entry["figures"], tolerance)
    rest = {name: value for name, value in entry.items() if name != "figures"}
    if rest.get("diverges_at") is not None:
        # Errors that are equivalent may be larger than eager's, by its factor.
        rest["is_near_tie"] = rest["margin"] <= 2 * tolerance.eager_factor * rest["eager_error"]
    if judged["verdict"] in ("exact", "equivalent") and (fault := _fault_of_tokens(rest, tolerance)):
        judged |= {"verdict": "broken", "reason": fault}
    return {**rest, **judged}


def _fault_of_tokens(entry: Mapping[str, Any], tolerance: Tolerance) -> str | None:
    """What is wrong with tokens whose logits, when they were forced, were like eager's."""
    if not entry.get("is_near_tie", True):
        return f"token {entry['diverges_at'] + 1} is one that eager's own error does not explain"
    if "score" in entry:
        # A log probability is off by twice its logits' error at most; a float32 sum by its rounding at each step.
        of_logits = 2 * 2 * tolerance.eager_factor * entry["eager_error"]
        explained = entry["steps"] * (of_logits + 2**-23 * abs(entry["rescored"]))
        if not abs(entry["score"] - entry["rescored"]) <= explained:
            return (
                f"the beam's score {entry['score']:.6g} is not the log probability of its tokens, "
                f"{entry['rescored']:.6g}: its cache was not kept in the beams' order"
            )
    if "drawn_again" in entry and entry["drawn_again"] < (1 - CHANCE) * entry["steps"] - 1:
        return f"of {entry['steps']} sampled tokens the same seed drew only {entry['drawn_again']} again"
    return None


def as_of_candidate(judged: Any, candidate: Candidate) -> Any:
    """What was judged, in each case too, under the names of a candidate's verdicts: eager in fp32 is the `original`;
    below fp32 nothing is `exact`, as older files say, for eager there is not the model as its author runs it.
    """
    if candidate.is_original:
        return _renamed(judged, {"exact": "original", "equivalent": "original"})
    return judged if candidate.precision == "fp32" else _renamed(judged, {"exact": "equivalent"})


def _renamed(judged: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(judged, Mapping):
        return judged
    return {
        name: names.get(value, value) if name == "verdict" and isinstance(value, str) else _renamed(value, names)
        for name, value in judged.items()
    }


def with_lost_turns(parity: dict[str, Any], lost: int) -> dict[str, Any]:
    """A record's `parity` where the outputs of `lost` turns, unlike all that were judged, went with their process."""
    if not lost or "cases" not in parity:
        return parity
    worse = {"verdict": "equivalent", "reason": f"{parity['reason']}; outputs of {lost} turns could not be judged"}
    return {**parity, **(worse if parity["verdict"] == "exact" else {}), "unjudged_turns": lost}


def is_within(verdict: str, least: str) -> bool:
    """True if `verdict` ("" for none) is as good as `least`."""
    return OUTCOMES.index(verdict or "unjudged") <= OUTCOMES.index(least)


def worst_case(cases: Mapping[str, Sequence[Mapping[str, Any]]], tolerance: Tolerance) -> dict[str, Any]:
    """The record's `parity`: verdict and figures of the worst case, and each case's own beside them, worst first."""
    if not cases:
        return {"verdict": "broken", "reason": "nothing was compared", "cases": {}}
    return _worst({name: judge(outputs, tolerance) for name, outputs in cases.items()})


def worst_generation(cases: Mapping[str, Mapping[str, Any]], tolerance: Tolerance) -> dict[str, Any]:
    """The record's `parity` from what `judge_generation` takes of each case."""
    return _worst({name: judge_generation(entry, tolerance) for name, entry in cases.items()})


def _worst(judged: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    ordered = dict(sorted(judged.items(), key=lambda one: badness(one[1]), reverse=True))
    first = next(iter(ordered))
    return {
        "case": first,
        **ordered[first],
        "loss": _largest(one.get("loss") for one in judged.values()),
        "cases": ordered,
    }


def with_loss(parity: dict[str, Any]) -> dict[str, Any]:
    """A record's `parity` with the `loss` that files before it left out, from the worst output of each case."""
    cases = parity.get("cases")
    if not cases or "loss" in parity:
        return parity
    shares = [(one.get("rmse"), one.get("rms_reference")) for one in cases.values()]
    losses = (None if rmse is None or not rms else rmse / rms for rmse, rms in shares)
    return {**parity, "loss": _largest(losses)}


def badness(judged: Mapping[str, Any]) -> tuple[int, float, float]:
    """Orders what was judged: by verdict, then by how far the error is off eager's, then by the largest difference."""
    share, error = judged.get("share_of_limit"), judged.get("max_abs_error")
    unknown = float("inf")
    return (
        OUTCOMES.index(judged["verdict"]),
        unknown if share is None else share,
        unknown if error is None else error,
    )
