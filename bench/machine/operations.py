"""What one forward pass has to do: its floating-point operations and the weights that it reads. Runs in a worker."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
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


def count(module: Any, inputs: Sequence[torch.Tensor], batch: int) -> dict[str, int]:
    """ "flops" and "weight_elements" that a pass of `module` over `batch` rows cannot do without.

    `inputs` are the module's positional tensors [rows, ...] on its device; one and two rows are run, and continued
    linearly. A multiplication and an addition are two flops. A table of which only rows are gathered does not count,
    nor does what the output does not depend on, since an exporter leaves it out (BERT's pooler).
    """
    import torch

    passes = []
    # Outside inference mode every operation arrives in its parts, whatever mode the caller is in.
    with torch.inference_mode(False), torch.no_grad():
        for rows in (1, 2)[:batch]:
            taken = [tensor[[row % len(tensor) for row in range(rows)]].clone() for tensor in inputs]
            passes.append(_trace(module, taken))
    (first, _), (last, reads) = passes[0], passes[-1]
    sizes = [tensor.numel() for tensor in _weights(module)]
    return {"flops": first + (batch - 1) * (last - first), "weight_elements": _elements(reads, sizes)}


def _trace(module: Any, inputs: Sequence[torch.Tensor]) -> tuple[int, list[Stretch]]:
    """Flops and read weights of the steps of one pass that its output depends on."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import FlopCounterMode

    weights = _weights(module)
    starts = [tensor.data_ptr() for tensor in weights]
    steps: list[Step] = []

    def tensors(values: Any) -> list[torch.Tensor]:
        return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]

    def reads(taken: Iterable[torch.Tensor], given: frozenset[Any]) -> Iterable[Stretch]:
        for tensor in taken:
            weight = bisect_right(starts, tensor.data_ptr()) - 1
            if weight < 0 or _storage(tensor) in given:  # a view reads nothing
                continue
            offset = tensor.data_ptr() - starts[weight]  # in bytes: a neighbour in memory may have another type
            if offset < weights[weight].numel() * weights[weight].element_size():
                yield weight, offset, tensor.numel()

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


def _weights(module: Any) -> list[torch.Tensor]:
    """Parameters and saved buffers by address, tied ones once; masks and the like are not saved."""
    found = {tensor.data_ptr(): tensor for tensor in module.state_dict(keep_vars=True).values() if tensor.numel()}
    return [found[address] for address in sorted(found)]


def _storage(tensor: torch.Tensor) -> Any:
    """A name for the memory of `tensor` that stays its own after the memory is freed, and does not keep it."""
    from torch.multiprocessing.reductions import StorageWeakRef

    return StorageWeakRef(tensor.untyped_storage())
