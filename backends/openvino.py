"""OpenVINO on the CPU, reading the ONNX artifact as it is; inputs and outputs are shared, not copied."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from backends._caches import GrowingCache
from backends._openvino_graph import executed, fused_layers
from backends._openvino_int8 import compress_weights
from backends._weights import WeightGauge
from backends.base import BackendError, Batch, Options, Spec, UnsupportedError, read_metadata
from backends.protocols import InnerValue

#: What the CPU plugin computes in, by precision. Always said: by itself it takes bf16 where the machine has it.
INFERENCE_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
#: Activations that share one scale in int8, along the axis that is summed over; this is the plugin's own default.
DEFAULT_GROUP = 32


#: Shape of each input, by name.
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class _Call:
    """Inputs and outputs of one prepared call."""

    #: None until the model is compiled for the inputs' shapes, which belongs to the first call.
    compiled: Any = None
    request: Any = None

    def __init__(self, compile: Callable[[], Any], inputs: Sequence[tuple[str, Any]]) -> None:
        self.compile, self.inputs = compile, inputs

    def renew(self) -> None:
        """Let go of the outputs: they are the request's own."""
        if self.compiled is None:
            self.compiled = self.compile()
        self.request = self.compiled.create_infer_request()
        for name, tensor in self.inputs:
            self.request.set_tensor(self.compiled.input(name), tensor)


