"""Growing caches of runtimes that take and return keys and values: flat tuples of torch tensors, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.base import Backend, UnsupportedError

Cache = tuple[Any, ...]


class GrowingCache(Backend):
    """A `Generator` but for `step` and `step_watched`, over a file that takes and returns its cache."""

    device = "cpu"
    cache_is_static = False
    #: What the exporter recorded as "cache"; None for a file without one.
    cache_tensors: Sequence[Mapping[str, Any]] | None = None

    def has_cache(self) -> bool:
        return self.cache_tensors is not None

    def new_cache(self, rows: int, room: int) -> Any:
        if self.cache_tensors is None:
            raise UnsupportedError(f"{self.spec.name} keeps no keys and values")
        return empty(self.cache_tensors, rows, self.device)

    def reorder(self, cache: Any, rows: Any) -> Any:
        return reordered(cache, rows)

    def cache_bytes(self, cache: Any) -> int:
        return size_bytes(cache)


def empty(tensors: Sequence[Mapping[str, Any]], rows: int, device: str) -> Cache:
    """The past of `rows` sequences without tokens; `tensors` is what the exporter recorded as "cache"."""
    import torch

    shapes = ((rows, *entry["shape"][1:]) for entry in tensors)
    return tuple(
        torch.empty(shape, dtype=getattr(torch, entry["dtype"]), device=device)
        for shape, entry in zip(shapes, tensors, strict=True)
    )


def reordered(tensors: Sequence[Any], rows: Any) -> Cache:
    """The sequences `rows`, int64 [rows'], of tensors [rows, ...]."""
    return tuple(tensor.index_select(0, rows) for tensor in tensors)


def size_bytes(tensors: Sequence[Any]) -> int:
    """Bytes of the tensors' elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
