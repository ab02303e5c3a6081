"""The next token from the logits, on their device: greedily, by sampling, or by a beam. Choosers run in workers.

A chooser answers with tokens and, if sequences change places, with their order; it never waits for the device.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

MOST_BEAMS = 64


@dataclass(frozen=True)
class Decoding:
    """How the next token is taken from the logits."""

    kind: str = "greedy"
    """"greedy", "sample" or "beam"."""
    beams: int = 1
    top_k: int = 40
    """Likeliest tokens that "sample" draws from."""
    temperature: float = 0.7
    """Of "sample"."""

    def __str__(self) -> str:
        if self.kind == "beam":
            return f"beam:{self.beams}"
        return f"sample (top-k {self.top_k}, temperature {self.temperature:g})" if self.kind == "sample" else self.kind

    @property
    def option(self) -> str:
        """As `--decoding` takes it."""
        return f"beam:{self.beams}" if self.kind == "beam" else self.kind


def parse_decoding(text: str, top_k: int = 40, temperature: float = 0.7) -> Decoding:
    """`greedy`, `sample` or `beam:4`; raises UserError for anything else."""
    if found := re.fullmatch(r"beam:([0-9]{1,4})", text):
        beams = int(found[1])
        if not 2 <= beams <= MOST_BEAMS:
            raise UserError(f"--decoding {text}: {beams} is not within 2 and {MOST_BEAMS} beams; use e.g. beam:4")
        return Decoding("beam", beams, top_k, temperature)
    if text not in ("greedy", "sample"):
        raise UserError(f"unknown decoding {text[:40]!r}; use greedy, sample or beam:4")
    return Decoding(text, 1, top_k, temperature)


class Chooser(ABC):
    """The tokens chosen so far; one for each generation."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        """Tokens int64 [rows], a step each."""
        self.orders: list[torch.Tensor | None] = []
        """Which sequence each row of that step went on with."""

    @abstractmethod
    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens int64 [rows] behind `logits` [rows, vocabulary]; which sequence each row continues (None: its own)."""

    def tokens(self) -> torch.Tensor:
        """All tokens of the sequences that the rows stand for now, int64 [rows, steps]; asked behind the clock."""
        import torch

        found, rows = [], torch.arange(len(self.steps[-1]), device=self.steps[-1].device)
        orders = self.orders or [None] * len(self.steps)
        for step, order in zip(reversed(self.steps), reversed(orders), strict=True):
            found.append(step[rows])
            rows = rows if order is None else order[rows]
        return torch.stack(found[::-1], dim=1)


class Greedy(Chooser):
    """The most likely token."""

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.steps.append(logits.argmax(-1))
        return self.steps[-1], None


class Forced(Chooser):
    """Tokens that are given for some rows, int64 [steps] each, forced on them; the others go on as `chooser` says."""

    def __init__(self, chooser: Chooser, given: Mapping[int, np.ndarray[Any, Any]]) -> None:
        super().__init__()
        self.chooser, self.given = chooser, given
        self.agreed: list[torch.Tensor] = []

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        tokens, order = self.chooser.choose(logits)
        forced = tokens.clone()
        for row, given in self.given.items():
            forced[row] = int(given[len(self.steps)])
        self.agreed.append(forced == tokens)
        self.steps.append(forced)
        self.orders.append(order)
        return forced, order

    def repeats(self, row: int) -> int:
        """Steps at which the token given for `row` was also the chooser's own."""
        return sum(int(agreed[row]) for agreed in self.agreed)


class Sample(Chooser):
    """One of the `top_k` likeliest tokens, by softmax of logits / temperature (Fan et al. 2018, arXiv:1805.04833)."""

    def __init__(self, top_k: int, temperature: float, generator: torch.Generator) -> None:
        super().__init__()
        self.top_k, self.temperature, self.generator = top_k, temperature, generator

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        values, tokens = logits.float().topk(min(self.top_k, logits.shape[-1]))
        probabilities = torch.softmax(values / self.temperature, dim=-1)
        # The least of exponential variables, each divided by its rate, is drawn as often as its rate says. It is
        # what torch.multinomial does, without its checks, which read the probabilities on the host.
        waits = torch.empty_like(probabilities).exponential_(generator=self.generator)
        drawn = (probabilities / waits).argmax(-1, keepdim=True)
        self.steps.append(tokens.gather(1, drawn)[:, 0])
        return self.steps[-1], None


class Beam(Chooser):
    """The `beams` likeliest continuations by sum of log probabilities; the rows of a prompt are side by side."""

    def __init__(self, beams: int) -> None:
        super().__init__()
        self.beams = beams
        self.scores: torch.Tensor | None = None

    def best_scores(self) -> torch.Tensor:
        """Sum of log probabilities of each prompt's likeliest continuation, [prompts]; beams are in falling order."""
        assert self.scores is not None
        return self.scores[:, 0]

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
        self.orders.append(order)
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
