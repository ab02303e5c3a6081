"""What a bisection asks of a worker: values inside its model, taken, matched by likeness and compared.

Arrays go from one process to the next as .npz files, a chunk of values at a time. torch's exporter names an ONNX value
after the value of the torch program that it stands for, so the program, run on the checkpoint's weights in float64, is
a reference for the nodes of the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.parity.inputs import kept as kept_positions
from bench.parity.verdict import LOCAL_FACTOR, TOLERANCES
from bench.process import abilities

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.process.loop import Loop

    Array = np.ndarray[Any, Any]
    Arrays = dict[str, Array]

#: What the axes of a hidden state count.
STATE_AXES = ("batch", "length", None)
#: Distance from 1 to the next number.
UNIT_OF_LAST_PLACE = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}
SAMPLED_TOKENS = 64
SAMPLED_UNITS = 32
#: A value equals a hidden state when it is within this share of it.
SAME = 1e-9


# Functions that a worker is called for.


def describe(loop: Loop) -> dict[str, Any]:
    """Values inside the model, in execution order, as name -> [operation, names that it reads]; and the outputs."""
    values = abilities.inner_values(loop.backend).inner_values()
    return {
        "values": {name: [value.operation, list(value.inputs)] for name, value in values.items()},
        "outputs": getattr(loop.backend, "output_names", []),
    }


def measure(loop: Loop, inputs: str, names: Sequence[str]) -> dict[str, Any]:
    """Shapes of inner values."""
    return {"shapes": {name: list(array.shape) for name, array in _values(loop, _read(inputs), names).items()}}


def take(loop: Loop, inputs: str, names: Sequence[str], path: str, program: str | None = None) -> dict[str, Any]:
    """Write values to `path`: of the model, or of `program` with the model's weights.

    Returns what asking for them changed, as `run_inner` says.
    """
    import numpy as np

    changed: dict[str, Any] = {}
    if program:
        values = run_program(_module(loop), program, _read(inputs), names)
    else:
        values, changed = abilities.inner_values(loop.backend).run_inner(_read(inputs), names)
    np.savez(path, **values)  # type: ignore[arg-type]
    return changed


def sample(loop: Loop, inputs: str, names: Sequence[str], path: str, width: int, at_once: int) -> dict[str, Any]:
    """Write samples of those of `names` that are hidden states of `width` to `path`, taking `at_once` at a time."""
    import numpy as np

    np.savez(path, **_samples(loop, _read(inputs), names, width, at_once))  # type: ignore[arg-type]
    return {}


def liken(loop: Loop, states: str, candidates: str) -> dict[str, Any]:
    """For each sampled state the candidate that is nearest to it, and its distance over the state's RMS.

    Among equally near ones, as copies of a value are, the first is taken.
    """
    import numpy as np

    nearest: dict[str, list[Any]] = {}
    with np.load(states, allow_pickle=False) as known, np.load(candidates, allow_pickle=False) as stored:
        arrays = dict(stored)
        for name in known if arrays else ():
            state = known[name]
            distances = {one: overall(array - state) for one, array in arrays.items()}
            best = min(distances, key=lambda one: distances[one])
            nearest[name] = [best, distances[best] / (overall(state) or 1.0)]
    return {"nearest": nearest}


def compare(
    loop: Loop, ours: str, reference: str, eager: str, inputs: str, values: Sequence[dict[str, Any]], precision: str
) -> dict[str, Any]:
    """Figures of each of `values`, {"name", "ours", "axes"}: our value against the float64 reference `name`."""
    import numpy as np

    kept = _mask(_read(inputs)).astype(bool)
    with (
        np.load(ours, allow_pickle=False) as stored,
        np.load(reference, allow_pickle=False) as expected,
        np.load(eager, allow_pickle=False) as eagers,
    ):
        return {
            "figures": [
                figures(stored[one["ours"]], expected[one["name"]], eagers[one["name"]], one["axes"], kept, precision)
                for one in values
            ]
        }


def save_program(loop: Loop, precision: str, path: str) -> dict[str, Any]:
    """Write the program that the checkpoint's ONNX file was translated from."""
    from exporters import onnx

    onnx.save_program(Path(loop.args.artifact), precision, Path(path))
    return {}


