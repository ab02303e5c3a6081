"""`bench load`: the same arrivals for all, overloads that are said, searches, and parity of what was served."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.base import UnsupportedError
from backends.null import Null
from bench.machine.conditions import FLOOR_SECONDS
from bench.process import serving
from bench.process.queue import KEPT, MISSED
from bench.process.serving import Server
from bench.report import console
from bench.run.experiment import measure
from bench.run.record import Record, Run, Turn
from bench.spec import Shape
from bench.traffic import Traffic
from bench.workloads import load as load_module
from bench.workloads.load import Load, LoadOptions, Rate
from bench.workloads.load_cell import LoadCell
from tests.in_process import here
from tests.made import QUIET, candidate, run_of

MS = 1_000_000
FOURS = Traffic({Shape(4, 8): 1.0}, "fours")


pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers in this process warn about themselves


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(serving, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(load_module, "SECONDS_BESIDE", 0.1)
    with here():
        yield


def served(tmp_path: Path, backends: str, **options: Any) -> Run:
    defaults: dict[str, Any] = {
        "rate": 400, "duration": "0.1s", "rounds": 2, "device": "cpu", "threads": 1, "timeout": 60,
        "artifacts": str(tmp_path / "artifacts"), "output": str(tmp_path / "run.jsonl"), "model": "bert-tiny",
    }  # fmt: skip
    return measure(Load, LoadOptions.parsed({**defaults, "backends": backends, **options}))


def of(run: Run, record: Record) -> Any:
    assert isinstance(run.workload, Load)
    return run.workload.slices(record)


def test_all_get_the_same_arrivals_and_an_overload_is_said(tmp_path: Path) -> None:
    run = served(tmp_path, "null:500us,null:50ms", slo="p50=20s", search=False, rate=100, duration="0.4s")
    fast, slow = run.records
    assert fast.rounds_ns("due") == slow.rounds_ns("due")
    assert [len(due) for due in fast.rounds_ns("due")] == [20, 20]
    assert of(run, fast).unserved == 0
    assert min(of(run, fast).calls_ns) >= 500_000
    assert of(run, slow).unserved > 0  # 20 calls of 50 ms are a second, which a slice of 200 ms may not last
    rows = {row["variant"]: row for row in run.rows()}
    assert (rows["50ms"]["slo"], rows["50ms"]["p50_ms"], rows["50ms"]["keeps_up"]) == (MISSED, None, False)
    assert rows["500us"]["slo"] == KEPT
    assert run.exit_code == 0  # the other one keeps it
    for words in ("--backends null:500us", "--rate 100", "--no-search"):
        assert words in run.repeat(fast)


def test_a_search_is_recorded_rate_by_rate(tmp_path: Path) -> None:
    """Rates are doubled until calls of 5 ms do not fit, or the median is above 30 ms, and then bisected."""
    run = served(tmp_path, "null:5ms", rate=60, slo="p50=30ms", search_requests=20)
    assert [record.point.step for record in run.records] == [*range(len(run.records))]
    assert run.records[1].point.rate == 120
    assert all(len(record.turns) == 1 for record in run.records[1:])
    found = run.workload._found(run, run.candidates[0])  # type: ignore[attr-defined]
    assert found.kept is not None
    assert 60 <= found.kept < 400
    assert run.exit_code == 0
    assert "Largest rate" in console.render(run)
    assert run.workload.answer(run) == "1 of 1 cell measured"  # null computes nothing
    run.records = [replace(one, is_judged=True, parity={"verdict": "exact"}) for one in run.records]
    assert run.workload.answer(run) == f"null:5ms serves {found.kept:.4g} requests/s within p50 30 ms"
    (plot,) = next(section.plots for section in run.workload.sections(run) if section.title == "Largest rate")
    percentiles = {one.point.rate: of(run, one).percentile(50) for one in run.records}
    assert {mark.x: mark.y * MS for mark in plot.marks} == pytest.approx({x: ns for x, ns in percentiles.items() if ns})


def test_a_rate_that_no_lower_one_would_mend_ends_the_search(tmp_path: Path) -> None:
    """No rate keeps a microsecond; on a disturbed machine the same one is tried once more."""
    run = served(tmp_path, "null,null:oom", traffic=FOURS, slo="p50=1us", search_requests=20, duration="0.05s")
    assert {record.point.rate for record in run.records} == {400}
    found, of_none = (run.workload._found(run, one) for one in run.candidates)  # type: ignore[attr-defined]
    assert (found.kept, found.is_settled, of_none) == (None, True, None)


# Parity of what was served.


def test_served_outputs_are_judged(tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of three shapes are joined."""
    traffic = Traffic({Shape(1, 16): 2, Shape(2, 11): 1, Shape(5, 16): 1}, "three shapes")
    options: dict[str, Any] = {
        "traffic": traffic, "batching": "dynamic:4:2ms", "rate": 100, "duration": "0.2s", "slo": "p50=9s",
        "search": False, "artifacts": str(artifacts),
    }  # fmt: skip
    monkeypatch.setattr(load_module, "SECONDS_BESIDE", 60.0)  # a pause of the machine ends no slice
    run = served(tmp_path, "eager,onnx", **options)
    assert [record.is_comparable for record in run.records] == [True, True]
    assert run.exit_code == 0
    for record in run.records:
        assert set(record.parity["cases"]) == {"last", "joined"}
        assert all(case["compared"] > 0 for case in record.parity["cases"].values())
        assert record.facts["judged_by_further_calls"] == 1  # the joined one; the last was judged as it was served
        assert record.figures == {"shapes": 9, "warmed": 9}


