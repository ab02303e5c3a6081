"""A worker's side of one cell: what a workload times and judges on a loaded backend."""

from __future__ import annotations

import argparse
import gc
import os
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bench.machine import gpu, memory
from bench.parity import inputs, judging
from bench.parity.distinct import Distinct
from bench.parity.inputs import InputPlan
from bench.process import abilities, timing
from bench.process.timing import KINDS_OF_TIME, Sampling

if TYPE_CHECKING:
    import numpy as np

    from backends.base import Backend

    Arrays = dict[str, np.ndarray[Any, Any]]

Result = TypeVar("Result")


class Cell(ABC):
    """One candidate at one point. Several may be begun at once in one worker; the loop asks one at a time.

    `begin` prepares, makes the first call, watches one and warms up. `turn` takes samples. `judge` compares outputs
    with stored references. `end` lets everything go. Whatever they return is JSON.
    """

    timed_case: ClassVar[str] = ""
    """The judged case whose outputs turns give; "" if they give none."""

    def __init__(self, backend: Backend, args: argparse.Namespace) -> None:
        self.backend, self.args = backend, args
        self.kept: dict[str, Any] = args.__dict__.setdefault("kept", {})
        """What cells of one worker leave for later ones, e.g. shapes that are warmed up."""
        self.facts_before: dict[str, Any] = {}
        self.stored: Path | None = None
        """Where inputs lie that the user's own module made."""
        self.ahead: dict[str, tuple[Arrays | str, dict[str, int]]] = {}
        """What is judged of a call that was made before the turns, and the memory of that, by case."""
        self.distinct, self._place_of_turns = Distinct(), ""
        """Outputs of turns, also of those before the cell was let go and begun again in the same worker."""

    def start(self, stored_inputs: str | None = None, no_inputs: str = "", **request: Any) -> dict[str, Any]:
        """Begin on inputs that the user's own module made, in the folder `stored_inputs`; without it, on drawn ones.

        `no_inputs` says why they are missing, which only a backend that computes no model can do without.
        """
        from backends.base import BackendError

        if no_inputs and self.backend.spec.computes_the_model:
            raise BackendError(f"the module's own inputs are not there: {no_inputs}")
        self.stored = None if stored_inputs is None else Path(stored_inputs)
        self._place_of_turns = f"turns {zlib.crc32(repr((stored_inputs, request)).encode()):08x}"
        self.distinct = self.kept.setdefault(self._place_of_turns, self.distinct)
        return self.begin(**request)

    @abstractmethod
    def begin(self, *args: Any, **request: Any) -> dict[str, Any]:
        """Prepare and warm up; returns "once" (first_call_ns, warmup_ns, is_stable, calls_per_sample), "facts" and
        "figures", each if it has any.
        """

    @abstractmethod
    def turn(self, *args: Any, **request: Any) -> dict[str, Any]:
        """Take one turn; returns "times_ns" (kind -> samples), and if it has any "figures" and "outputs", a checksum of
        the last outputs. "cpu_seconds" and "queue_delay_seconds" of this process, which are not counted as other work,
        are added if they are not there.
        """

    def outputs(self, unit: str, case: str, plan: InputPlan, ids: Any) -> tuple[Arrays, dict[str, int]]:
        """Outputs on the inputs of one judged case, of the timed call or of one more, and the memory of that one."""
        if self.stored is None:
            return self.run_once(judging.batch_of(self.backend, plan, case, ids))
        return self.run_once(self.batch(plan, case))

    def judge(self, units: Mapping[str, dict[str, Any]], atol: float, rtol: float, **further: Any) -> dict[str, Any]:
        """Figures by case of all distinct outputs against the references of `units`, and their identities; the facts
        and the memory of the last call; and the checksums of all turns' outputs that this worker saw.

        A unit has its inputs ("plan", "ids"), and if it is judged the folders "reference" and "eager_error". Cases
        of different units may not share a name. "original" are the identities of eager's outputs by case, if known.
        """
        facts, original = self.facts_after(), further.get("original", {})
        figures: dict[str, list[dict[str, Any]]] = {}
        identities: dict[str, list[str]] = {}
        held: dict[str, int] = {}
        for asked, plan, case, every, of_call in self._judged(units):
            held = of_call or held
            if (reference := asked.get("reference")) is not None:
                identities[case] = [judging.identity(taken, plan, case, Path(reference)) for taken in every]
                figures[case] = [
                    entry
                    for taken in every
                    for entry in judging.figures_of(
                        taken, plan, case, Path(reference), eager_error=asked["eager_error"],
                        precision=self.args.precision, atol=atol, rtol=rtol, original=original.get(case),
                    )
                ]  # fmt: skip
        seen = list(self.distinct.seen)
        self.forget_turns()
        return {"cases": figures, "facts": facts, "memory": held, "identities": identities, "seen": seen}

    def _judged(
        self, units: Mapping[str, dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], InputPlan, str, list[Arrays | str], dict[str, int]]]:
        """Each case: its unit, plan and name, the distinct outputs of its timed calls or those of one more call, and
        the memory of that.
        """
        for unit, asked in units.items():
            plan = InputPlan.from_json(asked["plan"])
            for case in plan.cases:
                if case in self.ahead:
                    taken, held = self.ahead[case]
                else:
                    arrays, held = self.outputs(unit, case, plan, asked.get("ids"))
                    taken = judging.judged(arrays, plan, case)
                of_turns = list(self.distinct.kept.values()) if case == self.timed_case else []
                yield asked, plan, case, of_turns or [taken], held

    def forget_turns(self) -> None:
        """Let go of the outputs of this cell's turns."""
        self.kept.pop(self._place_of_turns, None)

    def end(self) -> None:  # noqa: B027 - most cells are let go with their object
        """Let go of inputs and outputs."""

    # What cells share.

    def batch(self, plan: InputPlan, case: str = "timed") -> Arrays:
        """Inputs of one case: those that the user's own module made, or drawn by `plan`."""
        return inputs.make_batch(plan, case) if self.stored is None else judging.read_inputs(self.stored, case)

    def facts_after(self) -> dict[str, Any]:
        """The backend's facts, with how often it compiled since `facts_before`."""
        facts = self.backend.facts()
        if "graphs" in facts:
            facts["recompiles_while_timing"] = facts["graphs"] - self.facts_before.get("graphs", facts["graphs"])
        return facts

    def run_once(self, batch: Arrays) -> tuple[Arrays, dict[str, int]]:
        """Outputs of one call on host arrays, and the memory that it took."""
        return self.run_prepared(self.backend.prepare(batch))

    def run_prepared(self, prepared: Any) -> tuple[Arrays, dict[str, int]]:
        """Outputs of one call on what `prepare` returned, and the memory that it took."""
        backend = self.backend
        outputs, held = self.held_by(lambda: backend.run(prepared))
        arrays = backend.fetch(outputs)
        self.release(outputs)
        return arrays, held

    def held_by(self, call: Callable[[], Result]) -> tuple[Result, dict[str, int]]:
        """What `call` returns, and the memory that it took at most."""
        backend = self.backend
        backend.synchronize()
        abilities.reset_peak(backend)
        is_of_this_call = memory.set_peak_back()
        result = call()
        backend.synchronize()
        held = memory.resident_bytes() | abilities.held(backend) | self._held_on_the_card()
        if not is_of_this_call:
            held.pop("peak_process_bytes", None)
        return result, held

    def release(self, outputs: Any) -> None:
        """Let go of what a call returned."""
        abilities.release_of(self.backend)(outputs)

    def first_call(self, prepared: Any) -> tuple[int, dict[str, Any]]:
        """Nanoseconds of the first call of what was prepared, and facts on that call; its outputs are let go."""
        backend, first_ns = self.backend, list[int]()
        first = timing.Step(lambda: backend.run(prepared), backend.synchronize)

        def timed() -> Any:
            first_ns.append(first.wall_ns(time.perf_counter_ns))
            outputs, first.outputs = first.outputs, None
            return outputs

        outputs, facts = abilities.watched(backend, prepared, timed)
        backend.synchronize()
        self.release(outputs)
        return first_ns[0], dict(facts)

    def watch(self, prepared: Any) -> dict[str, Any]:
        """Facts on one call that is not timed; its outputs are let go."""
        outputs, facts = abilities.watched(self.backend, prepared)
        self.backend.synchronize()
        self.release(outputs)
        return dict(facts)

    def _held_on_the_card(self) -> dict[str, int]:
        """What this process holds on the GPU behind a call: the most, as no allocator gives back before a cell ends."""
        held = gpu.process_bytes(os.getpid()) if self.args.device == "cuda" else None
        return {} if held is None else {"peak_device_process_bytes": held}


