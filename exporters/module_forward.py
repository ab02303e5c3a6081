"""The wrapped form of a user's own module: positional tensors in, tensors out, as backends and exporters take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exporters.module_traits import EXAMPLE_BATCH, MASK, example_ids, made_inputs, named_outputs

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}
CASTS = {"fp32": "float", "fp16": "half", "bf16": "bfloat16", "fp64": "double"}


def wrap(
    module: Any, traits: Mapping[str, Any], make_inputs: Callable[..., Any] | None, precision: str
) -> torch.nn.Module:
    """A module that takes `traits["inputs"]` in order and returns one tensor, or a tuple in the order of its outputs.

    Floating-point tensors of the module, its inputs and its outputs are cast to `precision`. The outermost module is
    in eval mode: tracing restores the flag it finds there.
    """
    import torch

    dtype = getattr(torch, DTYPES[precision])
    getattr(module, CASTS[precision])()
    has_mask = not traits["makes_inputs"] and MASK in traits["inputs"]

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != dtype else tensor

    class Forward(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model = module
            self.input_names = tuple(traits["inputs"])
            self.attention_implementation = None
            self.keeps_keys_and_values = bool(traits["keeps_keys_and_values"])
            self.has_static_cache = self.keeps_keys_and_values and callable(getattr(module, "static_cache", None))

        def forward(self, *inputs: torch.Tensor) -> Any:
            taken = [cast(tensor) for tensor in inputs]
            output = self.model(taken[0], attention_mask=taken[1]) if has_mask else self.model(*taken)
            tensors = [cast(tensor) for _, tensor in named_outputs(output)]
            return tensors[0] if len(tensors) == 1 else tuple(tensors)

        def step(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
            """Logits [rows, vocabulary] behind the last of the new tokens [rows, new], and the longer cache."""
            logits, cache = self.model.step(input_ids, attention_mask, cache)
            return cast(logits if logits.ndim == 2 else logits[:, -1]), cache

        def flatten(self, cache: Any) -> tuple[torch.Tensor, ...]:
            """The tensors of a cache, which is a flat tuple of them."""
            return tuple(cache)

        def unflatten(self, tensors: Sequence[torch.Tensor]) -> Any:
            """The cache that `flatten` took apart."""
            return tuple(tensors)

        def static_cache(self, rows: int, room: int) -> Any:
            """An empty cache for `rows` sequences of at most `room` tokens."""
            return self.model.static_cache(rows, room)

        def reset_cache(self, cache: Any) -> None:
            """Empty a static cache, whose tensors stay where they are; all are 0 in an empty one."""
            for tensor in cache:
                tensor.zero_()

        def make_inputs(self, batch: int, length: int, seed: int) -> dict[str, Any]:
            """Host arrays by name, from the module's own function."""
            return made_inputs(traits["model"], make_inputs, batch, length, seed)

        def example_inputs(self, device: str) -> tuple[torch.Tensor, ...]:
            """Tensors that tracing and exporting run on."""
            batch, length = EXAMPLE_BATCH, traits["example_length"]
            if make_inputs is None:
                arrays = example_ids(traits["inputs"], traits["vocab_size"], batch, length)
            else:
                arrays = self.make_inputs(batch, length, traits["seed"])
            return tuple(torch.from_numpy(array).to(device) for array in arrays.values())

        def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
            """Which axes of each input may change, for torch.export."""
            named = {"batch": torch.export.Dim("batch", min=1), "length": torch.export.Dim("length", min=1)}
            return tuple(
                {axis: named.get(kind, torch.export.Dim.AUTO) for axis, kind in enumerate(axes) if kind}
                for axes in traits["input_axes"]
            )

    return Forward().eval().requires_grad_(False)
