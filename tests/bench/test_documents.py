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


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def test_the_csv_has_one_row_a_record_under_the_names_of_the_columns(run: Run) -> None:
    run.records[3] = replace(run.records[3], reason='lost, "again"\nand\r again; ü')
    rows = rows_of_csv(as_csv(run))
    assert list(rows[0]) == list(run.rows()[0]) == [column.name for column in run.workload.all_columns]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed"]
    assert rows[3]["median_ms"] == ""
    assert rows[3]["reason"] == 'lost, "again"\nand\n again; ü'
    assert float(rows[1]["median_ms"]) == pytest.approx(123.45)
    assert {(row["integrity"], row["is_complete"]) for row in rows} == {("sealed", "True")}


def test_the_json_has_the_header_and_all_that_records_hold(run: Run) -> None:
    odd = 'a "list" [\n1,\n 2]'
    run.records[2] = replace(run.records[2], parity=run.records[2].parity | {"max_abs_error": float("inf")})
    run.records[3] = replace(run.records[3], reason=odd, figures={"figures": [1, 2.5, -1e-7]})
    text = as_json(run)
    document = json.loads(text, parse_constant=refuse)
    assert set(document) == {
        "schema", "workload", "options", "model", "candidates", "fingerprint", "started", "command", "notes",
        "is_complete", "integrity", "exit_code", "rows",
    }  # fmt: skip
    assert (document["workload"], document["exit_code"], document["integrity"]) == ("forward", 3, "sealed")
    assert document["notes"] == {"parent_cpu_share": 0.01}
    first, second, third, fourth = document["rows"]
    assert set(run.rows()[0]) < set(first)
    assert [turn["times_ns"]["wall"] for turn in first["turns"]] == run.records[0].rounds
    assert re.search(r'"wall": \[12345678000, 12345678000, 12345678000\]', text)
    assert (first["point"], first["candidate"]["backend"]) == ({"batch": 1, "length": 128}, "eager")
    assert second["repeat"] == run.repeat(run.records[1])
    assert any("parity is broken" in line for line in third["warnings"])
    assert third["max_abs_error"] is None  # JSON has no infinity
    assert (fourth["reason"], fourth["figures"]) == (odd, {"figures": [1, 2.5, -1e-7]})
    run.records[0] = record("eager", ms=[[10 + index / MS for index in range(9)], [99]])
    (found,) = json.loads(as_json(run))["rows"][0]["named_outliers"]
    assert found == {"index": 9, "value": 99 * MS, "kind": "high severe"}


def test_the_markdown_has_one_table_of_all_records(run: Run) -> None:
    run.records[3] = replace(run.records[3], reason="a | b <img src=x>\nand more & more")
    text = as_markdown(run)
    lines = table(text)
    assert len(lines) == 2 + 4
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    heading = "**bert** (last hidden state), fp32, cpu (A CPU), 2 threads; weights: seeded random (seed 0)"
    assert text.startswith(heading)
    for words in (
        "| 1×128 | torchscript | failed | – |", "- 1×128: fastest: compile:reduce-overhead, 100× eager",
        "**Not measured**", "a \\| b &lt;img src=x&gt; and more &amp; more",
    ):  # fmt: skip
        assert words in text, words
    header, rule, first, *_ = table(as_markdown(run, "us-per-step,load-s"))
    assert header.endswith("| us/step | load s |")
    assert rule.endswith("|--:|--:|")
    assert first.endswith("| 96451 | 0.500 |")


@pytest.mark.parametrize("backends", [1, 4])
def test_a_long_run_fits_a_comment_by_shorter_lists_first_and_by_fewer_rows_then(backends: int) -> None:
    lost = {"status": "failed", "ms": []}
    lengths, names = range(1, 501), [f"eager:v{number}" for number in range(backends)]
    run = run_of([record(one, Shape(1, at), reason=f"{'x' * 300} {at}", **lost) for at in lengths for one in names])
    text = as_markdown(run)
    assert len(text) <= MOST_CHARACTERS
    rows = len(table(text)) - 2
    if backends == 1:
        assert rows == 500
        assert "- and 490 more" in text
    else:
        assert 100 < rows < 2000
        assert f"{2000 - rows} of 2,000 rows are left out, so that this fits a comment; bench report --csv" in text


# Files that are not as they were written.


