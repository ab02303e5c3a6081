"""AOTInductor: torch.export's program compiled ahead of time into one package (.pt2) that needs no model code."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.checkpoint import (
    dynamic_shapes,
    example_inputs,
    input_names,
    metadata_of,
    open_checkpoint,
    outputs_of,
)

VERSION = 1
LIBRARIES = ("torch", "transformers")
#: Inductor's settings. Freezing makes weights constants, which it needs to pack them for the CPU's matrix products;
#: without dynamic threads the number of threads at export would be compiled in. Asserts on sizes would refuse the full
#: length where a mask is cut from a table of all positions, for a case that is computed alike.
SETTINGS = {
    "cpu": {"freezing": True, "cpp.dynamic_threads": True, "scalar_asserts": False},
    "cuda": {"freezing": True, "scalar_asserts": False},
}


def recipe_fields(*, precision: str, device: str) -> dict[str, Any]:
    """The code is compiled for one device, and on the CPU for this one's instructions.

    A GPU's architecture is not told without torch: it is in the metadata, and another one is refused at load.
    """
    fields: dict[str, Any] = {"precision": precision, "device": device, "settings": SETTINGS[device]}
    return fields | ({"instructions": instructions()} if device == "cpu" else {})


def instructions(path: Path = Path("/proc/cpuinfo")) -> str:
    """The architecture, and a digest of every flag that Linux tells of: Inductor compiles for all that the CPU has."""
    try:
        told = path.read_text().splitlines()
    except OSError:
        return platform.machine()
    lines = (line for line in told if line.lower().startswith(("flags", "features")))
    flags = next(lines, "").partition(":")[2].split()
    return f"{platform.machine()} {hashlib.sha256(' '.join(sorted(flags)).encode()).hexdigest()[:16]}"


def export(checkpoint: Path, folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Export on `recipe["device"]` in `recipe["precision"]`, with batch and length dynamic; writes model.pt2."""
    import torch
    import torch._inductor

    device = recipe["device"]
    module = open_checkpoint(checkpoint, device, recipe["precision"])
    tensors = {tensor.data_ptr(): tensor for tensor in (*module.parameters(), *module.buffers())}.values()
    weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            module,
            example_inputs(device, module),
            # Where positions are looked up in a table, torch.export wants to be told how long that is.
            dynamic_shapes=dynamic_shapes(module, metadata_of(checkpoint).get("positions")),
            strict=False,
            # Else a mask that is cut from a table of all positions makes the full length a case that is refused.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / "model.pt2"), inductor_configs=dict(recipe["settings"])
        )
    return {
        "inputs": input_names(module),
        "outputs": outputs_of(checkpoint),
        "weight_bytes": weight_bytes,
        "settings": recipe["settings"],
        "capability": list(torch.cuda.get_device_capability()) if device == "cuda" else None,
    }
