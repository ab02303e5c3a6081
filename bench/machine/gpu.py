"""NVIDIA GPUs through NVML: what they are, and how they are at a moment. Opens no CUDA context.

Cards come in CUDA's order as far as NVML can know it: those that CUDA_VISIBLE_DEVICES leaves, by PCI bus.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
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
#: nvidia-smi's columns: those that every version has, and those that older ones refuse.
COLUMNS = ("uuid", "name", "driver_version", "memory.total", "memory.free")
MORE_COLUMNS = (
    "compute_cap", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "temperature.gpu", "power.draw",
    "power.limit", "power.default_limit", "clocks_throttle_reasons.active", "persistence_mode", "mig.mode.current",
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """How one GPU is at a moment; None where the card does not tell."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    power_throttled_ns: int | None = None
    """Time below the clocks asked for because of power, since the driver was loaded; advances in steps of 100 ms."""
    thermal_throttled_ns: int | None = None
    other_processes: int | None = None
    """Processes of others that compute on it."""


@functools.cache
def _nvml() -> Any | None:
    """pynvml, opened once and for the life of the process, since opening takes milliseconds; None without a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _ask(nvml: Any, name: str, *arguments: Any) -> Any | None:
    """NVML's answer; None where the card, the driver or the installed pynvml does not know the question."""
    try:
        return getattr(nvml, name)(*arguments)
    except (AttributeError, nvml.NVMLError):
        return None


def _visible(uuids: Sequence[str], slice_of: Callable[[str], Any]) -> list[Any]:
    """Positions in `uuids` that CUDA_VISIBLE_DEVICES leaves, or what `slice_of` knows by a name of its own (MIG).

    Like CUDA, it stops at the first entry that stands for nothing (CUDA C++ Programming Guide, environment variables).
    """
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return list(range(len(uuids)))
    found: list[Any] = []
    for entry in (entry.strip() for entry in asked.split(",")):
        named = [at for at, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid.startswith(entry)]
        if entry.isdecimal() and int(entry) < len(uuids):
            found.append(int(entry))
        elif len(named) == 1:
            found += named
        elif entry.startswith("MIG-") and (part := slice_of(entry)) is not None:
            found.append(part)
        else:
            break
    return found


def _handles(nvml: Any) -> list[Any]:
    handles = [_ask(nvml, "nvmlDeviceGetHandleByIndex", at) for at in range(_ask(nvml, "nvmlDeviceGetCount") or 0)]
    handles = [handle for handle in handles if handle is not None]
    uuids = [_text(_ask(nvml, "nvmlDeviceGetUUID", handle)) or "" for handle in handles]
    visible = _visible(uuids, lambda name: _ask(nvml, "nvmlDeviceGetHandleByUUID", name))
    return [handles[at] if isinstance(at, int) else at for at in visible]


def cards() -> list[dict[str, Any]]:
    """Facts of every GPU that CUDA may use; empty where there is none. A fact that a card does not tell is None."""
    nvml = _nvml()
    if nvml is None:
        return _cards_by_command()
    facts = (_facts(nvml, handle) for handle in _handles(nvml))
    return [card for card in facts if card is not None]


