"""The machine's limits: what is kept and merged, what a lost worker or a full disk does, and how readings are taken."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import machine
from bench.errors import BenchError
from bench.machine import readings
from bench.machine.host import CpuSeconds
from bench.machine.readings import Effort, Reading
from bench.machine.roofline import Peaks
from bench.process import channel, peaks

SMALL = Effort(seconds=0.02, sides=(16, 32), buffers_bytes=(2**14, 2**16))
SCRIPTED = Effort(1.2, (64, 128, 4096), (2**20,))
SOME = Peaks("cpu", 2, {"fp32": 100.0, "bf16": 200.0}, ((2**20, 90.0), (2**26, 40.0)), "2026-01-01T00:00:00+00:00", {})

rates = st.floats(min_value=1, max_value=1e16)
figures = st.dictionaries(st.sampled_from(["fp32", "fp16", "bf16", "int8"]), rates)
bandwidths = st.dictionaries(st.integers(1, 2**33), rates, max_size=6).map(lambda found: tuple(sorted(found.items())))


@st.composite
def measurements(draw: st.DrawFn) -> Peaks:
    found = Peaks("cpu", 2, draw(figures), draw(bandwidths), "2026-01-01T00:00:00+00:00")
    names = draw(st.sets(st.sampled_from(sorted(found.figures)))) if found.figures else set()
    reasons = {one: "no product" for one in ("fp16", "int8") if one not in found.flops_per_second}
    return Peaks(**{**vars(found), "unmeasured": reasons, "disturbed": dict.fromkeys(names, 0.3)})


class FakeProcess:
    """Stands for the process that measures; answers with `replies` in turn and notes what it was asked for."""

    def __init__(self, *replies: Peaks | channel.WorkerError) -> None:
        self.replies, self.asked, self.kill = list(replies), list[list[str]](), mock.Mock()

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        self.asked.append([*message["precisions"], *(["memory"] if message["buffers_bytes"] else [])])
        reply = self.replies.pop(0)
        if isinstance(reply, channel.WorkerError):
            raise reply
        return reply.to_json()


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`peaks.measure` into an empty folder with a process that answers what the test says; returns what was said."""

    def run(*replies: Peaks | channel.WorkerError, wanted: tuple[str, ...] = ("fp32",), again: bool = False) -> Any:
        process, said = FakeProcess(*replies), []
        monkeypatch.setattr(peaks, "start", lambda threads: process)
        found = peaks.measure(tmp_path, "cpu", wanted, 2, 5, said.append, again=again)
        assert process.kill.call_count == len(process.asked)
        return SimpleNamespace(peaks=found, said=said, asked=process.asked)

    return run


def only_file(root: Path) -> Path:
    (path,) = (root / "machine").glob("peaks-*.json")
    return path


# What is kept.


@given(measurements(), measurements())
def test_merging_keeps_the_larger_of_every_figure_and_says_which_were_never_quiet(one: Peaks, other: Peaks) -> None:
    assert Peaks.from_json(json.loads(json.dumps(one.to_json()))) == one
    merged = one.merged(other)
    for figure in one.flops_per_second.keys() | other.flops_per_second.keys():
        both = [found.flops_per_second[figure] for found in (one, other) if figure in found.flops_per_second]
        assert merged.flops_per_second[figure] == max(both)
    for size, rate in merged.bandwidths:
        assert rate == max(dict(found.bandwidths).get(size, 0) for found in (one, other))
    assert merged.figures == one.figures | other.figures
    assert not merged.unmeasured.keys() & merged.flops_per_second.keys()
    assert merged == other.merged(one) == merged.merged(one) == merged.merged(other)
    for figure in merged.figures:
        was_quiet = any(figure in found.figures and figure not in found.disturbed for found in (one, other))
        assert (figure in merged.disturbed) == (not was_quiet)
    assert merged.disturbed.keys() <= merged.figures


