"""Text that a file or a user gave, made harmless for the place that shows it; figures and bench's own words stay."""

from __future__ import annotations

import html
import re
from typing import Any

#: Control characters but tab and newline, marks that reorder text, line separators, and halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
#: Colours and weights, which rich writes to a terminal.
_STYLE = re.compile(r"(\x1b\[(?:[0-4]|[39][0-7])(?:;(?:[0-4]|[39][0-7]))*m)")
#: What a spreadsheet takes for a formula, at the start of a cell's text; the wide forms are some spreadsheets' too.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
#: What makes links, images and code of Markdown.
_MARKUP = re.compile(r"[\\`\[\]|]")
_LINK = re.compile(r"(?i)\b(www(?=\.)|[a-z][a-z0-9+.-]*(?=://))[.:]|\b(mailto|xmpp):")
LONGEST_WORD, LONGEST_LINE = 300, 3000
_SHOWN = 100


def plain(text: str) -> str:
    r"""`text` without what moves a cursor or reorders letters: `\u001b` in place of an escape, as in JSON."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain_but_styles(text: str) -> str:
    """`plain`, with the colours of a terminal kept."""
    return "".join(part if at % 2 else plain(part) for at, part in enumerate(_STYLE.split(text)))


def all_plain(value: Any) -> Any:
    """A JSON value with all its strings plain."""
    if isinstance(value, dict):
        return {plain(str(key)): all_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [all_plain(one) for one in value]
    return plain(value) if isinstance(value, str) else value


def markdown(text: str) -> str:
    """`text` in one line of Markdown, in which nothing is a link, an image, code, HTML or the end of a cell."""
    escaped = html.escape(_MARKUP.sub(r"\\\g<0>", plain(text).replace("\n", " ")), quote=False)
    return _LINK.sub(lambda found: f"{found[0][:-1]}&#{ord(found[0][-1])};", escaped)


def csv_text(text: str) -> str:
    """`text` as a cell that no spreadsheet computes: behind an apostrophe if it begins as a formula does."""
    found = plain(text.replace("\r\n", "\n").replace("\r", "\n"))
    return f"'{found}" if _FORMULA.match(text) else found


def short(line: str) -> str:
    """`line` with values of more than 300 characters cut to their first 100, and cut in the middle if it is long."""
    quoted = rf"(['\"])((?:(?!\1).){{{LONGEST_WORD},}})\1"
    cut = re.sub(quoted, lambda found: _cut(found[2], found[1]), line, flags=re.S)
    cut = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda found: _cut(found[0]), cut)
    if len(cut) <= LONGEST_LINE:
        return cut
    left, right = cut[: LONGEST_LINE * 2 // 3], cut[-LONGEST_LINE // 3 :]
    return f"{left} … ({len(cut) - len(left) - len(right):,} characters left out) … {right}"


def _cut(value: str, quote: str = "") -> str:
    return f"{quote}{value[:_SHOWN]}…{quote} ({len(value):,} characters)"
