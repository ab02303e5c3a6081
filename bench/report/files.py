"""Files that a report writes: aside and renamed, all of them or none, and never over another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from bench.errors import BenchError, UserError


def check_absent(path: Path, option: str) -> None:
    """Raise UserError where something stands in the place of a file that `option` names."""
    if path.exists():
        raise UserError(f"output file {str(path)!r} exists; remove it, or give another {option}")


def write_all(files: Mapping[Path, bytes], option: str = "--output") -> None:
    """Write every file or none; raises BenchError naming `option` when one cannot be written."""
    aside = {path: path.with_name(f"{path.name}.{os.getpid()}.part") for path in files}
    done = []
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside[path].write_bytes(content)
        for path, part in aside.items():
            part.replace(path)
            done.append(path)
    except OSError as error:
        for path in [*aside.values(), *done]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise BenchError(
            f"{str(list(files)[-1])!r} cannot be written ({error.strerror}); give another {option}"
        ) from error
