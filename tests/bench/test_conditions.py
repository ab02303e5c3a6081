"""What else went on while a cell was timed, and what would disturb a measurement: all from given facts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine import conditions, gpu, host
from bench.machine.conditions import Snapshot
from bench.machine.gpu import State
from bench.machine.host import CpuSeconds
from tests.bench.test_host import root_with

CPU = "sys/devices/system/cpu"

# Turns.


def test_a_snapshot_reads_what_the_system_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML is asked on a GPU only; what the system does not count is left out, and taints nothing."""
    asked: list[Any] = []
    monkeypatch.setattr(gpu, "state", lambda own_pids: asked.append(own_pids) or State(sm_clock_mhz=1980))
    before, after = (conditions.snapshot("cpu", root=tmp_path) for _ in range(2))
    assert (before.counts, before.gpu, asked) == ({}, None, [])
    turn = conditions.between(before, after, 0.0)
    assert [turn[name] for name in ("thermal_events", "quota_periods", "throttled_periods")] == [None] * 3
    files = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/cpu.max": "200000 100000",
        "sys/fs/cgroup/cpu.stat": "nr_periods 10\nnr_throttled 4",
        f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "3",
    }
    taken = conditions.snapshot("cuda", [7, 8], root_with(tmp_path / "counting", files))
    assert taken.counts == {"thermal_events": 3, "quota_periods": 10, "throttled_periods": 4}
    assert (taken.gpu, asked) == (State(sm_clock_mhz=1980), [[7, 8]])


def counts(*values: int) -> dict[str, int]:
    return dict(zip(("thermal_events", "quota_periods", "throttled_periods"), values, strict=True))


def test_what_neither_worker_nor_driver_used_was_taken_by_others() -> None:
    before = Snapshot(10**9, 5.0, CpuSeconds(100.0, 200.0, 3.0), counts(7, 50, 5))
    after = Snapshot(3 * 10**9, 5.25, CpuSeconds(103.0, 200.875, 3.125), counts(8, 70, 15))
    assert conditions.between(before, after, own_cpu_seconds=2.5, queue_delay_seconds=0.01) == {
        "wall_seconds": 2.0, "queue_delay_seconds": 0.01, "cpu_seconds": 4.0, "other_cpu_seconds": 0.25, "steal_seconds": 0.125,
        "thermal_events": 1, "quota_periods": 20, "throttled_periods": 10,
    }  # fmt: skip


def turn(own: float = 1.0, **facts: Any) -> dict[str, Any]:
    """A turn of one second on two CPUs, of which the worker used `own`; quiet, but for `facts`."""
    before, after = Snapshot(0, 0.0, CpuSeconds(0.0, 0.0, 0.0)), Snapshot(10**9, 0.0, CpuSeconds(1.0, 1.0, 0.0))
    return conditions.between(before, after, own) | facts


def test_ticks_that_err_both_ways_even_out_over_turns() -> None:
    """A sum of what each turn shows above zero would turn the ticks' noise into other work."""
    found = conditions.summary([turn(own) for own in (0.95, 1.05) * 20])
    assert found["other_cpu_seconds"] == 0.0
    assert conditions.disturbed_by(found) == []


def on_gpu(**facts: Any) -> Snapshot:
    """A snapshot in which only the GPU tells something."""
    return Snapshot(0, 0.0, CpuSeconds(0.0, 0.0, 0.0), gpu=State(**facts))


def test_a_gpu_is_judged_by_the_end_of_a_turn() -> None:
    """Before it, an idle GPU runs at a low clock, which says nothing about the turn."""
    before = on_gpu(sm_clock_mhz=210, throttle_reasons=["gpu_idle"], power_throttled_ns=10, other_processes=2)
    after = on_gpu(sm_clock_mhz=1755, throttle_reasons=["sw_power_cap"], power_throttled_ns=35, temperature_celsius=70)
    assert conditions.between(before, after, 0.0)["gpu"] == {
        "sm_clock_mhz": 1755, "memory_clock_mhz": None, "temperature_celsius": 70, "power_watts": None,
        "throttle_reasons": ["sw_power_cap"], "power_throttled_ns": 25, "thermal_throttled_ns": None,
        "other_processes": 2,
    }  # fmt: skip


