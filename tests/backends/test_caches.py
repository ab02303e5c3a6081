"""Caches of keys and values, as far as the contract does not see: what is compiled anew, what is copied, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import exporters
from backends import _caches
from backends.base import UnsupportedError
from backends.compile import Compile
from backends.eager import Eager
from backends.onnx import Onnx
from backends.torchscript import TorchScript
from bench.testing_generation import _GenerationBench
from exporters import models, sources

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch, transformers and their exporters warn

ROWS, PROMPT, ROOM = 2, 5, 9


@pytest.fixture(scope="module")
def module() -> Any:
    return models.wrap(models.build(sources.resolve("gpt2-tiny", weights="random", task="lm")))


def loaded(kind: type[Eager], module: Any, folder: Path, variant: str) -> Any:
    (folder / "artifact.json").write_text(json.dumps({"metadata": {"outputs": ["logits"]}}))
    backend = kind(open_checkpoint=lambda path, device, precision: module)
    backend.load(folder, device="cpu", precision="fp32", threads=1, options=kind.spec.generation[variant])
    return backend


def generate(backend: Any, rows: int = ROWS, prompt: int = PROMPT, room: int = ROOM) -> Any:
    """The cache behind a prompt and as many single tokens as there is room for."""
    cache = backend.new_cache(rows, room)
    mask = torch.ones(rows, room, dtype=torch.int64)
    for new in (prompt, *[1] * (room - prompt)):
        _, cache = backend.step(torch.full((rows, new), 7), mask, cache)
    return cache


class Adding(torch.nn.Module):
    """A module that steps, small enough to be compiled often."""

    keeps_keys_and_values = has_static_cache = True

    def static_cache(self, rows: int, room: int) -> torch.Tensor:
        return torch.zeros(rows, room)

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        return cache.add_(ids.sum()) * mask, cache


@pytest.fixture
def dynamo_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dynamo's graphs and guards as they are, and no code generated from them."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, *, dynamic, mode: real(call, dynamic=dynamic, backend="eager"))
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("dynamo_alone")
def test_a_generation_is_two_graphs_however_long_and_often(module: Any, tmp_path: Path) -> None:
    """One for the prompt, one for a token: a graph a step would compile all the time."""
    backend = loaded(Compile, module, tmp_path, "default")
    generate(backend)
    generate(backend)
    facts = backend.facts()
    assert (facts["graphs"], facts["graph_breaks"]) == (2, 0)


@pytest.mark.usefixtures("dynamo_alone")
def test_another_prompt_or_room_is_compiled_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else figures depend on what was generated before, and dynamo's limit of graphs is reached."""
    backend = loaded(Compile, Adding(), tmp_path, "default")
    forgotten: list[Any] = []
    forget = backend._forget_graphs
    monkeypatch.setattr(backend, "_forget_graphs", lambda: (forgotten.append(backend.shape), forget()))
    counts = []
    for rows, prompt, room in [(2, 5, 8), (2, 5, 8), (2, 6, 8), (2, 6, 9), (1, 6, 9)]:
        generate(backend, rows, prompt, room)
        counts.append((len(forgotten), backend.facts()["graphs"]))
    assert counts == [(1, 2), (1, 2), (2, 2), (3, 2), (4, 2)]


def test_the_compiled_step_is_the_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **options: lambda *inputs: ("compiled", call, options))
    backend = loaded(Compile, Adding(), tmp_path, "default")
    ids = torch.ones(ROWS, PROMPT, dtype=torch.int64)
    found = backend.step(ids, ids, backend.new_cache(ROWS, ROOM))
    assert found == ("compiled", backend.eager_module.step, {"dynamic": False, "mode": None})


