"""The report on a terminal: fits it, leaves nothing out in silence. What it says is in the golden files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.columns import Column, Section, Table
from bench.errors import UserError
from bench.report import console
from bench.run.file import read_run
from bench.run.record import Run
from bench.spec import Shape
from tests.made import Steps, of_every_outcome, of_steps, record, run_of, write

LARGE = Shape(16, 512)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def run() -> Run:
    return of_every_outcome()


def widest(text: str) -> int:
    return max(len(line) for line in text.splitlines())


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(name))


def test_the_report_fits_80_columns_and_says_it_all(run: Run) -> None:
    text = console.render(run)
    assert widest(text) <= 80
    assert "fastest: compile:reduce-overhead, 100.01× eager" in text
    assert "torchscript at 1×128: failed: the worker was killed by SIGKILL after 3.1 s" in text
    assert "failed" in row(text, "torchscript")
    assert "broken" in row(text, "onnx") and "×" not in row(text, "onnx")
    assert "12346" in text and "123.5" in text


def test_a_tie_and_a_disturbed_cell_are_marked() -> None:
    ms = [[9], [11], [9]]
    text = console.render(run_of([record("eager", conditions={}), record("onnx", ms=ms, conditions={})]))
    assert "(tie with eager)" in text
    assert "tie" in row(text, "onnx") and "!" not in row(text, "onnx")
    busy = {"other_cpu_seconds": 1.5}
    text = console.render(run_of([record("eager", conditions=busy), record("onnx", ms=ms, conditions={})]))
    assert "undecided: disturbed: only 0 of 3 rounds were quiet" in text and "fastest" not in text
    assert "disturbed" in row(text, "onnx") and "!" not in row(text, "onnx") and "×" not in row(text, "onnx")
    assert "!10.00" in row(text, "eager")
    assert "eager at 1×128: disturbed: over" in " ".join(text.split())


def test_sections_of_a_point_stand_under_its_table() -> None:
    times = {"device": 9.0, "naive": 1.0}
    records = [record(name, point, times=times) for point in (Shape(1, 128), LARGE) for name in ("eager", "onnx")]
    text = console.render(run_of(records, naive_timer=True))
    at = 0
    for part in ("batch 1 ×", "fastest:", "kinds of time", "batch 16 ×", "fastest:", "kinds of time"):
        at = text.index(part, at) + 1
    assert "naive: a clock that never waits for the device" in " ".join(text.split())


def test_the_width_of_the_terminal_decides_which_columns_there_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at_80 = console.render(run)
    assert "ms/sample" not in at_80
    monkeypatch.setenv("COLUMNS", "200")
    wide = console.render(run)
    assert "ms/sample" in wide and "p90 ms" in wide
    assert 80 < widest(wide) <= 108
    monkeypatch.setenv("COLUMNS", "40")
    assert console.render(run) == at_80


def test_long_names_fold_first_and_then_columns_are_dropped_in_their_order(run: Run) -> None:
    """Order of the columns: spread, speed-up folded, max |Δ|, roofline, ±."""
    run = run_of([replace(one, candidate=replace(one.candidate, environment="e" * 20)) for one in run.records])
    text = console.render(run_of([*run.records, record("onnx", ms=4.5, precision="bf16")]))
    assert widest(text) <= 80
    (dropped,) = [line for line in text.splitlines() if line.startswith("no room in 80 columns for ")]
    named = dropped.removeprefix("no room in 80 columns for ").partition(":")[0].split(", ")
    assert named == ["spread", "max |Δ|", "roofline", "±"][: len(named)]
    header = row(text, "backend")
    assert all(title not in header for title in named)
    assert "median ms" in header and "parity" in header
    assert dropped.endswith("see bench report --csv")


def test_columns_that_are_asked_for_stand_in_every_table_or_in_their_own(run: Run) -> None:
    records = [record(name, point) for point in (Shape(1, 128), LARGE) for name in ("eager", "onnx")]
    text = console.render(run_of(records), "us-per-step,load-s")
    headers = [line for line in text.splitlines() if line.startswith("backend") and "median" in line]
    assert len(headers) == 2
    assert all(line.endswith("us/step load s") for line in headers)
    assert row(text, "eager").endswith("78.12  0.500")
    assert widest(text) <= 80
    names = "us-per-step,tokens-per-second,p90,p95_ms,p99,first-call,gflop,roofline,load-s,q1-ms,q3-ms,drift,"
    text = console.render(run, f"{names}calls-per-sample,reason")
    assert widest(text) <= 80
    for title in ("us/step", "tokens/s", "p95 ms", "first ms", "GFLOP", "load s", "q1 ms", "calls per sample"):
        assert text.count(title) == 1, title
    assert text.count("killed by SIGKILL") == 2
    with pytest.raises(UserError, match="unknown column 'us-per-stp'; did you mean 'us-per-step'"):
        console.render(run, "us-per-stp")


def test_a_run_that_is_not_whole_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    doubling = run_of(run.records, is_complete=False, shapes=None, batches="auto", lengths=[128])
    assert "Incomplete: 4 cells so far; measure again with: bench compare" in console.render(doubling)
    run.notes["preset"] = {"name": "own", "title": "A title", "source": "a paper"}
    run.records[0] = record("eager", conditions={})
    run.records, run.is_complete = run.records[:3], False
    path = write(run, tmp_path / "a run.jsonl")
    text = console.render(read_run(path))
    assert f"Incomplete: 3 of 4 cells; bench compare --resume '{path}' goes on\n" in text
    assert text.endswith(f"records: {path}\n")
    assert text.startswith("bert (last hidden state)")
    assert "preset own: A title (a paper)" in text
    path.write_text(path.read_text().replace("other_cpu_seconds", "other_cqu_seconds", 1))
    refused = r"run.jsonl' was altered after it was written, and what it holds makes no report \(KeyError"
    with pytest.raises(UserError, match=refused):
        console.render(read_run(path))


def test_a_point_that_was_skipped_whole_has_no_table(run: Run) -> None:
    lost = {"status": "skipped", "reason": "left out by --budget 4m"}
    text = console.render(run_of([*run.records, record("eager", LARGE, **lost), record("onnx", LARGE, **lost)]))
    assert "batch 16" not in text
    assert "eager, onnx at 16×512: skipped: left out by --budget 4m" in text


def test_colours_are_for_terminals_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" not in console.render(run)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[31mbroken" in console.render(run)


def test_points_of_one_title_share_a_table_with_the_columns_and_records_that_it_has() -> None:
    run = of_steps()
    text = console.render(run)
    assert widest(text) <= 80
    lines = text.splitlines()
    (header,) = [at for at, line in enumerate(lines) if line.startswith("step   backend")]
    assert [line.split() for line in lines[header + 2 : header + 6]] == [
        ["step", "1", "eager", "1234.5", "–"],
        ["onnx", "3", "three"],
        ["step", "2", "eager", "–", "–"],
        ["onnx", "0.250", "–"],
    ]
    section = text[text.index("Of its own") :]
    assert section.index("A sentence.") < section.index("who") < section.index("- an entry")
    assert "many" in section and "Empty" not in text and "joined" not in text
    run.records[0] = replace(run.records[0], figures={"joined": 1.25})
    run.records[3] = replace(run.records[3], figures={"score": 77.0, "is_trial": True})
    text = console.render(run)
    assert "joined" in text and "77" not in text


def test_figures_are_never_cropped(monkeypatch: pytest.MonkeyPatch) -> None:
    run = of_steps()
    many = tuple(
        Column(f"figure{number}", lambda run, one, number=number: 1000.5 + number, title=f"a figure {number}")
        for number in range(12)
    )
    monkeypatch.setattr(Steps, "columns", (*Steps.columns, *many))
    titles = ("who", *(f"figure{number}" for number in range(15)))
    wide = Section("Wide", table=Table(titles, (("eager", *(f"{10**9 + number}" for number in range(15))),)))
    monkeypatch.setattr(Steps, "sections", lambda self, run: [wide])
    text = console.render(run)
    assert widest(text) <= 80
    assert all(f"{1000.5 + number:.1f}" in text for number in range(12))
    assert all(f"{10**9 + number}" in text for number in range(15))
    assert "…" not in text
