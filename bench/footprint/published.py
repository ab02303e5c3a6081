"""Figures of memory that others published, from data files beside the presets; shown beside one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "workloads" / "presets" / "figures"


@dataclass(frozen=True)
class Published:
    """What one machine held, in MiB."""

    device: str
    precision: str
    loaded: Mapping[str, Mapping[str, int]]
    """By model: `process_mib` once it was loaded, and `weights_and_rounding_mib` of it."""
    stored: Mapping[str, Mapping[str, int]]
    """By model and length: what autograd stores for one sequence."""


def published(folder: Path = FOLDER) -> tuple[Published, ...]:
    """Every file of published memory."""
    found = []
    for path in sorted(folder.glob("*-memory.json")):
        data = json.loads(path.read_text())
        stored = data["stored_with_gradients_mib_per_sequence"]
        found.append(Published(data["device"], data["precision"], data["loaded"], stored))
    return tuple(found)
