"""Ctrl-C and SIGTERM at any moment from the first import on: one line, the signal's exit code, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.run.file import read_run
from tests.bench.test_channel import has_ended, is_running
from tests.bench.test_cli import children_of

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


def wait_for(path: Path, has: str) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and has in path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {has!r}")


DETACHING = """
import subprocess, time
print(subprocess.Popen(["setsid", "sleep", "600"]).pid, file=open("pid", "w"), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("number", "code"), ENDINGS)
def test_nothing_that_an_export_started_is_left(number: int, code: int, root: Path, tmp_path: Path) -> None:
    (tmp_path / "detaching.py").write_text(DETACHING)
    given = ("--module", "detaching.py:model", "--backends", "eager", "--batches", "1", "--lengths", "4", "--quiet")
    process = start(tmp_path, root, 0, "", "compare", *given)
    pid = int(wait_for(tmp_path / "pid", "\n"))
    assert is_running(pid)
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed, said) == (code, "", "bench: stopped before anything was measured\n")
    assert has_ended(pid)


def test_a_stopped_worker_costs_its_cell_and_not_the_run(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.jsonl"
    given = ("--model", "bert-tiny", "--backends", "null,null:slow", "--batches", "1,2,3,4", "--lengths", "8")
    given += ("--max-seconds-per-cell", "0.3", "--device", "cpu", "--timeout", "3s", "--output", "run.jsonl")
    process = start(tmp_path, root, 0, "", "compare", *given)
    wait_for(run, '"kind":"turn"')
    workers = [pid for pid in children_of(process.pid) if is_running(pid)]
    os.kill(min(workers), signal.SIGSTOP)
    _, said = process.communicate(timeout=120)
    found = read_run(run)
    statuses = [one.status for one in found.records]
    assert (process.returncode, found.is_complete, len(statuses)) == (1, True, 8), said
    assert set(statuses) == {"ok", "timeout"}
    assert statuses.count("timeout") < 4
    assert not any(is_running(pid) for pid in workers)
