"""Presets: grids with a name, as data. `NAME.toml` beside this file, or a file of the user's own.

Keys, of which title, source, model, backends and the shapes must be there: `title` and `source` (where it comes from),
`model`, `backends`, either `shapes` ([batch, length] pairs) or `batches` and `lengths` (their product), `rounds`,
`precisions`, `grad`, `naive_timer`, `task`, and `figures`: published ones to stand beside ours, by the name of a file
in `figures/` or the path of one, relative to the preset.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench.errors import UserError
from bench.spec import LARGEST_SIZE, MOST_ROUNDS, Shape, nearest, parse_candidates
from bench.workloads.published import FIGURES, check
from exporters.sources import TASKS

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Preset:
    """What a preset says of a run; options given beside it replace its own."""

    name: str
    """As the user gave it: a built-in name or a path."""
    title: str
    source: str
    model: str
    backends: tuple[str, ...]
    shapes: tuple[Shape, ...]
    """By batch, then length: smaller cells first, so that memory can be foreseen."""
    rounds: int = 10
    precisions: tuple[str, ...] = ("fp32",)
    grad: bool = False
    naive_timer: bool = False
    task: str = "base"
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Published figures as `bench.workloads.published` reads them; empty for none."""

    @property
    def batches(self) -> tuple[int, ...]:
        """Distinct batch sizes."""
        return tuple(sorted({shape.batch for shape in self.shapes}))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Distinct lengths."""
        return tuple(sorted({shape.length for shape in self.shapes}))

    def options(self, named: Collection[str]) -> dict[str, Any]:
        """What the preset says as options of a run, but for those that are `named` on the command line.

        Its shapes give way to batches or lengths that are named, completed by its own.
        """
        taken = ["backends", "rounds", "precisions", "naive_timer", *([] if "module" in named else ["model", "task"])]
        found = {name: getattr(self, name) for name in taken} | {"grad": self.grad and "backends" not in named}
        if {"batches", "lengths"} & set(named):
            found |= {"batches": self.batches, "lengths": self.lengths}
        elif "shapes" not in named:
            found["shapes"] = tuple((shape.batch, shape.length) for shape in self.shapes)
        return {name: value for name, value in found.items() if name not in named}


def names() -> tuple[str, ...]:
    """Presets that can be asked for by name."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str | Path) -> Preset:
    """The preset of a built-in name or in a file; raises UserError in one line with file, key and cause."""
    text = str(name)
    if text in names():
        return _read(FOLDER / f"{text}.toml", text)
    if not text.endswith(".toml") and "/" not in text:
        known = names()
        raise UserError(
            f"unknown preset {text[:80]!r}{nearest(text, known)}; use one of {', '.join(known)}, or a .toml file"
        )
    return _read(Path(text), text)


def _read(path: Path, name: str) -> Preset:
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no TOML
        cause = getattr(error, "strerror", None) or str(error)
        raise UserError(f"preset file {_shown(name)} cannot be read ({cause}); see docs/presets.md") from None
    for key in data:
        if key not in KEYS:
            raise _mistake(name, key, f"no such key{nearest(key, KEYS)}; a preset has {', '.join(KEYS)}")
    for key in ("title", "source", "model", "backends"):
        if key not in data:
            raise _mistake(name, key, "it is missing")
    values = {key: _checked(name, key, value) for key, value in data.items()}
    for key, precisions in (("backends", ("fp32",)), ("precisions", values.get("precisions", Preset.precisions))):
        try:
            parse_candidates(values["backends"], precisions)
        except UserError as error:
            raise _mistake(name, key, str(error)) from None
    figures_name = values.pop("figures", "")
    figures = _figures(path, name, figures_name) if figures_name else {}
    shapes = _shapes(name, values)
    settled = {key: value for key, value in values.items() if key not in ("shapes", "batches", "lengths")}
    return Preset(name=name, shapes=shapes, figures=figures, **settled)


def _shapes(name: str, values: Mapping[str, Any]) -> tuple[Shape, ...]:
    """The explicit shapes, or the product of batches and lengths, sorted and distinct."""
    has_product = "batches" in values or "lengths" in values
    if "shapes" in values:
        if has_product:
            raise _mistake(name, "shapes", "it is given beside batches or lengths; give either")
        return tuple(sorted({Shape(*pair) for pair in values["shapes"]}))
    for key in ("batches", "lengths"):
        if key not in values:
            raise _mistake(name, key if has_product else "shapes", "it is missing")
    return tuple(sorted({Shape(batch, length) for batch in values["batches"] for length in values["lengths"]}))


def _figures(preset: Path, name: str, figures_name: str) -> dict[str, Any]:
    """Published figures by the name of a built-in file, or in a file beside the preset."""
    built_in = {path.stem: path for path in FIGURES.glob("*.json")}
    is_path = figures_name.endswith(".json")
    if not is_path and figures_name not in built_in:
        known = ", ".join(built_in)
        cause = f"no figures {figures_name[:80]!r}{nearest(figures_name, built_in)}; use {known}, or a .json file"
        raise _mistake(name, "figures", cause)
    if is_path and Path(figures_name).name != figures_name:
        raise _mistake(name, "figures", f"{_shown(figures_name)} is not beside the preset; put it there")
    path = preset.parent / figures_name if is_path else built_in[figures_name]
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        check(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        cause = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise _mistake(name, "figures", f"{_shown(figures_name)} holds none that can be read ({cause[:160]})") from None
    return data


Line = Annotated[str, Meta(min_length=1, max_length=500, pattern=r"\A[^\x00-\x1f\x7f-\xa0\u2028\u2029]*\Z")]
Lines = Annotated[tuple[Line, ...], Meta(min_length=1)]
Size = Annotated[int, Meta(ge=1, le=LARGEST_SIZE)]
Sizes = Annotated[tuple[Size, ...], Meta(min_length=1)]
Pairs = Annotated[tuple[tuple[Size, Size], ...], Meta(min_length=1)]
#: What each key holds, and what is said if it holds something else.
KEYS: Mapping[str, tuple[Any, str]] = {
    "title": (Line, "one line of text"),
    "source": (Line, "one line of text"),
    "model": (Line, "a model's name"),
    "backends": (Lines, "a list of backends"),
    "shapes": (Pairs, "a list of [batch, length] pairs of positive integers"),
    "batches": (Sizes, "a list of positive integers"),
    "lengths": (Sizes, "a list of positive integers"),
    "rounds": (Annotated[int, Meta(ge=1, le=MOST_ROUNDS)], "a number of rounds"),
    "precisions": (Lines, "a list of precisions"),
    "grad": (bool, "true or false"),
    "naive_timer": (bool, "true or false"),
    "task": (Literal["base", "lm"], f"one of {', '.join(TASKS)}"),
    "figures": (Line, "the name of a file of figures"),
}


def _checked(name: str, key: str, value: Any) -> Any:
    """`value`, lists as tuples; raises UserError if it is none of its key's."""
    type_, expected = KEYS[key]
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError:
        raise _mistake(name, key, f"{repr(value)[:60]} is not {expected}") from None


def _mistake(name: str, key: str, cause: str) -> UserError:
    return UserError(f"preset file {_shown(name)}: {key}: {cause}")


def _shown(name: str) -> str:
    return repr(name) if len(name) < 200 else f"{name[:100]!r}…"
