"""What the backends that run inside torch share: devices, precisions, copies, CUDA events."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from backends.base import Backend, Batch, Options, Spec, read_metadata, torch_cuda_version

FLOATING = ("fp32", "fp16", "bf16")
#: The spec of a backend that runs inside torch, but for its name and format.
TorchSpec = partial(
    Spec, requires=("torch",), install="torch", precisions={"cpu": FLOATING, "cuda": FLOATING},
    limits_device_memory=True, takes_tf32=True,
)  # fmt: skip


def cuda_reason(name: str) -> str | None:
    """Why torch cannot use a GPU in this environment, or None."""
    if torch_cuda_version() is None:
        return f"{name} on cuda needs a CUDA build of torch, and this one is for the CPU; install torch's CUDA build"
    return None


def to_host(tensor: Any) -> Any:
    """A copy of a tensor as a host array; bf16 comes as float32."""
    import torch

    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    # One copy whatever the device: from a GPU it is `.to`, which on the CPU copies nothing.
    return tensor.detach().to("cpu", dtype, copy=tensor.device.type == "cpu").numpy()


class TorchDevice(Backend):
    """Synchronisation with torch's device; on the CPU there is nothing to wait for."""

    device = "cpu"

    def synchronize(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def trim(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()


class CudaClock(TorchDevice):
    """CUDA events on torch's current stream."""

    def mark(self) -> Any:
        if self.device != "cuda":
            return None
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed_ns(self, start: Any, end: Any) -> int:
        return round(start.elapsed_time(end) * 1e6)


class TorchBackend(CudaClock):
    """A module called on positional tensors under `torch.inference_mode`."""

    @classmethod
    def supports(cls, variant: str, device: str, precision: str) -> str | None:
        reason = cls.spec.refusal(device, precision)
        return reason or (cuda_reason(cls.spec.name) if device == "cuda" else None)

    @abstractmethod
    def open(self, path: Path, precision: str, options: Options) -> Any:
        """The callable module, on `self.device`."""

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        import torch

        assert path is not None
        self.device = device
        torch.set_num_threads(threads)
        has_tf32 = bool(options.get("tf32"))
        torch.set_float32_matmul_precision("high" if has_tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = has_tf32
        if device == "cuda" and (limit := options.get("memory_limit_bytes")):
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / torch.cuda.mem_get_info()[1]))
        self.output_names = read_metadata(path)["outputs"]
        self.module = self.open(path, precision, options)
        self.synchronize()

    def prepare(self, batch: Batch) -> Any:
        import torch

        return tuple(torch.as_tensor(array).to(self.device) for array in batch.values())

    def run(self, prepared: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.module(*prepared)

    def tensors(self, outputs: Any) -> tuple[Any, ...]:
        import torch

        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)

    def fetch(self, outputs: Any) -> dict[str, Any]:
        tensors = self.tensors(outputs)
        return dict(zip(self.output_names, map(to_host, tensors), strict=True))

    def values_of(
        self,
        batch: Batch,
        names: Sequence[str],
        call: Callable[[Sequence[str]], tuple[Any, Sequence[Any]]],
        notes: Sequence[str],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What `run_inner` returns: `call` gives the outputs and the inner values that it is asked for."""
        inner = [name for name in names if name not in self.output_names]
        outputs, states = call(inner) if inner else (self.run(self.prepare(batch)), ())
        found = self.fetch(outputs) | dict(zip(inner, map(to_host, states), strict=True))
        return {name: found[name] for name in names}, {"undone": {}, "notes": list(notes) if inner else []}

    def close(self) -> None:
        self.module = None
        self.trim()

    def run_watched(self, prepared: Any, call: Callable[[], Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.watched_call(call or (lambda: self.run(prepared)))

    def watched_call(self, call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
        """What `call` returns, and the attention kernels that it ran."""
        import torch

        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            outputs = call()
            self.synchronize()
        kernels = Counter(event.name.removeprefix("aten::") for event in profile.events() or [])
        taken = {name: count for name, count in kernels.items() if name.startswith("_scaled_dot_product")}
        return outputs, {"attention_kernels": taken}

    def parameters(self) -> Iterable[Any]:
        """Tensors of the loaded module: parameters and buffers, a shared one once."""
        return {tensor.data_ptr(): tensor for tensor in chain(self.module.parameters(), self.module.buffers())}.values()

    def memory(self) -> dict[str, int]:
        import torch

        found = {"parameters_bytes": sum(tensor.numel() * tensor.element_size() for tensor in self.parameters())}
        if self.device == "cuda":
            found |= {
                "allocated_bytes": torch.cuda.memory_allocated(),
                "reserved_bytes": torch.cuda.memory_reserved(),
                "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
                "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
            }
        return found

    def reset_memory_peak(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def facts(self) -> dict[str, Any]:
        import torch

        return {
            "threads": torch.get_num_threads(),
            "interop_threads": torch.get_num_interop_threads(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "tf32_cudnn": torch.backends.cudnn.allow_tf32,
            "torch": torch.__version__,
        }
