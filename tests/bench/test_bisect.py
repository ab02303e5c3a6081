"""Bisection: a planted fault is traced to its layer, and in an ONNX file to the value that the faulty operation makes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.parity import inputs
from bench.parity.bisect import search as bisection
from bench.parity.bisect.inner import STATE_AXES, figures
from bench.parity.bisect.search import CHUNK_BYTES, Value, bad_states, values_between
from bench.process import channel
from bench.process.channel import WorkerError
from bench.spec import Candidate
from exporters import sources
from exporters.store import Artifact, ArtifactStore
from tests.in_process import InThisProcess

Plant = Callable[[Any], str]


@pytest.fixture(scope="module")
def exported(artifacts: Path) -> Callable[[str, str], Artifact]:
    """`exported(model, format)`: the artifact of a tiny model in fp32."""
    import exporters
    from exporters import checkpoint

    store = ArtifactStore(artifacts)
    store.prepare()

    def export(model: str, format: str) -> Artifact:
        source = sources.resolve(model, weights="random")
        weights = store.make(checkpoint.recipe(source), lambda folder: checkpoint.export(source, folder))
        if format == "checkpoint":
            return weights
        recipe = exporters.recipe(format, weights.key, precision="fp32", device="cpu")
        module = exporters.load_module(format)
        return store.make(recipe, lambda folder: module.export(weights.path, folder, recipe))

    return export


@pytest.fixture
def programs_made_once(monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> None:
    """A model's program is exported by the first test that needs it and copied by the others."""
    from exporters import onnx

    save = onnx.save_program

    def save_once(checkpoint: Path, precision: str, path: Path) -> None:
        kept = artifacts / f"{checkpoint.name}-{precision}.pt2"
        if not kept.exists():
            save(checkpoint, precision, kept)
        shutil.copy(kept, path)

    monkeypatch.setattr(onnx, "save_program", save_once)


@pytest.fixture
def bisect(
    exported: Callable[[str, str], Artifact], artifacts: Path, tmp_path: Path, programs_made_once: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Any]]:  # fmt: skip
    """`bisect(model, backend, artifact=…, chunk_bytes=…, in_processes=…)` on a padded batch."""

    def run(model: str, backend: str, artifact: Path | None = None, in_processes: bool = False, **options: Any) -> Any:
        if not in_processes:
            monkeypatch.setattr(channel, "Worker", InThisProcess)
        made_of = "checkpoint" if backend == "eager" else backend
        path = tmp_path / "inputs.npz"
        np.savez(path, **inputs.make_batch(inputs.InputPlan(3, 24, 1024, 0, 0, 64), "padded"))
        weights = exported(model, "checkpoint").path
        return bisection.bisect(
            weights, Candidate(backend, "default", "fp32"), artifact or exported(model, made_of).path, path,
            device="cpu", threads=1, root=artifacts, timeout_seconds=120, **options,
        )  # fmt: skip

    return run


def faulty_onnx(source: Artifact, folder: Path, plant: Plant) -> tuple[Path, str]:
    """A copy of an ONNX artifact that `plant` has changed, and what `plant` said."""
    import onnx

    folder.mkdir()
    shutil.copy(source.path / "artifact.json", folder)
    model = onnx.load(source.path / "model.onnx")
    planted = plant(model)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    return folder, planted


def maker_of(model: Any, value: str) -> Any:
    (node,) = [node for node in model.graph.node if value in node.output]
    return node


def scale_weight(value: str) -> Plant:
    """Scale the matrix that is multiplied just before `value` is made; says its name."""

    def plant(model: Any) -> str:
        from onnx import numpy_helper

        weights = {
            entry.name: entry for entry in model.graph.initializer if (len(entry.dims), entry.data_type) == (2, 1)
        }
        makers = {name: node for node in model.graph.node for name in node.output}
        seen = [makers[value], *(makers[name] for name in makers[value].input if name in makers)]
        (weight,) = {name for node in seen for name in node.input if name in weights}
        scaled = numpy_helper.to_array(weights[weight]) * np.float32(1.01)
        weights[weight].CopyFrom(numpy_helper.from_array(scaled, weight))
        return weight

    return plant


def tanh_gelu(model: Any) -> str:
    """Compute a GELU in its tanh form."""
    import onnx

    node = maker_of(model, "gelu_1")
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))
    return str(node.op_type)