@pytest.mark.parametrize(
    ("device", "mode", "begun"), [("cuda", "reduce-overhead", 3), ("cuda", None, 0), ("cpu", "x", 0)]
)
def test_every_step_of_a_cuda_graph_begins_with_a_mark(
    device: str, mode: str | None, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the logits of the last step are kept alive, or overwritten while they are read."""
    marks: list[str] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append("begin"))
    backend = Compile()
    backend.device, backend.mode, backend.begun = device, mode, None
    backend.compiled_step = lambda ids, mask, cache: (marks.append("step"), cache)
    for _ in range(3):
        backend.step(None, None, None)
    assert marks == (["begin", "step"] * 3 if begun else ["step"] * 3)


def test_a_static_cache_stays_where_it_is(module: Any, tmp_path: Path) -> None:
    """A CUDA graph was recorded over its tensors."""
    backend = loaded(Eager, module, tmp_path, "static")
    places = [tensor.data_ptr() for tensor in module.flatten(generate(backend))]
    again = backend.reorder(generate(backend), torch.tensor([1, 0]))
    assert [tensor.data_ptr() for tensor in module.flatten(again)] == places
    with pytest.raises(UnsupportedError, match="a static cache of 2 sequences cannot hold 3"):
        backend.reorder(again, torch.tensor([0, 1, 1]))
    emptied = backend.new_cache(ROWS, ROOM)
    assert not any(tensor.any() for tensor in module.flatten(emptied))
    assert int(emptied.seen) == 0
    assert backend.cache_bytes(emptied) == 2 * 2 * ROWS * ROOM * 64 * 4  # keys and values of 2 layers of width 64


def test_a_model_or_an_artifact_without_a_cache_says_so(tmp_path: Path) -> None:
    growing, none = torch.nn.Module(), torch.nn.Module()
    growing.keeps_keys_and_values, growing.has_static_cache, none.keeps_keys_and_values = True, False, False
    plain = [Onnx(), TorchScript()]
    for backend in plain:
        backend.cache_tensors = None
    refused = {
        "this model has no static cache of keys and values; use full passes": [
            loaded(Eager, growing, tmp_path, "static"),
            loaded(Eager, none, tmp_path, "static"),
            loaded(Compile, growing, tmp_path, "default"),
        ],
        "this model has no cache of keys and values": [loaded(Eager, none, tmp_path, "default")],
        "onnx keeps no keys and values": plain[:1],
        "torchscript keeps no keys and values": plain[1:],
    }
    for message, found in refused.items():
        for backend in found:
            assert backend.has_cache() is False
            with pytest.raises(UnsupportedError, match=message):
                backend.new_cache(1, 1)


def test_an_empty_past_is_made_from_what_the_exporter_recorded() -> None:
    for kind in (Eager, Compile, TorchScript, Onnx):
        assert (kind.spec.generation_format or kind.spec.format) in exporters.names()
    entries = [
        {"shape": [0, 2, 0, 3], "dtype": "float16", "grows": 2},
        {"shape": [0, 0, 4], "dtype": "float32", "grows": 1},
    ]
    past = _caches.empty(entries, 5, "cpu")
    assert [(tuple(tensor.shape), tensor.dtype) for tensor in past] == [
        ((5, 2, 0, 3), torch.float16), ((5, 0, 4), torch.float32),
    ]  # fmt: skip


def test_onnx_reads_and_writes_its_cache_where_it_lies(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The presents of one step are the pasts of the next by address, and no node copies between devices."""
    backend: Any = _GenerationBench(Onnx, "default", "gpt2-tiny", "cpu", "fp32", artifacts, task="lm").backend
    bindings: list[Any] = []
    bound: dict[str, int] = {}
    real = backend.session.io_binding

    def binding() -> Any:
        bindings.append(real())
        bind = bindings[-1].bind_input
        bindings[-1].bind_input = lambda name, *rest: (bound.update({name: rest[-1]}), bind(name, *rest))
        return bindings[-1]

    monkeypatch.setattr(backend.session, "io_binding", binding)
    ids = torch.ones(2, 3, dtype=torch.int64)
    _, first = backend.step(ids, ids, backend.new_cache(2, 8))
    assert [tensor.data_ptr() for tensor in first] == [value.data_ptr() for value in bindings[0].get_outputs()[1:]]
    _, _, facts = backend.step_watched(ids[:, :1], torch.ones(2, 4, dtype=torch.int64), first)
    assert [bound[f"past_{index}"] for index in range(len(first))] == [tensor.data_ptr() for tensor in first]
    assert facts["copies_inserted"] == 0
    assert sum(facts["nodes_per_provider"].values()) > 50
    backend.close()
