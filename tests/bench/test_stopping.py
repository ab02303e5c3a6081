"""Ctrl-C and SIGTERM at any moment from the first import on: one line, the signal's exit code, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

#: Starts `bench` as `python -m bench` does, and says so; with a module's name, that module's import strikes it.
START = """
import os, runpy, sys
number, struck, *sys.argv[1:] = sys.argv[1:]

class Striking:
    def find_spec(self, name, path=None, target=None):
        if name == struck:
            os.kill(os.getpid(), int(number))

sys.meta_path.insert(0, Striking())
print("go", flush=True)
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""
LONG = ("--model", "bert-tiny", "--backends", "null:50us", "--batches", "1", "--lengths", "8", "--quiet")
LONG += ("--max-seconds-per-cell", "60s", "--warmup", "30s", "--max-warmup", "60s", "--device", "cpu")
ENDINGS = ((signal.SIGINT, 130), (signal.SIGTERM, 143))


def start(folder: Path, root: Path, number: int, struck: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(int(number)), struck, *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


@pytest.mark.parametrize(("number", "code"), ENDINGS)
@pytest.mark.parametrize("struck", ["bench.cli", "typer", "bench.cli.verify", "exporters.errors", "bench.run.registry"])
@pytest.mark.parametrize("arguments", [("list", "models"), ("compare", "--help")])
def test_a_signal_during_an_import_is_one_line(
    number: int, code: int, struck: str, arguments: tuple[str, ...], root: Path, tmp_path: Path
) -> None:
    if (struck, arguments[0]) == ("bench.run.registry", "list"):
        struck = "exporters.sources"
    process = start(tmp_path, root, number, struck, *arguments)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed, said.count("\n")) == (code, "", 1), said
    assert said.startswith("bench: stopped")


@pytest.mark.parametrize(("number", "code"), ENDINGS)
@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2, 0.3, 0.6])
def test_a_signal_at_any_moment_is_one_line(number: int, code: int, delay: float, root: Path, tmp_path: Path) -> None:
    process = start(tmp_path, root, 0, "", "compare", *LONG)
    time.sleep(delay)
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed, said.count("\n")) == (code, "", 1), said
    assert said.startswith("bench: stopped")
