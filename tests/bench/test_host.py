"""What /proc and /sys say, from folders that stand for `/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.machine import host

CPU = "sys/devices/system/cpu"
X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu {}\n\nprocessor\t: 1\nmodel name\t: Another\n"


def root_with(folder: Path, files: dict[str, str]) -> Path:
    """`folder`, holding `files` as the kernel would show them."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


def test_flags_are_those_that_decide_the_speed_of_inference(tmp_path: Path) -> None:
    told = "smep sme svm avx avx2 fma avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8 avx_vnni sse2 f16c"
    root = root_with(tmp_path, {"proc/cpuinfo": X86.format(told)})
    wanted = {"avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "avx_vnni", "f16c"}
    assert host.flags(root) == sorted(wanted)
    assert host.cpu_name(root) == "Some CPU @ 2GHz"


def test_an_arm_cpu_is_named_by_its_part(tmp_path: Path) -> None:
    """Its /proc/cpuinfo has no model name, and two parts must not look like one CPU."""
    text = "processor\t: 0\nFeatures\t: fp asimd asimddp sve svebf16 i8mm bf16 crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd40"
    root = root_with(tmp_path, {"proc/cpuinfo": text})
    assert host.flags(root) == ["asimd", "asimddp", "bf16", "i8mm", "sve", "svebf16"]
    assert host.cpu_name(root).endswith("implementer 0x41 part 0xd40")


def test_a_system_that_tells_nothing_gives_none(tmp_path: Path) -> None:
    for reader in (
        host.flags, host.governor, host.boost_switch, host.smt_is_on, host.huge_pages, host.swap_used_bytes,
        host.load_average, host.hypervisor, host.container, host.cpu_quota, host.quota_periods, host.thermal_events,
        host.cpu_seconds,
    ):  # fmt: skip
        assert reader(tmp_path) is None, reader.__name__
    assert host.cache_bytes(tmp_path) == {}
    assert host.cpu_name(tmp_path)


def test_caches_have_their_level_and_kind(tmp_path: Path) -> None:
    sizes = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "36M")]
    files = {}
    for at, (level, kind, size) in enumerate(sizes):
        folder = f"{CPU}/cpu0/cache/index{at}"
        files |= {f"{folder}/level": level, f"{folder}/type": kind, f"{folder}/size": size}
    found = host.cache_bytes(root_with(tmp_path, files))
    assert found == {"L1d": 48 * 2**10, "L1i": 32 * 2**10, "L2": 2 * 2**20, "L3": 36 * 2**20}


@pytest.mark.parametrize(
    ("name", "state", "is_on"),
    [
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
        ("intel_pstate/no_turbo", "0", True),
        ("intel_pstate/no_turbo", "1", False),
        ("cpufreq/policy0/boost", "1", True),
    ],
)
def test_boost(tmp_path: Path, name: str, state: str, is_on: bool) -> None:
    assert host.boost_switch(root_with(tmp_path, {f"{CPU}/{name}": state})) == (f"{CPU}/{name}", is_on)


