"""Whole runs on scripted backends: turns, containment of every fault, records on disk, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bench
from bench import driver as driver_module
from bench import workers as workers_module
from bench.api import Listener
from bench.errors import BenchError, UserError
from bench.records import STATUSES, is_unsteady
from bench.runfile import read_run
from bench.spec import TimingPlan
from bench.statistics import median
from exporters.store import ArtifactStore

FAST = TimingPlan(rounds=3, seconds_per_cell=0.03, warmup_seconds=0.0, warmup_most_seconds=0.02, timeout_seconds=60)


@pytest.fixture(autouse=True)
def no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses for the machine's sake, between turns or to see what else runs: scripted backends heat nothing."""
    monkeypatch.setattr(driver_module, "REST_SECONDS", 0.0)
    monkeypatch.setattr("bench.machine.busy_share", lambda: 0.0)


def run(
    tmp_path: Path, backends: str, batches=(1, 4), lengths=(8, 16), plan: TimingPlan = FAST, **options
) -> bench.Run:
    return bench.compare(
        "bert-tiny", backends=backends, batches=batches, lengths=lengths, device="cpu", plan=plan, threads=1,
        artifacts=tmp_path / "artifacts", output=tmp_path / "run.jsonl", **options,
    )  # fmt: skip


def statuses(done: bench.Run, backend: str) -> list[str]:
    return [record.status for record in done.records if record.contestant.label == backend]


def test_every_planned_cell_has_one_record_on_disk(tmp_path: Path) -> None:
    done = run(tmp_path, "null,null:slow")
    cells = [(record.shape, record.contestant) for record in done.records]
    assert cells == list(done.grid.cells())
    again = read_run(tmp_path / "run.jsonl")
    assert again.records == done.records
    assert (again.grid, again.plan, again.is_complete) == (done.grid, done.plan, True)
    assert done.exit_code == 0
    for record in done.records:
        assert record.status == "ok"
        assert len(record.rounds) == 3
        assert all(record.rounds)
        assert record.first_call_ns
        assert record.load_seconds is not None
        assert record.repeat.startswith("bench compare --model bert-tiny --backends null")


def test_the_scripted_times_are_measured_and_compared(tmp_path: Path) -> None:
    plan = TimingPlan(rounds=3, seconds_per_cell=0.6, warmup_calls=1, warmup_seconds=0.0)
    done = run(tmp_path, "null:slow,null", batches=[1], lengths=[8], plan=plan)
    slow, fast = done.rows()
    assert slow["median_ms"] >= 20
    assert 1 <= fast["median_ms"] < slow["median_ms"]
    assert slow["speedup"] == 1.0
    baseline, other = done.records
    by_round = [median(b) / median(o) for b, o in zip(baseline.rounds, other.rounds, strict=True)]
    ratio = done.ratio(other)
    assert ratio is not None
    assert ratio.value == pytest.approx(median(by_round))
    assert fast["speedup"] == (None if is_unsteady(ratio) else ratio.value)


def test_nothing_is_exported_for_a_backend_without_a_model(tmp_path: Path) -> None:
    run(tmp_path, "null", batches=[1], lengths=[8])
    assert ArtifactStore(tmp_path / "artifacts").paths() == []


@pytest.mark.parametrize(
    ("variant", "expected", "reason"),
    [
        ("crash", ["ok", "ok", "failed", "failed"], "killed by SIGKILL"),
        ("fail", ["ok", "ok", "failed", "failed"], "fails by design"),
        ("oom", ["ok", "ok", "oom", "skipped"], "also with no other worker loaded"),
        ("unloadable", ["unsupported"] * 4, "never loads"),
        ("chatty", ["ok"] * 4, ""),
    ],
)
def test_a_fault_costs_its_cells_and_not_the_run(
    tmp_path: Path, variant: str, expected: list[str], reason: str
) -> None:
    done = run(tmp_path, f"null,null:{variant}")
    assert statuses(done, "null") == ["ok"] * 4
    assert statuses(done, f"null:{variant}") == expected
    faulty = [record for record in done.records if record.status != "ok"]
    assert all(record.repeat and not record.rounds for record in faulty)
    assert all(record.status in STATUSES for record in faulty)
    if reason:
        assert reason in faulty[0].reason
    assert done.exit_code == (1 if "failed" in expected else 0)


def test_an_out_of_memory_cell_keeps_its_figures_and_larger_ones_say_why_they_are_skipped(tmp_path: Path) -> None:
    done = run(tmp_path, "null:oom", batches=[1, 4, 8], lengths=[8])
    small, first, larger = done.records
    assert (small.status, first.status, larger.status) == ("ok", "oom", "skipped")
    assert first.failure == {"requested_bytes": 2**30}
    assert larger.reason == "a smaller cell, 4×8, ran out of memory"


