"""`bench memory`: what a loaded model holds, the arithmetic beside it, and the search for the largest batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import UserError
from bench.machine import memory
from bench.options import size_bytes
from bench.process.channel import WorkerError
from bench.report import console
from bench.run import batch_search, held
from bench.run.batch_search import Boundary
from bench.run.experiment import measure, model_of
from bench.run.preparation import Preparation
from bench.run.record import Model, Record, Run, Turn
from bench.workloads import memory as workload
from bench.workloads.memory import Extent, Memory, MemoryOptions, settled_limit
from exporters import sources
from exporters.store import ArtifactStore
from tests.in_process import here
from tests.made import candidate, run_of

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and RLIMIT_DATA")


def measured(tmp_path: Path, backends: str, **given: Any) -> Run:
    options = {"model": "bert-tiny", "lengths": [8], "device": "cpu", "threads": 1, "timeout": 60}
    options |= {"output": tmp_path / "m.jsonl", "artifacts": tmp_path / "artifacts", "backends": backends}
    return measure(Memory, MemoryOptions.parsed(options | given))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the limit, which would bound this process; a loaded model takes 2 MiB of it."""
    monkeypatch.setattr(memory, "limit_data", lambda limit: None)
    monkeypatch.setattr(memory, "data_bytes", lambda: 2 * MIB)
    with here():
        yield


def boundary_of(record: Record, run: Run) -> Boundary | None:
    assert isinstance(run.workload, Memory)
    return run.workload.boundary(record)


def words(run: Run) -> str:
    """The report in one line; each of its lines is within 80 columns."""
    text = console.render(run)
    assert max(len(line) for line in text.splitlines() if not line.startswith("records: ")) <= 80
    return " ".join(text.split())


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


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("4gb", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("512", 512), (77, 77), ("1KiB", 1024)],
)
def test_sizes_with_their_units(text: str | int, size: int) -> None:
    assert size_bytes(text, "--memory-limit") == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1e9", "8 GB GB", "1.2.3", "8iB", "GiB", "٣GB", "9" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--memory-limit .* is no size"):
        size_bytes(text, "--memory-limit")


GPT2 = Model("gpt2", "seeded random (seed 0)", "random", "c0ffee", "base", 1024)


def loaded(parameters: int, process: int, kind: str = "cpu", **more: int) -> Record:
    bytes_held = {"parameters_bytes": parameters, "reserved_bytes": 100, "allocated_bytes": 90}
    bytes_held |= {"process_bytes" if kind == "cpu" else "device_process_bytes": process}
    in_bytes = {name: size * MIB for name, size in (bytes_held | more).items()}
    return Record(Extent(), candidate("eager"), "ok", turns=(Turn(0),), memory={"loaded": in_bytes})


def searched(variant: str, largest: int, stored: float, failure: dict[str, Any] | None = None) -> Record:
    """A search up to `largest`: 90 MiB of peak and `stored` MiB of outputs for each sequence more."""
    turns: list[Turn] = []
    while isinstance(step := batch_search.next_step(turns, 4096), int):
        grown = {"peak_bytes": (1000 + 90 * step) * MIB, "stored_bytes": round((9 + stored * step) * MIB)}
        refused = {"reason": "no memory", "failure": failure or {}}
        fits = step <= largest
        turns.append(
            Turn(len(turns), figures={"batch": step, "fits": fits, **(grown if fits else refused)}, seconds=1.0)
        )
    return Record(Extent(512), candidate(f"eager:{variant}"), "ok", turns=tuple(turns))


def run_on(kind: str, *records: Record, **options: Any) -> Run:
    is_searching = any(record.point.length for record in records)
    options = {"lengths": [512], "largest_batch": is_searching, **options}
    options |= {"memory_limit": "4GiB"} if is_searching else {}
    notes = {"keys_and_values": {"layers": 12, "heads": 12, "head_width": 64}}
    return run_of(records, Memory, model=GPT2, notes=notes, device=kind, **options)


def test_the_runtime_is_what_is_neither_reserved_nor_mapped() -> None:
    one = loaded(475, 377, mapped_bytes=475, mapped_resident_bytes=2)
    run = run_on("cpu", one)
    assert held.unread_bytes(run, one) == 473 * MIB
    assert held.context_bytes(run, one) == (377 - 100 - 2) * MIB
    assert held.beside_parameters_bytes(run, one) == (377 + 473 - 475) * MIB
    card = loaded(475, 1255, "cuda", mapped_bytes=475, mapped_resident_bytes=2)
    run = run_on("cuda", card)
    assert held.unread_bytes(run, card) == 0
    assert held.context_bytes(run, card) == 1155 * MIB
    assert held.beside_parameters_bytes(run, card) == 780 * MIB
    bare = replace(one, memory={})
    assert (held.context_bytes(run, bare), held.beside_parameters_bytes(run, bare)) == (None, None)


