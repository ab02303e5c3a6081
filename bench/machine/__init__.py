"""The machine at hand: CPUs that may be used, memory, GPUs, and the fingerprint that a run carries."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import bench
from bench.errors import UserError
from bench.machine import gpu, host
from bench.machine.host import ROOT
from bench.machine.host import cpu_name as cpu_name
from bench.spec import DEVICES, nearest

#: Distributions whose version a fingerprint carries where they are installed, beside NVIDIA's own (nvidia-*).
DISTRIBUTIONS = (
    "cloudpickle", "filelock", "huggingface-hub", "intel-openmp", "jinja2", "matplotlib", "mkl", "neural-compressor",
    "msgspec", "nncf", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxscript",
    "openvino", "optimum", "optimum-intel", "optimum-onnx", "psutil", "py-cpuinfo", "rich", "runtimebench",
    "safetensors", "tensorrt", "tokenizers", "torch", "torch-tensorrt", "torchao", "transformers", "triton", "typer",
    "vl-convert-python",
)  # fmt: skip
#: Variables by which a user settles threads, allocators and arithmetic.
ENVIRONMENT = re.compile(
    r"(OMP|KMP|MKL|GOMP|OPENBLAS|ORT|DNNL|ONEDNN|OV|OPENVINO|PYTORCH|TORCH|TORCHINDUCTOR|TORCHDYNAMO)_\w+|CUDA_VISIBLE_DEVICES"
    r"|CUDA_DEVICE_ORDER|CUDA_LAUNCH_BLOCKING|CUDA_MODULE_LOADING|CUBLAS_WORKSPACE_CONFIG|NVIDIA_TF32_OVERRIDE"
    r"|LD_PRELOAD|MALLOC_CONF|MALLOC_ARENA_MAX"
)
#: What two fingerprints must agree on to be of one machine, and what two GPUs must to be alike.
HARDWARE = ("cpu", "cpus", "architecture", "flags", "logical_cpus", "physical_cores", "gpus")
GPU_HARDWARE = ("name", "total_bytes", "compute_capability", "is_mig")
#: Facts of a card that may change on one machine and explain a change of its figures.
GPU_SETTINGS = ("driver", "power_cap_watts", "is_persistent")


def usable_cpus() -> int:
    """CPUs that this process may run on: its affinity mask."""
    return len(os.sched_getaffinity(0))


def thread_budget(asked: int | None) -> int:
    """Threads for every runtime alike; raises UserError when more are asked for than there are CPUs to run them."""
    cpus = usable_cpus()
    if asked is None:
        return cpus
    if not 1 <= asked <= cpus:
        raise UserError(f"--threads {asked} is not within the {cpus} CPUs that this process may use; use 1 to {cpus}")
    return asked


def name_of(device: str) -> str:
    """Name of the processor that computes on `device`."""
    cards = gpus() if device == "cuda" else []
    return str(cards[0]["name"]) if cards else cpu_name()


def available_memory_bytes() -> int:
    """Memory that can be had without swapping, within this process's cgroup."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limits = (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    )
    for limit, usage in limits:
        with contextlib.suppress(OSError, ValueError):
            available = min(available, int(Path(limit).read_text()) - int(Path(usage).read_text()))
    return max(available, 0)


def gpus() -> list[dict[str, Any]]:
    """Facts of the NVIDIA GPUs that CUDA may use: name, driver, total and free bytes and more; empty without any."""
    return gpu.cards()


def settle_device(asked: str) -> str:
    """ "cpu", "cuda" or "cuda:1" from `--device`; raises UserError if CUDA or that card cannot be had."""
    from backends.base import torch_cuda_version

    asked, colon, card = asked.partition(":")
    if asked not in DEVICES:
        raise UserError(f"unknown device {asked!r}{nearest(asked, DEVICES)}; use one of {', '.join(DEVICES)}")
    if asked == "cpu":
        return "cpu"
    has_gpu, has_build = bool(gpus()), torch_cuda_version() is not None
    if asked == "auto":
        return "cuda" if has_gpu and has_build else "cpu"
    if not has_gpu:
        raise UserError("--device cuda: no NVIDIA GPU answers on this machine; use --device cpu")
    if not has_build:
        raise UserError(
            "--device cuda: the installed torch is a CPU build; install torch's CUDA build, or use --device cpu"
        )
    if colon and int(card) >= (count := len(gpus())):
        raise UserError(f"--device cuda:{card}: this machine has {count} GPUs, numbered from 0; use --device cuda:0")
    return f"cuda{colon}{card}"


