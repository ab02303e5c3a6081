"""Standard streams that may be closed or full: a line that cannot be shown stops nothing."""

from __future__ import annotations

import os
import sys


def tell(line: str) -> None:
    """Print a line to standard error, as far as it takes one."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        mute(2)


def mute(descriptor: int) -> None:
    """Point a standard stream at nothing; what its buffer still holds would fail again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
