"""AOTInductor with max-autotune: each matrix product by the kernel that was fastest as the package was compiled."""

from __future__ import annotations

from typing import Any

from exporters import aoti
from exporters.aoti import LIBRARIES, VERSION, export

__all__ = ["LIBRARIES", "VERSION", "export", "recipe_fields"]

#: On the CPU, Inductor's own C++ products are tried against oneDNN's, as `compile:max-autotune` does.
SEARCH = {"max_autotune": True}


def recipe_fields(*, precision: str, device: str) -> dict[str, Any]:
    """Those of `aoti`, and the search."""
    fields = aoti.recipe_fields(precision=precision, device=device)
    return fields | {"settings": fields["settings"] | SEARCH}