def coarse_norm(model: Any) -> str:
    """Add another epsilon behind the last layer."""
    node = maker_of(model, "layer_norm_4")
    (epsilon,) = [attribute for attribute in node.attribute if attribute.name == "epsilon"]
    epsilon.f = 1e-3
    return str(node.op_type)


def test_a_scaled_weight_is_traced_to_the_operation_that_uses_it(bisect, exported, tmp_path: Path) -> None:
    folder, weight = faulty_onnx(exported("bert-tiny", "onnx"), tmp_path / "faulty", scale_weight("linear_8"))
    found = bisect("bert-tiny", "onnx", folder)
    assert (found["layer"]["index"], found["layer"]["name"]) == (1, "model.encoder.layer.1")
    assert found["layer"]["ratio"] > 100
    node = found["node"]
    assert (node["name"], node["module"]) == ("linear_8", "model.encoder.layer.1.attention.self.value")
    assert node["operations"] == ["MatMul", "Add"]
    assert weight in node["reads"]
    assert node["ratio"] > 1000
    # The first layer's values are settled, so that the second's alone are compared.
    assert 0 < found["values_compared"] < 25
    assert any("have no counterpart by name" in note for note in found["notes"])
    assert any("undid 1 BiasGelu" in note for note in found["notes"])
    # Small chunks find the same.
    one_state = 3 * 24 * 64 * 8
    parts = bisect("bert-tiny", "onnx", folder, chunk_bytes=one_state)
    assert parts["chunk_bytes"] <= 8 * one_state < found["chunk_bytes"] < CHUNK_BYTES
    for key in ("layer", "node"):
        assert parts[key]["name"] == found[key]["name"]
        assert parts[key]["rmse"] == pytest.approx(found[key]["rmse"], rel=0.01)


@pytest.mark.parametrize(
    ("model", "plant", "planted", "layer", "node", "said"),
    [
        ("bert-tiny", tanh_gelu, "Gelu", (1, "model.encoder.layer.1"), ("gelu_1", "Gelu"), ""),
        (
            "bert-tiny", scale_weight("embedding_2"), "model.embeddings.position_embeddings.weight", (-1, "embeddings"),
            ("embedding_2", "Gather"), "look at the embeddings",
        ),
        (
            "gpt2-tiny", coarse_norm, "LayerNormalization", None, ("layer_norm_4", "LayerNormalization"),
            "behind the last",
        ),
    ],
    ids=["gelu", "before the first layer", "behind the last layer"],
)  # fmt: skip
def test_a_fault_is_traced_to_its_layer_and_node(
    bisect, exported, tmp_path: Path, model: str, plant: Plant, planted: str, layer: Any, node: Any, said: str
) -> None:
    folder, what = faulty_onnx(exported(model, "onnx"), tmp_path / "faulty", plant)
    assert what == planted
    found = bisect(model, "onnx", folder)
    assert (found["layer"] and (found["layer"]["index"], found["layer"]["name"])) == layer
    assert (found["node"]["name"], found["node"]["op_type"]) == node
    assert said in " ".join(found["notes"])


@pytest.mark.parametrize(
    ("model", "backend"), [("bert-tiny", "onnx"), ("gpt2-tiny", "onnx"), ("gpt2-tiny", "torchscript")]
)
def test_a_healthy_export_has_no_culprit(bisect, model: str, backend: str) -> None:
    found = bisect(model, backend)
    assert (found["layer"], found["node"], found["layers_compared"]) == (None, None, 3)
    assert "the output is within tolerance on these inputs" in found["notes"]


