"""What is generated: prompts, how many tokens, and how the next token is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.process import decoding
from bench.process.decoding import Decoding

if TYPE_CHECKING:
    from backends.base import Backend, Options

#: How logits come from the tokens so far: keys and values kept, or passes over prompt and all tokens so far. The second
#: is also a variant of every backend.
CACHE, FULL_PASSES = WAYS = ("cache", "no-cache")


@dataclass(frozen=True)
class GenerationPlan:
    """One generation: `new_tokens` tokens behind prompts of `prompt_length`, never ended early."""

    prompt_length: int = 16
    new_tokens: int = 128
    decoding: Decoding = field(default_factory=Decoding)

    @property
    def room(self) -> int:
        """Tokens of a whole sequence."""
        return self.prompt_length + self.new_tokens

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GenerationPlan:
        """The plan that `to_json` wrote."""
        return cls(**{**data, "decoding": Decoding(**data["decoding"])})


def variants_of(backend: type[Backend]) -> Mapping[str, Options]:
    """Variants of a backend that can be asked to generate."""
    return {"default": {}} | dict(backend.spec.generation) | {FULL_PASSES: {}}


def parse_decoding(text: str, top_k: int, temperature: float) -> Decoding:
    """`greedy`, `sample` or `beam:4`; raises UserError."""
    if not top_k >= 1:
        raise UserError(f"--top-k {top_k} is below 1; use e.g. 40")
    if not 0 < temperature < float("inf"):
        raise UserError(f"--temperature {temperature} is not above 0; use e.g. 0.7, or --decoding greedy")
    return decoding.parse_decoding(text, top_k, temperature)


def check_sizes(prompt_length: int, new_tokens: int, model: str, positions: int | None) -> None:
    """Raise UserError for a prompt or a continuation that the model has no positions for."""
    for option, size in (("--prompt-length", prompt_length), ("--new-tokens", new_tokens)):
        if size < 1:
            raise UserError(f"{option} {size} is below 1; use 1 or more")
    if positions is not None and prompt_length + new_tokens > positions:
        raise UserError(
            f"--prompt-length {prompt_length} and --new-tokens {new_tokens} exceed the {positions} positions of "
            f"{model}; use --new-tokens ≤ {max(0, positions - prompt_length)}"
        )
