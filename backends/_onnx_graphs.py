"""CUDA graphs of an ONNX Runtime session: one for each prepared input, captured in its first call, replayed after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Key of a run's graph in ONNX Runtime's run options, and the value for "capture none".
GRAPH_ID = "gpu_graph_id"
NO_GRAPH = "-1"


@dataclass(frozen=True)
class Prepared:
    """Inputs and outputs at addresses that stay, and the graph that is captured over them."""

    binding: Any
    captured: Any
    """Run options that capture and replay this input's own graph."""
    uncaptured: Any
    """Run options of a call without a graph."""


class Graphs:
    """The graphs that a session has captured; a graph reads and writes where it was captured, whatever its shape."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self.outputs = outputs
        self.count = 0

    def prepared(self, session: Any, binding: Any, uncaptured: Any) -> Prepared:
        """Bind outputs of the size that one call without a graph shows, and name a new graph."""
        session.run_with_iobinding(binding, uncaptured)
        for name, value in zip(self.outputs, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, value)
        self.count += 1
        return Prepared(binding, run_options(str(self.count)), uncaptured)

    def run(self, session: Any, prepared: Prepared) -> Any:
        """Replay the graph; the first time, capture it."""
        session.run_with_iobinding(prepared.binding, prepared.captured)
        return prepared.binding

    def run_uncaptured(self, session: Any, prepared: Prepared) -> Any:
        """The same call node by node."""
        session.run_with_iobinding(prepared.binding, prepared.uncaptured)
        return prepared.binding


def run_options(graph: str) -> Any:
    """Run options that do not wait for the device and take the graph of that name."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry(GRAPH_ID, graph)
    return options
