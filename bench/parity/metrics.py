"""How far a backend's outputs are from the float64 reference. Runs in a worker, on NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray[Any, Any]]

#: Relative differences are against this much of the reference's largest magnitude at the least.
RELATIVE_FLOOR = 1e-3
NUMPY_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "float32", "int8": "float32"}


def compare(
    outputs: Arrays,
    reference: Arrays,
    yardstick: Arrays,
    mask: np.ndarray[Any, Any],
    precision: str,
    atol: float,
    rtol: float,
) -> dict[str, Any]:
    """Figures of the worst output: `outputs` against `reference`, both [rows, length, width] by name.

    `yardstick` holds eager's outputs at the same precision; only positions where `mask`
    [rows, length] is 1 count. A missing or extra output, another shape or another dtype is
    reported as `mismatch`.
    """
    if mismatch := _mismatch(outputs, reference, precision):
        return {"mismatch": mismatch, "compared": 0}
    figures = [_figures(name, outputs[name], reference[name], yardstick[name], mask, atol, rtol) for name in reference]
    return max(figures, key=lambda entry: (entry["max_abs_error"] is None, entry["max_abs_error"] or 0.0))


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
    name: str,
    output: np.ndarray[Any, Any],
    reference: np.ndarray[Any, Any],
    yardstick: np.ndarray[Any, Any],
    mask: np.ndarray[Any, Any],
    atol: float,
    rtol: float,
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
    error = np.abs(ours - theirs)
    eager_error = yardstick[kept].astype(np.float64) - theirs
    worst = int(np.argmax(error))
    token, unit = divmod(worst, error.shape[-1])
    row, position = (int(index[token]) for index in np.nonzero(kept))
    floor = RELATIVE_FLOOR * np.abs(theirs).max()
    masked = np.abs(output[~kept].astype(np.float64) - reference[~kept])
    return figures | {
        "max_abs_error": float(error.max()),
        "max_abs_at": [row, position, unit],
        "max_rel_error": float((error / np.maximum(np.abs(theirs), floor)).max()) if floor else 0.0,
        "mean_abs_error": float(error.mean()),
        "p99_abs_error": float(np.quantile(error, 0.99)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "rmse_eager": float(np.sqrt(np.mean(eager_error**2))),
        "rms_reference": float(np.sqrt(np.mean(theirs**2))),
        "min_cosine": _least_cosine(ours, theirs),
        "out_of_tolerance": float(np.mean(error > atol + rtol * np.abs(theirs))),
        "identical_to_eager": bool(np.array_equal(output[kept], yardstick[kept])),
        "masked_max_abs_error": float(masked.max()) if masked.size and np.isfinite(masked).all() else None,
    }


def _least_cosine(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Smallest cosine of two token vectors, [tokens, width] each."""
    import numpy as np

    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    cosines = (ours * theirs).sum(axis=-1) / np.where(norms > 0, norms, 1.0)
    return float(np.where(norms > 0, cosines, 1.0).min())
