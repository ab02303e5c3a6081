"""Judges generations that were timed: by each step's logits with the reference's tokens forced, and by their tokens.

Greedy tokens are compared with the reference's. Sampled ones must be drawn again by the same seed, and a beam's score
must be the sum of its tokens' log probabilities, when they are forced in their turn. Runs in workers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.parity import generation, inputs, metrics
from bench.parity.inputs import InputPlan
from bench.process import abilities
from bench.process.decoding import Beam, Chooser, Forced

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.process.generating import Generated, Prompts, See

    Array = np.ndarray[Any, Any]


def prompts_of(rows: InputPlan, judged: InputPlan) -> tuple[Array, dict[int, str]]:
    """Ids of every row of a plan, int64 [prompts, length], the first and the last those of the cases of `judged`, a
    plan of one row; and these cases by their places.
    """
    in_order = replace(rows, most_rows=rows.batch)
    ids = inputs.make_batch(in_order, rows.cases[0])["input_ids"].copy()
    places = dict(zip(dict.fromkeys((0, len(ids) - 1)), judged.cases, strict=False))
    for place, case in places.items():
        ids[place] = inputs.make_batch(judged, case)["input_ids"][0]
    return ids, places


def agreement(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens from the first on are alike."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((step for step, (a, b) in pairs if a != b), len(one))


@dataclass
class Timed:
    """A generation that was timed, and what its prompts give again; a place is that of a prompt."""

    prompts: Prompts
    choice: Chooser
    """Of the generation that was timed."""
    held_by: Callable[[Callable[[], Generated]], tuple[Generated, dict[str, int]]]
    """What a call returns, and the memory that it took at most."""
    memory: dict[str, int] = field(default_factory=dict)
    """Of the last generation."""
    cache_bytes: int = 0
    """Keys and values at its end."""

    @cached_property
    def tokens(self) -> Array:
        """Tokens of each prompt, of a beam the likeliest, int64 [prompts, steps]."""
        found: Array = self.choice.tokens()[:: self.prompts.decoding.beams].cpu().numpy()
        return found

    def judge(
        self, places: Mapping[int, str], reference: Path, eager_error: Path, precision: str, atol: float, rtol: float
    ) -> dict[str, Any]:
        """Figures of the prompts at `places`, whose cases are stored in two folders, for `judge_generation`."""
        stored = {place: generation.read(reference, eager_error, case) for place, case in places.items()}
        logits = self._logits({place: one.tokens for place, one in stored.items()})
        is_greedy = self.prompts.decoding.kind == "greedy"
        again = {} if is_greedy else self._again({place: self.tokens[place] for place in stored})
        found = {}
        for place, one in stored.items():
            figures = generation.figures_of_steps(logits[place], one, precision, atol, rtol)
            if is_greedy:
                of_tokens = generation.divergence(self.tokens[place], one)
            else:
                of_tokens = again[place] | {"steps": len(one.tokens), "eager_error": one.eager_error()}
            found[f"prompt {place + 1}"] = {"figures": figures, **of_tokens}
        return found

    def generate(self, choose: Chooser, see: See | None = None) -> None:
        """One more generation, for its memory; each step's logits are shown to `see`."""
        abilities.trim(self.prompts.backend)
        done, self.memory = self.held_by(lambda: self.prompts.generate(choose, see=see))
        self.cache_bytes = done.cache_bytes

    def _again(self, tokens: Mapping[int, Array]) -> dict[int, dict[str, Any]]:
        """What becomes of the timed tokens when they are forced: how many are drawn again, or a beam's score."""
        if isinstance(self.choice, Beam):
            logits, scores = self._logits(tokens), self.choice.best_scores()
            return {
                place: {"score": float(scores[place]), "rescored": _log_probability(logits[place], of_prompt)}
                for place, of_prompt in tokens.items()
            }
        forced = self._forced(tokens)
        self.generate(forced)
        return {place: {"drawn_again": forced.repeats(place * self.prompts.decoding.beams)} for place in tokens}

    def _forced(self, given: Mapping[int, Array]) -> Forced:
        """A chooser of the tokens that are given for prompts, on each of their beams."""
        beams = self.prompts.decoding.beams
        return Forced(
            self.prompts.chooser(), {place * beams + beam: one for place, one in given.items() for beam in range(beams)}
        )

    def _logits(self, given: Mapping[int, Array]) -> dict[int, Array]:
        """Each step's logits [steps, vocabulary] at the places whose tokens [steps] are given, these forced on them."""
        import numpy as np

        with ExitStack() as files:  # in memory, the logits would count towards the peak
            sinks: dict[int, IO[bytes]] = {place: files.enter_context(tempfile.TemporaryFile()) for place in given}

            def see(logits: torch.Tensor) -> None:
                for place, file in sinks.items():
                    np.save(file, generation.host_row(logits, place * self.prompts.decoding.beams))

            self.generate(self._forced(given), see)
            return {place: _read_logits(file, len(given[place])) for place, file in sinks.items()}


def _log_probability(logits: Array, tokens: Array) -> float:
    """Sum of the log probabilities of `tokens` [steps] under `logits` [steps, vocabulary], in float64."""
    import numpy as np

    return float(metrics.log_softmax(logits.astype(np.float64))[np.arange(len(tokens)), tokens].sum())


def _read_logits(file: IO[bytes], steps: int) -> Array:
    """What was written, [steps, vocabulary]."""
    import numpy as np

    file.seek(0)
    return np.stack([np.load(file, allow_pickle=False) for _ in range(steps)])
