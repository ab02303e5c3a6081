"""Passes over a corpus: the worker's part, whole runs on scripted and tiny backends, what a stopped run goes on from."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.base import UnsupportedError
from backends.null import Null
from bench import statistics
from bench.errors import UserError
from bench.packing import UNSORTED, Packing
from bench.parity import inputs, judging
from bench.parity.verdict import TOLERANCES, Tolerance, verdict, worst_case
from bench.process import channel
from bench.process.channel import Worker
from bench.run import driver as driver_module
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.workloads import one_by_one
from bench.workloads.corpus import Corpus, CorpusCell, CorpusOptions
from tests.in_process import InThisProcess

BATCH_1 = Packing(1, UNSORTED)
EXACT = {"atol": 0.0, "rtol": 0.0}


def run(folder: Path, backends: str, listener: Listener | None = None, **options: Any) -> Run:
    given = {
        "model": "bert-tiny", "backends": backends, "synthetic": 9, "batches": "1,4", "orders": "unsorted",
        "device": "cpu", "threads": 1, "rounds": 2, "warmup": "1ms", "timeout": "2m", "output": folder / "run.jsonl",
        "artifacts": str(folder / "artifacts"),
    }  # fmt: skip
    return measure(Corpus, CorpusOptions.parsed(given | options), listener)


# A worker's part.


class Counting(Null):
    """Holds on to outputs until they are released, and says that it compiles shapes."""

    has_static_shapes = True

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] = []
        self.most_held = self.kept = 0
        self.load(None, device="cpu", precision="fp32", threads=1, options={"seconds": 0.0})

    def keep_shapes(self, count: int) -> None:
        self.kept = count

    def run(self, prepared: Any) -> Any:
        self.held.append(prepared)
        self.most_held = max(self.most_held, len(self.held))
        return super().run(prepared)

    def release(self, outputs: Any) -> None:
        self.held.pop()


BATCHES = [
    {"rows": [[1, 2, 3], [4]], "length": 3},
    {"rows": [[5] * 8] * 2, "length": 8},
    {"rows": [[6]], "length": 3},
]


def cell_of(backend: Any, max_shapes: int = 16, boundary: str = "device") -> tuple[CorpusCell, dict[str, Any]]:
    cell = CorpusCell(backend, argparse.Namespace(precision="fp32", device="cpu"))
    sampling = {"warmup_seconds": 0.0, "warmup_most_seconds": 0.0}
    plan = inputs.InputPlan(1, 3, 10, 0, 0, 4, ("last",)).to_json()
    places = {"last": 2, "largest": 1}
    return cell, cell.begin(BATCHES, places, plan, sampling, boundary, max_shapes)


def test_a_pass_lets_each_batchs_outputs_go_before_the_next() -> None:
    backend = Counting()
    cell, begun = cell_of(backend)
    assert backend.kept == 3
    assert begun["once"]["first_call_ns"] > 0
    backend.held.clear()
    backend.most_held = 0
    cell._pass()
    assert backend.most_held == 1
    assert [array.shape for array in backend.held] == [(1, 3)]
    turn = cell.turn()
    assert len(turn["times_ns"]["wall"]) == 1
    assert turn["outputs"]
    cell.end()


def test_between_host_and_host_each_batch_is_prepared_and_fetched_in_the_pass() -> None:
    backend = Counting()
    cell, _ = cell_of(backend, boundary="host")
    prepared: list[Any] = []
    backend.prepare = lambda batch: prepared.append(batch) or batch["input_ids"]  # type: ignore[method-assign]
    cell.step.call()
    assert prepared == cell.batches
    cell.turn()
    assert cell._last_outputs()["checksum"].item() == 6
    cell.end()


def test_a_batch_is_padded_on_the_right_under_the_mask() -> None:
    cell, _ = cell_of(Counting())
    assert cell.batches[0]["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert cell.batches[0]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert cell.batches[1]["input_ids"].shape == (2, 8)


def test_more_shapes_than_can_be_compiled_are_refused_with_the_remedy() -> None:
    with pytest.raises(UnsupportedError, match=r"null would compile 3 shapes, above --max-shapes 2; .* --bucket 16"):
        cell_of(Counting(), max_shapes=2)


class Linear(Counting):
    """Computes 4 outputs a position; `lies` is what it adds to those of a call of so many rows."""

    has_static_shapes = False

    def __init__(self, lies: dict[int, float] | None = None) -> None:
        super().__init__()
        self.lies = lies or {}

    def run(self, prepared: Any) -> Any:
        return super().run(prepared)

    def fetch(self, outputs: Any) -> dict[str, Any]:
        import numpy as np

        made = np.sin(outputs[..., None] * np.arange(1.0, 5.0)).astype(np.float32)
        return {"last_hidden_state": made + np.float32(self.lies.get(len(outputs), 0.0))}


def judged(backend: Linear, folder: Path) -> dict[str, Any]:
    """Parity of a cell on `backend`, against the references of one without lies."""
    units = {}
    for name, place in (("last", 2), ("largest", 1)):
        rows, length = BATCHES[place]["rows"], BATCHES[place]["length"]
        plan = inputs.InputPlan(len(rows), length, 10, 0, 0, 4, (name,))
        stored = folder / name
        stored.mkdir(parents=True)
        judging.evaluate(Linear(), plan, stored, None, {name: rows})
        units[f"2 unsorted {name}"] = {"plan": plan.to_json(), "reference": str(stored), "eager_error": str(stored)}
    cell, _ = cell_of(backend)
    cell.turn()
    return cell.judge(units, **EXACT)


@pytest.mark.parametrize(("rows", "broken"), [(0, set()), (1, {"last"}), (2, {"largest"})])
def test_a_planted_fault_is_found_in_the_batch_that_has_it(tmp_path: Path, rows: int, broken: set[str]) -> None:
    reply = judged(Linear({rows: 0.5}), tmp_path)
    assert set(reply["cases"]) == {"last", "largest"}
    found = {
        name: worst_case({name: figures}, TOLERANCES["fp32"])["verdict"] for name, figures in reply["cases"].items()
    }
    assert {name for name, outcome in found.items() if outcome == "broken"} == broken
    assert set(found.values()) <= {"exact", "broken"}
    assert reply["memory"]["process_bytes"] > 0


def test_the_last_batch_is_judged_by_what_the_timed_pass_returned(tmp_path: Path) -> None:
    """A backend that errs from now on has its further calls found out, and not the pass before."""
    backend = Linear()
    turn = CorpusCell.turn

    def turned(self: CorpusCell) -> dict[str, Any]:
        reply = turn(self)
        self.step.outputs = self.step.outputs.copy()
        backend.prepare = None  # type: ignore[assignment,method-assign]
        for prepared in self.prepared:
            prepared += 1
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CorpusCell, "turn", turned)
        reply = judged(backend, tmp_path)
    found = {
        name: worst_case({name: figures}, TOLERANCES["fp32"])["verdict"] for name, figures in reply["cases"].items()
    }
    assert found == {"last": "exact", "largest": "broken"}


# Whole runs.


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two scripted backends at two batch sizes in two orders."""
    return run(tmp_path_factory.mktemp("scripted"), "null:5ms,null:500us", orders="unsorted,sorted")


