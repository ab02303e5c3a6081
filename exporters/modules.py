"""The user's own module: made by its factory in processes that export and compute, its weights kept once for all.

The factory is called again wherever the checkpoint is opened, for what is not in tensors; parameters and buffers come
from the checkpoint's safetensors, so that every backend has one set of weights whatever the factory draws.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from exporters import module_forward, module_traits, pickled
from exporters.errors import ModelError, cause
from exporters.module_source import ModuleSource
from exporters.store import file_checksum

VERSION = 1
WEIGHTS = "model.safetensors"


def export(source: ModuleSource, folder: Path) -> dict[str, Any]:
    """Make `source`'s module, keep its tensors in `folder`; returns the checkpoint's metadata.

    Raises ModelError, in one line, for whatever the user's code does wrong.
    """
    where = {"model": source.name, "file": source.file, "factory": source.factory, "seed": source.seed}
    if source.file:
        module, make_inputs = _from_factory(where)
        _save(source.name, module, folder / WEIGHTS)
    elif source.pickled:
        pickled.copy(Path(source.pickled), folder)
        module, make_inputs = _unpickled(source.name, folder)
    else:
        raise ModelError(
            f"module {source.name!r} was in the memory of another process and its checkpoint is not in this store; "
            "hand the module over again from Python"
        )
    traits = module_traits.of(source.name, module, make_inputs, source.seed)
    if source.task == "lm" and traits["task"] != "lm":
        raise ModelError(f"module {source.name!r} gives no logits over a vocabulary; leave --task lm out")
    return {
        **where,
        **traits,
        "weights": source.weights,
        "class": type(module).__name__,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "checksums": dict(source.checksums),
        "tensors": file_checksum(folder / WEIGHTS),
    }


def open_module(folder: Path, metadata: Mapping[str, Any], device: str, precision: str) -> Any:
    """The module of a checkpoint, wrapped, with the checkpoint's weights, on `device` in `precision` ("fp64", …)."""
    name = metadata["model"]
    if metadata["file"]:
        for path, checksum in metadata["checksums"].items():
            file = Path(metadata["file"]).parent / path
            if not file.is_file() or file_checksum(file) != checksum:
                raise ModelError(f"module file {path!r} of {name!r} changed since the export; start again")
        module, make_inputs = _from_factory(metadata)
        _load(name, module, folder / WEIGHTS)
    else:
        module, make_inputs = _unpickled(name, folder)
    return module_forward.wrap(module, metadata, make_inputs, precision).to(device)


def _from_factory(metadata: Mapping[str, Any]) -> tuple[Any, Callable[..., Any] | None]:
    """The module that the factory makes, on the CPU and in eval mode, and the function that makes its inputs."""
    name, file = metadata["model"], Path(metadata["file"])
    with _importable(file.parent), _user_code(name, file, "the file does not load"), seeded(metadata["seed"]):
        loaded = _load_file(file)
    factory = getattr(loaded, metadata["factory"], None)
    if not callable(factory):
        raise ModelError(
            f"module file {file.name!r} has no function {metadata['factory']!r}; name the factory behind :"
        )
    call = f"{metadata['factory']}()"
    with _importable(file.parent), _user_code(name, file, f"{call} failed"), seeded(metadata["seed"]):
        made = factory()
    return checked_pair(made, f"{call} of {file.name!r}")


def checked_pair(made: Any, what: str) -> tuple[Any, Callable[..., Any] | None]:
    """A module, or a pair of one and a function, as that pair, the module on the CPU and in eval mode."""
    import torch

    module, make_inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{what} returned {type(made).__name__}; return a torch.nn.Module, or it and make_inputs")
    if make_inputs is not None and not callable(make_inputs):
        raise ModelError(f"{what} returned {type(make_inputs).__name__} as make_inputs; return a function")
    try:
        return module.to("cpu").eval(), make_inputs
    except Exception as error:  # weights without content, or of a kind that does not move
        raise ModelError(f"{what} returned a module that cannot be moved to the CPU ({cause(error)})") from error


def _unpickled(name: str, folder: Path) -> tuple[Any, Callable[..., Any] | None]:
    with _user_code(name, None, "it cannot be opened in another process"):
        made = pickled.load(folder)
    return checked_pair(made, name)


def _load_file(file: Path) -> Any:
    """Run `file` as a module under its own name, where no other has that."""
    name = file.stem if file.stem not in sys.modules else f"own_module_{file.stem}"
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    loaded = module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses and torch look a class's module up
    spec.loader.exec_module(loaded)
    return loaded


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in `folder` come first inside the block, as for a script that lies there, and last ever after."""
    first = str(folder)
    sys.path.insert(0, first)
    try:
        yield
    finally:
        sys.path.remove(first)
        if first not in sys.path:
            sys.path.append(first)


@contextmanager
def _user_code(name: str, file: Path | None, what: str) -> Iterator[None]:
    """Turn whatever the user's code raises inside the block into a ModelError, with the line that it came from."""
    try:
        yield
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"module {name!r}: {what} ({cause(error)}{_line_in(error, file)})") from error


def _line_in(error: BaseException, file: Path | None) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if file and frame.filename == str(file)]
    return f"; {frames[-1].filename.rpartition('/')[2]}, line {frames[-1].lineno}" if frames else ""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every generator that a user's function may draw from without naming one."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    yield


def _tensors(module: Any) -> dict[str, Any]:
    """Parameters and buffers, saved ones or not, by name; a shared one once, under its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _save(name: str, module: Any, path: Path) -> None:
    pickled.save_tensors(name, _tensors(module), path)


def _load(name: str, module: Any, path: Path) -> None:
    """Put the tensors of `path` in the place of the factory's own."""
    import torch
    from safetensors import safe_open

    own = _tensors(module)
    with safe_open(path, framework="pt") as stored, torch.no_grad():
        kept = set(stored.keys())
        if kept != set(own):
            differing = sorted(kept ^ set(own))
            raise ModelError(f"module {name!r}: its factory made other tensors than at the export ({differing[0]})")
        for key, tensor in own.items():
            value = stored.get_tensor(key)
            if value.shape != tensor.shape:
                raise ModelError(f"module {name!r}: its factory made {key} of another shape than at the export")
            try:
                tensor.copy_(value)  # in place, so that whatever shares its memory sees it
            except RuntimeError:  # it repeats its own memory (expand), and cannot be written to
                tensor.data = value