def gpu_turn(**facts: Any) -> dict[str, Any]:
    """A quiet turn on a GPU, but for `facts`."""
    return turn(gpu=conditions.between(on_gpu(), on_gpu(), 0.0)["gpu"] | facts)


def test_a_summary_is_over_all_turns_and_keeps_the_worst_of_a_gpu() -> None:
    first = {"sm_clock_mhz": 1900, "temperature_celsius": 60, "power_throttled_ns": 10**9}
    turns = [
        gpu_turn(**first, throttle_reasons=["sw_power_cap"]) | {"other_cpu_seconds": 0.3},
        gpu_turn(sm_clock_mhz=1700, temperature_celsius=75, throttle_reasons=["gpu_idle"], other_processes=1),
        turn(other_cpu_seconds=0.1, steal_seconds=0.3, thermal_events=2),
        gpu_turn(),
    ]
    assert conditions.summary(turns) == {
        "turns": 4, "disturbed_turns": 3, "queue_delay_seconds": None,
        "disturbed_by": {
            "other_cpu": 0.15, "sw_power_cap": 1.0, "gpu_processes": 1.0, "steal": 0.15, "heat": 1.0
        },
        "wall_seconds": 4.0, "other_cpu_seconds": 0.4, "other_cpu_share": 0.05, "steal_seconds": 0.3,
        "steal_share": 0.0375, "thermal_events": 2, "quota_throttled_share": None,
        "gpu": {
            "min_sm_clock_mhz": 1700, "min_memory_clock_mhz": None, "max_temperature_celsius": 75,
            "max_power_watts": None, "throttle_reasons": ["gpu_idle", "sw_power_cap"], "power_throttled_seconds": 1.0,
            "thermal_throttled_seconds": None, "other_processes": 1,
        },
    }  # fmt: skip
    assert conditions.summary([]) == {}


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

IDLE = ["gpu_idle", "applications_clocks_setting", "display_clocks_setting", "sync_boost"]


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([turn()] * 5, []),
        ([turn(other_cpu_seconds=0.3)] * 5, ["over 10% of all CPU time was taken by other work"]),
        ([turn(other_cpu_seconds=0.5)] * 5, ["over 20% of all CPU time was taken by other work"]),
        ([turn(other_cpu_seconds=0.7)] * 5, ["over 20% of all CPU time was taken by other work"]),  # reports group them
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
        ([gpu_turn()], []),
        ([gpu_turn(throttle_reasons=IDLE)], []),
        *(
            ([gpu_turn(throttle_reasons=[reason])], [f"the GPU was slowed down ({reason})"])
            for reason in conditions.SLOWDOWNS
        ),
        (
            [gpu_turn(throttle_reasons=["hw_slowdown", "hw_thermal_slowdown"])],
            ["the GPU was slowed down (hw_thermal_slowdown)", "the GPU was slowed down (hw_slowdown)"],
        ),
        ([gpu_turn(power_throttled_ns=3 * 10**8)], ["the GPU was slowed down (sw_power_cap)"]),
        ([gpu_turn(thermal_throttled_ns=9 * 10**8)], ["the GPU was slowed down (sw_thermal_slowdown)"]),
        # The counter advances in steps of 100 ms, of which a turn's ends may hold one each.
        ([gpu_turn(power_throttled_ns=2 * 10**8, thermal_throttled_ns=10**8)], []),
        ([gpu_turn(power_throttled_ns=3 * 10**8), *[gpu_turn()] * 19], []),  # a long cell, for a moment
        ([gpu_turn(other_processes=1)], ["another process computes on the GPU"]),
        ([gpu_turn(other_processes=3)], ["3 other processes compute on the GPU"]),
        ([gpu_turn(other_processes=0, sm_clock_mhz=210, temperature_celsius=90)], []),
    ],
)
def test_what_disturbed_a_cell_is_said_with_what_helps(turns: list[dict[str, Any]], said: list[str]) -> None:
    lines = conditions.disturbed_by(conditions.summary(turns))
    assert len(lines) == len(said)
    for line, start in zip(lines, said, strict=True):
        assert line.startswith(start)
        assert "; " in line


