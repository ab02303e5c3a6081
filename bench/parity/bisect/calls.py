"""What a worker is called for by a bisection: values inside its model, taken, compared and written to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.parity.bisect import inner
from bench.parity.bisect import program as programs
from bench.process import abilities

if TYPE_CHECKING:
    from backends.protocols import InnerValues
    from bench.process.loop import Loop


def inner_values(loop: Loop) -> dict[str, Any]:
    """Values inside the model, in execution order, as name -> [operation, names that it reads]; and the outputs."""
    values = _inner(loop).inner_values()
    return {
        "values": {name: [value.operation, list(value.inputs)] for name, value in values.items()},
        "outputs": getattr(loop.backend, "output_names", []),
    }


def measure_inner(loop: Loop, inputs: str, names: Sequence[str]) -> dict[str, Any]:
    """Shapes of inner values."""
    return {"shapes": inner.shapes(_inner(loop), Path(inputs), names)}


def run_inner(loop: Loop, inputs: str, names: Sequence[str], path: str) -> dict[str, Any]:
    """Write inner values to `path`."""
    return inner.run(_inner(loop), Path(inputs), names, Path(path))


def probe_inner(loop: Loop, inputs: str, names: Sequence[str], width: int) -> dict[str, Any]:
    """Those of `names` that are hidden states of `width`."""
    return {"names": inner.probe(_inner(loop), Path(inputs), names, width)}


def sample_inner(loop: Loop, inputs: str, names: Sequence[str], path: str, width: int) -> dict[str, Any]:
    """Write samples of hidden states of `width` to `path`."""
    inner.write(Path(path), inner.samples(_inner(loop), Path(inputs), names, width))
    return {}


def liken_inner(loop: Loop, states: str, candidates: Sequence[str]) -> dict[str, Any]:
    """The candidate nearest to each sampled state."""
    return {"nearest": inner.likeness(Path(states), [Path(path) for path in candidates])}


def compare_inner(
    loop: Loop, ours: str, reference: str, eager: str, inputs: str, values: Sequence[dict[str, Any]], precision: str
) -> dict[str, Any]:
    """Figures of each of `values`."""
    paths = (Path(ours), Path(reference), Path(eager), Path(inputs))
    return {"figures": inner.compare(*paths, values, precision)}


def save_program(loop: Loop, precision: str, path: str) -> dict[str, Any]:
    """Write the program that the checkpoint's ONNX file was translated from."""
    from exporters import onnx

    onnx.save_program(Path(loop.args.artifact), precision, Path(path))
    return {}


def survey_program(loop: Loop, path: str, inputs: str, layers: Sequence[str], width: int) -> dict[str, Any]:
    """Every tensor of the program, with the hidden states of `layers` that it equals."""
    states = inner.samples(_inner(loop), Path(inputs), layers, width)
    return {"values": programs.survey(_module(loop), Path(path), inner.read_inputs(Path(inputs)), states)}


def run_program(loop: Loop, program: str, inputs: str, names: Sequence[str], path: str) -> dict[str, Any]:
    """Write values `names` of the program, computed with this backend's weights, to `path`."""
    batch = inner.read_inputs(Path(inputs))
    inner.write(Path(path), programs.run(_module(loop), Path(program), batch, names))
    return {}


def _inner(loop: Loop) -> InnerValues:
    return abilities.inner_values(loop.backend)


def _module(loop: Loop) -> Any:
    return getattr(loop.backend, "module")  # noqa: B009 - asked of eager alone, which has one
