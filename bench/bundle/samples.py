"""The inputs with reference outputs that a bundle carries: few shapes, every kind of mask, whole outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from bench.parity.inputs import JUDGED_ELEMENTS, MASKS, OWN
from bench.run.model import notes_on
from bench.spec import Shape
from exporters.module_source import ModuleSource
from exporters.sources import MODULE, ModelSource

FOLDER = "samples"
#: One sequence, and two of a length that is no multiple of anything.
SHAPES = (Shape(1, 16), Shape(2, 37))
#: Of a model with wide outputs, whose logits at a token are as many as its vocabulary; still 32 tokens in one case.
WIDE_SHAPES = (Shape(1, 8), Shape(2, 16))
WIDE_MASKS = ("full", "left")
#: Beyond so many bytes of reference and eager outputs the shapes for wide outputs are taken.
MOST_BYTES = 32 * 2**20
#: float64 of the reference and float32 of eager.
BYTES_PER_UNIT = 12
#: What of the user's own module decides its inputs and outputs; the rest is its place and its code.
TRAITS = (
    "inputs", "outputs", "makes_inputs", "whole_outputs", "output_width", "keeps_keys_and_values",
    "cache_elements_per_token", "parameters", "task", "vocab_size", "positions", "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """On which inputs a bundle proves itself."""

    shapes: tuple[Shape, ...]
    ids: tuple[str, ...]
    masks: tuple[str, ...]


def samples_of(source: ModelSource, tokenizer: Path | None) -> Samples:
    """The samples of a model: text if it has a tokenizer, its own inputs if it makes them."""
    kinds = (OWN,) if source.makes_inputs else ("random", "text" if tokenizer else "zipf")
    found = Samples(SHAPES, kinds, ("full",) if notes_on(source) else MASKS)
    tokens = sum(shape.batch * shape.length for shape in SHAPES) * len(kinds) * len(found.masks)
    longest = source.positions or max(shape.length for shape in SHAPES)
    if tokens * source.output_width * BYTES_PER_UNIT > MOST_BYTES:
        masks = tuple(mask for mask in WIDE_MASKS if mask in found.masks)
        found = Samples(WIDE_SHAPES, kinds[-1:], masks)
        # Beyond this the judge would take some positions alone, and run.py compares whole outputs.
        longest = min(longest, max(2, JUDGED_ELEMENTS // (source.output_width * max(s.batch for s in WIDE_SHAPES))))
    shapes = (Shape(shape.batch, min(shape.length, longest)) for shape in found.shapes)
    return replace(found, shapes=tuple(dict.fromkeys(shapes)))


def folder_of(shape: Shape, whose: str) -> str:
    """Where in a bundle the outputs of "reference" or "eager" lie, with the inputs."""
    return f"{FOLDER}/{shape.batch}x{shape.length}/{whose}"


def timed_folder(shape: Shape) -> str:
    """Where in a bundle the inputs lie that a shape is timed on, of a model that makes them itself."""
    return f"{FOLDER}/timed-{shape.batch}x{shape.length}"


def source_to_json(source: ModelSource) -> dict[str, Any]:
    """What decides a model's inputs and outputs, without its place on this machine."""
    plain = {field.name: getattr(source, field.name) for field in fields(ModelSource) if field.name != "folder"}
    if isinstance(source, ModuleSource):
        plain["traits"] = {name: source.traits[name] for name in TRAITS}
    return plain


def source_from_json(data: Mapping[str, Any]) -> ModelSource:
    """The source that `source_to_json` wrote; it can make inputs, and no model; raises what msgspec does."""
    kind = ModuleSource if data["weights"] == MODULE else ModelSource
    return msgspec.convert({**data, "folder": None}, kind)


def tensors_in(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> element type (`int64`) and shape of each array in an .npz file."""
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        return {name: (str(array.dtype), array.shape) for name, array in stored.items()}