def test_a_process_is_explained_by_its_parts_and_by_what_was_published() -> None:
    """The figures of the seed: 1255 MiB of process on a card for GPT-2, whose weights and rounding are 542."""
    text = words(run_on("cuda", loaded(487, 1255, "cuda"), tf32=True))
    assert (
        "eager: the process takes 1255 MiB, of which parameters and buffers are 487 and 768 are beside them - p" in text
    )
    assert "published, RTX 3090, 23.69 GiB: 1255 MiB of process, of which 542 are weights" in text
    assert "713 CUDA context and kernels" in text
    assert "2 threads, TF32" in text


def test_memory_per_sequence_is_between_batches_and_not_of_one() -> None:
    """A constant of 1000 cancels; a batch that did not fit has no say, nor has one that is nearer than half."""
    made = [(1, 1100), (4, 1400), (7, 1700)]
    turns = [Turn(0, figures={"batch": batch, "fits": True, "peak_bytes": peak}) for batch, peak in made]
    turns.append(Turn(0, figures={"batch": 8, "fits": False}))
    one = replace(searched("default", 7, 1.0), turns=tuple(turns))
    assert batch_search.bytes_per_sequence(one, "peak_bytes") == 100.0
    assert batch_search.bytes_per_sequence(one, "stored_bytes") is None
    assert batch_search.bytes_per_sequence(replace(one, turns=tuple(turns[:1])), "peak_bytes") is None


def test_gradients_are_held_against_none_and_against_what_was_published() -> None:
    with_gradients = searched("grad", 6, 600.0, {"requested_bytes": 18 * MIB})
    run = run_on("cpu", searched("default", 37, 1.5), with_gradients)
    run.model = replace(GPT2, name="gpt")
    text = words(run)
    assert "at 512, fp32: with gradients a sequence stores 600 MiB, without 1.5; 6 against 37 fit" in text
    assert "(published, RTX 3090, 23.69 GiB: 648 MiB with gradients)" in text
    assert "Largest batch within 4.0 GiB" in text
    assert "eager:grad 512 6 90 600 18" in text
    assert "each found its boundary, and found it again" in text
    row = run.rows()[1]
    assert (row["length"], row["largest_batch"], row["ended_by"], row["too_large_batch"]) == (512, 6, "boundary", 7)
    assert (row["peak_bytes_per_sequence"], row["requested_bytes"]) == (90 * MIB, 18 * MIB)


def test_a_worker_that_ended_itself_is_told() -> None:
    failure = {"signal": "SIGABRT", "stderr": ["x", "free(): invalid pointer"]}
    text = words(run_on("cpu", searched("default", 7, 1.0, failure)))
    assert "at batch 8 the worker ended itself (SIGABRT: free(): invalid pointer), which is taken for want" in text


@pytest.mark.parametrize(
    ("tries", "options", "shown"),
    [
        ([(1, True), (2, True), (3, True), (3, True)], {"max_batch": 3}, "the search ended at --max-batch, which fits"),
        ([(1, True), (2, True), (4, False)], {"max_seconds_per_search": 3}, "-search; batch 4 does not fit"),
        ([(1, True), (2, True), (2, False), (1, True), (2, True)], {"max_batch": 2}, "batch 2 fitted once and another"),
        ([(1, True), (2, False), (1, True)], {"max_seconds_per_search": 3}, "no time to try the boundary again"),
    ],
)
def test_what_ended_a_search_is_said(tries: list[tuple[int, bool]], options: dict[str, Any], shown: str) -> None:
    turns = [
        Turn(number, figures={"batch": batch, "fits": fits}, seconds=1.0) for number, (batch, fits) in enumerate(tries)
    ]
    run = run_on("cpu", replace(searched("default", 7, 1.0), turns=tuple(turns)), **options)
    text = words(run)
    assert shown in text
    ended = boundary_of(run.records[0], run)
    assert ended is not None
    assert (f"at least {ended.largest}" in text) == (ended.ended_by != "boundary")


