"""One generation, timed from outside: the prompt's pass, then a pass a token, on a backend. Runs in workers.

Tokens never leave the device between two steps, and nothing waits for it there but the end of the first token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.process import abilities, timing
from bench.process.decoding import Chooser, Decoding, chooser
from bench.process.timing import Sampling

if TYPE_CHECKING:
    import numpy as np
    import torch

    from backends.base import Backend
    from backends.protocols import Generator

    #: Shown each step's logits [rows, vocabulary].
    See = Callable[[torch.Tensor], None]

Clock = Callable[[], int]
#: Tokens of a generation of the warm-up; if the cache is static, the shapes of every step are in it.
WARM_UP_TOKENS = 32


class ByCache:
    """Passes over the new tokens of `rows` sequences alone; keys and values of at most `room` tokens are kept."""

    def __init__(self, generator: Generator, rows: int, room: int, device: str) -> None:
        import torch

        self.generator = generator
        self.cache = generator.new_cache(rows, room)
        self.mask = torch.ones(rows, room, dtype=torch.int64, device=device)
        self.seen = 0

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] behind the tokens so far and the new ones, int64 [rows, new]."""
        found, self.cache = self.generator.step(ids, self._mask(ids), self.cache)
        return found

    def watch(self, ids: torch.Tensor) -> dict[str, Any]:
        """Start `logits` for a prompt, not timed; returns facts on what that call really took."""
        _, self.cache, facts = self.generator.step_watched(ids, self._mask(ids), self.cache)
        return facts

    def _mask(self, ids: torch.Tensor) -> torch.Tensor:
        self.seen += ids.shape[1]
        return self.mask if self.generator.cache_is_static else self.mask[:, : self.seen]

    def reorder(self, rows: torch.Tensor) -> None:
        """Go on with sequences `rows`, int64 [rows], in that order."""
        self.cache = self.generator.reorder(self.cache, rows)

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are held now."""
        return self.generator.cache_bytes(self.cache)


class ByFullPasses:
    """As `ByCache`, by passes over prompt and all tokens so far; padded to `room` if a runtime compiles each length."""

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
        self.mask = torch.zeros_like(self.ids)
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

    def cache_bytes(self) -> int:
        return 0


Way = ByCache | ByFullPasses


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
    see: See | None = None,
) -> Generated:
    """Generate tokens behind `prompt`, int64 [rows, length] on the device; `see` is shown each step's logits."""
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


class Prompts:
    """Prompts on the device of a loaded backend, behind which tokens are generated again and again."""

    def __init__(
        self,
        backend: Backend,
        ids: np.ndarray[Any, Any],
        new_tokens: int,
        decoding: Decoding,
        seed: int,
        device: str,
        *,
        keeps_cache: bool,
        names: Collection[str],
    ) -> None:
        """`ids` are int64 [prompts, length]; `names` are the inputs of a full pass, which is taken without a cache."""
        import torch

        self.backend, self.new_tokens, self.decoding = backend, new_tokens, decoding
        self.seed, self.device = seed, device
        self.ids = torch.from_numpy(ids).repeat_interleave(decoding.beams, dim=0).to(device)
        """Of every sequence, int64 [prompts × beams, length]."""
        rows, room = len(self.ids), ids.shape[1] + new_tokens
        self.begun: Callable[[], Way]
        if keeps_cache:
            self.begun = partial(ByCache, abilities.generator(backend), rows, room, device)
        else:
            tensors, is_padded = abilities.device_tensors(backend).tensors, abilities.has_static_shapes(backend)
            self.begun = partial(ByFullPasses, backend, tensors, is_padded, rows, room, device, names)

    def chooser(self) -> Chooser:
        """A new chooser; each chooses alike."""
        return chooser(self.decoding, self.seed, self.device)

    def generate(self, choose: Chooser, new_tokens: int | None = None, see: See | None = None) -> Generated:
        """`new_tokens` tokens, or all, behind each prompt."""
        import torch

        count = self.new_tokens if new_tokens is None else new_tokens
        with torch.inference_mode():
            return generate(self.begun, choose, self.ids, count, self.backend.synchronize, time.perf_counter_ns, see)

    def first_call_ns(self) -> int:
        """The first two steps of all, compilation included."""
        started = time.perf_counter_ns()
        self.generate(self.chooser(), min(2, self.new_tokens))
        return time.perf_counter_ns() - started

    def watch(self) -> dict[str, Any]:
        """Facts on the prompts' pass."""
        found = self.begun().watch(self.ids)
        self.backend.synchronize()
        return found

    def timed(self) -> tuple[Chooser, dict[str, list[int]]]:
        """One generation's choices, and its samples by kind of time: "wall", "first_token", and "decode", a step's."""
        choice = self.chooser()
        found = self.generate(choice)
        times = {"wall": [found.total_ns], "first_token": [found.first_token_ns]}
        if steps := self.new_tokens - 1:
            times["decode"] = [round((found.total_ns - found.first_token_ns) / steps)]
        return choice, times

    def warm_up(self, sampling: Sampling) -> timing.WarmUp:
        """Short generations until the last ones are alike, then a whole one, in which every length is met."""
        count = min(WARM_UP_TOKENS, self.new_tokens)
        step = timing.Step(lambda: self.generate(self.chooser(), count), self.backend.synchronize)
        found = timing.warm_up(step, sampling)
        self.generate(self.chooser())
        return found
