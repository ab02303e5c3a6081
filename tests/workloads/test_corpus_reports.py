"""What reports say of passes over a corpus: 80 columns, ties as ties, no speed-up without parity, what was compiled."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from bench.packing import Packing, Summary
from bench.report import console, documents
from bench.run.record import Once, Record, Run
from bench.workloads.corpus import Corpus
from bench.workloads.one_by_one import OneByOne
from tests.made import record as made_record
from tests.made import run_of

LENGTHS = (4, 5, 6, 40)
NOISE = (1.0, 1.001, 0.999, 1.0, 1.0005)
CORPUS = Summary("4 sentences of this project's own (seed 0)", LENGTHS, "c0ffee", 1, 40)


def record(backend: str, ms: float, batch: int = 1, order: str = "unsorted", **values: Any) -> Record:
    """Five passes of `ms` a sentence."""
    once = Once(load_seconds=0.5, first_call_ns=10**9)
    rounds = [[4 * ms * noise] for noise in NOISE]
    return made_record(backend, Packing(batch, order), ms=rounds, **{"once": once, **values})


def run_over(records: list[Record], one: OneByOne | None = None, **options: Any) -> Run:
    run = run_of(records, Corpus, batches="1,2", orders="unsorted", rounds=5, **options)
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


def on_cpu() -> OneByOne:
    found = record("eager", 400.0)
    return OneByOne(found.candidate, tuple(map(tuple, found.rounds)), "equivalent", True, "A CPU", 2, "2026-01-01")


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_table_fits_80_columns_and_says_it_all(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for run in (run_over(records), run_over(records, on_cpu())):
        text = console.render(run)
        assert max(map(len, text.splitlines())) <= 80
        for word in ("12346", "broken", "unsupported", "1.00–1.00", "4.00×", "1 cut at 40", "quartiles 5, 6, 14"):
            assert word in text, word
        assert "4 graphs for 4 shapes in 12.3 s" in words(text)
        assert "0 recompilations" in words(text)
        assert "of all: eager at batch 2, unsorted, 4.00× eager at batch 1 (tie with onnx at 2 unsorted)" in words(text)
        assert "- unsorted: eager at 1; eager at 2 (tie with onnx)" in words(text)
        onnx = next(line for line in text.splitlines() if "broken" in line)
        assert "×" not in onnx
    assert "16.0×" in text  # 400 ms on the CPU over 25
    assert "on the CPU: eager on A CPU, 2 threads, 2026-01-01" in text


def test_a_start_is_paid_back_after_passes(records: list[Record]) -> None:
    records[1] = record("compile:reduce-overhead", 50.0, facts={"graphs": 4, "compile_seconds": 3.0})
    records[1] = replace(records[1], once=Once(load_seconds=0.5, first_call_ns=3 * 10**9))
    assert "3.0 s; paid back against eager after 11 passes" in words(console.render(run_over(records)))


def test_a_broken_or_lost_cell_has_no_speed_up_anywhere(records: list[Record]) -> None:
    run = run_over(records)
    rows = run.rows()
    assert [row["speedup"] is None for row in rows] == [False, False, True, False, True, False]
    assert [row["speedup_to_one"] is None for row in rows] == [False, False, True, False, True, False]
    assert run.exit_code == 3
    assert rows[3]["verdict_to_one"] == "faster"
    assert rows[5]["verdict"] == "tie"
    assert rows[3]["padding_share"] == pytest.approx(1 - 55 / 90)
    assert rows[0]["ms_per_sample"] == pytest.approx(100.0)


def test_without_eager_at_batch_1_it_is_said_what_is_missing(records: list[Record]) -> None:
    run = run_over(records[1:])
    text = words(console.render(run))
    assert "no speed-ups against batch 1, as eager at batch 1, unsorted, was not measured here" in text
    assert run.rows()[2]["speedup_to_one"] is None


def test_on_a_gpu_the_cpu_is_a_file_away(records: list[Record]) -> None:
    assert "give that file as --cpu-run" in words(console.render(run_over(records, device="cuda")))


def test_csv_json_and_markdown_hold_every_record(records: list[Record]) -> None:
    run = run_over(records)
    rows = list(csv.DictReader(io.StringIO(documents.as_csv(run))))
    assert len(rows) == 6
    assert tuple(rows[0]) == tuple(column.name for column in run.workload.all_columns)
    assert (rows[0]["ms_per_sample"], rows[4]["ms_per_sample"]) == ("100.0", "")
    page = json.loads(documents.as_json(run))
    assert page["options"]["corpus"]["lengths"] == list(LENGTHS)
    assert page["exit_code"] == 3
    assert page["rows"][1]["facts"]["graphs"] == 4
    markdown = documents.as_markdown(run)
    assert markdown.count("| 2 unsorted |") == 3
    assert "**Times faster a sentence than eager at batch 1**" in markdown


def test_a_pass_that_others_do_not_show_is_a_warning(records: list[Record]) -> None:
    records[0] = replace(
        record("eager", 100.0), turns=record("eager", 100.0).turns[:4] + record("eager", 140.0).turns[:1]
    )
    text = words(console.render(run_over(records)))
    assert "eager at 1 unsorted: its passes differ by over 25%" in text
    assert text.count("its passes differ") == 1


def test_an_a_a_run_is_a_tie(records: list[Record]) -> None:
    twin = record("eager@2", 100.05)
    run = run_over([records[0], twin])
    ratio = run.ratio(twin)
    assert ratio is not None
    assert ratio.verdict == "tie"
