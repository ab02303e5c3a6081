"""Presets as data: what the built-in ones hold, what replaces what, what is said of a damaged one; figures beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.run.experiment import settle
from bench.run.file import read_run
from bench.run.record import Run
from bench.spec import Shape
from bench.workloads import presets, published
from bench.workloads.forward import Forward, ForwardOptions
from bench.workloads.published import FIGURES, judge, notes, of_model
from exporters import sources
from tests import made

SEEDS = ("seed-bert", "seed-gpt", "seed-gpt2-medium")
OWN = """
title = "Mine"
source = "nobody"
model = "bert-tiny"
backends = ["null", "null:instant"]
shapes = [[2, 8], [1, 16]]
rounds = 1
naive_timer = true
figures = "mine.json"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A preset and figures of a user's own."""
    figures = json.loads((FIGURES / "rtx3090.json").read_text())
    figures["models"]["bert-tiny"] = figures["models"]["bert"]
    figures["rows"] = [{"model": "bert-tiny", "batch": 2, "length": 8, "status": "ok", "ms": [3.0, 1.0, 2.0]}]
    (tmp_path / "mine.json").write_text(json.dumps(figures))
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


def test_the_grids_of_the_seed() -> None:
    grids = {name: [str(shape) for shape in presets.load(name).shapes] for name in presets.names()}
    assert grids["seed-bert"] == ["1×1", "1×512", "16×512", "32×512", "64×512"]
    assert grids["seed-gpt"] == ["1×1", "1×128", "1×512", "32×512", "64×512", "128×512"]
    batches = {512: (1, 2, 4, 8, 16), 1024: (1, 2, 4, 8)}
    assert set(grids["seed-gpt2-medium"]) == {f"{b}×{length}" for length, bs in batches.items() for b in bs}
    study = presets.load("study")
    assert study.batches == (1, 2, 4, 8, 16, 32, 64)
    assert study.lengths == (8, 16, 32, 64, 128, 256, 512)
    assert len(study.shapes) == 49
    assert not study.figures
    assert set(study.backends) == {"eager", "torchscript", "onnx"}
    for name in SEEDS:
        preset = presets.load(name)
        assert (preset.rounds, preset.grad, preset.naive_timer, preset.backends[0]) == (3, True, True, "eager")
        of_this_model = [row for row in preset.figures["rows"] if row["model"] == preset.model]
        assert of_model(preset.figures, preset.model, preset.shapes)["rows"] == of_this_model
        assert {Shape(row["batch"], row["length"]) for row in of_this_model} == set(preset.shapes)


def options_of(**given: Any) -> ForwardOptions:
    return ForwardOptions.parsed({"device": "cpu", "threads": 1} | given)


def test_a_preset_gives_what_the_call_leaves_open(own: Path) -> None:
    found = options_of(preset=str(own))
    assert [str(point) for point in Forward(found).points()] == ["1×16", "2×8"]
    assert (found.model, found.backends, found.rounds, found.naive_timer) == (
        "bert-tiny", ("null", "null:instant"), 1, True,
    )  # fmt: skip
    noted = notes(found.preset, sources.resolve("bert-tiny"), Forward(found).points())
    assert noted["preset"] == {"name": str(own), "title": "Mine", "source": "nobody"}
    assert [row["ms"] for row in noted["published"]["rows"]] == [[3.0, 1.0, 2.0]]
    # The command goes on to say both, so that it stays right if the preset changes.
    assert f"--preset {own}" in found.command_line()
    assert "--shapes 1x16,2x8" in found.command_line()


def test_what_is_given_beside_a_preset_wins(own: Path) -> None:
    found = options_of(preset=str(own), model="gpt-tiny", backends="null", lengths=[4], rounds=2, naive_timer=False)
    assert [str(point) for point in Forward(found).points()] == ["1×4", "2×4"]
    assert (found.model, found.rounds, found.naive_timer, found.backends) == ("gpt-tiny", 2, False, ("null",))
    assert set(notes(found.preset, sources.resolve("gpt-tiny"), Forward(found).points())) == {"preset"}


def test_autograd_of_a_preset_goes_with_its_own_backends() -> None:
    def labels(**given: Any) -> list[str]:
        candidates, _ = settle(Forward, options_of(preset="seed-bert", **given))
        return [candidate.label for candidate in candidates]

    assert labels() == ["eager", "eager:grad", "torchscript", "onnx"]
    assert labels(backends="onnx") == ["onnx"]
    assert labels(backends="onnx,eager", grad=True) == ["onnx", "eager", "eager:grad"]
    assert labels(grad=False) == ["eager", "torchscript", "onnx"]
    with pytest.raises(UserError, match="--grad is eager's alone"):
        labels(backends="onnx", grad=True)


