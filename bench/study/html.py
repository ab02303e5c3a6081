"""The page as one HTML file, plots within, nothing fetched from elsewhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from bench.study.page import TITLE, Block, Commands, Heading, Image, Items, Paragraph, Table

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:52em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}th,td{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
    "td.n,th.n{text-align:right}pre{overflow-x:auto;background:#f4f4f4;padding:.6em}img{max-width:100%}"
)


def render(blocks: Sequence[Block]) -> str:
    """`blocks` as an HTML document."""
    head = f'<meta charset="utf-8"><title>{escape(TITLE)}</title><style>{STYLE}</style>'
    return "\n".join(
        [f'<!doctype html><html lang="en"><head>{head}</head><body>', *map(_rendered, blocks), "</body></html>", ""]
    )


def _rendered(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, lead):
            return f"<p>{f'<strong>{escape(lead)}</strong> ' if lead else ''}{escape(text)}</p>"
        case Items(lines):
            return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
        case Commands(lines):
            return f"<pre>{escape(chr(10).join(lines))}</pre>"
        case Image(_, text, content, media_type):
            data = b64encode(content).decode("ascii")
            return f'<p><img alt="{escape(text)}" src="data:{media_type};base64,{data}"></p>'
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        marks = (' class="n"' if title in table.right else "" for title in table.titles)
        written = (f"<{tag}{mark}>{escape(cell)}</{tag}>" for cell, mark in zip(cells, marks, strict=True))
        return f"<tr>{''.join(written)}</tr>"

    return f"<table>{row(table.titles, 'th')}{''.join(row(cells, 'td') for cells in table.rows)}</table>"
