"""Faults × workloads: what each costs, what the file keeps of it, and what exit code and report say.

Workers live in this process, and faults strike where a process would be lost; one test has real ones.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backends.base import BackendError, OutOfMemoryError
from backends.eager import Eager
from bench import files, machine
from bench.errors import BenchError, UserError
from bench.process import channel, serving, timing
from bench.process.channel import WorkerError
from bench.report import console, documents
from bench.run import registry
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.workloads import load, memory
from tests import made
from tests.in_process import InThisProcess, here

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers in this process warn about themselves
TIMED = {"rounds": 2, "max_seconds_per_cell": "50ms", "warmup": "1ms", "max_warmup": "5ms", "target_precision": "90%"}
EAGER = {"model": "bert-tiny", "backends": "eager,eager:sdpa"}


@dataclass(frozen=True)
class Small:
    """A small run of a workload; of its two candidates the second one is struck."""

    options: dict[str, Any]
    points: int
    judged: dict[str, Any] | None = field(default_factory=dict)
    """What a run takes beside to be judged; None for a workload that judges no outputs."""
    larger: str = "skipped"
    """What becomes of the points behind one that ran out of memory."""
    out_of_memory: int = 0
    """The exit code then: it is a finding, unless nothing else was asked."""


SMALL = {
    "forward": Small({**TIMED, "shapes": "1x4,1x8,2x8"}, 3),
    "corpus": Small(
        {"synthetic": 5, "batches": "1,2", "orders": "unsorted,sorted", "rounds": 2, "warmup": "1ms"}, 4
    ),
    "load": Small({"rate": 400, "duration": "50ms", "rounds": 2}, 1),
    "coldstart": Small({"rounds": 2}, 2, {"caches": "warm"}, larger="oom"),
    "generate": Small(
        {**TIMED, "model": "gpt2-tiny", "prompt_length": 4, "new_tokens": 3, "batches": "1,2"}, 2,
        {"backends": "eager,eager:static", "model": "gpt2-tiny"},
    ),
    "memory": Small({"lengths": "8", "largest_batch": True, "max_batch": 2}, 2, None, out_of_memory=1),
    "parity": Small({**EAGER, "batches": "1,2", "lengths": "4"}, 2, out_of_memory=1),
}  # fmt: skip


@dataclass
class Fault:
    """What strikes the second candidate when it is asked for `op`, so many times."""

    op: str
    error: Exception
    times: int = 1

    def struck(self, worker: Faulty, op: str) -> bool:
        if op != self.op or not self.times or (worker.backend, worker.variant) in SOUND:
            return False
        self.times -= 1
        return True


SOUND = {("null", "50us"), ("eager", "default")}
REAL_WORKER = channel.Worker


class Faulty(InThisProcess):
    """A worker in this process that is lost, or whose backend raises, when the fault in `now` says so."""

    now: Fault | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if self.session is not None:
            self.backend, self.variant = self.session.args.backend, self.session.args.variant
            self.answer = self.answer_unless_struck

    def answer_unless_struck(self, request: dict[str, Any]) -> dict[str, Any]:
        def raising() -> dict[str, Any]:
            raise self.now.error

        if self.now and not isinstance(self.now.error, WorkerError) and self.now.struck(self, request["op"]):
            return channel.answered(raising)
        return self.session.answer(request)

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        if self.now and isinstance(self.now.error, WorkerError) and self.now.struck(self, message["op"]):
            raise self.now.error
        return super().request(message, timeout_seconds)


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    with here(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel, "Worker", Faulty)
        patch.setattr(timing, "SETTLE_NS", 0)
        fingerprint = machine.fingerprint()
        patch.setattr(machine, "fingerprint", lambda: dict(fingerprint))
        patch.setattr(serving, "WARMUP_SECONDS", 0.0)
        patch.setattr(load, "SECONDS_BESIDE", 0.1)
        patch.setattr(memory.memory, "limit_data", lambda limit: None)  # it would bound this process
        patch.setattr(memory.memory, "data_bytes", lambda: 1)
        yield


def options_of(name: str, path: Path, artifacts: Path, **more: Any) -> Any:
    given = {"model": "bert-tiny", "backends": "null:50us,null", "device": "cpu", "threads": 1, "timeout": 60}
    given |= {"output": str(path), "artifacts": str(artifacts), **SMALL[name].options, **more}
    return registry.load_class(name).Options.parsed(given)


def run_of(name: str, path: Path, artifacts: Path, listener: Listener | None = None, **more: Any) -> Run:
    return measure(registry.load_class(name), options_of(name, path, artifacts, **more), listener)


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Callable[[str], bytes]:
    """The file of a run without a fault, by workload."""
    found: dict[str, bytes] = {}

    def whole(name: str) -> bytes:
        if name not in found:
            path = tmp_path_factory.mktemp(name) / "run.jsonl"
            assert len(run_of(name, path, artifacts).records) == 2 * SMALL[name].points
            found[name] = path.read_bytes()
        return found[name]

    return whole


def lines_of(content: bytes, kind: str) -> list[int]:
    """Places of the lines of one kind."""
    return [place for place, line in enumerate(content.splitlines()) if json.loads(line)["kind"] == kind]


def said(run: Run) -> str:
    return " ".join(console.render(run).split())


every_workload = pytest.mark.parametrize("name", SMALL)


def test_the_table_has_every_workload() -> None:
    assert set(SMALL) == set(registry.BUILT_IN)


# What strikes one candidate.

KILLED = WorkerError("failed", "the worker was killed by SIGKILL after 0.1 s", {"signal": "SIGKILL"}, is_gone=True)
FAULTS = {
    "killed in begin": Fault("begin", KILLED),
    "killed in a turn": Fault("turn", KILLED),
    "hangs": Fault("turn", WorkerError("timeout", "no answer within 60 s; the worker was killed", is_gone=True)),
    "raises": Fault("turn", BackendError("it fails by design")),
    "out of memory": Fault("turn", OutOfMemoryError("tried to allocate 1.00 GiB", {"requested_bytes": 2**30}), 99),
}  # fmt: skip


@every_workload
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_cell_and_not_the_run(
    name: str, fault: str, tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "now", replace(FAULTS[fault]))
    small, error = SMALL[name], FAULTS[fault].error
    run = run_of(name, tmp_path / "run.jsonl", artifacts)
    sound, struck = ([one for one in run.records if one.candidate == who] for who in run.candidates)
    assert [one.status for one in sound] == ["ok"] * small.points
    assert (run.is_complete, run.integrity, len(struck)) == (True, "sealed", small.points)
    lost = struck[0]
    expected = error.status if isinstance(error, WorkerError) else "oom" if fault == "out of memory" else "failed"
    assert (lost.status, lost.parity) == (expected, {})
    assert lost.reason.startswith(str(error))
    if fault == "out of memory":
        assert [one.status for one in struck[1:]] == [small.larger] * (small.points - 1)
        assert lost.failure == {"requested_bytes": 2**30}
        if small.larger == "skipped" and small.points > 1:
            assert struck[1].reason == f"a smaller cell, {lost.point}, ran out of memory"
    else:
        assert [one.status for one in struck[1:]] == ["ok"] * (small.points - 1)
        assert lost.failure == (error.details if isinstance(error, WorkerError) else {})
    assert run.exit_code == (small.out_of_memory if fault == "out of memory" else 1)
    assert str(error) in said(run)
    row = next(one for one in run.rows() if (one["variant"], one["status"]) == (lost.candidate.variant, expected))
    assert (row["reason"], row.get("median_ms"), row["parity"]) == (lost.reason, None, None)
    assert read_run(tmp_path / "run.jsonl").records == run.records


@every_workload
def test_a_candidate_that_never_loads_costs_its_cells(
    name: str, tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "now", Fault("load", WorkerError("unsupported", "it never loads"), 99))
    run = run_of(name, tmp_path / "run.jsonl", artifacts)
    by_status = {status: [one for one in run.records if one.status == status] for status in ("ok", "unsupported")}
    assert [len(found) for found in by_status.values()] == [SMALL[name].points] * 2
    assert "did not load: it never loads" in said(run)
    assert run.exit_code == (1 if name == "parity" else 0)


def test_three_lost_workers_in_a_row_are_given_up(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "now", replace(FAULTS["hangs"], times=99))
    run = run_of("forward", tmp_path / "run.jsonl", artifacts, shapes="1x4,1x5,1x6,1x7,1x8")
    struck = [one for one in run.records if one.candidate.variant == "default"]
    assert [one.status for one in struck] == ["timeout"] * 3 + ["skipped"] * 2
    assert {one.reason for one in struck[3:]} == {"given up after 3 dead or hung workers in a row"}


def test_one_that_runs_out_of_memory_beside_others_is_tried_alone(tmp_path: Path, artifacts: Path) -> None:
    """The real fault of null, from batch 4 on."""
    lines: list[str] = []
    options = {"backends": "null,null:oom", "shapes": "1x8,4x8,4x16"}
    run = run_of("forward", tmp_path / "run.jsonl", artifacts, Listener(say=lines.append), **options)
    struck = [one for one in run.records if one.candidate.variant == "oom"]
    assert [one.status for one in struck] == ["ok", "oom", "skipped"]
    assert struck[1].reason == "null: Tried to allocate 1.00 GiB (also with no other worker loaded)"
    assert "null:oom has not enough memory at 4×8 beside the others; it is tried alone" in lines


def test_real_workers_die_hang_and_print(tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From batch 4 on."""
    monkeypatch.setattr(channel, "Worker", REAL_WORKER)
    options = {"backends": "null,null:crash,null:hang,null:chatty", "shapes": "1x8,4x8", "timeout": 5}
    run = run_of("forward", tmp_path / "run.jsonl", artifacts, **options)
    found = {who.variant: [one for one in run.records if one.candidate == who] for who in run.candidates}
    assert {name: [one.status for one in records] for name, records in found.items()} == {
        "default": ["ok", "ok"], "crash": ["ok", "failed"], "hang": ["ok", "timeout"], "chatty": ["ok", "ok"],
    }  # fmt: skip
    died, hung = found["crash"][1], found["hang"][1]
    assert "killed by SIGKILL" in died.reason
    assert died.failure["signal"] == "SIGKILL"
    assert "about to kill its own process" in died.failure["stderr"][-1]
    assert "no answer within 5 s" in hung.reason


