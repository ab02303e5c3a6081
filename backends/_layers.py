"""Hidden states of a torch module's layers, taken by forward hooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from backends.base import UnsupportedError


def states(module: Any) -> dict[str, str]:
    """Hidden states that `with_states` takes, in execution order: what goes into the first layer, what leaves each.

    Name -> class of the module that makes it. Raises UnsupportedError for a module without a list of layers.
    """
    layers = _layers(module)
    first = next(iter(layers))
    return {f"input of {first}": "embeddings", **{name: type(layer).__name__ for name, layer in layers.items()}}


def _layers(module: Any) -> dict[str, Any]:
    """The layers by path: the list as long as the configuration says, else the longest that is in no other."""
    import torch

    lists = {name: entry for name, entry in module.named_modules() if isinstance(entry, torch.nn.ModuleList)}
    configured = getattr(getattr(getattr(module, "model", None), "config", None), "num_hidden_layers", None)
    outermost = {
        name: entry for name, entry in lists.items() if not any(name.startswith(f"{other}.") for other in lists)
    }
    fitting = [name for name, entry in outermost.items() if len(entry) == configured]
    chosen = fitting[0] if fitting else max(outermost, key=lambda name: len(outermost[name]), default=None)
    if chosen is None or not len(lists[chosen]):
        raise UnsupportedError("the module has no list of layers, so it has no hidden states to compare")
    return {f"{chosen}.{index}": layer for index, layer in enumerate(lists[chosen])}


@contextmanager
def with_states(module: Any, names: Sequence[str]) -> Iterator[Any]:
    """A module that returns what `module` returns and a list of its hidden states `names`, in their order.

    The hooks that take them are removed at the end of the block.
    """
    import torch

    layers = _layers(module)
    first = next(iter(layers))

    class WithStates(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module
            self.taken: dict[str, Any] = {}

        def forward(self, *inputs: Any) -> tuple[Any, list[Any]]:
            self.taken = {}
            outputs = self.inner(*inputs)
            return outputs, [self.taken[name] for name in names]

        def take(self, name: str, value: Any) -> None:
            if name in self.taken:
                raise UnsupportedError(f"layer {name!r} runs more than once a call, so its states have no one value")
            self.taken[name] = value if isinstance(value, torch.Tensor) else value[0]

    result = WithStates().eval()

    def take_input(layer: Any, positional: Any, named: Any) -> None:
        result.take(f"input of {first}", positional[0] if positional else named["hidden_states"])

    def taking(name: str) -> Any:
        def take_output(layer: Any, inputs: Any, output: Any) -> None:
            result.take(name, output)

        return take_output

    hooks = [layer.register_forward_hook(taking(name)) for name, layer in layers.items() if name in names]
    if f"input of {first}" in names:
        hooks.append(layers[first].register_forward_pre_hook(take_input, with_kwargs=True))
    try:
        yield result
    finally:
        for hook in hooks:
            hook.remove()
