"""What `bench corpus` prints: 80 columns, ties as ties, no speed-up that parity does not allow, what was compiled."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from bench.corpora.plan import CorpusPlan
from bench.corpora.records import COLUMNS, Baseline, CorpusRecord, CorpusRun
from bench.corpora.sentences import CorpusSummary
from bench.errors import UserError
from bench.report import corpus as report
from bench.spec import Candidate, Grid, Shape, TimingPlan

LENGTHS = (4, 5, 6, 40)


def record(backend: str, ms: float, batch: int = 1, order: str = "unsorted", **values) -> CorpusRecord:
    fields = {
        "model": "bert", "backend": backend, "variant": "default", "precision": "fp32", "device": "cpu", "batch": batch,
        "order": order, "status": "ok", "sentences": 4, "tokens": sum(LENGTHS), "positions": 55 * batch, "batches": 4,
        "shapes": 4, "rounds_ns": [round(4e6 * ms * noise) for noise in (1.0, 1.001, 0.999, 1.0, 1.0005)],
        "parity": {"verdict": "equivalent", "max_abs_error": 2.1e-6}, "first_calls_ns": 10**9,
    }  # fmt: skip
    return CorpusRecord(**(fields | values))


@pytest.fixture
def run() -> CorpusRun:
    compiled = {"graphs": 4, "compile_seconds": 12.34, "recompiles_while_timing": 0}
    lost = {
        "status": "unsupported",
        "reason": "compile would compile 40 shapes; --bucket 16",
        "rounds_ns": [],
        "parity": {},
    }
    records = [
        record("eager", 100.0),
        record("compile", 12345.6, variant="reduce-overhead", facts=compiled),
        record("onnx", 50.0, parity={"verdict": "broken", "reason": "another model", "max_abs_error": 1.0}),
        record("eager", 25.0, batch=2),
        record("compile", 1.0, batch=2, variant="reduce-overhead", **lost),
        record("onnx", 25.001, batch=2),
    ]
    contestants = tuple(dict.fromkeys(one.contestant for one in records))
    made = CorpusRun(
        Grid("bert", contestants, (Shape(1, 40), Shape(2, 40)), "cpu", 2),
        TimingPlan(5),
        CorpusPlan((1, 2), ("unsorted",)),
        CorpusSummary("4 sentences of this project's own (seed 0)", LENGTHS, "c0ffee", 1, 40),
        {"cpu": "A CPU"}, "seeded random (seed 0)", "c0ffee", "bench corpus --model bert", "2026-01-01",
    )  # fmt: skip
    made.records = records
    return made


def test_the_table_fits_80_columns_and_says_it_all(run: CorpusRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    on_cpu = Baseline(record("eager", 400.0), "A CPU", 2, "2026-01-01")
    for made in (run, replace(run, baseline=on_cpu)):
        text = report.render(made, "table")
        assert max(len(line) for line in text.splitlines() if not line.startswith("records:")) <= 80
        for word in ("12346", "broken", "unsupported", "tie 1.00–1.00", "4.00×", "1 cut at 40", "quartiles 5, 6, 14"):
            assert word in text, word
        assert "4 graphs for 4 shapes in 12.3 s" in text
        assert "0 recompilations" in " ".join(text.split())
        assert "Incomplete: 6 of 6 cells" in text
        assert "fastest of all: eager at batch 2, unsorted, 4.00× eager at batch 1 (tie with onnx at 2 unsorted)" in (
            " ".join(text.split())
        )
    assert "16.0×" in text  # 400 ms on the CPU over 25
    onnx = next(line for line in report.render(run, "table").splitlines() if "broken" in line)
    assert "×" not in onnx


def test_a_broken_or_lost_cell_has_no_speed_up_anywhere(run: CorpusRun) -> None:
    rows = run.rows()
    assert [row["speedup"] is None for row in rows] == [False, False, True, False, True, False]
    assert [row["speedup_to_one"] is None for row in rows] == [False, False, True, False, True, False]
    assert run.exit_code == 3
    assert rows[3]["verdict_to_one"] == "faster"
    assert rows[5]["verdict"] == "tie"
    assert rows[3]["padding_share"] == pytest.approx(0.5)
    assert rows[0]["ms_per_sample"] == pytest.approx(100.0)


def test_without_eager_at_batch_1_it_is_said_what_is_missing(run: CorpusRun) -> None:
    del run.records[0]
    text = " ".join(report.render(run, "table").split())
    assert "no speed-ups against batch 1, as eager at batch 1, unsorted, was not measured here" in text
    assert run.rows()[2]["speedup_to_one"] is None


def test_on_a_gpu_the_cpu_is_a_file_away(run: CorpusRun) -> None:
    run.grid = replace(run.grid, device="cuda")
    assert "give that file as --baseline" in " ".join(report.render(run, "table").split())


def test_csv_and_json_hold_every_record(run: CorpusRun) -> None:
    rows = list(csv.DictReader(io.StringIO(report.render(run, "csv"))))
    assert len(rows) == 6
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["ms_per_sample"], rows[4]["ms_per_sample"]) == ("100.0", "")
    page = json.loads(report.render(run, "json"))
    assert page["corpus"]["lengths"] == list(LENGTHS)
    assert page["exit_code"] == 3
    assert page["rows"][1]["facts"]["graphs"] == 4
    with pytest.raises(UserError, match="unknown format 'tabel'; did you mean 'table'"):
        report.render(run, "tabel")


def test_an_a_a_run_is_a_tie(run: CorpusRun) -> None:
    twin = record("eager", 100.05, copy=2)
    run.records[1] = twin
    run.grid = replace(run.grid, contestants=(Candidate("eager", "default", "fp32"), twin.contestant))
    ratio = run.ratio(twin)
    assert ratio is not None
    assert ratio.verdict == "tie"