def test_conditions_of_an_older_record_taint_nothing() -> None:
    for facts in ({}, {"turns": 3, "wall_seconds": 1.0, "gpu": {}}):
        assert conditions.disturbed_by(facts) == []
    assert set(conditions.SLOWDOWNS) == {
        "sw_power_cap", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_slowdown", "hw_power_brake_slowdown",
    } < set(gpu.REASONS.values())  # fmt: skip


# Turns that decide.


def delayed(seconds: float, **facts: Any) -> dict[str, Any]:
    """A turn of a second in which the worker's threads waited so long; ticks tell of others all the same."""
    return turn(queue_delay_seconds=seconds) | facts


@pytest.mark.parametrize(
    ("turns", "is_quiet"),
    [
        ([turn()] * 3, [True] * 3),
        ([{}] * 3, [True] * 3),  # nothing is known of them
        # The delay tells of each turn, whatever ticks say.
        ([delayed(0.00006), delayed(0.44), delayed(0.05)], [True, False, True]),
        ([delayed(0.001, other_cpu_seconds=1.5)] * 3, [True] * 3),
        # Ticks: a turn in which they are evidence is judged alone, others together until they are.
        ([turn(other_cpu_seconds=0.3), turn(), turn()], [False, True, True]),
        ([turn(cpu_seconds=0.2, other_cpu_seconds=0.03)] * 6, [False] * 6),
        ([turn(cpu_seconds=0.2, other_cpu_seconds=0.03)] * 3, [True] * 3),
        ([turn(cpu_seconds=0.2, other_cpu_seconds=0.004)] * 60, [True] * 60),
        # Small turns about a burst are summed with each other, and not with it.
        ([turn(), turn(other_cpu_seconds=1.9), turn()], [True, False, True]),
        ([delayed(0.0), delayed(0.0, steal_seconds=0.3), delayed(0.0)], [True, False, True]),
        ([delayed(0.0), delayed(0.0, thermal_events=1)], [True, False]),
        ([delayed(0.0, quota_periods=10, throttled_periods=1), delayed(0.0)], [False, True]),
        ([gpu_turn(throttle_reasons=["hw_slowdown"]), gpu_turn(), gpu_turn(other_processes=1)], [False, True, False]),
        ([gpu_turn(thermal_throttled_ns=10**8)] * 3, [False] * 3),
        # Files of old have the conditions of a whole cell in its first turn.
        ([turn(other_cpu_seconds=0.5), {}, {}], [False] * 3),
        ([turn(), {}, turn(other_cpu_seconds=0.5), {}], [True, True, False, False]),
    ],
)
def test_each_turn_is_judged_by_what_is_known_of_it(turns: list[dict[str, Any]], is_quiet: list[bool]) -> None:
    assert list(conditions.quiet(turns)) == is_quiet
    found = conditions.summary(turns)
    disturbed = is_quiet.count(False)
    assert found.get("disturbed_turns", 0) == disturbed
    is_marked = bool(conditions.disturbed_by(found))
    assert is_marked == (disturbed > 0 and (len(turns) - disturbed < 3 or 2 * disturbed >= len(turns)))


def test_a_card_at_its_own_power_cap_is_warned_of_and_decides() -> None:
    """The work that is timed draws the power, as it will in use."""
    turns = [gpu_turn(power_throttled_ns=10**8)] * 3
    assert all(conditions.quiet(turns))
    assert "sw_power_cap" in conditions.disturbed_by(conditions.summary(turns))[0]


def test_a_cell_that_waited_for_others_says_so() -> None:
    (line,) = conditions.disturbed_by(conditions.summary([delayed(0.44)] * 3))
    assert line == (
        "its threads waited for CPUs that other work had in over 20% of the time; stop it and measure again"
    )


# Disturbances.

