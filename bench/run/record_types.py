"""Types of what stands in a record's open dictionaries under names that bench itself writes.

Readers compute with these values. Other names are a plugin's own, and are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bench.run.record import Record

_Counts = dict[str, float | None]
_OfPlaces = dict[str, dict[str, Any]]
FIGURES: Mapping[str, Any] = {
    **dict.fromkeys(("batch", "shapes", "warmed"), int),
    **dict.fromkeys(("taken_bytes", "peak_bytes", "stored_bytes", "file_bytes", "cached_bytes"), int | None),
    "cache_bytes": int | None,
    "fits": bool | None,
    "is_above_limit": bool | None,
    "way": str,
    "reason": str,
    "tokens": list[list[int]],
    "failure": dict[str, Any],
}
_TEXTS = ("case", "verdict", "reason", "output")
_LISTS = ("max_abs_at", "worst_token", "generated")
_NUMBERS = (
    "share_of_limit", "compared", "nonfinite", "max_abs_error", "max_rel_error", "mean_abs_error", "p99_abs_error",
    "rmse", "rmse_eager", "rmse_ratio", "token_ratio", "unit_ratio", "loss", "min_cosine", "out_of_tolerance",
    "kl_mean", "kl_max", "top1_agreement", "top1_n", "top1_flips", "top1_near_ties", "top_k", "top_k_overlap", "steps",
    "diverges_at", "eager_error", "masked_max_abs_error",
)  # fmt: skip
PARITY: Mapping[str, Any] = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(_LISTS, list[int] | None),
    **dict.fromkeys(_NUMBERS, float | None),
    "cases": _OfPlaces,
}
MEMORY: Mapping[str, Any] = {"loaded": _Counts, "peak": _Counts}


def check(record: Record) -> None:
    """Raise ValueError if a value of a record has another type than its name says."""
    figures = [(turn.figures, FIGURES) for turn in record.turns]
    for values, types in (*figures, (record.figures, FIGURES), (record.parity, PARITY), (record.memory, MEMORY)):
        for name in values.keys() & types.keys():
            try:
                msgspec.convert(values[name], types[name])
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {error}") from None
