"""Make and remove environments under ARTIFACTS/environments."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import backends
from bench.errors import BenchError, Say, UserError
from bench.process import channel
from bench.process.environments import seals
from bench.process.environments.asking import ask, forget_answers
from bench.process.environments.stored import (
    MARKER,
    Environment,
    flaw,
    folder_of,
    parse_place,
    places,
    read,
)
from bench.spec import nearest
from exporters.store import FULL_BELOW_BYTES, ArtifactStore

_LIST_VERSIONS = (
    "import json, platform; from importlib.metadata import distributions as all_of; "
    "print(json.dumps({d.metadata['Name']: d.version for d in all_of()} | {'python': platform.python_version()}))"
)


def create(root: Path, place: str, requirements: Path | None = None, say: Say = lambda line: None) -> Environment:
    """Make the environment `place` from a file of pinned requirements, by default the one that its backend declares.

    One made from the same requirements stays. A creation that fails leaves nothing; one that is killed leaves a folder
    without its marker, which the next removes. Raises UserError and BenchError.
    """
    place = parse_place(place, "bench env create")
    file = requirements or backends.load_class(place.partition("@")[0]).spec.requirements
    if file is None:
        own = [name for name in backends.names() if _declares(name)]
        raise UserError(
            f"{place} declares no environment of its own ({', '.join(own) or 'no backend'} does); "
            "name a file of requirements: --requirements FILE"
        )
    try:
        text = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"--requirements {str(file)!r} cannot be read ({error.strerror}); name a file of pip's"
        ) from None
    ArtifactStore(root).prepare()
    from filelock import FileLock, Timeout

    (root / "environments").mkdir(exist_ok=True)
    try:
        with FileLock(root / "environments" / f".lock-{place}", timeout=0):
            wanted, found = hashlib.sha256(text).hexdigest(), read(root, place)
            if found is not None and found.requirements == wanted:
                say(f"{place}: is there already, made from the same requirements")
                return found
            if (folder := folder_of(root, place)).is_symlink():
                folder.unlink()
            if folder.exists():
                say(f"{place}: made anew, as it {flaw(root, place) or 'was of other requirements'}")
            return _make(root, place, file, wanted, say)
    except Timeout:
        raise UserError(f"the environment {place!r} is being made by another bench; wait for it") from None


def _declares(name: str) -> bool:
    with contextlib.suppress(Exception):  # a plugin may raise anything
        return backends.load_class(name).spec.requirements is not None
    return False


def _make(root: Path, place: str, file: Path, checksum: str, say: Say) -> Environment:
    path = folder_of(root, place).absolute()
    shutil.rmtree(path, ignore_errors=True)
    python, key = path / "bin" / "python", seals.made_key()
    try:
        say(f"{place}: a virtual environment of Python {sys.version_info[0]}.{sys.version_info[1]}")
        _run([sys.executable, "-m", "venv", str(path)], root, f"{place}: no virtual environment can be made")
        say(f"{place}: installing {file.name}")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        # Half of the time went into bytecode of modules that nobody imports; the rest is written when it is imported.
        pip += [] if sys.dont_write_bytecode else ["--no-compile"]
        _run([*pip, "-r", str(file)], root, f"{place}: its requirements cannot be installed")
        forget_answers()
        ask(python, root, f"{place}, from {file.name}", place.partition("@")[0], "cpu", [], [])
        versions = json.loads(_run([str(python), "-P", "-c", _LIST_VERSIONS], root, f"{place}: it does not work"))
        for folder in (path, python.parent):
            folder.chmod(0o700)
        marker = {"requirements": checksum, "versions": versions, "seal": seals.seal(path, checksum, versions, key)}
        aside = path / f".{MARKER}"
        aside.write_text(json.dumps(marker, indent=1, sort_keys=True))
        aside.chmod(0o600)
        aside.rename(path / MARKER)
    except BaseException as error:
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise _full(place) if error.errno == errno.ENOSPC else BenchError(f"{place}: {error}") from error
        raise
    return Environment(place, path, checksum, versions)


def _run(command: list[str], root: Path, what: str) -> str:
    """Output of a command that dies with this process; raises BenchError with its last word on why."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False,
        preexec_fn=partial(channel.die_with_parent, os.getpid()),
    )  # fmt: skip
    if done.returncode == 0:
        return done.stdout
    said = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    if "No space left on device" in done.stderr + done.stdout or shutil.disk_usage(root).free < FULL_BELOW_BYTES:
        raise _full(what.partition(":")[0])
    errors = [line for line in said if line.startswith(("ERROR", "Error"))] or said[-1:] or ["no word why"]
    raise BenchError(f"{what} ({errors[0][:300]}); nothing was kept")


def _full(place: str) -> UserError:
    return UserError(f"{place}: the disk is full (No space left on device); free some space or use --artifacts")


def remove(root: Path, place: str) -> None:
    """Delete the environment `place`, finished or not; raises UserError where there is none or a run may use it."""
    if place not in (known := places(root)):
        there = f"there are {', '.join(known)}" if known else "there is none"
        raise UserError(f"no environment {place!r} in {root}{nearest(place, known)}; {there}")
    store = ArtifactStore(root)
    if users := store.users():
        raise UserError(f"a run is using {store.folder} (process {users[0]}); remove it when that has ended")
    path = folder_of(root, place)
    (path / MARKER).unlink(missing_ok=True)  # first, so that a half-removed one is not taken for sound
    shutil.rmtree(path)


def size_bytes(path: Path) -> int:
    """Bytes of the files under `path`, links not followed."""
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
