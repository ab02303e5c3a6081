"""The page as Markdown that also reads well in a terminal: text wrapped, columns padded, 80 wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from bench.study.page import Block, Commands, Heading, Image, Items, Paragraph, Table

WIDTH = 80


def render(blocks: Sequence[Block]) -> str:
    """`blocks` as Markdown text."""
    return "\n\n".join(map(_rendered, blocks)) + "\n"


def _rendered(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text, lead):
            return _wrapped(" ".join(filter(None, [f"**{lead}**" if lead else "", _escaped(text)])))
        case Items(lines):
            return "\n".join(f"- {_wrapped(_escaped(line), WIDTH - 2, '  ')}" for line in lines)
        case Commands(lines):
            return "\n".join(["```sh", *lines, "```"])
        case Image(name, text):
            return f"![{text}]({name})"
        case Table():
            return _table(block)


def _wrapped(text: str, width: int = WIDTH, indent: str = "") -> str:
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join(lines)


def _table(table: Table) -> str:
    rows = [tuple(_escaped(cell) for cell in row) for row in (table.titles, *table.rows)]
    widths = [max(2, *(len(row[column]) for row in rows)) for column in range(len(table.titles))]
    is_right = [title in table.right for title in table.titles]
    rule = "|".join("-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, is_right, strict=True))
    lines = [
        " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_right, strict=True)
        )
        for row in rows
    ]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def _escaped(text: str) -> str:
    """`text` on one line, with what Markdown would take for its own marked as text."""
    for mark in ("\\", "|", "<", "`", "*"):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
