"""A backend that computes nothing: scripted outputs after a scripted time, and scripted faults.

The harness's own overhead and the tests of fault containment rest on it. The faults strike in
cells of batch 4 and more, so that a run has sound cells before them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from backends.base import Backend, BackendError, Batch, Options, OutOfMemoryError, UnsupportedError

FAULT_FROM_BATCH = 4


class Null(Backend):
    """Waits `seconds` and returns the sum of the ids; with `fault`, fails in that way from batch 4 on."""

    name = "null"
    format = None
    variants: ClassVar = {
        "default": {"seconds": 0.001},
        "instant": {"seconds": 0.0},
        "50us": {"seconds": 50e-6},
        "500us": {"seconds": 500e-6},
        "5ms": {"seconds": 5e-3},
        "slow": {"seconds": 0.02},
        "50ms": {"seconds": 50e-3},
        "crash": {"seconds": 0.001, "fault": "crash"},
        "hang": {"seconds": 0.001, "fault": "hang"},
        "oom": {"seconds": 0.001, "fault": "oom"},
        "fail": {"seconds": 0.001, "fault": "fail"},
        "unloadable": {"seconds": 0.001, "fault": "load"},
        "chatty": {"seconds": 0.001, "fault": "print"},
    }
    precisions: ClassVar = {"cpu": ("fp32", "fp16", "bf16", "int8")}
    computes_the_model = False

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        self.duration_ns = round(options["seconds"] * 1e9)
        self.fault = options.get("fault")
        if self.fault == "load":
            raise UnsupportedError("null:unloadable never loads; use null")

    def prepare(self, batch: Batch) -> Any:
        return next(iter(batch.values()))

    def run(self, prepared: Any) -> Any:
        clock = time.perf_counter_ns
        end_ns = clock() + self.duration_ns
        if self.fault and len(prepared) >= FAULT_FROM_BATCH:
            self._fail()
        while clock() < end_ns:
            pass
        return prepared

    def _fail(self) -> None:
        if self.fault == "crash":
            print("null:crash is about to kill its own process", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "hang":
            time.sleep(3600)
        if self.fault == "oom":
            raise OutOfMemoryError("null: Tried to allocate 1.00 GiB", {"requested_bytes": 2**30})
        if self.fault == "fail":
            raise BackendError("null:fail fails by design")
        if self.fault == "print":
            print("{not json} a library's print on standard output", flush=True)
            os.write(1, b"a C library's print\n")

    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"checksum": outputs.sum(keepdims=True)}
