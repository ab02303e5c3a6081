"""GPUs as NVML tells of them, from an NVML that answers what a test says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench.machine import gpu


class NVMLError(Exception):
    """Any refusal."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - the name that pynvml gives it
    """The card does not know this question."""


ANSWERS: dict[str, Any] = {
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlSystemGetDriverVersion": b"580.65.06",
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


class FakeNvml(ModuleType):
    """pynvml with `cards` GPUs that all give the same answers; a question without one is not supported."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1
    NVMLError, NVMLError_NotSupported = NVMLError, NVMLError_NotSupported

    def __init__(self, answers: dict[str, Any], cards: int = 1) -> None:
        super().__init__("pynvml")
        self.answers, self.opened = answers, 0
        self.answers |= {
            "nvmlDeviceGetCount": cards,
            "nvmlDeviceGetHandleByIndex": lambda at: f"handle {at}",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle[-1]}abc-def",
        }

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's name
        self.opened += 1
        if "no driver" in self.answers:
            raise NVMLError

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def question(*arguments: Any) -> Any:
            if name not in self.answers:
                raise NVMLError_NotSupported
            answer = self.answers[name]
            if isinstance(answer, type) and issubclass(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return question


@pytest.fixture(autouse=True)
def _nvml_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu._nvml.cache_clear()
    yield
    gpu._nvml.cache_clear()


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    """Put an NVML in place of the real one."""

    def install(answers: dict[str, Any], cards: int = 1) -> FakeNvml:
        fake = FakeNvml(dict(answers), cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Take pynvml away, and put an nvidia-smi in place that knows the columns given, each with one value a card."""

    def install(columns: dict[str, list[str]]) -> None:
        def run(command: list[str], **options: Any) -> Any:
            assert command[0] == "nvidia-smi"
            wanted = command[1].removeprefix("--query-gpu=").split(",")
            if not set(wanted) <= set(columns):
                raise subprocess.CalledProcessError(2, command)
            rows = zip(*(columns[name] for name in wanted), strict=True)
            return SimpleNamespace(stdout="".join(", ".join(row) + "\n" for row in rows))

        monkeypatch.setitem(sys.modules, "pynvml", None)
        monkeypatch.setattr(subprocess, "run", run)

    return install


def test_every_fact_of_a_card(nvml: Callable[..., FakeNvml]) -> None:
    nvml(ANSWERS)
    assert gpu.cards() == [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "driver": "580.65.06",
            "total_bytes": 80 * 2**30,
            "free_bytes": 79 * 2**30,
            "cuda_driver": "12.8",
            "compute_capability": "9.0",
            "sm_clock_mhz": 1755,
            "memory_clock_mhz": 2619,
            "max_sm_clock_mhz": 1980,
            "max_memory_clock_mhz": 2620,
            "temperature_celsius": 61,
            "power_watts": 412.345,
            "power_cap_watts": 600.0,
            "default_power_cap_watts": 700.0,
            "throttle_reasons": ["gpu_idle", "sw_power_cap"],
            "is_persistent": True,
            "is_mig": False,
            "other_processes": 0,
        }
    ]


def test_what_a_card_does_not_support_is_none_and_its_memory_the_hosts(nvml: Callable[..., FakeNvml]) -> None:
    import psutil

    nvml({"nvmlDeviceGetName": "NVIDIA Thor"})
    (card,) = gpu.cards()
    assert card["total_bytes"] == psutil.virtual_memory().total
    told = {"name", "total_bytes", "free_bytes"}
    assert {name for name, value in card.items() if value is not None} == told
    assert gpu.state() == gpu.State()


def test_a_pynvml_that_lacks_a_function_is_no_error(nvml: Callable[..., FakeNvml], monkeypatch: Any) -> None:
    fake = nvml(ANSWERS)
    answer = FakeNvml.__getattr__

    def lacking(self: FakeNvml, name: str) -> Any:
        if name in ("nvmlDeviceGetMigMode", "nvmlDeviceGetCurrentClocksEventReasons"):
            raise AttributeError(name)
        return answer(self, name)

    monkeypatch.setattr(FakeNvml, "__getattr__", lacking)
    fake.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x40
    (card,) = gpu.cards()
    assert card["is_mig"] is None
    assert card["throttle_reasons"] == ["hw_thermal_slowdown"]


def test_a_lost_card_is_left_out(nvml: Callable[..., FakeNvml]) -> None:
    nvml(ANSWERS | {"nvmlDeviceGetMemoryInfo": NVMLError})
    assert gpu.cards() == []


