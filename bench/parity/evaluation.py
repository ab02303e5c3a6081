"""What a worker with eager in it is called for: references written into a folder of the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import one_line
from bench.machine import operations
from bench.parity import generation, inputs, judging
from bench.parity.inputs import InputPlan

if TYPE_CHECKING:
    from backends.base import Backend
    from bench.process.loop import Loop


def evaluate(
    loop: Loop,
    plan: dict[str, Any],
    ids: dict[str, list[list[int]]] | None,
    texts: list[list[int]] | None,
    folder: str,
    counts: bool = False,
    one_by_one: bool = False,
    steps: int = 0,
    with_cache: bool = False,
    forced_by: str | None = None,
) -> dict[str, Any]:
    """Write inputs and outputs of every case of a plan into `folder`; with `steps`, greedy or forced continuations."""
    settled, backend = InputPlan.from_json(plan), loop.backend
    if steps:
        forced = Path(forced_by) if forced_by else None
        generation.evaluate(backend, settled, steps, Path(folder), texts, forced, with_cache, loop.args.device)
        return {"steps": steps}
    judging.evaluate(backend, settled, Path(folder), texts, ids, one_by_one)
    return {"rows": inputs.judged_rows(settled), **(_operations(backend, settled, ids, texts) if counts else {})}


def _operations(backend: Backend, plan: InputPlan, ids: Any, texts: Any) -> dict[str, Any]:
    """What a call on one row and one on two compute and read."""
    batch = judging.batch_of(backend, plan, plan.cases[0], ids, texts)
    try:
        prepared = backend.prepare({name: array[:1] for name, array in batch.items()})
        module = getattr(backend, "module")  # noqa: B009 - asked of eager alone, which has one
        return operations.count(module, prepared, plan.batch)
    except Exception as error:  # whatever a model raises under the counter costs the roofline, not the reference
        return {"uncounted": one_line(error)}
