"""ONNX Runtime's variants: which providers each one's session is asked for, and where a variant cannot run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from backends.base import Options, distribution_version, is_installed, module_folder

VARIANTS: Mapping[str, Options] = {
    "default": {},
    "fused": {"format": "onnx-fused"},
    "attention23": {"format": "onnx-attention23"},
    "tensorrt": {"provider": "tensorrt"},
    "cuda-graphs": {"cuda_graphs": True},
    "fused-cuda-graphs": {"format": "onnx-fused", "cuda_graphs": True},
}
PROVIDERS = {
    "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider",
}  # fmt: skip
#: Variants of CUDA's and the precisions that each runs in.
ON_CUDA = {
    "tensorrt": ("fp32", "fp16"), "cuda-graphs": ("fp32", "fp16", "bf16"), "fused-cuda-graphs": ("fp32", "fp16"),
}  # fmt: skip
#: First version of ONNX Runtime whose CPU provider runs the standard Attention operator itself.
FIRST_WITH_ATTENTION = (1, 23)


def has_library_of(provider: str) -> bool:
    """True if the installed ONNX Runtime has the library of "cuda" or "tensorrt"."""
    folder = module_folder("onnxruntime")
    return folder is not None and any(folder.glob(f"capi/*onnxruntime_providers_{provider}.*"))


def refusal(variant: str, device: str, precision: str) -> str | None:
    """Why `variant` cannot run `precision` on `device` here, or None; the backend itself can."""
    label = f"onnx:{variant}"
    if variant in ON_CUDA:
        if device != "cuda":
            return f"{label} does not run on {device}; use --device cuda"
        if precision not in ON_CUDA[variant]:
            return f"{label} has no {precision}; use --precisions {','.join(ON_CUDA[variant])}"
    if variant == "tensorrt":
        return _without_tensorrt()
    if variant == "fused" and precision == "bf16":
        return f"{label} has no bf16: the CPU provider, which each fused graph is checked with, has none; use onnx"
    if variant == "attention23":
        if precision == "int8":
            return f"{label} has no int8; use onnx or onnx:fused"
        version = distribution_version("onnxruntime") or ""
        if _numbers(version) < FIRST_WITH_ATTENTION:
            needed = ".".join(map(str, FIRST_WITH_ATTENTION))
            return f"{label} needs onnxruntime {needed}, and {version or 'none'} is installed; update it"
    return None


def _without_tensorrt() -> str | None:
    """What TensorRT lacks here, and the command that adds it; None where it is all there."""
    if not has_library_of("tensorrt"):
        return (
            "onnx:tensorrt needs an onnxruntime-gpu with the TensorRT provider; "
            "run: pip uninstall -y onnxruntime && pip install 'runtimebench[gpu]'"
        )
    if not is_installed("tensorrt") and not is_installed("tensorrt_libs"):
        return "onnx:tensorrt needs TensorRT's libraries; run: pip install tensorrt"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """`1.32.0` as (1, 32); a part that is no number ends it."""
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit())


def providers(device: str, precision: str, stream: int, options: Options) -> list[Any]:
    """What a session is asked for, the wanted one first; CUDA's work stands on `stream`, in TF32 only if asked for."""
    if device == "cpu":
        return [PROVIDERS["cpu"]]
    has_tf32 = bool(options.get("tf32"))
    cuda = {"device_id": "0", "use_tf32": str(int(has_tf32)), "user_compute_stream": str(stream)}
    if limit := options.get("memory_limit_bytes"):
        cuda["gpu_mem_limit"] = str(limit)
    if options.get("cuda_graphs"):
        cuda["enable_cuda_graph"] = "1"
    found: list[Any] = [(PROVIDERS["cuda"], cuda), PROVIDERS["cpu"]]
    if options.get("provider") == "tensorrt":
        found.insert(0, (PROVIDERS["tensorrt"], _tensorrt(precision, stream, has_tf32)))
    return found


def _tensorrt(precision: str, stream: int, has_tf32: bool) -> dict[str, str]:
    """The TensorRT provider's options: kernels of the graph's own precision, on torch's stream.

    TensorRT takes TF32 for fp32 unless NVIDIA's libraries are told not to, once for the process.
    """
    import tensorrt  # noqa: F401 - loads the libraries, which the provider looks for by name

    if not has_tf32:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    fp16 = "1" if precision == "fp16" else "0"
    return {"device_id": "0", "user_compute_stream": str(stream), "trt_fp16_enable": fp16}


def name_of(provider: Any) -> str:
    """Name of an entry of `providers`."""
    return provider if isinstance(provider, str) else str(provider[0])
