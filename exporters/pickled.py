"""A module in memory, written down for other processes: structure by cloudpickle, tensors as safetensors.

Only what this user's own process wrote is ever read here: the store's checksums say that it is still that.
"""

from __future__ import annotations

import pickle
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporters.errors import ModelError, cause
from exporters.store import file_checksum, files_checksum

STRUCTURE = "module.pkl"
TENSORS = "model.safetensors"
#: Packages that every process of ours can import.
OURS = ("bench", "backends", "exporters")


def save(module: Any, make_inputs: Any, folder: Path) -> str:
    """Write a module and the function that makes its inputs into `folder`; returns 16 hex digits of their checksum.

    Code that is not installed is written down by value, installed code by name. Raises ModelError for what cannot be
    written down.
    """
    try:
        import cloudpickle
    except ImportError:
        raise ModelError(
            "a module in memory needs cloudpickle, not installed; run: pip install 'runtimebench[module]'"
        ) from None
    import torch

    name = type(module).__name__
    tensors: dict[int, tuple[str, Any]] = {}
    known = {id(tensor): key for key, tensor in (*module.named_buffers(), *module.named_parameters())}

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, torch.Tensor):
                return None
            key, _ = tensors.setdefault(id(obj), (known.get(id(obj), f"tensor {len(tensors)}"), obj))
            return key, isinstance(obj, torch.nn.Parameter)

    with _by_value(), (folder / STRUCTURE).open("wb") as file:
        try:
            Pickler(file).dump((module, make_inputs))
        except Exception as error:  # an object's own reduction may raise anything
            raise ModelError(
                f"module {name!r} cannot be handed to other processes ({cause(error)}); use file.py:factory instead"
            ) from error
    save_tensors(name, dict(tensors.values()), folder / TENSORS)
    files = (STRUCTURE, TENSORS)
    return files_checksum({file: file_checksum(folder / file) for file in files})[:16]


def save_tensors(name: str, tensors: Mapping[str, Any], path: Path) -> None:
    """Write tensors by name, each in memory of its own; raises ModelError for one that safetensors has no form for."""
    import torch
    from safetensors.torch import save_file

    kept = {}
    for key, tensor in tensors.items():
        kind = _unsaveable(tensor)
        if kind:
            raise ModelError(f"module {name!r}: tensor {key!r} cannot be saved ({kind}); make it a dense tensor")
        kept[key] = tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    try:
        save_file(kept, path)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(f"module {name!r}: its tensors cannot be saved ({cause(error)})") from error


def _unsaveable(tensor: Any) -> str:
    """What keeps a tensor from being saved, or nothing."""
    import torch

    if torch.nn.parameter.is_lazy(tensor):
        return "it has no shape before the first call"
    if tensor.is_meta:
        return "it is on the meta device and holds nothing"
    if tensor.is_quantized:
        return "it is quantised"
    return "" if tensor.layout == torch.strided else f"its layout is {tensor.layout}"


def load(folder: Path) -> Any:
    """What `save` wrote into `folder`."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / TENSORS)
    found: dict[str, Any] = {}

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            key, is_parameter = pid
            if key not in found:  # one object in every place where it was one
                tensor = tensors[key]
                found[key] = torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
            return found[key]

    with (folder / STRUCTURE).open("rb") as file:
        return Unpickler(file).load()


def copy(source: Path, folder: Path) -> None:
    """Take what `save` wrote into another folder."""
    for name in (STRUCTURE, TENSORS):
        shutil.copyfile(source / name, folder / name)


@contextmanager
def _by_value() -> Iterator[None]:
    """Inside the block code of modules that are not installed is written down whole, as other processes lack it."""
    import cloudpickle

    paths = sysconfig.get_paths()
    installed = [Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    registered = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name == "__main__" or name.split(".")[0] in OURS:
            continue
        if module.__name__ == name and not any(Path(file).resolve().is_relative_to(place) for place in installed):
            cloudpickle.register_pickle_by_value(module)
            registered.append(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)
