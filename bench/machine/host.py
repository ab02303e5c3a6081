"""The host as /proc and /sys show it: its CPUs, its limits, and what its CPUs have done so far.

Every reader takes the folder that stands for `/`, and returns None where the system does not tell.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
CPU = "sys/devices/system/cpu"
#: Instructions that decide how fast inference is: vectors, half precision, dot products, matrices.
FLAGS = {
    "flags": re.compile(r"sse4_2|avx\w*|fma|f16c|amx\w*"),  # x86
    "Features": re.compile(r"neon|asimd\w*|fphp|sve\w*|sme\w*|bf16|i8mm"),  # ARM
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def read(root: Path, name: str) -> str | None:
    """Text of `name` under `root` without its surrounding blanks; None where it cannot be read."""
    try:
        return (root / name).read_text(errors="replace").strip()
    except OSError:
        return None


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    first = (read(root, "proc/cpuinfo") or "").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def cpu_name(root: Path = ROOT) -> str:
    """Model name of the CPU; on ARM, which has none, the numbers of its maker and part."""
    facts = _cpuinfo(root)
    if "model name" in facts:
        return facts["model name"]
    if "CPU part" in facts:
        return f"{platform.machine()} implementer {facts.get('CPU implementer')} part {facts['CPU part']}"
    return platform.processor() or platform.machine()


def flags(root: Path = ROOT) -> list[str] | None:
    """Flags of the CPU that decide the speed of inference, sorted."""
    facts = _cpuinfo(root)
    for name, wanted in FLAGS.items():
        if name in facts:
            return sorted(flag for flag in set(facts[name].split()) if wanted.fullmatch(flag))
    return None


def cache_bytes(root: Path = ROOT) -> dict[str, int]:
    """Bytes of each cache that the first CPU sees: L1d, L1i, L2, L3."""
    found = {}
    for folder in sorted((root / CPU / "cpu0" / "cache").glob("index*")):
        level, kind, size = (read(folder, name) or "" for name in ("level", "type", "size"))
        if parts := re.fullmatch(r"(\d+)([KMG]?)", size):
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{suffix}"] = int(parts[1]) * UNITS[parts[2]]
    return found


def governor(root: Path = ROOT) -> str | None:
    """Frequency governor of the first CPU."""
    return read(root, f"{CPU}/cpu0/cpufreq/scaling_governor")


def boost_switch(root: Path = ROOT) -> tuple[str, bool] | None:
    """The file that switches boost clocks, and whether they are on; Intel's file says the opposite."""
    for name, on in (("cpufreq/boost", "1"), ("intel_pstate/no_turbo", "0"), ("cpufreq/policy0/boost", "1")):
        if (state := read(root, f"{CPU}/{name}")) is not None:
            return f"{CPU}/{name}", state == on
    return None


def smt_is_on(root: Path = ROOT) -> bool | None:
    """Whether two hardware threads share a core."""
    state = read(root, f"{CPU}/smt/active")
    return None if state is None else state == "1"


