"""A worker's part in judging: the reference's outputs written to files, and a backend's held against them.

A reference is a folder with two files a case: the inputs, and eager's outputs at the judged rows and positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import inputs
from bench.inputs import InputPlan
from bench.parity import metrics

if TYPE_CHECKING:
    import numpy as np

    from backends.base import Backend

    Arrays = dict[str, np.ndarray[Any, Any]]


def evaluate(backend: Backend, plan: InputPlan, folder: Path, texts: Sequence[Sequence[int]] | None) -> None:
    """Write inputs and outputs of every case of `plan` into `folder`; only the judged rows are run."""
    import numpy as np

    rows = inputs.judged_rows(plan)
    for case in plan.cases:
        batch = inputs.make_batch(plan, case, texts)
        np.savez(inputs_file(folder, case), **batch)  # type: ignore[arg-type]
        outputs = run(backend, {name: array[rows] for name, array in batch.items()})
        np.savez(outputs_file(folder, case), **_at_positions(outputs, plan))  # type: ignore[arg-type]


def check(backend: Backend, plan: InputPlan, reference: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by case, of calls on the inputs that lie in `reference`; `request` is as `figures` takes it."""
    import numpy as np

    found = {}
    for case in plan.cases:
        with np.load(inputs_file(reference, case)) as stored:
            batch = dict(stored)
        found[case] = figures(run(backend, batch), plan, case, reference, **request)
    return found


def figures(
    outputs: Arrays, plan: InputPlan, case: str, reference: Path, *, yardstick: str, precision: str, atol: float,
    rtol: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """What `metrics.compare` says of one case's `outputs` [batch, length, width], at the judged rows and positions."""
    import numpy as np

    rows = inputs.judged_rows(plan)
    with np.load(inputs_file(reference, case)) as stored:
        mask = stored["attention_mask"][rows][:, inputs.judged_positions(plan)]
    # What has another shape is left as it is, for `compare` to say so.
    taken = {name: array[rows] if array.ndim and len(array) == plan.batch else array for name, array in outputs.items()}
    with (
        np.load(outputs_file(reference, case)) as expected,
        np.load(outputs_file(Path(yardstick), case)) as eager,
    ):
        return metrics.compare(_at_positions(taken, plan), dict(expected), dict(eager), mask, precision, atol, rtol)


def run(backend: Backend, batch: Arrays) -> Arrays:
    """Host outputs of one call on host arrays."""
    outputs = backend.run(backend.prepare(batch))
    backend.synchronize()
    return backend.fetch(outputs)


def _at_positions(outputs: Arrays, plan: InputPlan) -> Arrays:
    """`outputs` at the judged positions, where they have positions at all."""
    positions = inputs.judged_positions(plan)
    return {
        name: array[:, positions] if array.ndim > 1 and array.shape[1] == plan.length else array
        for name, array in outputs.items()
    }


def inputs_file(folder: Path, case: str) -> Path:
    """Where the inputs of a case are stored."""
    return folder / f"{case}.inputs.npz"


def outputs_file(folder: Path, case: str) -> Path:
    """Where eager's outputs of a case are stored."""
    return folder / f"{case}.npz"
