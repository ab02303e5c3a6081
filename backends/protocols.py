"""What only some backends have: a backend implements a protocol, and the caller asks for it with isinstance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from backends.base import Batch


@dataclass(frozen=True)
class InnerValue:
    """A tensor inside a loaded model: the operation that makes it, and the names of the values that it reads."""

    operation: str
    inputs: tuple[str, ...] = ()


@runtime_checkable
class DeviceClock(Protocol):
    """Device time between two events."""

    def mark(self) -> Any:
        """Record an event on the device's stream, or None if the device loaded onto has no clock of its own."""

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Device nanoseconds between two marks, asked for after `synchronize`."""


@runtime_checkable
class MemoryGauge(Protocol):
    """Bytes that the loaded model and its allocator hold."""

    def memory(self) -> dict[str, int]:
        """Bytes held: `parameters_bytes` (parameters and buffers), and on a device with memory of its own
        `allocated_bytes`, `reserved_bytes`, `peak_allocated_bytes` and `peak_reserved_bytes` of its allocator.

        What is not known is left out.
        """

    def reset_memory_peak(self) -> None:
        """Set the peaks of `memory` back to what is held now."""

    def trim(self) -> None:
        """Give cached memory back to the device, between cells."""


@runtime_checkable
class Generator(Protocol):
    """Generation with a cache of keys and values, after a load with options of `Spec.generation`."""

    cache_is_static: bool
    """True after a load whose cache has all its room from the start, so that `step` takes masks of the whole room."""

    def has_cache(self) -> bool:
        """True if the loaded model can generate with a cache; otherwise `new_cache` raises UnsupportedError."""

    def new_cache(self, rows: int, room: int) -> Any:
        """An empty cache for `rows` sequences of at most `room` tokens, prompt included.

        A static one may be that of an earlier call, emptied: only the latest is valid.
        """

    def step(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Start a pass over new tokens alone; returns logits [rows, vocabulary] behind the last, and the longer cache.

        Tensors are on the device: `ids` int64 [rows, new]; `mask` int64 [rows, earlier + new], and [rows, room] if
        `cache_is_static`, 0 for the prompt's padding alone. Logits are floating, and may be overwritten by the next
        step; the cache that was given is used up.
        """

    def step_watched(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """`step` once, not timed, and facts on what it really took, as `run_watched` has them."""

    def reorder(self, cache: Any, rows: torch.Tensor) -> Any:
        """The cache that holds the sequences `rows`, int64 [rows'] on the device, in that order, some perhaps twice.

        A static one keeps its number of sequences: another one raises UnsupportedError. The cache given is used up.
        """

    def cache_bytes(self, cache: Any) -> int:
        """Bytes of keys and values that the cache holds, of a static one its whole room."""


@runtime_checkable
class InnerValues(Protocol):
    """Tensors inside the loaded model, by which `bench parity --bisect` goes."""

    def inner_values(self) -> dict[str, InnerValue]:
        """Tensors that `run_inner` can return, by name, in execution order; UnsupportedError if this model has none."""

    def run_inner(self, batch: Batch, names: Sequence[str]) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
        """The values `names`, inner ones or outputs, of one call on host arrays, and what asking for them changed:
        `undone`, how many nodes fewer ran of each fused operator, and `notes`, sentences for the user.

        With outputs alone it is the call that `run` makes; after inner values, `load` comes before the next `run`.
        """


@runtime_checkable
class ShapeCompiler(Protocol):
    """Compilation for each shape."""

    has_static_shapes: bool
    """True if the loaded variant compiles again for every shape."""

    def keep_shapes(self, count: int) -> None:
        """Forget what was compiled, and from here on hold up to `count` shapes of `prepare` at once, not only the last.

        One more than `count` forgets them all again.
        """


@runtime_checkable
class Watched(Protocol):
    """Facts on a single call."""

    def run_watched(self, prepared: Any, call: Callable[[], Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """`run` once, and facts on what the call really took, such as its attention kernels.

        `call` is the same call with a clock around it: the first one of `prepared`, to be made exactly once.
        """


@runtime_checkable
class Releasing(Protocol):
    """Outputs that live as long as what `prepare` returned."""

    def release(self, outputs: Any) -> None:
        """Let go of what `run` returned if what was prepared holds on to it; that can be run again."""


@runtime_checkable
class DeviceTensors(Protocol):
    """Outputs as torch tensors."""

    def tensors(self, outputs: Any) -> tuple[torch.Tensor, ...]:
        """What `run` returned as torch tensors on the device, without a copy; valid until the next `run`."""
