"""Values of options as words of a command line: shown so, and parsed from them.

Parsers take what a user writes ("1,8", "2m") and what a caller of the API gives ([1, 8], 120), and raise UserError with
the value, the cause and the remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench import spec
from bench.errors import UserError

#: Parses a given value for the option of this name, e.g. "--batches".
Parser = Callable[[Any, str], Any]
DAY_SECONDS = 86_400.0
_UNITS_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def shown(value: Any) -> str:
    """A value as the parsers read it: lists with commas, whole floats without a fraction."""
    if isinstance(value, tuple | list):
        return ",".join(shown(one) for one in value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def shown_seconds(value: float) -> str:
    """Seconds as `90s`."""
    return f"{shown(float(value))}s"


def shown_share(value: float) -> str:
    """A share as `2%`."""
    return f"{shown(float(f'{100 * value:.12g}'))}%"


def shown_shapes(value: Iterable[tuple[int, int]]) -> str:
    """`1x512,16x512`."""
    return ",".join(f"{batch}x{length}" for batch, length in value)


# From words.


def text(value: Any, option: str) -> str:
    """One line of text that is not empty."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise UserError(f"{option} is empty; give a value")
    return str(value)


def flag(value: Any, option: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{option} {_short(value)} is neither True nor False; use one of them")
    return value


def checked(check: Callable[[str, str], Any]) -> Parser:
    """A parser that keeps the text which `check(text, option)` takes without an error."""

    def parse(value: Any, option: str) -> str:
        check(text(value, option), option)
        return str(value)

    return parse


def one_of(choices: Iterable[str]) -> Parser:
    """A parser of one of `choices`, which names the nearest for anything else."""
    known = tuple(choices)

    def parse(value: Any, option: str) -> str:
        if value not in known:
            near = spec.nearest(str(value)[:80], known)
            raise UserError(f"unknown {option[2:]} {_short(value)}{near}; use one of {', '.join(known)}")
        return str(value)

    return parse


def whole(least: int, most: int, example: int | str) -> Parser:
    """A parser of a whole number from `least` to `most`."""

    def parse(value: Any, option: str) -> int:
        if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]{1,30}", str(value).strip()):
            raise UserError(f"{option} {_short(value)} is not a whole number; use e.g. {option} {example}")
        found = int(str(value))
        if not least <= found <= most:
            raise UserError(f"{option} {str(found)[:40]} is not within {least} and {most}; use e.g. {example}")
        return found

    return parse


def number(above: float, most: float, example: str) -> Parser:
    """A parser of a finite number above `above` and at most `most`."""

    def parse(value: Any, option: str) -> float:
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if math.isnan(found):
            raise UserError(f"{option} {_short(value)} is not a number; use e.g. {option} {example}")
        if not above < found <= most:
            raise UserError(f"{option} {found:g} is not above {above:g} and at most {most:,.12g}; use e.g. {example}")
        return found

    return parse


def from_0(most: float, example: str) -> Parser:
    """A parser of a finite number from 0 to `most`."""

    def parse(value: Any, option: str) -> float:
        found: float = number(-math.inf, math.inf, example)(value, option)
        if not 0 <= found <= most:
            raise UserError(f"{option} {found:g} is not from 0 to {most:,.12g}; use e.g. {example}")
        return found

    return parse


def seconds(most: float = DAY_SECONDS, example: str = "30s") -> Parser:
    """A parser of a duration, "30s", "2m", "1h" or a number of seconds; above 0 and at most `most` seconds."""

    def parse(value: Any, option: str) -> float:
        found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{0,9})?)\s*(ms|s|m|h|)\s*", str(value))
        if isinstance(value, bool) or not found:
            raise UserError(f"{option} {_short(value)} is not a duration; write e.g. {option} {example}")
        spent = float(found.group(1)) * _UNITS_SECONDS[found.group(2)]
        if not 0 < spent <= most:
            limit = "a day" if most == DAY_SECONDS else f"{most:g} s"
            raise UserError(f"{option} {_short(value)} is not above 0 and at most {limit}; use e.g. {example}")
        return spent

    return parse


def share(value: Any, option: str) -> float:
    """`2%` or 0.02, above 0 and below 1."""
    found = spec.parse_share(value, option)
    if not 0 < found < 1:
        raise UserError(f"{option} {shown_share(found)} is not above 0 and below 100%; use e.g. 2%")
    return found


def size_bytes(value: Any, option: str) -> int:
    """`8GiB`, `10GB` or a number of bytes."""
    return spec.parse_size(value, option)


def sizes(value: Any, option: str) -> tuple[int, ...]:
    """`1,8` or integers, sorted and distinct."""
    return spec.parse_sizes([value] if isinstance(value, int) else value, option)


def names(value: Any, option: str) -> tuple[str, ...]:
    """`a,b` or strings, distinct, in the order given."""
    return spec.parse_names(value, option)


def paths(value: Any, option: str) -> tuple[str, ...]:
    """One string or several, as an option that may be given several times gives them."""
    return (value,) if isinstance(value, str) else tuple(str(one) for one in value)


def shapes(value: Any, option: str) -> tuple[tuple[int, int], ...]:
    """`1x512,16x512` or pairs, sorted and distinct."""
    found = []
    for part in value.split(",") if isinstance(value, str) else value:
        given = part if isinstance(part, str) else "x".join(map(str, part))
        if not (pair := re.fullmatch(r"\s*([0-9]{1,9})\s*[x×]\s*([0-9]{1,9})\s*", given)):
            raise UserError(f"{option} {given[:40]!r} is not batch×length; write e.g. {option} 1x128,8x512")
        found.append((sizes(pair[1], option)[0], sizes(pair[2], option)[0]))
    return tuple(sorted(set(found)))


def _short(value: Any) -> str:
    return repr(str(value)[:40])