@pytest.mark.parametrize("name", [name for name, small in SMALL.items() if small.judged is not None])
def test_wrong_outputs_are_broken_and_get_no_speed_up(
    name: str, tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references are made by a sound run; then the same model loads with weights that are off, or NaN."""
    import torch

    more = {**EAGER, "backends": "eager", **(SMALL[name].judged or {})}
    run = run_of(name, tmp_path / "sound.jsonl", artifacts, **more)
    assert run.exit_code == 0
    assert all(one.is_comparable and one.parity["cases"] for one in run.records)
    open_ = Eager.open
    for factor in (1.5, float("nan")):

        def open_wrongly(self: Eager, *args: Any, factor: float = factor) -> Any:
            module = open_(self, *args)
            with torch.no_grad():
                for weights in module.parameters():
                    weights *= factor
            return module

        monkeypatch.setattr(Eager, "open", open_wrongly)
        run = run_of(name, tmp_path / f"{factor}.jsonl", artifacts, **more)
        assert {one.verdict for one in run.records} == {"broken"}
        assert (run.exit_code, run.is_complete) == (3, True)
        assert [run.ratio(one) for one in run.records] == [None] * len(run.records)
        assert "broken" in said(run)


@pytest.mark.parametrize(("verdict", "code"), [("equivalent", 0), ("lossy", 1), ("unjudged", 1), ("broken", 3)])
def test_the_exit_code_is_that_of_the_worst_verdict(verdict: str, code: int) -> None:
    assert made.run_of([made.record("eager"), made.record("onnx", verdict=verdict)]).exit_code == code


# What ends a run, and how it goes on.


@every_workload
def test_ctrl_c_keeps_records_and_seals_and_the_run_goes_on(name: str, tmp_path: Path, artifacts: Path) -> None:
    def stop(run: Run, record: Record) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "run.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_of(name, path, artifacts, Listener(record=stop))
    stopped = read_run(path)
    assert (stopped.integrity, stopped.is_complete, len(stopped.records)) == ("sealed", False, 1)
    command = registry.load_class(name).Options.command
    assert f"Incomplete: 1 of {2 * SMALL[name].points} cells; bench {command} --resume" in said(stopped)
    found = resume(path, artifacts=artifacts)
    assert (found.is_complete, len(found.records), found.exit_code) == (True, 2 * SMALL[name].points, 0)
    assert found.records[:1] == stopped.records
    lines: list[str] = []
    resume(path, artifacts=artifacts, listener=Listener(say=lines.append))
    assert lines == [f"nothing is left to measure in {path}"]


@every_workload
def test_a_killed_run_goes_on_from_the_turns_that_are_there(
    name: str, tmp_path: Path, artifacts: Path, whole_runs: Callable[[str], bytes]
) -> None:
    """What a kill leaves: records, turns of open cells, half a line, no seal."""
    content, path = whole_runs(name), tmp_path / "run.jsonl"
    lines = content.splitlines(keepends=True)
    records, turns = lines_of(content, "record"), lines_of(content, "turn")
    for last in {turns[0], records[0], turns[-1]}:
        path.write_bytes(b"".join(lines[: last + 1]) + lines[-2][:20])
        cut = read_run(path)
        assert (cut.integrity, cut.is_complete) == ("cut", False)
        before = {cell: list(found) for cell, found in cut.turns.items()}
        assert len(cut.records) == sum(place <= last for place in records)
        assert sum(map(len, before.values())) + sum(len(one.turns) for one in cut.records) == sum(
            place <= last for place in turns
        )
        found = resume(path, artifacts=artifacts)
        assert (found.is_complete, found.exit_code, len(found.records)) == (True, 0, 2 * SMALL[name].points)
        assert found.records[: len(cut.records)] == cut.records
        for record in found.records:
            kept = before.get(record.cell, [])
            assert list(record.turns[: len(kept)]) == kept
            assert len({turn.outputs for turn in record.turns}) == 1  # the same inputs as before
        if last == turns[0] and "rounds" in SMALL[name].options:  # of cells that had turns left, rounds stay paired
            assert all(len({len(one.turns) for one in records}) == 1 for _, records in found.by_point())
        assert read_run(path).integrity == "sealed"


def test_references_that_could_not_be_computed_are_tried_again_by_a_resumed_run(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their process dies at every attempt of the first session, and at the first of the second."""
    deaths, work = [99], Faulty.work

    def dying(self: Faulty, message: dict[str, Any], timeout_seconds: float, *most: float) -> dict[str, Any]:
        if message["op"] == "call" and deaths[0]:
            deaths[0] -= 1
            raise KILLED
        return work(self, message, timeout_seconds, *most)

    def stop(run: Run, record: Record) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Faulty, "work", dying)
    path, lines = tmp_path / "run.jsonl", list[str]()
    with pytest.raises(KeyboardInterrupt):
        run_of("forward", path, artifacts, Listener(record=stop), **EAGER, seed=22)
    (first,) = read_run(path).records
    assert first.verdict == "unjudged"
    assert "SIGKILL" in first.parity["reason"]
    deaths[0] = 1
    found = resume(path, artifacts=artifacts, listener=Listener(say=lines.append))
    assert deaths == [0]
    assert [line for line in lines if line.endswith("starting another")]
    assert found.records[0] == first
    assert [one.is_comparable for one in found.records[1:]] == [True] * 5


