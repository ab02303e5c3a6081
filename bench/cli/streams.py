"""Standard streams that may be closed or full: a line that cannot be shown stops nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from bench.untrusted import plain, plain_but_styles


class Plain:
    """A standard stream that takes no control character but newline and tab; a terminal also takes colours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._plain = stream, plain_but_styles if stream.isatty() else plain

    def write(self, text: str) -> int:
        """Write what `text` says; returns its length."""
        self._stream.write(self._plain(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tell(line: str) -> None:
    """Print a line to standard error, as far as it takes one."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        mute(2)


def teller(is_quiet: bool) -> Callable[[str], None]:
    """What progress is told with: `tell`, or nothing."""
    return (lambda line: None) if is_quiet else tell


def mute(descriptor: int) -> None:
    """Point a standard stream at nothing; what its buffer still holds would fail again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


_said: list[str] = []


def will_say_it() -> None:
    """Have the next `stopped` say so."""
    _said.clear()


def stopped(kept: str = "") -> None:
    """Say that Ctrl-C or SIGTERM stopped the command, and what is kept; only the first call says it."""
    if not _said:
        _said.append(kept)
        tell(f"bench: stopped{kept}")


@contextmanager
def stopping(kept: str) -> Iterator[None]:
    """Say after Ctrl-C or SIGTERM what is `kept`, and end with its exit code."""
    try:
        yield
    except KeyboardInterrupt:
        stopped(f"; {kept}")
        raise typer.Exit(130) from None
    except SystemExit:
        stopped(f"; {kept}")
        raise
