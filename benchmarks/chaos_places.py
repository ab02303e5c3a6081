"""Parts of chaos.py that strike the surroundings: full disks, and limits of the process, its user and environment."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.chaos_processes import SAMPLES, Trials, words_of
from benchmarks.chaos_rules import ROOT, Ended, World, call, faults_of, faults_of_run

#: A clock that jumps by up to a day each way between any two readings.
JUMPING = """
import random, time
_time, _time_ns, _rng = time.time, time.time_ns, random.Random(0)
time.time = lambda: _time() + _rng.uniform(-86400, 86400)
time.time_ns = lambda: _time_ns() + _rng.randint(-86400, 86400) * 10**9
"""
MIB = 2**20


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path | None]:
    """A file system of `size` bytes at `place`; None if this user may mount none."""
    place.mkdir(parents=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    is_mounted = shutil.which("mount") is not None and subprocess.run(options, capture_output=True).returncode == 0
    try:
        yield place if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)
        place.rmdir()


def disk(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """A disk that fills up under the output or the store: a small tmpfs, or a limit of file size without root."""
    for number in numbers:
        rng, name = draw(number), "forward"
        sample, of_store = SAMPLES[name], number % 2 == 1
        room = rng.randrange(4096, 40_000) // 4096 * 4096
        with small_disk(world.path("disk"), room if not of_store else 32 * 1024) as place:
            output = (place if place and not of_store else world.folder / "trials") / f"full-{number}.jsonl"
            store = place if place and of_store else world.store
            words = words_of(sample, store, output)
            prepare = None if place else _limit(resource.RLIMIT_FSIZE, room)
            ended = call(words, world.folder, prepare=prepare)
            found = faults_of(ended, world)
            if place and of_store and number % 4 == 3:  # exports do not fit either
                ended = call(["compare", "--model", "bert-tiny", "--backends", "torchscript", *words[-8:-1],
                              str(world.path("x.jsonl"))], world.folder)  # fmt: skip
                found += faults_of(ended, world)
                found += [] if ended.code in (1, 2) else [f"exit code {ended.code} with no room for an export"]
            if output.exists():
                found += faults_of_run(output, None)
                if ended.code not in (0, 6) and not of_store:
                    moved = world.path("moved.jsonl")
                    shutil.copy(output, moved)
                    again = call(["compare", "--resume", str(moved), "--artifacts", str(world.store)], world.folder)
                    found += [f"resume: {fault}" for fault in faults_of(again)] + faults_of_run(moved, sample.cells)
                output.unlink()
        how = "tmpfs" if place else "RLIMIT_FSIZE"
        yield f"{'store' if of_store else 'output'} on {how} with {room} bytes: exit code {ended.code}", found


def _limit(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


Scenario = Callable[[World, random.Random, list[str]], tuple[str, Ended | None]]


def _address_space(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    limit = rng.choice((64, 128, 256, 400, 700, 1500, 4000))
    return f"{limit} MiB of addresses", call(words, world.folder, prepare=_limit(resource.RLIMIT_AS, limit * MIB))


def _few_handles(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    limit = rng.choice((6, 8, 10, 12, 16, 20, 24, 32, 64))
    return f"{limit} file handles", call(words, world.folder, prepare=_limit(resource.RLIMIT_NOFILE, limit))


def _no_folder(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    place = world.path("gone")
    place.mkdir()
    return "a deleted current folder", call(words, place, prepare=place.rmdir)


def _no_home(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    home: str | None = rng.choice((None, "", "/nonexistent", "/dev/null"))
    return f"HOME {home!r}", call(words, world.folder, environment={"HOME": home})


def _no_temporary(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    place = rng.choice(("/nonexistent", "/proc", "/dev/null", ""))
    return f"TMPDIR {place!r}", call(words, world.folder, environment={"TMPDIR": place})


def _no_output(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    kind = rng.choice(("closed", "full", "both closed", "pipe"))
    if kind == "full":
        with Path("/dev/full").open("wb") as full:
            return "standard output full", call(words, world.folder, output=full)
    if kind == "pipe":
        read, write = os.pipe()
        os.close(read)
        try:
            return "standard output is a pipe that nobody reads", call(words, world.folder, output=write)
        finally:
            os.close(write)
    numbers = (1,) if kind == "closed" else (1, 2)
    return f"standard output {kind}", call(
        words, world.folder, prepare=lambda: os.closerange(numbers[0], numbers[-1] + 1)
    )


def _no_utf8(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    locale = rng.choice(({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}, {"LC_ALL": "xx_XX"}))
    more = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **locale}
    return f"locale {locale}", call(words, world.folder, environment=more)


def _jumping_clock(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    place = world.folder / "clock"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(JUMPING)
    paths = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    with _path_for_call(paths):
        return "a clock that jumps (time.time alone)", call(words, world.folder)


@contextlib.contextmanager
def _path_for_call(paths: str) -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = paths
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def _read_only(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    """The store mounted read-only (root), or without its write bits."""
    place = world.path("read-only")
    is_root = os.geteuid() == 0
    if is_root:
        place.mkdir()
        bound = subprocess.run(["mount", "--bind", str(world.store), str(place)], capture_output=True)
        ro = subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], capture_output=True)
        if bound.returncode or ro.returncode:
            subprocess.run(["umount", "-l", str(place)], capture_output=True)
            return "not done: a read-only store needs a mount", None
    else:
        shutil.copytree(world.store, place)
        for path in [place, *place.rglob("*")]:
            path.chmod(path.stat().st_mode & 0o555)
    try:
        replaced = [str(place) if word == str(world.store) else word for word in words]
        return "a read-only store", call(replaced, world.folder)
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True) if is_root else None


def _ordinary_user(world: World, rng: random.Random, words: list[str]) -> tuple[str, Ended | None]:
    """User 65534 with a store of its own, by this interpreter or, if that is root's alone, by the system's."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return "not done: another user needs root and setpriv", None
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    major, minor, *_ = sys.version_info
    for python in (sys.executable, f"/usr/bin/python{major}.{minor}"):
        if subprocess.run([*prefix, "env", python, "-c", ""], capture_output=True).returncode == 0:
            break
    else:
        return "not done: user 65534 may start no interpreter of this version", None
    store = world.path("of-user")
    shutil.copytree(world.store, store)
    for path in (store, *store.rglob("*")):
        os.chown(path, 65534, 65534)
    more = {"HOME": "/nonexistent"}
    if python != sys.executable:
        more["PYTHONPATH"] = os.pathsep.join([str(ROOT), sysconfig.get_paths()["purelib"]])
    moved = [word.replace(str(world.store), str(store)) for word in words]
    if "--output" in moved:
        moved[moved.index("--output") + 1] = str(store / "run.jsonl")
    ended = call(moved, Path("/"), prefix=prefix, environment=more, python=python)
    wrong = faults_of_run(store / "run.jsonl", None) if (store / "run.jsonl").exists() else []
    shutil.rmtree(store)
    return f"user 65534{''.join(f' ({one})' for one in wrong)}", ended


