"""The page and its plots on disk: written aside and renamed, all of them or none."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, UserError
from bench.study import html, markdown, plots
from bench.study.page import Block, blocks

if TYPE_CHECKING:
    from bench.study.api import Study

SUFFIXES = {".md": markdown.render, ".html": html.render}


def check(output: Path) -> None:
    """Raise UserError for a page that has no known suffix, or that something stands in the place of."""
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output {str(output)[:80]!r} ends neither in .md nor in .html; give e.g. page.md")
    if output.exists():
        raise UserError(f"output file {str(output)!r} exists; remove it, or give another --output")


def write(study: Study, output: Path, wanted: str | None) -> list[Path]:
    """Write the page, and for Markdown its plots beside it; returns every file, the page last."""
    check(output)
    images = plots.draw(study.figures, plots.settle(wanted), output.stem)
    page: list[Block] = blocks(study, images)
    files = {output: SUFFIXES[output.suffix](page).encode()}
    if output.suffix == ".md":
        files = {output.with_name(image.name): image.content for image in images} | files
    for path in files:
        if path.exists():
            raise UserError(f"output file {str(path)!r} exists; remove it, or give another --output")
    _write_all(files)
    return list(files)


def _write_all(files: dict[Path, bytes]) -> None:
    aside = {path: path.with_name(f"{path.name}.{os.getpid()}.part") for path in files}
    done = []
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside[path].write_bytes(content)
        for path, part in aside.items():
            part.replace(path)
            done.append(path)
    except OSError as error:
        for path in [*aside.values(), *done]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise BenchError(
            f"{str(next(reversed(files)))!r} cannot be written ({error.strerror}); give another --output"
        ) from error
