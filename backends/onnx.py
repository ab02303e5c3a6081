"""ONNX Runtime on the CPU and CUDA providers, inputs and outputs bound to the device."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from backends import _onnx_providers
from backends._caches import GrowingCache
from backends._onnx_graphs import GRAPH_ID, NO_GRAPH, Graphs
from backends._onnx_profile import executed_nodes, last_run
from backends._torch import CudaClock, cuda_reason, to_host
from backends._weights import WeightGauge
from backends.base import BackendError, Batch, Options, Spec, read_metadata
from backends.protocols import InnerValue

__all__ = ["Onnx", "bind_tensor", "executed_nodes"]

#: Session option: where external weights stand of a model that comes as bytes.
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
#: Operators whose outputs are no tensors.
NOT_TENSORS = ("Sequence", "SplitToSequence", "Optional")


class Onnx(CudaClock, GrowingCache, WeightGauge):
    """ONNX Runtime with I/O binding, so that no copy to or from the host is timed.

    On CUDA the session runs on torch's current stream, which is made for it, so that the same CUDA events time it
    as time the torch backends; a call returns without waiting, as theirs do; and TF32 is off unless asked for, as it
    is there (the provider's default is on).
    """

    spec = Spec(
        name="onnx",
        format="onnx",
        variants=_onnx_providers.VARIANTS,
        precisions={"cpu": ("fp32", "fp16", "int8"), "cuda": ("fp32", "fp16", "bf16")},
        requires=("onnxruntime",),
        install="runtimebench[cpu]",
        limits_device_memory=True,
        takes_tf32=True,
        generation={"default": {}},
        generation_format="onnx-with-past",
    )

    @classmethod
    def supports(cls, variant: str, device: str, precision: str) -> str | None:
        if reason := cls.spec.refusal(device, precision):
            return reason
        if device == "cuda":
            if not _onnx_providers.has_library_of("cuda"):
                return (
                    "onnx on cuda needs onnxruntime-gpu, and the CPU build is installed; "
                    "run: pip uninstall -y onnxruntime && pip install 'runtimebench[gpu]'"
                )
            if reason := cuda_reason(cls.spec.name):
                return reason
        return _onnx_providers.refusal(variant, device, precision)

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        import onnxruntime as ort

        assert path is not None
        self.path = path
        self.device = device
        self.threads = threads
        self.has_tf32 = bool(options.get("tf32"))
        metadata = read_metadata(path)
        self.output_names = metadata["outputs"]
        self.input_names = metadata["inputs"]
        self.cache_tensors = metadata.get("cache")
        self.fusions = {name: metadata[name] for name in ("fused_operators", "fused_attention") if name in metadata}
        self.run_options = ort.RunOptions()
        stream = 0
        if device == "cuda":
            import torch

            ort.preload_dlls()
            # The default stream's address is 0, which the provider takes for "none given", and makes one of its own.
            torch.cuda.set_stream(torch.cuda.Stream())
            stream = torch.cuda.current_stream().cuda_stream
            if not stream:
                raise BackendError("torch gave no stream of its own, so ONNX Runtime's work could not be timed on it")
            self.run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.providers = _onnx_providers.providers(device, precision, stream, options)
        self.graphs = Graphs(self.output_names) if options.get("cuda_graphs") else None
        if self.graphs is not None:
            self.run_options.add_run_config_entry(GRAPH_ID, NO_GRAPH)
        self.unmarked: Counter[str] = Counter()
        self._open(str(path / "model.onnx"))
        if self.session.get_providers()[0] != (wanted := _onnx_providers.name_of(self.providers[0])):
            active = ", ".join(self.session.get_providers())
            raise BackendError(f"{wanted} was asked for and ONNX Runtime took {active}; see `bench list devices`")
        # The initialisers of the graph's files; the arena's own figures cannot be had from Python.
        self.weight_bytes = sum(file.stat().st_size for file in path.glob("model.onnx*"))

    def _open(self, model: str | bytes) -> None:
        """Make the session of a file, or of a serialised model whose weights stand in the artifact's folder."""
        import onnxruntime as ort

        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = self.threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = 3
        session_options.enable_profiling = True  # until the first watched call
        self.is_marked = isinstance(model, bytes)
        if self.is_marked:
            session_options.add_session_config_entry(WEIGHTS_FOLDER, str(self.path.resolve()))
        with tempfile.TemporaryDirectory() as folder:
            session_options.profile_file_prefix = str(Path(folder) / "profile")
            self.session = ort.InferenceSession(model, session_options, providers=self.providers)
            # Held open and removed at once, so that nothing is left behind however this process ends.
            self.profile: IO[str] | None = next((file.open() for file in Path(folder).iterdir()), None)
        self.executed: dict[str, Any] = {}
        self.operators: Counter[str] = Counter()

    def prepare(self, batch: Batch) -> Any:
        binding = self.session.io_binding()
        # A binding keeps no tensor, and up to ONNX Runtime 1.22 at least no value of numpy's memory either.
        binding.kept = [self._bind(binding, name, array) for name, array in batch.items()]
        for name in self.output_names:
            binding.bind_output(name, self.device, 0)
        if not all(hasattr(array, "data_ptr") for array in batch.values()):
            self.synchronize()  # copies from the host do not stand on the session's stream
        return self.prepare_binding(binding)

    def prepare_binding(self, binding: Any) -> Any:
        """What `run` takes: the binding of a call's inputs, with a graph to capture where the variant has them."""
        return binding if self.graphs is None else self.graphs.prepared(self.session, binding, self.run_options)

    def release(self, outputs: Any) -> None:
        if self.graphs is not None:
            return  # a graph writes where it was captured
        outputs.clear_binding_outputs()
        for name in self.output_names:
            outputs.bind_output(name, self.device, 0)

    def _bind(self, binding: Any, name: str, array: Any) -> Any:
        """Bind an input; returns what has to live as long as the binding."""
        if hasattr(array, "data_ptr"):
            tensor = array.contiguous()
            bind_tensor(binding, name, tensor)
            return tensor
        import onnxruntime as ort

        value = ort.OrtValue.ortvalue_from_numpy(array, self.device, 0)
        binding.bind_ortvalue_input(name, value)
        return value, array

    def run(self, prepared: Any) -> Any:
        if self.graphs is not None:
            return self.graphs.run(self.session, prepared)
        self.session.run_with_iobinding(prepared, self.run_options)
        return prepared

    def run_watched(self, prepared: Any, call: Callable[[], Any] | None = None) -> tuple[Any, dict[str, Any]]:
        outputs = call() if call is not None else None
        # A replayed graph tells of no node, so what it was captured from is run.
        if self.graphs is not None:
            outputs = self.graphs.run_uncaptured(self.session, prepared)
        return self.run(prepared) if outputs is None else outputs, self._executed()

    def _executed(self) -> dict[str, Any]:
        """Facts on the session's last run, which ends its profile; later those of that run again."""
        self.synchronize()
        if self.profile is not None:
            self.session.end_profiling()
            events = json.load(self.profile)
            self.executed = executed_nodes(events, self.device)
            self.operators = Counter(args["op_name"] for args in last_run(events))
            self._forget_profile()
        return self.executed

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        binding = self.session.io_binding()
        inputs = (ids.contiguous(), mask.contiguous(), *cache)  # held here until the run has been started
        for name, tensor in zip(self.input_names, inputs, strict=True):
            bind_tensor(binding, name, tensor)
        for name in self.output_names:
            binding.bind_output(name, self.device, 0)
        self.session.run_with_iobinding(binding, self.run_options)
        logits, *longer = self.tensors(binding)
        return logits, tuple(longer)

    def tensors(self, outputs: Any) -> tuple[Any, ...]:
        import torch

        # Views of the runtime's own memory, which each keeps alive. Both allocators reuse memory in the stream's order.
        return tuple(torch.from_dlpack(value.__dlpack__()) for value in outputs.get_outputs())

    def step_watched(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any, dict[str, Any]]:
        return (*self.step(ids, mask, cache), self._executed())

    def _forget_profile(self) -> None:
        if self.profile is not None:
            self.profile.close()
            self.profile = None

    def fetch(self, outputs: Any) -> dict[str, Any]:
        self.synchronize()
        return {name: _to_host(value) for name, value in zip(self.output_names, outputs.get_outputs(), strict=True)}

    def inner_values(self) -> dict[str, InnerValue]:
        return {
            name: InnerValue(node.op_type, tuple(filter(None, node.input)))
            for node in self._graph().graph.node
            if node.op_type != "Constant" and not node.op_type.startswith(NOT_TENSORS)
            for name in filter(None, node.output)
        }

    def _graph(self) -> Any:
        """The file's model, without weights that stand outside it."""
        import onnx

        return onnx.load(self.path / "model.onnx", load_external_data=False)

    def run_inner(self, batch: Batch, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        import onnx

        unmarked = self._operators_unmarked(batch)
        model = self._graph()
        inner = [name for name in names if name not in self.output_names]
        if inner or self.is_marked:
            self.close()  # two sessions would hold the weights twice
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
            self._open(model.SerializeToString() if inner else str(self.path / "model.onnx"))
        binding = self.session.io_binding()
        kept = [self._bind(binding, name, array) for name, array in batch.items()]
        for name in names:
            binding.bind_output(name, "cpu")
        self.synchronize()
        self.session.run_with_iobinding(binding, self.run_options)
        self._executed()
        del kept
        found = {name: _to_host(value) for name, value in zip(names, binding.get_outputs(), strict=True)}
        fused = set(unmarked) - {node.op_type for node in model.graph.node}
        undone = {name: unmarked[name] - self.operators[name] for name in sorted(fused)}
        return found, {"undone": {name: count for name, count in undone.items() if count > 0}, "notes": []}

    def _operators_unmarked(self, batch: Batch) -> Counter[str]:
        """Nodes by operator that a call of the file as it is runs."""
        if not self.unmarked:
            self.run_watched(self.prepare(batch))
            self.unmarked = self.operators
        return self.unmarked

    def close(self) -> None:
        self.session = None
        self._forget_profile()

    def facts(self) -> dict[str, Any]:
        import onnxruntime as ort

        return {
            "providers": self.session.get_providers(),
            "threads": self.threads,
            "interop_threads": 1,
            "tf32": self.has_tf32,
            "onnxruntime": ort.__version__,
            **({} if self.graphs is None else {"captured_graphs": self.graphs.count}),
            **self.fusions,
        }


#: ONNX's numbers of the element types that ids, masks and caches have (TensorProto.DataType), by torch's names.
ELEMENT_TYPES = {"float32": 1, "int64": 7, "float16": 10, "float64": 11, "bfloat16": 16}


def bind_tensor(binding: Any, name: str, tensor: Any) -> None:
    """Bind a torch tensor without gaps as input `name`: where it lies, without a copy."""
    assert tensor.is_contiguous()
    element_type = ELEMENT_TYPES[str(tensor.dtype).removeprefix("torch.")]
    binding.bind_input(name, tensor.device.type, 0, element_type, tuple(tensor.shape), tensor.data_ptr())


def _to_host(value: Any) -> Any:
    """An OrtValue as a host array; NumPy has no bf16, so that comes through torch as float32."""
    if "bfloat16" not in value.data_type():
        return value.numpy()
    import torch

    return to_host(torch.from_dlpack(value.__dlpack__()))
