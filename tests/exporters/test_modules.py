"""A module of the user's own as a model: what of it counts, what it may take and give, and what it may do wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.eager import Eager
from backends.torchscript import TorchScript
from bench.parity import generation, judging, verdict
from bench.parity.inputs import InputPlan
from exporters import checkpoint, modules, pickled, sources, torchscript
from exporters.errors import ModelError
from exporters.module_source import ModuleSource
from exporters.store import Artifact, ArtifactStore

CASES = Path(__file__).with_name("own_cases.py")


@pytest.fixture(autouse=True)
def _same_path() -> Iterator[None]:
    """What a factory's folder adds to the import path is of this test alone."""
    import sys

    before, loaded = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - loaded:
        if name.startswith("own_"):
            del sys.modules[name]


def source_of(factory: str, file: Path = CASES, seed: int = 0) -> ModuleSource:
    found = sources.resolve(f"{file}:{factory}", seed=seed)
    assert isinstance(found, ModuleSource)
    return found


def made(source: ModuleSource, root: Path) -> Artifact:
    """Its checkpoint, made in this process."""
    return ArtifactStore(root).make(checkpoint.recipe(source), lambda folder: checkpoint.export(source, folder))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made(source_of("two"), tmp_path_factory.mktemp("two"))


def plan_of(weights: Artifact, source: ModuleSource, **more: Any) -> InputPlan:
    settled = source.settled(weights.metadata)
    return InputPlan(
        length=9, vocab_size=settled.vocab_size, pad_token_id=0, seed=0, output_width=settled.output_width,
        inputs=settled.inputs, makes_inputs=settled.makes_inputs, whole_outputs=settled.whole_outputs,
        **({"batch": 3, "cases": ("timed",)} | more),
    )  # fmt: skip


def loaded(weights: Artifact, precision: str = "fp32") -> Eager:
    eager = Eager(open_checkpoint=checkpoint.open_checkpoint)
    eager.load(weights.path, device="cpu", precision=precision, threads=1, options={})
    return eager


def references(weights: Artifact, plan: InputPlan, folder: Path) -> tuple[Path, Path]:
    paths = folder / "fp64", folder / "fp32"
    for path in paths:
        path.mkdir()
        judging.evaluate(loaded(weights, path.name), plan, path, None)
    return paths


# What counts


