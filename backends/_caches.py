"""Growing caches of runtimes that take and return keys and values: flat tuples of torch tensors, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Cache = tuple[Any, ...]


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