def test_no_driver_no_cards(nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(ANSWERS | {"no driver": True})
    monkeypatch.setenv("PATH", "")
    assert gpu.cards() == []
    assert gpu.state() is None


def test_nvml_is_opened_once(nvml: Callable[..., FakeNvml]) -> None:
    """Opening it takes milliseconds, and a snapshot is taken before and after each turn."""
    fake = nvml(ANSWERS)
    for _ in range(3):
        gpu.cards()
        gpu.state()
    assert fake.opened == 1


def test_a_state_is_that_of_the_first_visible_card(
    nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    heat = {"nvmlDeviceGetTemperature": lambda handle, sensor: 40 + int(handle[-1])}
    nvml(ANSWERS | heat, cards=4)
    state = gpu.state()
    assert state is not None
    assert state.temperature_celsius == 42
    assert (state.power_throttled_ns, state.thermal_throttled_ns) == (5, 7)
    assert [card["temperature_celsius"] for card in gpu.cards()] == [42, 40]


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
        ("MIG-slice", ["the slice"]),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices(
    nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch, asked: str, expected: list[Any]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    slices = {"nvmlDeviceGetHandleByUUID": lambda name: {"MIG-slice": "the slice"}[name]}
    fake = nvml(ANSWERS | slices, cards=4)
    wanted = [f"handle {at}" if isinstance(at, int) else at for at in expected]
    assert gpu._handles(fake) == wanted


def test_reasons_have_names() -> None:
    assert gpu.reasons_of(0) == ()
    assert gpu.reasons_of(0x8 | 0x80) == ("hw_slowdown", "hw_power_brake_slowdown")
    assert len(gpu.reasons_of(0x7FF)) == 11


def processes(root: Path, parents: dict[int, int]) -> Path:
    """A /proc that shows these processes and who started them."""
    for pid, parent in parents.items():
        (root / f"proc/{pid}").mkdir(parents=True)
        (root / f"proc/{pid}/stat").write_text(f"{pid} (a ) name) S {parent} 1 1")
    return root


@pytest.mark.parametrize(
    ("listed", "own_pids", "expected", "why"),
    [
        (None, [], None, "the card does not tell"),
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
    tmp_path: Path, listed: list[int] | None, own_pids: list[int], expected: int | None, why: str
) -> None:
    me = os.getpid()
    assert me not in (700, 701, 702, 900, 901)
    root = processes(tmp_path, {1: 0, 900: 1, 901: 1, 700: me, 701: 700, 702: me, me: 1})
    assert gpu.other_processes(listed, own_pids, root) == expected, why


def test_processes_reach_the_facts(nvml: Callable[..., FakeNvml], tmp_path: Path) -> None:
    root = processes(tmp_path, {1: 0, 900: 1})
    nvml(ANSWERS | {"nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=900)]})
    state = gpu.state(root=root)
    assert state is not None
    assert state.other_processes == 1


@pytest.mark.parametrize(
    ("listed", "held"),
    [
        ([SimpleNamespace(pid=7, usedGpuMemory=3), SimpleNamespace(pid=900, usedGpuMemory=5)], 5),
        ([SimpleNamespace(pid=900, usedGpuMemory=None)], None),  # some drivers tell no figure
        ([SimpleNamespace(pid=7, usedGpuMemory=3)], None),  # the host's process ids, in a container
        ([], None),
    ],
)
def test_what_a_process_holds_is_its_own_figure_or_none(
    listed: list[Any], held: int | None, nvml: Callable[..., FakeNvml]
) -> None:
    nvml(ANSWERS | {"nvmlDeviceGetComputeRunningProcesses": listed})
    assert gpu.process_bytes(900) == held


def test_what_a_process_holds_is_not_known_where_the_driver_lists_none(nvml: Callable[..., FakeNvml]) -> None:
    nvml({name: answer for name, answer in ANSWERS.items() if name != "nvmlDeviceGetComputeRunningProcesses"})
    assert gpu.process_bytes(900) is None


FULL = {
    "uuid": ["GPU-a", "GPU-b"],
    "name": ["Tesla T4", "Tesla T4"],
    "driver_version": ["535.1", "535.1"],
    "memory.total": ["15360", "15360"],
    "memory.free": ["15000", "14000"],
    "compute_cap": ["7.5", "7.5"],
    "clocks.sm": ["300", "[N/A]"],
    "clocks.mem": ["405", "405"],
    "clocks.max.sm": ["1590", "1590"],
    "clocks.max.mem": ["5001", "5001"],
    "temperature.gpu": ["38", "39"],
    "power.draw": ["9.55", "[Not Supported]"],
    "power.limit": ["70.00", "70.00"],
    "power.default_limit": ["70.00", "70.00"],
    "clocks_throttle_reasons.active": ["0x0000000000000021", "0x0000000000000000"],
    "persistence_mode": ["Enabled", "Disabled"],
    "mig.mode.current": ["[N/A]", "[N/A]"],
}


def test_nvidia_smi_tells_where_pynvml_is_missing(smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    smi(FULL)
    one, two = gpu.cards()
    assert one == {
        "name": "Tesla T4",
        "driver": "535.1",
        "total_bytes": 15360 * 2**20,
        "free_bytes": 15000 * 2**20,
        "cuda_driver": None,
        "compute_capability": "7.5",
        "sm_clock_mhz": 300,
        "memory_clock_mhz": 405,
        "max_sm_clock_mhz": 1590,
        "max_memory_clock_mhz": 5001,
        "temperature_celsius": 38,
        "power_watts": 9.55,
        "power_cap_watts": 70.0,
        "default_power_cap_watts": 70.0,
        "throttle_reasons": ["gpu_idle", "sw_thermal_slowdown"],
        "is_persistent": True,
        "is_mig": None,
        "other_processes": None,
    }
    assert (two["sm_clock_mhz"], two["power_watts"], two["is_persistent"]) == (None, None, False)
    assert gpu.state() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    assert gpu.cards() == [two]


def test_an_old_nvidia_smi_still_tells_name_and_memory(smi: Callable[..., None]) -> None:
    smi({name: FULL[name] for name in gpu.COLUMNS})
    assert [(card["name"], card["free_bytes"], card["power_watts"]) for card in gpu.cards()] == [
        ("Tesla T4", 15000 * 2**20, None),
        ("Tesla T4", 14000 * 2**20, None),
    ]


def test_both_ways_give_the_same_facts(nvml: Callable[..., FakeNvml], smi: Callable[..., None]) -> None:
    nvml(ANSWERS)
    (by_nvml,) = gpu.cards()
    gpu._nvml.cache_clear()
    smi(FULL)
    assert list(gpu.cards()[0]) == list(by_nvml)