def _facts(nvml: Any, handle: Any) -> dict[str, Any] | None:
    """Facts of one card; None for one that is lost, which tells not even its name."""
    name, memory = _text(_ask(nvml, "nvmlDeviceGetName", handle)), _memory(nvml, handle)
    if name is None or memory is None:
        return None
    cuda = _ask(nvml, "nvmlSystemGetCudaDriverVersion_v2") or _ask(nvml, "nvmlSystemGetCudaDriverVersion")
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    now, mig = _state(nvml, handle, ()), _ask(nvml, "nvmlDeviceGetMigMode", handle)
    persistence = _ask(nvml, "nvmlDeviceGetPersistenceMode", handle)
    return {
        "name": name,
        "driver": _text(_ask(nvml, "nvmlSystemGetDriverVersion")),
        "total_bytes": memory[0],
        "free_bytes": memory[1],
        "cuda_driver": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "compute_capability": None if capability is None else ".".join(map(str, capability)),
        "sm_clock_mhz": now.sm_clock_mhz,
        "memory_clock_mhz": now.memory_clock_mhz,
        "max_sm_clock_mhz": _ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM),
        "max_memory_clock_mhz": _ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM),
        "temperature_celsius": now.temperature_celsius,
        "power_watts": now.power_watts,
        "power_cap_watts": _watts(_ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)),
        "default_power_cap_watts": _watts(_ask(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", handle)),
        "throttle_reasons": None if now.throttle_reasons is None else list(now.throttle_reasons),
        "is_persistent": None if persistence is None else persistence == 1,
        "is_mig": None if mig is None else mig[0] == 1,
        "other_processes": now.other_processes,
    }


def _memory(nvml: Any, handle: Any) -> tuple[int, int] | None:
    """Total and free bytes; a card that shares the host's memory does not support the question."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:
        return _host_memory()
    except nvml.NVMLError:
        return None
    return int(memory.total), int(memory.free)


def _host_memory() -> tuple[int, int]:
    import psutil

    host = psutil.virtual_memory()
    return int(host.total), int(host.available)


def state(own_pids: Collection[int] = (), root: Path = Path("/")) -> State | None:
    """How the first GPU that CUDA may use is now; None without NVML. `own_pids` are workers that may hold it."""
    nvml = _nvml()
    handles = [] if nvml is None else _handles(nvml)
    return _state(nvml, handles[0], own_pids, root) if handles else None


def process_bytes(pid: int) -> int | None:
    """What process `pid` holds on the first GPU that CUDA may use, its context and libraries included.

    None without NVML, and where the driver lists other process ids (inside some containers) or tells no figure.
    """
    nvml = _nvml()
    handles = [] if nvml is None else _handles(nvml)
    processes = _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handles[0]) if handles else None
    used = [process.usedGpuMemory for process in processes or () if process.pid == pid]
    return int(used[0]) if used and used[0] is not None else None


def _state(nvml: Any, handle: Any, own_pids: Collection[int], root: Path = Path("/")) -> State:
    mask = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if mask is None:  # the name before driver 535
        mask = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    # The numbers of NVML's newer fields for the same have changed between drivers; these have not.
    power, heat = (
        _ask(nvml, "nvmlDeviceGetViolationStatus", handle, policy)
        for policy in (nvml.NVML_PERF_POLICY_POWER, nvml.NVML_PERF_POLICY_THERMAL)
    )
    processes = _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
    pids = None if processes is None else [int(process.pid) for process in processes]
    return State(
        sm_clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        memory_clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        temperature_celsius=_ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        power_watts=_watts(_ask(nvml, "nvmlDeviceGetPowerUsage", handle)),
        throttle_reasons=None if mask is None else reasons_of(mask),
        power_throttled_ns=None if power is None else int(power.violationTime),
        thermal_throttled_ns=None if heat is None else int(heat.violationTime),
        other_processes=other_processes(pids, own_pids, root),
    )


def reasons_of(mask: int) -> tuple[str, ...]:
    """Names of the bits that are set in NVML's mask of reasons."""
    return tuple(name for bit, name in REASONS.items() if mask & bit)


def other_processes(
    listed: Collection[int] | None, own_pids: Collection[int] = (), root: Path = Path("/")
) -> int | None:
    """How many of the processes `listed` on a GPU are neither this one, nor among `own_pids`, nor started by them.

    A driver may list the host's process ids inside a container, or none; then only their number says
    anything, and None is returned where it does not either.
    """
    if listed is None or (own_pids and not listed):
        return None
    belongs = [_descends(pid, {os.getpid(), *own_pids}, root) for pid in set(listed)]
    if None in belongs:
        return max(0, len(belongs) - len(set(own_pids))) if own_pids else None
    return belongs.count(False)


def _descends(pid: int, ancestors: Collection[int], root: Path) -> bool | None:
    """Whether process `pid` is one of `ancestors` or descends from one; None where `pid` is not to be seen."""
    at = pid
    while at not in ancestors:
        try:
            # The name, in brackets, may hold blanks; behind it stand the state and the parent (proc_pid_stat(5)).
            at = int((root / f"proc/{at}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return None if at == pid else False
        if at == 0:
            return False
    return True


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _cards_by_command() -> list[dict[str, Any]]:
    """What nvidia-smi tells where pynvml is not installed."""
    rows = _query(COLUMNS)
    visible = _visible([row["uuid"] or "" for row in rows], lambda name: None)
    more = _query(MORE_COLUMNS) if visible else []
    if len(more) != len(rows):  # an old nvidia-smi refuses all columns for one that it does not know
        more = [dict.fromkeys(MORE_COLUMNS) for _ in rows]
    return [_facts_by_command(rows[at] | more[at]) for at in visible]


def _query(columns: Sequence[str]) -> list[dict[str, str | None]]:
    command = ["nvidia-smi", f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in output.splitlines() if line.strip()]
    absent = re.compile(r"\[.*\]|N/A|Not Supported|Unknown Error|Insufficient Permissions")
    values = ([None if absent.fullmatch(field) else field for field in row] for row in rows)
    return [dict(zip(columns, row, strict=True)) for row in values if len(row) == len(columns)]


def _facts_by_command(row: dict[str, str | None]) -> dict[str, Any]:
    def number(column: str) -> float | None:
        value = row[column]
        return None if value is None else float(value)

    def whole(column: str) -> int | None:
        value = number(column)
        return None if value is None else int(value)

    def enabled(column: str) -> bool | None:
        return None if row[column] is None else row[column] == "Enabled"

    reasons = row["clocks_throttle_reasons.active"]
    total, free = whole("memory.total"), whole("memory.free")
    memory = _host_memory() if total is None or free is None else (total * 2**20, free * 2**20)
    return {
        "name": row["name"],
        "driver": row["driver_version"],
        "total_bytes": memory[0],
        "free_bytes": memory[1],
        "cuda_driver": None,
        "compute_capability": row["compute_cap"],
        "sm_clock_mhz": whole("clocks.sm"),
        "memory_clock_mhz": whole("clocks.mem"),
        "max_sm_clock_mhz": whole("clocks.max.sm"),
        "max_memory_clock_mhz": whole("clocks.max.mem"),
        "temperature_celsius": whole("temperature.gpu"),
        "power_watts": number("power.draw"),
        "power_cap_watts": number("power.limit"),
        "default_power_cap_watts": number("power.default_limit"),
        "throttle_reasons": None if reasons is None else list(reasons_of(int(reasons, 16))),
        "is_persistent": enabled("persistence_mode"),
        "is_mig": enabled("mig.mode.current"),
        "other_processes": None,
    }