def test_only_what_is_not_known_is_measured_and_fp32_always(tmp_path: Path, measure: Any) -> None:
    assert peaks.known(tmp_path, "cpu", 2) is None
    first = measure(SOME, wanted=("bf16",))
    assert first.peaks == SOME == peaks.known(tmp_path, "cpu", 2)
    assert first.asked == [["fp32", "bf16", "memory"]]
    assert first.said == ["measuring this machine's limits: fp32, bf16, memory on cpu with 2 threads"]
    second = measure(wanted=("fp32", "bf16"))
    assert (second.peaks, second.asked, second.said) == (SOME, [], [])
    assert json.loads(only_file(tmp_path).read_text())["machine"] == peaks.deciding("cpu", 2)
    assert {path.name for path in (tmp_path / "machine").iterdir()} - {only_file(tmp_path).name} <= {
        f".lock-{only_file(tmp_path).stem}"
    }
    int8 = Peaks("cpu", 2, {"int8": 400.0}, (), "2026-01-02T00:00:00+00:00")
    with_int8 = measure(int8, wanted=("fp32", "int8"))
    assert with_int8.asked == [["int8"]]
    assert with_int8.peaks.flops_per_second == {"fp32": 100.0, "bf16": 200.0, "int8": 400.0}
    assert with_int8.peaks.bandwidths == SOME.bandwidths
    fp16 = Peaks("cpu", 2, {}, (), "2026-01-03T00:00:00+00:00", {"fp16": "torch has no fp16 matrix product on cpu"})
    assert measure(fp16, wanted=("fp16",)).asked == [["fp16"]]
    assert measure(wanted=("fp16",)).asked == []  # tried, and the reason is kept
    assert measure(fp16, wanted=("fp16",), again=True).asked == [["fp32", "fp16", "memory"]]


def test_a_disturbed_measurement_lowers_nothing_and_is_measured_again_the_next_time(measure: Any) -> None:
    noisy = Peaks(**{**vars(SOME), "disturbed": {"fp32": 0.42, "bf16": 0.42, "memory": 0.42}})
    assert "other work took 42% of the CPUs" in measure(noisy, wanted=("bf16",)).said[-1]
    second = measure(SOME, wanted=("bf16",))
    assert second.asked == [["fp32", "bf16", "memory"]]
    assert second.peaks.disturbed == {}
    assert measure(wanted=("bf16",)).asked == []
    slower = Peaks("cpu", 2, {"fp32": 60.0}, ((2**20, 95.0), (2**26, 11.0)), "2026-01-02T00:00:00+00:00")
    merged = measure(slower, again=True).peaks
    assert merged.flops_per_second == SOME.flops_per_second
    assert merged.bandwidths == ((2**20, 95.0), (2**26, 40.0))
    assert merged.measured == slower.measured


def with_figure(name: str, figure: Any) -> str:
    return json.dumps({"peaks": SOME.to_json() | {name: figure}})


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"peaks": 3}', '{"peaks": {"device": "cpu"}}', "[" * 5000, "\x00\xff",
        *(with_figure("flops_per_second", {"fp32": one}) for one in (0, -1.0, float("nan"), float("inf"), "fast", None)),
        *(with_figure("bandwidths", [[2**20, one]]) for one in (0, -1.0, float("nan"), float("inf"), "fast", None)),
    ],
    ids=range(20),
)  # fmt: skip
def test_a_damaged_file_is_said_and_measured_again(tmp_path: Path, measure: Any, content: str) -> None:
    measure(SOME, wanted=("bf16",))
    only_file(tmp_path).write_text(content, encoding="latin-1")
    assert peaks.known(tmp_path, "cpu", 2) is None
    again = measure(SOME, wanted=("bf16",))
    assert again.asked == [["fp32", "bf16", "memory"]]
    assert f"{only_file(tmp_path).name} is damaged" in again.said[0]
    assert "\n" not in again.said[0]
    assert peaks.known(tmp_path, "cpu", 2) == SOME


