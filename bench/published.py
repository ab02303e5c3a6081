"""Figures that somebody published, and whether the card that they are said of can do them; pure functions.

A file of figures is JSON: "about" in one line; "card" with name, precision, flops_per_second, bytes_per_second and
memory_bytes; "models" by name with layers, width, parameters, non_embedding_parameters and, where known,
stored_bytes_per_sequence (what autograd keeps of one sequence, by length); "rows" with model, batch, length, status
("ok", "oom" or "failed"), for a timed one "ms" (its readings), and "us_per_step" where that was published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import statistics
from bench.machine import roofline
from bench.spec import Shape

FIGURES = Path(__file__).resolve().parent / "presets" / "figures"
OUTCOMES = {"oom": "out of memory", "failed": "failed"}


@dataclass(frozen=True)
class JudgedRow:
    """One published row: what it takes, what its median implies, and the verdict."""

    model: str
    batch: int
    length: int
    flops: int
    floor: roofline.Floor
    median_ms: float | None
    """None for a row without times."""
    flops_per_second: float | None
    peak_share: float | None
    verdict: str
    us_per_step: float | None = None
    """As it was published; None where it was not."""
    grad_bytes: int | None = None
    """Weights and what autograd keeps of the whole batch; None where that is not known at this length."""

    @property
    def shape(self) -> Shape:
        """Batch and length."""
        return Shape(self.batch, self.length)

    @property
    def steps(self) -> int:
        """What the published us per step are a division by: length, or length - 1 where that comes nearer to them."""
        if self.us_per_step is None or self.median_ms is None or self.length < 2:
            return self.length
        us, published = self.median_ms * 1e3, self.us_per_step
        return min(self.length, self.length - 1, key=lambda steps: abs(us / steps - published))


def judge(data: Mapping[str, Any]) -> list[JudgedRow]:
    """Every row of `data` as the file holds it; raises KeyError, TypeError or ValueError for one that lacks a part."""
    return [_judged(row, data["models"][row["model"]], data["card"]) for row in data["rows"]]


def _judged(row: Mapping[str, Any], model: Mapping[str, Any], card: Mapping[str, Any]) -> JudgedRow:
    weights, batch, length = model["non_embedding_parameters"], row["batch"], row["length"]
    if not all(isinstance(size, int) and size > 0 for size in (batch, length)):
        raise ValueError(f"batch {batch!r} or length {length!r} is no positive integer")
    flops = roofline.transformer_flops(weights, model["layers"], model["width"], batch, length)
    element_bytes = roofline.WEIGHT_BYTES[card["precision"]]
    limit = roofline.floor_ns(flops, weights * element_bytes, card["flops_per_second"], card["bytes_per_second"])
    stored = model.get("stored_bytes_per_sequence", {}).get(str(length))
    grad_bytes = None if stored is None else model["parameters"] * element_bytes + batch * int(stored)
    if row["status"] != "ok":
        outcome = OUTCOMES[row["status"]]
        return JudgedRow(row["model"], batch, length, flops, limit, None, None, None, outcome, None, grad_bytes)
    median_ms = statistics.median(row["ms"])
    if not median_ms > 0:
        raise ValueError(f"{median_ms!r} ms is no time")
    verdict = "implausible" if roofline.is_implausible(limit, median_ms * 1e6) else "possible"
    rate = flops / median_ms * 1e3
    share = rate / card["flops_per_second"]
    us_per_step = None if row.get("us_per_step") is None else float(row["us_per_step"])
    return JudgedRow(
        row["model"], batch, length, flops, limit, median_ms, rate, share, verdict, us_per_step, grad_bytes
    )


def of_model(data: Mapping[str, Any], model: str, shapes: Iterable[Shape]) -> dict[str, Any]:
    """`data` with those rows alone that are of `model` at one of `shapes`; {} where there is none."""
    wanted = set(shapes)
    rows = [row for row in data["rows"] if row["model"] == model and Shape(row["batch"], row["length"]) in wanted]
    if not rows:
        return {}
    return {"about": data["about"], "card": data["card"], "models": {model: data["models"][model]}, "rows": rows}


def check(data: Any) -> None:
    """Raise KeyError, TypeError, ValueError or AttributeError where `data` are no figures that can be judged."""
    if not (isinstance(data["about"], str) and isinstance(data["card"]["name"], str)):
        raise TypeError("about or the card's name are no text")
    if not data["card"]["memory_bytes"] > 0:
        raise ValueError("a card without memory")
    judge(data)


@dataclass(frozen=True)
class Memory:
    """What one machine held, in MiB, as somebody published it."""

    device: str
    precision: str
    loaded: Mapping[str, Mapping[str, int]]
    """By model: `process_mib` once it was loaded, and `weights_and_rounding_mib` of it."""
    stored: Mapping[str, Mapping[str, int]]
    """By model and length: what autograd stores for one sequence."""


def memory(folder: Path = FIGURES) -> tuple[Memory, ...]:
    """Every file of published memory."""
    found = []
    for path in sorted(folder.glob("*-memory.json")):
        data = json.loads(path.read_text())
        stored = data["stored_with_gradients_mib_per_sequence"]
        found.append(Memory(data["device"], data["precision"], data["loaded"], stored))
    return tuple(found)
