"""What served requests are judged by: eager's outputs for single sequences of some lengths, none of them padded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bench.parity.inputs import InputPlan
from bench.parity.matrix import Matrix
from bench.parity.references import Key, References, Say
from bench.serving.plan import SEQUENCES
from bench.serving.requests import case_of
from bench.spec import Grid
from exporters.sources import ModelSource
from exporters.store import ArtifactStore, recipe_key

#: Raise when other sequences are drawn, or other outputs written.
VERSION = 1


class LoadReferences(References):
    """Eager's outputs for each sequence of the `lengths` that are judged."""

    def __init__(
        self,
        grid: Grid,
        source: ModelSource,
        store: ArtifactStore,
        timeout_seconds: float,
        say: Say,
        lengths: Sequence[int],
    ) -> None:
        super().__init__(grid, source, store, timeout_seconds, say, Matrix())
        self.lengths = sorted(set(lengths))

    def keys(self) -> Sequence[Key]:
        return [f"length {length}" for length in self.lengths]

    def sequences(self, length: int) -> list[list[int]]:
        """Seeded ids of every sequence of a length, over the vocabulary without the padding id."""
        draw = random.Random(f"sequences {self.grid.seed} {length}")
        pad = self.source.pad_token_id
        rows = (draw.choices(range(self.source.vocab_size - 1), k=length) for _ in range(SEQUENCES))
        return [[one + (one >= pad) for one in row] for row in rows]

    def inputs_of(self, length: int) -> dict[str, Any]:
        """The plan of a single sequence's inputs, as a request carries it."""
        return InputPlan(
            batch=1,
            length=length,
            vocab_size=self.source.vocab_size,
            pad_token_id=self.source.pad_token_id,
            seed=self.grid.seed,
            output_width=self.source.output_width,
            cases=(),
            whole_outputs=self.source.whole_outputs,
        ).to_json()

    def row(self, precision: str, length: int, row: int, draw: int) -> dict[str, Any] | str:
        """What one row of a call is judged by, as a request carries it; or why it cannot be."""
        pair = self.pair(precision, f"length {length}")
        if isinstance(pair, str):
            return pair
        held = {"reference": str(pair[0].path), "yardstick": str(pair[1].path)}
        return {"row": row, "draw": draw, "inputs_plan": self.inputs_of(length), **held}

    def _request(self, key: Key, precision: str) -> dict[str, Any]:
        length = _length(key)
        cases = {
            case_of(draw): {"rows": [ids], "inputs_plan": self.inputs_of(length)}
            for draw, ids in enumerate(self.sequences(length))
        }
        return {"op": "evaluate_corpus", "cases": cases, "pad_token_id": self.source.pad_token_id}

    def _inputs_recipe(self, key: Key) -> dict[str, Any]:
        length = _length(key)
        ids = recipe_key({"ids": self.sequences(length)})
        return {"load_version": VERSION, "inputs": self.inputs_of(length), "ids": ids}


def _length(key: Key) -> int:
    return int(str(key).removeprefix("length "))
