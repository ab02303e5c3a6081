"""What a worker answers about parity: references written, outputs checked, values inside the model for bisection."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.parity import generation, inner, judging
from bench.parity import program as programs
from bench.parity.inputs import InputPlan, judged_rows
from bench.process import abilities

if TYPE_CHECKING:
    from backends.base import Backend
    from backends.protocols import InnerValues


class ParityRequests:
    """Requests: evaluate, check, evaluate_generation, check_generation; and for bisection inner_values, measure_inner,
    run_inner, probe_inner, sample_inner, liken_inner, compare_inner, save_program, survey_program, run_program.
    """

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

    def _inner(self) -> InnerValues:
        return abilities.inner_values(self.backend)

    def do_inner_values(self) -> dict[str, Any]:
        """Values inside the model, in execution order, as name -> [operation, names that it reads]; and the outputs."""
        values = self._inner().inner_values()
        return {
            "values": {name: [value.operation, list(value.inputs)] for name, value in values.items()},
            "outputs": getattr(self.backend, "output_names", []),
        }

    def do_measure_inner(self, inputs: str, names: list[str]) -> dict[str, Any]:
        """Shapes of inner values."""
        return {"shapes": inner.shapes(self._inner(), Path(inputs), names)}

    def do_run_inner(self, inputs: str, names: list[str], path: str) -> dict[str, Any]:
        """Write inner values to `path`."""
        return inner.run(self._inner(), Path(inputs), names, Path(path))

    def do_probe_inner(self, inputs: str, names: list[str], width: int) -> dict[str, Any]:
        """Those of `names` that are hidden states of `width`."""
        return {"names": inner.probe(self._inner(), Path(inputs), names, width)}

    def do_sample_inner(self, inputs: str, names: list[str], path: str, width: int) -> dict[str, Any]:
        """Write samples of hidden states of `width` to `path`."""
        inner.write(Path(path), inner.samples(self._inner(), Path(inputs), names, width))
        return {}

    def do_liken_inner(self, states: str, candidates: list[str]) -> dict[str, Any]:
        """The candidate nearest to each sampled state."""
        return {"nearest": inner.likeness(Path(states), [Path(path) for path in candidates])}

    def do_compare_inner(
        self, ours: str, reference: str, yardstick: str, inputs: str, values: list[dict[str, Any]], precision: str
    ) -> dict[str, Any]:
        """Figures of each of `values`."""
        paths = (Path(ours), Path(reference), Path(yardstick), Path(inputs))
        return {"figures": inner.compare(*paths, values, precision)}

    def do_save_program(self, precision: str, path: str) -> dict[str, Any]:
        """Write the program that the checkpoint's ONNX file was translated from."""
        from exporters import onnx

        onnx.save_program(Path(self.args.artifact), precision, Path(path))
        return {}

    def do_survey_program(self, path: str, inputs: str, layers: list[str], width: int) -> dict[str, Any]:
        """Every tensor of the program, with the hidden states of `layers` that it equals."""
        states = inner.samples(self._inner(), Path(inputs), layers, width)
        return {"values": programs.survey(self._module(), Path(path), inner.read_inputs(Path(inputs)), states)}

    def do_run_program(self, program: str, inputs: str, names: list[str], path: str) -> dict[str, Any]:
        """Write values `names` of the program, computed with this backend's weights, to `path`."""
        batch = inner.read_inputs(Path(inputs))
        inner.write(Path(path), programs.run(self._module(), Path(program), batch, names))
        return {}