def huge_pages(root: Path = ROOT) -> str | None:
    """Transparent huge pages: always, madvise or never."""
    found = re.search(r"\[(\w+)\]", read(root, "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return found[1] if found else None


def swap_used_bytes(root: Path = ROOT) -> int | None:
    """Bytes of memory that are swapped out."""
    sizes = dict(re.findall(r"^(SwapTotal|SwapFree):\s*(\d+) kB", read(root, "proc/meminfo") or "", re.MULTILINE))
    return (int(sizes["SwapTotal"]) - int(sizes["SwapFree"])) * 1024 if len(sizes) == 2 else None


def hypervisor(root: Path = ROOT) -> str | None:
    """Name of the hypervisor that this machine runs under, "unknown" for a nameless one; None on bare metal."""
    if "microsoft" in (read(root, "proc/sys/kernel/osrelease") or "").lower():
        return "WSL"
    maker = read(root, "sys/class/dmi/id/sys_vendor")
    if "hypervisor" in _cpuinfo(root).get("flags", "").split():
        return maker or read(root, "sys/hypervisor/type") or "unknown"
    if named := read(root, "sys/hypervisor/type") or read(root, "proc/device-tree/hypervisor/compatible"):
        return named.rstrip("\0")
    return maker if maker in ("QEMU", "KVM", "Xen", "VMware, Inc.") else None  # ARM has no flag for it


def container(root: Path = ROOT) -> str | None:
    """Kind of container that this process runs in; None outside of one, as far as hints tell."""
    if named := read(root, "run/systemd/container"):
        return named
    for name, kind in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if (root / name).exists():
            return kind
    found = re.search(r"kubepods|docker|containerd|lxc|libpod", read(root, "proc/self/cgroup") or "")
    return found[0] if found else None


@functools.cache
def _tightest_quota(root: Path) -> tuple[float, Path] | None:
    """CPUs and folder of the smallest quota among the control groups that may limit this process (cgroups(7))."""
    found = []
    for line in (read(root, "proc/self/cgroup") or "").splitlines():
        number, controllers, name = [*line.split(":", 2), "", ""][:3]
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("" if number == "0" else "cpu")
        # A container's own name may be written as the host sees it, which is not there inside: its top stands for it.
        own = base.joinpath(*(part for part in name.split("/") if part not in ("", "..")))
        for folder in (folder for folder in (own, *own.parents) if folder.is_relative_to(base)):
            limit = (read(folder, "cpu.max") or "").split()
            limit = limit or [read(folder, "cpu.cfs_quota_us") or "-1", read(folder, "cpu.cfs_period_us") or "0"]
            with contextlib.suppress(ValueError, ZeroDivisionError):
                if (cpus := int(limit[0]) / int(limit[1])) > 0:
                    found.append((cpus, folder))
    return min(found, default=None, key=lambda quota: quota[0])


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that control groups grant this process; None without a limit."""
    quota = _tightest_quota(root)
    return None if quota is None else quota[0]


def quota_periods(root: Path = ROOT) -> tuple[int, int] | None:
    """Periods so far of the tightest CPU quota on this process, and those that stopped it; None without a quota."""
    if (quota := _tightest_quota(root)) is None:
        return None
    counts = dict(re.findall(r"^(nr_\w+) (\d+)", read(quota[1], "cpu.stat") or "", re.MULTILINE))
    try:
        return int(counts["nr_periods"]), int(counts["nr_throttled"])
    except KeyError:
        return None


@functools.cache
def _thermal_counters(root: Path) -> tuple[Path, ...]:
    """One file for each CPU package."""
    found: dict[str | None, Path] = {}
    for path in sorted((root / CPU).glob("cpu[0-9]*/thermal_throttle/package_throttle_count")):
        found.setdefault(read(path.parents[1], "topology/physical_package_id"), path)
    return tuple(found.values())


def thermal_events(root: Path = ROOT) -> int | None:
    """How often the CPU packages have slowed down for heat since the start; only Intel's count it."""
    counts = [read(path.parent, path.name) for path in _thermal_counters(root)]
    return sum(int(count) for count in counts if count) if counts else None


@dataclass(frozen=True)
class CpuSeconds:
    """CPU time since the machine's start; `steal` is what a hypervisor gave to others."""

    busy: float
    idle: float
    steal: float

    @property
    def whole(self) -> float:
        """All three together."""
        return self.busy + self.idle + self.steal


def cpu_seconds(cpus: Collection[int] | None = None) -> CpuSeconds:
    """CPU time of the whole machine, or of `cpus`, counted in ticks of 10 ms on most kernels (proc_stat(5))."""
    import psutil

    every = [psutil.cpu_times()] if cpus is None else psutil.cpu_times(percpu=True)
    found = [times._asdict() for index, times in enumerate(every) if cpus is None or index in cpus]

    def total(*kinds: str) -> float:
        return float(sum(times.get(kind, 0.0) for times in found for kind in kinds))

    # Guests' time is already in user and nice.
    return CpuSeconds(total("user", "nice", "system", "irq", "softirq"), total("idle", "iowait"), total("steal"))
