"""The command line called in this process, in a folder and an environment that are the same on every machine."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from tests.golden.cases import MADE, SHOWN

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: What decides how wide, how colourful and in which time zone output is; nothing of the caller's is left of these.
ENVIRONMENT = {"COLUMNS": "80", "LINES": "24", "TERM": "dumb", "NO_COLOR": "1", "TZ": "UTC", "HF_HUB_OFFLINE": "1"}
UNSET = (
    "FORCE_COLOR",
    "CLICOLOR_FORCE",
    "PY_COLORS",
    "TTY_COMPATIBLE",
    "BENCH_TRACEBACK",
    "_TYPER_FORCE_DISABLE_TERMINAL",
)


@dataclass(frozen=True)
class Called:
    """What a command line left."""

    exit_code: int
    output: str
    errors: str
    page: str | None
    """Content of page.html, if the command line wrote one."""


class StartedError(BaseException):
    """A command line that was to end at once started a worker; no `except Exception` hides this."""


@cache
def call(command: str) -> Called:
    """Run `bench` with the words of `command` in a new folder as cases.py describes it."""
    from bench.cli import main

    output, errors = io.StringIO(), io.StringIO()
    with folder() as place, environment(shlex.split(command)):
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                main()
            except SystemExit as ended:
                code = ended.code
        page = place / "page.html"
        content = page.read_text() if page.is_file() else None
    assert isinstance(code, int), code
    return Called(code, output.getvalue(), errors.getvalue(), content)


@contextlib.contextmanager
def environment(arguments: list[str]) -> Iterator[None]:
    """Words, width and name of the program; signals stay the caller's."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    with (
        mock.patch.dict(os.environ, kept | ENVIRONMENT, clear=True),
        mock.patch.object(sys, "argv", ["bench", *arguments]),
        mock.patch.object(sys.modules["__main__"], "__package__", None),  # else the program is `python -m pytest`
        mock.patch("signal.signal"),
        mock.patch("typer.main.get_command", _commands),
        mock.patch.object(subprocess, "Popen", _NoWorker),
    ):
        yield


_commands = cache(typer.main.get_command)  # made once, which takes longer than most calls do


class _NoWorker(subprocess.Popen[Any]):
    """Starts any program but this Python."""

    def __init__(self, command: Any, *rest: Any, **options: Any) -> None:
        if sys.executable in command:
            raise StartedError(command)
        super().__init__(command, *rest, **options)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new working folder with links to the runs; it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-golden-") as name, contextlib.chdir(name):
        place = Path(name)
        (place / "runs").symlink_to(HERE / "runs")
        (place / "reference").symlink_to(ROOT / "artifacts" / "reference")
        shown = place / "artifacts" / "runs"
        shown.mkdir(parents=True)
        for age, run in enumerate(SHOWN):
            copy = shown / f"{run}.jsonl"
            copy.write_bytes((HERE / "runs" / copy.name).read_bytes())
            os.utime(copy, (1_800_000_000 - age,) * 2)
        for made, content in MADE.items():
            (place / made).write_text(content)
        yield place
