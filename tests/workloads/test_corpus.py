"""Passes over a corpus: the worker's part, whole runs on scripted and tiny backends, and what reports say of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import UnsupportedError
from backends.null import Null
from bench import statistics
from bench.errors import UserError
from bench.packing import UNSORTED, Packing, Summary
from bench.parity import inputs, judging
from bench.parity.verdict import TOLERANCES, Tolerance, verdict, worst_case
from bench.report import console
from bench.run import joint
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Once, Record, Run
from bench.workloads import passes
from bench.workloads.corpus import Corpus, CorpusCell, CorpusOptions
from bench.workloads.passes import OneByOne
from tests import made
from tests.in_process import here

BATCH_1 = Packing(1, UNSORTED)


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    with here():
        yield


def run(folder: Path, backends: str, listener: Listener | None = None, **options: Any) -> Run:
    given = {
        "model": "bert-tiny", "backends": backends, "synthetic": 9, "batches": "1,4", "orders": "unsorted",
        "device": "cpu", "threads": 1, "rounds": 3, "warmup": "1ms", "timeout": "2m", "output": folder / "run.jsonl",
        "artifacts": str(folder / "artifacts"),
    }  # fmt: skip
    return measure(Corpus, CorpusOptions.parsed(given | options), listener)


# A worker's part.


class Linear(Null):
    """Computes 4 outputs a position and compiles shapes; counts outputs that are held on to until they are released.

    `lies` is what it adds to the outputs of a call of so many rows.
    """

    has_static_shapes = True

    def __init__(self, lies: dict[int, float] | None = None) -> None:
        super().__init__()
        self.lies, self.held, self.kept = lies or {}, list[Any](), 0
        self.most_held = 0
        self.load(None, device="cpu", precision="fp32", threads=1, options={"seconds": 0.0})

    def keep_shapes(self, count: int) -> None:
        self.kept = count

    def run(self, prepared: Any) -> Any:
        self.held.append(prepared)
        self.most_held = max(self.most_held, len(self.held))
        return super().run(prepared)

    def release(self, outputs: Any) -> None:
        self.held.pop()

    def fetch(self, outputs: Any) -> dict[str, Any]:
        made = np.sin(outputs[..., None] * np.arange(1.0, 5.0)).astype(np.float32)
        return {"last_hidden_state": made + np.float32(self.lies.get(len(outputs), 0.0))}


ROWS = [[[1, 2, 3], [4]], [[5] * 8] * 2, [[6]]]
LENGTHS_OF_ROWS = (3, 8, 3)
PLACES = {"last": 2, "largest": 1}


def cell_of(backend: Any, max_shapes: int = 16, boundary: str = "device") -> CorpusCell:
    cell = CorpusCell(backend, argparse.Namespace(precision="fp32", device="cpu"))
    batches = [{"rows": rows, "length": length} for rows, length in zip(ROWS, LENGTHS_OF_ROWS, strict=True)]
    sampling = {"warmup_seconds": 0.0, "warmup_most_seconds": 0.0}
    plan = inputs.InputPlan(1, 3, 10, 0, 0, 4, ("last",)).to_json()
    assert cell.begin(batches, PLACES, plan, sampling, boundary, max_shapes)["once"]["first_call_ns"] > 0
    return cell


def test_a_pass_lets_each_batchs_outputs_go_before_the_next() -> None:
    backend = Linear()
    cell = cell_of(backend)
    assert backend.kept == 3
    assert cell.batches[0]["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert cell.batches[0]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    backend.held.clear()
    backend.most_held = 0
    cell._pass()
    assert (backend.most_held, [array.shape for array in backend.held]) == (1, [(1, 3)])
    turn = cell.turn(0.0)
    assert (len(turn["times_ns"]["wall"]), len(turn["outputs"])) == (1, 8)
    with pytest.raises(UnsupportedError, match=r"null would compile 3 shapes, above --max-shapes 2; .* --bucket 16"):
        cell_of(Linear(), max_shapes=2)


def test_between_host_and_host_each_batch_is_prepared_and_fetched_in_the_pass() -> None:
    backend = Linear()
    cell = cell_of(backend, boundary="host")
    prepared: list[Any] = []
    backend.prepare = lambda batch: prepared.append(batch) or batch["input_ids"]  # type: ignore[method-assign]
    cell.step.call()
    assert prepared == cell.batches
    cell.turn(0.0)
    assert cell._last_outputs()["last_hidden_state"].shape == (1, 3, 4)


def judged(backend: Linear, folder: Path) -> dict[str, str]:
    """Verdicts of a cell on `backend`, against the references of one without lies."""
    units = {}
    for name, place in PLACES.items():
        plan = inputs.InputPlan(len(ROWS[place]), LENGTHS_OF_ROWS[place], 10, 0, 0, 4, (name,))
        stored = folder / name
        stored.mkdir(parents=True)
        judging.evaluate(Linear(), plan, stored, None, {name: ROWS[place]})
        units[f"2 unsorted {name}"] = {"plan": plan.to_json(), "reference": str(stored), "eager_error": str(stored)}
    cell = cell_of(backend)
    cell.turn(0.0)
    reply = cell.judge(units, atol=0.0, rtol=0.0)
    assert reply["memory"]["process_bytes"] > 0
    return {case: worst_case({case: one}, TOLERANCES["fp32"])["verdict"] for case, one in reply["cases"].items()}


@pytest.mark.parametrize(("rows", "broken"), [(0, set()), (1, {"last"}), (2, {"largest"})])
def test_a_planted_fault_is_found_in_the_batch_that_has_it(tmp_path: Path, rows: int, broken: set[str]) -> None:
    found = judged(Linear({rows: 0.5}), tmp_path)
    assert set(found) == set(PLACES)
    assert {name for name, outcome in found.items() if outcome == "broken"} == broken


def test_the_last_batch_is_judged_by_what_the_timed_pass_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that errs from now on has its further calls found out, and not the pass before."""
    turn = CorpusCell.turn

    def turned(self: CorpusCell, seconds: float) -> dict[str, Any]:
        reply = turn(self, seconds)
        self.step.outputs = self.step.outputs.copy()
        for prepared in self.prepared:
            prepared += 1
        return reply

    monkeypatch.setattr(CorpusCell, "turn", turned)
    found = judged(Linear(), tmp_path)
    assert (found["last"] == "broken", found["largest"]) == (False, "broken")


