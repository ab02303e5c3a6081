"""The machine's limits: what is kept and merged, what a lost worker or a full disk does, and how readings are taken."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import machine
from bench.errors import BenchError
from bench.machine import readings
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
    """Stands for the process that measures; answers with `replies` in turn and notes what it was started for."""

    def __init__(self, *replies: Peaks | channel.WorkerError) -> None:
        self.replies = list(replies)
        self.started: list[list[str]] = []
        self.kills = 0

    def start(self, device: str, wanted: list[str], threads: int, effort: Effort) -> FakeProcess:
        self.started.append(list(wanted))
        return self

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        reply = self.replies.pop(0)
        if isinstance(reply, channel.WorkerError):
            raise reply
        return reply.to_json()

    def kill(self) -> None:
        self.kills += 1


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`peaks.measure` into an empty folder with a process that answers what the test says; returns what was said."""

    def run(*replies: Peaks | channel.WorkerError, wanted: tuple[str, ...] = ("fp32",), again: bool = False) -> Any:
        process, said = FakeProcess(*replies), []
        monkeypatch.setattr(peaks, "start", process.start)
        found = peaks.measure(tmp_path, "cpu", wanted, 2, 5, said.append, again=again)
        assert process.kills == len(process.started)
        return SimpleNamespace(peaks=found, said=said, started=process.started)

    return run


def only_file(root: Path) -> Path:
    (path,) = (root / "machine").glob("peaks-*.json")
    return path


# What is kept.


@given(measurements())
def test_json_and_back_is_the_same(found: Peaks) -> None:
    assert Peaks.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(measurements(), measurements())
def test_merging_keeps_the_larger_of_every_figure(one: Peaks, other: Peaks) -> None:
    merged = one.merged(other)
    for figure in one.flops_per_second.keys() | other.flops_per_second.keys():
        both = [found.flops_per_second[figure] for found in (one, other) if figure in found.flops_per_second]
        assert merged.flops_per_second[figure] == max(both)
    for size, rate in merged.bandwidths:
        assert rate == max(dict(found.bandwidths).get(size, 0) for found in (one, other))
    assert merged.figures == one.figures | other.figures
    assert not merged.unmeasured.keys() & merged.flops_per_second.keys()
    assert merged == other.merged(one) == merged.merged(one) == merged.merged(other)


@given(measurements(), measurements())
def test_a_figure_stays_disturbed_only_while_no_quiet_measurement_has_it(one: Peaks, other: Peaks) -> None:
    merged = one.merged(other)
    for figure in merged.figures:
        was_quiet = any(figure in found.figures and figure not in found.disturbed for found in (one, other))
        assert (figure in merged.disturbed) == (not was_quiet)
    assert merged.disturbed.keys() <= merged.figures


def test_measuring_keeps_its_figures_and_does_not_measure_again(tmp_path: Path, measure: Any) -> None:
    assert peaks.known(tmp_path, "cpu", 2) is None
    first = measure(SOME, wanted=("fp32", "bf16"))
    assert first.peaks == SOME == peaks.known(tmp_path, "cpu", 2)
    assert first.started == [["fp32", "bf16", "memory"]]
    assert first.said == ["measuring this machine's limits: fp32, bf16, memory on cpu with 2 threads"]
    second = measure(wanted=("fp32", "bf16"))
    assert (second.peaks, second.started, second.said) == (SOME, [], [])
    assert json.loads(only_file(tmp_path).read_text())["machine"] == peaks.deciding("cpu", 2)
    assert [path.name for path in (tmp_path / "machine").iterdir() if path.suffix != ".json"] in (
        [], [f".lock-{only_file(tmp_path).stem}"],
    )  # fmt: skip


