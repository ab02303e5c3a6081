"""`bench doctor`: what is missing is named with its command, noise is never flattered, nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import backends
import exporters
from backends.base import Backend, Spec
from bench import doctor, machine
from bench.cli import app
from bench.doctor import Findings, Noise, Overhead, Twins, Unmeasured
from bench.errors import BenchError, UserError
from bench.machine import otherwork
from bench.machine.conditions import Disturbance
from bench.machine.roofline import Peaks
from bench.process import installed, peaks
from bench.process.installed import Lack, Part
from bench.report import doctor as page
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.spec import Shape
from bench.statistics import TIE_MARGIN, Interval, Ratio
from bench.testing import HEAVY
from bench.workloads.forward import Forward, ForwardOptions
from tests import made

MS = 1_000_000
BUSY = {"wall_seconds": 5.0, "cpu_seconds": 10.0, "other_cpu_seconds": 3.0}
FINGERPRINT = {
    "cpu": "A CPU", "cpus": 2, "memory_bytes": 8 * 2**30, "hypervisor": "KVM", "container": None, "python": "3.11.9",
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "busy_share": 0.0, "gpus": [],
}  # fmt: skip
PEAKS = Peaks("cpu", 2, {"fp32": 226e9, "bf16": 1.2e12}, ((2**20, 80e9), (2**28, 12.3e9)), "2026-01-01T00:00:00+00:00")


# Twins.


def twin_record(copy: int, rounds: list[float], batch: int = 1, **values: Any) -> Record:
    label = values.pop("label", "eager" if copy == 1 else f"eager@{copy}")
    return made.record(label, Shape(batch, 16), ms=[[ms] * 3 for ms in rounds], verdict="exact", **values)


def twins_run(*records: Record, **notes: Any) -> Run:
    return made.run_of(records, fingerprint=FINGERPRINT, notes={"parent_cpu_share": 0.004} | notes)


def alike(copy: int) -> list[float]:
    """Ten rounds about 1 ms, in which neither copy is the faster one."""
    return [1.0 + 0.004 * ((index + copy) % 2) for index in range(10)]


def test_two_copies_that_differ_by_noise_are_alike_and_else_a_false_verdict() -> None:
    found, reasons = doctor.twins_of(twins_run(twin_record(1, alike(1)), twin_record(2, alike(2))))
    noise = Noise("bert-tiny", found)
    assert (reasons, [twin.is_alike for twin in found], noise.false_verdicts) == ({}, [True], ())
    assert 0.003 < noise.floor < 0.01
    assert noise.least_difference == TIE_MARGIN
    assert found[0].disturbances == ()
    found, reasons = doctor.twins_of(twins_run(twin_record(1, alike(1)), twin_record(2, alike(2), conditions=BUSY)))
    assert (found, reasons) == ((), {"1×16": "disturbed: only 0 of 10 rounds were quiet, and 3 are needed"})
    found, _ = doctor.twins_of(twins_run(twin_record(1, alike(1)), twin_record(2, [1.1 * ms for ms in alike(1)])))
    noise = Noise("bert-tiny", found)
    assert [twin.ratio.verdict for twin in noise.false_verdicts] == ["slower"]
    assert noise.floor == noise.least_difference == pytest.approx(1 - 1 / 1.1, rel=0.01)


@pytest.mark.parametrize(
    ("value", "ends", "bound"),
    [(1.0, (0.98, 1.01), 0.02), (1.0, (0.99, 1.05), 0.05), (1.03, None, 0.03), (1.0, (0.8, 1.2), 0.2)],
)
def test_the_floor_is_the_largest_bound_of_any_shape_on_either_side_of_one(
    value: float, ends: tuple[float, float] | None, bound: float
) -> None:
    twins = Twins(1, 16, 1.0, 0.0, Ratio(value, Interval(*ends) if ends else None, 10))
    narrow = Twins(1, 16, 1.0, 0.0, Ratio(1.0, Interval(0.99, 1.01), 10))
    assert twins.bound == Noise("bert-tiny", (narrow, twins)).floor == pytest.approx(bound)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"status": "oom", "reason": "no memory"}, "eager@2: oom: no memory"),
        ({"parity": {"verdict": "broken", "reason": "another model"}}, "eager@2: parity is broken: another model"),
        ({"is_interleaved": False}, "memory did not hold both copies"),
        (
            {"operations": {"flops": 10**12, "weight_bytes": 10**9}},
            "eager@2: a median below what this machine's peaks allow",
        ),
    ],
)
def test_a_shape_without_a_ratio_says_why_and_is_no_noise(values: dict[str, Any], reason: str) -> None:
    records = [twin_record(1, alike(1)), twin_record(2, alike(2))]
    bad = [twin_record(1, alike(1), 8), twin_record(2, alike(2), 8, **values)]
    found, reasons = doctor.twins_of(twins_run(*records, *bad, peaks=PEAKS.to_json()))
    assert [twin.shape for twin in found] == ["1×16"]
    assert list(reasons) == ["8×16"]
    assert reasons["8×16"].startswith(reason)


# What is installed.


class Sound(Backend):
    """Needs nothing."""

    spec = Spec(name="sound", format=None, precisions={"cpu": ("fp32", "bf16")})
    load = prepare = run = fetch = None  # type: ignore[assignment]


class Refusing(Sound):
    """Is there, and cannot be used."""

    precisions = {"cpu": ("fp32", "fp16", "int8"), "cuda": ("fp32",)}  # noqa: RUF012
    spec = Spec(name="refusing", format=None, variants={"default": {}, "half": {}}, precisions=precisions)

    @classmethod
    def supports(cls, variant: str, device: str, precision: str) -> str | None:
        takes = {"default": ("fp32",), "half": ("fp16",)}[variant]
        return None if precision in takes else "refusing on cpu needs luck; run: pip install luck"


#: Needs what nobody has; computes nothing; loads a format that nothing writes.
OTHERS = (
    Spec(name="missing", format=None, requires=("json", "no_such_runtime"), install="runtimebench[no-such]"),
    Spec(name="silent", format=None, computes_the_model=False),
    replace(Sound.spec, name="unexportable", format="papyrus"),
)
CLASSES: dict[str, type[Backend]] = {
    "sound": Sound, "refusing": Refusing, **{spec.name: type(spec.name, (Sound,), {"spec": spec}) for spec in OTHERS},
}  # fmt: skip


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends of every kind, and one whose package is broken."""

    def load_class(name: str) -> type[Backend]:
        if name == "torn":
            raise ImportError("no module named torn")
        return CLASSES[name]

    monkeypatch.setattr(backends, "names", lambda: dict.fromkeys([*CLASSES, "torn"], "plugin:Class"))
    monkeypatch.setattr(backends, "load_class", load_class)


