"""Modules of a user's own that the tests hand over: other inputs, several outputs, and what can go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn


class Two(nn.Module):
    """Features and ids in, states of each token and one vector a row out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.mix = nn.Linear(12, 8)

    def forward(self, features: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.mix(torch.cat([self.table(ids), features], dim=-1))
        return {"states": torch.tanh(hidden), "pooled": hidden.mean(dim=1)}


def inputs_of_two(batch: int, length: int, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng([seed, batch, length])
    features = generator.standard_normal((batch, length, 4))
    return {"features": features, "ids": torch.from_numpy(generator.integers(0, 50, (batch, length)))}


def two() -> tuple[nn.Module, Any]:
    return Two(), inputs_of_two


class Maskless(nn.Module):
    """A causal language model without attention: the running mean of embeddings. Its step keeps the running sum."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size = 40
        self.table = nn.Embedding(40, 8)
        self.head = nn.Linear(8, 40)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        total = self.table(input_ids).cumsum(dim=1)
        counts = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        return self.head(total / counts[:, None].to(total.dtype))

    def step(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        seen = self.table(input_ids)
        seen = seen if cache is None else torch.cat([cache[0], seen], dim=1)
        return self.head(seen.mean(dim=1)), (seen,)


def maskless() -> nn.Module:
    return Maskless()


def drawn_anew() -> nn.Module:
    """Other weights with every call, whatever the seed, and a buffer that is not saved."""
    module = Maskless()
    generator = torch.Generator()
    generator.seed()
    module.register_buffer("scratch", torch.rand(3, generator=generator), persistent=False)
    with torch.no_grad():
        module.head.weight.copy_(torch.rand(40, 8, generator=generator))
    return module


def raises() -> nn.Module:
    raise ValueError("no weights\nhere")


def leaves() -> nn.Module:
    raise SystemExit(3)


def no_module() -> str:
    return "gpt2"


def no_function() -> tuple[nn.Module, str]:
    return Two(), "inputs"


def no_vocabulary() -> nn.Module:
    return nn.Linear(4, 4)


def _with_inputs(make_inputs: Any) -> Any:
    return lambda: (nn.Linear(4, 4), make_inputs)


no_dict = _with_inputs(lambda batch, length, seed: [1, 2])
no_array = _with_inputs(lambda batch, length, seed: {"x": "text"})
no_batch = _with_inputs(lambda batch, length, seed: {"x": np.zeros((length + 40, 4))})
no_such_shape = _with_inputs(lambda batch, length, seed: {"x": np.zeros((batch, length, 5))})
no_arguments = _with_inputs(lambda: {"x": np.zeros((2, 4))})
never_the_same = _with_inputs(lambda batch, length, seed: {"x": np.random.default_rng().random((batch, length, 4))})


class Gives(nn.Module):
    """A language model of what it is told to give."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.vocab_size, self.given = 40, given

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.given(input_ids)


def gives_ids() -> nn.Module:
    return Gives(lambda ids: ids)


def gives_text() -> nn.Module:
    return Gives(lambda ids: "text")


def gives_no_batch() -> nn.Module:
    return Gives(lambda ids: ids.float().sum(dim=0))


def sparse() -> nn.Module:
    module = Maskless()
    module.register_buffer("pattern", torch.eye(4).to_sparse())
    return module


def on_meta() -> nn.Module:
    return nn.Linear(4, 4, device="meta")


def lazy() -> nn.Module:
    return nn.LazyLinear(3)


class Stateful(Maskless):
    """Its cache is no tuple."""

    def step(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        return super().step(input_ids, attention_mask, cache)[0], {"seen": input_ids}


def stateful() -> nn.Module:
    return Stateful()
