"""What else went on while a cell was timed, and what would disturb a measurement: all from given facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine import conditions, gpu
from bench.machine.conditions import Snapshot
from bench.machine.gpu import State
from bench.machine.host import CpuSeconds, QuotaPeriods

CPU = "sys/devices/system/cpu"


def root_with(folder: Path, files: dict[str, str]) -> Path:
    """`folder`, holding `files` as the kernel would show them."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


# Snapshots.


def test_a_snapshot_reads_what_the_system_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    files = {
        "proc/stat": "cpu 100 0 0 300 0 0 0 20 0 0",
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/cpu.max": "200000 100000",
        "sys/fs/cgroup/cpu.stat": "nr_periods 10\nnr_throttled 4",
        f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "3",
    }
    taken = conditions.snapshot("cpu", root=root_with(tmp_path, files))
    assert taken.cpu == CpuSeconds(1.0, 3.0, 0.2)
    assert taken.quota == QuotaPeriods(10, 4)
    assert taken.thermal_events == 3


def test_nvml_is_asked_on_a_gpu_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def state(own_pids: Any, root: Path) -> State:
        asked.append(own_pids)
        return State(sm_clock_mhz=1980)

    monkeypatch.setattr(gpu, "state", state)
    assert conditions.snapshot("cpu", root=tmp_path).gpu is None
    assert asked == []
    assert conditions.snapshot("cuda", [7, 8], root=tmp_path).gpu == State(sm_clock_mhz=1980)
    assert asked == [[7, 8]]


def test_a_system_that_counts_nothing_taints_nothing(tmp_path: Path) -> None:
    before, after = (conditions.snapshot("cpu", root=tmp_path) for _ in range(2))
    turn = conditions.between(before, after, 0.5)
    assert turn["other_cpu_seconds"] is None
    found = conditions.summary([turn, turn])
    assert found["other_cpu_share"] is None
    assert conditions.disturbed_by(found) == []


# Turns.

BEFORE = Snapshot(10**9, 5.0, CpuSeconds(100.0, 200.0, 3.0), 7, QuotaPeriods(50, 5))
AFTER = Snapshot(3 * 10**9, 5.25, CpuSeconds(103.0, 200.875, 3.125), 8, QuotaPeriods(70, 15))


def test_what_neither_worker_nor_driver_used_was_taken_by_others() -> None:
    turn = conditions.between(BEFORE, AFTER, own_cpu_seconds=2.5)
    assert turn == {
        "wall_seconds": 2.0,
        "cpu_seconds": 4.0,
        "other_cpu_seconds": 0.25,
        "steal_seconds": 0.125,
        "thermal_events": 1,
        "quota_periods": 20,
        "throttled_periods": 10,
    }


def test_ticks_that_err_both_ways_even_out_over_turns() -> None:
    """A sum of what each turn shows above zero would turn the ticks' noise into other work."""
    turns = [
        conditions.between(Snapshot(0, 0.0, CpuSeconds(0, 0, 0)), Snapshot(10**9, 0.0, CpuSeconds(1.0, 1.0, 0.0)), own)
        for own in (0.95, 1.05) * 20
    ]
    found = conditions.summary(turns)
    assert found["other_cpu_seconds"] == 0.0
    assert conditions.disturbed_by(found) == []


def on_gpu(**facts: Any) -> Snapshot:
    """A snapshot in which only the GPU tells something."""
    return Snapshot(0, 0.0, gpu=State(**facts))


def test_a_gpu_is_judged_by_the_end_of_a_turn() -> None:
    """Before it, an idle GPU runs at a low clock, which says nothing about the turn."""
    before = on_gpu(sm_clock_mhz=210, throttle_reasons=("gpu_idle",), power_throttled_ns=10, other_processes=2)
    after = on_gpu(sm_clock_mhz=1755, throttle_reasons=("sw_power_cap",), power_throttled_ns=35, temperature_celsius=70)
    assert conditions.between(before, after, 0.0)["gpu"] == {
        "sm_clock_mhz": 1755,
        "memory_clock_mhz": None,
        "temperature_celsius": 70,
        "power_watts": None,
        "throttle_reasons": ["sw_power_cap"],
        "power_throttled_ns": 25,
        "thermal_throttled_ns": None,
        "other_processes": 2,
    }


