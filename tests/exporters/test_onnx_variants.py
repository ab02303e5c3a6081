"""Fused, opset-23 and int8 ONNX files: what is used was checked, what fails a check is not, and counts are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import exporters
from exporters import checkpoint, onnx_fused
from exporters.sources import resolve
from exporters.store import Artifact, ArtifactStore

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch, transformers and their exporters warn


def made(root: Path, format: str, model: str, precision: str = "fp32") -> Artifact:
    """The artifact of a tiny model in the session's store."""
    store, source = ArtifactStore(root), resolve(model, weights="random")
    store.prepare()
    weights = store.make(checkpoint.recipe(source), lambda folder: checkpoint.export(source, folder))
    module = exporters.load_module(format)
    recipe = exporters.recipe(format, weights.key, precision=precision, device="cpu")
    return store.make(recipe, lambda folder: module.export(weights.path, folder, recipe))


@pytest.mark.parametrize(
    ("model", "attention"),
    [("bert-tiny", {"Attention": 2}), ("gpt2-tiny", {"MultiHeadAttention": 2}), ("gpt-tiny", {})],
)
def test_fused_operators_are_counted_and_the_export_is_not_made_twice(
    model: str, attention: dict[str, int], artifacts: Path
) -> None:
    found = made(artifacts, "onnx-fused", model)
    fused = found.metadata["fused_operators"]
    assert {name: fused[name] for name in onnx_fused.ATTENTION if name in fused} == attention
    assert found.metadata["fused_attention"] == sum(attention.values())
    assert fused["SkipLayerNormalization"] == 4
    plain = made(artifacts, "onnx", model)
    assert found.metadata["made_from"]["key"] == plain.key
    assert found.metadata["nodes"] < plain.metadata["nodes"]


def test_int8_holds_a_quarter_of_the_weights_and_says_what_it_quantised(artifacts: Path) -> None:
    found, plain = made(artifacts, "onnx", "bert-tiny", "int8"), made(artifacts, "onnx", "bert-tiny")
    assert found.metadata["quantised_products"] == 12  # six matrices in each of two layers
    assert found.files["model.onnx.data"]["bytes"] < 0.3 * plain.files["model.onnx.data"]["bytes"]
    recipe = json.loads((found.path / "artifact.json").read_text())["recipe"]
    assert recipe["quantised"]["onnxruntime"] != "missing"
    assert "quantised" not in json.loads((plain.path / "artifact.json").read_text())["recipe"]


@pytest.mark.parametrize(
    ("model", "precision", "count"), [("gpt2-tiny", "fp32", 2), ("bert-tiny", "fp16", 2), ("gpt-tiny", "fp32", 0)]
)
def test_the_standard_operator_stands_for_each_attention_that_the_exporter_knows(
    model: str, precision: str, count: int, artifacts: Path
) -> None:
    found = made(artifacts, "onnx-attention23", model, precision).metadata
    assert (found["opset"], found["fused_attention"]) == (23, count)


@pytest.fixture
def graph(artifacts: Path) -> Path:
    """The plain graph of a tiny decoder."""
    return made(artifacts, "onnx", "gpt2-tiny").path / "model.onnx"


@pytest.fixture
def rewriters(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Rewriters to be given by a test."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(onnx_fused, "REWRITERS", given)
    yield given


def changed(change: Any) -> Any:
    """A rewriter that fuses as onnxscript's does, and then changes the graph."""

    def rewrite(source: Path, target: Path) -> None:
        import onnx

        onnx_fused._by_onnxscript(source, target)
        model = onnx.load(target)
        change(model.graph)
        onnx.save(model, target)

    return rewrite


def without_mask(graph: Any) -> None:
    """Plant: attention forgets its bias, which holds the mask."""
    for node in graph.node:
        if node.op_type == "MultiHeadAttention":
            node.input[5] = ""


def without_an_operator(graph: Any) -> None:
    """Plant: the graph reads a value that nothing makes."""
    graph.node.remove(next(node for node in graph.node if node.op_type == "MultiHeadAttention"))


def never(source: Path, target: Path) -> None:
    """Plant: a rewriter that crashes."""
    raise ValueError("cannot match")


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (changed(without_mask), r"it computes something else: off by .* of the RMS at \d×\d+"),
        (changed(without_an_operator), "is not output of any previous nodes|not output"),
        (never, "cannot match"),
        (lambda source, target: target.write_bytes(source.read_bytes()), "it fuses nothing"),
    ],
)
def test_a_graph_that_fails_a_check_is_not_used(
    planted: Any, reason: str, rewriters: dict[str, Any], artifacts: Path, tmp_path: Path
) -> None:
    made(artifacts, "onnx", "gpt2-tiny")
    rewriters["planted"] = planted
    weights = next(path for path in ArtifactStore(artifacts).paths() if _is_checkpoint_of(path, "gpt2-tiny"))
    with pytest.raises(onnx_fused.FusionError, match=reason) as caught:
        onnx_fused.export(weights, tmp_path, {"precision": "fp32"})
    assert "no rewriter wrote a graph that may be used (planted: " in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    rewriters["onnxscript"] = onnx_fused._by_onnxscript
    metadata = onnx_fused.export(weights, tmp_path, {"precision": "fp32"})
    assert metadata["rewriter"] == "onnxscript"  # the next is tried
    assert metadata["refused_rewriters"][0].startswith("planted: ")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}


def _is_checkpoint_of(path: Path, model: str) -> bool:
    found = json.loads((path / "artifact.json").read_text())["metadata"]
    return (
        path.name.startswith("checkpoint-") and found.get("model") == model and "last_hidden_state" in found["outputs"]
    )


def test_products_behind_a_fused_attention_take_three_dimensions(graph: Path, tmp_path: Path) -> None:
    """The fault that was seen: a Gemm takes two dimensions, and is fed three."""
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model, _ = optimize_for_ort(onnx_ir.load(graph))
    before = sum(node.op_type == "Gemm" for node in model.graph)
    products = sum(node.op_type == "MatMul" for node in model.graph)
    onnx_fused._split_products(model)
    kinds = [node.op_type for node in model.graph]
    assert before > 0
    assert "Gemm" not in kinds
    assert kinds.count("MatMul") == products + before


def test_masks_of_the_check_differ_and_leave_something_in_every_row() -> None:
    masks = onnx_fused._masks(2, 16)
    assert len({mask.tobytes() for mask in masks}) == 4
    assert all((mask.sum(axis=1) > 0).all() for mask in masks)
    assert len(onnx_fused._masks(1, 1)) == 1
