"""What one forward pass has to do: its floating-point operations and the weights that it reads. Runs in a worker."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Operations that read rows of their first argument and not all of it.
GATHERS = frozenset(
    f"aten::{name}"
    for name in ("embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only", "gather", "index",
                 "index_select", "take", "take_along_dim")
)  # fmt: skip


#: Weight, first element and count of a stretch of weights that an operation reads.
Stretch = tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """One operation of a pass: which memory it takes from and gives to, and what it costs."""

    taken: frozenset[Any]
    given: frozenset[Any]
    flops: int
    reads: tuple[Stretch, ...]


def count(module: Any, inputs: Sequence[torch.Tensor], batch: int) -> dict[str, list[int]]:
    """ "flops" and "weight_elements" that a pass of `module` cannot do without, over one row and if `batch` is more
    over two: `of_batch` continues them.

    `inputs` are the module's positional tensors [rows, …] on its device. They and the weights are taken without their
    values, so nothing is computed; a module that reads a value, or takes a tensor that it has not registered, is run as
    it is. A multiplication and an addition are two flops. A table of which only rows are gathered does not count, nor
    does what the output does not depend on, since an exporter leaves it out (BERT's pooler).
    """
    import torch

    rows = [[tensor[[row % len(tensor) for row in range(count)]].clone() for tensor in inputs] for count in (1, 2)]
    # Outside inference mode every operation arrives in its parts, whatever mode the caller is in.
    with torch.inference_mode(False), torch.no_grad():
        try:
            passes = _without_values(module, rows[:batch])
        except Exception:  # whatever a module raises that asks for a value
            passes = [_trace(module, taken) for taken in rows[:batch]]
    sizes = [tensor.numel() for tensor in _weights(module).values()]
    return {
        "flops": [flops for flops, _ in passes],
        "weight_elements": [_elements(reads, sizes) for _, reads in passes],
    }


def of_batch(counted: Mapping[str, Sequence[int]], batch: int) -> tuple[int, int]:
    """Flops and elements of weights of a pass over `batch` rows, from what `count` found: each further row costs as
    much as the second one.
    """
    flops, elements = counted["flops"], counted["weight_elements"]
    return flops[0] + (batch - 1) * (flops[-1] - flops[0]), elements[0 if batch == 1 else -1]


def _without_values(module: Any, inputs: Sequence[Sequence[torch.Tensor]]) -> list[tuple[int, list[Stretch]]]:
    """`_trace` for each of `inputs`, of a copy of `module` whose tensors have shapes alone."""
    from itertools import chain

    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    hollow = {id(one): mode.from_tensor(one) for one in chain(module.parameters(), module.buffers())}
    emptied = copy.deepcopy(module, memo=dict(hollow))
    with mode:
        return [_trace(emptied, [mode.from_tensor(tensor) for tensor in taken]) for taken in inputs]


def _trace(module: Any, inputs: Sequence[torch.Tensor]) -> tuple[int, list[Stretch]]:
    """Flops and read weights of the steps of one pass that its output depends on."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import FlopCounterMode

    homes: dict[Any, list[tuple[int, int, int]]] = {}  # of each storage: first byte, last byte and number of weights
    for number, ((storage, start), weight) in enumerate(_weights(module).items()):
        homes.setdefault(storage, []).append((start, start + weight.numel() * weight.element_size(), number))
    steps: list[Step] = []

    def tensors(values: Any) -> list[torch.Tensor]:
        return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]

    def reads(taken: Iterable[torch.Tensor], given: frozenset[Any]) -> Iterable[Stretch]:
        for tensor in taken:
            storage, start = _place(tensor)
            if storage in given:  # a view reads nothing
                continue
            for first, end, number in homes.get(storage, ()):
                if first <= start < end:  # in bytes: a neighbour in memory may have another type
                    yield number, start - first, tensor.numel()

    class Trace(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before = counter.get_total_flops()
            output = func(*args, **(kwargs or {}))
            taken = tensors((args, kwargs))
            sources = frozenset(map(_storage, taken))
            given = frozenset(map(_storage, tensors(output))) or sources
            whole = taken[1:] if func.name().partition(".")[0] in GATHERS else taken
            flops = counter.get_total_flops() - before
            steps.append(Step(sources, given, flops, tuple(reads(whole, given))))
            return output

    # The counter does not know torch's fused attention for CPUs (torch 2.13); its plain form is matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, Trace():
        output = module(*inputs)
    flops, live, read = 0, set(map(_storage, tensors(output))), list[Stretch]()
    for step in reversed(steps):
        if not live.isdisjoint(step.given):
            live |= step.taken
            flops += step.flops
            read += step.reads
    return flops, read


def _elements(reads: Iterable[Stretch], sizes: Sequence[int]) -> int:
    """Elements that distinct stretches cover, at most all of each weight: a weight that is used twice is read once."""
    covered = [0] * len(sizes)
    for weight, _, elements in set(reads):
        covered[weight] += elements
    return sum(map(min, covered, sizes))


def _weights(module: Any) -> dict[tuple[Any, int], torch.Tensor]:
    """Parameters and saved buffers by their place, tied ones once; masks and the like are not saved."""
    tensors = (tensor for tensor in module.state_dict(keep_vars=True).values() if tensor.numel())
    return {_place(tensor): tensor for tensor in tensors}


def _place(tensor: torch.Tensor) -> tuple[Any, int]:
    """The memory of `tensor`, and the first byte of it that it takes."""
    return _storage(tensor), tensor.storage_offset() * tensor.element_size()


def _storage(tensor: torch.Tensor) -> Any:
    """A name for the memory of `tensor` that stays its own after the memory is freed, and does not keep it."""
    from torch.multiprocessing.reductions import StorageWeakRef

    return StorageWeakRef(tensor.untyped_storage())