def survey(loop: Loop, program: str, inputs: str, layers: Sequence[str], width: int) -> dict[str, Any]:
    """Every tensor of the program, in execution order, run with the weights of the float64 model.

    Each is {"name", "inputs", "bytes" in float64, "axes", "module" that computes it, "is_output", "states"}: which of
    the hidden states of `layers` it equals, by samples.
    """
    import numpy as np

    batch, traced = _read(inputs), _load(program, "cpu")
    known, mask = _samples(loop, batch, layers, width, len(layers)), _mask(batch)
    (output,) = traced.graph_signature.user_outputs
    symbols = next(node for node in traced.graph.nodes if node.name == traced.graph_signature.user_inputs[0])
    sizes = [str(size) for size in symbols.meta["val"].shape]
    counted = {sizes[0]: "batch", sizes[1]: "length", "*".join(sizes): "tokens", "*".join(sizes[::-1]): "tokens"}
    found: list[dict[str, Any]] = []

    def note(node: Any, value: torch.Tensor) -> None:
        same: list[str] = []
        if value.ndim and _is_state(array := value.numpy(), mask.size, width):
            taken = _sample(array, mask, width)
            same = [name for name, one in known.items() if np.abs(one - taken).max() <= SAME * np.abs(one).max()]
        scopes = list((node.meta.get("nn_module_stack") or {}).values())
        found.append(
            {
                "name": node.name,
                "inputs": [entry.name for entry in node.all_input_nodes],
                "bytes": value.numel() * 8,
                "axes": [counted.get(str(size)) for size in node.meta["val"].shape],
                "module": scopes[-1][0] if scopes else "",
                "is_output": node.name == output,
                "states": same,
            }
        )

    _interpret(traced, _module(loop), batch, note)
    return {"values": found}


# Hidden states, by samples.


def _samples(loop: Loop, batch: Arrays, names: Sequence[str], width: int, at_once: int) -> Arrays:
    """Samples of those of `names` that are hidden states of `width`, told by a call on two tokens."""
    few = {name: array[:1, :2] for name, array in batch.items()}
    mask = _mask(batch)
    alike = [name for name, array in _values(loop, few, names).items() if _is_state(array, _mask(few).size, width)]
    found = {}
    for start in range(0, len(alike), at_once):
        for name, array in _values(loop, batch, alike[start : start + at_once]).items():
            if _is_state(array, mask.size, width):
                found[name] = _sample(array, mask, width)
    return found


def _is_state(array: Array, tokens: int, width: int) -> bool:
    return array.dtype.kind == "f" and array.size == tokens * width and array.shape[-1] == width


def _sample(state: Array, mask: Array, width: int) -> Array:
    """Seeded elements of a hidden state where `mask` is 1, float64 [tokens, units]."""
    import numpy as np

    rng = np.random.default_rng(0)
    tokens = np.flatnonzero(mask)
    tokens = np.sort(rng.choice(tokens, min(SAMPLED_TOKENS, tokens.size), replace=False))
    units = np.sort(rng.choice(width, min(SAMPLED_UNITS, width), replace=False))
    taken: Array = state.reshape(mask.size, width)[np.ix_(tokens, units)].astype(np.float64)
    return taken


# Figures of one value.


def figures(
    ours: Array, reference: Array, eager: Array, axes: Sequence[str | None], kept: Array, precision: str
) -> dict[str, Any]:
    """RMSE of a value and of eager's, and whether it is worse than eager at the same precision.

    `axes` says of each axis what it counts: "batch", "length", "tokens" (batch times length) or None; only tokens where
    `kept`, bool [batch, length], is true count. Over all tokens `eager_factor` times eager's RMSE is allowed, and for
    each token `LOCAL_FACTOR` times that factor times the larger of eager's RMSE of that token and of all. Two units of
    the last place are the least that counts as allowed.
    """
    import numpy as np

    if tuple(axes) == STATE_AXES and ours.size == reference.size:
        ours = ours.reshape(reference.shape)  # some runtimes keep tokens of all rows on one axis
    if ours.shape != reference.shape:
        mismatch = f"shape {list(ours.shape)} instead of {list(reference.shape)}"
        return {"leaves_tolerance": True, "rmse": None, "rmse_eager": None, "ratio": None, "mismatch": mismatch}
    counted, token_axes = _counted(reference.shape, axes, kept)

    rest = tuple(axis for axis in range(reference.ndim) if axis not in token_axes)
    counts = counted.sum(axis=rest)

    def of_tokens(squares: Array) -> Array:
        """RMS of each token that counts, [tokens]."""
        sums = np.where(counted, squares, 0.0).sum(axis=rest)
        found: Array = np.sqrt(sums[counts > 0] / counts[counts > 0])
        return found

    finite = np.where(np.isfinite(reference), reference, 0).astype(np.float64)
    error, of_eager = of_tokens(_squares(ours, reference)), of_tokens(_squares(eager, reference))
    magnitude = of_tokens(finite**2)
    rmse, rmse_eager = overall(error), overall(of_eager)
    factor, least = TOLERANCES[precision].eager_factor, 2.0 * UNIT_OF_LAST_PLACE[precision]
    allowed = max(factor * rmse_eager, least * overall(magnitude))
    allowed_of_token = LOCAL_FACTOR * np.maximum(np.maximum(factor * of_eager, least * magnitude), allowed)
    return {
        "leaves_tolerance": not rmse <= allowed or bool((error > allowed_of_token).any()),
        "rmse": rmse if np.isfinite(rmse) else None,
        "rmse_eager": rmse_eager if np.isfinite(rmse_eager) else None,
        "ratio": rmse / rmse_eager if rmse_eager and np.isfinite(rmse) else None,
    }


