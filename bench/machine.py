"""The machine at hand: CPUs that may be used, memory, GPUs, and the fingerprint that a run carries."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.spec import DEVICES, nearest

DISTRIBUTIONS = (
    "runtimebench", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "numpy", "safetensors",
)  # fmt: skip


def usable_cpus() -> int:
    """CPUs that this process may run on: its affinity mask where the system has one, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_budget(asked: int | None) -> int:
    """Threads for every runtime alike; raises UserError when more are asked for than there are CPUs to run them."""
    cpus = usable_cpus()
    if asked is None:
        return cpus
    if not 1 <= asked <= cpus:
        raise UserError(f"--threads {asked} is not within the {cpus} CPUs that this process may use; use 1 to {cpus}")
    return asked


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
    """NVIDIA GPUs as name, driver, total and free bytes; empty where there is none. Opens no CUDA context."""
    try:
        import pynvml
    except ImportError:
        return _gpus_by_command()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(
                {
                    "name": _text(pynvml.nvmlDeviceGetName(handle)),
                    "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
                    "total_bytes": int(memory.total),
                    "free_bytes": int(memory.free),
                }
            )
        return found
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _gpus_by_command() -> list[dict[str, Any]]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in output.splitlines() if line.strip()]
    return [
        {"name": name, "driver": driver, "total_bytes": int(total) * 2**20, "free_bytes": int(free) * 2**20}
        for name, driver, total, free in rows
    ]


def settle_device(asked: str) -> str:
    """ "cpu" or "cuda" from `--device`; raises UserError when CUDA is asked for and cannot be had."""
    from backends.base import torch_cuda_version

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
    return "cuda"


def cpu_name() -> str:
    """Model name of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def governor() -> str | None:
    """Frequency governor of the first CPU, where the system shows it."""
    with contextlib.suppress(OSError):
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    return None


def busy_share(seconds: float = 0.2) -> float:
    """Share of all CPU time that is used while this process sleeps for `seconds`: what other work takes."""
    import psutil

    return round(float(psutil.cpu_percent(interval=seconds)) / 100, 3)


def fingerprint() -> dict[str, Any]:
    """What two runs must share to be comparable, and what helps to explain them."""
    versions = {}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "memory_bytes": _total_memory(),
        "governor": governor(),
        "busy_share": busy_share(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpus": [{key: gpu[key] for key in ("name", "driver", "total_bytes")} for gpu in gpus()],
        "versions": versions,
    }


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the hardware facts in which two fingerprints differ; empty for one machine."""
    return [key for key in ("cpu", "cpus", "architecture", "gpus") if one.get(key) != other.get(key)]


def _total_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)