def test_published_figures_are_of_the_shapes_that_are_measured() -> None:
    def rows(**given: Any) -> int:
        found = options_of(preset="seed-bert", **given)
        return len(notes(found.preset, sources.resolve("bert"), Forward(found).points())["published"]["rows"])

    assert (rows(), rows(batches=[1])) == (5, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seed-brt", "unknown preset 'seed-brt'; did you mean 'seed-bert'"),
        ("", "unknown preset ''; use one of seed-bert, seed-gpt, seed-gpt2-medium, study"),
        ("no/such.toml", "preset file 'no/such.toml' cannot be read (No such file"),
    ],
)
def test_an_unknown_preset(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        presets.load(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title = ", "titel = "), "titel: no such key; did you mean 'title'?"),
        (('title = "Mine"', ""), "title: it is missing"),
        (('title = "Mine"', "title = 3"), "title: 3 is not one line of text"),
        (('title = "Mine"', "title = "), "cannot be read (Invalid value"),
        (("shapes = [[2, 8], [1, 16]]", ""), "shapes: it is missing"),
        (("shapes = [[2, 8], [1, 16]]", "batches = [1]"), "lengths: it is missing"),
        (("[[2, 8], [1, 16]]", "[[2, 8, 1]]"), "is not a list of [batch, length] pairs"),
        (("[[2, 8], [1, 16]]", "[[2, 0]]"), "is not a list of [batch, length] pairs"),
        (("[[2, 8], [1, 16]]", "[[true, 1]]"), "is not a list of [batch, length] pairs"),
        (("[[2, 8], [1, 16]]", "[]"), "is not a list of [batch, length] pairs"),
        (("rounds = 1", "lengths = [1]"), "shapes: it is given beside batches or lengths"),
        (("rounds = 1", "rounds = 0"), "rounds: 0 is not a number of rounds"),
        (("rounds = 1", "rounds = 1.5"), "rounds: 1.5 is not a number of rounds"),
        (("rounds = 1", "grad = 1"), "grad: 1 is not true or false"),
        (("rounds = 1", 'task = "base "'), "task: 'base ' is not one of base, lm"),
        (("rounds = 1", 'precisions = ["fp33"]'), "precisions: unknown precision 'fp33'; did you mean 'fp32'"),
        (('"null:instant"', '"nul"'), "backends: unknown backend 'nul'; did you mean 'null'"),
        (("mine.json", "rtx3091"), "figures: no figures 'rtx3091'; did you mean 'rtx3090'?"),
        (("mine.json", "none.json"), "figures: 'none.json' holds none that can be read (No such file"),
        (("mine.json", "../none.json"), "figures: '../none.json' is not beside the preset; put it there"),
        (("mine.json", "bad.json"), "figures: 'bad.json' holds none that can be read (KeyError: 'card')"),
    ],
)
def test_a_damaged_preset_is_one_line_with_file_key_and_cause(own: Path, change: tuple[str, str], message: str) -> None:
    own.with_name("bad.json").write_text('{"about": "x"}')
    assert change[0] in OWN
    own.write_text(OWN.replace(*change))
    with pytest.raises(UserError) as caught:
        presets.load(own)
    assert str(caught.value).startswith(f"preset file '{own}'")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_figures_that_are_none_are_refused(own: Path) -> None:
    path = own.with_name("mine.json")
    good = json.loads(path.read_text())
    for change in (
        {"about": 3}, {"card": good["card"] | {"memory_bytes": 0}}, {"card": good["card"] | {"precision": "fp33"}},
        {"rows": [good["rows"][0] | {"batch": 0}]}, {"rows": [good["rows"][0] | {"ms": [-1.0]}]},
        {"rows": [good["rows"][0] | {"model": "other"}]}, {"rows": [good["rows"][0] | {"status": "fine"}]},
    ):  # fmt: skip
        path.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=r"figures: 'mine\.json' holds none that can be read"):
            presets.load(own)


# Published figures beside ours: medians, ratios, verdicts, and what explains the odd rows.

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


def test_autograd_explains_every_row_of_the_seed_that_ran_out_and_none_that_did_not() -> None:
    for name in SEEDS:
        figures = presets.load(name).figures
        for row in judge(figures):
            if row.grad_bytes is not None:
                assert (row.grad_bytes > figures["card"]["memory_bytes"]) == (row.median_ms is None), row
    run = run_of("seed-bert")
    run.notes["published"]["card"] = run.notes["published"]["card"] | {"memory_bytes": 48 * GIB}
    line = next(line for line in published.section(run).items if "64×512" in line)
    assert "would fit into, so they do not explain it, 48.00 GiB" in line
    rows = judge(presets.load("seed-gpt2-medium").figures)
    steps = {(row.batch, row.length): row.steps for row in rows if row.us_per_step}
    assert steps == {(1, 512): 512, (1, 1024): 1023, (2, 1024): 1023, (4, 1024): 1023}


def test_us_per_step_stand_beside_ours() -> None:
    shown = published.section(run_of("seed-gpt2-medium", 1024.0))
    assert shown.table is not None
    cells = {row[0]: dict(zip(shown.table.titles, row, strict=True)) for row in shown.table.rows}
    assert [cells["1×1024"][title] for title in ("us/step", "our us", "naive")] == ["67.66", "1000.0", "1.000"]
    assert (cells["1×512"]["us/step"], cells["8×1024"]["ours"], cells["8×1024"]["ratio"]) == ("–", "oom", "–")
    assert any("(length - 1) at 1×1024, 2×1024, 4×1024" in line for line in shown.items)
    # 25 us is 12.90 ms / 512
    assert not any("us/step" in line for line in published.section(run_of("seed-gpt")).items)


def test_the_runs_file_is_all_that_a_report_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("seed-gpt")
    expected = published.section(run)
    path = made.write(run, tmp_path / "run.jsonl")
    monkeypatch.setattr(presets, "FOLDER", tmp_path / "none")
    assert published.section(read_run(path)) == expected
    run.notes.clear()
    assert published.section(run).is_empty