def turn(**facts: Any) -> dict[str, Any]:
    """A quiet turn of one second on two CPUs, but for `facts`."""
    return conditions.between(
        Snapshot(0, 0.0, CpuSeconds(0.0, 0.0, 0.0)), Snapshot(10**9, 0.0, CpuSeconds(1.0, 1.0, 0.0)), 1.0
    ) | dict(facts)


def gpu_turn(**facts: Any) -> dict[str, Any]:
    """A quiet turn on a GPU, but for `facts`."""
    return turn(gpu=conditions.between(on_gpu(), on_gpu(), 0.0)["gpu"] | facts)


def test_a_summary_is_over_all_turns() -> None:
    turns = [turn(other_cpu_seconds=0.3), turn(other_cpu_seconds=0.1, steal_seconds=0.2, thermal_events=2)]
    assert conditions.summary(turns) == {
        "turns": 2,
        "wall_seconds": 2.0,
        "other_cpu_seconds": 0.4,
        "other_cpu_share": 0.1,
        "steal_seconds": 0.2,
        "steal_share": 0.05,
        "thermal_events": 2,
        "quota_throttled_share": None,
    }
    assert conditions.summary([]) == {}


def test_a_summary_of_a_gpu_keeps_the_worst() -> None:
    turns = [
        gpu_turn(
            sm_clock_mhz=1900, temperature_celsius=60, throttle_reasons=["sw_power_cap"], power_throttled_ns=10**9
        ),
        gpu_turn(sm_clock_mhz=1700, temperature_celsius=75, throttle_reasons=["gpu_idle"], other_processes=1),
        gpu_turn(),
    ]
    assert conditions.summary(turns)["gpu"] == {
        "min_sm_clock_mhz": 1700,
        "min_memory_clock_mhz": None,
        "max_temperature_celsius": 75,
        "max_power_watts": None,
        "throttle_reasons": ["gpu_idle", "sw_power_cap"],
        "power_throttled_seconds": 1.0,
        "thermal_throttled_seconds": None,
        "other_processes": 1,
    }


seconds = st.none() | st.floats(-0.1, 100.0)


@given(st.lists(st.tuples(seconds, seconds, seconds), min_size=1))
def test_shares_lie_within_0_and_1_whatever_was_counted(turns: list[tuple[float | None, ...]]) -> None:
    names = ("cpu_seconds", "other_cpu_seconds", "steal_seconds")
    found = conditions.summary([turn(**dict(zip(names, values, strict=True))) for values in turns])
    for name in ("other_cpu_share", "steal_share"):
        assert found[name] is None or 0 <= found[name] <= 1
    assert json.loads(json.dumps(found)) == found
    assert isinstance(conditions.disturbed_by(found), list)