def parts_of(device: str = "cpu", *root: Path) -> dict[str, Part]:
    return {part.name: part for part in installed.backend_parts(device, *root)}


def test_what_an_export_needs_is_missed_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every format says which libraries write it; else a backend that works is called broken."""
    for format_ in exporters.names():
        assert "torch" in exporters.load_module(format_).LIBRARIES, format_
    (tmp_path / "environments" / "openvino").mkdir(parents=True)
    parts = parts_of("cpu", tmp_path)
    assert parts["eager"].lacks == parts["compile"].lacks == ()
    assert parts["openvino"].lacks == (Lack("its environment was not finished", "bench env create openvino"),)
    missing = {"onnxscript": "missing"}
    monkeypatch.setattr(exporters, "library_versions", lambda names: dict.fromkeys(names, "1.0") | missing)
    assert Lack("the onnx export needs onnxscript", "pip install onnxscript") in parts_of()["onnx"].lacks


@pytest.mark.usefixtures("registry")
def test_a_backend_says_what_it_lacks_with_the_exact_command() -> None:
    parts = parts_of()
    assert parts["sound"] == Part("sound", "backend", precisions=("fp32", "bf16"))
    assert parts["missing"].lacks == (Lack("needs no_such_runtime", "pip install 'runtimebench[no-such]'"),)
    assert parts["refusing"].precisions == ("fp32", "fp16")  # fp16 by another variant than the default
    assert parts["refusing"].lacks == (Lack("on cpu needs luck", "pip install luck"),)
    assert parts["unexportable"].lacks == (Lack("nothing exports the format 'papyrus'", "install a package that does"),)
    assert "plugin:Class cannot be loaded (ImportError: no module named torn)" in parts["torn"].lacks[0].what
    assert "silent" not in parts
    assert [part.is_ready for part in parts.values()] == [True, False, False, False, False]
    on_gpu = parts_of("cuda")
    assert on_gpu["sound"] == Part("sound", "backend", "runs on cpu, not on cuda")
    assert on_gpu["refusing"].precisions == ("fp32",)


@pytest.mark.parametrize(
    ("device", "command"), [("cpu", "sudo apt-get install g++"), ("cuda", "sudo apt-get install gcc")]
)
def test_compile_needs_a_compiler_and_headers_and_a_frame_needs_pandas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, command: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(installed, "is_installed", lambda module: False)
    remedies = [lack.remedy for lack in installed._lacks_of_the_compiler(device)]
    triton = ["pip install triton"] if device == "cuda" else []
    assert remedies == [*triton, command, "sudo apt-get install python3-dev"]
    (pandas,) = installed.package_parts()
    assert pandas.lacks == (Lack("not installed; Run.to_frame() needs it", "pip install pandas"),)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(installed, "is_installed", lambda module: True)
    assert list(installed._lacks_of_the_compiler(device)) == []
    assert [part.lacks for part in installed.package_parts()] == [()]


# GPUs.

CARD = {"name": "NVIDIA H100 80GB HBM3", "free_bytes": 79 * 2**30, "driver": "580.65.06", "cuda_driver": "12.8"}


@pytest.mark.parametrize(
    ("build", "speaks", "remedy"),
    [
        ("12.6", "12.8", None),
        ("12.9", "12.8", None),  # minor versions of one major run on each other's drivers
        ("12.6", None, None),
        (None, "12.8", "pip uninstall -y torch && pip install torch"),
        ("13.0", "12.8", "update NVIDIA's driver"),
    ],
)
def test_a_gpu_that_torch_cannot_use_says_what_helps(
    monkeypatch: pytest.MonkeyPatch, build: str | None, speaks: str | None, remedy: str | None
) -> None:
    monkeypatch.setattr(installed, "torch_cuda_version", lambda: build)
    part = installed.cuda_part([CARD | {"cuda_driver": speaks}, CARD])
    assert part.detail.startswith("NVIDIA H100 80GB HBM3, 79.0 GiB free, driver 580.65.06; and 1 more")
    assert part.is_ready == (remedy is None)
    if remedy is not None:
        assert part.lacks[0].remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("vendor", "kind", "hidden", "word"),
    [
        ("0x10de", "0x030200", None, "install NVIDIA's driver"),
        ("0x10de", "0x030000", "", "unset CUDA_VISIBLE_DEVICES"),
        ("0x10de", "0x040300", None, None),  # a card's sound device
        ("0x8086", "0x030000", None, None),
    ],
)
def test_a_gpu_that_is_plugged_in_and_silent_is_not_taken_for_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vendor: str, kind: str, hidden: str | None, word: str | None
) -> None:
    monkeypatch.setattr(installed, "is_installed", lambda module: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert installed.cuda_part([], tmp_path) == Part("cuda", "device", "no NVIDIA GPU answers")
    folder = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "class").write_text(kind + "\n")
    lacks = installed.cuda_part([], tmp_path).lacks
    assert [word in lack.remedy for lack in lacks if word] == ([True] if word else [])
    assert bool(lacks) == bool(word)


# What else runs.


def test_processes_that_compute_are_named_and_only_ones_own_are_to_be_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Process:
        def __init__(self, pid: int, name: str | None, *percents: float, uid: int | None = os.getuid()) -> None:
            self.pid, self.info, self.percents, self.uid = pid, {"name": name}, iter(percents), uid

        def uids(self) -> Any:
            if self.uid is None:
                raise psutil.AccessDenied(self.pid)
            return SimpleNamespace(real=self.uid)

        def username(self) -> str:
            return "ann\x1b"

        def cpu_percent(self) -> float:
            try:
                return next(self.percents)
            except StopIteration:
                raise psutil.NoSuchProcess(self.pid) from None

    processes = [
        Process(os.getpid(), "me", 0.0, 900.0), Process(1, "in\x1b[2J\n", 0.0, 60.0, uid=os.getuid() + 1),
        Process(7, "idle", 0.0, 2.0),
        Process(8, "trainer", 0.0, 100.0), Process(9, "ended", 0.0), Process(10, None), Process(11, None, 0.0, 30.0, uid=None),
    ]  # fmt: skip
    monkeypatch.setattr(psutil, "process_iter", lambda wanted: processes)
    found = otherwork.busy_processes(sleep=lambda seconds: None)
    assert [one[:3] for one in found] == [(8, "trainer", 1.0), (1, "in?[2J?", 0.6), (11, "?", 0.3)]  # nothing to obey
    monkeypatch.setattr(otherwork, "busy_processes", lambda: found)
    first, second, third = otherwork.other_work(0.6)
    assert first.what == "trainer (process 8) keeps 1.0 CPUs busy"
    assert "kill -STOP 8" in first.remedy and "kill -CONT 8" in first.remedy
    assert "in?" in second.what
    assert second.remedy == "it belongs to user ann?, so ask before anything is done to it"
    assert third.remedy == "it belongs to another user, so ask before anything is done to it"
    monkeypatch.setattr(otherwork, "busy_processes", list)  # work that cannot be seen
    (unseen,) = otherwork.other_work(0.6)
    assert "takes 60% of all CPUs" in unseen.what
    assert list(otherwork.other_work(0.05)) == []


# The whole examination, with everything that takes time replaced.


class Measures:
    """Stands for `measure`: keeps what it was asked and answers with given runs, or raises."""

    def __init__(self) -> None:
        self.asked: list[ForwardOptions] = []
        self.precisions: list[str] = []
        self.peaks: Peaks | BaseException = PEAKS
        self.twins: Run | BaseException = twins_run(*(twin_record(copy, alike(copy)) for copy in (1, 2)))
        self.null: Run | BaseException = twins_run(twin_record(1, [0.00025] * 5, label="null:instant", parity={}))

    def __call__(self, workload: type[Forward], options: ForwardOptions, listener: Listener | None) -> Run:
        assert workload is Forward
        self.asked.append(options)
        Path(str(options.output)).write_text("a run")
        return self.answer(self.null if options.backends == ("null:instant",) else self.twins)

    def measure_peaks(self, root: Path, device: str, precisions: list[str], threads: int, *rest: Any) -> Peaks:
        self.precisions = precisions
        return self.answer(self.peaks)

    @staticmethod
    def answer(found: Any) -> Any:
        if isinstance(found, BaseException):
            raise found
        return found


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> Measures:
    """A machine of which everything is known at once."""
    fake = Measures()
    monkeypatch.setattr(doctor, "measure", fake)
    monkeypatch.setattr(peaks, "measure", fake.measure_peaks)
    monkeypatch.setattr(machine, "fingerprint", lambda: FINGERPRINT)
    monkeypatch.setattr(otherwork, "busy_processes", list)
    monkeypatch.setattr(doctor.conditions, "disturbances", lambda device: [Disturbance("heat", "cool it")])
    return fake


def examined(tmp_path: Path, **options: Any) -> Findings:
    return doctor.examine(device="cpu", threads=1, artifacts=tmp_path, **options)


def test_an_examination_finds_everything_and_leaves_no_file_of_its_own(measures: Measures, tmp_path: Path) -> None:
    said: list[str] = []
    found = examined(tmp_path, say=said.append)
    assert found.exit_code == 0
    assert found.noise is not None
    assert found.overhead == Overhead(250.0, 0.004)
    assert found.peaks is PEAKS
    assert found.disturbances == (Disturbance("heat", "cool it"),)
    assert found.parts[0] == Part("cuda", "device", "no NVIDIA GPU answers", lacks=found.parts[0].lacks)
    twins, null = measures.asked
    assert (twins.backends, twins.batches, twins.lengths) == (("eager", "eager@2"), (1, 8), (16, 128))
    assert (twins.device, twins.threads, twins.artifacts) == ("cpu", 1, str(tmp_path))
    assert null.artifacts != str(tmp_path)
    for asked in measures.asked:
        folder = Path(str(asked.output)).parent
        assert not folder.exists()
        assert tmp_path not in folder.parents
    assert any("eager against itself" in line for line in said)


def test_a_quick_examination_measures_neither_peaks_nor_noise(
    measures: Measures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peaks, "measure", None)
    found = examined(tmp_path / "none", is_quick=True)
    assert (found.peaks, found.noise, found.exit_code) == (None, None, 0)
    assert [asked.backends for asked in measures.asked] == [("null:instant",)]
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(peaks, "known", lambda root, device, threads: PEAKS)
    assert examined(tmp_path, is_quick=True).peaks is PEAKS


FAILED = twin_record(2, [], 8, status="failed", reason="killed by SIGSEGV")
PAIRS = (twin_record(1, alike(1)), twin_record(2, alike(2)), twin_record(1, alike(1), 8), FAILED)
OF_FAILED = ("the noise at 8×16", "eager@2: failed: killed by SIGSEGV")
NO_NULL = twin_record(1, [], label="null:instant", status="timeout", reason="no answer within 300 s")


@pytest.mark.parametrize(
    ("changed", "noted", "is_noise_known"),
    [
        ({"peaks": BenchError("the process was lost")}, ("peaks", "the process was lost"), True),
        ({"peaks": replace(PEAKS, unmeasured={"bf16": "no bf16 here", "int8": "no int8 here"})},
         ("the peak at bf16", "no bf16 here"), True),
        ({"twins": BenchError("the export failed")}, ("the noise floor", "the export failed"), False),
        ({"twins": twins_run(*PAIRS)}, OF_FAILED, True),
        ({"twins": twins_run(*PAIRS[2:])}, OF_FAILED, False),
        ({"null": twins_run(NO_NULL)}, ("the overhead of the harness", "timeout: no answer within 300 s"), True),
    ],
)  # fmt: skip
def test_each_thing_that_fails_is_noted_and_the_rest_goes_on(
    measures: Measures,
    registry: None,
    tmp_path: Path,
    changed: dict[str, Any],
    noted: tuple[str, str],
    is_noise_known: bool,
) -> None:
    vars(measures).update(changed)
    found = examined(tmp_path)
    assert (found.unmeasured, found.exit_code) == ((Unmeasured(*noted),), 1)
    assert (found.noise is not None) is is_noise_known
    assert measures.precisions == ["fp32", "fp16", "bf16"], "those that some backend has"
    text = page.render(found, "table")
    assert noted[1] in text
    assert ("NOTHING IS KNOWN OF THE NOISE" in text) is not is_noise_known


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), SystemExit(143), UserError("length 128 exceeds the 64 positions of it")]
)
def test_a_stop_or_wrong_input_found_late_ends_it_and_leaves_no_file(
    measures: Measures, tmp_path: Path, stop: BaseException
) -> None:
    measures.twins = stop
    with pytest.raises(type(stop)):
        examined(tmp_path)
    (asked,) = measures.asked
    assert not Path(str(asked.output)).parent.exists()


@pytest.mark.parametrize(("positions", "lengths"), [(None, (16, 128)), (512, (16, 128)), (64, (16,)), (8, (8,))])
def test_no_length_exceeds_the_models_positions(positions: int | None, lengths: tuple[int, ...]) -> None:
    assert doctor._lengths(positions) == lengths


def test_a_gpu_is_examined_like_a_cpu(measures: Measures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "settle_device", lambda asked: "cuda")
    monkeypatch.setattr(machine, "fingerprint", lambda: FINGERPRINT | {"gpus": [CARD]})
    monkeypatch.setattr(installed, "torch_cuda_version", lambda: "12.6")
    found = doctor.examine(artifacts=tmp_path, threads=1)
    assert found.device == "cuda"
    assert [asked.device for asked in measures.asked] == ["cuda", "cpu"]  # null computes on the host alone
    text = page.render(found, "table")
    assert "on cuda with 1 thread\n" in text
    assert "NVIDIA H100 80GB HBM3, 79.0 GiB free" in text


# The page.


def ratio(middle: float, half: float) -> Ratio:
    return Ratio(middle, Interval(middle - half, middle + half), 20)


@pytest.fixture
def findings() -> Findings:
    twins = (Twins(1, 16, 0.74 * MS, 0.12, ratio(1.0, 0.021)), Twins(8, 128, 3.4 * MS, 0.05, ratio(0.998, 0.01)))
    parts = (
        Part("cuda", "device", "no NVIDIA GPU answers"),
        Part("eager", "backend", precisions=("fp32", "bf16")),
        Part("onnx", "backend", lacks=(Lack("needs onnxruntime", "pip install 'runtimebench[cpu]'"),)),
    )
    return Findings(
        "cpu", 2, "bert-tiny", False, "2026-01-01T00:00:00+00:00", FINGERPRINT, 4 * 2**30, 50 * 2**30, parts,
        (Disturbance("the CPU's governor is powersave: the clock follows the load", "sudo cpupower frequency-set -g performance"),),
        PEAKS, Noise("bert-tiny", twins), Overhead(250.0, 0.004), (),
    )  # fmt: skip


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_page_fits_80_columns_and_says_it_all(findings: Findings) -> None:
    text = page.render(findings, "table")
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 46
    for said in (
        "A CPU, 2 CPUs usable, virtual machine",
        "4.0 of 8.0 GiB free",
        "no NVIDIA GPU answers",
        "missing: needs onnxruntime → pip install 'runtimebench[cpu]'",
        "governor is powersave: the clock follows the load → sudo cpupower frequency-set -g performance",
        "fp32 226 GFLOP/s",
        "bf16 1.2 TFLOP/s",
        "reads 12.3 GB/s; 80.0 GB/s from caches",
        "1×16 0.740 12.0% 1.000 0.979–1.021 same",
        "0.25 µs (null:instant), 0.03% of the shortest call above",
        "the parent 0.4% of one CPU",
        "Fit to measure: differences above 2.1% can be believed here now.",
        "1 part lacks something, 1 disturbance; → above says what helps",
    ):
        assert said in words(text), said
    assert text.rstrip().splitlines()[-2].startswith("Fit to measure")


WIDE = Twins(1, 16, MS, 0.9, Ratio(1.0, Interval(0.2, 4.1), 20), ("over 20% of all CPU time was taken by other work",))
FALSE = (Twins(1, 16, MS, 0.1, ratio(1.05, 0.01)), Twins(8, 128, MS, 0.1, ratio(0.9, 0.02)))
LONG = "echo off | sudo tee /sys/devices/system/cpu/smt/control " * 3


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({"peaks": replace(PEAKS, disturbed={"fp32": 0.3})}, ["fp32 226 GFLOP/s (disturbed, may read low)"],
         ["bf16 1.2 TFLOP/s (disturbed"]),
        ({"peaks": replace(PEAKS, flops_per_second={"fp32": 37.84e9, "bf16": 35.6e12, "fp16": 990e12})},
         ["fp32 37.8 GFLOP/s", "bf16 35.6 TFLOP/s", "fp16 990 TFLOP/s"], []),
        ({"noise": Noise("bert-tiny", FALSE)},
         ["FASTER THAN ITSELF", "Believe no difference below 12.0% now",
          "NOT FIT FOR SMALL DIFFERENCES: eager came out faster at 1×16, slower at 8×128 than itself."], ["Fit to measure"]),
        # To be alike within a wide interval is no licence.
        ({"noise": Noise("bert-tiny", (WIDE,))},
         ["NOISY NOW: believe no difference below 4.1-fold", "- !1×16: over 20% of all CPU time"], ["Fit to measure"]),
        ({"is_quick": True, "peaks": None, "noise": None, "disturbances": (), "parts": ()},
         ["left out (--quick)", "`bench doctor` without --quick measures them", "Nothing is missing, nothing disturbs."], []),
        ({"is_quick": True, "noise": None}, ["226 GFLOP/s", "Peaks and noise were left out"], []),
        ({}, [], ["Peaks and noise were left out", "left out (--quick)"]),
        # An ellipsis never stands for a command.
        ({"disturbances": (Disturbance("x " * 90, LONG.strip()),)}, [LONG.strip()], []),
    ],
)  # fmt: skip
def test_a_page_says_what_was_found(
    findings: Findings, changes: dict[str, Any], said: list[str], unsaid: list[str]
) -> None:
    found = replace(findings, **changes)
    text = page.render(found, "table")
    assert max(map(len, text.splitlines())) <= 80
    for one in said:
        assert one in words(text)
    for one in unsaid:
        assert one not in words(text)
    left_out = [changes.get(name, "there") for name in ("peaks", "noise")].count(None)
    assert text.count("left out (--quick)") == left_out
    assert found.exit_code == 0  # everything could be looked at
    noise = json.loads(page.render(found, "json"))["noise"]
    assert noise is None or noise["is_fit"] is ("THAN ITSELF" not in text)


def test_the_json_holds_what_the_page_says(findings: Findings) -> None:
    document = json.loads(page.render(findings, "json"))
    noise = document["noise"]
    assert (noise["floor"], noise["least_difference"], noise["is_fit"]) == (*[pytest.approx(0.021)] * 2, True)
    assert noise["twins"][0]["ratio"]["interval"] == {"low": 0.979, "high": 1.021}
    assert noise["twins"][0]["verdict"] == "same"
    assert Peaks.from_json(document["peaks"]) == PEAKS
    assert document["parts"][2]["lacks"] == [{"what": "needs onnxruntime", "remedy": "pip install 'runtimebench[cpu]'"}]
    assert document["overhead"] == {"call_ns": 250.0, "parent_cpu_share": 0.004}
    empty = replace(findings, peaks=None, noise=None, overhead=None, unmeasured=(Unmeasured("peaks", "lost"),))
    bare = json.loads(page.render(empty, "json"))
    assert [one["exit_code"] for one in (document, bare)] == [0, 1]
    assert [bare[name] for name in ("peaks", "noise", "overhead")] == [None, None, None]


# The command.


def test_the_command_prints_a_page_and_takes_the_exit_code_of_the_findings(measures: Measures, tmp_path: Path) -> None:
    options = ["doctor", "--device", "cpu", "--threads", "1", "--artifacts", str(tmp_path)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert "bench doctor: this machine, on cpu with 1 thread\n" in done.stdout
    measures.twins = BenchError("no room")
    done = CliRunner().invoke(app, [*options, "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["unmeasured"] == [{"what": "the noise floor", "reason": "no room"}]
    measures.twins = KeyboardInterrupt()
    done = CliRunner().invoke(app, options)
    assert (done.exit_code, done.stdout) == (130, "")
    assert "stopped; exported models and peaks are kept" in done.stderr


def test_a_quick_look_at_this_machine_is_light_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    """`bench doctor --quick` for real, as JSON and as a page, with a temporary folder of its own."""
    (tmp_path / "temporary").mkdir()
    code = (
        "import sys; from bench.cli import main\nfor format in ('json', 'table'):\n"
        "    sys.argv = ['bench', 'doctor', '--quick', '--device', 'cpu', '--threads', '1', '--format', format]\n"
        "    try: main()\n    except SystemExit as ended: assert not ended.code\n    print('END')\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "80", "TMPDIR": str(tmp_path / "temporary")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    as_json, text, _ = done.stdout.split("END\n")
    document = json.loads(as_json)
    assert (document["threads"], document["exit_code"]) == (1, 0)
    assert {"eager", "onnx", "cuda"} <= {part["name"] for part in document["parts"]}
    assert document["overhead"]["call_ns"] > 0
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"a call +[\d.]+ µs", text)
    assert re.search(r"eager +fp32, fp16, bf16", text)
    assert "LOADED []" in done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_a_folder_that_cannot_be_written_is_named(cli_here, tmp_path: Path) -> None:
    done = cli_here("doctor", "--artifacts", "/dev/null/x")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "artifact folder '/dev/null/x' cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_this_machine_examined_for_real(cli_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setitem(doctor.OF_TWINS, "max_seconds_per_cell", 0.5)
    own = tmp_path / "artifacts"  # in the folder that tests share, another one's run may appear meanwhile
    made.keep_peaks(own)  # which tests/bench/test_peaks.py measures for real
    options = ["--device", "cpu", "--artifacts", str(own), "--json"]
    done = cli_here("doctor", *options)
    document = json.loads(done.stdout)
    assert document["unmeasured"] == []
    assert done.returncode == 0
    assert document["peaks"]["flops_per_second"]["fp32"] > 0
    assert [(twin["batch"], twin["length"]) for twin in document["noise"]["twins"]] == [
        (batch, length) for batch in (1, 8) for length in (16, 128)
    ]
    assert document["noise"]["floor"] > 0
    assert list((tmp_path / "temporary").glob("bench-doctor-*")) == []
    assert list((own / "runs").glob("*")) == []
