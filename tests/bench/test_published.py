"""Published figures beside ours: medians, ratios, verdicts, what explains the odd rows; and columns on request."""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench import presets, report
from bench.errors import UserError
from bench.published import judge
from bench.records import Record, Run
from bench.report import published
from bench.report.columns import COLUMNS, parse_columns, shown
from bench.runfile import RunFile, read_run, record_line
from bench.spec import Candidate, Grid, TimingPlan

MS = 1_000_000
GIB = 2**30


def run_of(name: str, ms_of=lambda shape: 10.0, measured: int = 3) -> Run:
    """A run of a preset whose first shapes were measured, on eager with and without autograd."""
    preset = presets.load(name)
    contestants = (Candidate("eager", "default", "fp32"), Candidate("eager", "grad", "fp32"))
    records = []
    for index, shape in enumerate(preset.shapes):
        for contestant in contestants:
            is_ok = index < measured
            kept = (0.4 if contestant.variant == "grad" else 0.1) * GIB * shape.batch
            records.append(
                Record(
                    model=preset.model, backend="eager", variant=contestant.variant, precision="fp32", device="cpu",
                    batch=shape.batch, length=shape.length, status="ok" if is_ok else "oom", reason="" if is_ok else "too large",
                    rounds=[[round(ms_of(shape) * MS)] * 3] * 3 if is_ok else [],
                    naive_rounds=[[MS]] if is_ok else [],
                    parity={"verdict": "exact", "max_abs_error": 2.1e-6} if is_ok else {},
                    memory={"loaded": {"process_bytes": GIB}, "peak": {"peak_process_bytes": GIB + round(kept)}} if is_ok else {},
                )
            )  # fmt: skip
    grid = Grid(preset.model, contestants, preset.shapes, "cpu", 2)
    made = Run(
        grid, TimingPlan(), {"cpu": "A CPU"}, "seeded random (seed 0)", "c0ffee", "bench compare", "2026", records
    )
    made.preset = {"name": name, "title": preset.title, "source": preset.source}
    made.published = dict(preset.figures) | {"rows": [r for r in preset.figures["rows"] if r["model"] == preset.model]}
    made.is_complete = True
    return made


def rows_of(run: Run) -> dict[str, dict[str, str]]:
    titles, rows = published.table(run)
    return {cells[0]: dict(zip(titles, cells, strict=True)) for cells in rows}


def test_published_and_ours_stand_side_by_side() -> None:
    found = rows_of(run_of("seed-bert"))
    assert list(found) == ["1×1", "1×512", "16×512", "32×512", "64×512"]
    assert found["1×1"]["published"] == "7.210"  # the median of three readings
    assert found["1×512"] | {"naive": ""} == {
        "shape": "1×512", "published": "10.63", "of peak": "26%", "verdict": "possible", "ours": "10.00",
        "ratio": "1.06×", "naive": "",
    }  # fmt: skip
    assert (found["16×512"]["verdict"], found["16×512"]["of peak"]) == ("implausible", "173%")
    assert (found["32×512"]["verdict"], found["32×512"]["ours"], found["32×512"]["ratio"]) == (
        "implausible",
        "oom",
        "–",
    )
    assert (found["64×512"]["verdict"], found["64×512"]["published"]) == ("out of memory", "–")
    assert found["1×1"]["naive"] == "1.000"


def test_what_explains_the_odd_rows() -> None:
    impossible, memory, here = published.explanations(run_of("seed-bert"))
    assert impossible.startswith("implausible: 16×512 (173%), 32×512 (299%) of that card's peak")
    assert "out of memory there, 64×512 (27.6 GiB)" in memory
    assert "exceed 23.69 GiB" in memory
    assert here == (
        "here autograd adds 307 MiB a sequence at 16×512: one call peaks at 7.40 GiB with it (eager:grad), "
        "2.60 GiB without (eager)"
    )