QUIET = {
    "proc/meminfo": "SwapTotal: 1024 kB\nSwapFree: 1024 kB",
    "proc/cpuinfo": "flags: avx2",
    "proc/self/cgroup": "0::/",
    "sys/fs/cgroup/cpu.max": "max 100000",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpufreq/boost": "0",
    f"{CPU}/smt/active": "0",
}


@pytest.fixture(autouse=True)
def _eight_idle_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.machine.usable_cpus", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(host, "cpu_seconds", lambda: CpuSeconds(10.0, 30.0, 0.0))


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        ({}, "", ""),
        ({f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave"}, "governor is powersave", "cpupower frequency-set"),
        ({f"{CPU}/cpu0/cpufreq/scaling_governor": None}, "governor is unknown", "firmware"),
        (
            {f"{CPU}/cpu0/cpufreq/scaling_governor": None, "proc/cpuinfo": "flags: avx2 hypervisor"},
            "hidden by the hypervisor (unknown)",
            "within a run",
        ),
        ({f"{CPU}/cpufreq/boost": "1"}, "boost is on", f"echo 0 | sudo tee /{CPU}/cpufreq/boost"),
        (
            {f"{CPU}/cpufreq/boost": None, f"{CPU}/intel_pstate/no_turbo": "0"},
            "boost is on",
            f"echo 1 | sudo tee /{CPU}/intel_pstate/no_turbo",
        ),
        ({f"{CPU}/smt/active": "1"}, "SMT is on", "--threads"),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, "quota, 1.5 CPUs, is smaller than the 8 CPUs", "use --threads 1,"),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, "quota, 0.5 CPUs", "use --threads 1,"),
        ({"proc/meminfo": "SwapTotal: 4096 kB\nSwapFree: 1024 kB"}, "3 MiB of memory are swapped out", "swapoff"),
    ],
)
def test_each_disturbance_says_how_to_stop_it(
    tmp_path: Path, files: dict[str, str | None], what: str, remedy: str
) -> None:
    told = {name: text for name, text in (QUIET | files).items() if text is not None}
    found = conditions.disturbances("cpu", root_with(tmp_path, told))
    assert len(found) == bool(what)
    for one in found:
        assert what in one.what and remedy in one.remedy


def test_others_disturb_by_load_and_by_what_the_hypervisor_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 1.0, 1.0))
    monkeypatch.setattr(host, "cpu_seconds", lambda: CpuSeconds(10.0, 30.0, 5.0))
    load, steal = conditions.disturbances("cpu", root_with(tmp_path, QUIET))
    assert ("load of the last minute is 2 on 8 CPUs" in load.what) and ("top" in load.remedy)
    assert ("has given 11% of" in steal.what) and ("dedicated machine" in steal.remedy)


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


@pytest.mark.parametrize(
    ("cards", "what", "remedy"),
    [
        ([CARD], "", ""),
        ([CARD, CARD | {"other_processes": 2}], "", ""),  # a worker uses the first one
        ([HIDDEN], "", ""),
        ([], "", ""),
        ([CARD | {"other_processes": 2}], "2 other processes compute on the GPU", "nvidia-smi"),
        ([CARD | {"is_persistent": False}], "persistence mode is off", "nvidia-smi -pm 1"),
        ([CARD | {"power_cap_watts": 350.0}], "power cap is 350 W, below its default of 700 W", "nvidia-smi -pl 700"),
        ([CARD | {"is_mig": True}], "split (MIG)", "nvidia-smi -mig 0"),
        ([CARD | {"throttle_reasons": ["gpu_idle", "hw_thermal_slowdown"]}], "now (hw_thermal_slowdown)", "cool"),
        ([CARD, CARD | {"name": "NVIDIA T4"}], "the GPUs differ", "export CUDA_DEVICE_ORDER=PCI_BUS_ID"),
    ],
)
def test_each_disturbance_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: list[dict[str, Any]], what: str, remedy: str
) -> None:
    monkeypatch.setattr("bench.machine.gpus", lambda: cards)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    found = conditions.disturbances("cuda", root_with(tmp_path, QUIET))
    assert len(found) == bool(what)
    for one in found:
        assert what in one.what and remedy in one.remedy
