"""TensorRT on CUDA, from the ONNX artifact: an engine per shape, on torch's stream, over torch's own memory."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends._torch import CudaClock, cuda_reason, to_host
from backends._weights import WeightGauge
from backends.base import BackendError, Batch, Options, OutOfMemoryError, Spec, read_metadata

#: Environment variable that names the folder for built engines; without it each is built anew.
CACHE_VARIABLE = "BENCH_ENGINE_CACHE"
#: torch's names of TensorRT's element types.
DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "INT8": "int8",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass
class _Engine:
    """An engine, its one context, and the call whose tensors that holds the addresses of."""

    engine: Any
    context: Any
    bound: Any = None


@dataclass(eq=False)
class _Call:
    """One prepared call: inputs and outputs by name, where TensorRT reads and writes them."""

    engine: _Engine
    inputs: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)


class TensorRt(CudaClock, WeightGauge):
    """Strongly typed networks: each layer computes in what the file says, and fp32 without TF32 unless asked for.

    An engine is built for each shape with that shape alone in its profile, which is the fastest that TensorRT has, and
    kept in the folder that `BENCH_ENGINE_CACHE` names.
    """

    spec = Spec(
        name="tensorrt",
        format="onnx",
        precisions={"cuda": ("fp32", "fp16", "bf16")},
        requires=("tensorrt", "torch"),
        install="runtimebench[tensorrt]",
        takes_tf32=True,
        compiled_per_shape=("default",),
    )
    has_static_shapes = True

    @classmethod
    def supports(cls, variant: str, device: str, precision: str) -> str | None:
        if device not in cls.spec.precisions:  # before what is missing: installing it would not help
            return f"tensorrt does not run on {device}; use --device cuda"
        return cls.spec.refusal(device, precision) or cuda_reason(cls.spec.name)

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        import tensorrt as trt
        import torch

        assert path is not None
        metadata = read_metadata(path)
        self.input_names, self.output_names = metadata["inputs"], metadata["outputs"]
        self.path, self.device, self.has_tf32 = path, device, bool(options.get("tf32"))
        # On the default stream TensorRT adds a synchronisation to each call.
        torch.cuda.set_stream(torch.cuda.Stream())
        self.logger = _logger(trt)
        self.runtime = trt.Runtime(self.logger)
        # Engines and their buffers are not torch's, so its allocator knows nothing of them.
        self.weight_bytes = sum(file.stat().st_size for file in path.glob("model.onnx*"))
        self.engines: dict[Any, _Engine] = {}
        self.most_kept, self.built, self.read, self.build_seconds, self.layers = 1, 0, 0, 0.0, 0

    def keep_shapes(self, count: int) -> None:
        self.engines.clear()
        self.most_kept = count

    def prepare(self, batch: Batch) -> Any:
        import torch

        inputs = {name: torch.as_tensor(array).to(self.device).contiguous() for name, array in batch.items()}
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        if shapes not in self.engines:
            if len(self.engines) >= self.most_kept:
                self.engines.clear()
            self.engines[shapes] = self._engine(shapes)
        return _Call(self.engines[shapes], inputs)

    def _engine(self, shapes: Shapes) -> _Engine:
        import tensorrt as trt
        import torch

        recipe = (
            self.path.name, shapes, self.has_tf32, trt.__version__, torch.cuda.get_device_name(),
            torch.cuda.get_device_capability(),
        )  # fmt: skip
        folder = os.environ.get(CACHE_VARIABLE)
        file = Path(folder or ".") / f"{hashlib.sha256(repr(recipe).encode()).hexdigest()[:32]}.engine"
        if is_cached := bool(folder) and file.is_file():
            self.read += 1
            serialized = file.read_bytes()
        else:
            self.built += 1
            serialized = self._build(trt, shapes)
        engine = self.runtime.deserialize_cuda_engine(serialized)
        if engine is None and is_cached:  # another driver's, or cut short
            file.unlink()
            return self._engine(shapes)
        if engine is None:
            raise BackendError(f"TensorRT cannot read the engine that it built: {self.logger.last}")
        if folder and not is_cached:
            aside = file.with_suffix(f".{os.getpid()}")
            file.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(serialized)
            aside.rename(file)
        self.layers = engine.num_layers
        context = engine.create_execution_context()
        if context is None:
            raise OutOfMemoryError(f"TensorRT has no room for the engine's buffers: {self.logger.last}")
        return _Engine(engine, context)

    def _build(self, trt: Any, shapes: Shapes) -> bytes:
        """Serialized engine of the file's network for exactly these shapes."""
        started = time.monotonic()
        builder = trt.Builder(self.logger)
        flags = trt.NetworkDefinitionCreationFlag
        # From TensorRT 11 on every network is strongly typed, and the flag may be gone.
        typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(self.path / "model.onnx")):
            errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
            raise BackendError(f"TensorRT cannot read the ONNX file: {errors}")
        config = builder.create_builder_config()
        if self.has_tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default
        profile = builder.create_optimization_profile()
        for name, shape in shapes:
            profile.set_shape(name, shape, shape, shape)
        config.add_optimization_profile(profile)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise BackendError(f"TensorRT built no engine: {self.logger.last}")
        self.build_seconds += time.monotonic() - started
        return bytes(serialized)

    def run(self, prepared: Any) -> Any:
        import torch

        held = prepared.engine
        if held.bound is not prepared:
            self._bind(prepared)
        if not held.context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise BackendError(f"TensorRT did not start the call: {self.logger.last}")
        return prepared

    def _bind(self, call: _Call) -> None:
        """Tell the context where the call's inputs lie, and make its outputs."""
        import torch

        context = call.engine.context
        for name, tensor in call.inputs.items():
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        for name in self.output_names:
            if name not in call.outputs:
                dtype = getattr(torch, DTYPES[call.engine.engine.get_tensor_dtype(name).name])
                shape = tuple(context.get_tensor_shape(name))
                call.outputs[name] = torch.empty(shape, dtype=dtype, device=self.device)
            context.set_tensor_address(name, call.outputs[name].data_ptr())
        call.engine.bound = call

    def release(self, outputs: Any) -> None:
        outputs.outputs.clear()
        outputs.engine.bound = None

    def tensors(self, outputs: Any) -> tuple[Any, ...]:
        return tuple(outputs.outputs[name] for name in self.output_names)

    def fetch(self, outputs: Any) -> dict[str, Any]:
        self.synchronize()
        return dict(zip(self.output_names, map(to_host, self.tensors(outputs)), strict=True))

    def close(self) -> None:
        self.engines = {}
        self.runtime = None
        self.trim()

    def facts(self) -> dict[str, Any]:
        import tensorrt as trt

        return {
            "tf32": self.has_tf32,
            "engines_built": self.built,
            "engines_from_cache": self.read,
            "build_seconds": round(self.build_seconds, 3),
            "layers": self.layers,
            "tensorrt": trt.__version__,
        }


def _logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps the last error, which is all that a failed call tells."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it does not say why"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())[:300]

    return Logger()
