"""Every CUDA backend is the same model at every precision that it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import check_parity

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("model", "task"), [("bert-tiny", "base"), ("gpt2-tiny", "lm")])
def test_backends_are_the_same_model_on_a_gpu(artifacts: Path, model: str, task: str, precision: str) -> None:
    found = check_parity(
        model, backends="eager,torchscript,onnx", precisions=precision, task=task, device="cuda", artifacts=artifacts
    )
    judged = [judgement for judgement in found.judgements if judgement.cases]
    assert judged
    for judgement in judged:
        assert judgement.verdict in ("original", "exact", "equivalent"), judgement.reason