def test_every_planned_cell_has_one_record_and_is_read_again(scripted: Run) -> None:
    points = [Packing(batch, order) for order in ("unsorted", "sorted") for batch in (1, 4)]
    assert [record.cell for record in scripted.records] == [(at, who) for at in points for who in scripted.candidates]
    assert scripted.path is not None
    again = read_run(scripted.path)
    assert (again.integrity, again.is_complete, again.exit_code) == ("sealed", True, 0)
    for name in ("records", "options", "candidates", "model", "notes"):
        assert getattr(again, name) == getattr(scripted, name), name
    assert again.rows() == scripted.rows()
    for record in scripted.records:
        assert record.status == "ok"
        assert [len(round_) for round_ in record.rounds] == [1, 1]
        words = scripted.repeat(record)
        assert f"--synthetic 9 --batches {record.point.batch} --orders {record.point.order} --rounds 2" in words
        assert words.startswith(f"bench corpus --model bert-tiny --backends {record.candidate.label} ")


def test_rows_tell_padding_batches_and_time_a_sentence(scripted: Run) -> None:
    rows = {(row["batch"], row["order"], row["variant"]): row for row in scripted.rows()}
    one, four, ordered = rows[1, "unsorted", "5ms"], rows[4, "unsorted", "5ms"], rows[4, "sorted", "5ms"]
    assert (one["padding_share"], one["batches"], four["batches"]) == (0.0, 9, 3)
    assert four["positions"] != ordered["positions"] > four["tokens"] == sum(scripted.options.corpus.lengths)
    assert four["padding_share"] == pytest.approx(1 - four["tokens"] / four["positions"])
    assert one["sentences"] == 9
    assert one["ms_per_sample"] >= 5
    assert one["pass_s"] == pytest.approx(9 * one["ms_per_sample"] / 1e3)
    assert one["tokens_per_second"] == pytest.approx(one["tokens"] / one["pass_s"])
    assert one["ms_per_sample_low"] <= one["ms_per_sample"] <= one["ms_per_sample_high"]
    assert set(one) == {column.name for column in scripted.workload.all_columns}
    assert len(one) == len(scripted.workload.all_columns)


