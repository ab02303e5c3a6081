"""GPUs as NVML tells of them, from an NVML that answers what a test says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.machine import gpu


class NVMLError(Exception):
    """Any refusal."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - the name that pynvml gives it
    """The card does not know this question."""


ANSWERS: dict[str, Any] = {
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlSystemGetDriverVersion": "580.65.06",
    "nvmlSystemGetCudaDriverVersion_v2": 12080,
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * 2**30, free=79 * 2**30),
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetClockInfo": lambda handle, clock: {1: 1755, 2: 2619}[clock],
    "nvmlDeviceGetMaxClockInfo": lambda handle, clock: {1: 1980, 2: 2620}[clock],
    "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
    "nvmlDeviceGetPowerUsage": 412_345,
    "nvmlDeviceGetEnforcedPowerLimit": 600_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x1,
    "nvmlDeviceGetViolationStatus": lambda handle, policy: SimpleNamespace(violationTime={0: 5, 1: 7}[policy]),
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetComputeRunningProcesses": [],
}
FACTS = {
    "name": "NVIDIA H100 80GB HBM3", "driver": "580.65.06", "total_bytes": 80 * 2**30, "free_bytes": 79 * 2**30,
    "cuda_driver": "12.8", "compute_capability": "9.0", "sm_clock_mhz": 1755, "memory_clock_mhz": 2619,
    "max_sm_clock_mhz": 1980, "max_memory_clock_mhz": 2620, "temperature_celsius": 61, "power_watts": 412.345,
    "power_cap_watts": 600.0, "default_power_cap_watts": 700.0, "throttle_reasons": ["gpu_idle", "sw_power_cap"],
    "is_persistent": True, "is_mig": False, "other_processes": 0,
}  # fmt: skip