SCENARIOS: tuple[Scenario, ...] = (
    _address_space, _few_handles, _no_folder, _no_home, _no_temporary, _no_output, _no_utf8, _jumping_clock, _read_only,
    _ordinary_user,
)  # fmt: skip


def limits(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """Every scenario in turn, each with a run, a report and looks at the store."""
    known = world.path("known.jsonl")
    call(words_of(SAMPLES["forward"], world.store, known), world.folder)
    for number in numbers:
        rng, scenario = draw(number), SCENARIOS[number % len(SCENARIOS)]
        path = world.path("limited.jsonl")
        sample = SAMPLES[rng.choice(list(SAMPLES))]
        run = words_of(sample, world.store, path)
        store = ["--artifacts", str(world.store)]
        others: list[list[str]] = [
            ["report", str(known)], ["report", str(known), "--json"], ["artifacts", "verify", *store],
            ["artifacts", "prune", *store], ["choose", str(known)], ["list", "backends"], ["--help"], [],
        ]  # fmt: skip
        words = run if number // len(SCENARIOS) % 2 == 0 else rng.choice(others)
        what, ended = scenario(world, rng, words)
        if ended is None:
            yield what, []
            continue
        found = faults_of(ended, world)
        if ended.code == 2 and path.exists():
            found.append("a refused call left its output file")
        elif path.exists():
            found += faults_of_run(path, sample.cells if ended.code in (0, 6) else None)
        yield f"{what}: {' '.join(words[:2])}: exit code {ended.code}", found
