"""Values inside a model, in worker processes: taken from a backend, compared with the reference's, matched by likeness.

Arrays go from one process to the next as .npz files, a chunk of values at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.parity.bisect.findings import STATE_AXES
from bench.parity.inputs import kept as kept_positions
from bench.parity.verdict import LOCAL_FACTOR, TOLERANCES

if TYPE_CHECKING:
    import numpy as np

    from backends.protocols import InnerValues

    Array = np.ndarray[Any, Any]

#: Distance from 1 to the next number.
UNIT_OF_LAST_PLACE = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}
SAMPLED_TOKENS = 64
SAMPLED_UNITS = 32


def run(backend: InnerValues, inputs: Path, names: Sequence[str], path: Path) -> dict[str, Any]:
    """Write `names` of one call on `inputs` to `path`; returns what asking for them changed, as `run_inner` says."""
    values, changed = backend.run_inner(read_inputs(inputs), names)
    write(path, values)
    return changed


def samples(backend: InnerValues, inputs: Path, names: Sequence[str], width: int) -> dict[str, Array]:
    """Samples of the hidden states `names` of `width`, of one call on `inputs`."""
    batch = read_inputs(inputs)
    mask = mask_of(batch)
    values, _ = backend.run_inner(batch, names)
    return {name: sample(array, mask, width) for name, array in values.items() if array.size == mask.size * width}


def write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name."""
    import numpy as np

    np.savez(path, **arrays)  # type: ignore[arg-type]