def test_a_crash_is_described_in_the_record(tmp_path: Path) -> None:
    done = run(tmp_path, "null:crash", batches=[4], lengths=[8])
    failure = done.records[0].failure
    assert failure["signal"] == "SIGKILL"
    assert "about to kill its own process" in failure["stderr"][-1]
    assert failure["seconds"] >= 0


def test_a_hung_worker_is_a_timeout_and_three_in_a_row_end_it(tmp_path: Path) -> None:
    quick = TimingPlan(rounds=1, seconds_per_cell=0.01, warmup_calls=1, warmup_seconds=0.0, timeout_seconds=2)
    done = run(tmp_path, "null:hang", batches=[1, 4], lengths=[4, 8, 12, 16], plan=quick)
    assert statuses(done, "null:hang") == ["ok"] * 4 + ["timeout"] * 3 + ["skipped"]
    assert "given up after 3" in done.records[-1].reason
    assert done.exit_code == 1


@pytest.mark.parametrize("op", ["begin", "turn", "judge"])
def test_a_worker_killed_from_outside_costs_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    ask = driver_module.Driver._ask
    killed = []

    def kill_once(self, contestant, cell, message):
        if message["op"] == op and contestant.variant == "slow" and not killed:
            killed.append(self.workers.loaded[contestant].pid)
            self.workers.loaded[contestant]._process.kill()
        return ask(self, contestant, cell, message)

    monkeypatch.setattr(driver_module.Driver, "_ask", kill_once)
    done = run(tmp_path, "null,null:slow")
    assert len(killed) == 1
    assert statuses(done, "null") == ["ok"] * 4
    assert statuses(done, "null:slow") == ["failed", "ok", "ok", "ok"]


def test_a_worker_lost_while_starting_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, lost = workers_module.start, []

    def start_and_lose(backend, variant, *rest):
        worker = start(backend, variant, *rest)
        if variant == "slow" and len(lost) < 2:
            lost.append(worker.pid)
            worker._process.kill()
        return worker

    monkeypatch.setattr(workers_module, "start", start_and_lose)
    done = run(tmp_path, "null,null:slow")
    assert statuses(done, "null:slow") == ["failed", "ok", "ok", "ok"]  # started again at once, and at the next shape
    assert "did not load: the worker was killed by SIGKILL" in done.records[1].reason


def test_every_contestant_that_ran_out_of_memory_is_tried_alone(tmp_path: Path) -> None:
    done = run(tmp_path, "null:oom,null,null:oom", batches=[4], lengths=[8])
    again = run(tmp_path / "two", "null,null:oom", batches=[4], lengths=[8], precisions="fp32,bf16")
    for records in (done.records, again.records):
        lost = [record for record in records if record.status == "oom"]
        assert lost
        assert all("also with no other worker loaded" in record.reason for record in lost)


def test_resuming_with_other_weights_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "null", batches=[1], lengths=[8])
    path = tmp_path / "run.jsonl"
    header, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | {"checkpoint": "0" * 16}), *rest]) + "\n")
    with pytest.raises(UserError, match="begun with other weights or libraries"):
        bench.resume(path, artifacts=tmp_path / "artifacts")


def test_a_run_that_is_being_written_is_not_resumed(tmp_path: Path) -> None:
    run(tmp_path, "null", batches=[1], lengths=[8])
    store = ArtifactStore(tmp_path / "artifacts")
    with store.alone_with(tmp_path / "run.jsonl"), pytest.raises(UserError, match="is being written by another bench"):
        bench.resume(tmp_path / "run.jsonl", artifacts=tmp_path / "artifacts")


def test_workers_that_do_not_fit_together_run_one_after_another(tmp_path: Path, monkeypatch) -> None:
    load = workers_module.Workers.load

    def crowded(self, contestants):
        load(self, contestants)
        if len(self.loaded) > 1:
            self._refuse(contestants[-1], driver_module.WorkerError("oom", "no room"))

    monkeypatch.setattr(workers_module.Workers, "load", crowded)
    done = run(tmp_path, "null,null:slow", batches=[1])
    assert [(record.status, record.turns) for record in done.records] == [("ok", "sequential")] * 4


def test_turns_are_interleaved_in_a_seeded_random_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    ask = driver_module.Driver._ask

    def note(self, contestant, cell, message):
        if message["op"] == "turn":
            order.append(contestant.variant)
        return ask(self, contestant, cell, message)

    monkeypatch.setattr(driver_module.Driver, "_ask", note)
    # No ceiling of seconds and no precision to wait for: six rounds, whatever the machine does meanwhile.
    plan = TimingPlan(rounds=6, seconds_per_cell=60, warmup_seconds=0.0, samples_per_turn=3, target_precision=0.999)
    orders = []
    for name in ("one", "two"):
        order.clear()
        run(tmp_path / name, "null,null:slow,null:instant", batches=[1], lengths=[8], plan=plan, seed=3)
        orders.append(list(order))
    rounds = [tuple(orders[0][start : start + 3]) for start in range(0, 18, 3)]
    assert all(sorted(turns) == ["default", "instant", "slow"] for turns in rounds)
    assert len(set(rounds)) > 1
    assert orders[0][:18] == orders[1][:18]  # a very busy machine may add rounds to one of them


