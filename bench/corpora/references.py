"""What a pass over a corpus is judged by: eager's outputs on rows of the very batches that are timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.corpora.plan import Packing, PaddedBatch
from bench.corpora.requests import LAST
from bench.corpora.sentences import Corpus
from bench.parity.inputs import InputPlan
from bench.parity.matrix import Matrix
from bench.parity.references import Key, References, Say
from bench.spec import Grid
from exporters.sources import ModelSource
from exporters.store import Artifact, ArtifactStore, recipe_key

#: Raise when other batches are judged, or other rows written.
VERSION = 1


class CorpusReferences(References):
    """Eager's outputs for up to three rows of the last, the largest and the smallest batch of every packing."""

    def __init__(
        self,
        grid: Grid,
        source: ModelSource,
        store: ArtifactStore,
        timeout_seconds: float,
        say: Say,
        corpus: Corpus,
        packed: dict[Packing, list[PaddedBatch]],
    ) -> None:
        super().__init__(grid, source, store, timeout_seconds, say, Matrix())
        self.corpus = corpus
        self.packed = {str(packing): batches for packing, batches in packed.items()}

    def keys(self) -> Sequence[Key]:
        return tuple(self.packed)

    def cases(self, key: Key) -> dict[str, dict[str, Any]]:
        """The judged batches of a packing: `place`, whether it `is_largest`, and `inputs_plan`; each batch once."""
        batches = self.packed[str(key)]
        largest = max(range(len(batches)), key=lambda place: batches[place].positions)
        smallest = min(range(len(batches)), key=lambda place: batches[place].positions)
        places = {LAST: len(batches) - 1, "largest": largest, "smallest": smallest}
        distinct = {place: name for name, place in reversed(places.items())}
        return {
            name: {
                "place": place,
                "is_largest": place == largest,
                "inputs_plan": asdict(self._inputs_of(batches[place])),
            }
            for place, name in distinct.items()
        }

    def rows(self, batch: PaddedBatch) -> list[list[int]]:
        """Token ids of a batch's sentences."""
        return [list(self.corpus.ids[place]) for place in batch.sentences]

    def _inputs_of(self, batch: PaddedBatch) -> InputPlan:
        return InputPlan(
            batch=len(batch.sentences),
            length=batch.length,
            vocab_size=self.source.vocab_size,
            pad_token_id=self.source.pad_token_id,
            seed=self.grid.seed,
            output_width=self.source.vocab_size if self.grid.task == "lm" else self.source.width,
            cases=(),
        )

    def _cases_with_rows(self, key: Key) -> dict[str, dict[str, Any]]:
        batches = self.packed[str(key)]
        return {
            name: {"rows": self.rows(batches[case["place"]]), "inputs_plan": case["inputs_plan"]}
            for name, case in self.cases(key).items()
        }

    def _request(self, key: Key, precision: str) -> dict[str, Any]:
        cases = self._cases_with_rows(key)
        return {"op": "evaluate_corpus", "cases": cases, "pad_token_id": self.source.pad_token_id}

    def _inputs_recipe(self, key: Key) -> dict[str, Any]:
        cases = self._cases_with_rows(key)
        return {
            "corpus_version": VERSION,
            "cases": {
                name: {**case["inputs_plan"], "ids": recipe_key({"ids": case["rows"]})} for name, case in cases.items()
            },
        }

    def found_for(self, precision: str, packing: Packing) -> tuple[Artifact, Artifact] | str:
        """The float64 reference and eager's own outputs for a packing, or why one of them is missing."""
        return self.pair(precision, str(packing))
