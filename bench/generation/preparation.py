"""What generating needs before anything is timed: by which way each contestant generates, and the artifact for it."""

from __future__ import annotations

from dataclasses import replace

from bench.generation.plan import CACHE, FULL_PASSES
from bench.preparation import Preparation
from bench.process.channel import WorkerError
from bench.spec import Candidate
from exporters.store import Artifact


class GenerationPreparation(Preparation):
    """Artifacts with a cache of keys and values where model and backend keep one, else those of forward passes."""

    @property
    def model_keeps_cache(self) -> bool:
        """True when the model's code takes keys and values of earlier tokens."""
        told = None if self.weights is None else self.weights.metadata.get("keeps_keys_and_values")
        return self.source.keeps_keys_and_values if told is None else bool(told)

    def generates_by(self, contestant: Candidate) -> str:
        spec = self.classes[contestant].spec
        has_cache = self.model_keeps_cache and contestant.variant in spec.generation
        return CACHE if has_cache or not spec.computes_the_model else FULL_PASSES

    def format_of(self, contestant: Candidate) -> str | None:
        own = self.classes[contestant].spec.generation_format
        if self.generates_by(contestant) == CACHE and own:
            return own
        return super().format_of(contestant)

    def _make_artifacts(self, weights: Artifact) -> None:
        self.judged_by.matrix = replace(self.judged_by.matrix, with_cache=self.model_keeps_cache)
        for contestant in self._with_formats():
            variant = contestant.variant
            if self.generates_by(contestant) == CACHE or variant == FULL_PASSES:
                continue
            if variant not in self.classes[contestant].spec.variants:
                why = "model" if not self.model_keeps_cache else "backend"
                reason = (
                    f"this {why} keeps no keys and values, so {contestant.label} has none to keep; "
                    f"use {contestant.backend}, which passes over all tokens at each step"
                )
                self.refused[contestant] = WorkerError("unsupported", reason)
        super()._make_artifacts(weights)
