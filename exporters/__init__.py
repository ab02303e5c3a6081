"""Registry of exporters: an artifact format to the function that writes it, loaded only when asked for.

A leaf: nothing here imports `backends` or `bench`. Third parties add a format through the
entry-point group `bench.exporters`.

An exporter is a function `export(checkpoint, folder, recipe) -> metadata`: it reads the
checkpoint artifact's folder, writes its files into the empty `folder`, and returns JSON-able
metadata that has at least the names of the `inputs` and `outputs` in order. `VERSION` beside it
is part of the artifact's key; raise it when the same recipe would give another file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any

ENTRY_POINT_GROUP = "bench.exporters"

BUILT_IN = {
    "checkpoint": "exporters.checkpoint",
    "torchscript": "exporters.torchscript",
    "torchscript-with-past": "exporters.torchscript_with_past",
    "aoti": "exporters.aoti",
    "aoti-max-autotune": "exporters.aoti_max_autotune",
    "onnx": "exporters.onnx",
    "onnx-fused": "exporters.onnx_fused",
    "onnx-attention23": "exporters.onnx_attention23",
    "onnx-with-past": "exporters.onnx_with_past",
    "optimum": "exporters.optimum",
    **{f"optimum-o{level}": "exporters.optimum" for level in (1, 2, 3, 4)},
}

Export = Callable[[Path, Path, Mapping[str, Any]], dict[str, Any]]


def names() -> dict[str, str]:
    """Every format that can be exported, as format -> module."""
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)} | BUILT_IN


def load_module(format: str) -> ModuleType:
    """Import the module that exports `format`: it has `export`, `VERSION`, `LIBRARIES` and `recipe_fields`.

    Raises KeyError when nothing exports that format.
    """
    return import_module(names()[format])


def recipe(
    format: str, checkpoint_key: str, *, precision: str, device: str, libraries: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """All that decides what `format`'s file contains; its hash is the artifact's key.

    `libraries` are the versions of another environment that makes it.
    """
    module = load_module(format)
    fields: dict[str, Any] = module.recipe_fields(precision=precision, device=device)
    return {
        "format": format,
        "exporter_version": module.VERSION,
        "checkpoint": checkpoint_key,
        "libraries": library_versions(module.LIBRARIES) if libraries is None else dict(libraries),
        **fields,
    }


def library_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """Installed version of each distribution, "missing" where there is none."""
    found = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "missing"
    return found