def test_only_what_is_not_known_is_measured_and_fp32_always(measure: Any) -> None:
    int8 = Peaks("cpu", 2, {"int8": 400.0}, (), "2026-01-02T00:00:00+00:00")
    fp16 = Peaks("cpu", 2, {}, (), "2026-01-03T00:00:00+00:00", {"fp16": "torch has no fp16 matrix product on cpu"})
    assert measure(SOME, wanted=("bf16",)).started == [["fp32", "bf16", "memory"]]
    with_int8 = measure(int8, wanted=("fp32", "int8"))
    assert with_int8.started == [["int8"]]
    assert with_int8.peaks.flops_per_second == {"fp32": 100.0, "bf16": 200.0, "int8": 400.0}
    assert with_int8.peaks.bandwidths == SOME.bandwidths
    assert measure(fp16, wanted=("fp16",)).started == [["fp16"]]
    assert measure(wanted=("fp16",)).started == []  # tried, and the reason is kept
    assert measure(fp16, wanted=("fp16",), again=True).started == [["fp32", "fp16", "memory"]]


def test_a_disturbed_measurement_lowers_nothing(measure: Any) -> None:
    measure(SOME)
    slower = Peaks("cpu", 2, {"fp32": 60.0}, ((2**20, 95.0), (2**26, 11.0)), "2026-01-02T00:00:00+00:00")
    merged = measure(slower, again=True).peaks
    assert merged.flops_per_second == SOME.flops_per_second
    assert merged.bandwidths == ((2**20, 95.0), (2**26, 40.0))
    assert merged.measured == slower.measured


def test_a_disturbed_figure_is_said_and_measured_again_the_next_time(measure: Any) -> None:
    noisy = Peaks(**{**vars(SOME), "disturbed": {"fp32": 0.42, "bf16": 0.42, "memory": 0.42}})
    first = measure(noisy, wanted=("bf16",))
    assert "other work took 42% of the CPUs" in first.said[-1]
    second = measure(SOME, wanted=("bf16",))
    assert second.started == [["fp32", "bf16", "memory"]]
    assert second.peaks.disturbed == {}
    assert measure(wanted=("bf16",)).started == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"peaks": 3}', '{"peaks": {"device": "cpu"}}', "[" * 5000, "\x00\xff"],
    ids=["empty", "half", "list", "null", "number", "parts missing", "deep", "bytes"],
)
def test_a_damaged_file_is_said_and_measured_again(tmp_path: Path, measure: Any, content: str) -> None:
    measure(SOME, wanted=("bf16",))
    only_file(tmp_path).write_text(content, encoding="latin-1")
    assert peaks.known(tmp_path, "cpu", 2) is None
    again = measure(SOME, wanted=("bf16",))
    assert again.started == [["fp32", "bf16", "memory"]]
    assert f"{only_file(tmp_path).name} is damaged" in again.said[0]
    assert "\n" not in again.said[0]
    assert peaks.known(tmp_path, "cpu", 2) == SOME


