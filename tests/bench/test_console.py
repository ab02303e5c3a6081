"""The report on a terminal: fits it, leaves nothing out in silence, says what is wrong with a file first."""

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


def flat(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.split())


def test_the_report_fits_80_columns_and_says_it_all(run: Run) -> None:
    text = console.render(run)
    assert widest(text) <= 80
    for word in (
        "bert (last hidden state), fp32, cpu (A CPU), 2 threads",
        "weights: seeded random (seed 0)",
        "batch 1 × length 128",
        "12346",
        "123.5",
        "100×",
        "fastest: compile:reduce-overhead, 100.01× eager",
        "torchscript at 1×128: failed: the worker was killed by SIGKILL after 3.1 s",
    ):
        assert word in text, word
    assert "failed" in row(text, "torchscript")
    assert "broken" in row(text, "onnx")


def test_a_broken_cell_wins_nothing_and_shows_no_speedup(run: Run) -> None:
    text = console.render(run)
    assert "×" not in row(text, "onnx")
    assert "fastest: onnx" not in text


def test_a_tie_is_printed_as_a_tie() -> None:
    text = console.render(run_of([record("eager"), record("onnx", ms=[[9], [11], [9]])]))
    assert "(tie with eager)" in text
    assert "tie" in row(text, "onnx")


def test_a_disturbed_cell_is_marked_and_warned_of() -> None:
    busy = {"other_cpu_seconds": 1.5}
    text = console.render(run_of([record("eager", conditions=busy), record("onnx", ms=5, conditions={})]))
    assert "!10.00" in row(text, "eager")
    assert "!" not in row(text, "onnx")
    assert "eager at 1×128: disturbed: over" in flat(text)


def test_sections_of_a_point_stand_under_its_table() -> None:
    times = {"device": 9.0, "naive": 1.0}
    records = [record(name, point, times=times) for point in (Shape(1, 128), LARGE) for name in ("eager", "onnx")]
    text = console.render(run_of(records, naive_timer=True))
    parts = ["batch 1 × length 128", "fastest:", "kinds of time", "batch 16 × length 512", "fastest:", "kinds of time"]
    at = 0
    for part in parts:
        at = text.index(part, at) + 1
    assert "naive: a clock that never waits for the device" in flat(text)


def test_a_wide_terminal_has_the_wide_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ms/sample" not in console.render(run)
    monkeypatch.setenv("COLUMNS", "200")
    wide = console.render(run)
    assert "ms/sample" in wide
    assert "p90 ms" in wide
    assert 80 < widest(wide) <= 108


