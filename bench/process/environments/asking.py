"""Ask another interpreter what a backend can do there; nothing of it is imported here."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import backends
from bench.errors import UserError
from bench.process import channel
from bench.process.environments.stored import python_of
from bench.spec import Candidate

#: The Pythons that this project's code is written for, as pyproject.toml has them.
OLDEST_PYTHON = (3, 11)
TIMEOUT_SECONDS = 120.0
#: Its version first, as an older Python cannot read this project's code.
_PROGRAM = (
    "import sys; print('python', *sys.version_info[:2], flush=True); "
    "from bench.process.environments.answers import main; main()"
)


@dataclass(frozen=True)
class Interpreter:
    """Another environment's interpreter, and what a backend can do there."""

    python: Path
    versions: Mapping[str, str]
    """Of the interpreter and of what the backend stands on."""
    reasons: Mapping[tuple[str, str], str]
    """Why a (variant, precision) cannot run there."""
    libraries: Mapping[str, Mapping[str, str]]
    """Artifact format that can be written there -> the versions of what writes it."""


def environments_of(
    candidates: Sequence[Candidate],
    device: str,
    pythons: Sequence[tuple[str, str]],
    root: Path,
    formats: Mapping[Candidate, str | None],
) -> dict[Candidate, Interpreter]:
    """The interpreter of each candidate that runs in another environment; raises UserError for an unusable one."""
    found: dict[Candidate, Interpreter] = {}
    for place in dict.fromkeys(candidate.place for candidate in candidates):
        here = [candidate for candidate in candidates if candidate.place == place]
        made_of = [name for name in (formats[candidate] for candidate in here) if name]
        if (interpreter := environment_of(root, here, device, pythons, made_of)) is not None:
            found |= dict.fromkeys(here, interpreter)
    return found


def environment_of(
    root: Path,
    wanted: Sequence[Candidate],
    device: str,
    pythons: Sequence[tuple[str, str]],
    formats: Iterable[str] = (),
) -> Interpreter | None:
    """The interpreter of the place that `wanted` have in common, asked about them and `formats`; None for this one."""
    place = wanted[0].place
    if (python := python_of(root, place, pythons)) is None:
        return None
    whose = f"--python {place}={python}" if place in dict(pythons) else f"the environment {place!r}"
    pairs = [(candidate.variant, candidate.precision) for candidate in wanted]
    return ask(python, root, whose, wanted[0].backend, device, pairs, formats)


def changed_versions(
    candidates: Sequence[Candidate],
    device: str,
    pythons: Sequence[tuple[str, str]],
    root: Path,
    recorded: Mapping[Candidate, Mapping[str, str]],
) -> list[str]:
    """A line for each library whose version is not the one that a candidate was `recorded` with; raises UserError."""
    there, found = environments_of(candidates, device, pythons, root, dict.fromkeys(candidates)), list[str]()
    for candidate, versions in recorded.items():
        own = there.get(candidate)
        now = own.versions if own else backends.load_class(candidate.backend).spec.versions()
        found += [
            f"{candidate.label} ran with {name} {version} and would run with {now[name]}"
            for name, version in versions.items()
            if name in now and now[name] != version
        ]
        if own is None and "python" in versions:  # only who ran elsewhere tells it
            found.append(f"{candidate.label} ran in an environment of its own that is not there any more")
    return found


def ask(
    python: Path,
    root: Path,
    whose: str,
    backend: str,
    device: str,
    wanted: Iterable[tuple[str, str]],
    formats: Iterable[str],
) -> Interpreter:
    """What `backend` can do with the interpreter `python`; `whose` it is stands in an error's line."""
    request = {"backend": backend, "device": device}
    lists = {"wanted": list(dict.fromkeys(wanted)), "formats": list(dict.fromkeys(formats))}
    answer = _answered(python, root, whose, json.dumps(request | lists))
    if missing := answer["missing"]:
        raise UserError(
            f"{whose}: no {', '.join(missing)} there, which {backend} needs; run: {python} -m pip install "
            f"{' '.join(missing)}"
        )
    reasons = {(variant, precision): reason for variant, precision, reason in answer["reasons"] if reason}
    return Interpreter(python, answer["versions"], reasons, answer["libraries"])


@cache
def _answered(python: Path, root: Path, whose: str, request: str) -> dict[str, Any]:
    """The answer to a request; raises UserError where `python` is no interpreter that this project's code runs on."""
    if python.is_dir():
        raise UserError(f"{whose}: that is a folder; name the interpreter in it, e.g. {python / 'bin' / 'python'}")
    environment = channel.worker_environment(1) | channel.project_for_others(root) | {"PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(
            [str(python), "-c", _PROGRAM, request], capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=TIMEOUT_SECONDS, check=False, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"{whose}: no answer within {TIMEOUT_SECONDS:.0f} s; name a Python interpreter") from None
    except OSError as error:
        raise UserError(f"{whose}: cannot be started ({error.strerror}); name a Python interpreter") from None
    lines = done.stdout.splitlines()
    if not (version := re.fullmatch(r"python (\d+) (\d+)", lines[0] if lines else "")):
        raise UserError(f"{whose}: that is no Python; name a Python interpreter, e.g. FOLDER/bin/python")
    if (int(version[1]), int(version[2])) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise UserError(f"{whose}: that is Python {version[1]}.{version[2]}; use {oldest} or later")
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except ValueError:
        words = done.stderr.strip().splitlines() or ["no answer"]
        raise UserError(f"{whose}: that environment does not work ({words[-1][:200]}); make it again") from None
    return answer


def forget_answers() -> None:
    """Ask again from here on, as an environment changes."""
    _answered.cache_clear()