@pytest.mark.parametrize("figure", [0, -1.0, float("nan"), float("inf"), "fast", None])
def test_a_figure_that_is_no_rate_is_damage(tmp_path: Path, measure: Any, figure: Any) -> None:
    measure(SOME)
    data = json.loads(only_file(tmp_path).read_text())
    for place in (("flops_per_second", "fp32"), ("bandwidths", 0)):
        altered = json.loads(json.dumps(data))
        altered["peaks"][place[0]][place[1]] = figure if place[1] == "fp32" else [2**20, figure]
        only_file(tmp_path).write_text(json.dumps(altered))
        assert peaks.known(tmp_path, "cpu", 2) is None


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


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_lost_worker_is_one_line_and_leaves_what_was_known(
    tmp_path: Path, measure: Any, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    measure(SOME)
    command = [sys.executable, "-c", f"import sys; print('the last words', file=sys.stderr); {code}"]
    monkeypatch.setattr(peaks, "start", lambda *arguments: channel.Worker(command, 1))
    with pytest.raises(
        BenchError, match=r"limits could not be measured .*the last words.*run the command again"
    ) as caught:
        peaks.measure(tmp_path, "cpu", ("fp32",), 2, 60, lambda line: None, again=True)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert peaks.known(tmp_path, "cpu", 2) == SOME


def test_silence_and_an_error_reply_are_one_line(tmp_path: Path, measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="torch cannot use a GPU here"):
        measure(channel.WorkerError("failed", "RuntimeError: torch cannot use a GPU here"))
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(peaks, "start", lambda *arguments: channel.Worker(command, 1))
    with pytest.raises(BenchError, match="no answer within"):
        peaks.measure(tmp_path, "cpu", ("fp32",), 2, 0.2, lambda line: None)


def test_a_process_that_cannot_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(peaks, "start", start)
    with pytest.raises(BenchError, match=r"did not start .*Resource temporarily unavailable"):
        peaks.measure(tmp_path, "cpu", ("fp32",), 2, 5, lambda line: None)


def test_a_full_disk_is_one_line_and_leaves_what_was_known(
    tmp_path: Path, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(SOME)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BenchError, match=r"cannot be kept in .*No space left on device.*free some space") as caught:
            measure(SOME, again=True)
    assert "\n" not in str(caught.value)
    assert peaks.known(tmp_path, "cpu", 2) == SOME
    assert not [path for path in (tmp_path / "machine").iterdir() if f"-{os.getpid()}" in path.name]


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path, measure: Any) -> None:
    (tmp_path / "machine").write_text("")
    with pytest.raises(BenchError, match="cannot be kept"):
        measure(SOME)


# What the figures mean.


def test_the_bandwidth_is_that_of_the_largest_buffer_that_is_not_larger() -> None:
    found = Peaks("cpu", 2, {}, ((10, 100.0), (100, 50.0), (1000, 20.0)))
    assert [found.bandwidth(size) for size in (1, 10, 99, 100, 999, 1000, 10**9)] == [100, 100, 100, 50, 50, 20, 20]
    assert Peaks("cpu", 2).bandwidth(10) is None


def test_a_small_buffer_that_read_slower_than_a_larger_one_was_mostly_its_call() -> None:
    found = Peaks("cpu", 2, {}, ((10, 70.0), (100, 90.0), (1000, 20.0)))
    assert [found.bandwidth(size) for size in (1, 10, 100, 1000)] == [90, 90, 90, 20]


@given(bandwidths.filter(bool), st.integers(1, 2**34), st.integers(0, 2**34))
def test_more_weights_are_never_read_faster(table: tuple, weight_bytes: int, more: int) -> None:
    found = Peaks("cpu", 2, {}, table)
    rate = found.bandwidth(weight_bytes)
    assert rate >= found.bandwidth(weight_bytes + more)
    not_larger = [rate for size, rate in table if size <= weight_bytes] or [table[0][1]]
    assert rate >= not_larger[-1]


def test_a_narrow_precision_may_be_computed_in_a_wider_one() -> None:
    found = Peaks("cpu", 2, {"fp32": 226.0, "fp16": 30.0, "bf16": 440.0})
    assert found.flops_bound("fp32") == 226
    assert found.flops_bound("fp16") == 226
    assert found.flops_bound("bf16") == 440
    assert found.flops_bound("int8") is None
    assert Peaks("cpu", 2, {"bf16": 440.0}).flops_bound("bf16") is None


def test_a_cell_is_bounded_by_disturbed_figures_where_one_of_its_own_is() -> None:
    noisy = Peaks("cpu", 2, {"fp32": 1.0, "bf16": 1.0, "int8": 1.0}, disturbed={"bf16": 0.3})
    assert [noisy.is_disturbed(one) for one in ("fp32", "bf16", "int8")] == [False, True, False]
    assert Peaks("cpu", 2, {"int8": 1.0}, disturbed={"fp32": 0.3}).is_disturbed("int8")
    assert Peaks("cpu", 2, {"fp32": 1.0}, disturbed={"memory": 0.3}).is_disturbed("fp32")


# How readings are taken, on a device whose calls take scripted time.