def test_a_terminal_below_80_columns_gets_80(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at_80 = console.render(run)
    monkeypatch.setenv("COLUMNS", "40")
    assert console.render(run) == at_80


def test_long_names_fold_first_and_then_columns_are_dropped_in_their_order(run: Run) -> None:
    """Order of the columns: spread, speed-up folded, max |Δ|, roofline, ±."""
    run = run_of([replace(one, candidate=replace(one.candidate, environment="e" * 20)) for one in run.records])
    long = run_of([*run.records, record("onnx", ms=4.5, precision="bf16")])
    text = console.render(long)
    assert widest(text) <= 80
    (dropped,) = [line for line in text.splitlines() if line.startswith("no room in 80 columns for ")]
    named = dropped.removeprefix("no room in 80 columns for ").partition(":")[0].split(", ")
    assert named == ["spread", "max |Δ|", "roofline", "±"][: len(named)]
    header = row(text, "backend")
    assert all(title not in header for title in named)
    assert "median ms" in header
    assert "parity" in header
    assert dropped.endswith("see --format csv")


def test_columns_that_are_asked_for_stand_in_every_table() -> None:
    records = [record(name, point) for point in (Shape(1, 128), LARGE) for name in ("eager", "onnx")]
    text = console.render(run_of(records), "us-per-step,load-s")
    headers = [line for line in text.splitlines() if line.startswith("backend") and "median" in line]
    assert len(headers) == 2
    assert all(line.endswith("us/step load s") for line in headers)
    assert row(text, "eager").endswith("78.12  0.500")
    assert widest(text) <= 80


def test_columns_without_room_stand_in_tables_of_their_own(run: Run) -> None:
    names = "us-per-step,tokens-per-second,p90,p95,p99,first-call,gflop,roofline-ms,load-s,checkpoint,reason"
    names = names.replace("checkpoint,", "q1-ms,q3-ms,drift,calls-per-sample,")
    text = console.render(run, names)
    assert widest(text) <= 80
    for title in ("us/step", "tokens/s", "p95 ms", "first ms", "GFLOP", "load s", "q1 ms", "calls per sample"):
        assert text.count(title) == 1, title
    assert text.count("killed by SIGKILL") == 2


@pytest.mark.parametrize(
    ("asked", "title"),
    [("p95", "p95 ms"), ("p95_ms", "p95 ms"), ("roofline", "roofline ms"), ("load-s", "load s")],
)
def test_a_column_is_found_by_its_name_with_and_without_its_unit(run: Run, asked: str, title: str) -> None:
    assert title in console.render(run, [asked])


def test_an_unknown_column_is_refused_with_the_nearest(run: Run) -> None:
    with pytest.raises(UserError, match="unknown column 'us-per-stp'; did you mean 'us-per-step'"):
        console.render(run, "us-per-stp")


def test_an_incomplete_run_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    whole = run.records
    run.records, run.is_complete = whole[:3], False
    path = write(run, tmp_path / "a run.jsonl")
    text = console.render(read_run(path))
    assert f"Incomplete: 3 of 4 cells; bench compare --resume '{path}' goes on\n" in text
    assert not text.startswith("CUT")
    assert text.endswith(f"records: {path}\n")


def test_an_incomplete_run_of_open_end_names_no_number_of_cells(run: Run) -> None:
    doubling = run_of(run.records, is_complete=False, shapes=None, batches="auto", lengths=[128])
    assert "Incomplete: 4 cells so far; measure again with: bench compare" in console.render(doubling)


def test_a_point_that_was_skipped_whole_has_no_table(run: Run) -> None:
    lost = {"status": "skipped", "reason": "left out by --budget 4m"}
    text = console.render(run_of([*run.records, record("eager", LARGE, **lost), record("onnx", LARGE, **lost)]))
    assert "batch 16" not in text
    assert "eager, onnx at 16×512: skipped: left out by --budget 4m" in text


def test_a_preset_and_its_published_figures_are_named(run: Run) -> None:
    run.notes["preset"] = {"name": "own", "title": "A title", "source": "a paper"}
    assert "preset own: A title (a paper)" in console.render(run)


def test_a_cut_file_is_named_first(run: Run, tmp_path: Path) -> None:
    path = write(run, tmp_path / "run.jsonl", is_sealed=False)
    text = console.render(read_run(path))
    assert text.startswith("CUT: this file has no seal.")
    assert f"bench compare --resume {path} goes on" in text


def test_an_altered_file_is_named_first(run: Run, tmp_path: Path) -> None:
    path = write(run, tmp_path / "run.jsonl")
    path.write_text(path.read_text().replace("45600000", "15600000", 1))
    text = console.render(read_run(path))
    assert text.startswith("ALTERED: the lines of this file do not match its seal")
    assert "Trust none of its figures; measure again" in flat(text)
    assert "--resume" not in text


def test_an_altered_file_that_makes_no_sense_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    run.records[0] = record("eager", conditions={})
    path = write(run, tmp_path / "run.jsonl")
    path.write_text(path.read_text().replace("other_cpu_seconds", "other_cqu_seconds", 1))
    with pytest.raises(
        UserError, match=r"run.jsonl' was altered after it was written, and what it holds makes no report \(KeyError"
    ):
        console.render(read_run(path))


def test_a_whole_file_says_nothing_of_its_seal(run: Run, tmp_path: Path) -> None:
    text = console.render(read_run(write(run, tmp_path / "run.jsonl")))
    assert text.startswith("bert (last hidden state)")
    assert "Incomplete" not in text


def test_colours_are_for_terminals_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" not in console.render(run)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[31mbroken" in console.render(run)


def test_points_of_one_title_share_a_table() -> None:
    lines = console.render(of_steps()).splitlines()
    (header,) = [at for at, line in enumerate(lines) if line.startswith("step   backend")]
    assert [line.split() for line in lines[header + 2 : header + 6]] == [
        ["step", "1", "eager", "1234.5", "–"],
        ["onnx", "3", "three"],
        ["step", "2", "eager", "–", "–"],
        ["onnx", "0.250", "–"],
    ]


def test_a_column_without_figures_is_left_out_if_it_is_optional() -> None:
    run = of_steps()
    assert "joined" not in console.render(run)
    run.records[0] = replace(run.records[0], figures={"joined": 1.25})
    assert "joined" in console.render(run)


def test_a_record_without_a_table_title_has_no_row() -> None:
    run = of_steps()
    run.records[3] = replace(run.records[3], figures={"score": 77.0, "is_trial": True})
    assert "77" not in console.render(run)


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


def test_a_section_prints_its_parts_and_fits() -> None:
    text = console.render(of_steps())
    assert widest(text) <= 80
    section = text[text.index("Of its own") :]
    assert section.index("A sentence.") < section.index("who") < section.index("- an entry")
    assert "Empty" not in text
    assert "many" in section