@every_workload
def test_a_file_that_was_cut_or_altered_is_named(
    name: str, tmp_path: Path, artifacts: Path, whole_runs: Callable[[str], bytes]
) -> None:
    content, path = whole_runs(name), tmp_path / "run.jsonl"
    lines = content.splitlines(keepends=True)
    line = lines[lines_of(content, "turn")[0]]
    seconds = json.loads(line)["turn"]["seconds"]
    edited = content.replace(f'"seconds":{seconds}'.encode(), f'"seconds":{seconds + 1:.6f}'.encode(), 1)
    assert edited != content
    for damaged, integrity in (
        (content[:-20], "cut"), (b"".join(lines[:-1]), "cut"), (edited, "altered"), (content + line, "altered"),
        (content + b"x", "altered"),
    ):  # fmt: skip
        path.write_bytes(damaged)
        found = read_run(path)
        assert found.integrity == integrity
        assert {row["integrity"] for row in found.rows()} == {integrity}
        for text in (console.render(found), documents.as_markdown(found), documents.as_csv(found)):
            assert integrity in text.lower()
        if integrity == "altered":
            with pytest.raises(UserError, match="was altered after it was written"):
                resume(path, artifacts=artifacts)
            assert path.read_bytes() == damaged


@every_workload
def test_the_command_and_the_report_of_its_file_say_the_same(
    name: str, tmp_path: Path, artifacts: Path, cli_here: Callable[..., Any]
) -> None:
    path, small = tmp_path / "run.jsonl", SMALL[name]
    options = options_of(name, path, artifacts)
    done = cli_here(options.command, *options.words(), "--output", str(path))
    assert done.returncode == 0, done.stderr
    assert cli_here("report", str(path)).stdout == done.stdout
    again = cli_here(options.command, "--resume", str(path), "--json")
    assert [row["status"] for row in json.loads(again.stdout)["rows"]] == ["ok"] * 2 * small.points