# Whole runs.


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two scripted backends at two batch sizes in two orders."""
    return run(tmp_path_factory.mktemp("scripted"), "null:5ms,null:500us", orders="unsorted,sorted")


def test_rows_tell_padding_batches_and_time_a_sentence(scripted: Run) -> None:
    points = [Packing(batch, order) for order in ("unsorted", "sorted") for batch in (1, 4)]
    assert [record.cell for record in scripted.records] == [(at, who) for at in points for who in scripted.candidates]
    words = scripted.repeat(scripted.records[3])
    assert words.startswith("bench corpus --model bert-tiny --backends null:500us ")
    assert "--synthetic 9 --batches 4 --orders unsorted --rounds 3" in words
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
    assert list(one) == [column.name for column in scripted.workload.all_columns]


def test_ratios_are_within_rounds_in_a_packing_and_of_medians_apart_between_two(records: list[Record]) -> None:
    """A sentence takes 100 ms one by one and 10 ms in the other backend; 25 ms two by two."""
    slow, fast, four = records[0], record("onnx", 10.0), records[3]
    run = run_over([slow, fast, four])
    within, apart = run.ratio(fast), passes.ratio_to_batch_1(run, four)
    assert within is not None
    assert apart is not None
    wide = statistics.widening(joint.of(run).rho)
    assert within == passes.ratio_to_batch_1(run, fast)
    assert within == statistics.ratio_within_rounds(slow.rounds, fast.rounds, within.confidence, wide)
    assert apart == statistics.ratio_of_runs(slow.rounds, four.rounds, apart.confidence, wide)
    assert (within.value, apart.value) == (pytest.approx(10), pytest.approx(4))
    row = run.rows()[2]
    assert (row["verdict_to_one"], row["confidence_to_one"]) == (apart.verdict, apart.confidence)
    assert apart.verdict == "faster"
    assert (row["speedup"], row["speedup_to_one"], row["speedup_to_cpu"]) == (1.0, apart.value, None)


def test_a_run_on_the_cpu_is_held_against_the_same_corpus_alone(scripted: Run, tmp_path: Path) -> None:
    done = run(tmp_path, "null:500us", synthetic=None, lengths_from=scripted.path, batches="4", cpu_run=scripted.path)
    assert done.options.corpus.lengths == scripted.options.corpus.lengths
    record = scripted.record(BATCH_1, scripted.baseline_candidate)
    assert record is not None
    assert done.options.one_by_one.record.rounds == record.rounds
    ratio = passes.ratio_to_cpu(done, done.records[0])
    assert ratio is not None
    assert ratio.value > 1
    assert done.rows()[0]["verdict_to_cpu"] == ratio.verdict
    assert read_run(tmp_path / "run.jsonl").options == done.options
    with pytest.raises(UserError, match=r"--cpu-run .* is of another corpus"):
        run(tmp_path / "other", "null", synthetic=8, cpu_run=scripted.path)
    with pytest.raises(UserError, match=r"--cpu-run .*has no null:500us at batch 1, unsorted"):
        run(tmp_path / "other", "null", cpu_run=tmp_path / "run.jsonl")


def test_a_stopped_run_over_a_text_goes_on_with_that_text_alone(tmp_path: Path) -> None:
    text, path = tmp_path / "t.txt", tmp_path / "run.jsonl"
    text.write_text("A short one.\nAnother sentence, a bit longer.\nA third.\n")

    def stop(run: Run, record: Record) -> None:
        raise KeyboardInterrupt

    more = {"model": "bert", "weights": "random", "synthetic": None, "texts": str(text), "batches": "1,2", "rounds": 1}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "null:500us", Listener(record=stop), **more)
    stopped = read_run(path)
    text.write_text("A short one.\nAnother sentence, a bit longer.\nA changed third.\n")
    with pytest.raises(UserError, match=r"with other sentences than 3 sentences of t\.txt has now; start a new run"):
        resume(path, artifacts=str(tmp_path / "artifacts"))
    assert read_run(path).records == stopped.records
    text.write_text("A short one.\nAnother sentence, a bit longer.\nA third.\n")
    assert len(resume(path, artifacts=str(tmp_path / "artifacts")).records) == 2


@pytest.mark.filterwarnings("ignore")  # of torch.export's own, as the export runs here too
def test_timed_passes_are_judged_and_a_broken_model_gets_no_speed_up(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a tolerance that nothing can keep ONNX is broken, and by its own figures equivalent under the real one."""
    monkeypatch.setattr("bench.run.judging.tolerance_of", lambda precision, tf32: Tolerance(1e-9, 0.0, 0.0, True))
    done = run(tmp_path, "eager,onnx", artifacts=str(artifacts), batches="1,3", synthetic=7)
    assert [one.verdict == "broken" for one in done.records] == [False, True] * 2
    assert done.exit_code == 3
    assert [done.ratio(one) is None for one in done.records] == [False, True] * 2
    assert [passes.ratio_to_batch_1(done, one) is None for one in done.records] == [False, True] * 2
    (fastest,) = next(section for section in done.workload.sections(done) if section.title == "Fastest").items
    assert re.match("of all: (undecided: )?eager at ", fastest)
    assert "onnx" not in fastest
    assert set(done.records[0].parity["cases"]) == {"last", "largest", "smallest"}
    for record in done.records:
        assert "last" in record.parity["cases"]
        assert all(case["compared"] > 0 for case in record.parity["cases"].values())
        assert record.memory["peak"]
        assert verdict(record.parity, TOLERANCES["fp32"])[0] not in ("broken", "lossy")