def overall(values: Array) -> float:
    """Root mean square; 0 of nothing."""
    import numpy as np

    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _squares(value: Array, reference: Array) -> Array:
    """Squared differences in float64; equal infinities and two NaN differ by nothing."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        difference = value.astype(np.float64) - reference.astype(np.float64)
        same = (value == reference) | (np.isnan(value) & np.isnan(reference))
        squares = np.where(same, 0.0, difference) ** 2
    return np.where(np.isnan(squares), np.inf, squares)


def _counted(shape: Sequence[int], axes: Sequence[str | None], kept: Array) -> tuple[Array, list[int]]:
    """Which elements of a value stand for kept tokens alone, bool of `shape`, and its axes that number its tokens.

    The second axis of length is that of the keys.
    """
    import numpy as np

    counted = np.ones(shape, dtype=bool)
    batch = axes.index("batch") if "batch" in axes else None
    token_axes = [] if batch is None else [batch]

    def count(rows: Array, *own: int) -> None:
        nonlocal counted
        counted &= np.expand_dims(rows, [other for other in range(len(axes)) if other not in own])

    for index, axis in enumerate(axes):
        if axis == "tokens":
            count(kept.reshape(-1), index)
            token_axes = [index]
        elif axis == "length":
            if batch is None:
                count(np.asarray(kept.any(axis=0)), index)
            else:
                count(kept if batch < index else kept.T, batch, index)
            token_axes += [index] if index == axes.index("length") else []
    return counted, token_axes


# The program that an ONNX file was translated from.


def run_program(module: Any, program: str, batch: Arrays, names: Sequence[str]) -> Arrays:
    """The values `names`, as host arrays, of the program in a file, run with the weights of `module`."""
    import torch

    taken: Arrays = {}

    def note(node: Any, value: torch.Tensor) -> None:
        if node.name in names:
            taken[node.name] = value.to("cpu", torch.float32 if value.dtype == torch.bfloat16 else value.dtype).numpy()

    _interpret(_load(program, str(next(iter(module.parameters())).device)), module, batch, note)
    return taken


@lru_cache(maxsize=1)
def _load(path: str, device: str) -> Any:
    import torch
    from torch.export.passes import move_to_device_pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path)
    return program if device == "cpu" else move_to_device_pass(program, device)


def _interpret(program: Any, module: Any, batch: Mapping[str, Any], note: Callable[[Any, Any], None]) -> None:
    """Run `program`, calling `note` with each node and the tensor that it computes; values are freed after last use."""
    import torch
    from torch.export.graph_signature import InputKind
    from torch.utils._pytree import tree_map

    weights = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    parameter = next(iter(module.parameters()))
    is_reference = parameter.dtype == torch.float64

    def widened(value: Any) -> Any:
        """Floating types and constants of the program in float64, which it was not traced in."""
        if isinstance(value, torch.dtype) and value.is_floating_point:
            return torch.float64
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    class Taking(torch.fx.Interpreter):  # type: ignore[misc, unused-ignore]
        def run_node(self, n: Any) -> Any:
            if n.op == "call_function" and "assert" in str(n.target):
                return None  # of the traced dtype
            value = super().run_node(n)
            if n.op == "call_function" and isinstance(value, torch.Tensor):
                note(n, value)
            return value

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if is_reference:
                args, kwargs = tree_map(widened, (args, kwargs))
            return super().call_function(target, args, kwargs)

    host = iter(batch.values())
    arguments = []
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            arguments.append(torch.from_numpy(next(host)).to(parameter.device))
        else:
            stored = program.constants if spec.kind == InputKind.CONSTANT_TENSOR else weights
            arguments.append(stored[spec.target])
    with torch.inference_mode():
        Taking(program.graph_module).run(*arguments)


# What a worker holds.


def _values(loop: Loop, batch: Arrays, names: Sequence[str]) -> Arrays:
    """Values inside the model, of one call on a batch."""
    values, _ = abilities.inner_values(loop.backend).run_inner(batch, names)
    return dict(values)


def _module(loop: Loop) -> Any:
    return getattr(loop.backend, "module")  # noqa: B009 - asked of eager alone, which has one


def _read(path: str) -> Arrays:
    """Input arrays by name, in the model's order."""
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def _mask(batch: Arrays) -> Array:
    """Which positions of a batch count, [batch, length]; the first input has these axes."""
    return kept_positions(batch, next(iter(batch.values())).shape[1])
