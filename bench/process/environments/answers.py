"""What a backend can do in this environment: run by its interpreter, with a request that is JSON as the argument."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import backends
import exporters
from backends.base import is_installed

#: Modules without which no worker answers.
OF_A_WORKER = ("numpy",)
#: Modules that opening a checkpoint takes.
OF_A_CHECKPOINT = ("torch", "transformers", "safetensors")


def answers(backend: str, device: str, wanted: list[list[str]], formats: list[str]) -> dict[str, Any]:
    """Versions, missing modules, why each wanted (variant, precision) cannot run, and formats that it can write."""
    runtime = backends.load_class(backend)
    needed = [*OF_A_WORKER, *runtime.spec.requires, *(OF_A_CHECKPOINT if "checkpoint" in formats else ())]
    missing = [module for module in dict.fromkeys(needed) if not is_installed(module)]
    reasons = [
        [variant, precision, runtime.supports(variant, device, precision)]
        for variant, precision in ([] if missing else wanted)
    ]
    libraries = {}
    for name in formats:
        if name != "checkpoint" and name in exporters.names():
            found = exporters.library_versions(exporters.load_module(name).LIBRARIES)
            if "missing" not in found.values() and all(map(is_installed, ("filelock", *OF_A_CHECKPOINT))):
                libraries[name] = found
    versions = runtime.spec.versions() | {"python": platform.python_version()}
    return {"versions": versions, "missing": missing, "reasons": reasons, "libraries": libraries}


def main() -> None:
    """Print the answer to the request, on one line."""
    print(json.dumps(answers(**json.loads(sys.argv[1]))))