def test_memory_load_and_threads(tmp_path: Path) -> None:
    root = root_with(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:  100 kB\nSwapCached:  7 kB\nSwapTotal:   2048 kB\nSwapFree:    1024 kB",
            "proc/loadavg": "1.50 0.70 0.30 2/300 4242",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
            f"{CPU}/smt/active": "1",
            f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave",
        },
    )
    assert host.swap_used_bytes(root) == 2**20
    assert host.load_average(root) == 1.5
    assert host.huge_pages(root) == "madvise"
    assert host.smt_is_on(root) is True
    assert host.governor(root) == "powersave"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"proc/cpuinfo": X86.format("hypervisor"), "sys/class/dmi/id/sys_vendor": "QEMU"}, "QEMU"),
        ({"proc/cpuinfo": X86.format("hypervisor"), "sys/hypervisor/type": "xen"}, "xen"),
        ({"proc/cpuinfo": X86.format("hypervisor")}, "unknown"),
        ({"proc/cpuinfo": X86.format("avx"), "sys/class/dmi/id/sys_vendor": "Amazon EC2"}, None),
        ({"sys/class/dmi/id/sys_vendor": "QEMU"}, "QEMU"),
        ({"proc/device-tree/hypervisor/compatible": "linux,kvm\0"}, "linux,kvm"),
        ({"proc/sys/kernel/osrelease": "5.15.1-microsoft-standard-WSL2"}, "WSL"),
    ],
)
def test_hypervisors(tmp_path: Path, files: dict[str, str], name: str | None) -> None:
    assert host.hypervisor(root_with(tmp_path, files)) == name


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"run/systemd/container": "lxc"}, "lxc"),
        ({"proc/self/cgroup": "0::/kubepods.slice/pod1"}, "kubepods"),
        ({"proc/self/cgroup": "0::/user.slice"}, None),
    ],
)
def test_containers(tmp_path: Path, files: dict[str, str], kind: str | None) -> None:
    assert host.container(root_with(tmp_path, files)) == kind


STAT = "usage_usec 5\nnr_periods 90\nnr_throttled 30\nthrottled_usec 12"


@pytest.mark.parametrize(
    ("files", "quota", "periods"),
    [
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "150000 100000",
                "sys/fs/cgroup/a/cpu.stat": STAT,
            },
            1.5,
            host.QuotaPeriods(90, 30),
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "50000 100000",
                "sys/fs/cgroup/a/b/cpu.stat": STAT,
                "sys/fs/cgroup/a/cpu.max": "150000 100000",
            },
            0.5,
            host.QuotaPeriods(90, 30),
        ),
        (
            # The first version of control groups, in a container that sees its own group as the top.
            {
                "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 12",
            },
            2.0,
            host.QuotaPeriods(9, 3),
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.stat": STAT,
            },
            None,
            None,
        ),
        ({"proc/self/cgroup": "0::/../../x", "sys/fs/cgroup/x/cpu.max": "max 100000"}, None, None),
    ],
    ids=["ancestor", "own", "version 1", "unlimited", "outside"],
)
def test_the_tightest_quota_counts(
    tmp_path: Path, files: dict[str, str], quota: float | None, periods: host.QuotaPeriods | None
) -> None:
    root = root_with(tmp_path, files)
    assert host.cpu_quota(root) == quota
    assert host.quota_periods(root) == periods


def test_counts_of_a_quota_are_read_anew(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "1 2", "sys/fs/cgroup/a/cpu.stat": STAT}
    root = root_with(tmp_path, files)
    assert host.quota_periods(root) == host.QuotaPeriods(90, 30)
    root_with(tmp_path, {"sys/fs/cgroup/a/cpu.stat": STAT.replace("90", "91")})
    assert host.quota_periods(root) == host.QuotaPeriods(91, 30)


def test_heat_is_counted_once_for_each_package(tmp_path: Path) -> None:
    files = {}
    for cpu, package, count in (("cpu0", "0", "5"), ("cpu1", "0", "5"), ("cpu2", "1", "2"), ("cpu3", "1", "2")):
        files[f"{CPU}/{cpu}/thermal_throttle/package_throttle_count"] = count
        files[f"{CPU}/{cpu}/topology/physical_package_id"] = package
    root = root_with(tmp_path, files)
    assert host.thermal_events(root) == 7
    root_with(tmp_path, {f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "6"})
    assert host.thermal_events(root) == 8


def test_cpu_time_counts_guests_once_and_waiting_as_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    # user nice system idle iowait irq softirq steal guest guest_nice; a guest's time is in user already
    root = root_with(tmp_path, {"proc/stat": "cpu  1000 100 200 5000 500 10 20 70 900 0\ncpu0 1 1 1 1 1 1 1 1 1 1"})
    assert host.cpu_seconds(root) == host.CpuSeconds(busy=13.3, idle=55.0, steal=0.7)
