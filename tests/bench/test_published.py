"""Published figures beside ours: medians, ratios, verdicts, and what explains the odd rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from bench.report import console, documents
from bench.run.file import read_run
from bench.run.record import Run
from bench.workloads import presets, published
from bench.workloads.published import judge
from exporters import sources
from tests import made

GIB = 2**30


def run_of(name: str, ms: float = 10.0, measured: int = 3) -> Run:
    """A run of a preset whose first shapes were measured, on eager with and without autograd."""
    preset = presets.load(name)
    records = []
    for index, shape in enumerate(preset.shapes):
        for label, kept in (("eager", 0.1), ("eager:grad", 0.4)):
            peak = GIB + round(kept * GIB * shape.batch)
            memory = {"loaded": {"process_bytes": GIB}, "peak": {"peak_process_bytes": peak}}
            is_ok = index < measured
            values = {"memory": memory, "times": {"naive": 1.0}} if is_ok else {"status": "oom", "reason": "too large"}
            records.append(made.record(label, shape, ms=ms, **values))
    noted = published.notes(name, sources.resolve(preset.model), preset.shapes)
    return made.run_of(records, notes=noted, backends="eager", grad=True)


def rows_of(run: Run) -> dict[str, dict[str, str]]:
    table = published.section(run).table
    assert table is not None
    return {cells[0]: dict(zip(table.titles, cells, strict=True)) for cells in table.rows}


def test_published_and_ours_stand_side_by_side() -> None:
    found = rows_of(run_of("seed-bert"))
    assert list(found) == ["1×1", "1×512", "16×512", "32×512", "64×512"]
    assert found["1×1"]["published"] == "7.210"  # the median of three readings
    assert found["1×512"] | {"naive": ""} == {
        "shape": "1×512", "published": "10.63", "of peak": "26%", "verdict": "possible", "ours": "10.00",
        "ratio": "1.06×", "naive": "",
    }  # fmt: skip
    assert (found["16×512"]["verdict"], found["16×512"]["of peak"]) == ("implausible", "173%")
    assert [found["32×512"][name] for name in ("verdict", "ours", "ratio")] == ["implausible", "oom", "–"]
    assert (found["64×512"]["verdict"], found["64×512"]["published"]) == ("out of memory", "–")
    assert found["1×1"]["naive"] == "1.000"


def test_what_explains_the_odd_rows() -> None:
    impossible, memory, here = published.section(run_of("seed-bert")).items
    assert impossible.startswith("implausible: 16×512 (173%), 32×512 (299%) of that card's peak")
    assert "out of memory there, 64×512 (27.6 GiB)" in memory
    assert "exceed 23.69 GiB" in memory
    assert here == (
        "here autograd adds 307 MiB a sequence at 16×512: one call peaks at 7.40 GiB with it (eager:grad), "
        "2.60 GiB without (eager)"
    )


def test_memory_that_autograd_does_not_explain_is_not_put_down_to_it() -> None:
    run = run_of("seed-bert")
    run.notes["published"]["card"] = run.notes["published"]["card"] | {"memory_bytes": 48 * GIB}
    line = next(line for line in published.section(run).items if "64×512" in line)
    assert "would fit into, so they do not explain it, 48.00 GiB" in line


@pytest.mark.parametrize("name", ["seed-bert", "seed-gpt", "seed-gpt2-medium"])
def test_autograd_explains_every_row_of_the_seed_that_ran_out_and_none_that_did_not(name: str) -> None:
    figures = presets.load(name).figures
    for row in judge(figures):
        if row.grad_bytes is not None:
            assert (row.grad_bytes > figures["card"]["memory_bytes"]) == (row.median_ms is None), row


def test_us_per_step_as_published_and_as_ours() -> None:
    run = run_of("seed-gpt2-medium", 1024.0)
    found = rows_of(run)
    assert (found["1×1024"]["us/step"], found["1×1024"]["our us"]) == ("67.66", "1000.0")
    assert (found["1×512"]["us/step"], found["1×512"]["our us"]) == ("–", "–")
    assert any("(length - 1) at 1×1024, 2×1024, 4×1024" in line for line in published.section(run).items)
    # 25 us is 12.90 ms / 512
    assert not any("us/step" in line for line in published.section(run_of("seed-gpt")).items)


def test_the_steps_that_a_published_figure_was_divided_by() -> None:
    steps = {
        (row.batch, row.length): row.steps for row in judge(presets.load("seed-gpt2-medium").figures) if row.us_per_step
    }
    assert steps == {(1, 512): 512, (1, 1024): 1023, (2, 1024): 1023, (4, 1024): 1023}


@pytest.mark.parametrize("name", ["seed-bert", "seed-gpt", "seed-gpt2-medium"])
def test_the_report_of_a_preset_fits_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = console.render(run_of(name, 12345.6))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "Published: NVIDIA GeForce RTX 3090, fp32 (35.6 TFLOP/s, 23.69 GiB)" in text


def test_csv_has_the_published_figures_too() -> None:
    rows = list(csv.DictReader(io.StringIO(documents.as_csv(run_of("seed-bert")))))
    assert {row["published_verdict"] for row in rows} == {"possible", "implausible", "out of memory"}
    assert float(rows[4]["us_per_step"]) == pytest.approx(10_000 / 512)


def test_the_runs_file_is_all_that_a_report_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("seed-gpt")
    expected = published.section(run)
    path = made.write(run, tmp_path / "run.jsonl")
    monkeypatch.setattr(presets, "FOLDER", tmp_path / "none")
    assert published.section(read_run(path)) == expected
    run.notes.clear()
    assert published.section(run).is_empty
