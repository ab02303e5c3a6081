"""What a candidate promises before it is tried, and what trying it costs: the order of a search. Pure functions.

Promises are guesses from what a machine can do; they decide the order and which untried candidates could still win, and
never a figure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bench.spec import Candidate

#: Guessed speed beside fp32 of the same runtime, on a GPU and on a CPU with units for a precision. Without units a CPU
#: converts every operand.
ON_GPU = {"fp32": 1.0, "fp16": 4.0, "bf16": 4.0, "int8": 2.0}
WITH_UNITS = {"fp32": 1.0, "fp16": 2.0, "bf16": 2.5, "int8": 1.7}
WITHOUT_UNITS = {"fp32": 1.0, "fp16": 0.3, "bf16": 0.4, "int8": 1.1}
#: Flags of a CPU that has units for a precision.
UNITS = {
    "fp16": {"amx_fp16", "avx512_fp16"},
    "bf16": {"amx_bf16", "avx512_bf16"},
    "int8": {"amx_int8", "avx512_vnni", "avx_vnni"},
}
#: Guessed speed of a runtime with an exported graph beside eager's.
OF_A_GRAPH = 1.2
#: Guessed seconds: to start and warm a worker up, to export a format that is not at hand, and to compile a shape.
START_SECONDS, EXPORT_SECONDS, COMPILE_SECONDS = 12.0, 25.0, 60.0
#: How many times its promise a candidate may turn out to reach.
SURPRISE = 1.5


@dataclass(frozen=True)
class Machine:
    """What decides promises."""

    device: str
    """"cpu" or "cuda"."""
    flags: Collection[str] = ()
    """Of the CPU, as the fingerprint has them."""
    peaks: Mapping[str, float] | None = None
    """Measured FLOP/s by precision, as far as they are known."""


def speed(candidate: Candidate, machine: Machine) -> float:
    """How many times faster than eager in fp32 a candidate is guessed to be."""
    precision, peaks = candidate.precision, machine.peaks or {}
    if "fp32" in peaks and precision in peaks:
        of_precision = peaks[precision] / peaks["fp32"]
    elif machine.device == "cuda":
        of_precision = ON_GPU[precision]
    elif UNITS.get(precision, set()) & {*machine.flags}:
        of_precision = WITH_UNITS[precision]
    else:
        of_precision = WITHOUT_UNITS[precision]
    return of_precision * (1.0 if candidate.backend == "eager" else OF_A_GRAPH)


def seconds(format: str | None, is_at_hand: bool, shapes_compiled: int) -> float:
    """Guessed seconds that a first try takes; `format` is of its artifact, None without one."""
    export = 0.0 if format in (None, "checkpoint") or is_at_hand else EXPORT_SECONDS
    return START_SECONDS + export + COMPILE_SECONDS * shapes_compiled


def could_win(candidate: Candidate, machine: Machine, winner_speed: float) -> bool:
    """True if an untried candidate might beat one that is `winner_speed` times as fast as eager in fp32."""
    return SURPRISE * speed(candidate, machine) > winner_speed
