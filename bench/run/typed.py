"""The types of what a run file holds by name: notes of the run, and conditions of a turn."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.machine.roofline import Peaks
from exporters.sources import KeysAndValues

_NOTES: dict[str, Any] = {
    "artifacts": dict[str, dict[str, Any]],
    "bisections": dict[str, dict[str, Any]],
    "budget": list[int],
    "keys_and_values": KeysAndValues | None,
    "parent_cpu_share": float,
    "preset": dict[str, str],
    "published": dict[str, Any],
    "remarks": list[str],
    "spent_seconds": float,
    "tokenizer_sha256": str | None,
    "waited_seconds": float,
    "warnings": list[str],
    "weights_checksum": str,
}


class _Numbers(msgspec.Struct):
    """Conditions that are computed with."""

    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    other_cpu_seconds: float | None = None
    steal_seconds: float | None = None
    queue_delay_seconds: float | None = None
    thermal_events: int | None = None
    throttled_periods: int | None = None
    quota_periods: int | None = None
    gpu: dict[str, Any] | None = None


def check_note(name: str, value: Any) -> None:
    """Raise ValueError, of which msgspec's errors are, if the note `name` has a value that no run gives it."""
    if name == "peaks":
        Peaks.from_json(value)
    elif name in _NOTES:
        _convert(value, _NOTES[name], f"note {name}")


def check_conditions(conditions: dict[str, Any]) -> None:
    """Raise ValueError if a turn's conditions are no numbers."""
    _convert(conditions, _Numbers, "conditions")


def _convert(value: Any, type_: Any, what: str) -> None:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise ValueError(f"{what}: {error}") from None
