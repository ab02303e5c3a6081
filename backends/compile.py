"""torch.compile: one static graph per shape, or one dynamic graph for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends._torch import TorchSpec
from backends.base import BackendError, Batch, Options
from backends.eager import Eager

#: Graphs of one function that Dynamo holds, and compiles in all, unless told otherwise.
LEAST_RECOMPILE_LIMIT, LEAST_ACCUMULATED_LIMIT = 8, 256
#: The same for a dynamic graph, of which torch makes one for each combination of sizes that are 1 or more.
DYNAMIC_RECOMPILE_LIMIT = 64


class Compile(Eager):
    """The checkpoint's module under torch.compile with static shapes.

    Dynamo is reset whenever the shape changes, so that figures do not depend on the order of
    the cells, or at more shapes than `keep_shapes` lets it hold; reaching its recompile limit is an
    error instead of a fall-back to eager. Variant `dynamic` compiles one graph for all shapes and keeps it;
    a further graph, e.g. for batch 1, which torch specialises, is counted as a recompilation.
    """

    spec = TorchSpec(
        name="compile",
        format="checkpoint",
        requires=("torch", "transformers"),
        install="runtimebench",
        variants={
            "default": {},
            "dynamic": {"dynamic": True},
            "reduce-overhead": {"mode": "reduce-overhead"},
            "freezing": {"freezing": True},
            "max-autotune": {"mode": "max-autotune", "freezing": True},
        },
        compiled_per_shape=("default", "reduce-overhead", "freezing", "max-autotune"),
        generation={
            "default": {"static_cache": True},
            "reduce-overhead": {"static_cache": True, "mode": "reduce-overhead"},
            "max-autotune": {"static_cache": True, "mode": "max-autotune", "freezing": True},
        },
    )
    has_static_shapes = True

    def open(self, path: Path, precision: str, options: Options) -> Any:
        import torch._dynamo
        import torch._inductor.config

        self.mode = options.get("mode")
        self.is_dynamic = bool(options.get("dynamic"))
        self.has_static_shapes = not self.is_dynamic
        self.eager_module = super().open(path, precision, options)
        self.shape: Any = None
        """Shape that was prepared last, or rows, room and prompt length of a generation."""
        self.kept, self.most_kept = set[Any](), 1
        """Shapes that graphs are held for."""
        self.begun: tuple[int, int] | None = None
        """Rows and room of a cache that has seen no step."""
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        self._limit_recompilations(1)
        torch._inductor.config.freezing = bool(options.get("freezing"))
        return self._compiled()

    def _compiled(self) -> Any:
        import torch

        return torch.compile(self.eager_module, dynamic=self.is_dynamic, mode=self.mode)

    def prepare(self, batch: Batch) -> Any:
        shape = next(iter(batch.values())).shape
        if shape not in self.kept and not self.is_dynamic:
            if len(self.kept) in (0, self.most_kept):
                self._forget_graphs()
                self.module = self._compiled()
            self.kept.add(shape)
        self.shape = shape
        return super().prepare(batch)

    def keep_shapes(self, count: int) -> None:
        self._forget_graphs()
        self.shape, self.most_kept = None, count
        self._limit_recompilations(count)

    def _limit_recompilations(self, shapes: int) -> None:
        import torch._dynamo

        least = DYNAMIC_RECOMPILE_LIMIT if self.is_dynamic else LEAST_RECOMPILE_LIMIT
        count = max(shapes, least)
        torch._dynamo.config.recompile_limit = count
        torch._dynamo.config.accumulated_recompile_limit = max(count, LEAST_ACCUMULATED_LIMIT)

    def _forget_graphs(self) -> None:
        import torch._dynamo

        self.kept.clear()
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch._dynamo.utils.compilation_time_metrics.clear()

    def run(self, prepared: Any) -> Any:
        self._begin_graph()
        return super().run(prepared)

    def run_watched(self, prepared: Any, call: Callable[[], Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if call is not None:  # a call that compiles makes calls of its own, so the next one is watched
            call()
        return super().run_watched(prepared)

    def _begin_graph(self) -> None:
        """Tell CUDA graphs that what the last call returned is read by now."""
        import torch

        if self.device == "cuda" and self.mode is not None:  # every named mode here records CUDA graphs
            torch.compiler.cudagraph_mark_step_begin()

    def has_cache(self) -> bool:
        return self.cache_is_static and super().has_cache()  # a growing one would compile anew for every length

    def new_cache(self, rows: int, room: int) -> Any:
        self.begun = (rows, room)
        return super().new_cache(rows, room)

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        import torch

        if self.begun is not None:  # the first step of a generation: its shape decides both graphs
            shape, self.begun = (*self.begun, ids.shape[1]), None
            if shape != self.shape:
                self._forget_graphs()
                self.shape = shape
                self.compiled_step = torch.compile(self.eager_module.step, dynamic=False, mode=self.mode)
        self._begin_graph()
        with torch.inference_mode():
            found: tuple[Any, Any] = self.compiled_step(ids, mask, cache)
            return found

    def plain_module(self) -> Any:
        return self.eager_module

    def _callable_with_states(self, module: Any) -> Any:
        import torch._dynamo

        torch._dynamo.reset()  # each set of states is a graph of its own, and would count against the recompile limit
        return torch.compile(module, dynamic=self.is_dynamic, mode=self.mode)

    def _notes(self) -> list[str]:
        return [
            "torch.compile compiled another graph, with the hidden states as outputs: fusion across layers is undone"
        ]

    def memory(self) -> dict[str, int]:
        found = super().memory()
        if self.device == "cuda" and self.mode is not None:
            # Replays of a CUDA graph allocate nothing: their activations stay in a pool that only "reserved" counts.
            found.pop("peak_allocated_bytes")
        return found

    def close(self) -> None:
        self.eager_module = self.compiled_step = None
        super().close()

    def facts(self) -> dict[str, Any]:
        import torch._dynamo

        counters = torch._dynamo.utils.counters
        graphs = counters["stats"].get("unique_graphs", 0)
        if self.shape is not None and not graphs:
            raise BackendError("torch.compile captured no graph: the calls ran as plain eager")
        seconds = torch._dynamo.utils.compilation_time_metrics.get("_compile.compile_inner", [])
        return super().facts() | {
            "mode": self.mode or "default",
            "dynamic": self.is_dynamic,
            "graphs": graphs,
            "graph_breaks": sum(counters["graph_break"].values()),
            "compile_seconds": round(sum(seconds), 3),
            "compile_cache_hits": counters["inductor"].get("fxgraph_cache_hit", 0),
        }
