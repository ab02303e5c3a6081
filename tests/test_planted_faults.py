"""A fast subset of benchmarks/planted_faults.py: the judge calls planted faults broken, and sound exports not."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import planted_faults
from benchmarks.faults import FAULTS
from exporters import sources

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit and torch.export warn about themselves
#: Faults that may lie below eager's own rounding errors; docs/parity.md has from which size on they are caught.
BELOW_ROUNDING = {"one single weight changed by 1 %", "LayerNorm epsilon, one of them"}


def rows_of(artifacts: Path, tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    chosen = {
        "models": "bert-tiny", "formats": "torchscript", "faults": "", "without": None, "precision": "fp32", "seeds": 1, "sound": 2, "weight_seeds": 1,
        "lengths": "16,37", "threads": 1, "at_size": True, "artifacts": artifacts,
    }  # fmt: skip
    return list(planted_faults.run(argparse.Namespace(**chosen | options), tmp_path))


def unjustly_judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    faults = [row for row in rows if row["kind"] == "fault" and row["fault"] not in BELOW_ROUNDING]
    sound = [row for row in rows if row["kind"] == "sound"]
    assert faults
    return [row for row in faults if row["verdict"] != "broken"] + [row for row in sound if row["verdict"] == "broken"]


@pytest.mark.parametrize(
    ("model", "format", "fault"),
    [
        ("bert-tiny", "torchscript", ""),
        ("gpt2-tiny", "checkpoint", ""),
        ("gpt-tiny", "onnx", "mask ignored"),
        ("gpt2-tiny", "onnx", "weight matrix"),
        pytest.param("gpt-tiny", "torchscript", "", marks=pytest.mark.slow),
    ],
)
def test_every_fault_is_caught(model: str, format: str, fault: str, artifacts: Path, tmp_path: Path) -> None:
    rows = rows_of(artifacts, tmp_path, models=model, formats=format, faults=fault)
    planted = {row["fault"] for row in rows if row["kind"] == "fault"}
    assert planted == {one.name for one in FAULTS if fault in one.name}
    assert sum(row["kind"] == "sound" for row in rows) == 2
    assert unjustly_judged(rows) == []


def of_one_layer(folder: Path) -> str:
    """`bert-tiny` with the first of its two layers, which halves the time that ONNX exports take; saved in `folder`."""
    import transformers

    config = sources.resolve("bert-tiny", weights="random").config | {"num_hidden_layers": 1}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**config)).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_every_fault_that_changes_the_graph_is_caught_in_onnx(artifacts: Path, tmp_path: Path) -> None:
    model = of_one_layer(tmp_path / "one")
    kinds = ("inverted", "positions", "GELU", "LayerNorm epsilon", "dropout", "outputs swapped")
    rows = [
        row
        for kind in kinds
        for row in rows_of(artifacts, tmp_path, models=model, formats="onnx", faults=kind, sound=0)
    ]
    assert len({row["fault"] for row in rows}) == 7
    assert unjustly_judged(rows) == []


def test_a_missed_fault_is_planted_larger_until_it_is_caught(artifacts: Path, tmp_path: Path) -> None:
    rows = rows_of(artifacts, tmp_path, formats="checkpoint", faults="single weight", sound=0, seeds=6, at_size=False)
    missed = [row for row in rows if row["verdict"] != "broken"]
    assert missed  # else nothing is shown here
    for row in missed:
        assert 0.01 < row["caught_at"] <= 10
    assert "missed: bert-tiny checkpoint" in "\n".join(planted_faults.summary(rows))