def test_a_last_request_that_was_not_served_is_judged_by_a_call_of_its_own(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call lasts longer than a slice may, so that only the first request of each is served."""
    call = Server.call
    monkeypatch.setattr(load_module, "SECONDS_BESIDE", 0.0)

    def slow(self: Any, batch: Any) -> Any:
        time.sleep(0.3)
        return call(self, batch)

    monkeypatch.setattr(Server, "call", slow)
    traffic = Traffic({Shape(1, 16): 1}, "one")
    run = served(tmp_path, "eager", traffic=traffic, rate=100, search=False, artifacts=str(artifacts))
    (record,) = run.records
    assert of(run, record).unserved > 0
    assert record.is_comparable
    assert record.facts["judged_by_further_calls"] == 3  # the last, the longest and the shortest


@pytest.mark.parametrize("fault", ["mask", "order"])
def test_a_server_that_pads_or_returns_wrongly_is_broken(
    fault: str, tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: padding is not masked, or rows come back in another order."""
    join = Server.joined

    def wrong(self: Any, sequences: Any) -> Any:
        batch = join(self, sequences)
        if fault == "mask":
            return batch | {"attention_mask": np.ones_like(batch["attention_mask"])}
        return {name: array[::-1].copy() for name, array in batch.items()}

    monkeypatch.setattr(Server, "joined", wrong)
    traffic = Traffic({Shape(1, 16): 1, Shape(1, 11): 1}, "two lengths")
    run = served(tmp_path, "eager", artifacts=str(artifacts), traffic=traffic, batching="dynamic:4:2ms", rate=100)
    assert run.records[0].verdict == "broken"


# Shapes that are compiled one by one.


class Static(Null):
    """Compiles every shape anew; notes what is called, and for how many shapes it was told to have room."""

    has_static_shapes = True

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[int, ...]] = []
        self.kept: list[int] = []
        self.load(None, device="cpu", precision="fp32", threads=1, options={"seconds": 0.0})

    def keep_shapes(self, count: int) -> None:
        self.kept.append(count)

    def prepare(self, batch: Any) -> Any:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape
        assert mask.any(axis=1).all(), "a row without any token is NaN in some runtimes"
        self.called.append(ids.shape)
        return ids


def begun(backend: Null, max_shapes: int = 16) -> tuple[LoadCell, dict[str, Any]]:
    """A cell that has taken in sequences of lengths 3 and 5, joined up to 6 rows, after one of another rate."""
    args = argparse.Namespace(precision="fp32", device="cpu")
    counts = (range(1, 7), (1, 2, 4, 6))
    both = [[[rows, length] for length in (8, 4) for rows in reversed(one)] for one in counts]
    ids = {"3": [[1] * 3] * 3, "5": [[2] * 5] * 3}
    for _ in range(2):
        cell = LoadCell(backend, args)
        reply = cell.begin(ids, *both, {"most_rows": 6, "most_delay_ns": MS}, {"3": 4, "5": 8}, 0, max_shapes)
    return cell, reply["figures"]


