"""What a backend can do beyond its core, with the neutral answer for a backend that cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.base import Backend, UnsupportedError
from backends.protocols import (
    DeviceClock,
    DeviceTensors,
    Generator,
    InnerValues,
    MemoryGauge,
    Releasing,
    ShapeCompiler,
    Watched,
)

PROTOCOLS: tuple[type, ...] = (
    DeviceClock, MemoryGauge, Generator, InnerValues, ShapeCompiler, Watched, Releasing, DeviceTensors,
)  # fmt: skip


def clock_of(backend: Backend) -> DeviceClock | None:
    """The backend's device clock, or None if the device loaded onto has none."""
    return backend if isinstance(backend, DeviceClock) and backend.mark() is not None else None


def held(backend: Backend) -> dict[str, int]:
    """Bytes that a memory gauge reads; {} without one."""
    return backend.memory() if isinstance(backend, MemoryGauge) else {}


def reset_peak(backend: Backend) -> None:
    """Set the memory gauge's peaks back."""
    if isinstance(backend, MemoryGauge):
        backend.reset_memory_peak()


def trim(backend: Backend) -> None:
    """Give cached memory back to the device."""
    if isinstance(backend, MemoryGauge):
        backend.trim()


def watched(backend: Backend, prepared: Any, call: Callable[[], Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """One call of what was prepared, by `call` if it is given, and facts on it."""
    if isinstance(backend, Watched):
        return backend.run_watched(prepared) if call is None else backend.run_watched(prepared, call)
    return backend.run(prepared) if call is None else call(), {}


def release_of(backend: Backend) -> Callable[[Any], None]:
    """The backend's `release`, bound once for a timed loop, or a function that does nothing."""
    return backend.release if isinstance(backend, Releasing) else _keep


def _keep(outputs: Any) -> None:
    """Nothing that was prepared holds on to the outputs."""


def has_static_shapes(backend: Backend) -> bool:
    """True if the loaded variant compiles again for every shape."""
    return isinstance(backend, ShapeCompiler) and backend.has_static_shapes


def keep_shapes(backend: Backend, count: int) -> None:
    """Have a backend that compiles hold up to `count` shapes at once."""
    if isinstance(backend, ShapeCompiler):
        backend.keep_shapes(count)


def generator(backend: Backend) -> Generator:
    """The backend as a generator; raises UnsupportedError if it is none."""
    if not isinstance(backend, Generator):
        raise UnsupportedError(f"{backend.spec.name} keeps no keys and values")
    return backend


def has_cache(backend: Backend) -> bool:
    """True if the loaded model can generate with a cache of keys and values."""
    return isinstance(backend, Generator) and backend.has_cache()


def device_tensors(backend: Backend) -> DeviceTensors:
    """The backend as a source of torch tensors; raises UnsupportedError if it is none."""
    if not isinstance(backend, DeviceTensors):
        raise UnsupportedError(f"{backend.spec.name} hands out no outputs on the device")
    return backend


def inner_values(backend: Backend) -> InnerValues:
    """The backend as a source of values from inside the model; raises UnsupportedError if it is none."""
    if not isinstance(backend, InnerValues):
        name = backend.spec.name
        raise UnsupportedError(f"{name} hands out no values from inside the model, so nothing can be bisected")
    return backend
