"""What `bench load` prints: 80 columns, dashes where there are too few requests, and no level kept by a broken model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bench.errors import UserError
from bench.report import load as report
from bench.serving.plan import LoadPlan
from bench.serving.records import LoadRecord, LoadRun
from bench.spec import Candidate, Grid, Shape, TimingPlan
from bench.traffic import Traffic, parse_slo

MS = 1_000_000


def record(backend: str, call_ms: float, step: int = 0, rate: float = 20.0, **values: Any) -> LoadRecord:
    """Requests that come evenly and never meet, or, where calls are longer than the gaps, queue up."""
    slices, gap = 2 if step == 0 else 1, round(1e9 / rate)
    due = [gap * place for place in range(1, 150 // slices + 1)]
    free, waits, latencies = 0, [], []
    for at in due:
        start = max(at, free)
        free = start + round(call_ms * MS)
        waits.append(start - at)
        latencies.append(free - at)
    fields: dict[str, Any] = {
        "model": "bert", "backend": backend, "variant": "default", "precision": "fp32", "device": "cpu", "step": step,
        "rate": rate, "requests": 150, "status": "ok", "due_ns": [due] * slices, "waits_ns": [waits] * slices,
        "rounds_ns": [latencies] * slices,
        "parity": {"verdict": "equivalent", "max_abs_error": 2.1e-6}, "first_calls_ns": 10**9, "shapes": 2, "warmed": 2,
    }  # fmt: skip
    return LoadRecord(**(fields | values))


@pytest.fixture
def run() -> LoadRun:
    nothing: dict[str, Any] = {"rounds_ns": [], "waits_ns": [], "due_ns": [], "parity": {}}
    records = [
        record("eager", 12.0),
        record("compile", 60.0, variant="reduce-overhead", facts={"graphs": 2, "recompiles_while_timing": 0}),
        record("onnx", 5.0, parity={"verdict": "broken", "reason": "another model", "max_abs_error": 1.0}),
        record("torchscript", 1.0, status="oom", reason="no memory was left", **nothing),
        record("eager", 12.0, 1, 40.0),
        record("eager", 12.0, 2, 80.0),
        record("eager", 12.5, 3, 82.0),
        record("compile", 60.0, 1, 10.0, variant="reduce-overhead"),
    ]
    contestants = tuple(dict.fromkeys(one.contestant for one in records))
    made = LoadRun(
        Grid("bert", contestants, (Shape(1, 16), Shape(4, 128)), "cpu", 2),
        TimingPlan(2),
        LoadPlan(20, 7.5, 2, "dynamic:8:5ms", parse_slo("p95=30ms"), 150),
        Traffic({Shape(1, 16): 2.0, Shape(4, 128): 1.0}, "traffic.csv (3 requests, 2 shapes)"),
        {"cpu": "A CPU"}, "seeded random (seed 0)", "c0ffee", "bench load --model bert", "2026-01-01",
    )  # fmt: skip
    made.records = records
    return made


def test_the_table_fits_80_columns_and_says_it_all(run: LoadRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    two = replace(run, load=replace(run.load, slos=parse_slo("p95=30ms,p99=1s"), search_requests=None))
    text = report.render(run, "table")
    for page in (text, report.render(two, "table")):
        assert max(len(line) for line in page.splitlines()) <= 80
        assert "…" not in page
        assert "compile:" in page
    assert "unjudged" in report.render(two, "table")
    flat = " ".join((text + report.render(two, "table")).split())
    for words in (
        "20 requests/s for 7.5 s: 150 Poisson arrivals in 2 slices, the same for all; joined up to batch 8, the first",
        "does not keep up: calls take longer than requests take to arrive",
        "p99 1 s cannot be judged from 150 requests; use --duration 33s or more",
        "torchscript at 20/s: oom: no memory was left",
        "onnx at 20/s: parity is broken: another model; no service level is said to be kept",
        "compile:reduce-overhead: none found that keeps p95 30 ms; 10/s missed it, and lower was not tried",
        "compile:reduce-overhead: 2 graphs for 2 shapes (first calls 1.0 s, before anything was served); 0 recompilations",
        "Incomplete: 8 rates have their record",
    ):
        assert words in flat, words
    rows = [line.split() for line in text.splitlines() if line.startswith("eager ")]
    assert rows[0][:8] == ["eager", "12.00", "12.00", "–", "12.00", "24%", "1", "19.94"]


def test_a_broken_model_keeps_no_service_level(run: LoadRun) -> None:
    onnx = Candidate("onnx", "default", "fp32")
    assert run.records[2].outcome(run.load.slos[0]) == "kept"
    assert not run.is_sound(onnx)
    assert run.largest_rate(onnx) is None
    assert run.next_rate(onnx) is None
    line = next(line for line in report.render(run, "table").splitlines() if "broken" in line)
    assert "kept" not in line
    assert run.exit_code == 3


def test_the_largest_rate_is_bracketed_and_levels_that_cannot_be_judged_are_not_kept(run: LoadRun) -> None:
    eager = run.grid.contestants[0]
    both = replace(run, load=replace(run.load, slos=parse_slo("p95=30ms,p99=1s")))
    assert run.records[0].outcome_of_all(both.load.slos) == "unjudged"
    assert [trial.is_kept for trial in both.trials(eager)] == [False]  # too few for p99, but not for not keeping up
    found = run.largest_rate(eager)
    assert found is not None
    assert (found.kept, found.missed, found.is_settled) == (80.0, 82.0, True)
    assert "eager: 80/s keeps p95 30 ms, 82/s missed it (4 rates tried)" in " ".join(
        report.render(run, "table").split()
    )


def test_a_miss_on_a_disturbed_machine_is_tried_once_more(run: LoadRun) -> None:
    eager = run.grid.contestants[0]
    busy = {"other_cpu_share": 0.4, "other_cpu_seconds": 3.6}
    run.records = [record("eager", 60.0, conditions=busy)]
    assert run.taint(run.records[0])
    assert (run.trials(eager), run.next_rate(eager)) == ([], 20.0)
    run.records.append(record("eager", 60.0, 1, 20.0, conditions=busy))
    assert [trial.is_kept for trial in run.trials(eager)] == [False]
    assert run.next_rate(eager) == 10.0
    run.records[1] = record("eager", 12.0, 1, 20.0, conditions=busy)
    assert [trial.is_kept for trial in run.trials(eager)] == [True]


def test_nobody_keeps_the_level_is_exit_code_5(run: LoadRun) -> None:
    run.records = [one for one in run.records if one.backend == "compile"]
    run.grid = replace(run.grid, contestants=run.grid.contestants[1:2])
    assert run.exit_code == 5
    run.load = replace(run.load, slos=())
    assert run.exit_code == 0


def test_json_holds_every_latency(run: LoadRun) -> None:
    page = json.loads(report.render(run, "json"))
    assert page["rows"][0]["rounds_ns"] == run.records[0].rounds_ns
    assert page["rows"][0]["p95_ms"] == pytest.approx(12.0)
    assert page["rows"][0]["p99_ms"] is None
    assert page["traffic"]["counts"] == [[1, 16, 2.0], [4, 128, 1.0]]
    assert page["largest_rates"] == [
        {"backend": "eager", "kept": 80.0, "missed": 82.0, "trials": 4, "is_settled": True},
        {"backend": "compile:reduce-overhead", "kept": None, "missed": 10.0, "trials": 2, "is_settled": False},
    ]
    assert page["exit_code"] == 3
    with pytest.raises(UserError, match="unknown format 'csv'"):
        report.render(run, "csv")
