"""Requests of the pipelines that have not moved to `bench.run` yet, beside those of the loop."""

# mypy: disable-error-code="override"
from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import gpu, memory
from bench.parity import inputs, judging
from bench.parity.requests import ParityRequests
from bench.process import abilities, channel, timing
from bench.process.loop import Loop
from bench.spec import TimingPlan

if TYPE_CHECKING:
    pass


class Session(Loop, ParityRequests):
    """The state between requests: a backend, and the cell at hand with the outputs of its last timed call.

    Requests: hello, load, begin, turn, judge, end, and those of `ParityRequests`.
    """

    def _operation(self, request: dict[str, Any]) -> Callable[..., dict[str, Any]]:
        operations: Any = Loop if "key" in request else type(self)
        found: Callable[..., dict[str, Any]] = getattr(operations, f"do_{request['op']}")
        return partial(found, self)

    def do_begin(
        self,
        inputs_plan: dict[str, Any],
        plan: dict[str, Any],
        boundary: str = "device",
        stored_inputs: str | None = None,
        no_inputs: str = "",
    ) -> dict[str, Any]:
        """Prepare a cell's inputs, make the first call, watch one, and warm up.

        Inputs that the user's own module made lie with the reference in `stored_inputs`, or `no_inputs` says why not;
        a backend that computes no model takes ids in their place.
        """
        from backends.base import BackendError

        if no_inputs and self.backend.spec.computes_the_model:
            raise BackendError(f"the module's own inputs are not there: {no_inputs}")
        self.inputs_plan = inputs.InputPlan.from_json(inputs_plan)
        self.plan = TimingPlan(**plan)
        self.boundary = boundary
        self.stored_inputs = stored_inputs
        batch = self._batch("timed")
        prepared = self.backend.prepare(batch)
        # Between host and host a call copies and waits, so its events would time the host.
        device_clock = abilities.clock_of(self.backend) if boundary == "device" else None
        self.step = timing.Step(
            partial(self.backend.run, prepared) if boundary == "device" else partial(self._from_host_to_host, batch),
            self.backend.synchronize,
            device_clock.mark if device_clock else None,
            device_clock.elapsed_ns if device_clock else None,
        )
        gc.collect()
        gc.disable()
        first_ns = self.step.wall_ns(time.perf_counter_ns)
        self.step.outputs = None  # two calls' outputs at once would double what autograd or a language model holds
        watched = abilities.watched(self.backend, prepared)[1]
        self.backend.synchronize()
        self.warm = timing.warm_up(self.step, self.plan)
        self.facts_before = self.backend.facts() | watched
        return {"first_call_ns": first_ns, "facts": self.facts_before, **self.warm.to_json()}

    def _batch(self, case: str) -> dict[str, Any]:
        if self.stored_inputs is not None:
            return judging.read_inputs(Path(self.stored_inputs), case)
        return inputs.make_batch(self.inputs_plan, case)

    def _from_host_to_host(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.backend.fetch(self.backend.run(self.backend.prepare(batch)))

    def do_turn(self, seconds: float) -> dict[str, Any]:
        """Take one turn's samples; `cpu_seconds` is what this process used for it."""
        cpu_started = time.process_time()
        samples = timing.take_turn(self.step, seconds, self.warm, self.plan)
        return {**asdict(samples), "cpu_seconds": time.process_time() - cpu_started}

    def do_judge(self, reference: str | None, yardstick: str | None, atol: float, rtol: float) -> dict[str, Any]:
        """Compare the last timed call's outputs, and those under padded masks, with the stored reference.

        The last call of all, which nothing times, is the one whose peak of memory is taken.
        """
        facts = self.backend.facts()
        if "graphs" in facts:
            facts["recompiles_while_timing"] = facts["graphs"] - self.facts_before["graphs"]
        outputs = self.step.outputs if self.boundary == "host" else self.backend.fetch(self.step.outputs)
        self.step.outputs = None
        cases = {}
        last = self.inputs_plan.cases[-1]
        for case in self.inputs_plan.cases:
            if case != "timed":
                outputs, held = self._run_once(case)
            if reference is not None and yardstick is not None:
                cases[case] = self._figures(case, outputs, reference, yardstick, atol, rtol)
        if last == "timed":
            _, held = self._run_once(last)
        return {"cases": cases, "facts": facts, "memory": held}

    def _run_once(self, case: str) -> tuple[dict[str, Any], dict[str, int]]:
        """Outputs of one call on a case's inputs, and the memory that it took."""
        prepared = self.backend.prepare(self._batch(case))
        self.backend.synchronize()
        abilities.reset_peak(self.backend)
        is_of_this_call = memory.set_peak_back()
        outputs = self.backend.run(prepared)
        self.backend.synchronize()
        held = memory.resident_bytes() | abilities.held(self.backend) | self._held_on_the_card()
        if not is_of_this_call:
            held.pop("peak_process_bytes", None)
        return self.backend.fetch(outputs), held

    def _held_on_the_card(self) -> dict[str, int]:
        """What this process holds on the GPU behind a call: the most, as no allocator gives back before a cell ends."""
        held = gpu.process_bytes(os.getpid()) if self.args.device == "cuda" else None
        return {} if held is None else {"peak_device_process_bytes": held}

    def _figures(
        self, case: str, outputs: dict[str, Any], reference: str, yardstick: str, atol: float, rtol: float
    ) -> list[dict[str, Any]]:
        return judging.figures(
            outputs, self.inputs_plan, case, Path(reference),
            yardstick=yardstick, precision=self.args.precision, atol=atol, rtol=rtol,
        )  # fmt: skip

    def do_end(self) -> dict[str, Any]:
        """Let go of the cell's inputs and outputs."""
        self.step = None  # type: ignore[assignment]
        gc.enable()
        gc.collect()
        abilities.trim(self.backend)
        return {}


def start(
    backend: str,
    variant: str,
    precision: str,
    device: str,
    artifact: Path | None,
    threads: int,
    root: Path,
    generation: str = "",
    python: Path | None = None,
    tf32: bool = False,
) -> channel.Worker:
    """Start a worker's process; compiled code is cached under `root`, the folder of the store.

    `generation` is the way of generating that the model is loaded for, of `WAYS`; none for forward passes. `python` is
    the interpreter of another environment than this. `tf32` lets fp32 products round their inputs to TF32.
    """
    command = [*channel.python_module("bench.worker", python), "--backend", backend, "--variant", variant]
    command += ["--precision", precision, "--device", device, "--threads", str(threads)]
    command += [f"--artifact={artifact}"] if artifact else []
    command += ["--generation", generation] if generation else []
    command += ["--tf32"] if tf32 else []
    further = channel.compiler_cache(root) | (channel.project_for_others(root) if python else {})
    return channel.Worker([*command, "--parent", str(os.getpid())], threads, further)
