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
from typing import Any

from backends.base import Backend, BackendError, Batch, Options, OutOfMemoryError, Spec, UnsupportedError

FAULT_FROM_BATCH = 4
#: Tokens that a scripted generation takes its own from.
VOCABULARY = 64
VARIANTS: dict[str, Options] = {
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


class Null(Backend):
    """Waits `seconds` and returns the sum of the ids; with `fault`, fails in that way from batch 4 on.

    Generation waits as long at each step: the next token is the sum of all ids that the mask keeps, modulo 64, and the
    one after it comes second.
    """

    spec = Spec(
        name="null",
        format=None,
        variants=VARIANTS,
        precisions={"cpu": ("fp32", "fp16", "bf16", "int8")},
        computes_the_model=False,
        generation={name: options for name, options in VARIANTS.items() if name != "chatty"},
    )
    cache_is_static = False

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        self.duration_ns = round(options["seconds"] * 1e9)
        self.fault = options.get("fault")
        if self.fault == "load":
            raise UnsupportedError("null:unloadable never loads; use null")

    def prepare(self, batch: Batch) -> Any:
        return next(iter(batch.values()))

    def run(self, prepared: Any) -> Any:
        self._wait(len(prepared))
        return prepared

    def _wait(self, rows: int) -> None:
        clock = time.perf_counter_ns
        end_ns = clock() + self.duration_ns
        if self.fault and rows >= FAULT_FROM_BATCH:
            self._fail()
        while clock() < end_ns:
            pass

    def has_cache(self) -> bool:
        return True

    def new_cache(self, rows: int, room: int) -> Any:
        """The ids so far that the mask kept, int64 [rows, length]."""
        import torch

        return torch.zeros((rows, 0), dtype=torch.int64)

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        import torch

        self._wait(len(ids))
        kept = torch.cat([cache, ids * mask[:, -ids.shape[1] :]], dim=1)
        first = kept.sum(dim=1) % VOCABULARY
        logits = torch.zeros((len(ids), VOCABULARY), dtype=torch.float32)
        logits.scatter_(1, ((first + 1) % VOCABULARY)[:, None], 1.0)
        logits.scatter_(1, first[:, None], 2.0)
        return logits, kept

    def step_watched(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any, dict[str, Any]]:
        return (*self.step(ids, mask, cache), {})

    def reorder(self, cache: Any, rows: Any) -> Any:
        return cache.index_select(0, rows)

    def cache_bytes(self, cache: Any) -> int:
        size: int = cache.numel() * cache.element_size()
        return size

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
