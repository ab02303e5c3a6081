"""Files of results are read with suspicion: what their kinds check alike, and the one line that damage ends in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import UserError

LONGEST_CAUSE = 200


@contextmanager
def damage_told(path: str | Path) -> Iterator[None]:
    """Raise UserError where what is read within turns out not to be what a command of bench wrote to `path`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UserError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise UserError(f"{str(path)!r} is damaged ({cause[:LONGEST_CAUSE]}); measure again") from None


def is_count(value: object) -> bool:
    """True for a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_texts(texts: Iterable[object], fingerprint: object) -> None:
    """Raise TypeError where a header's texts are none, or its fingerprint is no machine's."""
    if not all(isinstance(text, str) for text in texts) or not isinstance(fingerprint, dict):
        raise TypeError("a header that holds no text or no fingerprint")
    if not isinstance(fingerprint.get("gpus", []), list):
        raise TypeError("the fingerprint is none")


def check_objects(*objects: object) -> None:
    """Raise TypeError where what must be an object is none."""
    if not all(isinstance(value, dict) for value in objects):
        raise TypeError("parity, facts, failure, memory, operations or conditions are no objects")


def check_figures(conditions: Mapping[str, Any], *figures: object) -> None:
    """Raise TypeError where a condition, or another figure of a record, is neither missing nor a number."""
    numbers = [*(value for name, value in conditions.items() if name != "gpu"), *figures]
    if not all(value is None or isinstance(value, int | float) for value in numbers):
        raise TypeError("a figure that is no number")
    if not isinstance(conditions.get("gpu", {}), dict):
        raise TypeError("conditions of a GPU that are no object")
