"""A worker's loop: one loaded backend, the cells that are begun on it, one request at a time.

It knows no workload: a request names the class of its cell. Tests run it in their own process.
"""

from __future__ import annotations

import argparse
import gc
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import memory, threads
from bench.process import abilities, channel

if TYPE_CHECKING:
    from backends.base import Backend, Options

#: Compute capability of the first cards whose tensor cores take TF32 (Ampere; NVIDIA's CUDA C++ programming guide).
FIRST_WITH_TF32 = (8, 0)
#: How a model is loaded that generates with a cache of keys and values; "no-cache" is as for a forward pass.
CACHE, FULL_PASSES = WAYS = ("cache", "no-cache")


class Loop:
    """Requests: hello, load, begin, turn, judge, end, call."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.backend: Backend
        self.cells: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request: {"ok": …} or {"error": {"status", "reason", "details"}}."""
        arguments = {key: value for key, value in request.items() if key != "op"}
        return channel.answered(lambda: dict(getattr(self, f"do_{request['op']}")(**arguments)))

    def do_hello(self) -> dict[str, Any]:
        """Import the runtime, so that loading is timed without it."""
        import backends
        from exporters import checkpoint, models

        backend_class = backends.load_class(self.args.backend)
        for module in (*backend_class.spec.requires, *(["torch"] if self.args.device == "cuda" else [])):
            import_module(module)
        if "transformers" in backend_class.spec.requires:
            models.import_libraries()
        self.backend = backend_class(open_checkpoint=checkpoint.open_checkpoint)
        self.args.import_ns = time.monotonic_ns() - self.args.started
        return {"versions": backend_class.spec.versions()}

    def do_load(self, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Load the artifact, with `options` beside the variant's; returns seconds and the memory that is held then."""
        artifact = Path(self.args.artifact) if self.args.artifact else None
        before = memory.resident_bytes().get("process_bytes")
        started = time.perf_counter()
        self.backend.load(
            artifact, device=self.args.device, precision=self.args.precision, threads=self.args.threads,
            options={**self._options(), **self._tf32(), **(options or {})},
        )  # fmt: skip
        seconds = time.perf_counter() - started
        self.args.load_ns = round(seconds * 1e9)
        held = memory.heap_bytes() if self.args.device == "cpu" else {}
        held |= memory.resident_bytes() | abilities.held(self.backend)
        held.pop("peak_process_bytes", None)  # of loading, which holds the weights twice for a moment
        held |= memory.survey(artifact)
        held |= {} if before is None else {"process_before_bytes": before}
        return {"seconds": seconds, "memory": held}

    def _tf32(self) -> Options:
        """The option that asks for TF32; raises UnsupportedError for a card that has none."""
        if not self.args.tf32:
            return {}
        import torch

        from backends.base import UnsupportedError

        if torch.cuda.get_device_capability() < FIRST_WITH_TF32:
            raise UnsupportedError(f"{torch.cuda.get_device_name()} has no TF32; leave --tf32 out")
        return {"tf32": True}

    def _options(self) -> Options:
        spec = self.backend.spec
        if self.args.generation == CACHE:
            return spec.generation[self.args.variant]
        if self.args.generation:
            return spec.variants.get(self.args.variant, spec.variants["default"])
        return spec.variants[self.args.variant]

    # Cells.

    def do_begin(self, key: str, cell: str, request: dict[str, Any]) -> Any:
        """Make the cell of class `cell` ("module:Class") under `key`, and begin it."""
        self._end(key)
        self.cells[key] = _named(cell)(self.backend, self.args)
        return self.cells[key].start(**request)

    def do_turn(self, key: str, request: dict[str, Any]) -> Any:
        """Take one turn of a begun cell; with the CPU time of this process and how long its threads waited for a CPU,
        if the cell does not say it.
        """
        waited, started = threads.queue_delays_ns(), time.process_time()
        reply = self.cells[key].turn(**request)
        spent = time.process_time() - started
        return {"cpu_seconds": spent, "queue_delay_seconds": threads.queue_delay_seconds(waited), **reply}

    def do_judge(self, key: str, request: dict[str, Any]) -> Any:
        """Compare a begun cell's outputs with references."""
        return self.cells[key].judge(**request)

    def do_call(self, function: str, arguments: dict[str, Any]) -> Any:
        """What a function "module:name" of this project makes of this loop and `arguments`."""
        return _named(function)(self, **arguments)

    def do_end(self, key: str) -> dict[str, Any]:
        """Let a cell go."""
        self._end(key)
        gc.enable()
        gc.collect()
        abilities.trim(self.backend)
        return {}

    def _end(self, key: str) -> None:
        if (cell := self.cells.pop(key, None)) is not None:
            cell.end()


def _named(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)


def parser() -> argparse.ArgumentParser:
    """The worker's command line."""
    result = argparse.ArgumentParser(prog="python -m bench.worker", description="One backend in one process.")
    result.add_argument("--backend", required=True)
    result.add_argument("--variant", default="default")
    result.add_argument("--precision", default="fp32")
    result.add_argument("--device", default="cpu")
    result.add_argument("--threads", type=int, default=1)
    result.add_argument("--artifact", default="", help="artifact folder to load")
    result.add_argument("--tf32", action="store_true", help="let fp32 products round their inputs to TF32")
    result.add_argument("--generation", default="", choices=["", *WAYS], help="load the model to generate with it")
    result.add_argument("--started", type=int, default=0, help="reading of the system's monotonic clock at its start")
    result.add_argument("--parent", type=int, default=0, help="process to die with; 0 for none")
    return result