def altered(path: Path) -> None:
    assert "45600000," in path.read_text()
    path.write_text(path.read_text().replace("45600000,", "15600000,", 1))


def torn(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:20])


def stopped(path: Path) -> None:
    run = of_every_outcome()
    run.records, run.is_complete = run.records[:2], False
    path.unlink()
    write(run, path)


@pytest.mark.parametrize(
    ("spoil", "said", "ends", "integrity", "is_complete"),
    [
        (altered, "ALTERED: the lines of this file do not match its seal", "measure again", "altered", False),
        (torn, "CUT: this file has no seal", "goes on", "cut", False),
        (stopped, "Incomplete: 2 of 4 cells; bench compare --resume ", "goes on", "sealed", False),
        (lambda path: None, "", "", "sealed", True),
    ],
)
def test_every_format_says_what_is_wrong_with_a_file(
    run: Run, tmp_path: Path, spoil: Callable[[Path], None], said: str, ends: str, integrity: str, is_complete: bool
) -> None:
    path = write(run, tmp_path / "run.jsonl")
    spoil(path)
    found = read_run(path)
    text, markdown, document = console.render(found), as_markdown(found), json.loads(as_json(found))
    assert (document["integrity"], document["is_complete"]) == (integrity, is_complete)
    in_rows = {(row["integrity"], row["is_complete"]) for row in rows_of_csv(as_csv(found))}
    assert in_rows == {(integrity, str(is_complete))}
    if said:
        assert said in text and f"**{said}" in markdown.splitlines()[0]
        assert ends in " ".join(text.split()) and ends in markdown
        assert ("--resume" in text) is (spoil is not altered)
        assert said.startswith("Incomplete") or text.startswith(said)
    else:
        for each in (text, markdown, as_csv(found)):
            assert not re.search(r"\b(altered|cut|incomplete)\b", each, re.IGNORECASE)


# How they are asked for.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--csv"], []),
        (["--format", "json"], ["bench: --format json is now --json; it ends with 0.3.0"]),
        (["--output", "run.csv"], ["bench: wrote run.csv"]),
        (["--png", "plots"], ["bench: --png is now --output; it ends with 0.3.0", "plots to plots"]),
        (["--output", "plots/new.png", "--output", "run.md"], ["plots to plots", "bench: wrote run.md"]),
    ],
)
def test_the_command_says_what_a_figure_cannot_and_what_it_wrote(
    run: Run, tmp_path: Path, cli_here: Callable[..., Any], options: list[str], said: list[str]
) -> None:
    altered(write(run, tmp_path / "run.jsonl"))
    done = cli_here("report", "run.jsonl", *options)
    assert (done.returncode, bool(done.stdout)) == (0, options[0] not in ("--output", "--png"))
    for words in [*said, "bench: run.jsonl: ALTERED: the lines of this file do not match its seal"]:
        assert words in done.stderr
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} - {"run.jsonl"}
    prefix = "plots/new-" if "plots/new.png" in options else "plots/"
    names = {path.removeprefix(prefix) for path in made if path.endswith(".png")}
    assert bool(names) is any("plots" in one for one in options)
    assert not names or {"median-ms.png", "rounds-0.png"} <= names
    assert {path for path in made if not path.endswith(".png")} == {one for one in options if one.startswith("run.")}
    again = cli_here("report", "run.jsonl", *options)
    assert (again.returncode == 2) is bool(made)  # nothing is written over


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--csv", "--json"], "--json and --csv ask for two; leave one out"),
        (["--json", "--output", "page.html"], "--json and --output 'page.html' ask for two; leave one out"),
        (["--output", "page.pdf"], "--output 'page.pdf' ends in none of .html, .md, .csv, .json, .txt, .png"),
        (["--output", "html"], "ends in none of"),
        (["run.jsonl", "--csv"], "several files are one page alone: give --output FILE.html or FILE.png"),
        (["run.jsonl", "--output", "page.html"], "the same file is given twice"),
        (["--format", "pdf"], "No such option: --format"),
        (["--columns", "speed"], "unknown column 'speed'"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    run: Run, tmp_path: Path, cli_here: Callable[..., Any], options: list[str], said: str
) -> None:
    write(run, tmp_path / "run.jsonl")
    done = cli_here("report", "run.jsonl", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]


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
