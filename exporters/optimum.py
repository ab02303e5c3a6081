"""What `optimum` would give a user: its own ONNX export of the checkpoint's folder, and its levels O1 to O4 of that.

Formats "optimum" and "optimum-o1" to "optimum-o4". It runs where optimum is: in an environment of its own.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.checkpoint import metadata_of
from exporters.errors import UnsupportedModelError
from exporters.folders import read_config
from exporters.sources import INPUTS, MODULE

VERSION = 1
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "optimum", "optimum-onnx")
#: optimum's names of the tasks.
TASKS = {"base": "feature-extraction", "lm": "text-generation"}


def recipe_fields(*, precision: str, device: str) -> dict[str, Any]:
    """The levels fuse other operators for a GPU."""
    return {"precision": precision, "device": device}


def export(checkpoint: Path, folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Write model.onnx and config.json at the level that ends the format's name; says what was fused into what."""
    import onnx

    metadata = metadata_of(checkpoint)
    level = recipe["format"].removeprefix("optimum").removeprefix("-").upper()
    model_type = _check_is_known(checkpoint, metadata)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".aside-optimum-") as aside:
        warnings.simplefilter("ignore")
        plain = Path(aside) if level else folder
        _export_plainly(checkpoint, plain, metadata["task"])
        if level:
            _optimise(plain, folder, level, metadata["task"], recipe["device"] == "cuda")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    fused = Counter(node.op_type for node in model.graph.node if node.domain == "com.microsoft")
    return {
        "inputs": list(INPUTS),
        "outputs": metadata["outputs"],
        "task": metadata["task"],
        "model_type": model_type,
        "level": level or "none",
        "opset": next(entry.version for entry in model.opset_import if not entry.domain),
        "nodes": len(model.graph.node),
        "fused": dict(fused),
    }


def _check_is_known(checkpoint: Path, metadata: Mapping[str, Any]) -> str:
    """The checkpoint's model type; raises UnsupportedModelError where optimum has no export for it."""
    from optimum.exporters.tasks import TasksManager

    if metadata["weights"] == MODULE:
        raise UnsupportedModelError("optimum exports models of transformers alone; use onnx for a module of yours")
    model_type = str(read_config(metadata["model"], checkpoint)["model_type"])
    import optimum.exporters.onnx.model_configs  # noqa: F401 - fills the table that is asked next

    try:
        known = TasksManager.get_supported_tasks_for_model_type(model_type, "onnx", library_name="transformers")
    except KeyError:
        known = {}
    if TASKS[metadata["task"]] not in known:
        raise UnsupportedModelError(f"optimum has no ONNX export of {model_type} for this task; use onnx")
    return model_type


def _export_plainly(checkpoint: Path, folder: Path, task: str) -> None:
    """optimum's own export in float32, as `optimum-cli export onnx` makes it."""
    from optimum.exporters.onnx import main_export

    main_export(
        str(checkpoint), output=str(folder), task=TASKS[task], framework="pt", device="cpu", dtype="fp32",
        library_name="transformers", local_files_only=True, do_validation=False,
    )  # fmt: skip


def _optimise(plain: Path, folder: Path, level: str, task: str, is_for_gpu: bool) -> None:
    """The export in `plain` at `level`, under the names that a plain one has."""
    from optimum.onnxruntime import (
        AutoOptimizationConfig,
        ORTModelForCausalLM,
        ORTModelForFeatureExtraction,
        ORTOptimizer,
    )

    kind, options = (ORTModelForCausalLM, {"use_cache": False}) if task == "lm" else (ORTModelForFeatureExtraction, {})
    model = kind.from_pretrained(plain, local_files_only=True, **options)
    config = AutoOptimizationConfig.with_optimization_level(level, for_gpu=is_for_gpu)
    ORTOptimizer.from_pretrained(model).optimize(save_dir=str(folder), optimization_config=config, file_suffix="")