# Whole runs on the backend that computes nothing.


@linux
def test_the_largest_batch_is_found_between_what_fits_and_what_does_not(tmp_path: Path) -> None:
    run = measured(tmp_path, "null:oom", largest_batch=True, memory_limit="1GiB")
    one, search = run.records
    assert (search.status, boundary_of(search, run)) == ("ok", Boundary(3, 4, "boundary", True, True))
    assert [(turn.figures["batch"], turn.figures["fits"]) for turn in search.turns] == [
        (1, True), (2, True), (4, False), (3, True), (3, True), (4, False),
    ]  # fmt: skip
    row = run.rows()[1]
    assert row["requested_bytes"] == 2**30
    assert 0 < row["taken_bytes"] < row["memory_limit"] == 2**30
    assert row["stored_bytes_per_sequence"] is None  # it does not run with gradients
    assert row["peak_bytes_per_sequence"] is not None
    held_bytes = one.memory["loaded"]
    assert held_bytes["process_bytes"] > held_bytes["reserved_bytes"] > 0
    assert held_bytes["process_before_bytes"] > 0
    assert run.exit_code == 0
    assert run.command.endswith("--lengths 8 --largest-batch --memory-limit 1073741824")
    text = words(run)
    assert "null:oom 8 3" in text
    assert "disturbed" not in text  # nothing was timed


@pytest.mark.usefixtures("in_this_process")
def test_another_failure_ends_the_search_with_what_is_known(tmp_path: Path) -> None:
    run = measured(tmp_path, "null:fail", largest_batch=True, memory_limit="1GiB")
    search = run.records[1]
    assert (search.status, run.exit_code) == ("failed", 1)
    assert "null:fail fails by design" in search.reason
    assert boundary_of(search, run) == Boundary(2, None, "failure", False, True)
    assert [turn.figures["batch"] for turn in search.turns] == [1, 2]
    assert "at least 2" in words(run)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("options", "ended", "code"),
    [
        ({"memory_limit": "1MiB"}, Boundary(0, None, "above-limit", True, True), 2),
        ({"max_seconds_per_search": "1ms"}, Boundary(1, None, "time", False, True), 0),
        ({"max_batch": 3}, Boundary(3, None, "most", True, True), 0),
    ],
)
def test_a_search_without_a_boundary(tmp_path: Path, options: dict[str, Any], ended: Boundary, code: int) -> None:
    run = measured(tmp_path, "null", largest_batch=True, **options)
    assert (boundary_of(run.records[1], run), run.exit_code) == (ended, code)
    assert run.rows()[1]["memory_limit"] >= MIB
    said = "the loaded model alone takes 2 MiB, and the limit is 1 MiB" in words(run)
    assert said == (ended.ended_by == "above-limit")


def test_gradients_take_part_in_a_search_if_eager_does() -> None:
    found = (candidate("eager"), candidate("null"))
    options = MemoryOptions(largest_batch=True)
    assert [one.label for one in Memory.candidates(options, found)] == ["eager", "eager:grad", "null"]
    assert Memory.candidates(options, found[1:]) == found[1:]
    assert Memory.candidates(MemoryOptions(), found) == found


def test_without_a_limit_what_is_free_is_left_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload.machine, "available_memory_bytes", lambda: 10 * 2**30)
    assert settled_limit(None, "cpu") == 9 * 2**30
    monkeypatch.setattr(workload.machine, "available_memory_bytes", lambda: 2**30)
    assert settled_limit(None, "cpu") == 2**29
    monkeypatch.setattr(workload.machine, "gpus", lambda: [{"free_bytes": 4 * 2**30}])
    assert settled_limit(None, "cuda") == 3 * 2**30
    monkeypatch.setattr(workload.machine, "available_memory_bytes", lambda: 2**28)
    with pytest.raises(UserError, match=r"only 0\.2 GiB of memory are free"):
        settled_limit(None, "cpu")


# What a try comes to.

DEATH = {
    status: WorkerError("failed", f"killed by {status}", {"signal": status}, is_gone=True)
    for status in ("SIGABRT", "SIGKILL")
}
TAKEN = {"batch": 1, "fits": True}
DIED = {"batch": 2, "fits": None}


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
    assert batch_search.ran_out(error) is expected


