"""One generation, timed from outside: the prompt's pass, then a pass a token, on a backend. Runs in workers.

Tokens never leave the device between two steps, and nothing waits for it there but the end of the first token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.process import abilities
from bench.process.decoding import Chooser

if TYPE_CHECKING:
    import torch

    from backends.base import Backend
    from backends.protocols import Generator


Clock = Callable[[], int]


class Way(ABC):
    """How logits come from the tokens so far, for `rows` sequences of at most `room` tokens."""

    @abstractmethod
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] behind the tokens so far and the new ones, int64 [rows, new]."""

    @abstractmethod
    def watch(self, ids: torch.Tensor) -> dict[str, Any]:
        """Start `logits` for a prompt, not timed; returns facts on what that call really took."""

    @abstractmethod
    def reorder(self, rows: torch.Tensor) -> None:
        """Go on with sequences `rows`, int64 [rows], in that order."""

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are held now."""
        return 0


class ByCache(Way):
    """Passes over the new tokens alone; keys and values of the earlier ones are kept."""

    def __init__(self, generator: Generator, rows: int, room: int, device: str) -> None:
        import torch

        self.generator = generator
        self.cache = generator.new_cache(rows, room)
        self.mask = torch.ones(rows, room, dtype=torch.int64, device=device)
        self.seen = 0

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        found, self.cache = self.generator.step(ids, self._mask(ids), self.cache)
        return found

    def watch(self, ids: torch.Tensor) -> dict[str, Any]:
        _, self.cache, facts = self.generator.step_watched(ids, self._mask(ids), self.cache)
        return facts

    def _mask(self, ids: torch.Tensor) -> torch.Tensor:
        self.seen += ids.shape[1]
        return self.mask if self.generator.cache_is_static else self.mask[:, : self.seen]

    def reorder(self, rows: torch.Tensor) -> None:
        self.cache = self.generator.reorder(self.cache, rows)

    def cache_bytes(self) -> int:
        return self.generator.cache_bytes(self.cache)


class ByFullPasses(Way):
    """Passes over prompt and all tokens so far; padded to `room` where a runtime compiles for each length."""

    def __init__(
        self,
        backend: Backend,
        tensors: Callable[[Any], tuple[torch.Tensor, ...]],
        is_padded: bool,
        rows: int,
        room: int,
        device: str,
        names: Collection[str],
    ) -> None:
        import torch

        self.backend, self.tensors, self.is_padded, self.names = backend, tensors, is_padded, names
        self.ids = torch.zeros(rows, room, dtype=torch.int64, device=device)
        self.mask = torch.zeros(rows, room, dtype=torch.int64, device=device)
        self.seen = 0

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        outputs = self.backend.run(self.backend.prepare(self._batch(ids)))
        found: torch.Tensor = self.tensors(outputs)[0][:, self.seen - 1]
        return found

    def watch(self, ids: torch.Tensor) -> dict[str, Any]:
        return abilities.watched(self.backend, self.backend.prepare(self._batch(ids)))[1]

    def _batch(self, ids: torch.Tensor) -> dict[str, Any]:
        start, self.seen = self.seen, self.seen + ids.shape[1]
        self.ids[:, start : self.seen] = ids
        self.mask[:, start : self.seen] = 1
        length = self.ids.shape[1] if self.is_padded else self.seen
        batch = {"input_ids": self.ids[:, :length], "attention_mask": self.mask[:, :length]}
        return {name: tensor for name, tensor in batch.items() if name in self.names}

    def reorder(self, rows: torch.Tensor) -> None:
        self.ids = self.ids[rows]


@dataclass(frozen=True)
class Generated:
    """One generation's times in nanoseconds, and where its cache stood at the end."""

    first_token_ns: int
    """From the prompt on the device until the first token is there, waited for."""
    total_ns: int
    cache_bytes: int


def generate(
    way: Callable[[], Way],
    choose: Chooser,
    prompt: torch.Tensor,
    new_tokens: int,
    synchronize: Callable[[], None],
    clock: Clock,
    see: Callable[[torch.Tensor], None] | None = None,
) -> Generated:
    """Generate `new_tokens` tokens behind `prompt`, int64 [rows, prompt length] on the device.

    `see` is shown each step's logits, for what is judged and not timed.
    """
    synchronize()
    started = clock()
    state = way()
    ids, first = prompt, 0
    for step in range(new_tokens):
        logits = state.logits(ids)
        if see is not None:
            see(logits)
        tokens, order = choose.choose(logits)
        if step == 0:
            synchronize()
            first = clock() - started
        if step + 1 < new_tokens:
            if order is not None:
                state.reorder(order)
            ids = tokens[:, None]
    synchronize()
    return Generated(first, clock() - started, state.cache_bytes())
