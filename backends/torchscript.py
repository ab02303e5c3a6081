"""TorchScript: a traced and frozen module, run by torch's JIT interpreter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from backends._caches import GrowingCache
from backends._torch import TorchBackend, TorchSpec
from backends.base import Batch, Options, UnsupportedError, read_metadata
from backends.protocols import InnerValue


class TorchScript(TorchBackend, GrowingCache):
    """Trace + freeze; needs torch alone, not the model's code. Deprecated upstream in favour of torch.export.

    Variant `optimized` has `torch.jit.optimize_for_inference` rewrite the frozen graph once it is loaded (oneDNN
    layouts and fusions on the CPU, cuDNN's on CUDA).
    """

    spec = TorchSpec(
        name="torchscript",
        format="torchscript",
        variants={"default": {}, "optimized": {"optimize_for_inference": True}},
        settling_calls={"cuda": 2},  # it watches the first, and compiles what it fuses in the second
        generation={"default": {}},
        generation_format="torchscript-with-past",
    )

    def open(self, path: Path, precision: str, options: Options) -> Any:
        import torch

        self.cache_tensors = read_metadata(path).get("cache")
        module = torch.jit.load(str(path / "model.pt"), map_location=self.device)
        return torch.jit.optimize_for_inference(module) if options.get("optimize_for_inference") else module

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        import torch

        with torch.inference_mode():
            logits, *longer = self.module(ids, mask, cache)
            return logits, tuple(longer)

    def step_watched(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any, dict[str, Any]]:
        (logits, longer), facts = self.watched_call(lambda: self.step(ids, mask, cache))
        return logits, longer, facts

    def parameters(self) -> Iterable[Any]:
        """Freezing turns parameters and buffers into constants of the graph."""
        import torch

        constants = (node.output() for node in self.module.graph.findAllNodes("prim::Constant"))
        values = (value.toIValue() for value in constants)
        tensors = (value for value in values if isinstance(value, torch.Tensor))
        return {tensor.data_ptr(): tensor for tensor in tensors}.values()

    def inner_values(self) -> dict[str, InnerValue]:
        names: dict[str, str] = {}  # the graph's own are numbers for many values, and others in every copy
        found = {}
        for node in self.module.graph.nodes():
            inputs = tuple(names[value.debugName()] for value in node.inputs() if value.debugName() in names)
            for value in _tensors(node):
                names[value.debugName()] = f"{len(names)}:{node.kind()}"
                found[names[value.debugName()]] = InnerValue(node.kind(), inputs)
        return found

    def run_inner(self, batch: Batch, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        def call(inner: Sequence[str]) -> tuple[Any, Sequence[Any]]:
            graph = self.module.graph.copy()
            itself = next(graph.inputs()).debugName()
            if any(value.debugName() == itself for node in graph.nodes() for value in node.inputs()):
                raise UnsupportedError("the TorchScript module is not frozen, so its graph cannot be called by itself")
            tensors = [value for node in graph.nodes() for value in _tensors(node)]
            values = dict(zip(self.inner_values(), tensors, strict=True))
            for name in inner:
                graph.registerOutput(values[name])
            graph.makeMultiOutputIntoTuple()
            graph.eraseInput(0)  # the module itself, whose weights freezing made constants
            marked = torch._C._create_function_from_graph("forward", graph)
            with torch.inference_mode():
                outputs, *states = marked(*self.prepare(batch))
            return outputs, states

        note = "TorchScript ran a copy of its graph with more outputs, which can undo fusions"
        return self.values_of(batch, names, call, [note])


def _tensors(node: Any) -> list[Any]:
    """Values of a node that are tensors and no constants."""
    if node.kind() == "prim::Constant":
        return []
    import torch

    return [value for value in node.outputs() if value.type().isSubtypeOf(torch._C.TensorType.get())]