def test_another_machine_is_not_known(tmp_path: Path, measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(SOME)
    assert peaks.known(tmp_path, "cpu", 1) is None
    assert peaks.known(tmp_path, "cuda", 2) is None
    for module, name, answer in (
        (machine, "cpu_name", lambda: "another"),
        (machine, "usable_cpus", lambda: 999),
        (machine, "gpus", lambda: [{"name": "NVIDIA Abacus"}]),
        (peaks.platform, "machine", lambda: "s390x"),
        (peaks, "distribution_version", lambda module: "0.0"),
        (peaks, "VERSION", 0),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, answer)
            assert peaks.known(tmp_path, "cpu", 2) is None, name
    assert peaks.known(tmp_path, "cpu", 2) == SOME


# What goes wrong.


def refused(threads: int) -> channel.Worker:
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def ending(code: str) -> Callable[[int], channel.Worker]:
    code = f"import sys, os; print('the last words', file=sys.stderr, flush=True); {code}"
    return lambda threads: channel.Worker([sys.executable, "-c", code], 1)


@pytest.mark.parametrize(
    ("start", "timeout_seconds", "said"),
    [
        (ending("sys.exit(3)"), 60, r"could not be measured .*the last words.*run the command again"),
        (ending("os.kill(os.getpid(), 9)"), 60, r"could not be measured .*the last words.*run the command again"),
        (ending("input(); input()"), 0.5, "no answer within"),
        (lambda threads: FakeProcess(channel.WorkerError("failed", "no GPU here")), 5, "no GPU here"),
        (refused, 5, r"did not start .*Resource temporarily unavailable"),
    ],
    ids=["exit", "kill", "silence", "error", "start"],
)
def test_a_lost_worker_is_one_line_and_leaves_what_was_known(
    tmp_path: Path, measure: Any, monkeypatch: pytest.MonkeyPatch, start: Any, timeout_seconds: float, said: str
) -> None:
    measure(SOME)
    monkeypatch.setattr(peaks, "start", start)
    with pytest.raises(BenchError, match=said) as caught:
        peaks.measure(tmp_path, "cpu", ("fp32",), 2, timeout_seconds, lambda line: None, again=True)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert peaks.known(tmp_path, "cpu", 2) == SOME


def test_what_cannot_be_kept_is_one_line_and_leaves_what_was_known(
    tmp_path: Path, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "machine").write_text("a file")
    with pytest.raises(BenchError, match="cannot be kept"):
        measure(SOME)
    (tmp_path / "machine").unlink()
    measure(SOME)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BenchError, match=r"cannot be kept in .*No space left on device.*free some space") as caught:
            measure(SOME, again=True)
    assert "\n" not in str(caught.value)
    assert peaks.known(tmp_path, "cpu", 2) == SOME
    assert not [path for path in (tmp_path / "machine").iterdir() if f"-{os.getpid()}" in path.name]


# What the figures mean.


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        (((10, 100.0), (100, 50.0), (1000, 20.0)), {1: 100, 10: 100, 99: 100, 100: 50, 999: 50, 1000: 20, 10**9: 20}),
        # A small buffer that read slower than a larger one was mostly its call.
        (((10, 70.0), (100, 90.0), (1000, 20.0)), {1: 90, 10: 90, 100: 90, 1000: 20}),
        ((), {10: None}),
    ],
)
def test_the_bandwidth_is_that_of_the_largest_buffer_that_is_not_larger(table: Any, wanted: dict[int, Any]) -> None:
    found = Peaks("cpu", 2, {}, table)
    assert {size: found.bandwidth(size) for size in wanted} == wanted


@given(bandwidths.filter(bool), st.integers(1, 2**34), st.integers(0, 2**34))
def test_more_weights_are_never_read_faster(table: tuple, weight_bytes: int, more: int) -> None:
    found = Peaks("cpu", 2, {}, table)
    rate = found.bandwidth(weight_bytes)
    assert rate >= found.bandwidth(weight_bytes + more)
    not_larger = [rate for size, rate in table if size <= weight_bytes] or [table[0][1]]
    assert rate >= not_larger[-1]


