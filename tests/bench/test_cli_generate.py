"""`bench generate` from arguments to table: every way of every backend on one tiny model, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench
from bench import preparation
from bench.errors import UserError
from bench.generation.records import GenerationRun, read_generation
from bench.machine.roofline import Peaks
from bench.report import generation
from bench.spec import TimingPlan

QUICK = TimingPlan(rounds=2, seconds_per_cell=0.2, warmup_seconds=0.0, warmup_most_seconds=0.01, timeout_seconds=120)
WAYS = "eager,eager:static,onnx,eager:no-cache"


def generate(model: str, backends: str, folder: Path, artifacts: Path, **options: object) -> GenerationRun:
    values: dict[str, object] = {"new_tokens": 12, "device": "cpu", "threads": 1, "plan": QUICK}
    return bench.generate(
        model, backends=backends, output=folder / "run.jsonl", artifacts=artifacts, **{**values, **options}
    )


@pytest.fixture(scope="module", autouse=True)
def _known_peaks() -> Iterator[None]:
    """A machine beside which nothing is implausible, so that no run measures this one, which other tests keep busy."""
    with pytest.MonkeyPatch.context() as patch:
        known = Peaks("cpu", 1, {"fp32": 1e15}, ((1000, 1e12),))
        patch.setattr(preparation.peaks, "measure", lambda *args, **options: known)
        yield


@pytest.fixture(scope="module")
def run(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> GenerationRun:
    return generate("gpt2-tiny", WAYS, tmp_path_factory.mktemp("generate"), artifacts, batches=(2,), prompt_length=8)


def test_every_way_writes_eagers_tokens_and_is_the_same_model(run: GenerationRun) -> None:
    assert [record.contestant.label for record in run.records] == WAYS.split(",")
    assert [record.way for record in run.records] == ["cache"] * 3 + ["no-cache"]
    for record in run.records:
        assert record.status == "ok", record.reason
        assert record.verdict in ("exact", "equivalent"), record.parity
        assert sorted(record.parity["cases"]) == ["prompt 1", "prompt 2"]
        assert record.parity["steps"] == len(record.tokens[0]) == 12
        assert run.tokens_as_eager(record) == 12
        assert len(record.rounds) == len(record.first_token_rounds) == len(record.decode_rounds) >= 2
        assert record.rounds[0][0] > record.first_token_rounds[0][0] > 0
    assert run.exit_code == 0


def test_the_cache_holds_what_the_formula_says(run: GenerationRun) -> None:
    """2 · layers · width · bytes an element and token, of two sequences; the last token is never passed over."""
    token = 2 * 2 * 64 * 4
    grown, static, onnx, without = [record.memory["cache"] for record in run.records]
    assert grown == onnx == 2 * token * (8 + 12 - 1)
    assert static == 2 * token * (8 + 12)
    assert without == 0
    assert run.records[0].memory["key_value_bytes_per_token"] == token


def test_the_floor_rests_on_the_models_weights(run: GenerationRun) -> None:
    """Layers, last normalisation and the tied head, in float32; the table of positions is only gathered from."""
    layers = 2 * (12 * 64**2 + 13 * 64) + 2 * 64
    assert run.records[0].operations["weight_bytes"] == 4 * (layers + 1024 * 64)
    share = run.floor_share(run.records[0])
    assert share is not None
    assert 0 < share < 1


def test_what_ran_is_in_the_record(run: GenerationRun) -> None:
    onnx = next(record for record in run.records if record.contestant.label == "onnx")
    assert onnx.facts["nodes_per_provider"]["CPUExecutionProvider"] > 10
    assert onnx.facts["copies_inserted"] == 0


def test_the_file_is_the_run_and_its_table_fits_the_terminal(run: GenerationRun) -> None:
    assert run.path is not None
    again = read_generation(run.path)
    assert again.records == run.records
    table = generation.render(again)
    assert max(len(line) for line in table.splitlines() if not line.startswith("records:")) <= 80
    text = " ".join(table.split())
    assert "batch 2" in text
    assert "12 of 12" in text
    assert "no keys and values are kept: each token is a pass over all tokens before it" in text


def test_a_beam_and_a_sample_are_judged_by_their_logits(artifacts: Path, tmp_path: Path) -> None:
    for decoding, backends in (("beam:3", "eager,onnx"), ("sample", "eager")):
        run = generate("gpt2-tiny", backends, tmp_path / decoding, artifacts, decoding=decoding, new_tokens=6)
        for record in run.records:
            assert record.verdict in ("exact", "equivalent"), record.parity
            assert "diverges_at" not in record.parity
            assert run.tokens_as_eager(record) == 6
        # A sample's batch is the reference's own; a beam's is as wide as the beam.
        assert run.records[0].verdict == ("exact" if decoding == "sample" else "equivalent")
        assert f"--decoding {decoding}" in run.command
        assert f"--decoding {decoding}" in run.records[0].repeat


def test_scripted_backends_are_timed_and_not_judged(tmp_path: Path) -> None:
    run = generate("gpt2-tiny", "null:slow,null", tmp_path, tmp_path / "artifacts", new_tokens=3, batches=(1, 4))
    assert [record.status for record in run.records] == ["ok"] * 4
    assert {record.verdict for record in run.records} == {""}
    slow, quick = run.rows()[:2]
    assert slow["ms_per_token"] > 20 > 1
    assert slow["speedup"] == 1
    assert quick["verdict"] in ("faster", "tie")


def test_a_backend_that_fails_costs_its_batch(tmp_path: Path) -> None:
    run = generate(
        "gpt2-tiny", "null,null:crash,null:oom", tmp_path, tmp_path / "artifacts", new_tokens=3, batches=(1, 4, 8)
    )
    found = {(record.contestant.label, record.batch): record.status for record in run.records}
    assert [found["null", batch] for batch in (1, 4, 8)] == ["ok"] * 3
    assert [found["null:crash", batch] for batch in (1, 4, 8)] == ["ok", "failed", "failed"]
    assert [found["null:oom", batch] for batch in (1, 4, 8)] == ["ok", "oom", "skipped"]
    assert run.exit_code == 1
    text = generation.render(run)
    assert "a smaller cell, 4, ran out of memory" in " ".join(text.split())


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("bert-tiny", {}, "bert-tiny is no decoder"),
        ("gpt2-tiny", {"backends": "eager:statik"}, "eager has no variant 'statik'; did you mean 'static'"),
        (
            "gpt2-tiny",
            {"backends": "eager:sdpa"},
            "eager:sdpa is not made for this command; of eager it takes default, ",
        ),
        ("gpt2-tiny", {"new_tokens": 200}, "exceed the 128 positions of gpt2-tiny; use --new-tokens ≤ 112"),
        ("gpt2-tiny", {"decoding": "beam:0"}, "0 is not within 2 and 64 beams"),
        ("gpt2-tiny", {"batches": "0"}, "--batches 0 is below 1"),
    ],
)
def test_mistakes_end_before_anything_starts(
    model: str, options: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        bench.generate(model, artifacts=tmp_path / "artifacts", device="cpu", **options)
    assert not (tmp_path / "artifacts").exists()


def test_the_command_prints_writes_and_reports(cli, tmp_path: Path) -> None:
    done = cli("generate", "--model", "gpt2-tiny", "--backends", "null,null:slow", "--new-tokens", "2", "--rounds", "1",
               "--max-seconds-per-cell", "0.1", "--device", "cpu", "--output", "run.jsonl")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "first ms" in done.stdout
    assert "median of only 1 samples" in " ".join(done.stdout.split())
    again = cli("report", "run.jsonl", "--format", "json")
    assert [row["backend"] for row in json.loads(again.stdout)["rows"]] == ["null", "null"]
    taken = cli("generate", "--model", "gpt2-tiny", "--backends", "null", "--new-tokens", "2", "--output", "run.jsonl")
    assert taken.returncode == 2
    assert taken.stderr.splitlines()[-1].startswith("bench: output file 'run.jsonl' exists; give another --output")


@pytest.mark.slow
def test_exports_without_a_cache_generate_the_same(artifacts: Path, tmp_path: Path) -> None:
    for model, backends in (("gpt2-tiny", "eager,torchscript,onnx:no-cache"), ("gpt-tiny", "eager,torchscript")):
        run = generate(model, backends, tmp_path / model, artifacts, new_tokens=4, batches=(2,))
        for record in run.records:
            assert record.verdict in ("exact", "equivalent"), (record.reason, record.parity)
            assert run.tokens_as_eager(record) == 4


@pytest.mark.slow
def test_a_model_without_a_cache_is_run_by_full_passes_and_says_so(artifacts: Path, tmp_path: Path) -> None:
    run = generate("gpt-tiny", "eager,eager:static", tmp_path, artifacts, new_tokens=4)
    found = [(record.status, record.way) for record in run.records]
    assert found == [("ok", "no-cache"), ("unsupported", "no-cache")]
    assert "this model keeps no keys and values, so eager:static has none to keep" in run.records[1].reason
    assert run.records[0].verdict in ("exact", "equivalent")
    assert "each token is a pass over all tokens before it" in " ".join(generation.render(run).split())
