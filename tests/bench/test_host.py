"""What /proc and /sys say, from folders that stand for `/`."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.machine import host

CPU = "sys/devices/system/cpu"
GROUP = "sys/fs/cgroup"
X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu {}\n\nprocessor\t: 1\nmodel name\t: Another\n"
ARM = (
    "processor\t: 0\nFeatures\t: fp asimd asimddp sve svebf16 i8mm bf16 crc32\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd40"
)
FLAGS = "smep sme svm avx avx2 fma avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8 avx_vnni sse2 f16c"
CACHES = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "36M")]
STAT = "usage_usec 5\nnr_periods 90\nnr_throttled 30\nthrottled_usec 12"


def root_with(folder: Path, files: dict[str, str]) -> Path:
    """`folder`, holding `files` as the kernel would show them."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("reader", "files", "expected"),
    [
        (host.cpu_name, {"proc/cpuinfo": X86.format("avx")}, "Some CPU @ 2GHz"),
        (host.flags, {"proc/cpuinfo": X86.format(FLAGS)},
         ["amx_bf16", "amx_int8", "avx", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "f16c", "fma"]),
        (host.flags, {"proc/cpuinfo": ARM}, ["asimd", "asimddp", "bf16", "i8mm", "sve", "svebf16"]),
        (host.cache_bytes,
         {f"{CPU}/cpu0/cache/index{at}/{name}": value
          for at, values in enumerate(CACHES) for name, value in zip(("level", "type", "size"), values, strict=True)},
         {"L1d": 48 * 2**10, "L1i": 32 * 2**10, "L2": 2 * 2**20, "L3": 36 * 2**20}),
        (host.boost_switch, {f"{CPU}/cpufreq/boost": "1"}, (f"{CPU}/cpufreq/boost", True)),
        (host.boost_switch, {f"{CPU}/cpufreq/boost": "0"}, (f"{CPU}/cpufreq/boost", False)),
        (host.boost_switch, {f"{CPU}/intel_pstate/no_turbo": "0"}, (f"{CPU}/intel_pstate/no_turbo", True)),
        (host.boost_switch, {f"{CPU}/intel_pstate/no_turbo": "1"}, (f"{CPU}/intel_pstate/no_turbo", False)),
        (host.boost_switch, {f"{CPU}/cpufreq/policy0/boost": "1"}, (f"{CPU}/cpufreq/policy0/boost", True)),
        (host.swap_used_bytes, {"proc/meminfo": "SwapCached:  7 kB\nSwapTotal:   2048 kB\nSwapFree:    1024 kB"}, 2**20),
        (host.huge_pages, {"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"}, "madvise"),
        (host.smt_is_on, {f"{CPU}/smt/active": "1"}, True),
        (host.governor, {f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave"}, "powersave"),
        (host.hypervisor, {"proc/cpuinfo": X86.format("hypervisor"), "sys/class/dmi/id/sys_vendor": "QEMU"}, "QEMU"),
        (host.hypervisor, {"proc/cpuinfo": X86.format("hypervisor"), "sys/hypervisor/type": "xen"}, "xen"),
        (host.hypervisor, {"proc/cpuinfo": X86.format("hypervisor")}, "unknown"),
        (host.hypervisor, {"proc/cpuinfo": X86.format("avx"), "sys/class/dmi/id/sys_vendor": "Amazon EC2"}, None),
        (host.hypervisor, {"sys/class/dmi/id/sys_vendor": "QEMU"}, "QEMU"),
        (host.hypervisor, {"proc/device-tree/hypervisor/compatible": "linux,kvm\0"}, "linux,kvm"),
        (host.hypervisor, {"proc/sys/kernel/osrelease": "5.15.1-microsoft-standard-WSL2"}, "WSL"),
        (host.container, {".dockerenv": ""}, "docker"),
        (host.container, {"run/.containerenv": ""}, "podman"),
        (host.container, {"run/systemd/container": "lxc"}, "lxc"),
        (host.container, {"proc/self/cgroup": "0::/kubepods.slice/pod1"}, "kubepods"),
        (host.container, {"proc/self/cgroup": "0::/user.slice"}, None),
        *((reader, {}, None) for reader in (
            host.flags, host.governor, host.boost_switch, host.smt_is_on, host.huge_pages, host.swap_used_bytes,
            host.hypervisor, host.container, host.cpu_quota, host.quota_periods, host.thermal_events,
        )),
        (host.cache_bytes, {}, {}),
    ],
)  # fmt: skip
def test_what_the_system_tells(
    tmp_path: Path, reader: Callable[[Path], Any], files: dict[str, str], expected: Any
) -> None:
    assert reader(root_with(tmp_path, files)) == expected


def test_a_cpu_always_has_a_name(tmp_path: Path) -> None:
    """An ARM CPU's is made of its part: two parts must not look like one CPU."""
    assert host.cpu_name(tmp_path)
    assert host.cpu_name(root_with(tmp_path, {"proc/cpuinfo": ARM})).endswith("implementer 0x41 part 0xd40")


@pytest.mark.parametrize(
    ("groups", "files", "quota", "periods"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/cpu.stat": STAT}, 1.5, (90, 30)),
        (
            "0::/a/b",
            {"a/b/cpu.max": "50000 100000", "a/b/cpu.stat": STAT, "a/cpu.max": "150000 100000"},
            0.5,
            (90, 30),
        ),
        (  # the first version of control groups, in a container that sees its own group as the top
            "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x",
            {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000", "cpu/cpu.stat": STAT},
            2.0,
            (90, 30),
        ),
        (
            "1:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "cpu/cpu.stat": STAT},
            None,
            None,
        ),
        ("0::/../../x", {"x/cpu.max": "max 100000"}, None, None),
    ],
    ids=["ancestor", "own", "version 1", "unlimited", "outside"],
)
def test_the_tightest_quota_counts_and_its_periods_are_read_anew(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None, periods: tuple[int, int] | None
) -> None:
    files = {f"{GROUP}/{name}": text for name, text in files.items()}
    root = root_with(tmp_path, {"proc/self/cgroup": groups, **files})
    assert (host.cpu_quota(root), host.quota_periods(root)) == (quota, periods)
    root_with(tmp_path, {name: text.replace("90", "91") for name, text in files.items() if name.endswith("stat")})
    assert host.quota_periods(root) == (periods and (91, 30))


def test_heat_is_counted_once_for_each_package(tmp_path: Path) -> None:
    files = {}
    for cpu, package, count in (("cpu0", "0", "5"), ("cpu1", "0", "5"), ("cpu2", "1", "2"), ("cpu3", "1", "2")):
        files[f"{CPU}/{cpu}/thermal_throttle/package_throttle_count"] = count
        files[f"{CPU}/{cpu}/topology/physical_package_id"] = package
    root = root_with(tmp_path, files)
    assert host.thermal_events(root) == 7
    root_with(tmp_path, {f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "6"})
    assert host.thermal_events(root) == 8


def test_cpu_time_counts_guests_once_and_waiting_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest's time is in user already."""
    Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")
    one = Times(10.0, 1.0, 2.0, 50.0, 5.0, 0.1, 0.2, 0.7, 9.0, 0.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu=False: [one, one, one] if percpu else one)
    found = host.cpu_seconds()
    assert (found.busy, found.idle, found.steal) == pytest.approx((13.3, 55.0, 0.7))
    assert host.cpu_seconds({0, 2}).whole == pytest.approx(2 * 69.0)
