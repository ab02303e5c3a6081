"""A step of generation as a function of tensors alone: what its cache is made of, and a module that exporters take.

It works for any module with `keeps_keys_and_values`, `step`, `flatten` and `unflatten` as in `exporters/models.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporters.checkpoint import open_checkpoint
from exporters.errors import ModelError
from exporters.sources import INPUTS

#: Sequences, tokens of the past and new tokens of the example that tracing and exporting run on. None is 0 or 1, which
#: exporters take for constants, and no two are the same.
ROWS, EARLIER, NEW = 2, 5, 3


def open_stepping(checkpoint: Path, device: str, precision: str) -> Any:
    """The checkpoint's module; raises ModelError where it keeps no keys and values."""
    module = open_checkpoint(checkpoint, device, precision)
    if not getattr(module, "keeps_keys_and_values", False):
        raise ModelError(
            "this model keeps no keys and values, so it has no export with a cache; generate by full passes with its "
            "ordinary one"
        )
    return module


def cache_tensors(module: Any, device: str) -> list[dict[str, Any]]:
    """What the cache is made of, tensor by tensor: `shape` with 0 where it varies, `dtype`, and `grows`, the dimension
    that new tokens lengthen.

    Seen from two steps of other sizes. Raises ModelError where dimension 0 of a tensor is not the sequences, or not
    one other dimension is the tokens.
    """
    (rows, new), (more_rows, more_new) = sizes = ((ROWS, NEW), (ROWS + 1, NEW + 2))
    first, second = (module.flatten(_prompt_step(module, *size, device)) for size in sizes)
    found = []
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        differing = [at for at, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b]
        if len(differing) != 2 or differing[0] != 0 or one.shape[0] != rows or one.shape[differing[1]] != new:
            raise ModelError(
                f"tensor {index} of the model's cache is {tuple(one.shape)} after {new} tokens of {rows} sequences and "
                f"{tuple(other.shape)} after {more_new} of {more_rows}; lay it out as [sequences, …, tokens, …]"
            )
        grows = differing[1]
        shape = [0 if at in differing else size for at, size in enumerate(one.shape)]
        found.append({"shape": shape, "dtype": str(one.dtype).removeprefix("torch."), "grows": grows})
    return found


def _prompt_step(module: Any, rows: int, new: int, device: str) -> Any:
    """The cache behind `new` tokens of `rows` sequences."""
    import torch

    ids = torch.arange(rows * new, device=device).reshape(rows, new) + 5
    with torch.no_grad():
        return module.step(ids, torch.ones_like(ids), None)[1]


def stepping_module(module: Any) -> Any:
    """A module that takes (input_ids [rows, new], attention_mask [rows, earlier + new], past), past being a tuple of
    tensors, and returns a flat tuple: the output at the last new token, and the cache's tensors behind it.
    """
    import torch

    class Step(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: tuple[torch.Tensor, ...]
        ) -> tuple[torch.Tensor, ...]:
            output, cache = self.inner.step(input_ids, attention_mask, self.inner.unflatten(past))
            return (output, *self.inner.flatten(cache))

    return Step().eval().requires_grad_(False)


def example_step(module: Any, device: str) -> tuple[Any, Any, tuple[Any, ...]]:
    """Ids, a mask with padding, and a past, that tracing and exporting run on."""
    import torch

    past = module.flatten(_prompt_step(module, ROWS, EARLIER, device))
    ids = torch.arange(ROWS * NEW, device=device).reshape(ROWS, NEW) + 11
    mask = torch.ones((ROWS, EARLIER + NEW), dtype=torch.int64, device=device)
    mask[1, :2] = 0
    return ids, mask, tuple(past)


def names_of(tensors: int) -> tuple[list[str], list[str]]:
    """Names of a step's inputs and outputs without its logits, for a cache of so many tensors."""
    return [*INPUTS, *(f"past_{index}" for index in range(tensors))], [f"present_{index}" for index in range(tensors)]