@pytest.mark.parametrize(("backend", "in_processes"), [("torchscript", True), ("eager", False)])
def test_a_scaled_weight_is_traced_to_its_layer_in_other_formats(
    bisect, exported, tmp_path: Path, backend: str, in_processes: bool
) -> None:
    from safetensors.numpy import load_file, save_file

    from exporters import torchscript

    folder = checkpoint = tmp_path / "checkpoint"
    shutil.copytree(exported("bert-tiny", "checkpoint").path, checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"] *= np.float32(1.01)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    if backend == "torchscript":
        folder = tmp_path / "faulty"
        folder.mkdir()
        torchscript.export(checkpoint, folder, {"precision": "fp32", "device": "cpu"})
        shutil.copy(exported("bert-tiny", "torchscript").path / "artifact.json", folder)
    found = bisect("bert-tiny", backend, folder, in_processes)
    assert (found["layer"]["name"], found["node"]) == ("model.encoder.layer.1", None)
    assert any("no node is searched" in note for note in found["notes"])


def test_a_backend_that_hands_out_nothing_says_so(bisect, exported) -> None:
    with pytest.raises(WorkerError, match="null hands out no values") as raised:
        bisect("bert-tiny", "null", exported("bert-tiny", "checkpoint").path)
    assert raised.value.status == "unsupported"


def test_a_fault_that_marking_undoes_is_told_as_one(bisect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripted: the runtime's own call is wrong, and right as soon as inner values are outputs too."""
    from backends.onnx import Onnx

    run_inner = Onnx.run_inner

    def run(self: Onnx, batch: Any, names: list[str]) -> Any:
        values, changed = run_inner(self, batch, names)
        if names == ["last_hidden_state"]:
            values["last_hidden_state"] = values["last_hidden_state"] * np.float32(1.01)
        return values, changed

    monkeypatch.setattr(Onnx, "run_inner", run)
    found = bisect("bert-tiny", "onnx")
    assert (found["layer"], found["node"]) == (None, None)
    assert any("with hidden states as outputs the fault is gone" in note for note in found["notes"])


def test_a_graph_with_names_of_its_own_is_traced_to_the_layer(bisect, exported, tmp_path: Path) -> None:
    """A third party's file: other names, the weights inside it, no shapes of inner values."""
    import onnx

    folder, _ = faulty_onnx(exported("bert-tiny", "onnx"), tmp_path / "faulty", scale_weight("linear_8"))
    model = onnx.load(folder / "model.onnx")
    kept = {"", *(entry.name for entry in (*model.graph.input, *model.graph.output))}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"/net/{name}" for name in names]
    for entry in model.graph.initializer:
        entry.name = f"/net/{entry.name}"
    del model.graph.value_info[:]
    (folder / "model.onnx.data").unlink()
    onnx.save(model, folder / "model.onnx")
    found = bisect("bert-tiny", "onnx", folder)
    assert (found["layer"]["name"], found["node"]) == ("model.encoder.layer.1", None)
    assert any("does not bear the names of our own export" in note for note in found["notes"])


def test_a_fault_behind_a_state_that_was_fused_away_is_found(
    bisect, exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripted: the runtime does not hand out layer 0's state, as where it is fused into the next layer."""
    from backends.onnx import Onnx

    inner_values = Onnx.inner_values

    def without_state(self: Onnx) -> Any:
        return {name: value for name, value in inner_values(self).items() if name not in ("layer_norm_2", "add_196")}

    monkeypatch.setattr(Onnx, "inner_values", without_state)
    folder, _ = faulty_onnx(exported("bert-tiny", "onnx"), tmp_path / "faulty", scale_weight("linear_8"))
    found = bisect("bert-tiny", "onnx", folder)
    assert (found["layer"]["name"], found["node"]["name"]) == ("model.encoder.layer.1", "linear_8")
    assert "every value that makes model.encoder.layer.0 is within tolerance" in found["notes"]


def test_a_precision_that_eager_lacks_is_not_bisected(tmp_path: Path) -> None:
    found = bisection.bisect(
        tmp_path, Candidate("onnx", "default", "int8"), tmp_path, tmp_path / "inputs.npz",
        device="cpu", threads=1, root=tmp_path, timeout_seconds=1,
    )  # fmt: skip
    assert found["layers_compared"] == 0
    assert found["notes"] == ["int8 differs from eager in every layer by design; bisect onnx in fp32"]


@pytest.mark.parametrize(
    ("names", "leave", "output_leaves", "expected"),
    [
        ("a,b,c,d", [False, True, False, True], True, ([3], ["layer 1"])),
        ("a,b,c,d", [False, False, True, True], True, ([2, 3], [])),
        ("a,b,c,d", [False, False, False, True], False, ([], ["layer 3"])),
        ("layer 0,layer 1,layer 2,layer 3", [False, True, False, True], True, ([1, 3], [])),
    ],
)
def test_a_state_that_later_ones_recover_from_was_fused_away(
    names: str, leave: list[bool], output_leaves: bool, expected: tuple[list[int], list[str]]
) -> None:
    states = [Value(f"layer {index}", name, STATE_AXES, 8) for index, name in enumerate(names.split(","))]
    compared = list(zip(states, [{"leaves_tolerance": leaves} for leaves in leave], strict=True))
    assert bad_states(compared, output_leaves) == expected


KEPT = np.array([[True, True, False], [False, True, True]])


def judged(
    ours: np.ndarray, reference: np.ndarray, eager: np.ndarray, axes: Any = STATE_AXES, precision: str = "fp32",
    kept: np.ndarray = KEPT,
) -> dict[str, Any]:  # fmt: skip
    return figures(ours, reference, eager, axes, kept, precision)


def test_tolerance_is_eagers_error_by_a_factor_and_two_units_where_eager_is_exact() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(2, 3, 8))
    off = 1e-6 * rng.choice([-1.0, 1.0], size=reference.shape)
    for times, precision, leaves in ((1.9, "fp32", False), (2.1, "fp32", True), (2.9, "fp16", False)):
        found = judged(reference + times * off, reference, reference + off, precision=precision)
        assert (found["leaves_tolerance"], found["ratio"]) == (leaves, pytest.approx(times))
    for units, leaves in ((1.9, False), (2.1, True)):
        assert judged(reference * (1 + units * 2.0**-23), reference, reference)["leaves_tolerance"] == leaves


def test_one_wrong_token_is_not_drowned_by_many_right_ones() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(1, 100, 8))
    off = 1e-6 * rng.choice([-1.0, 1.0], size=reference.shape)
    ours = reference + 0.5 * off
    ours[0, 7] += 8 * off[0, 7]
    found = judged(ours, reference, reference + off, kept=np.ones((1, 100), bool))
    assert found["ratio"] < 2
    assert found["leaves_tolerance"]


