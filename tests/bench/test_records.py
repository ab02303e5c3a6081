"""Runs on disk and their rows: round trips, damage, exit codes, figures derived from samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.records import Record, Run
from bench.rows import COLUMNS
from bench.runfile import RunFile, read_run, record_line
from bench.spec import Candidate, Grid, Shape, TimingPlan

MS = 1_000_000


def record(
    backend: str = "eager", status: str = "ok", verdict: str = "equivalent", ms: float = 10.0, **values
) -> Record:
    rounds = [[round(ms * MS)] * 3 for _ in range(3)] if status == "ok" else []
    fields = {
        "model": "bert", "backend": backend, "variant": "default", "precision": "fp32", "device": "cpu", "batch": 2, "length": 16,
        "status": status, "rounds": rounds, "parity": {"verdict": verdict, "max_abs_error": 1e-6} if verdict else {},
    }  # fmt: skip
    return Record(**(fields | values))


def run_of(*records: Record) -> Run:
    contestants = tuple(dict.fromkeys(r.contestant for r in records)) or (Candidate("eager", "default", "fp32"),)
    grid = Grid("bert", contestants, (Shape(2, 16),), "cpu", 2)
    return Run(
        grid,
        TimingPlan(),
        {"cpu": "test"},
        "seeded random (seed 0)",
        "c0ffee",
        "bench compare",
        "2026-01-01T00:00:00+00:00",
        list(records),
    )


def test_a_run_survives_the_disk(tmp_path: Path) -> None:
    run = run_of(record(), record("onnx", ms=5))
    file = RunFile(tmp_path / "new" / "run.jsonl")
    file.create(run)
    for entry in run.records:
        file.append(record_line(entry))
    again = read_run(file.path)
    assert (again.records, again.grid, again.plan, again.is_complete) == (run.records, run.grid, run.plan, False)
    file.rewrite(run)
    assert read_run(file.path).records == run.records
    assert [path.name for path in file.path.parent.iterdir()] == ["run.jsonl"]


def test_a_row_has_every_column_and_figures_from_the_samples() -> None:
    run = run_of(record(ms=10), record("onnx", ms=5, export_seconds=3.5, load_seconds=0.5, first_call_ns=20 * MS))
    eager, onnx = run.rows()
    assert tuple(eager) == COLUMNS == run.columns
    assert (onnx["median_ms"], onnx["q1_ms"], onnx["q3_ms"], onnx["samples"]) == (5, 5, 5, 9)
    assert onnx["ms_per_sample"] == 2.5
    assert onnx["tokens_per_second"] == pytest.approx(6400)
    assert (eager["speedup"], onnx["speedup"]) == (1.0, 2.0)
    assert (onnx["export_s"], onnx["load_s"], onnx["first_call_ms"]) == (3.5, 0.5, 20)
    assert onnx["max_abs_error"] == 1e-6


def test_the_issue_columns_come_first_and_in_order() -> None:
    wanted = (
        "model,backend,variant,precision,device,batch,length,status,median_ms,q1_ms,q3_ms,samples,ms_per_sample,"
        "tokens_per_second,speedup,parity,max_abs_error,export_s,load_s,first_call_ms,reason"
    )
    assert ",".join(COLUMNS).startswith(wanted)


@pytest.mark.parametrize("verdict", ["lossy", "broken", "unjudged", ""])
def test_no_speedup_without_the_same_model(verdict: str) -> None:
    run = run_of(record(), record("onnx", verdict=verdict, ms=1))
    assert run.rows()[1]["speedup"] is None
    assert run_of(record(verdict=verdict), record("onnx")).rows()[1]["speedup"] is None


def test_rounds_that_disagree_give_no_speedup() -> None:
    stalled = record(rounds=[[100 * MS], [10 * MS, 10 * MS], [10 * MS] * 9])
    run = run_of(stalled, record("onnx", ms=5))
    assert run.rows()[1]["speedup"] is None
    assert run.unsteadiness(run.records[1]) > 10  # type: ignore[operator]
    assert run.unsteadiness(run.records[0]) is None


def test_cells_that_did_not_take_turns_are_not_paired_by_round() -> None:
    """Rounds that grow and shrink together pair to a constant ratio; measured apart, their order means nothing."""
    one = [[(10 + index) * MS] for index in range(10)]
    twice = [[2 * sample for sample in round_] for round_ in one]
    paired = run_of(record(rounds=twice), record("onnx", rounds=one)).rows()[1]
    apart = run_of(record(rounds=twice), record("onnx", rounds=one, turns="sequential")).rows()[1]
    assert (paired["speedup_low"], paired["speedup_high"]) == (2.0, 2.0)
    assert apart["speedup_low"] < 1.6 < 2.4 < apart["speedup_high"]


def test_what_computes_nothing_is_compared_with_its_kind_alone() -> None:
    nothing = {"verdict": "", "judged": False}
    assert run_of(record(), record("null", **nothing)).rows()[1]["speedup"] is None
    assert (
        run_of(record("null", **nothing), record("null", variant="slow", ms=20, **nothing)).rows()[1]["speedup"] == 0.5
    )
    assert run_of(record("null", **nothing)).exit_code == 0


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([record()], 0),
        ([record(verdict="exact"), record("onnx")], 0),
        ([record(), record("onnx", verdict="broken")], 3),
        ([record(), record("onnx", verdict="broken"), record("compile", "failed", "")], 3),
        ([record(), record("onnx", verdict="lossy")], 1),
        ([record(), record("onnx", verdict="unjudged")], 1),
        ([record(), record("onnx", "failed", "")], 1),
        ([record(), record("onnx", "timeout", "")], 1),
        ([record(), record("onnx", "oom", ""), record("compile", "unsupported", ""), record("x", "skipped", "")], 0),
        ([record("onnx", "unsupported", "")], 1),
        ([], 1),
    ],
)
def test_exit_codes(records: list[Record], code: int) -> None:
    assert run_of(*records).exit_code == code


def test_a_frame_has_the_csvs_names() -> None:
    frame = run_of(record(), record("onnx", ms=5)).frame()
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["speedup"]) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no run"),
        ("not json\nat all\n", "line 1 of .* is not JSON"),
        ('{"kind": "record"}\n', "is no run"),
        ("[1]\n", "no JSON object"),
        ('{"kind": "run", "schema": 99}\n', "schema 99 and this bench reads up to 4"),
        ('{"kind": "run", "schema": 1}\n', "is damaged"),
        ('{"kind": "run", "schema": "1"}\n', "is damaged"),
        ("[" * 100000, "is no run"),
    ],
)
def test_a_file_that_is_no_run_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_run(path)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "banana"}, {"rounds": []}, {"rounds": [[0]]}, {"rounds": [["1"]]}, {"rounds": 3}, {"parity": []},
        {"batch": 3}, {"backend": "other"}, {"no_such_field": 1}, {"rounds": [[10**400]]}, {"rounds": [[float("nan")]]},
        {"memory": {"loaded": []}}, {"memory": {"peak": {"peak_process_bytes": "x"}}}, {"operations": {"flops": 1}},
        {"operations": {"flops": -1, "weight_bytes": 1}}, {"facts": {"attention_kernels": True}}, {"unmet": ["luck"]},
        {"conditions": {"other_cpu_share": [["x"]]}}, {"calls_per_sample": 0}, {"first_call_ns": "soon"},
    ],
)  # fmt: skip
def test_a_record_that_no_measurement_gives_is_damage(tmp_path: Path, change: dict) -> None:
    run = run_of(record())
    path = tmp_path / "run.jsonl"
    lines = [run.header(), record_line(run.records[0]) | change]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="is damaged"):
        read_run(path)


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"shapes": []}, {"contestants": []}, {"shapes": [{"batch": 0, "length": 1}]}, {"shapes": 3}],
)
def test_a_header_that_no_run_has_is_damage(tmp_path: Path, change: dict) -> None:
    header = run_of(record()).header()
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(header | {"grid": header["grid"] | change}) + "\n")
    with pytest.raises(UserError, match="is damaged"):
        read_run(path)


def test_two_records_of_one_cell_are_damage(tmp_path: Path) -> None:
    run = run_of(record())
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (run.header(), *[record_line(run.records[0])] * 2)))
    with pytest.raises(UserError, match="two records"):
        read_run(path)


def test_binary_and_missing_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for path in (tmp_path / "binary", tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_run(path)


def test_a_torn_last_line_is_left_out_and_a_torn_middle_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run = run_of(record())
    line = json.dumps(record_line(run.records[0]))
    path.write_text(json.dumps(run.header()) + "\n" + line + "\n" + line[:40])
    assert len(read_run(path).records) == 1
    path.write_text(json.dumps(run.header()) + "\n" + line[:40] + "\n" + line + "\n")
    with pytest.raises(UserError, match="line 2 of"):
        read_run(path)


@pytest.mark.parametrize(
    ("device", "loaded", "peak", "held"),
    [
        ("cpu", {"process_bytes": 5}, {"peak_process_bytes": 9}, 9),
        ("cpu", {"process_bytes": 5}, {}, None),
        ("cuda", {"device_process_bytes": 900}, {"peak_allocated_bytes": 300}, 900),
        ("cuda", {"device_process_bytes": 900}, {"peak_allocated_bytes": 300, "peak_device_process_bytes": 950}, 950),
        ("cuda", {"device_process_bytes": 900}, {"peak_device_process_bytes": 950}, 950),  # ONNX Runtime
        ("cuda", {"device_process_bytes": 900}, {"peak_process_bytes": 70}, None),  # the host's memory is another
    ],
)
def test_the_most_that_was_held_is_the_whole_process(
    device: str, loaded: dict[str, int], peak: dict[str, int], held: int | None
) -> None:
    assert record(device=device, memory={"loaded": loaded, "peak": peak}).most_held_bytes == held