class TimedCell(Cell):
    """A cell whose `begin` sets `plan`, `sampling`, `boundary` and a `step`, and ends with `warmed_up`."""

    plan: InputPlan
    sampling: Sampling
    boundary: str
    step: timing.Step

    def warmed_up(self, first_ns: int, watched: dict[str, Any]) -> dict[str, Any]:
        """What `begin` returns, once the step is warmed up."""
        self.warm = self.warm_up(first_ns)
        self.facts_before = self.backend.facts() | watched
        once = {"first_call_ns": first_ns, "warmup_ns": self.warm.warmup_ns, "is_stable": self.warm.is_stable}
        return {"once": once | {"calls_per_sample": self.warm.calls_per_sample}, "facts": self.facts_before}

    def warm_up(self, first_ns: int) -> timing.WarmUp:
        """Warm the step up, whose first call took `first_ns`."""
        return timing.warm_up(self.step, self.sampling)

    def turn(self, seconds: float) -> dict[str, Any]:
        samples = timing.take_turn(self.step, seconds, self.warm, self.sampling)
        times = {kind: getattr(samples, f"{kind}_ns") for kind in KINDS_OF_TIME}
        return {"times_ns": times, "outputs": self.distinct.take(self._last_outputs(), self.plan)}

    def _last_outputs(self) -> Any:
        return self.step.outputs if self.boundary == "host" else self.backend.fetch(self.step.outputs)


def settle() -> None:
    """Collect garbage, and none from here on, so that no collection falls into a timed call."""
    gc.collect()
    gc.disable()