def test_ratios_are_within_rounds_in_a_packing_and_of_medians_apart_between_two(scripted: Run) -> None:
    """Nine calls of 5 ms for one by one, three at batch 4; the other backend's take a tenth of that."""
    slow, fast, four, _ = scripted.records[:4]
    within, apart = scripted.ratio(fast), one_by_one.ratio_to_batch_1(scripted, four)
    assert within is not None
    assert (
        within
        == one_by_one.ratio_to_batch_1(scripted, fast)
        == statistics.ratio_within_rounds(slow.rounds, fast.rounds)
    )
    assert apart == statistics.ratio_of_runs(slow.rounds, four.rounds)
    row = scripted.rows()[2]
    assert row["verdict_to_one"] == apart.verdict
    assert (row["speedup"], row["speedup_to_cpu"]) == (1.0, None)


def test_a_run_on_the_cpu_is_held_against_the_same_corpus_alone(scripted: Run, tmp_path: Path) -> None:
    done = run(tmp_path, "null:500us", batches="4", cpu_run=scripted.path)
    held = done.options.one_by_one
    record = scripted.record(BATCH_1, scripted.baseline_candidate)
    assert record is not None
    assert held.record.rounds == record.rounds
    ratio = one_by_one.ratio_to_cpu(done, done.records[0])
    assert ratio is not None
    assert ratio.value > 1
    assert done.rows()[0]["verdict_to_cpu"] == ratio.verdict
    assert read_run(tmp_path / "run.jsonl").options == done.options
    with pytest.raises(UserError, match=r"--cpu-run .* is of another corpus"):
        run(tmp_path / "other", "null", synthetic=8, cpu_run=scripted.path)
    with pytest.raises(UserError, match=r"--cpu-run .*has no null:500us at batch 1, unsorted"):
        run(tmp_path / "other", "null", cpu_run=tmp_path / "run.jsonl")