def shapes(backend: InnerValues, inputs: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """Shape of each of `names` of one call on `inputs`."""
    values, _ = backend.run_inner(read_inputs(inputs), names)
    return {name: list(array.shape) for name, array in values.items()}


def probe(backend: InnerValues, inputs: Path, names: Sequence[str], width: int) -> list[str]:
    """Those of `names` that are floating-point hidden states of `width`, told by a call on two tokens."""
    batch = {name: array[:1, :2] for name, array in read_inputs(inputs).items()}
    tokens = next(iter(batch.values())).size
    values, _ = backend.run_inner(batch, names)
    return [
        name
        for name, array in values.items()
        if array.dtype.kind == "f" and array.size == tokens * width and array.shape[-1] == width
    ]


def read_inputs(path: Path) -> dict[str, Array]:
    """Input arrays by name, in the model's order."""
    import numpy as np

    with np.load(path) as stored:
        return dict(stored)


def mask_of(batch: Mapping[str, Array]) -> Array:
    """Which positions of a batch count, [batch, length]; the first input has these axes."""
    return kept_positions(batch, next(iter(batch.values())).shape[1])


def sample(state: Array, mask: Array, width: int) -> Array:
    """Seeded elements of a hidden state where `mask` is 1, float64 [tokens, units]."""
    import numpy as np

    rng = np.random.default_rng(0)
    tokens = np.flatnonzero(mask)
    tokens = np.sort(rng.choice(tokens, min(SAMPLED_TOKENS, tokens.size), replace=False))
    units = np.sort(rng.choice(width, min(SAMPLED_UNITS, width), replace=False))
    taken: Array = state.reshape(mask.size, width)[np.ix_(tokens, units)].astype(np.float64)
    return taken


def likeness(states: Path, candidates: Sequence[Path]) -> dict[str, list[Any]]:
    """For each sampled state the candidate that is nearest to it, and its distance over the state's RMS.

    Among equally near ones, as copies of a value are, the first is taken.
    """
    import numpy as np

    nearest: dict[str, list[Any]] = {}
    with np.load(states) as known:
        for name in known:
            state = known[name]
            scale = float(np.sqrt(np.mean(state**2))) or 1.0
            for path in candidates:
                with np.load(path) as stored:
                    for candidate in stored:
                        distance = float(np.sqrt(np.mean((stored[candidate] - state) ** 2))) / scale
                        if name not in nearest or distance < nearest[name][1]:
                            nearest[name] = [candidate, distance]
    return nearest


def compare(
    ours: Path, reference: Path, eagers: Path, inputs: Path, values: Sequence[Mapping[str, Any]], precision: str
) -> list[dict[str, Any]]:
    """Figures of each of `values`, {"name", "ours", "axes"}: our value against the float64 reference `name`."""
    import numpy as np

    kept = mask_of(read_inputs(inputs)).astype(bool)
    figures = []
    with np.load(ours) as stored, np.load(reference) as expected, np.load(eagers) as eager:
        for value in values:
            name = value["name"]
            figures.append(_figures(stored[value["ours"]], expected[name], eager[name], kept, value, precision))
    return figures


def _figures(
    ours: Array, reference: Array, eager: Array, kept: Array, value: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    import numpy as np

    if tuple(value["axes"]) == STATE_AXES and ours.size == reference.size:
        ours = ours.reshape(reference.shape)  # some runtimes keep tokens of all rows on one axis
    if ours.shape != reference.shape:
        mismatch = f"shape {list(ours.shape)} instead of {list(reference.shape)}"
        return {"leaves_tolerance": True, "rmse": None, "rmse_eager": None, "ratio": None, "mismatch": mismatch}
    counted, token_axes = counted_elements(reference.shape, value["axes"], kept)
    counts = _per_token(counted, token_axes)
    is_kept = counts > 0
    rms = []
    for squares in (_squares(ours, reference), _squares(eager, reference), _squares(reference, None)):
        squares[~counted] = 0.0
        rms.append(np.sqrt(_per_token(squares, token_axes)[is_kept] / counts[is_kept]))
    error, error_of_eager, magnitude = rms
    rmse, rmse_eager = overall(error), overall(error_of_eager)
    return {
        "leaves_tolerance": leaves_tolerance(error, error_of_eager, magnitude, precision),
        "rmse": rmse if np.isfinite(rmse) else None,
        "rmse_eager": rmse_eager if np.isfinite(rmse_eager) else None,
        "ratio": rmse / rmse_eager if rmse_eager and np.isfinite(rmse) else None,
    }


def overall(rms: Array) -> float:
    """Root mean square of all tokens, from that of each, [tokens]."""
    import numpy as np

    return float(np.sqrt(np.mean(rms**2))) if rms.size else 0.0


def leaves_tolerance(error: Array, error_of_eager: Array, magnitude: Array, precision: str) -> bool:
    """True where a value is worse than eager at the same precision; all arguments are RMS per token, [tokens].

    Over all tokens `eager_factor` times eager's RMSE is allowed, and for each token twice that factor times the larger
    of eager's RMSE of that token and of all. Two units of the last place are the least that counts as allowed.
    """
    import numpy as np

    factor = TOLERANCES[precision].eager_factor
    floor = 2.0 * UNIT_OF_LAST_PLACE[precision]
    allowed = max(factor * overall(error_of_eager), floor * overall(magnitude))
    allowed_of_token = LOCAL_FACTOR * np.maximum(np.maximum(factor * error_of_eager, floor * magnitude), allowed)
    return not overall(error) <= allowed or bool((error > allowed_of_token).any())


def _squares(value: Array, reference: Array | None) -> Array:
    """Squared differences in float64; equal infinities and two NaN differ by nothing."""
    import numpy as np

    if reference is None:
        return np.where(np.isfinite(value), value, 0).astype(np.float64) ** 2
    with np.errstate(invalid="ignore", over="ignore"):
        difference = value.astype(np.float64) - reference.astype(np.float64)
        same = (value == reference) | (np.isnan(difference) & np.isnan(value) & np.isnan(reference))
        squares: Array = np.where(same, 0.0, difference) ** 2
    squares[np.isnan(squares)] = np.inf
    return squares


def counted_elements(shape: Sequence[int], axes: Sequence[str | None], kept: Array) -> tuple[Array, list[int]]:
    """Which elements of a value stand for kept tokens alone, bool of `shape`, and its axes that number its tokens.

    `axes` says of each axis what it counts: "batch", "length", "tokens" (batch times length) or None;
    `kept` is bool [batch, length]. The second axis of length is that of the keys.
    """
    import numpy as np

    counted = np.ones(shape, dtype=bool)
    batch = [index for index, axis in enumerate(axes) if axis == "batch"][:1]
    token_axes = list(batch)
    for index, axis in enumerate(axes):
        if axis == "tokens":
            counted &= kept.reshape([-1 if place == index else 1 for place in range(len(shape))])
            token_axes = [index]
        elif axis == "length":
            rows = kept if batch else kept.any(axis=0)
            wanted = [1] * len(shape)
            wanted[index] = kept.shape[1]
            if batch:
                wanted[batch[0]] = kept.shape[0]
                rows = rows if batch[0] < index else rows.T
            counted &= rows.reshape(wanted)
            if not any(axes[place] == "length" for place in token_axes):
                token_axes.append(index)
    return counted, token_axes


def _per_token(array: Array, token_axes: Sequence[int]) -> Array:
    """Sums over every axis but the tokens', flattened to [tokens]."""
    rest = tuple(index for index in range(array.ndim) if index not in token_axes)
    summed: Array = array.sum(axis=rest)
    return summed.reshape(-1)
