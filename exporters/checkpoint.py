"""Checkpoint: configuration and safetensors, the one set of weights that every other format comes from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from exporters import library_versions
from exporters.models import build, load_checkpoint, usable_positions
from exporters.sources import INPUTS, OUTPUT_OF_TASK, ModelError, ModelSource

VERSION = 1
LIBRARIES = ("torch", "transformers")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}
EXAMPLE_SHAPE = (2, 16)


def recipe(source: ModelSource) -> dict[str, Any]:
    """All that decides the checkpoint's content."""
    return {
        "format": "checkpoint",
        "exporter_version": VERSION,
        "libraries": library_versions(LIBRARIES),
        "source": source.recipe(),
    }


def export(source: ModelSource, folder: Path) -> dict[str, Any]:
    """Write `source`'s configuration and float32 weights into `folder`; returns the artifact's metadata."""
    try:
        model = build(source)
    except ModelError:
        raise
    except Exception as error:  # configurations and weights can be wrong in every way there is
        cause = re.split(r"Exception raised from|frame #0", " ".join(f"{type(error).__name__}: {error}".split()))[0][
            :300
        ]
        raise ModelError(
            f"model {source.name!r} cannot be built ({cause}); check its config.json and weights"
        ) from error
    model.save_pretrained(folder, safe_serialization=True)
    return {
        "model": source.name,
        "class": type(model).__name__,
        "task": source.task,
        "weights": source.weights,
        "inputs": list(INPUTS),
        "outputs": [OUTPUT_OF_TASK[source.task]],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "positions": usable_positions(model),
    }


def open_checkpoint(folder: Path, device: str, precision: str) -> Any:
    """The checkpoint's module on `device` ("cpu" or "cuda") in `precision`; what backends are handed."""
    import torch

    return load_checkpoint(folder, task_of(folder), device, getattr(torch, DTYPES[precision]))


def task_of(folder: Path) -> str:
    """The task that a checkpoint artifact was made for."""
    task: str = json.loads((folder / "artifact.json").read_text())["metadata"]["task"]
    return task


def example_inputs(device: str = "cpu") -> tuple[Any, Any]:
    """Ids and a mask with padding, int64 [2, 16], that tracing and exporting run on."""
    import torch

    ids = torch.arange(EXAMPLE_SHAPE[0] * EXAMPLE_SHAPE[1], device=device).reshape(EXAMPLE_SHAPE) + 5
    mask = torch.ones(EXAMPLE_SHAPE, dtype=torch.int64, device=device)
    mask[1, EXAMPLE_SHAPE[1] // 2 :] = 0
    return ids, mask
