"""TensorRT as far as it can be seen without it: the backend against a module that stands for it, which notes what it is
asked for and computes over the addresses that it is given.

The backend has never run on a GPU: it is written from TensorRT's documentation (10.12 to 11.4), and what only the real
library can say (that it parses the exported file, that its outputs are the model's) is not tested here.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import base, tensorrt
from backends.base import BackendError, OutOfMemoryError
from backends.tensorrt import TensorRt


class Library:
    """Stands for the module `tensorrt`: the output is the first input times two, in float32."""

    __version__ = "11.4"

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.calls: list[int] = []
        self.parses, self.builds, self.has_room, self.starts = True, True, True, True
        self.unreadable: list[bytes] = []
        severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING")
        self.ILogger = type("ILogger", (), {"Severity": severity})
        self.BuilderFlag = SimpleNamespace(TF32="TF32")
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        def note(*what: Any) -> Any:
            return lambda *given: self.asked.append((*what, *given))

        def build(network: Any, config: Any) -> bytes | None:
            if self.builds:
                return b"engine"
            logger.log(self.ILogger.Severity.WARNING, "beside the point")
            logger.log(self.ILogger.Severity.ERROR, "no tactic\nfor a layer")
            return None

        return SimpleNamespace(
            create_network=lambda flags: note("network")(flags) or SimpleNamespace(),
            create_builder_config=lambda: SimpleNamespace(
                set_flag=note("set"), clear_flag=note("clear"), add_optimization_profile=lambda profile: None
            ),
            create_optimization_profile=lambda: SimpleNamespace(set_shape=note("profile")),
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(
            num_errors=1,
            parse_from_file=lambda path: self.asked.append(("file", path)) or self.parses,
            get_error=lambda index: "an operator that it has not",
        )

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        engine = SimpleNamespace(
            num_layers=7,
            create_execution_context=lambda: Context(self) if self.has_room else None,
            get_tensor_dtype=lambda name: SimpleNamespace(name="FLOAT"),
        )
        return SimpleNamespace(deserialize_cuda_engine=lambda found: None if found in self.unreadable else engine)


class Context:
    """Stands for an engine's context, which computes over the addresses that it is given."""

    def __init__(self, library: Library) -> None:
        self.library, self.shapes, self.addresses = library, dict[str, Any](), dict[str, int]()
        self.set_input_shape, self.set_tensor_address = self.shapes.__setitem__, self.addresses.__setitem__

    def get_tensor_shape(self, name: str) -> Any:
        return self.shapes["input_ids"]

    def execute_async_v3(self, stream: int) -> bool:
        self.library.calls.append(stream)
        size = int(np.prod(self.shapes["input_ids"]))
        ids = np.ctypeslib.as_array((ctypes.c_int64 * size).from_address(self.addresses["input_ids"]))
        out = np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses["logits"]))
        out[:] = ids * 2.0
        return self.library.starts


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    import torch

    found = Library()
    streams = [SimpleNamespace(cuda_stream=0)]
    monkeypatch.setitem(sys.modules, "tensorrt", found)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=1234))
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.delenv(tensorrt.CACHE_VARIABLE, raising=False)
    return found


def loaded(tmp_path: Path, *, tf32: bool = False) -> TensorRt:
    folder = tmp_path / "onnx-0123456789abcdef"
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(b"12345")
    names = '{"metadata": {"inputs": ["input_ids", "attention_mask"], "outputs": ["logits"]}}'
    (folder / "artifact.json").write_text(names)
    backend = TensorRt()
    # Where its tensors lie on the host, the library above can compute over them.
    backend.load(folder, device="cpu", precision="fp32", threads=1, options={"tf32": True} if tf32 else {})
    return backend


def batch(rows: int, length: int, start: int = 0) -> dict[str, Any]:
    ids = np.arange(start, start + rows * length).reshape(rows, length)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_a_call_runs_on_torchs_stream_over_its_own_tensors(library: Library, tmp_path: Path) -> None:
    backend = loaded(tmp_path)
    backend.keep_shapes(2)
    one, other = backend.prepare(batch(2, 3)), backend.prepare(batch(2, 3, start=50))
    first = backend.fetch(backend.run(one))["logits"]
    second = backend.fetch(backend.run(other))["logits"]
    assert np.array_equal(first, batch(2, 3)["input_ids"] * 2.0)
    assert np.array_equal(second, batch(2, 3, start=50)["input_ids"] * 2.0)
    assert np.array_equal(backend.fetch(one)["logits"], first)
    assert library.calls == [1234, 1234]
    backend.release(one)
    assert not one.outputs
    assert np.array_equal(backend.fetch(backend.run(one))["logits"], first)
    (shared,) = backend.tensors(one)
    assert shared.data_ptr() == one.engine.context.addresses["logits"]
    assert backend.facts()["engines_built"] == 1
    assert backend.memory() == {"parameters_bytes": 5}
    backend.close()
    backend.close()