# What reports say.

CORPUS = Summary("4 sentences of this project's own (seed 0)", (4, 5, 6, 40), "c0ffee", 1, 40)


def record(backend: str, ms: float, batch: int = 1, **values: Any) -> Record:
    """Fifteen passes of `ms` a sentence."""
    once = Once(load_seconds=0.5, first_call_ns=10**9)
    rounds = [[4 * ms * noise] for noise in (1.0, 1.001, 0.999, 1.0, 1.0005) * 3]
    return made.record(backend, Packing(batch, UNSORTED), ms=rounds, **{"once": once, **values})


def run_over(records: list[Record], one: OneByOne | None = None, **options: Any) -> Run:
    run = made.run_of(records, Corpus, batches="1,2", orders="unsorted", rounds=15, **options)
    run.workload = Corpus(replace(run.options, corpus=CORPUS, positions=512, one_by_one=one))
    return run


@pytest.fixture
def records() -> list[Record]:
    compiled = {"graphs": 4, "compile_seconds": 12.34, "recompiles_while_timing": 0}
    lost = {"status": "unsupported", "reason": "compile would compile 40 shapes; --bucket 16"}
    return [
        record("eager", 100.0),
        record("compile:reduce-overhead", 12345.6, facts=compiled),
        record("onnx", 50.0, verdict="broken"),
        record("eager", 25.0, batch=2),
        record("compile:reduce-overhead", 1.0, batch=2, **lost),
        record("onnx", 25.001, batch=2),
    ]