def test_lengths_are_taken_from_an_earlier_run(scripted: Run, tmp_path: Path) -> None:
    done = run(tmp_path, "null", synthetic=None, lengths_from=scripted.path, batches="4", rounds=1)
    assert done.options.corpus.lengths == scripted.options.corpus.lengths


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"orders": "sorte"}, "unknown order 'sorte'; did you mean 'sorted'"),
        ({"batches": "1,10"}, "--batches 10 exceeds the 9 sentences of the corpus"),
        ({"bucket": 0}, "--bucket 0 is not within 1"),
        ({"max_shapes": 0}, "--max-shapes 0 is not within 1"),
        ({"synthetic": 0}, "--synthetic 0 is not within 1 and 100000"),
        ({"max_tokens": 2}, "--max-tokens 2 is not within 3"),
        ({"cpu_run": "none.jsonl"}, "run file 'none.jsonl' cannot be read"),
        ({"baseline": "cpu.jsonl"}, "--baseline names a backend now; give the run on the CPU as --cpu-run cpu.jsonl"),
        ({"synthetic": None, "lengths_from": "none.txt"}, "--lengths-from 'none.txt' cannot be read"),
    ],
)
def test_options_that_measure_nothing_are_one_line(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        run(tmp_path, "null", **options)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_worker_that_dies_costs_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """null:crash dies at batch 4; null's worker is killed from outside in its first turn."""
    request, killed = Worker.request, []

    def kill_once(self: Worker, message: Any, timeout_seconds: float) -> Any:
        if message["op"] == "turn" and not killed:
            killed.append(self.pid)
            self._process.kill()
        return request(self, message, timeout_seconds)

    monkeypatch.setattr(Worker, "request", kill_once)
    done = run(tmp_path, "null,null:crash,null:oom", batches="1,4,8")
    found = {(one.candidate.label, one.point.batch): one for one in done.records}
    assert len(found) == 9
    at_1 = sorted(found[label, 1].status for label in ("null", "null:crash", "null:oom"))
    assert at_1 == ["failed", "ok", "ok"]
    assert [found["null", batch].status for batch in (4, 8)] == ["ok", "ok"]
    assert [found["null:crash", batch].status for batch in (4, 8)] == ["failed", "failed"]
    assert [found["null:oom", batch].status for batch in (4, 8)] == ["oom", "skipped"]
    assert found["null:oom", 8].reason == "a smaller cell, 4 unsorted, ran out of memory"
    assert done.exit_code == 1
    lost = next(row for row in done.rows() if row["status"] == "failed")
    assert (lost["ms_per_sample"], lost["padding_share"] is not None) == (None, True)


def test_a_killed_run_goes_on_from_the_turns_that_are_there(scripted: Run, tmp_path: Path) -> None:
    """What a kill leaves: a record, turns of an open cell, half a line, no seal."""
    assert scripted.path is not None
    lines = scripted.path.read_bytes().splitlines(keepends=True)
    records = [place for place, line in enumerate(lines) if b'"kind":"record"' in line]
    open_turn = next(line for line in lines[records[1] :] if b'"kind":"turn"' in line)
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join([*lines[: records[1] + 1], open_turn, lines[-3][:20]]))
    before = read_run(path)
    assert (len(before.records), len(before.turns), before.integrity) == (2, 1, "cut")
    (cell,), (turns,) = before.turns.keys(), before.turns.values()
    after = resume(path, artifacts=str(tmp_path / "artifacts"))
    assert (after.is_complete, after.integrity, len(after.records)) == (True, "sealed", 8)
    assert after.records[:2] == scripted.records[:2]
    went_on = after.record(*cell)
    assert went_on is not None
    assert went_on.turns[:1] == tuple(turns)
    assert [turn.round for turn in went_on.turns] == [0, 1]
    assert went_on.turns[1].outputs == scripted.record(*cell).turns[1].outputs  # the same ids in the same batches


