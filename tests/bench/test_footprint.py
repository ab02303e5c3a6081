"""`bench memory`: figures of a loaded model, the arithmetic beside them, the search for the largest batch, its file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import measure_memory
from bench.errors import UserError
from bench.footprint import measure as measure_module
from bench.footprint import tries as tries_module
from bench.footprint.boundary import Boundary
from bench.footprint.published import published
from bench.footprint.results import Largest, Loaded, MemoryRun, Subject, Try, as_line, read_memory
from bench.footprint.tries import ran_out
from bench.machine import memory
from bench.preparation import Preparation
from bench.process.channel import Worker, WorkerError
from bench.report import memory as page
from bench.report import memory_lines
from bench.spec import Candidate, Grid, Shape, parse_size
from bench.workers import start_worker
from exporters import sources
from exporters.errors import ModelError
from exporters.sources import KeysAndValues
from exporters.store import ArtifactStore

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and RLIMIT_DATA")


def measure(tmp_path: Path, backends: str, models: Any = "bert-tiny", **options: Any) -> MemoryRun:
    given = {"lengths": [8], "device": "cpu", "threads": 1, "timeout": 60.0, "output": tmp_path / "m.jsonl"}
    given |= {"artifacts": tmp_path / "artifacts"}
    return measure_memory(models, backends=backends, **(given | options))


def text_of(run: MemoryRun) -> str:
    """The page, each of its lines within 80 columns."""
    text = page.render(replace(run, path=None), "table")
    assert max(map(len, text.splitlines())) <= 80
    return text


# What the kernel tells.


def test_data_and_mapped_bytes_of_known_files(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmPeak:\t 9 kB\nVmData:\t  2048 kB\nVmStk:\t 8 kB\n")
    assert memory.data_bytes(tmp_path / "status") == 2 * MIB
    assert memory.data_bytes(tmp_path / "missing") is None
    model = tmp_path / "a model"
    (tmp_path / "smaps").write_text(
        f"7f00-7f10 rw-p 00000000 08:01 12 {model}/model.safetensors\nSize:    2048 kB\nRss:     1024 kB\n"
        "Pss:  1 kB\nVmFlags: rd wr mr\n"
        f"7f20-7f30 r--p 00001000 08:01 12 {model}/model.safetensors\nSize:    1024 kB\nRss:        0 kB\n"
        f"7f40-7f50 r-xp 00000000 08:01 13 {model}-2/library.so\nSize:    4096 kB\nRss:     4096 kB\n"
        "7f60-7f70 rw-p 00000000 00:00 0 \nSize:    8192 kB\nRss:     8192 kB\n"
    )
    found = memory.mapped_bytes(model, tmp_path / "smaps")
    assert found == {"mapped_bytes": 3 * MIB, "mapped_resident_bytes": MIB}
    assert memory.mapped_bytes(model, tmp_path / "missing") == {}


@linux
def test_what_a_limit_refuses_is_counted_as_data(root: Path) -> None:
    """Memory that is asked for and not touched counts; beyond the limit Python gets none, and below it does."""
    code = (
        "from bench.machine import memory\nbefore = memory.data_bytes()\nheld = bytearray(64 * 2**20)\n"
        "print(memory.data_bytes() - before)\nmemory.limit_data(memory.data_bytes() + 32 * 2**20)\n"
        "held = [held, bytearray(16 * 2**20)]\n"
        "try:\n    bytearray(64 * 2**20)\nexcept MemoryError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    counted, refused = done.stdout.split()
    assert int(counted) == pytest.approx(64 * MIB, rel=0.02)
    assert refused == "refused"


# Arithmetic.


def test_keys_and_values_are_the_studied_ones() -> None:
    gpt = sources.resolve("gpt", weights="random")
    assert gpt.keys_and_values == KeysAndValues(layers=12, heads=12, head_width=64)
    assert gpt.key_value_bytes(512, "fp32") == 37_748_736
    assert gpt.key_value_bytes(512, "bf16") == 37_748_736 // 2
    assert sources.resolve("bert", weights="random").keys_and_values is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("4gb", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("512", 512), (77, 77), ("1KiB", 1024)],
)
def test_sizes_with_their_units(text: str | int, size: int) -> None:
    assert parse_size(text, "--memory-limit") == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1e9", "8 GB GB", "1.2.3", "8iB", "GiB", "٣GB", "9" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--memory-limit .* is no size"):
        parse_size(text, "--memory-limit")


def loaded(model: str, parameters: int, process: int, device: str = "cpu", **more: int) -> Loaded:
    held = {"parameters_bytes": parameters * MIB, "reserved_bytes": 100 * MIB, "allocated_bytes": 90 * MIB}
    held |= {"process_bytes" if device == "cpu" else "device_process_bytes": process * MIB}
    return Loaded(
        model, "eager", "default", "fp32", memory=held | {name: size * MIB for name, size in more.items()}
    )  # fmt: skip


def run_of(*entries: Loaded, device: str = "cpu", largest: tuple[Largest, ...] = ()) -> MemoryRun:
    names = dict.fromkeys(entry.model for entry in (*entries, *largest))
    subjects = tuple(Subject(name, "seeded random (seed 0)", 1024, (512,), KeysAndValues(12, 12, 64)) for name in names)
    return MemoryRun(
        subjects, device, 2, ("fp32",), "base", {"cpu": "a CPU"}, "bench memory", "2026-01-01", 2**32 if largest else None,
        list(entries), list(largest), is_complete=True,
    )  # fmt: skip


def test_tf32_and_an_environment_are_told_and_read_again(tmp_path: Path) -> None:
    there = replace(loaded("gpt2", 475, 1255, "cuda"), environment="old", versions={"torch": "2.9", "python": "3.12.1"})
    run = replace(run_of(loaded("gpt2", 475, 1255, "cuda"), there, device="cuda"), tf32=True)
    file = tmp_path / "m.jsonl"
    file.write_text(
        "".join(json.dumps(line) + "\n" for line in (run.header(), *map(as_line, run.loaded), {"kind": "end"}))
    )
    text = text_of(read_memory(file))
    assert text == text_of(run)
    assert "2 threads, TF32" in text
    assert "eager@old: in an environment with torch 2.9, python 3.12.1" in text
    header = {name: value for name, value in run.header().items() if name != "tf32"}
    file.write_text("".join(json.dumps(line) + "\n" for line in (header, as_line(run.loaded[0]))))
    assert not read_memory(file).tf32  # as files were before
    file.write_text(json.dumps({**header, "tf32": "yes"}) + "\n")
    with pytest.raises(UserError, match="is damaged"):
        read_memory(file)


def test_the_runtime_is_what_is_neither_reserved_nor_mapped() -> None:
    entry = loaded("gpt2", 475, 377, mapped_bytes=475, mapped_resident_bytes=2)
    assert entry.unread_bytes("cpu") == 473 * MIB
    assert entry.context_bytes("cpu") == (377 - 100 - 2) * MIB
    assert entry.beside_parameters_bytes("cpu") == (377 + 473 - 475) * MIB
    card = loaded("gpt2", 475, 1255, "cuda", mapped_bytes=475, mapped_resident_bytes=2)
    assert card.unread_bytes("cuda") == 0
    assert card.context_bytes("cuda") == 1155 * MIB
    assert card.beside_parameters_bytes("cuda") == 780 * MIB
    bare = Loaded("gpt2", "null", "default", "fp32", memory={})
    assert (bare.context_bytes("cpu"), bare.beside_parameters_bytes("cpu")) == (None, None)


def test_the_puzzle_is_explained_by_the_difference_of_two_models() -> None:
    """The figures of the seed: 1255 and 2093 MiB of process for 487 and 1378 MiB of parameters and buffers."""
    (line, told) = memory_lines.puzzle_lines(
        run_of(loaded("gpt2", 487, 1255, "cuda"), loaded("gpt2-medium", 1325, 2093, "cuda"), device="cuda")
    )
    assert "takes 838 MiB more for gpt2-medium than for gpt2" in line
    assert "parameters and buffers are 838 MiB more" in line
    assert "768 and 768 MiB: the same runtime, whatever the model" in line
    assert "gpt2 1255, gpt2-medium 2093 MiB of process, of which 542, 1380 are weights" in told
    assert "the same 713 MiB CUDA context and kernels" in told
    (line, _) = memory_lines.puzzle_lines(run_of(loaded("gpt2", 475, 850), loaded("gpt2-medium", 1354, 3000)))
    assert "375 and 1646 MiB: not the same" in line


def test_unread_weights_count_as_if_they_were_read() -> None:
    one = loaded("gpt2", 475, 377, mapped_bytes=475, mapped_resident_bytes=0)
    other = loaded("gpt2-medium", 1354, 380, mapped_bytes=1354, mapped_resident_bytes=0)
    line = memory_lines.puzzle_lines(run_of(one, other))[0]
    assert "with the weights that it has not read yet, takes 882 MiB more" in line
    assert "377 and 380 MiB: the same runtime" in line
    line = memory_lines.puzzle_lines(run_of(replace(one, before={"process_bytes": 360 * MIB}), other))[0]
    assert "377 and 380 MiB, of which 360 were there before it loaded anything: the same runtime" in line


def test_one_model_or_one_without_figures_is_no_puzzle() -> None:
    assert memory_lines.puzzle_lines(run_of(loaded("bert", 418, 900))) == []
    assert memory_lines.puzzle_lines(run_of(loaded("bert", 418, 900), Loaded("gpt", "eager", "default", "fp32"))) == []


def test_published_figures_leave_the_same_context() -> None:
    (card,) = published()
    rests = {figures["process_mib"] - figures["weights_and_rounding_mib"] for figures in card.loaded.values()}
    assert rests == {713}
    assert card.stored == {"bert": {"512": 435}, "gpt": {"512": 648}, "gpt2-medium": {"512": 1826, "1024": 4420}}


def largest(variant: str, batch: int, stored: float, **more: Any) -> Largest:
    return Largest(
        "gpt", "eager", variant, "fp32", length=512, limit_bytes=2**32, taken_bytes=MIB,
        boundary=Boundary(batch, batch + 1, "boundary", True, True), tries=[
            Try(1, True, 0.1, 1000 * MIB, round((stored + 9) * MIB)),
            Try(3, True, 0.1, 1180 * MIB, round((3 * stored + 9) * MIB)),
            Try(4, False, 0.1),
        ], **more,
    )  # fmt: skip


def test_a_worker_that_ended_itself_is_told() -> None:
    failure = {"signal": "SIGABRT", "stderr": ["x", "free(): invalid pointer"]}
    text = " ".join(text_of(run_of(largest=(largest("default", 7, 1.0, failure=failure),))).split())
    assert "at batch 8 the worker ended itself (SIGABRT: free(): invalid pointer), which is taken for want" in text


def test_memory_per_sequence_is_between_batches_and_not_of_one() -> None:
    """A constant of 1000 cancels; a batch that did not fit has no say, nor has one that is nearer than half."""
    made = [Try(1, True, 0.1, 1100), Try(4, True, 0.1, 1400), Try(7, True, 0.1, 1700), Try(8, False, 0.1)]
    assert replace(largest("default", 7, 1.0), tries=made).peak_bytes_per_sequence == 100.0
    assert replace(largest("default", 7, 1.0), tries=made).stored_bytes_per_sequence is None
    assert replace(largest("default", 1, 1.0), tries=made[:1]).peak_bytes_per_sequence is None


def test_gradients_are_held_against_none_and_against_what_was_published() -> None:
    run = run_of(
        largest=(largest("default", 37, 1.5), largest("grad", 6, 600.0, failure={"requested_bytes": 18 * MIB}))
    )
    (line,) = memory_lines.gradient_lines(run)
    assert "gpt at 512, fp32: with gradients a sequence stores 600 MiB, without 1.5; 6 against 37 fit" in line
    assert "(published, RTX 3090, 23.69 GiB: 648 MiB with gradients)" in line
    text = text_of(run)
    assert "each found its boundary, and found it again" in text
    assert "eager:grad    512             6           90    600        18" in text
    cache = (
        "2 (keys, values) × 12 layers × 12 heads × 64 wide × 4 bytes × 512 tokens = 37,748,736 (36 MiB), × 1024 tokens"
    )
    assert cache in " ".join(text.split())


@pytest.mark.parametrize(
    ("boundary", "said"),
    [
        (Boundary(4096, None, "most", True, True), "the search ended at --most-batch, which fits"),
        (Boundary(8, 16, "time", False, True), "ended with --max-seconds-per-search; batch 16 does not fit"),
        (Boundary(3, 4, "boundary", False, False), "batch 4 fitted once and another time did not"),
        (Boundary(8, 9, "boundary", False, True), "there was no time to try the boundary again"),
    ],
)
def test_what_ended_a_search_is_said(boundary: Boundary, said: str) -> None:
    found = largest("default", 1, 1.0)
    tries = [*found.tries, *([] if boundary.is_steady else [Try(4, True, 0.1)])]
    run = run_of(largest=(replace(found, boundary=boundary, tries=tries),))
    text = " ".join(text_of(run).split())
    assert said in text
    assert (f"at least {boundary.largest}" in text) == (boundary.ended_by != "boundary")


# Whole runs on the backend that computes nothing.


@linux
def test_the_largest_batch_is_found_between_what_fits_and_what_does_not(tmp_path: Path) -> None:
    said: list[str] = []
    run = measure(tmp_path, "null:oom", largest_batch=True, memory_limit="1GiB", say=said.append)
    (entry,) = run.largest
    assert (entry.status, entry.boundary) == ("ok", Boundary(3, 4, "boundary", True, True))
    assert [(one.batch, one.fits) for one in entry.tries] == [
        (1, True), (2, True), (4, False), (3, True), (3, True), (4, False),
    ]  # fmt: skip
    assert entry.failure == {"requested_bytes": 2**30}
    assert entry.taken_bytes is not None and 0 < entry.taken_bytes < entry.limit_bytes == 2**30
    assert entry.stored_bytes_per_sequence is None  # it does not run with gradients
    assert entry.peak_bytes_per_sequence is not None
    (held,) = run.loaded
    assert held.memory["process_bytes"] > held.memory["reserved_bytes"] > 0
    assert held.before["process_bytes"] > 0
    assert run.exit_code == 0
    assert any("batch 4 does not fit" in line for line in said)
    again = read_memory(tmp_path / "m.jsonl")
    assert again == run
    assert run.command.endswith("--memory-limit 1073741824 --most-batch 4096 --max-seconds-per-search 900")
    lines = [json.loads(line)["kind"] for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert lines == ["memory", "loaded", "largest", "end"]
    assert "1024" in text_of(run)
    document = json.loads(page.render(run, "json"))
    assert document["largest"][0]["boundary"]["largest"] == 3
    assert document["loaded"][0]["context_bytes"] == held.context_bytes("cpu")


@linux
@pytest.mark.parametrize(
    ("backend", "status", "reason"),
    [("null:fail", "failed", "null:fail fails by design"), ("null:crash", "failed", "killed by SIGKILL")],
)
def test_another_failure_ends_the_search_with_what_is_known(
    tmp_path: Path, backend: str, status: str, reason: str
) -> None:
    said: list[str] = []
    run = measure(tmp_path, backend, largest_batch=True, memory_limit="1GiB", say=said.append)
    (entry,) = run.largest
    assert (entry.status, run.exit_code) == (status, 1)
    assert reason in entry.reason
    assert entry.boundary == Boundary(2, None, "failure", False, True)
    assert "at least 2" in text_of(run)
    assert any("once more" in line for line in said) == (backend == "null:crash")


@linux
def test_a_limit_below_the_loaded_model_says_what_that_takes(tmp_path: Path) -> None:
    run = measure(tmp_path, "null", largest_batch=True, memory_limit="1MiB")
    (entry,) = run.largest
    assert (entry.status, entry.boundary, run.exit_code) == ("above-limit", None, 2)
    assert entry.taken_bytes is not None
    assert entry.reason == f"the loaded model alone takes {entry.taken_bytes / MIB:.0f} MiB, and the limit is 1 MiB"
    assert entry.reason in " ".join(text_of(run).split())


@linux
def test_a_search_without_time_and_one_without_a_boundary(tmp_path: Path) -> None:
    run = measure(tmp_path, "null", largest_batch=True, max_seconds_per_search=1e-9)
    (entry,) = run.largest
    assert entry.boundary == Boundary(0, None, "time", False, True)
    assert run.limit_bytes is not None and run.limit_bytes > MIB
    run = measure(tmp_path, "null", largest_batch=True, most_batch=3, output=tmp_path / "n.jsonl")
    assert run.largest[0].boundary == Boundary(3, None, "most", True, True)


def test_a_backend_that_does_not_load_is_an_entry(tmp_path: Path) -> None:
    run = measure(tmp_path, "null:unloadable")
    assert [(entry.status, run.exit_code) for entry in run.loaded] == [("unsupported", 1)]
    assert "null:unloadable never loads" in text_of(run)


# Input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": "gpt3"}, "unknown model 'gpt3'"),
        ({"lengths": [129]}, "length 129 exceeds the 128 positions of bert-tiny"),
        ({"memory_limit": "8GiB"}, "add --largest-batch"),
        ({"largest_batch": True, "memory_limit": "much"}, "--memory-limit 'much' is no size"),
        ({"largest_batch": True, "memory_limit": 0}, "--memory-limit '0' is no memory at all"),
        ({"largest_batch": True, "memory_limit": "999TiB"}, "GiB that are free now"),
        ({"tf32": True}, "--tf32: cpu has no TF32"),
        ({"most_batch": 0}, "--most-batch 0 is below 1"),
        ({"max_seconds_per_search": 0}, "--max-seconds-per-search 0"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ModelError), match=message):
        measure(tmp_path, "null", **options)
    assert not (tmp_path / "m.jsonl").exists()


def test_without_a_limit_what_is_free_is_left_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module.machine, "available_memory_bytes", lambda: 10 * 2**30)
    assert measure_module._limit(None, "cpu", True) == 9 * 2**30
    monkeypatch.setattr(measure_module.machine, "available_memory_bytes", lambda: 2**30)
    assert measure_module._limit(None, "cpu", True) == 2**29
    monkeypatch.setattr(measure_module.machine, "gpus", lambda: [{"free_bytes": 4 * 2**30}])
    assert measure_module._limit(None, "cuda", True) == 3 * 2**30
    monkeypatch.setattr(measure_module.machine, "available_memory_bytes", lambda: 2**28)
    with pytest.raises(UserError, match=r"only 0\.2 GiB of memory are free"):
        measure_module._limit(None, "cpu", True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (WorkerError("oom", "DefaultCPUAllocator"), True),
        (WorkerError("failed", "exited", {"stderr": ["libgomp: Thread creation failed: …"]}, is_gone=True), True),
        (WorkerError("failed", "SIGABRT", {"stderr": ["x", "what():  std::bad_alloc"]}, is_gone=True), True),
        (WorkerError("failed", "SIGSEGV", {"stderr": ["Segmentation fault"]}, is_gone=True), False),
        (WorkerError("failed", "another", {"stderr": ["std::bad_alloc"]}), False),
    ],
)
def test_a_worker_that_died_for_want_of_memory_ran_out_of_it(error: WorkerError, expected: bool) -> None:
    assert ran_out(error) is expected


# The file.


@pytest.mark.parametrize(
    "damage",
    [
        {"model": "other"},
        {"status": "fine"},
        {"boundary": None},
        {"taken_bytes": -1},
        {"tries": [{"batch": 1, "fits": True, "seconds": 1, "peak_bytes": "many"}]},
        {"tries": [[1, True, 0.5]]},
        {"failure": {"requested_bytes": "1 GiB"}},
        {"surprise": 1},
        {"reason": 1},
        {"environment": 1},
        {"copy": 0},
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    run = run_of(largest=(largest("default", 1, 1.0),))
    path = tmp_path / "m.jsonl"

    def write(line: dict[str, Any]) -> None:
        path.write_text("".join(json.dumps(one) + "\n" for one in (run.header(), line)))

    write(as_line(run.largest[0]))
    assert read_memory(path).largest == run.largest
    write(as_line(run.largest[0]) | damage)
    with pytest.raises(UserError, match="is damaged"):
        read_memory(path)


def test_the_command_and_a_report_of_its_file_show_the_same(cli: Callable[..., Any], tmp_path: Path) -> None:
    common = ["--model", "bert-tiny", "--backends", "null:oom", "--threads", "1", "--device", "cpu"]
    done = cli("memory", *common, "--largest-batch", "--most-batch", "2", "--output", "m.jsonl")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert cli("report", "m.jsonl").stdout == done.stdout
    wrong = cli("memory", *common, "--memory-limit", "1GiB")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)


# The real runtimes.


@contextmanager
def loaded_worker(artifacts: Path, contestant: Candidate) -> Iterator[tuple[Worker, Callable[[int], dict[str, Any]]]]:
    """A worker that holds bert-tiny, and a call on a batch of 64 tokens each."""
    grid = Grid("bert-tiny", (contestant,), (Shape(1, 64),), "cpu", 1)
    store = ArtifactStore(artifacts)
    store.prepare()
    prepared = Preparation(grid, sources.resolve("bert-tiny"), store, 120, lambda line: None)
    prepared.make(with_references=False)
    worker = start_worker(prepared, contestant)

    def call(batch: int) -> dict[str, Any]:
        plan = prepared.judged_by.inputs(Shape(batch, 64))
        return worker.request({"op": "try_batch", "inputs_plan": plan}, 120)

    try:
        worker.request({"op": "hello"}, 120)
        worker.request({"op": "load"}, 120)
        yield worker, call
    finally:
        worker.kill()


@linux
@pytest.mark.parametrize(
    "backend",
    ["onnx", pytest.param("eager", marks=pytest.mark.slow), pytest.param("torchscript", marks=pytest.mark.slow)],
)
def test_beyond_the_limit_every_runtime_says_so_in_the_same_way(artifacts: Path, backend: str) -> None:
    """A batch of thousands needs more than 64 MiB beside the model; one of 1 goes through under the same limit."""
    with loaded_worker(artifacts, Candidate(backend, "default", "fp32")) as (worker, call):
        held = worker.request({"op": "survey"}, 120)
        assert held["data_bytes"] > 0
        worker.request({"op": "limit_memory", "limit_bytes": held["data_bytes"] + 64 * MIB}, 120)
        assert call(1)["peak_bytes"] > 0
        with pytest.raises(WorkerError) as caught:
            call(4096)
        assert (caught.value.status, caught.value.is_gone) == ("oom", False)


@linux
@pytest.mark.slow
def test_gradients_store_more_than_outputs(artifacts: Path) -> None:
    stored = {}
    for variant in ("default", "grad"):
        with loaded_worker(artifacts, Candidate("eager", variant, "fp32")) as (_, call):
            stored[variant] = (call(8)["stored_bytes"] - call(4)["stored_bytes"]) / 4
    output_bytes = 64 * 64 * 4
    # The hidden state; autograd also keeps the inputs of two layers' matrix products, four times as wide within.
    assert stored["default"] == pytest.approx(output_bytes, rel=0.1)
    assert stored["grad"] > 10 * output_bytes


@pytest.mark.filterwarnings("ignore")
def test_on_a_gpu_torchs_allocator_is_kept_within_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from backends.eager import Eager

    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5 * 2**30, 16 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    (tmp_path / "artifact.json").write_text('{"metadata": {"inputs": ["input_ids"], "outputs": ["logits"]}}')
    backend = Eager(open_checkpoint=lambda path, device, precision: SimpleNamespace())
    for options in ({}, {"memory_limit_bytes": 4 * 2**30}, {"memory_limit_bytes": 64 * 2**30}):
        backend.load(tmp_path, device="cuda", precision="fp32", threads=1, options=options)
    assert shares == [0.25, 1.0]


def death(signal: str) -> WorkerError:
    return WorkerError("failed", f"killed by {signal}", {"signal": signal}, is_gone=True)


class ScriptedWorker:
    """Answers each request; a call on a batch as scripted: figures, or an error to raise."""

    def __init__(self, outcomes: list[Any]) -> None:
        self.outcomes = outcomes

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        if message["op"] == "load":
            return {"memory": {}}
        if message["op"] != "try_batch":
            return {"data_bytes": MIB}
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return {"seconds": 0.1, "peak_bytes": outcome}

    def kill(self) -> None:
        """Nothing lives."""


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([5 * MIB], True),
        (
            [WorkerError("failed", "killed by SIGABRT", {"stderr": ["free(): invalid pointer"]}, is_gone=True), MIB],
            True,
        ),
        ([WorkerError("failed", "killed by SIGABRT", is_gone=True), WorkerError("oom", "no memory")], False),
        ([WorkerError("oom", "killed by the kernel", is_gone=True)], False),
        ([death("SIGABRT"), death("SIGABRT")], False),
        ([death("SIGABRT"), death("SIGKILL")], None),
        ([WorkerError("timeout", "no answer", is_gone=True)], None),
        ([WorkerError("failed", "a mistake")], None),
    ],
)
def test_a_death_is_tried_once_more_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcomes: list[Any], expected: bool | None
) -> None:
    contestant = Candidate("null", "default", "fp32")
    grid = Grid("bert-tiny", (contestant,), (Shape(1, 8),), "cpu", 1)
    prepared = Preparation(grid, sources.resolve("bert-tiny"), ArtifactStore(tmp_path), 60, lambda line: None)
    monkeypatch.setattr(tries_module, "start_worker", lambda *_: ScriptedWorker(outcomes))
    tries = tries_module.Tries(prepared, contestant, 8, 2 * MIB, 60)
    if expected is None:
        with pytest.raises(WorkerError):
            tries.fits(4)
        assert tries.made == []
    else:
        assert tries.fits(4) is expected
        assert [(one.batch, one.fits) for one in tries.made] == [(4, expected)]
    assert outcomes == []  # all that was scripted was asked for
