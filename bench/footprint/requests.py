"""What a worker answers about memory: what it holds, a limit on it, and one call on a batch that may not fit."""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import memory
from bench.parity.inputs import InputPlan, make_batch
from bench.process import abilities

if TYPE_CHECKING:
    from backends.base import Backend


class MemoryRequests:
    """Requests: survey, limit_memory, try_batch."""

    args: argparse.Namespace
    backend: Backend
    device_free_before: int | None = None
    """Free bytes of the device before the model was loaded."""

    def _device_free_bytes(self) -> int | None:
        raise NotImplementedError

    def do_survey(self) -> dict[str, Any]:
        """Bytes that this process holds: resident, private and writable, and mapped from the artifact's files."""
        held: dict[str, int | None] = {"data_bytes": memory.data_bytes()}
        if self.args.artifact:
            held |= memory.mapped_bytes(Path(self.args.artifact))
        resident = memory.resident_bytes().get("process_bytes")
        found = held | {"process_bytes": resident}
        return {name: value for name, value in found.items() if value is not None}

    def do_limit_memory(self, limit_bytes: int) -> dict[str, Any]:
        """Refuse this process private writable memory of the host beyond `limit_bytes`."""
        memory.limit_data(limit_bytes)
        return {}

    def do_try_batch(self, inputs_plan: dict[str, Any]) -> dict[str, Any]:
        """One call on the whole batch of a plan: its seconds, `peak_bytes` during it, and `stored_bytes`, which letting
        go of its outputs frees.
        """
        prepared = self.backend.prepare(make_batch(InputPlan.from_json(inputs_plan), "timed"))
        self.backend.synchronize()
        abilities.reset_peak(self.backend)
        is_of_this_call = memory.set_peak_back()
        started = time.perf_counter()
        outputs = self.backend.run(prepared)
        self.backend.synchronize()
        found: dict[str, Any] = {"seconds": time.perf_counter() - started}
        if (peak := self._peak_bytes(is_of_this_call)) is not None:
            found["peak_bytes"] = peak
        # Against what is left afterwards and not what was there before: a first call also fills caches of the runtime.
        with_outputs = self._allocated_bytes()
        del outputs
        gc.collect()
        without = self._allocated_bytes()
        if with_outputs is not None and without is not None:
            found["stored_bytes"] = with_outputs - without
        del prepared
        abilities.trim(self.backend)
        return found

    def _allocated_bytes(self) -> int | None:
        held = memory.heap_bytes() if self.args.device == "cpu" else abilities.held(self.backend)
        return held.get("allocated_bytes")

    def _peak_bytes(self, is_of_this_call: bool) -> int | None:
        """On the CPU resident bytes; on a GPU the allocator's, or what the device lacks since before loading."""
        if self.args.device == "cpu":
            return memory.resident_bytes().get("peak_process_bytes") if is_of_this_call else None
        if (peak := abilities.held(self.backend).get("peak_allocated_bytes")) is not None:
            return peak
        before, now = self.device_free_before, self._device_free_bytes()
        return None if before is None or now is None else before - now
