"""The time below which no runtime can answer: the roofline model, in pure functions.

A pass does at least `flops` operations and reads at least `weight_bytes` bytes of weights, so it takes at least the
longer of the two times at the machine's peak rates (Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009,
doi:10.1145/1498765.1498785). A median below that is a mistake of measuring; measurement.md, rule 18.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: How far a floor may exceed a median before it is called impossible, by the limit that sets it. Products: quiet
#: measurements of one machine agreed within 2 %, and a causal kernel may leave out half of attention's products, 7 %
#: of all at length 1024 and width 1024, which the count holds. Memory: on a shared virtual machine the best of many
#: reads was 29 to 63 GB/s in measurements minutes apart, since neighbours use the same memory.
TOLERANCE = {"compute": 0.1, "memory": 1.0}

#: Least bytes that one weight takes at each precision.
WEIGHT_BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Floor:
    """The least time of one pass, in nanoseconds, and which of the machine's limits sets it."""

    ns: float
    bound: str
    """"compute" or "memory"."""


def floor_ns(flops: float, weight_bytes: float, peak_flops_per_second: float, bytes_per_second: float) -> Floor:
    """The floor of a pass of `flops` operations over `weight_bytes` bytes of weights: max(flops/peak, bytes/bandwidth).

    Raises ValueError for a rate that is not positive or a count that is negative, infinite or not a number.
    """
    for name, rate in (("peak_flops_per_second", peak_flops_per_second), ("bytes_per_second", bytes_per_second)):
        if not (rate > 0 and math.isfinite(rate)):
            raise ValueError(f"{name} {rate} is not a positive number; measure the machine's peaks again")
    for name, count in (("flops", flops), ("weight_bytes", weight_bytes)):
        if not (count >= 0 and math.isfinite(count)):
            raise ValueError(f"{name} {count} is not a count; it must be 0 or more")
    compute_ns = flops / peak_flops_per_second * 1e9
    memory_ns = weight_bytes / bytes_per_second * 1e9
    return Floor(compute_ns, "compute") if compute_ns >= memory_ns else Floor(memory_ns, "memory")


def share(floor: Floor, median_ns: float) -> float:
    """Floor over median: 1 is as fast as the machine's limits allow, 0.5 twice as slow; above 1 is impossible.

    Raises ValueError for a median that is not positive.
    """
    if not median_ns > 0:
        raise ValueError(f"median_ns {median_ns} is not a positive time")
    return floor.ns / median_ns


def is_implausible(floor: Floor, median_ns: float) -> bool:
    """True when the floor exceeds the median by more than `TOLERANCE`: the clock, not the runtime, made that time."""
    return share(floor, median_ns) > 1 + TOLERANCE[floor.bound]


def transformer_flops(weights: int, layers: int, width: int, batch: int, length: int) -> int:
    """Floating-point operations of one pass: 2·weights·tokens + 4·length²·width·layers·batch.

    `weights` are the parameters without embedding tables. The first term is a multiplication and an addition for each
    weight and token, the second attention's two products of every position with every other (Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1, there for one token and causal attention's context).
    """
    return 2 * weights * batch * length + 4 * length**2 * width * layers * batch
