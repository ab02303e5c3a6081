"""Another interpreter that is this one, and a short run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

NULL = ("--model", "bert-tiny", "--batches", "1", "--lengths", "8", "--rounds", "2")
NULL += ("--max-seconds-per-cell", "0.1s", "--warmup", "1ms", "--max-warmup", "20ms")


def python_at(path: Path, log: Path | None = None) -> Path:
    """A script that is this interpreter under another path, and writes down what it is started with."""
    noted = f'echo "$@" >> {shlex.quote(str(log))}\n' if log else ""
    return script_at(path, f'{noted}exec {shlex.quote(sys.executable)} "$@"')


def script_at(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
