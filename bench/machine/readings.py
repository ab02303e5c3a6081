"""What a device can do at best: the readings that the machine's limits are taken from. Runs in a worker.

A reading is the least time of many calls, visited in turn with all the others, so that other work on the machine
disturbs some calls of each and all calls of none.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.base import one_line, parse_out_of_memory
from bench.machine import host

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
#: Sides of the square matrices, smallest first; a side whose product would take too long is left out.
SIDES = {"cpu": (256, 512, 1024, 2048, 4096), "cuda": (1024, 2048, 4096, 8192)}
#: Sizes of the buffers that are read, in bytes: from the first-level caches' to past the last level's.
BUFFERS_BYTES = {
    "cpu": tuple(mib * 2**20 for mib in (1, 4, 16, 64, 256)),
    "cuda": tuple(mib * 2**20 for mib in (4, 16, 64, 256, 1024)),
}
#: Visits to each figure; other work on the machine seldom lasts through all of them.
VISITS = 12
#: Calls before the first visit; the best of them says whether a larger matrix would take too long.
WARMUPS = 5
#: Least time of one reading on a device that works apart from the host, which hides the host's calls and its waiting.
READING_SECONDS = {"cpu": 0.0, "cuda": 0.005}
#: Share of the CPUs that other work may take before a figure counts as disturbed.
QUIET_SHARE = 0.05


@dataclass(frozen=True)
class Effort:
    """How long and on what to measure: seconds a precision and half as many a buffer, sides, bytes."""

    seconds: float
    sides: tuple[int, ...]
    buffers_bytes: tuple[int, ...]

    @classmethod
    def usual(cls, device: str) -> Effort:
        """What gives steady figures on `device`."""
        return cls(1.2, SIDES[device], BUFFERS_BYTES[device])


@dataclass
class Reading:
    """One figure while it is measured, and the least seconds of a call so far."""

    call: Callable[[], Any]
    work: int
    """Operations or bytes of one call."""
    threads: int
    tf32: bool = False
    """True where fp32 products of the call may round to TF32."""
    least_seconds: float = math.inf

    @property
    def rate(self) -> float:
        """Work a second."""
        return self.work / self.least_seconds


def take(
    shares: Sequence[tuple[Reading, float]],
    device: Device,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> None:
    """Visit every reading in turn, `VISITS` times, for its share of seconds in all; keep the least time of a call."""
    least = READING_SECONDS[device.name]
    for _ in range(VISITS):
        for reading, seconds in shares:
            device.prepare(reading)
            calls = 1
            end = clock() + seconds / VISITS * 1e9
            while True:
                started = clock()
                for _ in range(calls):
                    reading.call()
                device.synchronize()
                finished = clock()
                took = max(finished - started, 1) / 1e9
                reading.least_seconds = min(reading.least_seconds, took / calls)
                if finished >= end:
                    break
                if took < least:
                    calls = min(10_000, math.ceil(calls * least / took))


class Device:
    """One device that is measured: how to make and call its matrix products and reads."""

    def __init__(self, name: str, threads: int) -> None:
        import torch

        self.name, self.threads, self.torch = name, threads, torch
        torch.set_grad_enabled(False)
        if name == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("torch cannot use a GPU here")
            # Some cards do fp16 products twice as fast with an fp16 sum, and some runtimes ask for it.
            torch.backends.cuda.matmul.allow_fp16_accumulation = True

    def prepare(self, reading: Reading) -> None:
        """Compute with the threads and in the arithmetic of `reading` from here on."""
        self.torch.set_num_threads(reading.threads)
        self.torch.set_float32_matmul_precision("high" if reading.tf32 else "highest")

    def synchronize(self) -> None:
        """Wait until the device is done."""
        if self.name == "cuda":
            self.torch.cuda.synchronize()

    def ways(self, precision: str) -> tuple[str, ...]:
        """Ways to multiply: torch's own, and oneDNN's with a packed weight, which was up to 12 % faster in fp32."""
        is_packable = self.name == "cpu" and precision != "int8" and self.torch.backends.mkldnn.is_available()
        return ("plain", "packed") if is_packable else ("plain",)

    def product(self, way: str, precision: str, side: int) -> Reading:
        """A product of two matrices [side, side], the right one transposed as a linear layer's weight is."""
        torch, work = self.torch, 2 * side**3
        left, right = (self._ones(side * side, precision).reshape(side, side) for _ in range(2))
        if way == "packed":
            packed, linear = torch.ops.mkldnn._reorder_linear_weight(right, side), torch.ops.mkldnn._linear_pointwise
            return Reading(lambda: linear(left, packed, None, "none", [], ""), work, self.threads)
        result = torch.empty(side, side, dtype=torch.int32 if precision == "int8" else left.dtype, device=self.name)
        multiply = torch._int_mm if precision == "int8" else torch.mm
        return Reading(lambda: multiply(left, right.t(), out=result), work, self.threads, tf32=precision == "tf32")

    def reads(self, sizes: Sequence[int]) -> dict[int, list[Reading]]:
        """Readings of each size's first bytes of one buffer: the largest element, which needs every one.

        By all threads and by one: a read by all waits for a core that other work holds.
        """
        buffer = self._ones(max(sizes, default=0) // 4, "fp32")
        threads = tuple(dict.fromkeys((self.threads, 1))) if self.name == "cpu" else (self.threads,)
        return {size: [Reading(buffer[: size // 4].amax, size // 4 * 4, one) for one in threads] for size in sizes}

    def _ones(self, elements: int, precision: str) -> torch.Tensor:
        return self.torch.ones(elements, dtype=getattr(self.torch, DTYPES[precision]), device=self.name)


def products(device: Device, way: str, precision: str, effort: Effort, clock: Callable[[], int]) -> list[Reading] | str:
    """A product of each side that is quick enough, warmed up; or why torch has none of this kind here."""
    found: list[Reading] = []
    for side in sorted(effort.sides):
        best = max((reading.rate for reading in found), default=math.inf)
        if 2 * side**3 / best > effort.seconds / VISITS / 2:
            break
        try:
            reading = device.product(way, precision, side)
            device.prepare(reading)
            reading.call()
            device.synchronize()
        except Exception as error:  # torch refuses a dtype on a device in exceptions of many types
            if found:  # a larger matrix may be more than the device's memory holds
                break
            if parse_out_of_memory(f"{type(error).__name__}: {error}") is not None:
                raise
            return f"torch has no {precision} matrix product on {device.name}: {one_line(error)[:200]}"
        for _ in range(WARMUPS):
            started = clock()
            reading.call()
            device.synchronize()
            reading.least_seconds = min(reading.least_seconds, max(clock() - started, 1) / 1e9)
        found.append(reading)
    return found


def cpu_clock() -> tuple[host.CpuSeconds, float]:
    """CPU time of the CPUs that this process may use, and of this process."""
    return host.cpu_seconds(os.sched_getaffinity(0)), time.process_time()


def others_share(before: tuple[host.CpuSeconds, float], after: tuple[host.CpuSeconds, float]) -> float:
    """Share of the CPUs that other work and the hypervisor took between two readings of `cpu_clock`, 0 to 1."""
    (early, own_before), (late, own_after) = before, after
    whole, idle = late.whole - early.whole, late.idle - early.idle
    return min(max((whole - idle - own_after + own_before) / whole, 0.0), 1.0) if whole > 0 else 0.0


def measured(
    device: Device,
    precisions: Sequence[str],
    effort: Effort,
    clock: Callable[[], int] = time.perf_counter_ns,
    cpu_clock: Callable[[], tuple[host.CpuSeconds, float]] = cpu_clock,
) -> dict[str, Any]:
    """Every figure that was asked for: all of `Peaks` but where and when, as JSON types."""
    by_precision: dict[str, list[Reading]] = {}
    unmeasured = {}
    before = cpu_clock()
    for precision in precisions:
        ways = {way: products(device, way, precision, effort, clock) for way in device.ways(precision)}
        found = [reading for one in ways.values() if not isinstance(one, str) for reading in one]
        if found:
            by_precision[precision] = found
        else:
            unmeasured[precision] = str(ways["plain"])
    reads = device.reads(effort.buffers_bytes)
    shares = [(one, effort.seconds / len(found)) for found in by_precision.values() for one in found]
    shares += [(one, effort.seconds / 2 / len(found)) for found in reads.values() for one in found]
    take(shares, device, clock)
    others = round(others_share(before, cpu_clock()), 3)
    figures = [*by_precision, *(["memory"] if reads else [])]
    is_disturbed = device.name == "cpu" and others > QUIET_SHARE
    return {
        "flops_per_second": {name: max(one.rate for one in found) for name, found in by_precision.items()},
        "bandwidths": [[size, max(one.rate for one in found)] for size, found in sorted(reads.items())],
        "unmeasured": unmeasured,
        "disturbed": dict.fromkeys(figures, others) if is_disturbed else {},
    }
