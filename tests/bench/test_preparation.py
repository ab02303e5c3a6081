"""Which artifact a candidate loads, by the format and the precision that its class names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import backends
from backends.null import Null
from bench import testing
from exporters.store import Artifact, ArtifactStore
from tests.in_process import preparation


class Converting(Null):
    """Loads the fp32 artifact whatever it computes in, and another format by one variant."""

    spec = replace(
        Null.spec,
        format="onnx",
        variants={"default": {}, "traced": {"format": "torchscript", "artifact_precisions": {}}},
        precisions={"cpu": ("fp32", "bf16", "int8")},
        artifact_precisions={"bf16": "fp32", "int8": "fp32"},
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Formats that were asked for and the options of each; nothing is exported."""
    found: list[tuple[str, list[str]]] = []

    def exported(store: Any, recipe: dict[str, Any], which: list[str], *rest: Any) -> Artifact:
        found.append((recipe["format"], which))
        return Artifact(recipe["format"], "0" * 16, Path(), recipe, {"positions": 512}, {}, 0.0)

    monkeypatch.setattr("bench.run.preparation.exported", exported)
    monkeypatch.setattr(backends, "load_class", lambda name: Converting)
    return found


def test_an_artifact_is_exported_in_the_precision_that_the_backend_loads(
    tmp_path: Path, asked: list[tuple[str, list[str]]]
) -> None:
    prepared = preparation(tmp_path, model="bert-tiny", backends="null,null:traced", precisions="fp32,bf16")
    prepared.make([])
    made = {(one.variant, one.precision): artifact.recipe for one, artifact in prepared.artifacts.items()}
    assert {cell: recipe["precision"] for cell, recipe in made.items()} == {
        ("default", "fp32"): "fp32",
        ("default", "bf16"): "fp32",
        ("traced", "fp32"): "fp32",
        ("traced", "bf16"): "bf16",
    }
    precisions = [(name, which[which.index("--precision") + 1]) for name, which in asked if "--precision" in which]
    assert sorted(precisions) == [("onnx", "fp32"), ("onnx", "fp32"), ("torchscript", "bf16"), ("torchscript", "fp32")]
    assert made["default", "fp32"] == made["default", "bf16"] != made["traced", "fp32"]


def test_the_plan_names_such_an_export_once(tmp_path: Path, asked: list[tuple[str, list[str]]]) -> None:
    prepared = preparation(tmp_path, model="bert-tiny", backends="null", precisions="fp32,bf16,int8")
    assert prepared.missing_exports() == ["checkpoint", "onnx fp32"]


def test_the_contract_is_checked_on_the_same_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    weights = Artifact("checkpoint", "0" * 16, tmp_path, {}, {}, {}, 0.0)

    def make(store: ArtifactStore, recipe: dict[str, Any], write: Any) -> Artifact:
        made.append((recipe["format"], recipe.get("precision")))
        return weights

    monkeypatch.setattr(ArtifactStore, "make", make)
    testing._Workbench(Converting, "default", "bert-tiny", "cpu", "bf16", tmp_path)
    assert made == [("checkpoint", None), ("onnx", "fp32")]
