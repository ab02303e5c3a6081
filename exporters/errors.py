"""What the exporters raise, beside the store's own."""

from __future__ import annotations


class ModelError(ValueError):
    """The user's model cannot be had as asked; the message names the value, the cause and the remedy."""


class UnsupportedModelError(Exception):
    """A format cannot hold this model; the message is one line that says why and what to use."""