def check_tf32(is_wanted: bool, device: str) -> None:
    """Raise UserError where `--tf32` was given and `device`, or the environment, has no TF32."""
    if is_wanted and device != "cuda":
        raise UserError(f"--tf32: {device} has no TF32, only NVIDIA GPUs do; leave it out, or use --device cuda")
    if is_wanted and os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        raise UserError("--tf32: NVIDIA_TF32_OVERRIDE=0 forbids TF32 to every library; unset it, or leave --tf32 out")


def busy_share(seconds: float = 0.2) -> float:
    """Share of all CPU time that is used while this process sleeps for `seconds`: what other work takes."""
    import psutil

    return round(float(psutil.cpu_percent(interval=seconds)) / 100, 3)


def fingerprint(root: Path = ROOT) -> dict[str, Any]:
    """What two runs must share to be comparable, and what helps to explain them; None for what the system hides."""
    import psutil

    boost = host.boost_switch(root)
    return {
        "cpu": cpu_name(root),
        "cpus": usable_cpus(),
        "logical_cpus": psutil.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "architecture": platform.machine(),
        "flags": host.flags(root),
        "cache_bytes": host.cache_bytes(root),
        "system": f"{platform.system()} {platform.release()}",
        "hypervisor": host.hypervisor(root),
        "container": host.container(root),
        "python": platform.python_version(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "swap_used_bytes": host.swap_used_bytes(root),
        "huge_pages": host.huge_pages(root),
        "governor": host.governor(root),
        "boost_is_on": boost and boost[1],
        "smt_is_on": host.smt_is_on(root),
        "cpu_quota": host.cpu_quota(root),
        "busy_share": busy_share(),
        "load_average": os.getloadavg()[0],
        "gpus": gpus(),
        "environment": environment(os.environ),
        "versions": versions(),
        **source_state(),
    }


def versions() -> dict[str, str]:
    """Version of every installed distribution that decides what is measured."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name or "").lower()
        if name in DISTRIBUTIONS or name.startswith("nvidia-"):
            found.setdefault(name, distribution.version)  # the first one on the path is the one that is imported
    # Also of a checkout that is not installed, or of one that was installed at an earlier version.
    return dict(sorted((found | {"runtimebench": bench.__version__}).items()))


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The user's settings of threads, allocators and arithmetic among `variables`, without paths and ids of GPUs."""
    return {name: _impersonal(name, value) for name, value in sorted(variables.items()) if ENVIRONMENT.fullmatch(name)}


def _impersonal(name: str, value: str) -> str:
    if name == "CUDA_VISIBLE_DEVICES":
        return re.sub(r"\b(GPU|MIG)-[\w/-]+", r"\1-(id)", value)
    if name == "LD_PRELOAD":  # which allocator or OpenMP is loaded matters, and where from does not
        return " ".join(Path(library).name for library in re.split(r"[\s:]+", value) if library)
    return "(path)" if "/" in value or "~" in value else value


def source_state(package: Path = Path(__file__).parents[1]) -> dict[str, Any]:
    """`commit` of this project, and `is_dirty` if its code is not that commit's; both None outside of its checkout."""
    top = package.parent
    if _git(top, "ls-files", "--error-unmatch", f"{package.name}/machine/__init__.py") is None:
        return {"commit": None, "is_dirty": None}
    changes = _git(top, "status", "--porcelain", "--", package.name, "backends", "exporters")
    return {"commit": _git(top, "rev-parse", "HEAD"), "is_dirty": None if changes is None else changes != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a hook these name another checkout; and a lock could disturb the user's own git.
    astray = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    variables = {name: value for name, value in os.environ.items() if name not in astray}
    command = ["git", "--no-optional-locks", *arguments]
    try:
        return subprocess.check_output(
            command, cwd=folder, env=variables, stderr=subprocess.DEVNULL, text=True, timeout=20
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the hardware facts in which two fingerprints differ; what either lacks counts as equal."""
    return [name for name in HARDWARE if _differ(one.get(name), other.get(name))]


def _differ(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    if isinstance(one, list) and isinstance(other, list) and all(isinstance(fact, dict) for fact in [*one, *other]):
        return len(one) != len(other) or any(
            _differ(card.get(name), twin.get(name))
            for card, twin in zip(one, other, strict=True)
            for name in GPU_HARDWARE
        )
    return bool(one != other)