def test_memory_that_autograd_does_not_explain_is_not_put_down_to_it() -> None:
    run = run_of("seed-bert")
    run.published["card"] = run.published["card"] | {"memory_bytes": 48 * GIB}
    line = next(line for line in published.explanations(run) if "64×512" in line)
    assert "would fit into, so they do not explain it, 48.00 GiB" in line


@pytest.mark.parametrize("name", ["seed-bert", "seed-gpt", "seed-gpt2-medium"])
def test_autograd_explains_every_row_of_the_seed_that_ran_out_and_none_that_did_not(name: str) -> None:
    figures = presets.load(name).figures
    for row in judge(figures):
        if row.grad_bytes is not None:
            assert (row.grad_bytes > figures["card"]["memory_bytes"]) == (row.median_ms is None), row


def test_us_per_step_as_published_and_as_ours() -> None:
    found = rows_of(run_of("seed-gpt2-medium", lambda shape: 1024.0))
    assert (found["1×1024"]["us/step"], found["1×1024"]["our us"]) == ("67.66", "1000.0")
    assert (found["1×512"]["us/step"], found["1×512"]["our us"]) == ("–", "–")
    assert any(
        "(length - 1) at 1×1024, 2×1024, 4×1024" in line for line in published.explanations(run_of("seed-gpt2-medium"))
    )
    gpt = published.explanations(run_of("seed-gpt"))
    assert not any("us/step" in line for line in gpt)  # 25 us is 12.90 ms / 512


def test_the_steps_that_a_published_figure_was_divided_by() -> None:
    steps = {
        (row.batch, row.length): row.steps for row in judge(presets.load("seed-gpt2-medium").figures) if row.us_per_step
    }
    assert steps == {(1, 512): 512, (1, 1024): 1023, (2, 1024): 1023, (4, 1024): 1023}


@pytest.mark.parametrize("name", ["seed-bert", "seed-gpt", "seed-gpt2-medium"])
def test_the_report_of_a_preset_fits_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = report.render(run_of(name, lambda shape: 12345.6), "table")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "Published: NVIDIA GeForce RTX 3090, fp32 (35.6 TFLOP/s, 23.69 GiB)" in text
    assert f"preset {name}:" in text
    for column in published.table(run_of(name))[0]:
        assert column in text


def test_other_formats_have_the_published_figures_too() -> None:
    run = run_of("seed-bert")
    markdown = report.render(run, "markdown")
    assert "| shape | published | of peak | verdict | ours | ratio | naive |" in markdown
    assert "| 16×512 | 25.20 | 173% | implausible | 10.00 | 2.52× | 1.000 |" in markdown
    rows = list(csv.DictReader(io.StringIO(report.render(run, "csv"))))
    assert {row["published_verdict"] for row in rows} == {"possible", "implausible", "out of memory"}
    assert float(rows[2]["us_per_step"]) == pytest.approx(10_000 / 512)
    document = json.loads(report.render(run, "json"))
    assert document["preset"] == run.preset
    assert document["published"]["card"]["name"] == "NVIDIA GeForce RTX 3090"


def test_without_published_figures_nothing_is_said_of_them() -> None:
    run = run_of("seed-bert")
    run.published, run.preset = {}, {}
    for name in ("table", "markdown"):
        assert "ublished" not in report.render(run, name)
    assert published.explanations(run) == []


def test_the_runs_file_is_all_that_a_report_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("seed-gpt")
    file = RunFile(tmp_path / "run.jsonl")
    file.create(run)
    for record in run.records:
        file.append(record_line(record))
    expected = published.table(run)
    monkeypatch.setattr(presets, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(presets, "FIGURES", tmp_path / "none")
    assert published.table(read_run(file.path)) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"published": {"rows": []}}, {"published": [1]}, {"preset": "seed-bert"}, {"preset": {"name": 3}},
        {"budget": {"text": "1m", "seconds": 60.0, "kept": []}}, {"budget": {"text": "1m", "seconds": -1, "kept": []}},
        {"budget": {"text": "1m", "seconds": 60.0, "kept": [{"batch": 3, "length": 3}]}}, {"budget": "1m"},
    ],
)  # fmt: skip
def test_a_damaged_header_is_one_line(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(run_of("seed-bert").header() | change) + "\n")
    with pytest.raises(UserError, match="is damaged"):
        read_run(path)


