"""One generation under a clock of the test's own: what is waited for, what is passed over, and what is counted."""

from __future__ import annotations

from typing import Any

import torch

from backends.null import Null
from bench.parity.inputs import INPUTS
from bench.process import abilities
from bench.process.decoding import Beam, Greedy
from bench.process.generating import ByCache, ByFullPasses, generate

PROMPT = torch.tensor([[3, 5, 8], [1, 2, 4]])
ROOM = 8


class Device(Null):
    """Null whose work takes time on a device: a step enqueues it, and waiting advances the clock."""

    def __init__(self, prompt_ns: int = 1000, token_ns: int = 10) -> None:
        super().__init__()
        self.load(None, device="cpu", precision="fp32", threads=1, options={"seconds": 0})
        self.now_ns, self.queued_ns, self.waits = 0, 0, 0
        self.costs_ns = {True: prompt_ns, False: token_ns}
        self.steps: list[tuple[int, int]] = []
        """New tokens and width of the mask, a step each."""
        self.orders: list[list[int]] = []

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        self.queued_ns += self.costs_ns[ids.shape[1] > 1]
        self.steps.append((ids.shape[1], mask.shape[1]))
        return super().step(ids, mask[:, -ids.shape[1] :] if not self.cache_is_static else torch.ones_like(ids), cache)

    def reorder(self, cache: Any, rows: Any) -> Any:
        self.orders.append(rows.tolist())
        return super().reorder(cache, rows)

    def synchronize(self) -> None:
        self.waits += 1
        self.now_ns, self.queued_ns = self.now_ns + self.queued_ns, 0


class Passing(Device):
    """The same by full passes: logits at every position, from the ids so far."""

    def prepare(self, batch: Any) -> Any:
        self.steps.append(tuple(batch["input_ids"].shape))
        self.seen = batch
        return batch

    def run(self, prepared: Any) -> Any:
        self.queued_ns += 10
        return prepared

    def tensors(self, outputs: Any) -> tuple[Any, ...]:
        ids, mask = outputs["input_ids"], outputs["attention_mask"]
        sums = (ids * mask).cumsum(dim=1) % 64
        return (torch.nn.functional.one_hot(sums, 64).float(),)


class Static(Passing):
    has_static_shapes = True

    def keep_shapes(self, count: int) -> None:
        """Nothing is compiled."""


def begun(device: Device, way: type) -> Any:
    further = (device.tensors, abilities.has_static_shapes(device)) if isinstance(device, Passing) else ()
    names = (INPUTS,) if isinstance(device, Passing) else ()
    return way(device, *further, len(PROMPT), ROOM, "cpu", *names)


def run(device: Device, way: type = ByCache, choose: Any = None, new_tokens: int = 5, **more: Any) -> tuple[Any, Any]:
    choose = choose or Greedy()
    done = generate(
        lambda: begun(device, way), choose, PROMPT, new_tokens, device.synchronize, lambda: device.now_ns, **more
    )
    return done, choose.tokens()


def test_prefill_and_decode_are_told_apart_and_only_the_first_token_is_waited_for() -> None:
    device, seen = Device(prompt_ns=1000, token_ns=10), list[tuple[int, ...]]()
    done, _ = run(device, see=lambda logits: seen.append(tuple(logits.shape)))
    assert (done.first_token_ns, done.total_ns) == (1000, 1040)
    assert device.waits == 3  # before the clock, at the first token, at the end
    assert device.steps == [(3, 3), (1, 4), (1, 5), (1, 6), (1, 7)]
    assert seen == [(2, 64)] * 5
    alone = Device()
    done, tokens = run(alone, new_tokens=1)  # the prompt's pass alone
    assert (done.first_token_ns, done.total_ns, tokens.shape, alone.steps) == (1000, 1000, (2, 1), [(3, 3)])


def test_tokens_are_those_computed_by_hand_and_shapes_grow_unless_they_are_compiled() -> None:
    """The next id is the sum of all so far, modulo 64: each sum is twice the last one."""
    static = Device()
    static.cache_is_static = True
    growing = [(2, length) for length in (3, 4, 5, 6, 7)]
    for device, way, steps in (
        (Device(), ByCache, [(3, 3), (1, 4), (1, 5), (1, 6), (1, 7)]),
        (static, ByCache, [(3, ROOM), *[(1, ROOM)] * 4]),
        (Passing(), ByFullPasses, growing),
        (Static(), ByFullPasses, [(2, ROOM)] * 5),
    ):
        _, tokens = run(device, way)
        assert device.steps == steps
        assert tokens.tolist() == [[16, 32, 0, 0, 0], [7, 14, 28, 56, 48]] or device is static


def test_the_cache_follows_the_beams() -> None:
    """Two beams of one prompt whose order is turned round: what is kept must be turned round with them."""

    class Turning(Beam):
        def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            self.steps.append(logits.argmax(-1))
            return self.steps[-1], torch.tensor([1, 0])

    device = Device()
    done, tokens = run(device, choose=Turning(2), new_tokens=3)
    assert device.orders == [[1, 0]] * 2  # none behind the last token
    # After the first turn row 0 has kept row 1's ids (sum 7) and is given token 16.
    assert tokens[:, 1].tolist() == [(7 + 16) % 64, (16 + 7) % 64]
    assert done.cache_bytes == 8 * 2 * (3 + 2)
    for passing in (Passing(), Static()):
        state = begun(passing, ByFullPasses)
        state.logits(PROMPT)
        state.reorder(torch.tensor([1, 1]))
        state.logits(torch.tensor([[6], [7]]))
        assert passing.seen["input_ids"][:, :4].tolist() == [[1, 2, 4, 6], [1, 2, 4, 7]]