@pytest.mark.parametrize(
    ("taken", "error", "expected"),
    [
        ([TAKEN], WorkerError("oom", "no memory"), {"fits": False, "is_above_limit": False}),
        ([TAKEN], WorkerError("oom", "killed by the kernel", is_gone=True), {"fits": False, "is_above_limit": False}),
        ([], WorkerError("oom", "x did not load", {"during": "load"}), {"fits": False, "is_above_limit": True}),
        ([], WorkerError("oom", "takes 9 MiB", {"taken_bytes": 9}), {"fits": False, "is_above_limit": True}),
        ([TAKEN], DEATH["SIGABRT"], {"fits": None}),
        ([TAKEN], DEATH["SIGKILL"], {"fits": None}),
        ([TAKEN, DIED], DEATH["SIGABRT"], {"fits": False}),
        ([TAKEN, DIED], WorkerError("oom", "no memory"), {"fits": False, "is_above_limit": False}),
        ([TAKEN, DIED], DEATH["SIGKILL"], None),
        ([TAKEN], WorkerError("timeout", "no answer", is_gone=True), None),
        ([TAKEN], WorkerError("failed", "a mistake"), None),
    ],
)
def test_a_death_is_tried_once_more_and_nothing_else_is(
    taken: list[dict[str, Any]], error: WorkerError, expected: dict[str, Any] | None
) -> None:
    turns = [Turn(number, figures=figures) for number, figures in enumerate(taken)]
    reply = Memory(MemoryOptions(largest_batch=True)).survived(Extent(8), candidate("null"), turns, error)
    if expected is None:
        assert reply is None
    else:
        batch = 1 if not taken else 2
        said = {"batch": batch, "reason": error.reason, "failure": error.details}
        assert reply == {"figures": {**said, **expected}}


def test_a_model_that_does_not_load_survives_nothing() -> None:
    assert Memory(MemoryOptions()).survived(Extent(), candidate("null"), [], WorkerError("oom", "no memory")) is None


# The real runtimes.


@contextmanager
def begun(artifacts: Path, label: str, room_bytes: int) -> Iterator[Callable[[int], dict[str, Any]]]:
    """A call on a batch of 64 tokens each, in a worker that may take `room_bytes` more than bert-tiny takes loaded."""
    store, source, one = ArtifactStore(artifacts), sources.resolve("bert-tiny"), candidate(label)
    options = MemoryOptions(model="bert-tiny", device="cpu", threads=1, lengths=(64,), largest_batch=True)
    run = Run(Memory(options), model_of(source), (one,), {}, "")
    prepared = Preparation(run, source, store, lambda line: None)
    prepared.make(())
    worker = prepared.start(one)
    try:
        worker.request({"op": "hello"}, 120)
        taken = worker.request({"op": "load"}, 120)["memory"]["data_bytes"]
        request = Memory(replace(options, memory_limit=taken + room_bytes)).begin(Extent(64), source)
        worker.request({"op": "begin", "key": "0", "cell": Memory.cell, "request": request}, 120)
        yield lambda batch: worker.request({"op": "turn", "key": "0", "request": {"batch": batch}}, 120)["figures"]
    finally:
        worker.kill()


@linux
@pytest.mark.parametrize(
    "backend",
    ["onnx", pytest.param("eager", marks=pytest.mark.slow), pytest.param("torchscript", marks=pytest.mark.slow)],
)
def test_beyond_the_limit_every_runtime_says_so_in_the_same_way(artifacts: Path, backend: str) -> None:
    """A batch of thousands needs more than 64 MiB beside the model; one of 1 goes through under the same limit."""
    with begun(artifacts, backend, 64 * MIB) as call:
        assert call(1)["peak_bytes"] > 0
        with pytest.raises(WorkerError) as caught:
            call(4096)
        assert (caught.value.status, caught.value.is_gone) == ("oom", False)


@linux
@pytest.mark.slow
def test_gradients_store_more_than_outputs(artifacts: Path) -> None:
    stored = {}
    for variant in ("default", "grad"):
        with begun(artifacts, f"eager:{variant}", 2**33) as call:
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
    searching = Memory(MemoryOptions(device="cuda", largest_batch=True, memory_limit=4 * 2**30))
    options = [searching.load_options(point, candidate("eager")) for point in (Extent(), Extent(8))]
    for one in (*options, {"memory_limit_bytes": 64 * 2**30}):
        backend.load(tmp_path, device="cuda", precision="fp32", threads=1, options=one)
    assert shares == [0.25, 1.0]
    assert searching.load_options(Extent(8), candidate("null")) == {}  # the cell then says that it cannot be limited
