"""A file of results: JSON Lines, a header that says what kind of file it is, and lines written as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, UserError

LARGEST_INTEGER = 2**63 - 1
#: What can be done about a file that is there, and one that cannot be written on, where a command cannot go on with it.
IN_PLACE_OF_IT, AFTERWARDS = "give another --output", "free some space and call it again"


class LinesFile:
    """The open file of one call's results; every line is on disk when `append` returns.

    `when_it_exists` and `when_it_is_full` are remedies: what the user can do then.
    """

    def __init__(self, path: Path, when_it_exists: str = IN_PLACE_OF_IT, when_it_is_full: str = AFTERWARDS) -> None:
        self.path, self._when_it_exists, self._when_it_is_full = path, when_it_exists, when_it_is_full

    def create(self, header: Mapping[str, Any]) -> None:
        """Start a new file with the header; raises UserError when it exists or cannot be made."""
        try:
            if self.path.is_file():
                raise UserError(f"output file {str(self.path)!r} exists; {self._when_it_exists}")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("x" if not self.path.exists() else "a"):
                pass
        except OSError as error:
            shown = str(self.path) if len(str(self.path)) < 200 else f"{str(self.path)[:100]}…"
            raise UserError(f"output file {shown!r} cannot be made ({error.strerror}); give another --output") from None
        self.append(header)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one JSON line and wait until it is on disk; raises BenchError when it cannot be."""
        try:
            with self.path.open("a") as file:
                file.write(_as_line(line))
                file.flush()
                if self.path.is_file():
                    os.fsync(file.fileno())
        except OSError as error:
            raise self._cannot_be_written(error) from error

    def rewrite(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Replace the file by `lines`, the header first, written aside and renamed."""
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            aside.write_text("".join(map(_as_line, lines)))
            aside.replace(self.path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise self._cannot_be_written(error) from error

    def _cannot_be_written(self, error: OSError) -> BenchError:
        return BenchError(f"{str(self.path)!r} cannot be written ({error.strerror}); {self._when_it_is_full}")


def _as_line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"


def kind_of(path: Path, writers: Sequence[str]) -> str:
    """The kind that a file's header names, "" for none; raises UserError where it is no file of `writers`, commands."""
    lines = _lines(path, " or ".join(writers))
    return str(lines[0].get("kind", "")) if lines else ""


def read_lines(path: Path, kind: str, schema: int, writer: str) -> list[dict[str, Any]]:
    """Header and further lines of a file of `kind`, that command `writer` wrote; a torn last line is left out.

    Raises UserError when it is no such file, damaged, or of a later schema than `schema`.
    """
    lines = _lines(path, writer)
    if not lines or lines[0].get("kind") != kind or "workload" in lines[0]:
        raise UserError(f"{str(path)!r} is no run of {writer}; give a .jsonl file that it wrote")
    found = lines[0].get("schema")
    if not isinstance(found, int):
        raise UserError(f"{str(path)!r} is damaged (it has no schema number); measure again")
    if found > schema:
        raise UserError(f"{str(path)!r} has schema {found} and this bench reads up to {schema}; upgrade runtimebench")
    return lines


def _lines(path: Path, writer: str) -> list[dict[str, Any]]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not text"
        raise UserError(f"run file {str(path)!r} cannot be read ({cause}); give a file that {writer} wrote") from None
    return list(_parsed(text, path, writer))


def _parsed(text: str, path: Path, writer: str) -> Iterable[dict[str, Any]]:
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line, parse_constant=_no_number, parse_int=_bounded)
        except OverflowError as error:
            raise UserError(f"{str(path)!r} is damaged (line {number}: {error}); measure again") from None
        except (ValueError, RecursionError):
            if number == len(lines):  # no newline behind it: the writer was stopped half-way
                return
            raise UserError(f"line {number} of {str(path)!r} is not JSON; give a file that {writer} wrote") from None
        if not isinstance(parsed, dict):
            raise UserError(f"line {number} of {str(path)!r} is no JSON object; give a file that {writer} wrote")
        yield parsed


def _no_number(name: str) -> None:
    """NaN and the infinities, which JSON does not have: an error of a broken backend's outputs may be one."""


def _bounded(digits: str) -> int:
    """An integer of 64 bits; anything longer raises, as no clock, count or seed gives it."""
    value = int(digits) if len(digits) < 25 else LARGEST_INTEGER + 1
    if abs(value) > LARGEST_INTEGER:
        raise OverflowError(f"{digits[:20]}… is beyond 64 bits")
    return value
