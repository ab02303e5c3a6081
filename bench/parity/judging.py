"""A worker's part in judging: the reference's outputs written to files, and a backend's held against them.

A reference is a folder with two files a case: the inputs, and eager's outputs at the judged rows and positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import BackendError
from bench.parity import inputs, metrics
from bench.parity.inputs import InputPlan

if TYPE_CHECKING:
    import numpy as np

    from backends.base import Backend

    Arrays = dict[str, np.ndarray[Any, Any]]


def evaluate(
    backend: Backend,
    plan: InputPlan,
    folder: Path,
    texts: Sequence[Sequence[int]] | None,
    ids: Mapping[str, Any] | None = None,
) -> None:
    """Write inputs and outputs of every case of `plan` into `folder`; only the judged rows are run."""
    import numpy as np

    rows = inputs.judged_rows(plan)
    for case in plan.cases:
        batch = batch_of(backend, plan, case, ids, texts)
        np.savez(inputs_file(folder, case), **batch)  # type: ignore[arg-type]
        outputs = run(backend, {name: array[rows] for name, array in batch.items()})
        positions = inputs.judged_positions(plan)
        judged = {name: at(array, positions, name in plan.whole_outputs) for name, array in outputs.items()}
        np.savez(outputs_file(folder, case), **judged)


def make_batch(backend: Backend, plan: InputPlan, case: str, texts: Sequence[Sequence[int]] | None = None) -> Arrays:
    """A case's inputs; where the model makes them itself, by its own function, which eager's module carries."""
    if not plan.makes_inputs:
        return inputs.make_batch(plan, case, texts)
    module = getattr(backend, "module")  # noqa: B009 - asked of eager alone, which has one
    made: Arrays = module.make_inputs(plan.batch, plan.length, plan.seed)
    return made


def batch_of(backend: Backend, plan: InputPlan, case: str, ids: Mapping[str, Any] | None, texts: Any = None) -> Arrays:
    """A case's inputs: rows of given ids, padded, or drawn by the plan."""
    if ids is None:
        return make_batch(backend, plan, case, texts)
    return inputs.padded(ids[case], plan)


def at(array: Any, positions: Sequence[int], is_whole: bool) -> Any:
    """An output at some positions; all of it where it has none."""
    return array if is_whole else array[:, positions]


def check(backend: Backend, plan: InputPlan, reference: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by case, of calls on the inputs that lie in `reference`; `request` is as `figures` takes it."""
    return {
        case: figures(run(backend, _read(inputs_file(reference, case))), plan, case, reference, **request)
        for case in plan.cases
    }


def figures(
    outputs: Arrays, plan: InputPlan, case: str, reference: Path, *, eager_error: str, precision: str, atol: float,
    rtol: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """What `metrics.compare` says of one case's `outputs` [batch, length, width], at the judged rows and positions.

    Raises BackendError when the two folders are not of the same inputs: neither could be believed.
    """
    import numpy as np

    batch, other = _read(inputs_file(reference, case)), _read(inputs_file(Path(eager_error), case))
    if batch.keys() != other.keys() or not all(np.array_equal(batch[name], other[name]) for name in batch):
        raise BackendError("reference and eager's own outputs are of different inputs; `bench artifacts prune` both")
    for name, array in outputs.items():
        axes = (plan.batch,) if name in plan.whole_outputs else (plan.batch, plan.length)
        if array.shape[: len(axes)] != axes:
            wanted = f"[{', '.join(map(str, axes))}, …]"
            return [{"mismatch": f"{name} has shape {list(array.shape)} instead of {wanted}", "compared": 0}]
    rows, positions = inputs.judged_rows(plan), inputs.judged_positions(plan)
    mask = inputs.kept(batch, plan.length)[rows][:, positions]
    taken = {name: at(array[rows], positions, name in plan.whole_outputs) for name, array in outputs.items()}
    expected, eager = _read(outputs_file(reference, case)), _read(outputs_file(Path(eager_error), case))
    found = metrics.compare(taken, expected, eager, mask, precision, atol, rtol, plan.whole_outputs)
    for entry in found:
        for place in ("max_abs_at", "worst_token"):
            if place in entry:
                row, position, *unit = entry[place]
                is_whole = entry["output"] in plan.whole_outputs
                entry[place] = [rows[row], position if is_whole else positions[position], *unit]
    return found


def figures_of_row(
    outputs: Arrays, shape: Sequence[int], row: int, plan: InputPlan, case: str, stored: Mapping[str, str], *,
    precision: str, atol: float, rtol: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """`figures` of one row of a call of `shape` [rows, length], whose reference was computed alone and unpadded."""
    taken = {}
    for output, array in outputs.items():
        axes = (shape[0],) if output in plan.whole_outputs else tuple(shape)
        if array.shape[: len(axes)] != axes:
            return [{"mismatch": f"{output} has shape {list(array.shape)} for a call of {list(axes)}", "compared": 0}]
        own = array[row : row + 1]
        taken[output] = own if output in plan.whole_outputs else own[:, : plan.length]
    return figures(
        taken, plan, case, Path(stored["reference"]), eager_error=stored["eager_error"], precision=precision, atol=atol,
        rtol=rtol,
    )  # fmt: skip


def read_inputs(folder: Path, case: str) -> Arrays:
    """The stored inputs of a case."""
    return _read(inputs_file(folder, case))


def _read(path: Path) -> Arrays:
    import numpy as np

    with np.load(path) as stored:
        return dict(stored)


def run(backend: Backend, batch: Arrays) -> Arrays:
    """Host outputs of one call on host arrays."""
    outputs = backend.run(backend.prepare(batch))
    backend.synchronize()
    return backend.fetch(outputs)


def inputs_file(folder: Path, case: str) -> Path:
    """Where the inputs of a case are stored."""
    return folder / f"{case}.inputs.npz"


def outputs_file(folder: Path, case: str) -> Path:
    """Where eager's outputs of a case are stored."""
    return folder / f"{case}.npz"
