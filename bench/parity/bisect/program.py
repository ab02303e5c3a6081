"""The program that an ONNX file was translated from, run value by value in a worker process.

torch's exporter names an ONNX value after the value of the torch program that it stands for, so
the program, run on the checkpoint's weights in float64, is a reference for the nodes of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.parity.bisect.inner import mask_of, sample

if TYPE_CHECKING:
    import torch

#: A value equals a hidden state when it is within this share of it.
SAME = 1e-9


def survey(module: Any, path: Path, batch: Mapping[str, Any], known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every tensor of the program at `path`, in execution order, run with the weights of float64 `module`.

    Each is {"name", "inputs", "bytes" in float64, "axes", "module" that computes it, "is_output", "states"}: which of
    the sampled hidden states `known` it equals.
    """
    import numpy as np

    program = _load(path, "cpu")
    mask = mask_of(batch)
    (output,) = program.graph_signature.user_outputs
    symbols = next(node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    found: list[dict[str, Any]] = []

    def note(node: Any, value: torch.Tensor) -> None:
        width = value.shape[-1] if value.ndim else 0
        same = []
        if value.dtype.is_floating_point and value.numel() == mask.size * width and width:
            taken = sample(value.numpy(), mask, width)
            for name, state in known.items():
                if state.shape == taken.shape and np.abs(state - taken).max() <= SAME * np.abs(state).max():
                    same.append(name)
        scopes = list((node.meta.get("nn_module_stack") or {}).values())
        found.append(
            {
                "name": node.name,
                "inputs": [entry.name for entry in node.all_input_nodes],
                "bytes": value.numel() * 8,
                "axes": _axes(node.meta["val"].shape, symbols.meta["val"].shape),
                "module": scopes[-1][0] if scopes else "",
                "is_output": node.name == output,
                "states": same,
            }
        )

    _run(program, module, batch, note)
    return found


def run(module: Any, path: Path, batch: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The values `names`, as host arrays, of the program at `path`, run with the weights of `module`."""
    import torch

    taken: dict[str, Any] = {}

    def take(node: Any, value: torch.Tensor) -> None:
        if node.name in wanted:
            taken[node.name] = value.to("cpu", torch.float32 if value.dtype == torch.bfloat16 else value.dtype).numpy()

    wanted = set(names)
    device = next(iter(module.parameters())).device
    _run(_load(path, str(device)), module, batch, take)
    return taken


@lru_cache(maxsize=1)
def _load(path: Path, device: str) -> Any:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path)
    if device == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


def _axes(shape: Sequence[Any], input_shape: Sequence[Any]) -> list[str | None]:
    """What each axis of a traced shape counts, by the symbols of an input's [batch, length]."""
    batch, length = (str(size) for size in input_shape)
    names = {batch: "batch", length: "length", f"{batch}*{length}": "tokens", f"{length}*{batch}": "tokens"}
    return [names.get(str(size)) for size in shape]


def _run(program: Any, module: Any, batch: Mapping[str, Any], take: Callable[[Any, Any], None]) -> None:
    """Run `program`, calling `take` with each node and the tensor that it computes; values are freed after last use."""
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
                take(n, value)
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
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            arguments.append(program.constants[spec.target])
        else:
            arguments.append(weights[spec.target])
    with torch.inference_mode():
        Taking(program.graph_module).run(*arguments)