class OpenVino(GrowingCache, WeightGauge):
    """One stream with the latency hint and as many threads as every runtime gets, pinned to no core.

    Variant `attention23` reads the file with opset 23's Attention, for which the plugin has a kernel of its own, and
    `static` compiles that file anew for each shape, within its first call.
    bf16 is computed from the fp32 file by the plugin. In int8 the weights of every MatMul are rounded to 8 bits per
    output channel when the file is loaded, and the plugin quantises activations in groups as it runs.
    """

    spec = Spec(
        name="openvino",
        format="onnx",
        variants={
            "default": {},
            "attention23": {"format": "onnx-attention23"},
            "static": {"format": "onnx-attention23", "static": True},
            "group128": {"group": 128},
        },
        precisions={"cpu": ("fp32", "bf16", "int8")},
        artifact_precisions={"bf16": "fp32", "int8": "fp32"},
        requires=("openvino",),
        install="runtimebench[openvino]",
        compiled_per_shape=("static",),
        generation={"default": {}},
        generation_format="onnx-with-past",
    )
    has_static_shapes = False

    @classmethod
    def supports(cls, variant: str, device: str, precision: str) -> str | None:
        if reason := cls.spec.refusal(device, precision):
            return reason
        if variant == "group128" and precision != "int8":
            return f"openvino:group128 quantises activations, which {precision} does not; use openvino, or int8"
        return None

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        import openvino as ov

        assert path is not None
        metadata = read_metadata(path)
        self.output_names = metadata["outputs"]
        self.input_names = metadata["inputs"]
        self.cache_tensors = metadata.get("cache")
        self.path, self.precision, self.threads = path, precision, threads
        self.has_static_shapes = bool(options.get("static"))
        self.core = ov.Core()
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            # Else two CPUs of one core count as one, and it would compute with fewer threads than the others.
            "ENABLE_HYPER_THREADING": True,
            # No other runtime here pins its threads; where something else runs on a core, a pinned one waits for it.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": INFERENCE_PRECISIONS[precision],
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(options.get("group", DEFAULT_GROUP) if precision == "int8" else 0),
        }
        self.layers_unmarked: dict[Shapes | None, Counter[str]] = {}
        """Fused layers of the graph as it is called, for each static shape that was asked for inner values."""
        self.kept: dict[Shapes, Any] = {}
        """What was compiled for static shapes."""
        self.most_kept, self.graphs, self.compile_seconds = 1, 0, 0.0
        """The last two: compilations since shapes were forgotten last."""
        self.model = self._read()
        self.compiled: Any = None
        """What was compiled last; for static shapes nothing before the first call."""
        if not self.has_static_shapes:
            self.compiled = self._compile(self.model)
            self.model = None
        self.steps: list[Any] = []

    def _read(self) -> Any:
        model = self.core.read_model(self.path / "model.onnx")
        self.compressed = compress_weights(model) if self.precision == "int8" else 0
        if self.precision == "int8" and not self.compressed:
            raise UnsupportedError("openvino int8 rounds the weights of MatMul, and this model has none; use fp32")
        self.weight_bytes = sum(
            op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant"
        )  # of the graph that is compiled: what the plugin packs anew from it is not told
        return model

    def _compile(self, model: Any, shapes: Shapes | None = None) -> Any:
        """`model` compiled, where `shapes` are given for these alone."""
        if shapes is not None:
            model.reshape({name: list(shape) for name, shape in shapes})
        self.compiled = self.core.compile_model(model, "CPU", self.settings)
        self._check(self.precision, self.threads)
        return self.compiled

    def _compiled_for(self, shapes: Shapes | None) -> Any:
        """The model compiled for these shapes, now or earlier; the one that it was loaded as without static ones."""
        if shapes is None or not self.has_static_shapes:
            return self.compiled
        if shapes not in self.kept:
            started = time.perf_counter()
            self.kept[shapes] = self._compile(self.model or self._read(), shapes)
            self.graphs, self.compile_seconds = self.graphs + 1, self.compile_seconds + time.perf_counter() - started
        return self.kept[shapes]

    def keep_shapes(self, count: int) -> None:
        self._forget_shapes()
        self.most_kept = count

    def _forget_shapes(self) -> None:
        self.kept.clear()
        self.graphs, self.compile_seconds = 0, 0.0

    def _check(self, precision: str, threads: int) -> None:
        """Hold what the plugin says that it does against what it was asked for."""
        computes_in = self._property("INFERENCE_PRECISION_HINT").to_string()
        if computes_in != INFERENCE_PRECISIONS[precision]:
            raise UnsupportedError(
                f"openvino has no {precision} on this CPU: it would compute in {computes_in}; use --precisions fp32"
            )
        if (devices := self._property("EXECUTION_DEVICES")) != ["CPU"]:
            raise BackendError(f"the CPU was asked for and OpenVINO took {', '.join(devices)}")
        if (taken := self._property("INFERENCE_NUM_THREADS")) != threads:
            raise UnsupportedError(
                f"openvino takes {taken} threads where {threads} were asked for; use --threads {taken}"
            )

    def _property(self, name: str) -> Any:
        return self.compiled.get_property(name)

    def prepare(self, batch: Batch) -> Any:
        shapes = _shapes(batch)
        if shapes not in self.kept and len(self.kept) >= self.most_kept:
            self._forget_shapes()
        call = _Call(partial(self._compiled_for, shapes), _shared(batch))
        if not self.has_static_shapes or shapes in self.kept:
            call.renew()
        return call

    def run(self, prepared: Any) -> Any:
        if prepared.request is None:
            prepared.renew()
        prepared.request.infer(share_outputs=True)  # else it copies them, within the call
        return prepared

    def run_watched(self, prepared: Any, call: Callable[[], Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.run(prepared) if call is None else call(), executed(prepared.compiled)

    def release(self, outputs: Any) -> None:
        outputs.renew()

    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {
            name: outputs.request.get_output_tensor(index).data.copy() for index, name in enumerate(self.output_names)
        }

    def tensors(self, outputs: Any) -> tuple[Any, ...]:
        import torch

        count = len(self.output_names)
        return tuple(torch.from_numpy(outputs.request.get_output_tensor(index).data) for index in range(count))

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        import openvino as ov

        # Two requests in turn: the cache is what the last one put out, and this one must not write there.
        if not self.steps:
            self.steps = [self.compiled.create_infer_request() for _ in range(2)]
        self.steps.reverse()
        request = self.steps[0]
        arrays = [tensor.contiguous().numpy() for tensor in (ids, mask, *cache)]  # held until the call is over
        for name, array in zip(self.input_names, arrays, strict=True):
            request.set_tensor(self.compiled.input(name), ov.Tensor(array, shared_memory=True))
        request.infer(share_outputs=True)
        logits, *longer = self.tensors(_Outputs(request))
        return logits, tuple(longer)

    def step_watched(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any, dict[str, Any]]:
        return (*self.step(ids, mask, cache), executed(self.compiled))

    def inner_values(self) -> dict[str, InnerValue]:
        return {
            name: InnerValue(op.get_type_name(), tuple(_names(op.input_values())))
            for op in self._read().get_ordered_ops()
            if op.get_type_name() not in ("Constant", "Parameter", "Result")
            for name in _names(op.outputs())
        }

    def run_inner(self, batch: Batch, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        shapes = _shapes(batch) if self.has_static_shapes else None
        if shapes not in self.layers_unmarked:
            self.layers_unmarked[shapes] = fused_layers(self._compiled_for(shapes))
        inner = [name for name in names if name not in self.output_names]
        model = self._read()
        if inner:
            model.add_outputs(inner)
        self.close()  # two compiled models would hold the weights twice
        compiled = self._compile(model, shapes)
        call = self.run(_Call(lambda: compiled, _shared(batch)))
        outputs = {name: call.request.get_tensor(compiled.output(name)).data.copy() for name in names}
        left = fused_layers(compiled)
        return outputs, {"undone": dict(self.layers_unmarked[shapes] - left), "notes": []}

    def close(self) -> None:
        self.compiled = self.model = None
        self.kept = {}
        self.steps = []

    def facts(self) -> dict[str, Any]:
        import openvino as ov

        if self.compiled is None:
            return {"openvino": ov.__version__}
        return {
            "execution_devices": self._property("EXECUTION_DEVICES"),
            "threads": self._property("INFERENCE_NUM_THREADS"),
            "streams": self._property("NUM_STREAMS"),
            "performance_hint": str(self._property("PERFORMANCE_HINT")),
            "computes_in": self._property("INFERENCE_PRECISION_HINT").to_string(),
            "cpu_pinning": self._property("ENABLE_CPU_PINNING"),
            "hyper_threading": self._property("ENABLE_HYPER_THREADING"),
            "activation_group": self._property("DYNAMIC_QUANTIZATION_GROUP_SIZE"),
            "matmuls_compressed": self.compressed,
            "model_cache": bool(self.core.get_property("CACHE_DIR")),
            "openvino": ov.__version__,
            **(self._compilations() if self.has_static_shapes else {}),
        }

    def _compilations(self) -> dict[str, Any]:
        return {"graphs": self.graphs, "graph_breaks": 0, "compile_seconds": round(self.compile_seconds, 3)}


def _shapes(batch: Batch) -> Shapes:
    return tuple((name, tuple(array.shape)) for name, array in batch.items())


def _shared(batch: Batch) -> list[tuple[str, Any]]:
    """The batch's arrays by name, as OpenVINO's tensors over the same memory."""
    import numpy as np
    import openvino as ov

    arrays = {name: array.numpy() if hasattr(array, "data_ptr") else array for name, array in batch.items()}
    return [(name, ov.Tensor(np.ascontiguousarray(array), shared_memory=True)) for name, array in arrays.items()]


class _Outputs:
    """The outputs of a request that no call holds."""

    def __init__(self, request: Any) -> None:
        self.request = request


def _names(ports: Sequence[Any]) -> list[str]:
    """The name in the ONNX file of each value that has one there."""
    return [name for port in ports for name in sorted(port.get_names())[:1]]