@pytest.mark.parametrize(
    ("axes", "shape", "masked"),
    [
        (["batch", "length", None], (2, 3, 4), (0, 2)),
        (["batch", None, "length", "length"], (2, 2, 3, 3), (0, slice(None), 2)),
        (["batch", None, "length", "length"], (2, 2, 3, 3), (1, slice(None), slice(None), 0)),
        (["tokens", None], (6, 4), (2,)),
        (["length", "batch"], (3, 2), (2, 0)),
    ],
)
def test_masked_tokens_do_not_count(axes: list[str | None], shape: tuple[int, ...], masked: tuple[Any, ...]) -> None:
    reference = np.ones(shape)
    ours = reference.copy()
    ours[masked] = np.nan
    assert not judged(ours, reference, reference, axes)["leaves_tolerance"]
    kept = np.ones(shape)
    kept[tuple(1 if axis in ("batch", "length") else 4 if axis == "tokens" else 0 for axis in axes)] = np.nan
    assert judged(kept, reference, reference, axes)["leaves_tolerance"]


def test_equal_infinities_agree_and_another_shape_does_not() -> None:
    reference = np.full((2, 3, 4), -np.inf)
    assert not judged(reference.astype(np.float32), reference, reference)["leaves_tolerance"]
    assert judged(np.zeros((2, 3, 4)), reference, reference)["leaves_tolerance"]
    found = judged(np.zeros((2, 3, 5)), reference, reference)
    assert (found["leaves_tolerance"], found["mismatch"]) == (True, "shape [2, 3, 5] instead of [2, 3, 4]")
    assert not judged(np.array(2.0), np.array(2.0), np.array(2.0), [])["leaves_tolerance"]


def test_only_what_the_bad_state_needs_and_no_good_one_is_searched() -> None:
    def entry(name: str, *needs: str, states: tuple[str, ...] = (), is_output: bool = False) -> dict[str, Any]:
        return {"name": name, "inputs": list(needs), "states": list(states), "is_output": is_output}

    program = [
        entry("table"), entry("mask"), entry("first", "table", states=("in",)), entry("scores", "first", "mask"),
        entry("second", "scores", "first", states=("layer 0",)), entry("side", "first"),
        entry("head", "second", is_output=True),
    ]  # fmt: skip
    names = [found["name"] for found in values_between(program, ["in"], "layer 0")]
    assert names == ["mask", "scores", "second"]
    assert [found["name"] for found in values_between(program, ["in", "layer 0"], None)] == ["head"]
    assert [found["name"] for found in values_between(program, [], "in")] == ["table", "first"]
