"""GPT-2 in plain torch, as an example of a module of one's own.

    bench compare --module examples/own_gpt2.py:small --backends eager,onnx,torchscript

Pre-LayerNorm blocks, query, key and value from one product, GELU by tanh, the head tied to the token table; `step`
generates with keys and values that grow by concatenation.
"""

from __future__ import annotations

import torch
from torch import nn

#: Keys and values of each layer in turn, [rows, heads, tokens, head width].
Cache = tuple[torch.Tensor, ...]


class Attention(nn.Module):
    """Every token looks at itself and at those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, hidden: torch.Tensor, visible: torch.Tensor, past: Cache = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The attended states [rows, new, width], and keys and values of all tokens so far."""
        rows, new, width = hidden.shape
        parts = self.qkv(hidden).view(rows, new, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if past:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        found = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self.out(found.transpose(1, 2).reshape(rows, new, width)), key, value


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a LayerNorm and added to what it was given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(
        self, hidden: torch.Tensor, visible: torch.Tensor, past: Cache = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The block's states, and keys and values of all tokens so far."""
        attended, key, value = self.attention(self.norm_1(hidden), visible, past)
        hidden = hidden + attended
        return hidden + self.feed_forward(self.norm_2(hidden)), key, value


class GPT2(nn.Module):
    """A language model: int64 ids and a mask [rows, length] to logits [rows, length, vocabulary]."""

    def __init__(self, vocab_size: int, positions: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.vocab_size, self.positions = vocab_size, positions
        self.token_table = nn.Embedding(vocab_size, width)
        self.position_table = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.token_table.weight

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits at every position."""
        return self.step(input_ids, attention_mask, None)[0]

    def step(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Cache | None
    ) -> tuple[torch.Tensor, Cache]:
        """Logits of the new tokens [rows, new], and the cache with their keys and values behind those of `cache`.

        The mask is over earlier and new tokens, [rows, earlier + new].
        """
        new, total = input_ids.shape[1], attention_mask.shape[1]
        places = torch.arange(total, device=input_ids.device)
        here = places[total - new :]
        visible = (places <= here[:, None]) & attention_mask[:, None, None, :].bool()
        # A row of padding that sees nothing would be NaN: each token sees itself whatever the mask says.
        visible = visible | (places == here[:, None])
        hidden = self.token_table(input_ids) + self.position_table(here)
        grown: Cache = ()
        for index, block in enumerate(self.blocks):
            past = cache[2 * index : 2 * index + 2] if cache else ()
            hidden, key, value = block(hidden, visible, past)
            grown = (*grown, key, value)
        return self.head(self.norm(hidden)), grown


def small() -> GPT2:
    """GPT-2 small's sizes: 124.4 M parameters."""
    return GPT2(vocab_size=50257, positions=1024, width=768, layers=12, heads=12)


def tiny() -> GPT2:
    """Two layers, for a quick try."""
    return GPT2(vocab_size=1024, positions=128, width=64, layers=2, heads=2)