@every_workload
def test_a_second_run_leaves_the_file_of_the_first_alone(
    name: str, tmp_path: Path, artifacts: Path, cli_here: Callable[..., Any]
) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("mine\n")
    options = options_of(name, path, artifacts)
    done = cli_here(options.command, *options.words(), "--output", str(path), "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"bench: output file {str(path)!r} exists; go on with --resume {path}, or give another")
    assert path.read_text() == "mine\n"


@every_workload
def test_a_full_disk_ends_the_run_in_one_line_and_it_goes_on(
    name: str, tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fsync, lost = tmp_path / "run.jsonl", os.fsync, list[int]()

    def full(descriptor: int) -> None:
        """Half of the second turn is on the disk when it is full, and remains so."""
        if lost or (path.exists() and path.read_bytes().count(b'{"kind":"turn"') > 1):
            lost.append(descriptor)
            os.truncate(path, path.stat().st_size - 20)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(BenchError, match=r"cannot be written \(No space left on device\); free some space and go"):
            run_of(name, path, artifacts)
    cut = read_run(path)
    assert (cut.integrity, sum(map(len, cut.turns.values())) + len(cut.records)) == ("cut", 1)
    found = resume(path, artifacts=artifacts)
    assert (found.is_complete, found.exit_code, read_run(path).integrity) == (True, 0, "sealed")


@every_workload
def test_a_budget_that_has_room_for_nothing_measures_one_point(name: str, tmp_path: Path, artifacts: Path) -> None:
    lines: list[str] = []
    run = run_of(name, tmp_path / "run.jsonl", artifacts, Listener(say=lines.append), budget="1ms")
    assert any(line.startswith(f"--budget 0.001s has time for 1 of {SMALL[name].points} ") for line in lines)
    measured = [one for one in run.records if one.status == "ok"]
    left_out = [one for one in run.records if one.status != "ok"]
    assert len({one.point for one in measured}) == 1
    assert len(measured) == 2
    assert {(one.status, one.reason) for one in left_out} <= {("skipped", "left out by --budget 0.001s")}
    assert (run.is_complete, len(run.records)) == (True, 2 * SMALL[name].points)
    assert run.exit_code == (1 if name == "parity" else 0)
    assert not any("--budget" in run.repeat(one) for one in run.records)
