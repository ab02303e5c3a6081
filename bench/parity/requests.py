"""What a worker answers about parity: references written, and outputs checked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.parity import generation, judging
from bench.parity.inputs import InputPlan, judged_rows

if TYPE_CHECKING:
    from backends.base import Backend


class ParityRequests:
    """Requests: evaluate, check, evaluate_generation, check_generation."""

    args: argparse.Namespace
    backend: Backend
    watched: dict[str, Any] | None = None
    """What the first call of a check really took."""

    def do_evaluate(
        self,
        inputs_plan: dict[str, Any],
        folder: str,
        texts: list[list[int]] | None = None,
        counts: bool = True,
    ) -> dict[str, Any]:
        """Write inputs and this backend's outputs for the judged rows of a shape into `folder`, case by case."""
        plan = InputPlan.from_json(inputs_plan)
        judging.evaluate(self.backend, plan, Path(folder), texts)
        return {"rows": judged_rows(plan), **(self._operations(plan) if counts else {})}

    def do_check(
        self, inputs_plan: dict[str, Any], reference: str, yardstick: str, atol: float, rtol: float
    ) -> dict[str, Any]:
        """Figures by case, of calls on the inputs of a stored reference."""
        plan = InputPlan.from_json(inputs_plan)
        request = {"yardstick": yardstick, "precision": self.args.precision, "atol": atol, "rtol": rtol}
        if self.watched is None:  # also ends ONNX Runtime's profiling, under which nothing is judged
            self.watched = judging.watch(self.backend, plan, Path(reference))
        cases = judging.check(self.backend, plan, Path(reference), request)
        return {"cases": cases, "facts": self.backend.facts() | self.watched}

    def do_evaluate_generation(
        self,
        inputs_plan: dict[str, Any],
        folder: str,
        steps: int,
        texts: list[list[int]] | None = None,
        forced_by: str | None = None,
        with_cache: bool = False,
    ) -> dict[str, Any]:
        """Write this backend's greedy or forced continuation of each case's prompt into `folder`."""
        plan = InputPlan.from_json(inputs_plan)
        forced = Path(forced_by) if forced_by else None
        generation.evaluate(self.backend, plan, steps, Path(folder), texts, forced, with_cache, self.args.device)
        return {"steps": steps}

    def do_check_generation(
        self, inputs_plan: dict[str, Any], reference: str, yardstick: str, atol: float, rtol: float
    ) -> dict[str, Any]:
        """Generated tokens and figures by case and way of generating."""
        plan = InputPlan.from_json(inputs_plan)
        request = {"yardstick": yardstick, "precision": self.args.precision, "atol": atol, "rtol": rtol}
        found = generation.check(self.backend, plan, Path(reference), device=self.args.device, **request)
        return {"cases": found}

    def _operations(self, plan: InputPlan) -> dict[str, Any]:
        """What one call on the whole batch computes and reads, counted on one of its rows by the reference alone."""
        if self.args.precision != "fp64":
            return {}
        from backends.base import one_line
        from bench.machine import operations

        batch = {name: array[:1] for name, array in judging.make_batch(self.backend, plan, "timed").items()}
        try:
            return operations.count(self._module(), self.backend.prepare(batch), plan.batch)
        except Exception as error:  # whatever a model raises under the counter costs the floor, not the reference
            return {"uncounted": one_line(error)}

    def _module(self) -> Any:
        return getattr(self.backend, "module")  # noqa: B009 - asked of eager alone, which has one
