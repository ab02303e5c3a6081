"""The time below which no runtime can answer: the roofline model, in pure functions.

A pass does at least `flops` operations and reads at least `weight_bytes` bytes of weights, so it takes at least the
longer of the two times at the machine's peak rates (Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009,
doi:10.1145/1498765.1498785). A median below that is a mistake of measuring; measurement.md, rule 18.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: How far a floor may exceed a median before it is called impossible, by the limit that sets it. Products: quiet
#: measurements of one machine agreed within 2 %, and a causal kernel may leave out half of attention's products, 7 %
#: of all at length 1024 and width 1024, which the count holds. Memory: on a shared virtual machine the best of many
#: reads was 29 to 63 GB/s in measurements minutes apart, since neighbours use the same memory.
TOLERANCE = {"compute": 0.1, "memory": 1.0}

#: Least bytes that one weight takes at each precision.
WEIGHT_BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}

#: Arithmetic that a cell of each precision may be computed in: a runtime without fp16 arithmetic widens to fp32.
COMPUTED_IN = {
    "fp32": ("fp32",), "tf32": ("tf32", "fp32"), "fp16": ("fp16", "fp32"), "bf16": ("bf16", "fp32"),
    "int8": ("int8", "fp32"),
}  # fmt: skip


@dataclass(frozen=True)
class Floor:
    """The least time of one pass, in nanoseconds, and which of the machine's limits sets it."""

    ns: float
    bound: str
    """"compute" or "memory"."""


def floor_ns(flops: float, weight_bytes: float, peak_flops_per_second: float, bytes_per_second: float) -> Floor:
    """The longer of flops/peak and bytes/bandwidth; raises ValueError for what is no positive rate or no count."""
    for name, rate in (("peak_flops_per_second", peak_flops_per_second), ("bytes_per_second", bytes_per_second)):
        if not 0 < rate < math.inf:
            raise ValueError(f"{name} {rate} is not a positive number; measure the machine's peaks again")
    for name, count in (("flops", flops), ("weight_bytes", weight_bytes)):
        if not 0 <= count < math.inf:
            raise ValueError(f"{name} {count} is not a count; it must be 0 or more")
    compute_ns, memory_ns = flops / peak_flops_per_second * 1e9, weight_bytes / bytes_per_second * 1e9
    return Floor(compute_ns, "compute") if compute_ns >= memory_ns else Floor(memory_ns, "memory")


def share(floor: Floor, median_ns: float) -> float:
    """Floor over median: 1 at the machine's limits, more is impossible; raises ValueError for no positive time."""
    if not median_ns > 0:
        raise ValueError(f"median_ns {median_ns} is not a positive time")
    return floor.ns / median_ns


def is_implausible(floor: Floor, median_ns: float) -> bool:
    """True when the floor exceeds the median by more than `TOLERANCE`: the clock, not the runtime, made that time."""
    return share(floor, median_ns) > 1 + TOLERANCE[floor.bound]


def transformer_flops(weights: int, layers: int, width: int, batch: int, length: int) -> int:
    """Floating-point operations of one pass: 2·weights·tokens + 4·length²·width·layers·batch.

    `weights` are the parameters without embedding tables; the second term is attention's two products of every position
    with every other (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
    """
    return 2 * weights * batch * length + 4 * length**2 * width * layers * batch


@dataclass(frozen=True)
class Peaks:
    """The limits of one device with one number of threads, as far as they are measured."""

    device: str
    threads: int
    flops_per_second: Mapping[str, float] = field(default_factory=dict)
    """By precision, and "tf32" for fp32 whose products may round to it; for int8, integer operations."""
    bandwidths: tuple[tuple[int, float], ...] = ()
    """Bytes of a buffer and bytes a second that it is read at, smallest buffer first."""
    measured: str = ""
    """UTC, ISO 8601."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    """Precisions without a figure, and why."""
    disturbed: Mapping[str, float] = field(default_factory=dict)
    """Figures ("memory" for bandwidths) never measured without other work, and its least share of CPUs."""

    @property
    def figures(self) -> frozenset[str]:
        """What is measured: precisions, and "memory" for the bandwidths."""
        return frozenset((*self.flops_per_second, *(["memory"] if self.bandwidths else [])))

    def flops_bound(self, precision: str) -> float | None:
        """Operations a second that no cell of `precision` exceeds, in whatever it is computed; None if unmeasured."""
        figures = [self.flops_per_second.get(one) for one in COMPUTED_IN.get(precision, (precision,))]
        return None if None in figures else max(figure for figure in figures if figure is not None)

    def is_disturbed(self, precision: str) -> bool:
        """True where a figure that bounds a cell of `precision` may be far too low."""
        return not self.disturbed.keys().isdisjoint((*COMPUTED_IN.get(precision, (precision,)), "memory"))

    def bandwidth(self, weight_bytes: float) -> float | None:
        """Bytes a second at which no runtime exceeds reading `weight_bytes` bytes of weights; None if unmeasured.

        The best of all buffers from the largest that is not larger on: a short reading is mostly its call.
        """
        if not self.bandwidths:
            return None
        sizes = [size for size, _ in self.bandwidths]
        start = max((size for size in sizes if size <= weight_bytes), default=sizes[0])
        return max(rate for size, rate in self.bandwidths if size >= start)

    def merged(self, other: Peaks) -> Peaks:
        """Both, the larger figure where they have the same one; time and reasons are those of `other`."""
        rates, bandwidths = dict(self.flops_per_second), dict(self.bandwidths)
        for precision, rate in other.flops_per_second.items():
            rates[precision] = max(rate, rates.get(precision, 0.0))
        for size, rate in other.bandwidths:
            bandwidths[size] = max(rate, bandwidths.get(size, 0.0))
        quiet = (self.figures - set(self.disturbed)) | (other.figures - set(other.disturbed))
        reasons = {**self.unmeasured, **other.unmeasured}
        return replace(
            other,
            flops_per_second=rates,
            bandwidths=tuple(sorted(bandwidths.items())),
            unmeasured={precision: why for precision, why in reasons.items() if precision not in rates},
            disturbed={
                figure: min(one.disturbed[figure] for one in (self, other) if figure in one.disturbed)
                for figure in (self.figures | other.figures) - quiet
            },
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"bandwidths": [list(pair) for pair in self.bandwidths]}

    @classmethod
    def from_json(cls, data: Any) -> Peaks:
        """What `to_json` wrote; raises ValueError for anything else."""
        import msgspec

        peaks = msgspec.convert(data, cls)
        figures = [*peaks.flops_per_second.values(), *(number for pair in peaks.bandwidths for number in pair)]
        if not all(0 < number < math.inf for number in figures):
            raise ValueError("a figure is not a positive number")
        return peaks
