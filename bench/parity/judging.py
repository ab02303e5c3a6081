"""A worker's part in judging: the reference's outputs written to files, and a backend's held against them.

A reference is a folder with two files a case: the inputs, and eager's outputs at the judged rows and positions.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
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

    rows, positions = inputs.judged_rows(plan), inputs.judged_positions(plan)
    for case in plan.cases:
        batch = batch_of(backend, plan, case, ids, texts)
        np.savez(inputs_file(folder, case), **batch)  # type: ignore[arg-type]
        outputs = run(backend, {name: array[rows] for name, array in batch.items()})
        taken = {name: array if name in plan.whole_outputs else array[:, positions] for name, array in outputs.items()}
        np.savez(outputs_file(folder, case), **taken)  # type: ignore[arg-type]


def batch_of(backend: Backend, plan: InputPlan, case: str, ids: Mapping[str, Any] | None, texts: Any = None) -> Arrays:
    """A case's inputs: rows of given ids, padded; what the user's own module makes; or drawn by the plan."""
    if ids is not None:
        return inputs.padded(ids[case], plan)
    if not plan.makes_inputs:
        return inputs.make_batch(plan, case, texts)
    module = getattr(backend, "module")  # noqa: B009 - asked of eager alone, which has one
    made: Arrays = module.make_inputs(plan.batch, plan.length, plan.seed)
    return made


def check(backend: Backend, plan: InputPlan, reference: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by case, of calls on the inputs that lie in `reference`; `request` is as `figures` takes it."""
    return {
        case: figures(run(backend, read_inputs(reference, case)), plan, case, reference, **request)
        for case in plan.cases
    }


def judged(outputs: Mapping[str, Any], plan: InputPlan) -> Arrays | str:
    """Outputs [batch, length, …] at the judged rows and positions; or what is wrong with the shape of one."""
    rows, positions = inputs.judged_rows(plan), inputs.judged_positions(plan)
    taken = {}
    for name, array in outputs.items():
        is_whole = name in plan.whole_outputs
        axes = (plan.batch, plan.length)[: 1 if is_whole else 2]
        if array.shape[: len(axes)] != axes:
            return f"{name} has shape {list(array.shape)} instead of [{', '.join(map(str, axes))}, …]"
        taken[name] = array[rows] if is_whole else array[rows][:, positions]
    return taken


def figures(outputs: Arrays, plan: InputPlan, case: str, reference: Path, **tolerances: Any) -> list[dict[str, Any]]:
    """`figures_of` one case's `outputs` [batch, length, width]."""
    return figures_of(judged(outputs, plan), plan, case, reference, **tolerances)


def figures_of(
    taken: Arrays | str, plan: InputPlan, case: str, reference: Path, *, eager_error: str, precision: str, atol: float,
    rtol: float, original: Collection[str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """What `metrics.compare` says of what `judged` took of one case's outputs.

    `original` are the identities of eager's own outputs in this run, which decide what is identical to eager; without
    them the stored ones do, of a call on the judged rows alone. Raises BackendError when the two folders are not of
    the same inputs: neither could be believed.
    """
    import numpy as np

    batch, other = read_inputs(reference, case), read_inputs(Path(eager_error), case)
    if batch.keys() != other.keys() or not all(np.array_equal(batch[name], other[name]) for name in batch):
        raise BackendError("reference and eager's own outputs are of different inputs; `bench artifacts prune` both")
    if isinstance(taken, str):
        return [{"mismatch": taken, "compared": 0}]
    rows, positions = inputs.judged_rows(plan), inputs.judged_positions(plan)
    mask = inputs.kept(batch, plan.length)[rows][:, positions]
    expected, eager = (_read(outputs_file(folder, case)) for folder in (reference, Path(eager_error)))
    found = metrics.compare(taken, expected, eager, mask, precision, atol, rtol, plan.whole_outputs)
    for entry in found:
        own = [0] if entry.get("output") in plan.whole_outputs else positions
        for place in {"max_abs_at", "worst_token"} & entry.keys():
            row, position, *unit = entry[place]
            entry[place] = [rows[row], own[position], *unit]
        if original is not None and "identical_to_eager" in entry:
            entry["identical_to_eager"] = identity(taken, plan, case, reference) in original
    return found


def identity(taken: Arrays | str, plan: InputPlan, case: str, reference: Path) -> str:
    """Checksum of what is judged of outputs: equal for two candidates whose outputs are bit-identical there."""
    if isinstance(taken, str):
        return taken
    rows, positions = inputs.judged_rows(plan), inputs.judged_positions(plan)
    mask = inputs.kept(read_inputs(reference, case), plan.length)[rows][:, positions].astype(bool)
    return checksum({name: array if name in plan.whole_outputs else array[mask] for name, array in taken.items()})


def checksum(arrays: Mapping[str, Any]) -> str:
    """CRC-32 of arrays, their names, types and shapes, as eight hexadecimal digits."""
    import numpy as np

    found = 0
    for name, array in sorted(arrays.items()):
        found = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), found)
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
    return f"{found:08x}"


def figures_of_row(
    outputs: Arrays, shape: Sequence[int], row: int, plan: InputPlan, case: str, stored: Mapping[str, str],
    **tolerances: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """`figures` of one row of a call of `shape` [rows, length], whose reference was computed alone and unpadded."""
    taken = {}
    for name, array in outputs.items():
        axes = tuple(shape)[: 1 if name in plan.whole_outputs else 2]
        if array.shape[: len(axes)] != axes:
            return [{"mismatch": f"{name} has shape {list(array.shape)} for a call of {list(axes)}", "compared": 0}]
        own = array[row : row + 1]
        taken[name] = own if name in plan.whole_outputs else own[:, : plan.length]
    return figures(taken, plan, case, Path(stored["reference"]), eager_error=stored["eager_error"], **tolerances)


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