def test_a_runtime_of_static_shapes_meets_none_that_was_not_warmed_up() -> None:
    backend = Static()
    cell, figures = begun(backend)
    met = set(backend.called)
    assert met == {(rows, length) for rows in (1, 2, 4, 6) for length in (4, 8)}
    assert figures == {"shapes": 8, "warmed": 8}
    assert backend.kept == [8]  # once: what was compiled for the same requests stays
    backend.called.clear()
    shapes = [[1, 3], [1, 5], [1, 3], *[[2, 3]] * 3, [1, 5], [1, 5], [1, 3]]
    reply = cell.turn([0] * 9, shapes, 5.0)
    assert len(reply["times_ns"]["latency"]) == 9
    assert set(backend.called) <= met
    assert sum(rows for rows, _ in backend.called) >= 12
    with pytest.raises(UnsupportedError, match=r"null would compile 8 shapes, above --max-shapes 7; .*--bucket 16"):
        begun(Static(), max_shapes=7)


def test_warming_up_stops_after_a_while_if_any_shape_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_WARMUP_SECONDS", -1.0)
    backend = Static()
    backend.has_static_shapes = False
    _, figures = begun(backend)
    assert figures == {"shapes": 12, "warmed": 1}  # the first is always met


# What records say.


def record(
    label: str, step: int, rate: float, service_ns: int, requests: int = 200, *, verdict: str = "equivalent",
    is_disturbed: bool = False,
) -> Record:  # fmt: skip
    """One slice of requests that come evenly, each served alone."""
    gap = round(1e9 / rate)
    due, free, waits, latencies = [gap * place for place in range(1, requests + 1)], 0, [], []
    for at in due:
        start = max(at, free)
        free = start + service_ns
        waits.append(start - at)
        latencies.append(free - at)
    others = 10 * FLOOR_SECONDS if is_disturbed else 0.0
    conditions = QUIET | {"other_cpu_seconds": others}
    turn = Turn(0, {"due": due, "waits": waits, "latency": latencies}, conditions=conditions)
    parity = {"verdict": verdict, "max_abs_error": 1e-6}
    return Record(Rate(step, rate), candidate(label), "ok", turns=(turn,), parity=parity)


def run_with(*records: Record, slo: str = "p95=20ms") -> Run:
    return run_of(
        records, Load, rate=100, duration=2.0, rounds=1, slo=slo, search_requests=200, traffic=None,
    )  # fmt: skip


def test_a_broken_model_keeps_no_service_level() -> None:
    run = run_with(record("onnx", 0, 100, MS, verdict="broken"))
    assert run.exit_code == 3
    assert run.workload._found(run, run.candidates[0]) is None  # type: ignore[attr-defined]
    table = next(section.table for section in run.workload.sections(run) if section.table is not None)
    assert table.rows[0][1:5] == ("broken", "1.0e-06", "yes", "–")
    assert run_with(record("onnx", 0, 100, 25 * MS)).exit_code == 5  # sound, and too slow
    assert run_with(record("onnx", 0, 100, MS)).exit_code == 0


def test_the_largest_rate_is_bracketed_and_said() -> None:
    run = run_with(*(record("onnx", step, 100 * 2**step, ms * MS) for step, ms in enumerate((5, 4, 5))))
    found = run.workload._found(run, run.candidates[0])  # type: ignore[attr-defined]
    assert (found.kept, found.missed, found.is_settled) == (200, 400, False)
    text = console.render(run)
    words = "200/s keeps p95 20 ms, 400/s missed it (3 rates tried; the search ended before it was settled)"
    assert words in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_a_miss_on_a_disturbed_machine_is_tried_once_more() -> None:
    missed = record("onnx", 1, 200, 9 * MS, is_disturbed=True)
    run = run_with(record("onnx", 0, 100, MS), missed)
    trials = run.workload._trials  # type: ignore[attr-defined]
    assert [trial.rate for trial in trials(run.records)] == [100]
    assert [trial.rate for trial in trials([*run.records, missed])] == [100, 200]
