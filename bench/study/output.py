"""The page and its plots on disk: written aside and renamed, all of them or none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.files import check_absent, write_all
from bench.study import html, markdown, plots
from bench.study.page import Block, blocks

if TYPE_CHECKING:
    from bench.study.api import Study

SUFFIXES = {".md": markdown.render, ".html": html.render}


def check(output: Path) -> None:
    """Raise UserError for a page that has no known suffix, or that something stands in the place of."""
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output {str(output)[:80]!r} ends neither in .md nor in .html; give e.g. page.md")
    check_absent(output, "--output")


def write(study: Study, output: Path, wanted: str | None) -> list[Path]:
    """Write the page, and for Markdown its plots beside it; returns every file, the page last."""
    check(output)
    images = plots.draw(study.figures, plots.settle(wanted), output.stem)
    page: list[Block] = blocks(study, images)
    files = {output: SUFFIXES[output.suffix](page).encode()}
    if output.suffix == ".md":
        files = {output.with_name(image.name): image.content for image in images} | files
    for path in files:
        check_absent(path, "--output")
    write_all(files)
    return list(files)