def test_a_stopped_run_over_a_text_goes_on_with_that_text_alone(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("A short one.\nAnother sentence, a bit longer.\nA third.\n")

    def stop(run: Run, record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path, "null:500us", Listener(record=stop), model="bert", weights="random", synthetic=None,
            texts=str(text), batches="1,2", rounds=1,
        )  # fmt: skip
    path = tmp_path / "run.jsonl"
    stopped = read_run(path)
    assert (len(stopped.records), stopped.integrity, stopped.is_complete) == (1, "sealed", False)
    text.write_text("A short one.\nAnother sentence, a bit longer.\nA changed third.\n")
    with pytest.raises(
        UserError, match=r"begun with other sentences than 3 sentences of t\.txt has now; start a new run"
    ):
        resume(path, artifacts=str(tmp_path / "artifacts"))
    assert read_run(path).records == stopped.records
    text.write_text("A short one.\nAnother sentence, a bit longer.\nA third.\n")
    assert len(resume(path, artifacts=str(tmp_path / "artifacts")).records) == 2


def test_a_budget_leaves_packings_out(tmp_path: Path) -> None:
    done = run(tmp_path, "null:500us", batches="1,2,4,8", budget="1ms")
    assert [one.status for one in done.records].count("skipped") >= 2
    assert {one.reason for one in done.records if one.status == "skipped"} == {"left out by --budget 0.001s"}
    assert done.is_complete


@pytest.mark.filterwarnings("ignore")  # of torch.export's own, as the export runs here too
def test_timed_passes_are_judged_and_a_broken_model_gets_no_speed_up(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a tolerance that nothing can keep ONNX is broken, and by its own figures equivalent under the real one."""
    monkeypatch.setattr(channel, "Worker", InThisProcess)
    monkeypatch.setattr(driver_module, "tolerance_of", lambda precision, tf32: Tolerance(1e-9, 0.0, 0.0))
    done = run(tmp_path, "eager,onnx", artifacts=str(artifacts), batches="1,3", synthetic=7)
    assert [one.verdict for one in done.records] == ["original", "broken"] * 2
    assert done.exit_code == 3
    assert [done.ratio(one) is None for one in done.records] == [False, True] * 2
    assert [one_by_one.ratio_to_batch_1(done, one) is None for one in done.records] == [False, True] * 2
    (fastest,) = next(section for section in done.workload.sections(done) if section.title == "Fastest").items
    assert fastest.startswith("of all: eager at batch ")
    assert "onnx" not in fastest
    assert set(done.records[0].parity["cases"]) == {"last", "largest", "smallest"}
    for record in done.records:
        assert "last" in record.parity["cases"]
        assert all(case["compared"] > 0 for case in record.parity["cases"].values())
        assert record.memory["peak"]
        assert verdict(record.parity, TOLERANCES["fp32"])[0] in ("exact", "equivalent")


def test_the_command_takes_older_spellings_and_goes_on_with_a_run(cli_here: Any, tmp_path: Path) -> None:
    words = "corpus --model bert-tiny --backends null --synthetic 6 --batches 2 --rounds 1 --warmup 1ms --device cpu"
    done = cli_here(*words.split(), "--order", "sorted", "--most-shapes", "4", "--output", "run.jsonl")
    assert done.returncode == 0, done.stderr
    assert "bench: --order is now --orders; it ends with 0.3.0" in done.stderr
    assert "bench: --most-shapes is now --max-shapes; it ends with 0.3.0" in done.stderr
    assert "corpus: 6 lengths drawn log-normally like sentences'" in done.stderr
    assert "2 sorted" in done.stdout
    lines = (tmp_path / "run.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run.jsonl").write_bytes(lines[0])
    report = cli_here("report", "run.jsonl")
    assert "Incomplete: 0 of 1 cell; bench corpus --resume run.jsonl" in " ".join(report.stdout.split())
    again = cli_here("corpus", "--resume", "run.jsonl", "--json")
    assert again.returncode == 0, again.stderr
    (row,) = json.loads(again.stdout)["rows"]
    assert (row["order"], row["status"], row["sentences"]) == ("sorted", "ok", 6)


# Compiled shapes.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile_holds_several_shapes_and_forgets_them_beyond_their_number(artifacts: Path) -> None:
    from backends.compile import Compile
    from exporters import checkpoint, sources
    from exporters.store import ArtifactStore

    tiny = sources.resolve("bert-tiny")
    stored = ArtifactStore(artifacts).make(checkpoint.recipe(tiny), lambda folder: checkpoint.export(tiny, folder))
    backend = Compile(open_checkpoint=checkpoint.open_checkpoint)
    backend.load(stored.path, device="cpu", precision="fp32", threads=2, options={})
    backend.keep_shapes(2)
    plan = inputs.plan_of(tiny, 1, 1, 0, ("last",))
    batches = {length: inputs.padded([[1] * length], replace(plan, length=length)) for length in (3, 4, 5)}
    prepared = [backend.prepare(batches[length]) for length in (3, 4)]
    for one in prepared * 2:
        backend.run(one)
    assert backend.facts()["graphs"] == 2
    backend.run(backend.prepare(batches[5]))
    assert backend.facts()["graphs"] == 1
    backend.close()