def test_the_key_holds_the_file_its_own_imports_the_factory_and_the_seed(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "own.py").write_text("def f():\n    from parts import layers\n    return layers.L()\n")
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "layers.py").write_text("import torch\nfrom . import more\nL = torch.nn.Identity\n")
    (tmp_path / "parts" / "more.py").write_text("A = 1\n")
    (tmp_path / "stranger.py").write_text("A = 1\n")
    source = source_of("f", tmp_path / "own.py")
    assert set(source.checksums) == {"own.py", "parts/__init__.py", "parts/layers.py", "parts/more.py"}
    assert source.libraries == ("safetensors", "torch")
    keys = [source.recipe()]
    for name in ("own.py", "parts/more.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "B = 2\n")
        keys.append(source_of("f", tmp_path / "own.py").recipe())
    keys += [source_of("g", tmp_path / "own.py").recipe(), source_of("f", tmp_path / "own.py", seed=1).recipe()]
    (tmp_path / "stranger.py").write_text("A = 2\n")
    assert source_of("f", tmp_path / "own.py").recipe() == keys[2]
    assert all(one != other for index, one in enumerate(keys) for other in keys[:index])
    (tmp_path / CASES.name).write_bytes(CASES.read_bytes())
    one, moved = source_of("two"), source_of("two", tmp_path / CASES.name)
    assert one.recipe() == moved.recipe(), "a moved file is the same model"
    assert checkpoint.recipe(one) != checkpoint.recipe(moved), "in another place"


def test_one_set_of_weights_whatever_the_factory_draws(tmp_path: Path) -> None:
    weights = made(source_of("drawn_anew"), tmp_path)
    states = [dict(loaded(weights).module.named_parameters()) for _ in range(2)]
    buffers = [dict(loaded(weights).module.named_buffers()) for _ in range(2)]
    assert "model.scratch" in buffers[0]
    for one, other in (states, buffers):
        assert all(torch.equal(one[name], other[name]) for name in one)
    again = made(source_of("drawn_anew"), tmp_path / "other")
    assert again.key == weights.key
    settled = [source_of("drawn_anew").settled(artifact.metadata) for artifact in (weights, again)]
    assert settled[0].weights_checksum() != settled[1].weights_checksum()


def test_a_file_that_changed_since_the_export_is_not_run(tmp_path: Path) -> None:
    own = tmp_path / "own_now.py"
    own.write_bytes(CASES.read_bytes())
    weights = made(source_of("two", own), tmp_path)
    own.write_text(own.read_text() + "# more\n")
    with pytest.raises(ModelError, match="changed since the export"):
        checkpoint.open_checkpoint(weights.path, "cpu", "fp32")


# What it takes and gives


def test_traits_of_other_inputs_and_outputs(two: Artifact, tmp_path: Path) -> None:
    traits = {
        "task": "base",
        "inputs": ["features", "ids"],
        "input_axes": [["batch", "length", None], ["batch", "length"]],
        "outputs": ["states", "pooled"],
        "whole_outputs": ["pooled"],
    }
    assert {name: two.metadata[name] for name in traits} == traits
    settled = source_of("maskless").settled(made(source_of("maskless"), tmp_path).metadata)
    assert (settled.task, settled.inputs, settled.vocab_size, settled.positions) == ("lm", ("input_ids",), 40, None)
    assert (settled.outputs, settled.generates) == (("logits",), True)
    assert settled.key_value_bytes(10, "fp16") == 10 * 8 * 2


def test_two_inputs_and_two_outputs_are_judged_by_their_own_axes(two: Artifact, tmp_path: Path) -> None:
    plan = plan_of(two, source_of("two"))
    reference, eager_error = references(two, plan, tmp_path)
    stored = judging.read_inputs(reference, "timed")
    assert {name: (array.dtype.name, array.shape) for name, array in stored.items()} == {
        "features": ("float32", (3, 9, 4)), "ids": ("int64", (3, 9)),
    }  # fmt: skip
    metadata = torchscript.export(two.path, tmp_path, {"precision": "fp32", "device": "cpu"})
    assert (metadata["inputs"], metadata["outputs"]) == (["features", "ids"], ["states", "pooled"])
    script = TorchScript()
    script.device, script.output_names = "cpu", metadata["outputs"]
    script.module = torch.jit.load(str(tmp_path / "model.pt"))
    request = {"eager_error": str(eager_error), "precision": "fp32", "atol": 0.0, "rtol": 0.0}
    (figures,) = judging.check(script, plan, reference, request).values()
    assert [(entry["output"], entry["tokens"], entry["compared"]) for entry in figures] == [
        ("states", 27, 27 * 8),
        ("pooled", 3, 3 * 8),
    ]
    assert verdict.judge(figures, verdict.TOLERANCES["fp32"])["verdict"] in ("exact", "equivalent")
    outputs = judging.run(script, stored)
    for name in outputs:
        wrong = {key: array.copy() for key, array in outputs.items()}
        wrong[name][-1, -1] += 1e-3
        found = judging.figures(wrong, plan, "timed", reference, **request)
        judged = verdict.judge(found, verdict.TOLERANCES["fp32"])
        assert (judged["verdict"], judged["output"], judged["worst_token"][0]) == ("broken", name, 2)
    flat = {**outputs, "pooled": outputs["pooled"].reshape(3, 2, 4)}
    (mismatch,) = judging.figures(flat, plan, "timed", reference, **request)
    assert "pooled has shape [3, 2, 4]" in mismatch["mismatch"]


def test_a_step_is_judged_without_a_mask(tmp_path: Path) -> None:
    source = source_of("maskless")
    weights = made(source, tmp_path)
    plan = plan_of(weights, source, batch=1, cases=("random-full",))
    for name, forced in (("fp64", None), ("fp32", tmp_path / "fp64")):
        (tmp_path / name).mkdir()
        generation.evaluate(loaded(weights, name), plan, 4, tmp_path / name, None, forced)
    request = {"eager_error": str(tmp_path / "fp32"), "precision": "fp32", "atol": 0.0, "rtol": 0.0}
    found = generation.check(loaded(weights), plan, tmp_path / "fp64", **request)
    assert set(found) == {"random, full passes", "random, cache"}
    for entry in found.values():
        assert entry["diverges_at"] is None
        assert verdict.judge(entry["figures"], verdict.TOLERANCES["fp32"])["verdict"] in ("exact", "equivalent")


# In memory


def test_a_module_in_memory_comes_back_with_its_ties_and_its_inputs(tmp_path: Path) -> None:
    table = torch.nn.Embedding(40, 8)

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vocab_size, self.table = 40, table
            self.head = torch.nn.Linear(8, 40, bias=False)
            self.head.weight = table.weight
            self.plain = torch.full((40,), 0.5)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(input_ids)) + self.plain.to(self.head.weight.dtype)

    network, shift = Tied(), torch.tensor(3)
    checksum = pickled.save(network, lambda batch, length, seed: {"ids": shift.repeat(batch, length)}, tmp_path)
    again, make_inputs = pickled.load(tmp_path)
    assert len(checksum) == 16
    assert again.head.weight is again.table.weight
    ids = make_inputs(2, 5, 0)["ids"]
    assert ids.tolist() == [[3] * 5] * 2
    with torch.inference_mode():
        assert torch.equal(again(ids), network(ids))
    with torch.no_grad():
        table.weight[0, 0] += 1
    (tmp_path / "other").mkdir()
    assert pickled.save(network, None, tmp_path / "other") != checksum


