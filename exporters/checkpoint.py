"""Checkpoint: configuration and safetensors, the one set of weights that every other format comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporters import library_versions, modules
from exporters.errors import ModelError, cause
from exporters.models import build, load_checkpoint, usable_positions
from exporters.module_forward import DTYPES
from exporters.module_source import ModuleSource
from exporters.sources import INPUTS, MODULE, ModelSource

VERSION = 1
LIBRARIES = ("torch", "transformers")
EXAMPLE_SHAPE = (2, 16)


def recipe(source: ModelSource) -> dict[str, Any]:
    """All that decides the checkpoint's content."""
    return {
        "format": "checkpoint",
        "exporter_version": modules.VERSION if source.weights == MODULE else VERSION,
        "libraries": library_versions(source.libraries),
        "source": source.recipe(),
        **source.place(),
    }


def export(source: ModelSource, folder: Path) -> dict[str, Any]:
    """Write `source`'s configuration and float32 weights into `folder`; returns the artifact's metadata."""
    if isinstance(source, ModuleSource):
        return modules.export(source, folder)
    try:
        model = build(source)
    except ModelError:
        raise
    except Exception as error:  # configurations and weights can be wrong in every way there is
        raise ModelError(
            f"model {source.name!r} cannot be built ({cause(error)}); check its config.json and weights"
        ) from error
    model.save_pretrained(folder, safe_serialization=True)
    return {
        "model": source.name,
        "class": type(model).__name__,
        "task": source.task,
        "weights": source.weights,
        "inputs": list(INPUTS),
        "outputs": list(source.outputs),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "positions": usable_positions(model),
    }


def open_checkpoint(folder: Path, device: str, precision: str) -> Any:
    """The checkpoint's module on `device` ("cpu" or "cuda") in `precision`; what backends are handed."""
    import torch

    metadata = metadata_of(folder)
    if metadata["weights"] == MODULE:
        return modules.open_module(folder, metadata, device, precision)
    return load_checkpoint(folder, metadata["task"], device, getattr(torch, DTYPES[precision]))


def metadata_of(folder: Path) -> dict[str, Any]:
    """What the export of a checkpoint artifact left: task, inputs, outputs and more."""
    metadata: dict[str, Any] = json.loads((folder / "artifact.json").read_text())["metadata"]
    return metadata


def outputs_of(folder: Path) -> list[str]:
    """Names of a checkpoint's outputs."""
    return [str(name) for name in metadata_of(folder)["outputs"]]


def dynamic_shapes(module: Any, positions: int | None = None) -> Any:
    """Which axes of an opened module's inputs may change, for torch.export; lengths up to `positions`."""
    import torch

    if hasattr(module, "dynamic_shapes"):  # the user's takes any number of tensors, so axes have no arguments' names
        return (module.dynamic_shapes(),)
    dynamic = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=positions)}
    return dict.fromkeys(input_names(module), dynamic)


def input_names(module: Any) -> list[str]:
    """Names of the inputs of an opened module, in its order."""
    return list(getattr(module, "input_names", INPUTS))


def example_inputs(device: str = "cpu", module: Any = None) -> tuple[Any, ...]:
    """Ids and a mask with padding, int64 [2, 16], that tracing and exporting run on; or the module's own inputs."""
    import torch

    if hasattr(module, "example_inputs"):
        return tuple(module.example_inputs(device))
    ids = torch.arange(EXAMPLE_SHAPE[0] * EXAMPLE_SHAPE[1], device=device).reshape(EXAMPLE_SHAPE) + 5
    mask = torch.ones(EXAMPLE_SHAPE, dtype=torch.int64, device=device)
    mask[1, EXAMPLE_SHAPE[1] // 2 :] = 0
    return ids, mask
