"""Files that bench writes: JSON Lines with a seal at their end, and reports that are written whole or not at all.

The seal is the SHA-256 of all lines before it. It says that a file is not damaged; it does not say that it is genuine,
since whoever alters a line can compute it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, UserError

SEAL = b'{"kind":"seal"'
#: Signals by which a user or a supervisor stops a command.
STOPPING = (signal.SIGINT, signal.SIGTERM)


class LinesFile:
    """A file of lines, each on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sum = hashlib.sha256()

    def create(self, header: bytes) -> None:
        """Start a new file with its first line; raises UserError if it exists or cannot be made."""
        try:
            if self.path.is_file():
                raise UserError(
                    f"output file {_shown(self.path)} exists; go on with --resume {self.path}, or give another --output"
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("x" if not self.path.exists() else "a"):
                pass
        except OSError as error:
            what = f"output file {_shown(self.path)} cannot be made ({error.strerror})"
            raise UserError(f"{what}; give another --output") from None
        try:
            self._write(header)
        except OSError as error:
            if self.path.is_file():
                self.path.unlink()
            what = f"output file {_shown(self.path)} cannot be written ({error.strerror})"
            raise BenchError(f"{what}; free some space, or give another --output") from error

    def append(self, line: bytes) -> None:
        """Write one line; raises BenchError if it cannot be written, with nothing of it in the file."""
        try:
            self._write(line)
        except OSError as error:
            raise self._cannot_be_written(error) from error

    def _write(self, line: bytes) -> None:
        whole, is_file = line + b"\n", self.path.is_file()
        size = self.path.stat().st_size
        with _uninterrupted():
            try:
                with self.path.open("ab") as file:
                    file.write(whole)
                    file.flush()
                    if is_file:
                        os.fsync(file.fileno())
            except OSError:
                if is_file:
                    os.truncate(self.path, size)
                raise
            self._sum.update(whole)

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replace the file by `lines`, written aside and renamed; raises BenchError if that fails."""
        content = b"".join(line + b"\n" for line in lines)
        with _uninterrupted():
            try:
                _write_aside({self.path: content})
            except OSError as error:
                raise self._cannot_be_written(error) from error
            self._sum = hashlib.sha256(content)

    @property
    def checksum(self) -> str:
        """SHA-256 of all that was written, for the seal."""
        return self._sum.hexdigest()

    def _cannot_be_written(self, error: OSError) -> BenchError:
        return BenchError(
            f"{_shown(self.path)} cannot be written ({error.strerror}); free some space and go on with --resume"
        )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: between a line and its checksum they would leave a seal that does not fit.

    A mask would hold them back in this thread alone, and the kernel gives them to any. Only the main one may ask.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.signal(number, lambda received, _: held.append(received)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for received in dict.fromkeys(held):
            signal.raise_signal(received)


@dataclass(frozen=True)
class Lines:
    """A file's lines as they were found."""

    lines: tuple[bytes, ...]
    """Whole lines without the seal; a torn last one is left out."""
    seal: bytes | None
    checksum: str
    """SHA-256 of `lines` as they stand in the file."""
    has_more: bool
    """True if lines follow the seal."""


def read_lines(path: Path) -> Lines:
    """The lines of a file; raises UserError if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"run file {_shown(path)} cannot be read ({error.strerror}); give a file that bench wrote"
        ) from None
    *lines, torn = content.split(b"\n")
    end = next((number for number, line in enumerate(lines) if line.startswith(SEAL)), len(lines))
    checksum = hashlib.sha256(b"".join(line + b"\n" for line in lines[:end])).hexdigest()
    behind = [*lines[end + 1 :], *filter(None, [torn])]
    has_seal = end < len(lines)
    return Lines(tuple(lines[:end]), lines[end] if has_seal else None, checksum, has_seal and bool(behind))


def check_absent(path: Path, option: str) -> None:
    """Raise UserError if something stands in the place of a file that `option` names."""
    if path.exists():
        raise UserError(f"output file {str(path)!r} exists; remove it, or give another {option}")


def write_all(files: Mapping[Path, bytes], option: str = "--output") -> None:
    """Write every file or none; raises BenchError naming `option` when one cannot be written."""
    try:
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        _write_aside(files)
    except OSError as error:
        raise BenchError(
            f"{str(list(files)[-1])!r} cannot be written ({error.strerror}); give another {option}"
        ) from error


def _write_aside(files: Mapping[Path, bytes]) -> None:
    """Write all files beside their places, then rename them; raises OSError, with none of them left."""
    aside = {path: path.with_name(f"{path.name}.{os.getpid()}.part") for path in files}
    done: list[Path] = []
    try:
        for path, content in files.items():
            aside[path].write_bytes(content)
        for path, part in aside.items():
            part.replace(path)
            done.append(path)
    except OSError:
        for path in [*aside.values(), *done]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def _shown(path: Path) -> str:
    text = str(path)
    return repr(text) if len(text) < 200 else f"'{text[:100]}…'"