def words(run: Run) -> str:
    return " ".join(console.render(run).split())


def test_the_table_fits_80_columns_and_says_it_all(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    slow = record("eager", 400.0)
    on_cpu = OneByOne(slow.candidate, tuple(map(tuple, slow.rounds)), "equivalent", True, "A CPU", 2, "2026-01-01")
    for run in (run_over(records), run_over(records, on_cpu)):
        text = console.render(run)
        assert max(map(len, text.splitlines())) <= 80
        for word in (
            "12346", "broken", "unsupported", "1.00–1.00", "4.00×", "1 cut at 40", "quartiles 5, 6, 14",
            "4 graphs for 4 shapes in 12.3 s", "0 recompilations", "- unsorted: at 1, eager; at 2, eager (same as onnx)",
            "of all: eager at 2 unsorted, 4.00× eager at batch 1 (same as onnx at 2 unsorted)",
        ):  # fmt: skip
            assert word in words(run), word
        assert "×" not in next(line for line in text.splitlines() if "broken" in line)
    assert "16.0×" in text  # 400 ms on the CPU over 25
    assert "on the CPU: eager on A CPU, 2 threads, 2026-01-01" in text


def test_a_broken_or_lost_cell_has_no_speed_up_anywhere(records: list[Record]) -> None:
    run = run_over(records)
    rows = run.rows()
    for name in ("speedup", "speedup_to_one"):
        assert [row[name] is None for row in rows] == [False, False, True, False, True, False]
    assert (run.exit_code, rows[3]["verdict_to_one"], rows[5]["verdict"]) == (3, "faster", "same")
    assert rows[3]["padding_share"] == pytest.approx(1 - 55 / 90)
    assert rows[0]["ms_per_sample"] == pytest.approx(100.0)
    alone = run_over(records[1:], device="cuda")
    assert "no speed-ups against batch 1, as eager at batch 1, unsorted, was not measured here" in words(alone)
    assert "give that file as --cpu-run" in words(alone)
    assert alone.rows()[2]["speedup_to_one"] is None


def test_starts_are_paid_back_after_passes_and_a_pass_that_differs_is_a_warning(records: list[Record]) -> None:
    once = Once(load_seconds=0.5, first_call_ns=3 * 10**9)
    compiled = record("compile:reduce-overhead", 50.0, facts={"graphs": 4, "compile_seconds": 3.0}, once=once)
    assert "3.0 s; paid back against eager after 11 passes" in words(run_over([records[0], compiled, *records[2:]]))
    records[0] = replace(records[0], turns=records[0].turns[:4] + record("eager", 140.0).turns[:1])
    text = words(run_over(records))
    assert "eager at 1 unsorted: its passes differ by over 25%" in text
    assert text.count("its passes differ") == 1


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