# Taint.


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([turn()] * 5, []),
        ([turn(other_cpu_seconds=0.3)] * 5, ["over 10% of all CPU time was taken by other work"]),
        ([turn(other_cpu_seconds=1.8)] * 5, ["over 50% of all CPU time"]),
        ([turn(other_cpu_seconds=0.08)] * 5, []),
        # One tick on each of two CPUs in a turn of a tenth of a second is a tenth of it, and no evidence.
        ([turn(cpu_seconds=0.2, other_cpu_seconds=0.02)] * 2, []),
        ([turn(steal_seconds=0.06)] * 5, ["over 2% of all CPU time was taken by the hypervisor"]),
        ([turn(steal_seconds=0.06)], []),
        ([turn(steal_seconds=0.02)] * 50, []),
        ([turn(), turn(thermal_events=1)], ["the CPU slowed down for heat"]),
        ([turn(quota_periods=10, throttled_periods=3)], ["the CPU quota stopped the work in over 20% of its periods"]),
        ([turn(quota_periods=100, throttled_periods=1)], []),
        ([turn(quota_periods=0, throttled_periods=0)], []),
    ],
)
def test_taint_of_the_cpu(turns: list[dict[str, Any]], said: list[str]) -> None:
    lines = conditions.disturbed_by(conditions.summary(turns))
    assert len(lines) == len(said)
    for line, start in zip(lines, said, strict=True):
        assert line.startswith(start)
        assert "; " in line, "a taint says what helps"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, []),
        ({"throttle_reasons": ["gpu_idle", "applications_clocks_setting", "display_clocks_setting", "sync_boost"]}, []),
        ({"throttle_reasons": ["sw_power_cap"]}, ["(sw_power_cap)"]),
        ({"throttle_reasons": ["hw_slowdown", "hw_thermal_slowdown"]}, ["(hw_thermal_slowdown)", "(hw_slowdown)"]),
        ({"throttle_reasons": ["sw_thermal_slowdown"]}, ["(sw_thermal_slowdown)"]),
        ({"throttle_reasons": ["hw_power_brake_slowdown"]}, ["(hw_power_brake_slowdown)"]),
        ({"power_throttled_ns": 3 * 10**8}, ["(sw_power_cap)"]),
        ({"thermal_throttled_ns": 9 * 10**8}, ["(sw_thermal_slowdown)"]),
        # The counter advances in steps of 100 ms, of which a turn's ends may hold one each.
        ({"power_throttled_ns": 2 * 10**8, "thermal_throttled_ns": 10**8}, []),
        ({"other_processes": 1}, ["another process computes on the GPU"]),
        ({"other_processes": 3}, ["3 other processes compute on the GPU"]),
        ({"other_processes": 0, "sm_clock_mhz": 210, "temperature_celsius": 90}, []),
    ],
)
def test_taint_of_the_gpu(facts: dict[str, Any], said: list[str]) -> None:
    lines = conditions.disturbed_by(conditions.summary([gpu_turn(**facts)]))
    assert len(lines) == len(said)
    for line, part in zip(lines, said, strict=True):
        assert part in line
        assert "; " in line, "a taint says what helps"


def test_a_long_cell_may_be_throttled_for_a_moment() -> None:
    turns = [gpu_turn(power_throttled_ns=3 * 10**8), *[gpu_turn()] * 19]
    assert conditions.disturbed_by(conditions.summary(turns)) == []


def test_every_reason_that_taints_is_one_that_nvml_has() -> None:
    assert set(conditions.SLOWDOWNS) < set(gpu.REASONS.values())


def test_conditions_of_an_older_record_taint_nothing() -> None:
    assert conditions.disturbed_by({}) == []
    assert conditions.disturbed_by({"turns": 3, "wall_seconds": 1.0, "gpu": {}}) == []


def test_similar_cells_get_the_same_line() -> None:
    """Reports group equal lines."""
    lines = [conditions.disturbed_by(conditions.summary([turn(other_cpu_seconds=value)])) for value in (0.5, 0.6, 0.7)]
    assert lines[0] == lines[1] == lines[2]


# Disturbances.

QUIET = {
    "proc/stat": "cpu 1000 0 0 3000 0 0 0 0 0 0",
    "proc/loadavg": "0.00 0.00 0.00 1/100 10",
    "proc/meminfo": "SwapTotal: 1024 kB\nSwapFree: 1024 kB",
    "proc/cpuinfo": "flags: avx2",
    "proc/self/cgroup": "0::/",
    "sys/fs/cgroup/cpu.max": "max 100000",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpufreq/boost": "0",
    f"{CPU}/smt/active": "0",
}


