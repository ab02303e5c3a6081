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


@dataclass(frozen=True)
class Step:
    """One operation of a pass: which memory it takes from and gives to, and what it costs."""

    taken: frozenset[Any]
    given: frozenset[Any]
    flops: int
    reads: tuple[tuple[int, int, int], ...]
    """Weight, first element and count of every stretch of weights that it reads."""


def count(module: Any, inputs: Sequence[torch.Tensor], batch: int) -> dict[str, int]:
    """Operations and weights that a pass of `module` over `batch` rows cannot do without.

    `inputs` are the module's positional tensors, [rows, ...] with one row or more, on the module's device. At most two
    rows are run, and the count is continued linearly to `batch` rows: what does not depend on the batch counts once.

    "flops": of matrix products and convolutions, as torch.utils.flop_counter has them, a multiplication and an
    addition being two. "weight_elements": of parameters and saved buffers; a table of which only rows are gathered
    does not count, one that is also used as a matrix does. What the output does not depend on counts in neither, since
    an exporter leaves it out (BERT's pooler).
    """
    import torch

    passes = []
    # Outside inference mode every operation arrives in its parts, whatever mode the caller is in.
    with torch.inference_mode(False), torch.no_grad():
        for rows in (1, 2)[:batch]:
            taken = [tensor[[row % len(tensor) for row in range(rows)]].clone() for tensor in inputs]
            passes.append(_trace(module, taken))
    first, last = passes[0], passes[-1]
    sizes = [tensor.numel() for tensor in _weights(module)]
    return {
        "flops": first.flops + (batch - 1) * (last.flops - first.flops),
        "weight_elements": _elements(last.reads, sizes),
    }


def _trace(module: Any, inputs: Sequence[torch.Tensor]) -> Step:
    """One pass as one step: the sum of the steps that its output depends on."""
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

    def reads(taken: Iterable[torch.Tensor], given: frozenset[Any]) -> Iterable[tuple[int, int, int]]:
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
    return _live(steps, frozenset(map(_storage, tensors(output))))


def _live(steps: Sequence[Step], wanted: frozenset[Any]) -> Step:
    """The sum of those steps that memory `wanted` depends on."""
    flops, live = 0, set(wanted)
    reads: list[tuple[int, int, int]] = []
    for step in reversed(steps):
        if not live.isdisjoint(step.given):
            live |= step.taken
            flops += step.flops
            reads += step.reads
    return Step(frozenset(live), wanted, flops, tuple(reads))


def _elements(reads: Iterable[tuple[int, int, int]], sizes: Sequence[int]) -> int:
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
