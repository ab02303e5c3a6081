"""CSV, JSON and Markdown of a run: all figures, valid, within limits, and honest about the file that they come from."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.report import console
from bench.report.documents import MOST_CHARACTERS, as_csv, as_json, as_markdown
from bench.run.experiment import measure
from bench.run.file import read_run
from bench.run.record import Once, Record, Run
from bench.spec import Shape
from bench.workloads.forward import Forward, ForwardOptions
from tests.made import MS, of_every_outcome, record, run_of, write

FORMATS: dict[str, Callable[[Run], str]] = {
    "console": console.render,
    "csv": as_csv,
    "json": as_json,
    "markdown": as_markdown,
}


@pytest.fixture
def run() -> Run:
    return of_every_outcome()


def rows_of_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def table(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if line.startswith("|")]


# CSV.


def test_the_csv_has_one_row_a_record_under_the_names_of_the_columns(run: Run) -> None:
    rows = rows_of_csv(as_csv(run))
    assert list(rows[0]) == list(run.rows()[0]) == [column.name for column in run.workload.all_columns]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed"]
    assert rows[3]["median_ms"] == ""
    assert float(rows[1]["median_ms"]) == pytest.approx(123.45)
    assert {(row["integrity"], row["is_complete"]) for row in rows} == {("sealed", "True")}


def test_the_csv_keeps_every_sign_of_a_text(run: Run) -> None:
    run.records[3] = replace(run.records[3], reason='lost, "again"\nand\r again; ü')
    assert rows_of_csv(as_csv(run))[3]["reason"] == 'lost, "again"\nand\n again; ü'


# JSON.


def test_the_json_has_the_header_and_all_that_records_hold(run: Run) -> None:
    document = json.loads(as_json(run))
    assert set(document) == {
        "schema", "workload", "options", "model", "candidates", "fingerprint", "started", "command", "notes",
        "is_complete", "integrity", "exit_code", "rows",
    }  # fmt: skip
    assert (document["workload"], document["exit_code"], document["integrity"]) == ("forward", 3, "sealed")
    assert document["notes"] == {"parent_cpu_share": 0.01}
    assert len(document["rows"]) == 4
    first = document["rows"][0]
    assert set(run.rows()[0]) < set(first)
    assert [turn["times_ns"]["wall"] for turn in first["turns"]] == run.records[0].rounds
    assert first["point"] == {"batch": 1, "length": 128}
    assert first["candidate"]["backend"] == "eager"
    assert document["rows"][1]["repeat"] == run.repeat(run.records[1])
    assert any("parity is broken" in line for line in document["rows"][2]["warnings"])
    assert document["rows"][3]["reason"] == run.records[3].reason


def test_the_json_names_outliers(run: Run) -> None:
    run.records[0] = record("eager", ms=[[10 + index / MS for index in range(9)], [99]])
    (found,) = json.loads(as_json(run))["rows"][0]["named_outliers"]
    assert found == {"index": 9, "value": 99 * MS, "kind": "high severe"}


def test_the_json_keeps_lists_of_figures_on_one_line_and_texts_as_they_are(run: Run) -> None:
    odd = 'a "list" [\n1,\n 2]'
    run.records[3] = replace(run.records[3], reason=odd, figures={"figures": [1, 2.5, -1e-7]})
    text = as_json(run)
    assert json.loads(text)["rows"][3]["reason"] == odd
    assert re.search(r'"wall": \[12345678000, 12345678000, 12345678000\]', text)
    assert json.loads(text)["rows"][3]["figures"] == {"figures": [1, 2.5, -1e-7]}


def test_the_json_is_valid_whatever_a_figure_is(run: Run) -> None:
    run.records[0] = replace(run.records[0], parity={"verdict": "broken", "max_abs_error": float("inf")})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(as_json(run), parse_constant=refuse)
    assert document["rows"][0]["max_abs_error"] is None


# Markdown.


def test_the_markdown_has_one_table_of_all_records(run: Run) -> None:
    text = as_markdown(run)
    lines = table(text)
    assert len(lines) == 2 + 4
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert text.startswith(
        "**bert** (last hidden state), fp32, cpu (A CPU), 2 threads; weights: seeded random (seed 0)"
    )
    assert "| 1×128 | torchscript | failed | – |" in text
    assert "- 1×128: fastest: compile:reduce-overhead, 100.01× eager" in text
    assert "**Not measured**" in text


def test_the_markdown_has_columns_that_are_asked_for(run: Run) -> None:
    header, rule, first, *_ = table(as_markdown(run, "us-per-step,load-s"))
    assert header.endswith("| us/step | load s |")
    assert rule.endswith("|--:|--:|")
    assert first.endswith("| 96451 | 0.500 |")


def test_the_markdown_escapes_what_a_reason_may_hold(run: Run) -> None:
    run.records[3] = replace(run.records[3], reason="a | b <img src=x>\nand more & more")
    text = as_markdown(run)
    assert "a \\| b &lt;img src=x&gt; and more &amp; more" in text
    assert "<img" not in text


def long_run(shapes: int, reason: str, backends: int = 1) -> Run:
    lost = {"status": "failed"}
    return run_of(
        [
            record(f"eager:v{number}", Shape(1, length), reason=f"{reason} {length}", **lost)
            for length in range(1, shapes + 1)
            for number in range(backends)
        ]
    )


def test_a_long_run_fits_a_comment_by_shorter_lists_first() -> None:
    run = long_run(500, "x" * 300)
    text = as_markdown(run)
    assert len(text) <= MOST_CHARACTERS
    assert len(table(text)) == 2 + 500
    assert "- and 490 more" in text


def test_a_longer_run_fits_a_comment_by_fewer_rows_and_says_so() -> None:
    run = long_run(500, "x" * 300, backends=4)
    text = as_markdown(run)
    assert len(text) <= MOST_CHARACTERS
    rows = len(table(text)) - 2
    assert 100 < rows < 2000
    assert f"{2000 - rows} of 2,000 rows are left out, so that this fits a comment; bench report --format csv" in text


# Files that are not as they were written.


def test_every_format_names_an_altered_file(run: Run, tmp_path: Path) -> None:
    path = write(run, tmp_path / "run.jsonl")
    content = path.read_text()
    assert content.count("45600000,") >= 1
    path.write_text(content.replace("45600000,", "15600000,", 1))
    altered = read_run(path)
    assert console.render(altered).startswith("ALTERED: ")
    assert as_markdown(altered).startswith("**ALTERED: the lines of this file do not match its seal")
    assert json.loads(as_json(altered))["integrity"] == "altered"
    assert {row["integrity"] for row in rows_of_csv(as_csv(altered))} == {"altered"}
    assert {row["integrity"] for row in altered.rows()} == {"altered"}


def test_every_format_names_a_cut_file(run: Run, tmp_path: Path) -> None:
    path = write(run, tmp_path / "run.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:20])
    cut = read_run(path)
    assert len(cut.records) == 3
    assert console.render(cut).startswith("CUT: ")
    assert as_markdown(cut).startswith("**CUT: this file has no seal")
    document = json.loads(as_json(cut))
    assert (document["integrity"], document["is_complete"]) == ("cut", False)
    assert {(row["integrity"], row["is_complete"]) for row in rows_of_csv(as_csv(cut))} == {("cut", "False")}


def test_every_format_names_an_incomplete_run(run: Run, tmp_path: Path) -> None:
    run.records, run.is_complete = run.records[:2], False
    stopped = read_run(write(run, tmp_path / "run.jsonl"))
    assert "Incomplete: 2 of 4 cells" in console.render(stopped)
    assert as_markdown(stopped).startswith("**Incomplete: 2 of 4 cells; bench compare --resume ")
    assert json.loads(as_json(stopped))["is_complete"] is False
    assert {row["is_complete"] for row in rows_of_csv(as_csv(stopped))} == {"False"}


@pytest.mark.parametrize(
    "options",
    [("--format", "csv"), ("--format", "json"), ("--output", "run.csv"), ("--png", "plots")],
    ids=["csv", "json", "output", "png"],
)
def test_the_command_says_what_a_figure_cannot(
    run: Run, tmp_path: Path, cli_here: Callable[..., Any], options: tuple[str, str]
) -> None:
    path = write(run, tmp_path / "run.jsonl")
    path.write_text(path.read_text().replace("45600000,", "15600000,", 1))
    done = cli_here("report", "run.jsonl", *options)
    assert done.returncode == 0
    assert done.stderr.startswith("bench: run.jsonl: ALTERED: the lines of this file do not match its seal")


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_speaks_of_the_seal_of_a_whole_file(run: Run, tmp_path: Path, name: str) -> None:
    text = FORMATS[name](read_run(write(run, tmp_path / "run.jsonl")))
    assert not re.search(r"\b(altered|cut|incomplete)\b", text, re.IGNORECASE)


# Any record.

shares = st.one_of(st.none(), st.floats(0, 1e6))
texts = st.text(max_size=20)
rounds = st.lists(st.lists(st.integers(1, 10**12), min_size=1, max_size=4), max_size=4)


@st.composite
def records(draw: st.DrawFn) -> Record:
    status = draw(st.sampled_from(["ok", "oom", "failed", "timeout", "unsupported", "skipped"]))
    return record(
        draw(st.sampled_from(["eager", "onnx", "null", "compile:reduce-overhead"])),
        Shape(draw(st.integers(1, 64)), draw(st.integers(1, 512))),
        ms=[[one / MS for one in samples] for samples in draw(rounds)],
        verdict=draw(st.sampled_from(["", "original", "exact", "equivalent", "lossy", "broken", "unjudged"])),
        precision=draw(st.sampled_from(["fp32", "bf16"])),
        status=status,
        reason=draw(texts),
        times=draw(st.dictionaries(st.sampled_from(["device", "enqueue", "naive"]), st.floats(0.001, 1e3))),
        conditions=draw(st.none() | st.fixed_dictionaries({"other_cpu_seconds": shares, "steal_seconds": shares})),
        once=Once(draw(shares), draw(shares), draw(st.none() | st.integers(0, 10**12)), [], draw(st.booleans()), draw(st.integers(1, 9))),
        operations=draw(st.sampled_from([{}, {"flops": 10**9, "weight_bytes": 10**8}])),
        memory=draw(st.sampled_from([{}, {"loaded": {"process_bytes": 5 * 2**20}}, {"key_value_bytes_per_sequence": 7}])),
        facts=draw(st.sampled_from([{}, {"compile_seconds": 1.5}, {"graphs": 2, "graph_breaks": 1}])),
    )  # fmt: skip


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


@settings(max_examples=15, deadline=None)
@given(st.lists(records(), min_size=1, max_size=4, unique_by=lambda one: one.cell))
def test_every_figure_of_any_record_is_json_and_every_format_holds_it(found: list[Record]) -> None:
    run = run_of(found)
    rows = run.rows()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert len(json.loads(as_json(run), parse_constant=refuse)["rows"]) == len(found)
    assert len(rows_of_csv(as_csv(run))) == len(found)
    assert len(as_markdown(run)) <= MOST_CHARACTERS
    assert max(len(line) for line in console.render(run).splitlines()) <= 108


# A run that was measured.


def test_a_measured_run_reads_back_to_the_same_reports(tmp_path: Path, artifacts: Path) -> None:
    preset = tmp_path / "own.toml"
    preset.write_text(
        'title = "Two tiny shapes"\nsource = "a test"\nmodel = "bert-tiny"\nbackends = ["null", "null:50us", "null:fail"]\n'
        "shapes = [[1, 8], [4, 8]]\n"
    )
    given = {"preset": str(preset), "max_seconds_per_cell": "100ms", "max_warmup": "10ms", "warmup": "10ms"}
    options = ForwardOptions.parsed(given | {"artifacts": str(artifacts), "output": str(tmp_path / "run.jsonl")})
    run = measure(Forward, options)
    again = read_run(tmp_path / "run.jsonl")
    assert again.integrity == "sealed"
    for render in FORMATS.values():
        assert render(again) == render(run)
    assert again.notes["preset"]["source"] == "a test"
    text = console.render(again)
    assert f"preset {preset}: Two tiny shapes (a test)" in " ".join(text.split())
    assert "null:fail at 4×8: failed: null:fail fails by design" in text
    assert text.count("\nbatch ") == 2
