"""What the exporters raise, beside the store's own."""

from __future__ import annotations

import re


class ModelError(ValueError):
    """The user's model cannot be had as asked; the message names the value, the cause and the remedy."""


class UnsupportedModelError(Exception):
    """A format cannot hold this model; the message is one line that says why and what to use."""


def cause(error: BaseException) -> str:
    """An exception in at most 300 characters of one line, without torch's C++ frames."""
    text = re.split(r" ?(?:Exception raised from|frame #0)", " ".join(f"{type(error).__name__}: {error}".split()))[0]
    return text if len(text) <= 300 else text[:297] + "..."
