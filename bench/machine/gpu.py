"""NVIDIA GPUs through NVML: what they are, and how they are at a moment. Opens no CUDA context.

Cards come in CUDA's order as far as NVML can know it: those that CUDA_VISIBLE_DEVICES leaves, by PCI bus.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

#: Why a clock is below the highest: bits of NVML's mask (nvmlClocksEventReasons), under nvidia-smi's names.
REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clocks_setting",
    0x200: "board_limit",
    0x400: "reliability",
}


@dataclass(frozen=True)
class State:
    """How one GPU is at a moment; None where the card does not tell."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    throttle_reasons: list[str] | None = None
    power_throttled_ns: int | None = None
    """Time below the clocks asked for because of power, since the driver was loaded; advances in steps of 100 ms."""
    thermal_throttled_ns: int | None = None
    other_processes: int | None = None
    """Processes of others that compute on it."""


@functools.cache
def _nvml() -> Any:
    """pynvml, opened once and for the life of the process, since opening takes milliseconds; None without a driver."""
    try:
        import pynvml
    except ImportError:  # in an environment that was not made from this project's requirements
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _ask(name: str, *arguments: Any) -> Any:
    """NVML's answer; None where the card, the driver or the installed pynvml does not know the question."""
    nvml = _nvml()
    try:
        return getattr(nvml, name)(*arguments)
    except (AttributeError, nvml.NVMLError):
        return None


def _handles() -> list[Any]:
    """Handles of the cards and slices that CUDA_VISIBLE_DEVICES leaves, up to the first entry that names none."""
    if _nvml() is None:
        return []
    found = (_ask("nvmlDeviceGetHandleByIndex", at) for at in range(_ask("nvmlDeviceGetCount") or 0))
    handles = [handle for handle in found if handle is not None]
    if (asked := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return handles
    uuids = [_ask("nvmlDeviceGetUUID", handle) or "" for handle in handles]
    visible: list[Any] = []
    for entry in (entry.strip() for entry in asked.split(",")):
        named = [at for at, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid.startswith(entry)]
        if entry.isdecimal() and int(entry) < len(handles):
            visible.append(handles[int(entry)])
        elif len(named) == 1:
            visible.append(handles[named[0]])
        elif entry.startswith("MIG-") and (part := _ask("nvmlDeviceGetHandleByUUID", entry)) is not None:
            visible.append(part)
        else:
            break
    return visible


def cards() -> list[dict[str, Any]]:
    """Facts of every GPU that CUDA may use; empty where there is none. A fact that a card does not tell is None."""
    return [card for card in map(_facts, _handles()) if card is not None]


def _facts(handle: Any) -> dict[str, Any] | None:
    """Facts of one card; None if it no longer responds."""
    nvml, name, memory = _nvml(), _ask("nvmlDeviceGetName", handle), _memory(handle)
    if name is None or memory is None:
        return None
    cuda, capability = _ask("nvmlSystemGetCudaDriverVersion_v2"), _ask("nvmlDeviceGetCudaComputeCapability", handle)
    persistence, mig = _ask("nvmlDeviceGetPersistenceMode", handle), _ask("nvmlDeviceGetMigMode", handle)
    now = _state(handle, ())
    return {
        "name": name,
        "driver": _ask("nvmlSystemGetDriverVersion"),
        "total_bytes": memory[0],
        "free_bytes": memory[1],
        "cuda_driver": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "compute_capability": None if capability is None else ".".join(map(str, capability)),
        "sm_clock_mhz": now.sm_clock_mhz,
        "memory_clock_mhz": now.memory_clock_mhz,
        "max_sm_clock_mhz": _ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM),
        "max_memory_clock_mhz": _ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM),
        "temperature_celsius": now.temperature_celsius,
        "power_watts": now.power_watts,
        "power_cap_watts": _watts("nvmlDeviceGetEnforcedPowerLimit", handle),
        "default_power_cap_watts": _watts("nvmlDeviceGetPowerManagementDefaultLimit", handle),
        "throttle_reasons": now.throttle_reasons,
        "is_persistent": None if persistence is None else persistence == 1,
        "is_mig": None if mig is None else mig[0] == 1,
        "other_processes": now.other_processes,
    }


def _memory(handle: Any) -> tuple[int, int] | None:
    """Total and free bytes, the host's for a card that shares its memory; None if the card no longer responds."""
    nvml = _nvml()
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:
        import psutil

        host = psutil.virtual_memory()
        return int(host.total), int(host.available)
    except nvml.NVMLError:
        return None
    return int(memory.total), int(memory.free)


def state(own_pids: Collection[int] = ()) -> State | None:
    """How the first GPU that CUDA may use is now; None without NVML. `own_pids` are workers that may hold it."""
    handles = _handles()
    return _state(handles[0], own_pids) if handles else None


def process_bytes(pid: int) -> int | None:
    """Bytes of process `pid` on the first GPU that CUDA may use, its context included; None if the driver hides it."""
    handles = _handles()
    processes = _ask("nvmlDeviceGetComputeRunningProcesses", handles[0]) if handles else None
    return next((process.usedGpuMemory for process in processes or () if process.pid == pid), None)


def _state(handle: Any, own_pids: Collection[int]) -> State:
    nvml = _nvml()
    mask = _ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
    if mask is None:  # the name before driver 535
        mask = _ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    # The numbers of NVML's newer fields for the same have changed between drivers; these have not.
    power, heat = (
        _ask("nvmlDeviceGetViolationStatus", handle, policy)
        for policy in (nvml.NVML_PERF_POLICY_POWER, nvml.NVML_PERF_POLICY_THERMAL)
    )
    processes = _ask("nvmlDeviceGetComputeRunningProcesses", handle)
    pids = None if processes is None else [int(process.pid) for process in processes]
    return State(
        sm_clock_mhz=_ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        memory_clock_mhz=_ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        temperature_celsius=_ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        power_watts=_watts("nvmlDeviceGetPowerUsage", handle),
        throttle_reasons=None if mask is None else [name for bit, name in REASONS.items() if mask & bit],
        power_throttled_ns=None if power is None else int(power.violationTime),
        thermal_throttled_ns=None if heat is None else int(heat.violationTime),
        other_processes=other_processes(pids, own_pids),
    )


def other_processes(listed: Collection[int] | None, own_pids: Collection[int] = ()) -> int | None:
    """How many of the processes `listed` on a GPU are neither this one, nor among `own_pids`, nor started by them.

    Inside a container a driver may list the host's process ids, or none: then their number decides, or it is None.
    """
    if listed is None or (own_pids and not listed):
        return None
    belongs = [_descends(pid, {os.getpid(), *own_pids}) for pid in set(listed)]
    if None in belongs:
        return max(0, len(belongs) - len(set(own_pids))) if own_pids else None
    return belongs.count(False)


def _descends(pid: int, ancestors: Collection[int]) -> bool | None:
    """Whether process `pid` is one of `ancestors` or descends from one; None where `pid` is not to be seen."""
    import psutil

    try:
        process = psutil.Process(pid)
        return any(one.pid in ancestors for one in (process, *process.parents()))
    except psutil.Error:
        return None


def _watts(name: str, handle: Any) -> float | None:
    milliwatts = _ask(name, handle)
    return None if milliwatts is None else milliwatts / 1000
