"""The next token from the logits, on their device: greedily, by sampling, or by a beam. Runs in workers, on torch.

A chooser is asked once a step and answers with tokens and, where sequences change places, with the order of the cache.
It never waits for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from bench.generation.plan import Decoding

if TYPE_CHECKING:
    import numpy as np
    import torch


class Chooser(ABC):
    """The tokens chosen so far; one for each generation."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        """Tokens int64 [rows], a step each."""

    @abstractmethod
    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens int64 [rows] behind `logits` [rows, vocabulary], and which sequence each row goes on with (None: its
        own)."""

    def tokens(self) -> torch.Tensor:
        """All tokens, int64 [rows, steps]."""
        import torch

        return torch.stack(self.steps, dim=1)


class Greedy(Chooser):
    """The most likely token."""

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.steps.append(logits.argmax(-1))
        return self.steps[-1], None


class Forced(Chooser):
    """Tokens [steps] that are given, forced on the first `rows` sequences; the others go on as `chooser` says."""

    def __init__(self, chooser: Chooser, tokens: np.ndarray[Any, Any], rows: int) -> None:
        super().__init__()
        self.chooser, self.given, self.rows = chooser, tokens, rows

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        tokens, order = self.chooser.choose(logits)
        tokens = tokens.clone()
        tokens[: self.rows] = int(self.given[len(self.steps)])
        self.steps.append(tokens)
        return tokens, order


class Sample(Chooser):
    """One of the `top_k` most likely tokens, by their probabilities at `temperature`, from a seeded generator.

    Softmax of logits / temperature over the k largest (Fan et al. 2018, arXiv:1805.04833, section 5.2).
    """

    def __init__(self, top_k: int, temperature: float, generator: torch.Generator) -> None:
        super().__init__()
        self.top_k, self.temperature, self.generator = top_k, temperature, generator

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        values, tokens = logits.float().topk(min(self.top_k, logits.shape[-1]))
        probabilities = torch.softmax(values / self.temperature, dim=-1)
        drawn = torch.multinomial(probabilities, 1, generator=self.generator)
        self.steps.append(tokens.gather(1, drawn)[:, 0])
        return self.steps[-1], None


class Beam(Chooser):
    """The `beams` likeliest continuations of each prompt; rows are prompts × beams, a prompt's beams side by side.

    Sum of log probabilities, no length penalty, as every continuation has the same length.
    """

    def __init__(self, beams: int) -> None:
        super().__init__()
        self.beams = beams
        self.scores: torch.Tensor | None = None

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        rows, vocabulary = logits.shape
        prompts = rows // self.beams
        likelihood = torch.log_softmax(logits.float(), dim=-1).view(prompts, self.beams, vocabulary)
        if self.scores is None:  # all beams of a prompt are alike yet: the first stands for them
            likelihood[:, 1:] = float("-inf")
            self.scores = torch.zeros(prompts, self.beams, device=logits.device)
        total = (likelihood + self.scores[:, :, None]).view(prompts, -1)
        self.scores, best = total.topk(self.beams, dim=-1)
        first_rows = torch.arange(prompts, device=logits.device)[:, None] * self.beams
        order = (first_rows + best // vocabulary).view(-1)
        self.steps = [step[order] for step in self.steps]
        self.steps.append((best % vocabulary).view(-1))
        return self.steps[-1], order


def chooser(decoding: Decoding, seed: int, device: str) -> Chooser:
    """A new chooser of the kind that `decoding` names; a sampling one draws alike for alike seeds on one device."""
    import torch

    if decoding.kind == "beam":
        return Beam(decoding.beams)
    if decoding.kind == "sample":
        return Sample(decoding.top_k, decoding.temperature, torch.Generator(device).manual_seed(seed))
    return Greedy()
