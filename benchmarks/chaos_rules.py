"""What chaos.py holds every call to, in one place, and how it calls bench.

A call keeps the invariant if its exit code is one that bench has, its standard error shows no traceback, every process
that it started is gone, and nothing that a file or a word named was executed. A run file keeps it if every cell has
exactly one record, no cell is missing once the run is complete, and its seal fits. The run file is read here line by
line, not by bench's own reader.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

#: Exit codes of the command line. A process that a signal ended before bench took over has the signal's.
CODES = frozenset({0, 1, 2, 3, 4, 5, 6, 130, 143})
TOKEN = "BENCH_CHAOS"
#: How long processes of a call that has ended may take to be gone.
GRACE_SECONDS = 6.0
#: What one line may hold at most, where it is about a value.
LONGEST_LINE = 4000
ROOT = Path(__file__).resolve().parents[1]
#: Exit code of a fork that would start another Python than its own.
OTHER_PYTHON = 71
STARTED = "chaos: bench would start a worker here"


@dataclass(frozen=True)
class Ended:
    """What a call left."""

    words: tuple[str, ...]
    code: int
    output: str
    errors: str
    seconds: float
    left: tuple[str, ...] = ()
    """Command lines of processes that outlived it."""
    is_late: bool = False
    """True if it was killed, as it took longer than it may."""

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.output + self.errors


@dataclass
class World:
    """The folder that trials happen in."""

    folder: Path
    store: Path
    canaries: Path
    """Whatever a trial gets executed leaves a file here."""
    environment: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """A new path for a file of a trial."""
        return self.folder / "trials" / f"{uuid.uuid4().hex[:12]}-{name}"

    def hits(self) -> list[str]:
        """What was executed since the last call."""
        found = sorted(self.canaries.iterdir())
        for path in found:
            path.unlink()
        return [path.name for path in found]


def world(folder: Path) -> World:
    """A new world, or the one that is there."""
    made = World(folder, folder / "store", folder / "canaries")
    for path in (made.canaries, folder / "trials"):
        path.mkdir(parents=True, exist_ok=True)
    return made


# The invariant.


def faults_of(
    ended: Ended, world: World | None = None, signals: Iterable[int] = (), codes: Iterable[int] = CODES
) -> list[str]:
    """What a call did that none may do; `signals` are those that were sent, and may have ended it."""
    found = []
    if ended.is_late:
        found.append(f"it hung: killed after {ended.seconds:.0f} s")
    elif ended.code == OTHER_PYTHON:
        found.append("it would start an interpreter that is not its own")
    elif ended.code not in codes and -ended.code not in set(signals):
        found.append(f"exit code {ended.code}")
    for sign in ("Traceback (most recent call last)", "a mistake of bench's own", "Exception ignored"):
        if sign in ended.errors:
            last = [line for line in ended.errors.splitlines() if line.strip()][-1]
            found.append(f"{sign}: {last[:200]}")
    found += [f"orphan: {one}" for one in ended.left]
    if "\x1b" in ended.said:  # no call has a terminal, or asks for colours
        found.append("an escape sequence was printed")
    if any(len(line) > LONGEST_LINE for line in ended.errors.splitlines()):
        found.append(f"a line of {max(map(len, ended.errors.splitlines()))} characters on standard error")
    if world is not None:
        found += [f"executed: {one}" for one in world.hits()]
    return found


def faults_of_run(path: Path, cells: int | None) -> list[str]:
    """What is wrong with a run file, which is complete if `cells` are given: that many, each with one record."""
    *lines, torn = path.read_bytes().split(b"\n")
    found: list[str] = []
    closed: dict[str, bool] = {}
    seal = None
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            found.append(f"line {number + 1} is no JSON")
            continue
        cell = json.dumps([entry.get("point"), entry.get("candidate")], sort_keys=True)
        if seal is not None:
            found.append(f"line {number + 1} follows the seal")
        if entry["kind"] == "turn":
            closed[cell] = False  # a cell that gets further turns is open again
        elif entry["kind"] == "record":
            if closed.get(cell):
                found.append(f"doubled record of {cell}")
            closed[cell] = True
        elif entry["kind"] == "seal":
            seal = entry
            if hashlib.sha256(b"".join(one + b"\n" for one in lines[:number])).hexdigest() != entry["sha256"]:
                found.append("the seal does not fit")
    if cells is None:
        return found
    if torn:
        found.append("the last line is torn")
    if seal is None or not seal["is_complete"]:
        found.append("no seal of a complete run")
    done = sum(closed.values())
    if done != cells or len(closed) != cells:
        found.append(f"{done} of {cells} cells have a record")
    return found


# Calls.


class Call:
    """A call of the command line in a process of its own."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str | None] | None = None,
        prepare: Callable[[], None] | None = None,
        prefix: Sequence[str] = (),
        output: Any = None,
        python: str = sys.executable,
    ) -> None:
        self.words, self.token = tuple(words), uuid.uuid4().hex
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*prefix, python, "-m", "bench", *words],
            stdin=subprocess.DEVNULL, stdout=self._files[0] if output is None else output, stderr=self._files[1],
            cwd=folder, env=surroundings(self.token, environment), start_new_session=True, preexec_fn=prepare,
        )  # fmt: skip

    def children(self) -> list[psutil.Process]:
        """Every process that it started and that lives."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    def wait(self, seconds: float = 120.0) -> Ended:
        """What it left, once it has ended; it is killed after `seconds`."""
        is_late = False
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            is_late = True
            kill(self.process.pid)
            self.process.wait()
        took = time.monotonic() - self.started
        output, errors = map(_text, self._files)
        return Ended(self.words, self.process.returncode, output, errors, took, left(self.token), is_late)


def surroundings(token: str, more: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Environment of a call: this project importable, no colours, no network; None removes a variable."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    fixed = {"PYTHONPATH": paths, TOKEN: token, "NO_COLOR": "1", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    merged: dict[str, str | None] = {**os.environ, **fixed, "OMP_WAIT_POLICY": "PASSIVE", **(more or {})}
    return {name: value for name, value in merged.items() if value is not None}


def left(token: str) -> tuple[str, ...]:
    """Command lines of processes with `token` in their environment that do not go away; they are killed."""
    end = time.monotonic() + GRACE_SECONDS
    while (found := _with(token)) and time.monotonic() < end:
        time.sleep(0.05)
    described = tuple(map(_described, found))
    for one in found:
        kill(one.pid)
    return described


def _with(token: str) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mark = f"{TOKEN}={token}\0".encode()
            if mark in Path(f"/proc/{one.pid}/environ").read_bytes() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def _described(one: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(one.cmdline())[:200]
    return str(one.pid)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def call(words: Sequence[str], folder: Path, seconds: float = 120.0, **options: Any) -> Ended:
    """Call the command line in a process of its own, and wait."""
    return Call(words, folder, **options).wait(seconds)


def fork(words: Sequence[str], folder: Path, seconds: float = 60.0, starts_nothing: bool = True) -> Ended:
    """Call the command line in a fork of this process, which has imported it; it ends where it would start a worker."""
    files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
    started, token = time.monotonic(), uuid.uuid4().hex
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _in_fork(words, folder, [file.fileno() for file in files], token, starts_nothing)
    descriptor = os.pidfd_open(pid)
    is_late = not select.select([descriptor], [], [], seconds)[0]
    os.close(descriptor)
    if is_late:
        kill(pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    took = time.monotonic() - started
    output, errors = map(_text, files)
    # A search of all processes costs more than such a call, and it was not to start any.
    found = left(token) if not starts_nothing or is_late else ()
    return Ended(tuple(words), code, output, errors, took, found, is_late)


def _in_fork(words: Sequence[str], folder: Path, files: list[int], token: str, starts_nothing: bool) -> None:
    """Be a new process of bench, as far as a fork can."""
    code: Any = 70
    try:
        os.setsid()
        os.chdir(folder)
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(surroundings(token))
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.argv = ["bench", *words]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from bench.cli import main

        if starts_nothing:
            _start_nothing()
        main()
        code = 0
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 70)


def _start_nothing() -> None:
    """End this process with code 0 where it would start a Python, and OTHER_PYTHON if that is not its own."""

    class Nothing(subprocess.Popen[Any]):
        def __init__(self, command: Any, *rest: Any, **options: Any) -> None:
            first = command if isinstance(command, str) else str(next(iter(command)))
            if first == sys.executable or Path(first).name.startswith("python"):
                sys.stderr.write(f"{STARTED}\n")
                sys.stderr.flush()
                os._exit(0 if first == sys.executable else OTHER_PYTHON)
            super().__init__(command, *rest, **options)

    subprocess.Popen = Nothing  # type: ignore[misc, assignment]


def _text(file: Any) -> str:
    file.seek(0)
    found: str = file.read().decode(errors="replace")
    file.close()
    return found


def json_lines(path: Path) -> Iterator[Any]:
    """Each line's content."""
    for line in path.read_text().splitlines():
        yield json.loads(line)