class FakeNvml(ModuleType):
    """pynvml with `cards` GPUs that all give the same answers; a question without one is not supported."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1
    NVMLError, NVMLError_NotSupported = NVMLError, NVMLError_NotSupported

    def __init__(self, answers: dict[str, Any], cards: int = 1) -> None:
        super().__init__("pynvml")
        self.opened = 0
        self.answers = answers | {
            "nvmlDeviceGetCount": cards,
            "nvmlDeviceGetHandleByIndex": lambda at: f"handle {at}",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle[-1]}abc-def",
        }

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's name
        self.opened += 1
        if "no driver" in self.answers:
            raise NVMLError

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answer = self.answers.get(name, NVMLError_NotSupported) if name.startswith("nvml") else AttributeError
        if answer is AttributeError:  # this pynvml lacks the function
            raise AttributeError(name)

        def question(*arguments: Any) -> Any:
            if isinstance(answer, type) and issubclass(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return question


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeNvml]]:
    """Put an NVML in place of the real one."""

    def install(answers: dict[str, Any], cards: int = 1) -> FakeNvml:
        fake = FakeNvml(answers, cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        gpu._nvml.cache_clear()
        return fake

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield install
    gpu._nvml.cache_clear()


NOTHING = dict.fromkeys(FACTS) | {
    "name": "NVIDIA Thor", "total_bytes": psutil.virtual_memory().total, "free_bytes": 5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (ANSWERS, [FACTS]),
        ({"nvmlDeviceGetName": "NVIDIA Thor"}, [NOTHING]),  # of a card that shares the host's memory
        (ANSWERS | {"nvmlDeviceGetMigMode": AttributeError}, [FACTS | {"is_mig": None}]),
        (
            ANSWERS
            | {"nvmlDeviceGetCurrentClocksEventReasons": AttributeError}
            | {"nvmlDeviceGetCurrentClocksThrottleReasons": 0x40 | 0x8},
            [FACTS | {"throttle_reasons": ["hw_slowdown", "hw_thermal_slowdown"]}],
        ),
        (ANSWERS | {"nvmlDeviceGetMemoryInfo": NVMLError}, []),  # a lost card
        (ANSWERS | {"no driver": True}, []),
    ],
    ids=["all", "nothing", "older pynvml", "older driver", "lost", "no driver"],
)
def test_facts_of_a_card(nvml: Callable[..., FakeNvml], answers: dict[str, Any], told: list[dict[str, Any]]) -> None:
    fake = nvml(answers)
    for _ in range(3):
        found = gpu.cards()
        assert [card | {"free_bytes": 5} for card in found] == [card | {"free_bytes": 5} for card in told]
        assert [list(card) for card in found] == [list(FACTS)] * len(told)
        assert (gpu.state() is None) == ("no driver" in answers)
    assert fake.opened == 1, "opening takes milliseconds, and a snapshot is taken before and after each turn"


def test_without_pynvml_there_are_no_cards(monkeypatch: pytest.MonkeyPatch, nvml: Callable[..., FakeNvml]) -> None:
    nvml(ANSWERS)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (gpu.cards(), gpu.state(), gpu.process_bytes(1)) == ([], None, None)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("1", [1]),
        (" 3 , 1", [3, 1]),
        ("", []),
        ("-1", []),
        ("0,9,1", [0]),
        ("GPU-2abc", [2]),
        ("GPU-0abc-def,GPU-3", [0, 3]),
        ("GPU-", []),
        ("MIG-slice", [8]),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices(
    nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch, asked: str, expected: list[int]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    by_handle = {
        "nvmlDeviceGetHandleByUUID": lambda name: {"MIG-slice": "slice 8"}[name],
        "nvmlDeviceGetTemperature": lambda handle, sensor: int(handle[-1]),
    }
    nvml(ANSWERS | by_handle, cards=4)
    assert [card["temperature_celsius"] for card in gpu.cards()] == expected
    state = gpu.state()
    assert (None if state is None else state.temperature_celsius) == next(iter(expected), None)
    assert state is None or (state.power_throttled_ns, state.thermal_throttled_ns) == (5, 7)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes 700 (this one's child), 701 (its grandchild), 702 (its child), 900 and 901 (of others)."""
    me = os.getpid()
    parents = {1: 0, 900: 1, 901: 1, 700: me, 701: 700, 702: me, me: 1}

    class Process:
        def __init__(self, pid: int) -> None:
            if pid not in parents:
                raise psutil.NoSuchProcess(pid)
            self.pid = pid

        def parents(self) -> list[Process]:
            parent = parents[self.pid]
            return [Process(parent), *Process(parent).parents()] if parent else []

    monkeypatch.setattr(psutil, "Process", Process)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("listed", "own_pids", "expected", "why"),
    [
        (NVMLError, [], None, "the card does not tell"),
        ([], [], 0, "nobody is on it"),
        ([], [700], None, "a worker is on it, so the list is hidden"),
        ([700, 701], [], 0, "this process's child and grandchild"),
        ([700, 900], [], 1, "another's"),
        ([900, 901, 901], [], 2, "the same process is listed once for each context"),
        ([900], [900], 0, "a worker that someone else started"),
        ([5000, 5001], [], None, "ids of another namespace, and nothing to count them against"),
        ([5000, 5001], [700, 702], 0, "ids of another namespace, as many as workers"),
        ([5000, 5001, 5002], [700, 702], 1, "ids of another namespace, one more than workers"),
    ],
)
def test_processes_of_others(
    nvml: Callable[..., FakeNvml], listed: Any, own_pids: list[int], expected: int | None, why: str
) -> None:
    answer = listed if listed is NVMLError else [SimpleNamespace(pid=pid) for pid in listed]
    nvml(ANSWERS | {"nvmlDeviceGetComputeRunningProcesses": answer})
    state = gpu.state(own_pids)
    assert state is not None
    assert state.other_processes == expected, why


@pytest.mark.parametrize(
    ("listed", "held"),
    [
        ([SimpleNamespace(pid=7, usedGpuMemory=3), SimpleNamespace(pid=900, usedGpuMemory=5)], 5),
        ([SimpleNamespace(pid=900, usedGpuMemory=None)], None),  # some drivers tell no figure
        ([SimpleNamespace(pid=7, usedGpuMemory=3)], None),  # the host's process ids, in a container
        ([], None),
        (NVMLError, None),
    ],
)
def test_what_a_process_holds_is_its_own_figure_or_none(
    listed: Any, held: int | None, nvml: Callable[..., FakeNvml]
) -> None:
    nvml(ANSWERS | {"nvmlDeviceGetComputeRunningProcesses": listed})
    assert gpu.process_bytes(900) == held