def test_a_quiet_machine_has_no_disturbance(tmp_path: Path) -> None:
    assert conditions.disturbances("cpu", root_with(tmp_path, QUIET)) == []


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        ({f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave"}, "governor is powersave", "cpupower frequency-set"),
        ({f"{CPU}/cpufreq/boost": "1"}, "boost is on", f"echo 0 | sudo tee /{CPU}/cpufreq/boost"),
        ({f"{CPU}/smt/active": "1"}, "SMT is on", "--threads"),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, "quota, 1.5 CPUs, is smaller than the 8 CPUs", "use --threads 1,"),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, "quota, 0.5 CPUs", "use --threads 1,"),
        ({"proc/loadavg": "2.00 1 1 1/1 1"}, "load of the last minute is 2 on 8 CPUs", "top"),
        ({"proc/meminfo": "SwapTotal: 4096 kB\nSwapFree: 1024 kB"}, "3 MiB of memory are swapped out", "swapoff"),
        ({"proc/stat": "cpu 1000 0 0 3000 0 0 0 500 0 0"}, "has given 11% of", "dedicated machine"),
    ],
)
def test_each_disturbance_says_how_to_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], what: str, remedy: str
) -> None:
    monkeypatch.setattr("bench.machine.usable_cpus", lambda: 8)
    (found,) = conditions.disturbances("cpu", root_with(tmp_path, QUIET | files))
    assert what in found.what
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("flags", "what"), [("avx2 hypervisor", "hidden by the hypervisor (unknown)"), ("avx2", "governor is unknown")]
)
def test_an_unknown_governor_is_a_finding(tmp_path: Path, flags: str, what: str) -> None:
    files = QUIET | {"proc/cpuinfo": f"flags: {flags}"}
    del files[f"{CPU}/cpu0/cpufreq/scaling_governor"]
    (found,) = conditions.disturbances("cpu", root_with(tmp_path, files))
    assert what in found.what


def test_intels_boost_is_switched_by_the_opposite(tmp_path: Path) -> None:
    files = QUIET | {f"{CPU}/intel_pstate/no_turbo": "0"}
    del files[f"{CPU}/cpufreq/boost"]
    (found,) = conditions.disturbances("cpu", root_with(tmp_path, files))
    assert found.remedy == f"echo 1 | sudo tee /{CPU}/intel_pstate/no_turbo"


CARD = {
    "name": "NVIDIA H100",
    "is_persistent": True,
    "is_mig": False,
    "power_cap_watts": 700.0,
    "default_power_cap_watts": 700.0,
    "throttle_reasons": ["gpu_idle"],
    "other_processes": 0,
}
HIDDEN = dict.fromkeys(CARD) | {"name": "NVIDIA T4"}


def of_the_gpu(root: Path, monkeypatch: pytest.MonkeyPatch, cards: list[dict[str, Any]], state: State | None) -> Any:
    """Disturbances of a quiet machine with these cards."""
    monkeypatch.setattr("bench.machine.gpus", lambda: cards)
    monkeypatch.setattr(gpu, "state", lambda own_pids=(), root=None: state)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return conditions.disturbances("cuda", root_with(root, QUIET))


@pytest.mark.parametrize(
    "cards", [[CARD], [CARD, CARD | {"other_processes": 2}], [HIDDEN], []], ids=["one", "second busy", "hidden", "none"]
)
def test_a_quiet_gpu_has_no_disturbance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: list[Any]) -> None:
    assert of_the_gpu(tmp_path, monkeypatch, cards, State()) == []


@pytest.mark.parametrize(
    ("facts", "what", "remedy"),
    [
        ({"other_processes": 2}, "2 other processes compute on the GPU", "nvidia-smi"),
        ({"is_persistent": False}, "persistence mode is off", "nvidia-smi -pm 1"),
        ({"power_cap_watts": 350.0}, "power cap is 350 W, below its default of 700 W", "nvidia-smi -pl 700"),
        ({"is_mig": True}, "split (MIG)", "nvidia-smi -mig 0"),
        ({"throttle_reasons": ["gpu_idle", "hw_thermal_slowdown"]}, "slowed down now (hw_thermal_slowdown)", "cool"),
    ],
)
def test_each_disturbance_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], what: str, remedy: str
) -> None:
    (found,) = of_the_gpu(tmp_path, monkeypatch, [CARD | facts], State())
    assert what in found.what
    assert remedy in found.remedy


def test_a_gpu_that_cannot_be_watched_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = of_the_gpu(tmp_path, monkeypatch, [HIDDEN], None)
    assert found.remedy == "pip install nvidia-ml-py"


def test_unlike_gpus_may_be_numbered_in_two_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = of_the_gpu(tmp_path, monkeypatch, [CARD, CARD | {"name": "NVIDIA T4"}], State())
    assert found.remedy == "export CUDA_DEVICE_ORDER=PCI_BUS_ID"
