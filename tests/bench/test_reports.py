"""What is printed: fits 80 columns, leaves nothing out, shows no speed-up that parity does not allow."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report
from bench.errors import UserError
from bench.records import Record, Run
from bench.report import starts
from bench.report.table import milliseconds
from bench.rows import COLUMNS
from bench.runfile import read_run
from bench.spec import Candidate, Grid, Shape, TimingPlan
from bench.warnings import warnings_of

MS = 1_000_000


def record(backend: str, variant: str = "default", ms: float = 10.0, verdict: str = "equivalent", **values) -> Record:
    fields = {
        "model": "bert", "backend": backend, "variant": variant, "precision": "fp32", "device": "cpu", "batch": 1, "length": 128,
        "status": "ok", "rounds": [[round(ms * MS)] * 3] * 3, "parity": {"verdict": verdict, "max_abs_error": 2.1e-6},
    }  # fmt: skip
    made = Record(**(fields | values))
    return replace(made, warnings=warnings_of(made, TimingPlan()))


@pytest.fixture
def run() -> Run:
    failed = {"status": "failed", "reason": "the worker was killed by SIGKILL after 3.1 s", "rounds": [], "parity": {}}
    records = [
        record("eager", ms=12345.678),
        record("compile", "reduce-overhead", ms=123.45),
        record(
            "onnx",
            ms=45.6,
            verdict="broken",
            parity={"verdict": "broken", "reason": "another model", "max_abs_error": 1.0},
        ),
        record("torchscript", **failed),
    ]
    contestants = tuple(entry.contestant for entry in records)
    grid = Grid("bert", contestants, (Shape(1, 128),), "cpu", 2)
    made = Run(
        grid, TimingPlan(), {"cpu": "A CPU"}, "seeded random (seed 0)", "c0ffee", "bench compare", "2026-01-01", records
    )
    made.is_complete = True
    return made


def test_the_table_fits_80_columns_and_says_it_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = report.render(run, "table")
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in (
        "12346",
        "123.5",
        "100×",
        "broken",
        "failed",
        "killed by SIGKILL",
        "fastest: compile:reduce-overhead",
    ):
        assert word in text, word


def test_the_table_fits_with_several_precisions_and_device_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    half = replace(run.records[1], precision="bf16", device_rounds=run.records[1].rounds)
    run.records.append(half)
    run.grid = replace(run.grid, contestants=(*run.grid.contestants, half.contestant))
    text = report.render(run, "table")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "kinds of time, ms" in text
    assert "device" in text
    assert "bf16" in text


def test_a_broken_cell_wins_nothing_and_shows_no_speedup(run: Run) -> None:
    row = next(line for line in report.render(run, "table").splitlines() if line.startswith("onnx"))
    assert "×" not in row
    assert "fastest: onnx" not in report.render(run, "table")


def test_the_csv_has_one_row_a_cell(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(report.render(run, "csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed"]
    assert rows[3]["median_ms"] == ""
    assert float(rows[1]["median_ms"]) == pytest.approx(123.45)


def test_the_json_has_rows_warnings_and_repeat_commands(run: Run) -> None:
    document = json.loads(report.render(run, "json"))
    assert len(document["rows"]) == 4
    assert document["exit_code"] == 3
    beside = {"warnings", "repeat", "facts", "failure", "memory", "conditions", "taint", "named_outliers"}
    assert beside | set(COLUMNS) == set(document["rows"][0])


def test_the_json_names_outliers(run: Run) -> None:
    run.records[0] = record("eager", rounds=[[10 * MS + index for index in range(9)], [99 * MS]])
    (found,) = json.loads(report.render(run, "json"))["rows"][0]["named_outliers"]
    assert found == {"index": 9, "value": 99 * MS, "kind": "high severe"}


def test_the_markdown_is_one_table(run: Run) -> None:
    lines = report.render(run, "markdown").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4
    assert {line.count("|") for line in table} == {11}


def test_a_tie_is_printed_as_a_tie(run: Run) -> None:
    run.records = [record("eager", ms=10), record("onnx", rounds=[[9 * MS], [11 * MS], [9 * MS]])]
    run.grid = replace(run.grid, contestants=tuple(entry.contestant for entry in run.records))
    assert "(tie with eager)" in report.render(run, "table")


def test_an_incomplete_run_says_how_to_go_on(run: Run) -> None:
    run.is_complete = False
    assert "--resume" in report.render(run, "table")


def test_an_unknown_format_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="unknown format 'tabel'; did you mean 'table'"):
        report.render(run, "tabel")


def test_a_disturbed_run_says_so_and_shows_no_speedup(run: Run) -> None:
    run.fingerprint["busy_share"] = 0.62
    stalled = record("eager", rounds=[[500 * MS], [10 * MS], [10 * MS]])
    run.records = [stalled, record("onnx", ms=5)]
    run.grid = replace(run.grid, contestants=tuple(entry.contestant for entry in run.records))
    text = " ".join(report.render(run, "table").split())
    assert "onnx at 1×128: no speed-up, as the rounds disagree on it (interval over 100-fold)" in text
    assert "eager at 1×128: spread over 100%" in text
    assert "other work took 62% of the CPUs when the run began" in text
    assert "50.00×" not in text


def test_warnings_name_what_helps() -> None:
    few = record("eager", rounds=[[MS]])
    assert any("1 samples" in warning and "--rounds" in warning for warning in few.warnings)
    placed = record(
        "onnx",
        facts={"nodes_on_cpu": 3, "nodes_per_provider": {"CUDAExecutionProvider": 97, "CPUExecutionProvider": 3}},
    )
    assert any("3 of 100 graph nodes run on the CPU provider;" in warning for warning in placed.warnings)
    copied = record("onnx", facts=placed.facts | {"copies_inserted": 2, "operators_on_cpu": {"Gather": 2, "Erf": 1}})
    assert any("provider (Gather, Erf);" in warning for warning in copied.warnings)
    assert any("2 copies between host and device" in warning for warning in copied.warnings)
    sizes = record("onnx", facts=copied.facts | {"copies_inserted": 0})
    assert any("CPU provider (Gather, Erf);" in warning for warning in sizes.warnings)
    assert not any("copies" in warning for warning in sizes.warnings)
    recompiled = record("compile", facts={"recompiles_while_timing": 2, "graph_breaks": 1})
    assert len(recompiled.warnings) == 2
    unfused = record("onnx", facts={"fused_attention": 0, "fused_operators": {"SkipLayerNormalization": 4}})
    assert [line for line in unfused.warnings if "no attention was fused" in line] != []
    fused = record("onnx", facts={"fused_attention": 2, "fused_operators": {"Attention": 2}})
    assert fused.warnings == []
    assert warnings_of(record("eager"), TimingPlan()) == []
    assert Candidate("eager", "default", "fp32") == few.contestant


def warnings_on(entry: Record) -> str:
    return "\n".join(warnings_of(entry, TimingPlan()))


def test_what_sampling_ended_without_is_warned_of() -> None:
    entry = record("eager", unmet=["warm-up", "precision"])
    assert "warm-up ended at its ceiling of 3 s" in warnings_on(entry)
    assert "wider than ±2%; raise --max-seconds-per-cell" in warnings_on(entry)


def test_drift_and_outliers_are_warned_of_and_nothing_is_dropped() -> None:
    drifting = record("eager", rounds=[[(10 + index) * MS] for index in range(10)])
    assert "became slower from round to round, by over 5% in all" in warnings_on(drifting)
    stalling = record("eager", rounds=[[10 * MS, 10 * MS + 1, 10 * MS + 2, 10 * MS + 3, 90 * MS]] * 5)
    assert "over 10% of the samples are severe outliers (kept)" in warnings_on(stalling)
    assert max(stalling.samples) == 90 * MS


def test_a_gpu_that_waits_for_its_host_is_warned_of() -> None:
    times = {"device_rounds": [[10 * MS] * 3], "enqueue_rounds": [[9 * MS] * 3]}
    assert record("eager", **times).host_share == pytest.approx(0.9)
    assert "the host takes over 80% of the device's time" in warnings_on(record("eager", **times))
    times["enqueue_rounds"] = [[MS] * 3]
    assert "the host takes" not in warnings_on(record("eager", **times))


def test_a_second_table_has_every_kind_of_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    times = {"device_rounds": [[9 * MS]], "enqueue_rounds": [[MS]], "pipelined_rounds": [[8 * MS]]}
    run.records = [record("eager", naive_rounds=[[MS // 2]], **times), record("onnx")]
    run.grid = replace(run.grid, contestants=tuple(entry.contestant for entry in run.records))
    lines = report.render(run, "table").splitlines()
    assert max(map(len, lines)) <= 80
    (head,) = [line for line in lines if "pipelined" in line]
    assert " ".join(head.split()) == ("backend wall device enqueue pipelined naive (wrong) host share")
    assert ["eager", "10.00", "9.000", "1.000", "8.000", "0.500", "11%"] in [line.split() for line in lines]
    assert ["onnx", "10.00", *["–"] * 5] in [line.split() for line in lines]
    assert run.rows()[0]["naive_median_ms"] == 0.5


def test_a_tainted_cell_is_marked_and_explained(run: Run) -> None:
    run.records[0] = replace(run.records[0], conditions={"other_cpu_share": 0.4, "other_cpu_seconds": 3.0})
    text = report.render(run, "table")
    assert "!12346" in text
    assert "tainted: over 20% of all CPU time was taken by other work" in " ".join(text.split())
    assert run.rows()[0]["tainted"] is True
    assert "!12346" in report.render(run, "markdown")


def test_a_wide_terminal_shows_percentiles_that_the_samples_allow(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run.records = [
        record("eager", rounds=[[10 * MS] * 8] * 9),
        record("onnx", rounds=[[10 * MS] * 8] * 9, calls_per_sample=2),
    ]
    run.grid = replace(run.grid, contestants=tuple(entry.contestant for entry in run.records))
    eager, onnx = (line.split() for line in report.render(run, "table").splitlines() if line.split()[1:2] == ["10.00"])
    assert eager[4:7] == ["10.00", "10.00", "–"]  # a sample, p90 of 72 samples, no p99
    assert onnx[4:7] == ["10.00", "–", "–"]  # means of two calls say nothing of the tail of one


def test_what_really_ran_is_told(run: Run) -> None:
    placed = {"nodes_per_provider": {"CUDAExecutionProvider": 97, "CPUExecutionProvider": 3}, "copies_inserted": 2}
    run.records[1] = replace(run.records[1], facts=placed | {"attention_kernels": {"Attention": 12}})
    text = " ".join(report.render(run, "table").split())
    assert "97 nodes on CUDAExecutionProvider, 3 nodes on CPUExecutionProvider, 2 copies between devices" in text
    assert "attention: Attention × 12" in text
    run.records[1] = replace(run.records[1], facts=placed | {"operators_on_cpu": {"Gather": 2, "Concat": 1}})
    assert "2 copies between devices, on the CPU: Gather × 2, Concat × 1" in " ".join(
        report.render(run, "table").split()
    )


@pytest.mark.parametrize(
    ("ms", "text"), [(0.01234, "0.0123"), (1.2345, "1.234"), (12.345, "12.35"), (123.45, "123.5"), (12345.6, "12346")]
)
def test_milliseconds_have_four_digits(ms: float, text: str) -> None:
    assert milliseconds(ms * MS) in (text, text[:-1] + str(int(text[-1]) - 1))


@pytest.mark.parametrize(("width", "dropped"), [(80, "spread"), (108, "p99 ms")])
def test_a_column_that_has_no_room_goes_whole_and_is_named(
    root: Path, width: int, dropped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve contestants with long names and wide intervals: a cropped figure would be another figure."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = report.render(read_run(root / "artifacts/reference/h100-20261128-bert.jsonl"), "table").splitlines()
    assert f"no room in {width} columns for {dropped}: see --format csv" in lines
    titles = next(line for line in lines if line.startswith("backend"))
    assert titles.split("  ")[0] == "backend"
    assert titles.rstrip().endswith("floor parity     max |Δ|")
    assert dropped not in titles
    rows = [line for line in lines[lines.index(titles) :] if "equivalent" in line]
    assert rows[0].split()[-2:] == ["equivalent", "3.4e-06"]
    memory = lines[lines.index("Memory, MiB") :]
    assert memory[1 if width > 80 else 2].split()[-1] == "at"
    assert [line.split()[-1] for line in memory if line.startswith("eager")] == ["32×128"] * 3
    assert max(len(line) for line in lines) <= width


def test_no_column_goes_where_there_is_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = report.render(read_run(root / "artifacts/reference/epyc2-20261123-bert-intervals.jsonl"), "table")
    assert "no room" not in text
    assert "spread speed-up        floor parity     max |Δ|" in text


def test_a_column_that_was_asked_for_stays_where_its_namesake_of_a_wide_terminal_would_go(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(root / "artifacts/reference/h100-20261128-bert.jsonl")
    for width in (80, 108):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = report.render(run, "table", ("p90", "ms-per-sample")).splitlines()
        (named,) = (line for line in lines if line.startswith("no room in"))
        assert "p90" not in named
        assert "ms/sample" not in named
        titles = " ".join(line for line in lines if line.startswith("backend"))
        assert "p90 ms" in titles
        assert "ms/sample" in titles
        assert max(len(line) for line in lines) <= width


def compiled(ms: float, seconds: float, first_ms: float, **values) -> Record:
    first = round(first_ms * MS)
    facts = {"compile_seconds": seconds}
    return record("compile", ms=ms, facts=facts, load_seconds=1.0, first_call_ns=first, **values)


def test_what_compiling_takes_and_when_it_is_paid_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rounds = [[10 * MS] * 3] * 6
    # 10 ms saved a call; 1 s of load more and 8 s of a first call more: 900 calls
    fast = compiled(0.0, 7.5, 8_000.0 + 20.0, rounds=[[20 * MS] * 3] * 6)
    slow = compiled(0.0, 2.25, 5_000.0, length=16, rounds=[[20 * MS] * 3] * 6)
    records = [
        record("eager", rounds=[[30 * MS] * 3] * 6, load_seconds=0.0, first_call_ns=30 * MS), fast,
        record("eager", length=16, rounds=rounds, load_seconds=0.0, first_call_ns=10 * MS), slow,
    ]  # fmt: skip
    grid = replace(run.grid, contestants=(records[0].contestant, fast.contestant), shapes=(Shape(1, 128), Shape(1, 16)))
    made = replace(run, grid=grid, records=records)
    said = (
        "compile: 2.2 to 7.5 s; paid back against eager after 900 calls at 1×128; never paid back against eager at 1×16"
    )
    assert starts.lines(made) == [said]
    for way in ("table", "markdown"):
        text = " ".join(report.render(made, way).split())
        assert "Compilation" in text and said in text
    assert "Compilation" not in report.render(run, "table")


def test_a_tie_and_a_broken_cell_pay_nothing_back(run: Run) -> None:
    rounds = [[30 * MS] * 3] * 6
    base = record("eager", rounds=rounds, load_seconds=0.0, first_call_ns=30 * MS)
    grid = replace(run.grid, contestants=(base.contestant, compiled(1.0, 1.0, 1.0).contestant))
    tie = compiled(0.0, 3.0, 100.0, rounds=rounds)
    assert starts.lines(replace(run, grid=grid, records=[base, tie])) == [
        "compile: 3.0 s; never paid back (a tie with eager) at 1×128"
    ]
    broken = replace(tie, parity={"verdict": "broken"})
    assert starts.lines(replace(run, grid=grid, records=[base, broken])) == [
        "compile: 3.0 s; held against nothing at 1×128"
    ]