def test_a_narrow_precision_may_be_computed_in_a_wider_one() -> None:
    found = Peaks("cpu", 2, {"fp32": 226.0, "fp16": 30.0, "bf16": 440.0}, disturbed={"bf16": 0.3})
    bounds = {"fp32": 226, "fp16": 226, "bf16": 440, "int8": None}
    assert {one: found.flops_bound(one) for one in bounds} == bounds
    assert Peaks("cpu", 2, {"bf16": 440.0}).flops_bound("bf16") is None
    assert [found.is_disturbed(one) for one in ("fp32", "bf16", "int8")] == [False, True, False]
    assert Peaks("cpu", 2, {"int8": 1.0}, disturbed={"fp32": 0.3}).is_disturbed("int8")
    assert Peaks("cpu", 2, {"fp32": 1.0}, disturbed={"memory": 0.3}).is_disturbed("fp32")


# How readings are taken, on a device whose calls take scripted time.


class FakeDevice:
    """Calls take `1 / rate` of their work in nanoseconds, times `slowdown(now)`."""

    def __init__(self, name: str = "cpu", rate: float = 1.0, slowdown: Any = lambda now: 1.0) -> None:
        self.name, self.threads, self.rate, self.slowdown = name, 2, rate, slowdown
        self.now_ns = self.queued_ns = 0.0
        self.synchronizes = 0
        self.threads_in_use: set[int] = set()

    def clock(self) -> int:
        return int(self.now_ns)

    def work(self, amount: float) -> None:
        took = amount / self.rate * self.slowdown(self.now_ns)
        if self.name == "cuda":
            self.queued_ns += took
        else:
            self.now_ns += took

    def synchronize(self) -> None:
        self.synchronizes += 1
        self.now_ns += self.queued_ns + (20_000 if self.name == "cuda" else 0)
        self.queued_ns = 0

    def prepare(self, reading: Reading) -> None:
        self.threads_in_use.add(reading.threads)

    def ways(self, precision: str) -> tuple[str, ...]:
        return ("plain", "packed")

    def product(self, way: str, precision: str, side: int) -> Reading:
        if precision == "fp16":
            raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")
        if precision == "int8" and way == "packed":
            raise NotImplementedError("no packed int8")
        if precision == "bf16" and side > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return Reading(lambda: self.work(2 * side**3), 2 * side**3, self.threads)

    def reads(self, sizes: tuple[int, ...]) -> dict[int, list[Reading]]:
        return {
            size: [Reading(lambda size=size: self.work(size), size, threads) for threads in (2, 1)] for size in sizes
        }


def clock_of(*own: float) -> Callable[[], tuple[CpuSeconds, float]]:
    """24 CPU seconds from one reading to the next, 20 of them busy; `own` are this process's so far."""
    readings_ = iter([(CpuSeconds(20.0 * at, 4.0 * at, 0.0), spent) for at, spent in enumerate(own)])
    return lambda: next(readings_)


def taken(device: FakeDevice, *precisions: str, effort: Effort = SCRIPTED, own: float = 20.0) -> dict:
    return readings.measured(device, precisions, effort, device.clock, clock_of(0.0, own))


def test_a_figure_is_the_best_of_its_calls() -> None:
    """Other work slows nine tenths of the time tenfold; the rest gives the true rate."""
    device = FakeDevice(rate=8.0, slowdown=lambda now: 1.0 if now % 1e8 < 1e7 else 10.0)
    found = taken(device, "fp32")
    assert found["flops_per_second"]["fp32"] == pytest.approx(8e9, rel=1e-3)
    assert found["bandwidths"] == [[2**20, pytest.approx(8e9, rel=1e-3)]]
    assert device.threads_in_use == {1, 2}


def test_every_figure_is_visited_in_turn() -> None:
    order: list[str] = []
    device = FakeDevice()
    shares = [(Reading(lambda name=name: (order.append(name), device.work(1e6)), 1, 2), 0.012) for name in "abc"]
    readings.take(shares, device, device.clock)
    assert "".join(order) == "abc" * readings.VISITS


@pytest.mark.parametrize(("rate", "expected"), [(1.0, [64, 128]), (1e6, [64, 128, 4096])])
def test_a_matrix_that_would_take_too_long_is_left_out(rate: float, expected: list[int]) -> None:
    device = FakeDevice(rate=rate)
    found = readings.products(device, "plain", "fp32", Effort(1.2, (4096, 64, 128), ()), device.clock)
    assert [reading.work for reading in found] == [2 * side**3 for side in expected]