def test_an_engine_is_built_for_its_shape_alone_strongly_typed_and_without_tf32(
    library: Library, tmp_path: Path
) -> None:
    loaded(tmp_path).prepare(batch(2, 3))
    assert ("network", 2) in library.asked
    assert ("clear", "TF32") in library.asked
    assert ("profile", "input_ids", (2, 3), (2, 3), (2, 3)) in library.asked
    assert ("profile", "attention_mask", (2, 3), (2, 3), (2, 3)) in library.asked
    assert ("file", str(tmp_path / "onnx-0123456789abcdef" / "model.onnx")) in library.asked
    library.asked.clear()
    del library.NetworkDefinitionCreationFlag.STRONGLY_TYPED  # of a release where every network is
    backend = loaded(tmp_path, tf32=True)
    backend.prepare(batch(2, 3))
    assert ("network", 0) in library.asked
    assert ("set", "TF32") in library.asked
    assert backend.facts()["tf32"] is True


def test_engines_are_held_for_as_many_shapes_as_are_asked_for(library: Library, tmp_path: Path) -> None:
    backend = loaded(tmp_path)
    for length in (3, 3, 4, 3):
        backend.prepare(batch(1, length))
    assert backend.facts()["engines_built"] == 3
    backend.keep_shapes(2)
    for length in (3, 4, 3, 4):
        backend.prepare(batch(1, length))
    assert backend.facts()["engines_built"] == 5


def test_built_engines_are_kept_by_recipe(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv(tensorrt.CACHE_VARIABLE, str(cache))
    loaded(tmp_path).prepare(batch(1, 3))
    backend = loaded(tmp_path)
    backend.prepare(batch(1, 3))
    assert (backend.facts()["engines_built"], backend.facts()["engines_from_cache"]) == (0, 1)
    loaded(tmp_path, tf32=True).prepare(batch(1, 3))
    library.__version__ = "11.5"
    loaded(tmp_path).prepare(batch(1, 3))
    assert [path.suffix for path in cache.iterdir()] == [".engine"] * 3
    for path in cache.iterdir():
        path.write_bytes(b"cut short")
    library.unreadable.append(b"cut short")
    backend = loaded(tmp_path)
    backend.prepare(batch(1, 3))
    assert backend.facts()["engines_built"] == 1
    assert sorted(path.read_bytes() for path in cache.iterdir()) == [b"cut short", b"cut short", b"engine"]


@pytest.mark.parametrize(
    ("failing", "error", "message"),
    [
        ("parses", BackendError, "cannot read the ONNX file: an operator that it has not"),
        ("builds", BackendError, "built no engine: no tactic for a layer"),
        ("has_room", OutOfMemoryError, "no room for the engine's buffers: it does not say why"),
        ("starts", BackendError, "did not start the call"),
    ],
)
def test_a_failure_says_what_the_library_said(
    library: Library, tmp_path: Path, failing: str, error: type[BackendError], message: str
) -> None:
    backend = loaded(tmp_path)
    setattr(library, failing, False)
    with pytest.raises(error, match=message):
        backend.run(backend.prepare(batch(1, 3)))


def test_it_is_for_cuda_alone_and_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TensorRt.supports("default", "cpu", "fp32") == "tensorrt does not run on cpu; use --device cuda"
    monkeypatch.setattr(base, "is_installed", lambda module: module != "tensorrt")
    assert TensorRt.supports("default", "cuda", "fp32") == (
        "tensorrt needs tensorrt, not installed; run: pip install 'runtimebench[tensorrt]'"
    )
    monkeypatch.setattr(base, "is_installed", lambda module: True)
    monkeypatch.setattr("backends._torch.torch_cuda_version", lambda: None)
    assert "no fp99 on cuda" in str(TensorRt.supports("default", "cuda", "fp99"))
    assert "needs a CUDA build of torch" in str(TensorRt.supports("default", "cuda", "fp32"))
