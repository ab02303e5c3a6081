"""ONNX Runtime on the CPU and CUDA providers, inputs and outputs bound to the device."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from backends._torch import CudaClock, cuda_reason
from backends.base import BackendError, Batch, Options, module_folder, read_metadata

#: Operators that ONNX Runtime puts between nodes of different devices.
COPIES = ("MemcpyFromHost", "MemcpyToHost")
#: Operators that are an attention layer by themselves (ONNX and com.microsoft).
FUSED_ATTENTION = (
    "Attention",
    "MultiHeadAttention",
    "GroupQueryAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
)
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Onnx(CudaClock):
    """ONNX Runtime with I/O binding, so that no copy to or from the host is timed.

    On CUDA the session runs on torch's current stream, so that the same CUDA events time it
    as time the torch backends, and TF32 is off as it is there (the provider's default is on).
    """

    name = "onnx"
    format = "onnx"
    requires = ("onnxruntime",)
    install = "runtimebench[cpu]"
    precisions: ClassVar = {"cpu": ("fp32", "fp16"), "cuda": ("fp32", "fp16", "bf16")}

    @classmethod
    def supports(cls, device: str, precision: str) -> str | None:
        if reason := super().supports(device, precision):
            return reason
        if device == "cpu":
            return None
        folder = module_folder("onnxruntime")
        if folder is None or not list(folder.glob("capi/*onnxruntime_providers_cuda.*")):
            return (
                "onnx on cuda needs onnxruntime-gpu, and the CPU build is installed; "
                "run: pip uninstall -y onnxruntime && pip install 'runtimebench[gpu]'"
            )
        return cuda_reason(cls.name)

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        import onnxruntime as ort

        assert path is not None
        self.device = device
        self.threads = threads
        self.output_names = read_metadata(path)["outputs"]
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = 3
        session_options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        providers: list[Any] = [PROVIDERS["cpu"]]
        if device == "cuda":
            import torch

            ort.preload_dlls()
            stream = torch.cuda.current_stream().cuda_stream
            cuda_options = {"device_id": "0", "use_tf32": "0", "user_compute_stream": str(stream)}
            providers.insert(0, (PROVIDERS["cuda"], cuda_options))
        self.session = ort.InferenceSession(str(path / "model.onnx"), session_options, providers=providers)
        if self.session.get_providers()[0] != PROVIDERS[device]:
            active = ", ".join(self.session.get_providers())
            raise BackendError(
                f"{PROVIDERS[device]} was asked for and ONNX Runtime took {active}; see `bench list devices`"
            )
        self.weight_bytes = sum(file.stat().st_size for file in path.glob("model.onnx*"))
        self.nodes = self._placement()

    def _placement(self) -> Counter[tuple[str, str]] | None:
        """Count of graph nodes by (execution provider, operator); None where this ONNX Runtime cannot tell."""
        if not hasattr(self.session, "get_provider_graph_assignment_info"):
            return None
        return Counter(
            (subgraph.ep_name, node.op_type)
            for subgraph in self.session.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
        )

    def prepare(self, batch: Batch) -> Any:
        import onnxruntime as ort

        binding = self.session.io_binding()
        for name, array in batch.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self.device, 0))
        for name in self.output_names:
            binding.bind_output(name, self.device, 0)
        return binding

    def run(self, prepared: Any) -> Any:
        self.session.run_with_iobinding(prepared)
        return prepared

    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {name: _to_host(value) for name, value in zip(self.output_names, outputs.get_outputs(), strict=True)}

    def close(self) -> None:
        self.session = None

    def facts(self) -> dict[str, Any]:
        import onnxruntime as ort

        return {
            "providers": self.session.get_providers(),
            **self._placement_facts(),
            "threads": self.threads,
            "interop_threads": 1,
            "tf32": False,
            "onnxruntime": ort.__version__,
        }

    def _placement_facts(self) -> dict[str, Any]:
        """Where the graph's nodes run, the copies that were put between providers, and how attention is computed."""
        if self.nodes is None:
            return {"nodes_per_provider": None, "nodes_on_cpu": None, "copies_inserted": None}
        per_provider: Counter[str] = Counter()
        attention: Counter[str] = Counter()
        copies = 0
        for (provider, operator), count in self.nodes.items():
            per_provider[provider] += count
            copies += count if operator in COPIES else 0
            attention[operator] += count if operator in FUSED_ATTENTION else 0
        if not any(attention.values()):  # each unfused attention has one softmax
            attention["unfused"] = sum(count for (_, operator), count in self.nodes.items() if operator == "Softmax")
        return {
            "nodes_per_provider": dict(per_provider),
            "nodes_on_cpu": per_provider[PROVIDERS["cpu"]] if self.device == "cuda" else None,
            "copies_inserted": copies,
            "attention_kernels": {operator: count for operator, count in attention.items() if count},
        }

    def memory(self) -> dict[str, int]:
        # Weights are the initialisers of the graph's files; the arena's own figures are not told from Python.
        return {"parameters_bytes": self.weight_bytes}


def _to_host(value: Any) -> Any:
    """An OrtValue as a host array; NumPy has no bf16, so that comes through torch as float32."""
    if "bfloat16" not in value.data_type():
        return value.numpy()
    import torch

    return torch.from_dlpack(value).to("cpu", torch.float32).numpy()
