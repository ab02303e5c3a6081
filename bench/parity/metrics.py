"""How far a backend's outputs are from the float64 reference. Runs in a worker, on NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Arrays = dict[str, Array]

#: The output whose last axis is a distribution over the vocabulary.
LOGITS = "logits"
#: Relative differences are against this much of the reference's largest magnitude at the least.
RELATIVE_FLOOR = 1e-3
NUMPY_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "float32", "int8": "float32"}
#: Tokens from which on errors over all of them, and one unit's, are told from a single token's: over fewer they spread
#: as that does.
LEAST_TOKENS = 32
#: Candidates whose set is compared at each position of a language model.
TOP_K = 5


def compare(
    outputs: Arrays, reference: Arrays, eager: Arrays, mask: Array, precision: str, atol: float, rtol: float,
    whole: Collection[str] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """Figures of each output: `outputs` against `reference`, both [rows, positions, …] by name, or [rows, …] those of
    `whole`, which count as one position each. `eager` holds its outputs at the same precision; only positions where
    `mask` [rows, positions] is 1 count, and what lies elsewhere is told apart. Out of tolerance is an error above
    `atol` and `rtol` times the reference's magnitude there, or its RMS if that is larger. A missing or extra output,
    another shape or dtype is reported as `mismatch`, of all outputs in one entry.
    """
    import numpy as np

    if mismatch := _mismatch(outputs, reference, precision):
        return [{"mismatch": mismatch, "compared": 0}]
    found = []
    for name in reference:
        ours, theirs, eagers = (_by_position(arrays[name], name in whole) for arrays in (outputs, reference, eager))
        kept = np.ones(theirs.shape[:2], dtype=np.int64) if name in whole else mask
        found.append(_figures(name, ours, theirs, eagers, kept, atol, rtol))
    return found


def _by_position(array: Array, is_whole: bool) -> Array:
    """An output as [rows, positions, width]."""
    rows, positions = (array.shape[0], 1) if is_whole else array.shape[:2]
    return array.reshape(rows, positions, math.prod(array.shape[1:] if is_whole else array.shape[2:]))


def _mismatch(outputs: Arrays, reference: Arrays, precision: str) -> str | None:
    if set(outputs) != set(reference):
        return f"outputs are {sorted(outputs)} instead of {sorted(reference)}"
    for name, array in outputs.items():
        if array.shape != reference[name].shape:
            return f"{name} has shape {list(array.shape)} instead of {list(reference[name].shape)}"
        if array.dtype != NUMPY_DTYPES[precision]:
            return f"{name} has dtype {array.dtype} instead of {NUMPY_DTYPES[precision]}"
    return None


def _figures(
    name: str, output: Array, reference: Array, eager: Array, mask: Array, atol: float, rtol: float
) -> dict[str, Any]:
    import numpy as np

    kept = mask.astype(bool)
    ours, theirs = output[kept].astype(np.float64), reference[kept]
    figures: dict[str, Any] = {
        "output": name,
        "compared": int(ours.size),
        "nonfinite": int((~np.isfinite(ours)).sum()),
        "reference_nonfinite": int((~np.isfinite(theirs)).sum()),
        "max_abs_error": None,
    }
    if figures["nonfinite"] or figures["reference_nonfinite"] or not ours.size:
        return figures
    difference = ours - theirs
    error = np.abs(difference)
    eagers = eager[kept].astype(np.float64)
    figures["eager_nonfinite"] = int((~np.isfinite(eagers)).sum())
    worst = int(np.argmax(error))
    token, unit = divmod(worst, error.shape[-1])
    places = np.argwhere(kept)
    floor = RELATIVE_FLOOR * np.abs(theirs).max()
    masked = np.abs(output[~kept].astype(np.float64) - reference[~kept])
    figures |= {
        "tokens": len(ours),
        "max_abs_error": float(error.max()),
        "max_abs_at": [*places[token].tolist(), unit],
        "max_rel_error": float((error / np.maximum(np.abs(theirs), floor)).max()) if floor else 0.0,
        "mean_abs_error": float(error.mean()),
        "p99_abs_error": float(np.quantile(error, 0.99)),
        "rms_reference": _rms(theirs),
        "min_cosine": _least_cosine(ours, theirs),
        "out_of_tolerance": float(np.mean(error > atol + rtol * np.maximum(np.abs(theirs), _rms(theirs)))),
        "identical_to_eager": bool(np.array_equal(output[kept], eager[kept])),
        "masked_max_abs_error": float(masked.max()) if masked.size and np.isfinite(masked).all() else None,
    }
    figures |= _against_eager(difference, None if figures["eager_nonfinite"] else eagers - theirs)
    figures["loss"] = _loss(figures["rmse"], figures["rms_reference"])
    figures["worst_token"] = places[figures["worst_token"]].tolist()
    return figures | (_of_logits(ours, theirs, eagers) if name == LOGITS and theirs.shape[-1] > 1 else {})


def _loss(rmse: float, rms_reference: float) -> float | None:
    """What a precision itself loses: RMSE over the reference's RMS; None for any error where the reference is all 0."""
    return rmse / rms_reference if rms_reference else None if rmse else 0.0