def test_what_cannot_be_handed_over_or_is_gone_is_one_line(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 2)
    network.handle = (tmp_path / "log").open("w")
    with pytest.raises(ModelError, match=r"'Linear' cannot be handed to other processes .*; use file.py:factory"):
        pickled.save(network, None, tmp_path)
    network.handle.close()
    with pytest.raises(ModelError, match="hand the module over again"):
        checkpoint.export(sources.resolve("Net@0123456789abcdef", weights="module"), tmp_path)


# What goes wrong


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("absent", "has no function 'absent'"),
        ("raises", r"raises\(\) failed \(ValueError: no weights here; own_cases.py, line \d+\)"),
        ("leaves", r"leaves\(\) failed \(SystemExit: 3"),
        ("no_module", r"no_module\(\) of 'own_cases.py' returned str; return a torch.nn.Module"),
        ("no_function", "returned str as make_inputs"),
        ("no_vocabulary", "neither vocab_size .* nor make_inputs"),
        ("no_dict", "returned no dict of name to array"),
        ("no_array", "returned str as 'x'"),
        ("no_batch", r"returned shape \[56, 4\] as 'x'; its first axis must be the batch"),
        ("no_such_shape", r"forward fails on its own inputs, batch 2 and length 16 \(RuntimeError"),
        ("no_arguments", r"make_inputs\(2, 16, 0\) failed \(TypeError"),
        ("never_the_same", "other arrays for the same seed"),
        ("gives_ids", "forward returns torch.int64; return floating-point"),
        ("gives_text", "forward returns str; return a tensor"),
        ("gives_no_batch", r"forward returns shape \[16\] for a batch of 2"),
        ("sparse", "tensor 'pattern' cannot be saved"),
        ("on_meta", "cannot be moved to the CPU"),
        ("lazy", "'weight' cannot be saved .it has no shape before"),
        ("stateful", "the cache of step must be a flat tuple of tensors"),
    ],
)
def test_each_mistake_is_one_line(factory: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        checkpoint.export(source_of(factory), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "own.py:f", "does not exist"),
        ("def f(:\n", "own.py:f", r"is not Python \(.*line 1\)"),
        ("A = 1\n", "own.py", "names no factory"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_the_parent(
    text: str | None, name: str, message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "own.py").write_text(text)
    with pytest.raises(ModelError, match=message):
        sources.resolve(str(tmp_path / name), weights="module")


def test_weights_and_task_that_the_module_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--weights random is not for a module"):
        sources.resolve(f"{CASES}:two", weights="random")
    with pytest.raises(ModelError, match="gives no logits over a vocabulary; leave --task lm out"):
        checkpoint.export(sources.resolve(f"{CASES}:two", task="lm"), tmp_path)


def test_a_factory_that_makes_another_structure_the_next_time(tmp_path: Path) -> None:
    network = torch.nn.Linear(4, 4)
    pickled.save_tensors("it", modules._tensors(network), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="made other tensors than at the export"):
        modules._load("it", torch.nn.Linear(4, 4, bias=False), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="of another shape"):
        modules._load("it", torch.nn.Linear(4, 3), tmp_path / "model.safetensors")


def test_inputs_made_with_the_global_generators_are_seeded(tmp_path: Path) -> None:
    from exporters.module_traits import made_inputs

    def make(batch: int, length: int, seed: int) -> dict[str, Any]:
        return {"x": torch.rand(batch, length), "y": np.random.random((batch, 2))}

    one, other = (made_inputs("it", make, 2, 3, 7) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in ("x", "y"))
    assert not np.array_equal(one["x"], made_inputs("it", make, 2, 3, 8)["x"])
