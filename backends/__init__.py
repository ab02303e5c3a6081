"""Registry of runtimes: a name to the class that runs it, loaded only when asked for.

A leaf: nothing here imports `exporters` or `bench`. Third parties add a backend through
the entry-point group `bench.backends`; see CONTRIBUTING.md.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.base import Backend

ENTRY_POINT_GROUP = "bench.backends"

BUILT_IN = {
    "eager": "backends.eager:Eager",
    "compile": "backends.compile:Compile",
    "torchscript": "backends.torchscript:TorchScript",
    "aoti": "backends.aoti:Aoti",
    "onnx": "backends.onnx:Onnx",
    "openvino": "backends.openvino:OpenVino",
    "tensorrt": "backends.tensorrt:TensorRt",
    "optimum": "backends.optimum:Optimum",
    "null": "backends.null:Null",
}


def names() -> dict[str, str]:
    """Every backend that can be asked for, as name -> "module:Class"; built-in ones come first and win."""
    found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return BUILT_IN | {name: home for name, home in found.items() if name not in BUILT_IN}


def load_class(name: str) -> type[Backend]:
    """Import the one module that defines backend `name` and return its class.

    Raises KeyError when no backend has that name, ImportError or AttributeError when a
    plugin's entry point leads nowhere.
    """
    module, _, attribute = names()[name].partition(":")
    loaded: type[Backend] = getattr(import_module(module), attribute)
    return loaded
