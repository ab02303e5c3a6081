"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import hypothesis  # noqa: F401 - it looks who refers to what, and fails once imports are out of garbage collection
import pytest

import backends
import exporters
from bench.run import registry
from exporters.store import ArtifactStore
from tests import made

ROOT = Path(__file__).resolve().parent.parent
# Else every process of a test compiles this project's modules anew, which takes longer than most that it does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Two tests at a time share the cores, where a thread that waits by spinning keeps the one that it waits for from running.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A script's background ignores Ctrl-C, and so would every process that a test starts and stops.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@cache
def searched(path: tuple[str, ...], group: str) -> EntryPoints:
    """The plugins of `group` that are installed under `path`."""
    return entry_points(group=group)


# All installed packages are read for them, at every look at a backend, which takes longer than scripted runs do.
for module in (backends, exporters, registry):
    module.entry_points = lambda group: searched(tuple(sys.path), group)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for the whole session, so that each tiny model is exported once; its processes share it.

    The machine's limits are in it: beside other work, which tests are to each other, every run would measure them. It is
    in use throughout, so that no run takes for another program's what a test of another process is compiling.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "artifacts"
    folder.mkdir(exist_ok=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache" / "inductor")  # as workers have it
    made.keep_peaks(folder)
    store = ArtifactStore(folder)
    store.prepare()
    with store.in_use(print):
        yield folder


@pytest.fixture(scope="session", autouse=True)
def _key_of_environments(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays() -> None:
    """What was made before a module's tests is in no garbage collection, of which cells begin and end with one each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other work takes part in the turns of runs that this process drives: for tests of what is decided from them.

    Two tests run at a time, so to each other they are other work. Real conditions: `bench.machine.conditions.Source`.
    """
    from bench.run.preparation import Preparation
    from tests.machines import Scripted

    monkeypatch.setattr(Preparation, "conditions", Scripted())


@pytest.fixture
def in_this_process() -> Iterator[None]:
    """Workers and exports in the test's process; see tests/in_process.py."""
    from tests.in_process import here

    with here():
        yield


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`bench` in a process of its own, in an empty folder; what a user sees and gets as exit code."""

    def run(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
        )

    return run


@pytest.fixture
def cli_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """What `cli` is, in this process: for output and exit codes that do not depend on the process."""
    from bench.cli import main

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(["bench", *arguments], int(ended.value.code or 0), out, err)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(signal, "signal", lambda *rest: None)
    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two processes, which get half the list each, both begin with slow tests; `gpu` skips without one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        files = list(dict.fromkeys(item.path for item in items if item.get_closest_marker("slow")))
        first, second = ([item for item in items if item.path in files[start::2]] for start in (0, 1))
        others, half = [item for item in items if item.path not in files], max(0, len(items) // 2 - len(first))
        items[:] = first + others[:half] + second + others[half:]
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    from backends.base import torch_cuda_version
    from bench.machine import gpus

    if gpus() and torch_cuda_version():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU, or a CPU build of torch"))