def _rms(values: Array, axis: int | None = None) -> Any:
    import numpy as np

    found = np.sqrt(np.mean(values**2, axis=axis))
    return float(found) if axis is None else found


def _against_eager(difference: Array, eagers: Array | None) -> dict[str, Any]:
    """RMSE of `difference` and of eager's own, both [tokens, width], and the largest ratio of the two in one place.

    A token's RMSE is over its units and a unit's over the tokens; each is held against eager's at the same place,
    or eager's overall if that is larger. A fault in one place is lost in the overall figure and not in these. A ratio
    is None if eager's errors are all 0 or not finite (`eagers` is None then), and a unit's figures if tokens are too
    few. The RMSE of the worst token and unit are the largest, wherever the largest ratio is.
    """
    import numpy as np

    eager_rmse = None if eagers is None else _rms(eagers)
    by_token = _rms(difference, axis=-1)
    figures: dict[str, Any] = {
        "rmse": _rms(difference),
        "rmse_eager": eager_rmse,
        "rmse_ratio": None,
        "token_ratio": None,
        "rmse_of_worst_token": float(by_token.max()),
        "worst_token": int(np.argmax(by_token)),
        "unit_ratio": None,
        "worst_unit": None,
    }
    if not eager_rmse or eagers is None:
        return figures
    of_tokens = by_token / np.maximum(_rms(eagers, axis=-1), eager_rmse)
    figures |= {
        "rmse_ratio": figures["rmse"] / eager_rmse,
        "token_ratio": float(of_tokens.max()),
        "worst_token": int(np.argmax(of_tokens)),
    }
    if len(difference) >= LEAST_TOKENS:
        of_units = _rms(difference, axis=0) / np.maximum(_rms(eagers, axis=0), eager_rmse)
        figures |= {"unit_ratio": float(of_units.max()), "worst_unit": int(np.argmax(of_units))}
    return figures


def _of_logits(ours: Array, theirs: Array, eagers: Array) -> dict[str, Any]:
    """Figures on distributions over the vocabulary; all arguments [tokens, vocabulary].

    KL divergence is of the reference's distribution from ours, in nats. A position where the most likely token is
    another is a near-tie when the reference puts that one below its own by at most twice eager's largest error there:
    eager itself may flip it.
    """
    import numpy as np

    log_theirs, log_ours = log_softmax(theirs), log_softmax(ours)
    divergence = np.maximum((np.exp(log_theirs) * (log_theirs - log_ours)).sum(axis=-1), 0.0)
    count = min(TOP_K, theirs.shape[-1] - 1)
    best = np.argpartition(-theirs, range(count + 1), axis=-1)[:, : count + 1]
    rows = np.arange(len(theirs))
    margins = theirs[rows, best[:, 0]] - theirs[rows, best[:, 1]]
    lost = theirs[rows, best[:, 0]] - theirs[rows, ours.argmax(axis=-1)]
    flips = ours.argmax(axis=-1) != best[:, 0]
    errors = np.abs(eagers - theirs).max(axis=-1)
    near = flips & np.isfinite(errors) & (lost <= 2 * errors)
    ours_best = np.argpartition(-ours, count - 1, axis=-1)[:, :count]
    overlap = [len(np.intersect1d(one, other)) / count for one, other in zip(best[:, :count], ours_best, strict=True)]
    return {
        "kl_mean": float(divergence.mean()),
        "kl_max": float(divergence.max()),
        "top1_n": len(ours),
        "top1_agreement": float(1 - flips.mean()),
        "top1_flips": int(flips.sum()),
        "top1_near_ties": int(near.sum()),
        "top1_largest_loss": float(lost.max()),
        "margin_median": float(np.median(margins)),
        "top_k": count,
        "top_k_overlap": float(np.mean(overlap)),
    }


def log_softmax(logits: Array) -> Array:
    """Log probabilities, [tokens, vocabulary]."""
    import numpy as np

    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _least_cosine(ours: Array, theirs: Array) -> float:
    """Smallest cosine of two token vectors, [tokens, width] each."""
    import numpy as np

    mine, reference = np.linalg.norm(ours, axis=-1), np.linalg.norm(theirs, axis=-1)
    norms = mine * reference
    cosines = (ours * theirs).sum(axis=-1) / np.where(norms > 0, norms, 1.0)
    return float(np.where((mine == 0) & (reference == 0), 1.0, cosines).min())