class FakeDevice:
    """Calls take `1 / rate` of their work in nanoseconds, times `slowdown(now)`."""

    def __init__(self, name: str = "cpu", rate: float = 1.0, slowdown: Any = lambda now: 1.0) -> None:
        self.name, self.threads, self.rate, self.slowdown = name, 2, rate, slowdown
        self.now_ns = 0.0
        self.queued_ns = 0.0
        self.synchronizes = 0
        self.threads_in_use: list[int] = []

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
        self.threads_in_use.append(reading.threads)

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


def quiet() -> tuple[float, float, float]:
    return 0.0, 0.0, 0.0


def taken(device: FakeDevice, *precisions: str, effort: Effort = SCRIPTED) -> dict:
    return readings.measured(device, precisions, effort, device.clock, quiet)


def test_a_figure_is_the_best_of_its_calls() -> None:
    """Other work slows nine tenths of the time tenfold; the rest gives the true rate."""
    device = FakeDevice(rate=8.0, slowdown=lambda now: 1.0 if now % 1e8 < 1e7 else 10.0)
    found = taken(device, "fp32")
    assert found["flops_per_second"]["fp32"] == pytest.approx(8e9, rel=1e-3)
    assert found["bandwidths"] == [[2**20, pytest.approx(8e9, rel=1e-3)]]
    assert set(device.threads_in_use) == {1, 2}


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


def test_a_precision_that_torch_lacks_is_left_out_with_the_reason() -> None:
    found = taken(FakeDevice(), "fp32", "fp16", "int8")
    assert set(found["flops_per_second"]) == {"fp32", "int8"}  # one way of multiplying is enough
    assert found["unmeasured"] == {
        "fp16": "torch has no fp16 matrix product on cpu: RuntimeError: \"addmm_impl_cpu_\" not implemented for 'Half'"
    }


def test_memory_that_runs_out_ends_the_sides_or_is_an_error() -> None:
    assert taken(FakeDevice(), "bf16")["flops_per_second"]["bf16"] == pytest.approx(1e9, rel=1e-3)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        taken(FakeDevice(), "bf16", effort=Effort(1.2, (128,), ()))


def test_on_cuda_short_calls_are_timed_many_at_once_until_the_device_is_done() -> None:
    """Waiting for the device costs 20 us, four times what a call takes; timed singly the rate would be a fifth."""
    device = FakeDevice("cuda", rate=1e3)
    found = taken(device, "fp32", effort=Effort(1.2, (128,), ()))
    assert device.synchronizes > readings.VISITS
    assert found["flops_per_second"]["fp32"] == pytest.approx(1e12, rel=0.02)


def test_the_share_of_other_work() -> None:
    assert readings.others_share((100.0, 50.0, 1.0), (124.0, 70.0, 11.0)) == pytest.approx(10 / 24)
    assert readings.others_share((100.0, 50.0, 1.0), (124.0, 60.0, 12.0)) == 0
    assert readings.others_share((100.0, 50.0, 1.0), (100.0, 50.0, 1.0)) == 0


@pytest.mark.parametrize(("name", "own", "disturbed"), [
    ("cpu", 20.0, {}),
    ("cpu", 10.0, {"fp32": 0.417, "memory": 0.417}),
    ("cuda", 10.0, {}),
])  # fmt: skip
def test_figures_are_disturbed_where_other_work_took_part_of_the_cpus(name: str, own: float, disturbed: dict) -> None:
    device, answers = FakeDevice(name), iter([(0.0, 0.0, 0.0), (24.0, 20.0, own)])
    found = readings.measured(device, ("fp32", "fp16"), Effort(0.01, (8,), (64,)), device.clock, lambda: next(answers))
    assert found["disturbed"] == disturbed


def test_the_processors_seconds_are_those_of_the_usable_cpus() -> None:
    whole, busy, own = readings.cpu_seconds()
    assert own > 0
    assert 0 < busy <= whole