def test_a_precision_that_torch_lacks_is_left_out_and_memory_that_runs_out_ends_the_sides_or_is_an_error() -> None:
    found = taken(FakeDevice(), "fp32", "fp16", "int8", "bf16")
    assert set(found["flops_per_second"]) == {"fp32", "int8", "bf16"}  # one way of multiplying is enough
    assert found["unmeasured"] == {
        "fp16": "torch has no fp16 matrix product on cpu: RuntimeError: \"addmm_impl_cpu_\" not implemented for 'Half'"
    }
    assert found["flops_per_second"]["bf16"] == pytest.approx(1e9, rel=1e-3)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        taken(FakeDevice(), "bf16", effort=Effort(1.2, (128,), ()))


def test_on_cuda_short_calls_are_timed_many_at_once_until_the_device_is_done() -> None:
    """Waiting for the device costs 20 us, four times what a call takes; timed singly the rate would be a fifth."""
    device = FakeDevice("cuda", rate=1e3)
    found = taken(device, "fp32", effort=Effort(1.2, (128,), ()))
    assert device.synchronizes > readings.VISITS
    assert found["flops_per_second"]["fp32"] == pytest.approx(1e12, rel=0.02)


@pytest.mark.parametrize(
    ("name", "own", "disturbed"),
    [
        ("cpu", 20.0, {}),
        ("cpu", 21.0, {}),  # ticks err both ways
        ("cpu", 10.0, {"fp32": 0.417, "memory": 0.417}),
        ("cuda", 10.0, {}),
    ],
)
def test_figures_are_disturbed_where_other_work_took_part_of_the_cpus(name: str, own: float, disturbed: dict) -> None:
    found = taken(FakeDevice(name), "fp32", "fp16", effort=Effort(0.01, (8,), (64,)), own=own)
    assert found["disturbed"] == disturbed


def test_a_gpu_is_measured_without_tf32_where_it_is_not_tf32s_rate_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "torch", torch)
    device, processor = readings.Device("cuda", 2), readings.Device("cpu", 2)
    for reading, asked in ((Reading(int, 1, 2, tf32=True), "high"), (Reading(int, 1, 2), "highest")):
        device.prepare(reading)
        torch.set_num_threads.assert_called_with(2)
        torch.set_float32_matmul_precision.assert_called_with(asked)
    assert torch.backends.cuda.matmul.allow_fp16_accumulation is True
    processor.synchronize()
    torch.cuda.synchronize.assert_not_called()
    device.synchronize()
    torch.cuda.synchronize.assert_called_once()
    assert device.ways("fp32") == processor.ways("int8") == ("plain",)
    assert processor.ways("fp32") == ("plain", "packed")
    torch.cuda.is_available.return_value = False
    request = {"device": "cuda", "threads": 2, "precisions": ["fp32"], "seconds": 1, "sides": [8], "buffers_bytes": []}
    reason = "RuntimeError: torch cannot use a GPU here"
    assert peaks.answer(request) == {"error": {"status": "failed", "reason": reason}}


def test_a_real_measurement(tmp_path: Path) -> None:
    said: list[str] = []
    found = peaks.measure(tmp_path, "cpu", ("bf16", "int8", "tf32"), 1, 120, said.append, effort=SMALL)
    assert found == peaks.known(tmp_path, "cpu", 1)
    for precision in ("fp32", "bf16", "int8", "tf32"):
        assert precision in found.flops_per_second or "torch has no" in found.unmeasured[precision]
    assert found.flops_per_second["fp32"] > 1e6
    assert [size for size, _ in found.bandwidths] == list(SMALL.buffers_bytes)
    assert all(rate > 1e6 for _, rate in found.bandwidths)
    assert found.measured
    assert said[0] == "measuring this machine's limits: fp32, bf16, int8, tf32, memory on cpu with 1 thread"


def test_tf32s_rate_is_of_fp32_matrices_under_torchs_switch() -> None:
    device = readings.Device("cpu", 1)
    is_tf32 = {name: device.product("plain", name, 8).tf32 for name in ("fp32", "tf32", "bf16")}
    assert is_tf32 == {"fp32": False, "tf32": True, "bf16": False}