def test_a_run_of_the_schema_before_is_read(tmp_path: Path) -> None:
    header = {key: value for key, value in run_of("seed-bert").header().items() if key not in ("preset", "published")}
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(header | {"schema": 2}) + "\n")
    run = read_run(path)
    assert (run.schema, run.preset, run.published, run.budget) == (2, {}, {}, None)


def line_of(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_columns_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = run_of("seed-bert", lambda shape: 12.8)
    text = report.render(run, "table", parse_columns("us-per-step,ms-per-sample"))
    batch_16 = text[text.index("batch 16 × length 512") :]
    titles = batch_16.splitlines()[1]
    assert titles.index("us/step") < titles.index("ms/sample")
    assert line_of(batch_16, "eager ")[3:6].count("25.00") == 1  # 12.8 ms / 512
    assert "0.800" in line_of(batch_16, "eager ")  # 12.8 ms / 16
    assert max(len(line) for line in text.splitlines()) <= 80
    markdown = report.render(run, "markdown", ("us-per-step",)).splitlines()
    table = [line for line in markdown if line.startswith("|")][: 2 + len(run.records)]
    assert table[0].endswith("| max abs error | us/step |")
    assert {line.count("|") for line in table} == {12}


def test_a_table_without_a_request_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = report.render(run_of("seed-bert"), "table")
    titles = next(line for line in text.splitlines() if line.startswith("backend"))
    assert titles.split("  ")[0].startswith("backend")
    for title in ("median ms", "±", "spread", "speed-up", "floor", "parity", "max |Δ|"):
        assert title in titles
    assert "us/step" not in titles


@pytest.mark.parametrize("seed", range(4))
def test_any_columns_fit_and_none_is_lost(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    draw = random.Random(seed)
    names = draw.sample(list(COLUMNS), k=draw.randrange(1, len(COLUMNS) + 1))
    run = run_of("seed-gpt", lambda shape: draw.choice([0.00123, 12.3, 98765.4]))
    long = [replace(r, variant="reduce-overhead") if r.variant == "grad" else r for r in run.records]
    run.records = [replace(record, precision=precision) for record in long for precision in ("fp32", "bf16")]
    run.grid = replace(run.grid, contestants=tuple(dict.fromkeys(record.contestant for record in run.records)))
    text = report.render(run, "table", names)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for name in names:
        assert COLUMNS[name].title in text


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_a_shape_that_the_budget_left_out_is_said_once(format: str) -> None:
    from bench.budget import Budget

    run = run_of("seed-bert")
    run.budget = Budget("3m", 180.0, run.grid.shapes[:3])
    skipped = {"status": "skipped", "reason": run.budget.reason}
    run.records = [record if record.status == "ok" else replace(record, **skipped) for record in run.records]
    text = " ".join(report.render(run, format).split())
    assert "eager, eager:grad at 32×512, 64×512: skipped: left out by --budget 3m" in text
    assert "batch 32 × length" not in text
    assert "| 32×512 | eager | skipped" not in text
    assert rows_of(run)["32×512"]["ours"] == "left out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("us-per-stp", "unknown column 'us-per-stp'; did you mean 'us-per-step'?"),
        ("", "--columns is empty"),
        ("p90,median", "unknown column 'median'"),
    ],
)
def test_an_unknown_column_is_a_mistake(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_columns(text)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (1.2345, "1.234"), (99.99, "99.99"), (123.45, "123.5"), (12345.6, "12346"), (1.2e8, "1.20e+08")],
)  # fmt: skip
def test_figures_have_about_four_digits(value: float, text: str) -> None:
    assert shown(value) == text
