"""A worker's part in judging: the reference's outputs written to files, and a backend's held against them.

A reference is a folder with two files a case: the inputs of the judged rows, and eager's outputs there. One that was
computed on more rows of the same length serves as well, and one of the user's own inputs holds the whole batch.
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
    one_by_one: bool = False,
) -> None:
    """Write inputs and outputs of every case of `plan` into `folder`; the judged rows alone are run, at once or
    `one_by_one`.
    """
    import numpy as np

    plan = inputs.rows_of_reference(plan) if ids is None else plan
    positions = inputs.judged_positions(plan, rows=1)
    for case in plan.cases:
        batch, rows = batch_of(backend, plan, case, ids, texts), inputs.judged_rows(plan, case)
        if not plan.makes_inputs:
            batch, rows = {name: array[rows] for name, array in batch.items()}, list(range(len(rows)))
        np.savez(inputs_file(folder, case), **batch)  # type: ignore[arg-type]
        calls = [[row] for row in rows] if one_by_one else [rows]
        each = [run(backend, {name: array[some] for name, array in batch.items()}) for some in calls]
        outputs = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
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
        case: figures(run(backend, whole_batch(plan, case, reference)), plan, case, reference, **request)
        for case in plan.cases
    }


def whole_batch(plan: InputPlan, case: str, reference: Path) -> Arrays:
    """A case's inputs: the judged rows as they lie in `reference`, and the others drawn; random ones beside text."""
    stored, rows = read_inputs(reference, case), inputs.judged_rows(plan, case)
    if plan.makes_inputs or len(next(iter(stored.values()))) == plan.batch:
        return stored
    ids, _, mask = case.partition("-")
    batch = inputs.make_batch(plan, f"random-{mask}" if ids == "text" else case)
    for name, array in batch.items():
        array[rows] = stored[name][: len(rows)]
    return batch


def judged(outputs: Mapping[str, Any], plan: InputPlan, case: str = "") -> Arrays | str:
    """Outputs [batch, length, …] at the judged rows and positions; or what is wrong with the shape of one."""
    rows, positions = inputs.judged_rows(plan, case), inputs.judged_positions(plan)
    taken = {}
    for name, array in outputs.items():
        is_whole = name in plan.whole_outputs
        axes = (plan.batch, plan.length)[: 1 if is_whole else 2]
        if array.shape[: len(axes)] != axes:
            return f"{name} has shape {list(array.shape)} instead of [{', '.join(map(str, axes))}, …]"
        taken[name] = array[rows] if is_whole else array[rows][:, positions]
    return taken


def judged_mask(plan: InputPlan, case: str, reference: Path) -> np.ndarray[Any, Any]:
    """Which of the judged positions of a case's judged rows its mask keeps, [rows, positions]."""
    return inputs.kept(judged_inputs(plan, case, reference), plan.length)[:, inputs.judged_positions(plan)]


def figures(outputs: Arrays, plan: InputPlan, case: str, reference: Path, **tolerances: Any) -> list[dict[str, Any]]:
    """`figures_of` one case's `outputs` [batch, length, width]."""
    return figures_of(judged(outputs, plan, case), plan, case, reference, **tolerances)


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

    rows, positions = inputs.judged_rows(plan, case), inputs.judged_positions(plan)
    batch, other = (judged_inputs(plan, case, folder) for folder in (reference, Path(eager_error)))
    if batch.keys() != other.keys() or not all(np.array_equal(batch[name], other[name]) for name in batch):
        raise BackendError("reference and eager's own outputs are of different inputs; `bench artifacts prune` both")
    if isinstance(taken, str):
        return [{"mismatch": taken, "compared": 0}]
    expected, eager = (_judged_outputs(plan, case, folder) for folder in (reference, Path(eager_error)))
    mask = judged_mask(plan, case, reference)
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
    mask = judged_mask(plan, case, reference).astype(bool)
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


def judged_inputs(plan: InputPlan, case: str, folder: Path) -> Arrays:
    """What lies in `folder` of a case's inputs at the judged rows, [rows, …]."""
    rows, stored = inputs.judged_rows(plan, case), read_inputs(folder, case)
    return {name: array[rows] if plan.makes_inputs else array[: len(rows)] for name, array in stored.items()}


def _judged_outputs(plan: InputPlan, case: str, folder: Path) -> Arrays:
    """What lies in `folder` of eager's outputs at the judged rows and positions."""
    import numpy as np

    count = len(inputs.judged_rows(plan, case))
    index = np.searchsorted(inputs.judged_positions(plan, rows=1), inputs.judged_positions(plan))
    own = {name: array[:count] for name, array in _read(outputs_file(folder, case)).items()}
    return {name: array if name in plan.whole_outputs else array[:, index] for name, array in own.items()}


def read_inputs(folder: Path, case: str) -> Arrays:
    """The stored inputs of a case: of the judged rows, or of the whole batch."""
    return _read(inputs_file(folder, case))


def _read(path: Path) -> Arrays:
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
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
