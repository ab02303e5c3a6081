"""The text and structure of an HTML page, one line an element, without styles, scripts and plotting library."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

#: Elements that a line of its own is begun for; all others are part of the line that they stand in.
LINES = ("title", "h1", "h2", "h3", "p", "li", "div", "tr", "summary", "section", "header", "figure", "pre", "footer")
LEFT_OUT = ("style", "script", "svg")
SHOWN = ("id", "class", "href", "data-chart", "aria-label")


class _Lines(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.packed: list[str] = []
        self._within: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in LEFT_OUT:
            self._within.append(tag)
        if self._within:
            return
        shown = "".join(f" {name}={value}" for name, value in attributes if name in SHOWN and value)
        if tag in LINES:
            self.lines.append(f"<{tag}{shown}> ")
        elif tag in ("td", "th"):
            self.lines[-1] += f"|{shown} "
        elif shown:
            self.lines[-1] += f"<{tag}{shown}>"

    def handle_endtag(self, tag: str) -> None:
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        if self._within[-1:] == ["script"]:
            self.packed.append(data)
        if self._within or not self.lines:
            return
        words = " ".join(data.split())
        if words:
            self.lines[-1] += words + " "


def text_of(page: str) -> str:
    """The page's lines, and a line for each plot: its marks, fields, titles and numbers of values."""
    parser = _Lines()
    parser.feed(page)
    parser.close()
    lines = [" ".join(line.split()) for line in parser.lines]
    return "\n".join([*lines, "", *_plots(parser.packed)]) + "\n"


def _plots(scripts: list[str]) -> Iterator[str]:
    for script in scripts:
        try:
            specs = json.loads(gzip.decompress(b64decode(script.strip(), validate=True)))
        except ValueError:
            continue  # the page's own script, or the library
        for name, spec in specs["charts"].items():
            found = {kind: dict.fromkeys(_found(spec, kind)) for kind in ("type", "field", "title")}
            counts = [len(values) for values in _found(spec, "values", list)]
            words = "; ".join(f"{kind} {', '.join(values)}" for kind, values in found.items() if values)
            yield f"plot {name}: {words}; values {counts}"


def _found(spec: Any, key: str, kind: type = str) -> Iterator[Any]:
    """Every value of type `kind` under `key`, at any depth but within the plotted values."""
    if isinstance(spec, list):
        for entry in spec:
            yield from _found(entry, key, kind)
    elif isinstance(spec, dict):
        for name, value in spec.items():
            if name == key and isinstance(value, kind):
                yield value
            elif name != "values":
                yield from _found(value, key, kind)
