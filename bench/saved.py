"""The results that lie under ARTIFACTS/runs: which are there, and what each is; reads their ends alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError

#: Bytes at the end of a file that hold the line which ends it, and what may stand behind that.
TAIL_BYTES = 8192


@dataclass(frozen=True)
class Saved:
    """One file of results."""

    path: Path
    kind: str
    """By the word in its header; "" where the first line is none."""
    started: str
    """UTC, ISO 8601; "" where the header does not say."""
    model: str
    has_ended: bool
    """False for a run that was interrupted, or that goes on."""
    command: str = ""
    """That writes runs of its workload."""


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
    """What the file at `path` is; raises OSError where it cannot be read."""
    with path.open("rb") as file:
        header = _parsed(file.readline())
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        tail = file.read()
    kind, started = str(header.get("kind", "")), str(header.get("started", ""))
    has_ended = b'{"kind":"end"' in tail or b'"is_complete":true' in tail
    return Saved(path, kind, started, _model(header), has_ended, _command(header))


def workload_of(path: Path) -> str:
    """The workload that the header of a run of schema 5 or later names; "" for any other file."""
    try:
        with path.open("rb") as file:
            return str(_parsed(file.readline()).get("workload", ""))
    except OSError:
        return ""


def _command(header: dict[str, Any]) -> str:
    """The command that writes runs of a header's workload; "" for a file of another kind."""
    if "workload" not in header:
        return ""
    from bench.run import registry

    try:
        return registry.load_class(str(header["workload"])).Options.command
    except UserError:
        return str(header["workload"])


def _model(header: dict[str, Any]) -> str:
    """What was measured, by a header of any kind; "" where it does not say."""
    if isinstance(header.get("model"), dict):
        return str(header["model"].get("name", ""))
    grid = header.get("grid")
    return str(grid.get("model", "")) if isinstance(grid, dict) else ""


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's object; {} where it is none, e.g. cut off."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
