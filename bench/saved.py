"""The results that lie under ARTIFACTS/runs: which are there, and what each is; reads their ends alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Bytes at the end of a file that hold the line which ends it, and what may stand behind that.
TAIL_BYTES = 8192


@dataclass(frozen=True)
class Saved:
    """One file of results."""

    path: Path
    kind: str
    """By the word in its header; "" if the first line is none."""
    workload: str
    """What a run measured; "" for other kinds."""
    started: str
    """UTC, ISO 8601; "" if the header does not say."""
    model: str
    has_ended: bool
    """False for a run that was interrupted, or that goes on."""


def saved(artifacts: Path) -> list[Path]:
    """Files of results under `artifacts`, the one that was last written to first."""
    times = []
    for path in (artifacts / "runs").glob("*.jsonl"):
        try:
            times.append((path.stat().st_mtime_ns, path))
        except OSError:  # removed meanwhile, or a link to nothing
            continue
    return [path for _, path in sorted(times, reverse=True)]


def look(path: Path) -> Saved:
    """What the file at `path` is; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        header = _parsed(file.readline())
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        tail = file.read()
    kind, started = str(header.get("kind", "")), str(header.get("started", ""))
    has_ended = b'{"kind":"end"' in tail or b'"is_complete":true' in tail
    return Saved(path, kind, str(header.get("workload", "")), started, _model(header), has_ended)


def _model(header: dict[str, Any]) -> str:
    """What was measured, by a header of any kind; "" if it does not say."""
    model, grid = header.get("model"), header.get("grid")
    if isinstance(model, dict | str):
        return str(model.get("name", "") if isinstance(model, dict) else model)
    return str(grid.get("model", "")) if isinstance(grid, dict) else ""


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's object; {} if it is none, e.g. cut off."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