class FakeTorch(SimpleNamespace):
    """As much of torch as `readings.Device` asks for on a GPU."""

    def __init__(self, is_available: bool) -> None:
        self.log: list[Any] = []
        log = self.log.append
        super().__init__(
            cuda=SimpleNamespace(is_available=lambda: is_available, synchronize=lambda: log("synchronize")),
            backends=SimpleNamespace(
                cuda=SimpleNamespace(matmul=SimpleNamespace()), mkldnn=SimpleNamespace(is_available=lambda: True)
            ),
            set_grad_enabled=lambda enabled: log(("grad", enabled)),
            set_float32_matmul_precision=lambda precision: log(("fp32", precision)),
            set_num_threads=lambda threads: log(("threads", threads)),
        )


def test_a_gpu_is_measured_without_tf32_where_it_is_not_tf32s_rate_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = FakeTorch(is_available=True)
    monkeypatch.setitem(sys.modules, "torch", torch)
    device = readings.Device("cuda", 2)
    for reading, asked in ((Reading(int, 1, 2, tf32=True), "high"), (Reading(int, 1, 2), "highest")):
        device.prepare(reading)
        assert torch.log[-2:] == [("threads", 2), ("fp32", asked)]
    assert torch.backends.cuda.matmul.allow_fp16_accumulation is True
    assert device.ways("fp32") == ("plain",)
    device.synchronize()
    assert torch.log[-1] == "synchronize"
    processor = readings.Device("cpu", 2)
    processor.synchronize()
    assert torch.log.count("synchronize") == 1
    assert processor.ways("fp32") == ("plain", "packed")
    assert processor.ways("int8") == ("plain",)


def test_tf32s_rate_is_of_fp32_matrices_under_torchs_switch() -> None:
    device = readings.Device("cpu", 1)
    assert {name: device.product("plain", name, 8).tf32 for name in ("fp32", "tf32", "bf16")} == {
        "fp32": False, "tf32": True, "bf16": False,
    }  # fmt: skip


def test_a_gpu_that_torch_cannot_use_is_an_error_and_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(is_available=False))
    arguments = Namespace(device="cuda", threads=2, precisions="fp32", seconds=1.0, sides="8", buffers="")
    assert peaks.answer(arguments) == {
        "error": {"status": "failed", "reason": "RuntimeError: torch cannot use a GPU here"}
    }


# A real measurement, as small as it gets.


def test_a_real_measurement(tmp_path: Path) -> None:
    said: list[str] = []
    found = peaks.measure(tmp_path, "cpu", ("bf16", "int8"), 1, 120, said.append, effort=SMALL)
    assert found == peaks.known(tmp_path, "cpu", 1)
    for precision in ("fp32", "bf16", "int8"):
        assert precision in found.flops_per_second or "torch has no" in found.unmeasured[precision]
    assert found.flops_per_second["fp32"] > 1e6
    assert [size for size, _ in found.bandwidths] == list(SMALL.buffers_bytes)
    assert all(rate > 1e6 for _, rate in found.bandwidths)
    assert found.measured
    assert said[0] == "measuring this machine's limits: fp32, bf16, int8, memory on cpu with 1 thread"


def test_the_process_can_be_started_and_asked_by_hand(root: Path) -> None:
    command = [sys.executable, "-m", "bench.process.peaks", "--precisions", "fp32", "--seconds", "0.01", "--sides", "8"]
    process = subprocess.Popen(
        [*command, "--buffers", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, cwd=root,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('{"op": "measure"}\n')
        process.stdin.flush()
        found = Peaks.from_json(json.loads(process.stdout.readline())["ok"])
        process.stdin.close()
        assert process.wait(timeout=20) == 0
    assert found.figures == {"fp32"}
    assert found.bandwidths == ()


def test_measuring_loads_nothing_heavy_into_the_parent(root: Path) -> None:
    from bench.testing import HEAVY

    code = f"import sys, bench.process.peaks, bench.machine.roofline, bench.machine.operations; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