def test_without_memory_for_all_they_run_one_after_another_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.machine.available_memory_bytes", lambda: 2**30)
    said: list[str] = []
    done = run(tmp_path, "null,null:slow", batches=[1], listener=Listener(say=said.append))
    assert any("does not hold all workers" in line for line in said)
    assert [record.turns for record in done.records] == ["sequential"] * 4
    assert all(any("timed apart" in warning for warning in record.warnings) for record in done.records)
    assert {(record.shape, record.contestant) for record in done.records} == set(done.grid.cells())


def test_an_interrupted_run_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    whole = run(tmp_path, "null,null:slow")
    path = tmp_path / "run.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    # Header, one whole shape, half of the next, and a line torn by a kill.
    path.write_text("".join(lines[:4]) + lines[4][: len(lines[4]) // 2])
    kept = [json.loads(line) for line in lines[1:3]]
    assert len(read_run(path).records) == 3
    resumed = bench.resume(path, artifacts=tmp_path / "artifacts")
    again = read_run(path)
    assert again.is_complete
    assert again.records == resumed.records
    assert [(r.shape, r.contestant) for r in again.records] == [(r.shape, r.contestant) for r in whole.records]
    for before, after in zip(kept, again.records[:2], strict=True):
        assert before["rounds"] == after.rounds


def test_a_complete_run_is_left_as_it_is_by_resuming(tmp_path: Path) -> None:
    done, said = run(tmp_path, "null", batches=[1], lengths=[8]), []
    before = (tmp_path / "run.jsonl").read_bytes()
    again = bench.resume(tmp_path / "run.jsonl", artifacts=tmp_path / "artifacts", listener=Listener(say=said.append))
    assert (tmp_path / "run.jsonl").read_bytes() == before
    assert again.records == done.records
    assert "nothing is left to measure" in said[0]


def test_a_run_of_an_older_bench_is_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path, "null", lengths=[8])
    path = tmp_path / "run.jsonl"
    header, first, *_ = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | {"schema": 1}), first]) + "\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"begun by an older bench \(schema 1\)"):
        bench.resume(path, artifacts=tmp_path / "artifacts")
    assert path.read_bytes() == before


def test_resuming_on_another_machine_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "null", batches=[1], lengths=[8])
    path = tmp_path / "run.jsonl"
    header, *rest = path.read_text().splitlines()
    other = json.loads(header)
    other["fingerprint"]["cpu"] = "Another CPU"
    path.write_text("\n".join([json.dumps(other), *rest]) + "\n")
    with pytest.raises(UserError, match=r"begun on another machine \(cpu differ\)"):
        bench.resume(path, artifacts=tmp_path / "artifacts")


def test_an_existing_output_is_never_overwritten(tmp_path: Path) -> None:
    run(tmp_path, "null", batches=[1], lengths=[8])
    before = (tmp_path / "run.jsonl").read_text()
    with pytest.raises(UserError, match="exists; go on with --resume"):
        run(tmp_path, "null", batches=[1], lengths=[8])
    assert (tmp_path / "run.jsonl").read_text() == before


def test_a_full_disk_stops_the_run_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"'/dev/full' cannot be written \(No space left on device\)"):
        bench.compare("bert-tiny", backends="null", device="cpu", output="/dev/full", plan=FAST, artifacts=tmp_path)


def test_the_parent_waits_without_spinning(tmp_path: Path) -> None:
    """Every run records the share; what is asserted is generous, for a busy machine."""
    plan = TimingPlan(rounds=3, seconds_per_cell=3.0)
    done = run(tmp_path, "null:slow", batches=[1], lengths=[8], plan=plan)
    assert done.parent_cpu_share is not None
    assert done.parent_cpu_share < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": "nul"}, "did you mean 'null'"),
        ({"batches": "0"}, "--batches 0"),
        ({"lengths": "129"}, "length 129 exceeds the 128 positions of bert-tiny"),
        ({"threads": 100000}, "--threads 100000"),
        ({"threads": 0}, "--threads 0"),
        ({"device": "cuda"}, "--device cuda"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 10**30}, "--seed 1000000000000000000000000000000 is not within"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path: Path, options: dict, message: str, monkeypatch) -> None:
    monkeypatch.setattr("bench.machine.gpus", list)
    defaults = {"backends": "null", "device": "cpu", "artifacts": tmp_path / "a", "output": tmp_path / "run.jsonl"}
    with pytest.raises(UserError) as caught:
        bench.compare("bert-tiny", **(defaults | options))
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
