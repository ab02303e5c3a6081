"""The environments under ARTIFACTS/environments, and those that the user names by --python."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backends
from bench.errors import UserError
from bench.process.environments import seals
from bench.spec import Candidate, nearest, parse_candidates

if TYPE_CHECKING:
    from backends.base import Backend

#: Written last: what lacks it was never finished.
MARKER = "environment.json"
UNFINISHED = "was not finished"
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,39}")


@dataclass(frozen=True)
class Environment:
    """One environment that `bench env create` made."""

    place: str
    """`backend`, or `backend@name`."""
    path: Path
    requirements: str
    """SHA-256 of the requirements that it was made from."""
    versions: Mapping[str, str]
    """Of every distribution in it, and of "python"."""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"


def folder_of(root: Path, place: str) -> Path:
    """Where the environment `place` is or would be."""
    return root / "environments" / place


def read(root: Path, place: str) -> Environment | None:
    """The environment `place`; None if there is none, or none that may be started."""
    found = _found(root, place)
    return None if isinstance(found, str) else found


def flaw(root: Path, place: str) -> str:
    """What is wrong with the environment `place`, e.g. "was not finished"; "" if nothing is, or if there is none."""
    found = _found(root, place)
    return found if isinstance(found, str) and folder_of(root, place).is_dir() else ""


def _found(root: Path, place: str) -> Environment | str:
    """The environment `place`, or why it is not taken."""
    path = folder_of(root, place).absolute()
    try:
        marker = json.loads((path / MARKER).read_text())
        found = Environment(place, path, marker["requirements"], dict(marker["versions"]))
        is_own = seals.is_own(path, path / "bin", path / MARKER)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return UNFINISHED
    if not is_own:
        return "belongs to another user, or others may change it"
    key, seal = seals.key(), str(marker.get("seal"))
    if key is None or not compare_digest(seals.seal(path, found.requirements, found.versions, key), seal):
        return "was not made here by this user"
    return found if os.access(found.python, os.X_OK) else UNFINISHED


def places(root: Path) -> list[str]:
    """Every environment that was begun, finished or not."""
    try:
        names = sorted(path.name for path in (root / "environments").iterdir() if path.is_dir())
    except OSError:
        return []
    return [name for name in names if not name.startswith(".")]


def python_of(root: Path, place: str, pythons: Sequence[tuple[str, str]]) -> Path | None:
    """The interpreter for `place`, None for this process's own; raises UserError if a named one is not there."""
    if place in (given := dict(pythons)):
        return Path(given[place])
    if (found := read(root, place)) is not None:
        return found.python
    if "@" in place and (wrong := flaw(root, place)):
        raise UserError(f"the environment {place!r} {wrong}; run: bench env create {place}")
    if "@" in place:
        raise UserError(f"there is no environment {place!r} in {root}; give its interpreter: --python {place}=PATH")
    return None


def parse_place(text: str, option: str) -> str:
    """`backend` or `backend@name`; raises UserError naming `option`."""
    backend, at, name = text.partition("@")
    if backend not in (known := backends.names()):
        raise UserError(
            f"{option}: unknown backend {backend!r}{nearest(backend, known)}; `bench list backends` shows all"
        )
    if at and not _NAME.fullmatch(name):
        raise UserError(
            f"{option}: {name!r} is no name of an environment; write small letters, digits, dots and hyphens, a letter "
            f"first, e.g. {backend}@old"
        )
    return text


def parse_pythons(given: str | Iterable[str]) -> tuple[tuple[str, str], ...]:
    """`["onnx@old=PATH"]` as (place, absolute path); raises UserError for what is none."""
    found: dict[str, str] = {}
    for text in [given] if isinstance(given, str) else given:
        place, equals, path = text.partition("=")
        if not equals or not path:
            raise UserError(f"--python {text!r} is not BACKEND=PATH; write e.g. --python onnx@old=old/bin/python")
        parse_place(place, f"--python {text}")
        if place in found:
            raise UserError(f"--python {place} is given twice; name another environment, e.g. {place}2")
        # Not resolved: an environment's interpreter is a link, and knows its environment by where the link stands.
        found[place] = str(Path(path).expanduser().absolute())
    return tuple(found.items())


def settle_candidates(
    names: str | Iterable[str],
    precisions: str | Iterable[str],
    python: str | Iterable[str],
    root: Path,
    variants_of: Callable[[type[Backend]], Mapping[str, Any]] | None = None,
) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """Who is meant by --backends and --precisions, and the interpreters of --python as (place, absolute path).

    `root` is the store's; `variants_of` is `parse_candidates`'s. Raises UserError, also for an interpreter without use.
    """
    pythons = parse_pythons(python)
    known = {*places(root), *dict(pythons)}
    candidates = parse_candidates(names, precisions, variants_of, known)
    check_all_used(pythons, (candidate.place for candidate in candidates))
    return candidates, pythons


def named_interpreters(
    candidates: Iterable[Candidate], given: Sequence[tuple[str, str]], recorded: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """The interpreters of --python as options hold them; raises UserError if a file recorded one that is not `given`
    again: none is started because a file names it.
    """
    places = {candidate.place for candidate in candidates}
    check_all_used(given, places)
    for place, path in recorded:
        if place in places and place not in dict(given):
            raise UserError(
                f"{place} ran with an interpreter that the file names, which is not started for that; "
                f"if it is yours, give it again: --python {place}={path}"
            )
    return tuple(f"{place}={path}" for place, path in given)


def check_given_again(recorded: Iterable[str], given: str | Iterable[str], file: Path | None) -> None:
    """Raise UserError unless --python gives each interpreter that the run in `file` recorded, and no other.

    The file may come from anywhere, and what it names would be started.
    """
    wanted, named = dict(parse_pythons(recorded)), dict(parse_pythons(given))
    for place in {**wanted, **named}:
        if place not in wanted:
            raise UserError(f"--python {place}: the run in {str(file)!r} names no interpreter for it; leave it out")
        if named.get(place) != wanted[place]:
            again = f"{place}={wanted[place]}"
            raise UserError(
                f"{str(file)!r} names an interpreter, and none is started that only a file names; if this one is "
                f"yours, add --python {again!r}"
            )


def check_all_used(pythons: Sequence[tuple[str, str]], used: Iterable[str]) -> None:
    """Raise UserError for an interpreter that no candidate runs in."""
    known = set(used)
    for place, _ in pythons:
        if place not in known:
            raise UserError(f"--python {place}: no {place} is among --backends; add it there")
