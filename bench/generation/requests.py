"""What a worker answers about generation: warmed up, timed, judged against the reference's tokens."""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench import memory, statistics
from bench.generation import loop
from bench.generation.decoding import Chooser, Forced, chooser
from bench.generation.plan import CACHE, GenerationPlan
from bench.inputs import InputPlan, make_batch
from bench.parity import generation
from bench.spec import TimingPlan

if TYPE_CHECKING:
    import torch

    from backends.base import Backend

#: Tokens of a generation of the warm-up; the shapes of every step are in it where the cache is static.
WARM_UP_TOKENS = 32
#: Generations of the warm-up whose times are compared to see that they are stable.
WARM_UP_WINDOW = 4


class GenerationRequests:
    """Requests: begin_generation, generate, judge_tokens."""

    args: argparse.Namespace
    backend: Backend
    prompt: torch.Tensor
    """Token ids of every sequence, int64 [rows × beams, prompt length], on the device."""
    input_names: tuple[str, ...]
    """Of a forward pass."""
    choice: Chooser
    """Of the last timed generation."""

    def let_go(self) -> None:
        """Forget prompts and tokens."""
        self.prompt = self.choice = None  # type: ignore[assignment]

    def do_begin_generation(
        self, plan: dict[str, Any], inputs_plans: list[dict[str, Any]], timing: dict[str, Any], seed: int
    ) -> dict[str, Any]:
        """Put the prompts on the device, one row of each plan's batch in turn, make the first steps and warm up."""
        import torch

        self.generation, self.timing, self.seed = GenerationPlan.from_json(plan), TimingPlan(**timing), seed
        self.input_names = InputPlan.from_json(inputs_plans[0]).inputs
        drawn = [make_batch(InputPlan.from_json(one), one["cases"][0])["input_ids"] for one in inputs_plans]
        prompts = torch.from_numpy(drawn[-1].copy())
        prompts[:1] = torch.from_numpy(drawn[0])  # the first is the one that the reference went on with
        sequences = prompts.repeat_interleave(self.generation.decoding.beams, dim=0)
        self.prompt = sequences.to(self.args.device)
        gc.collect()
        gc.disable()
        started = time.perf_counter_ns()
        self._generate(self._chooser(), min(2, self.generation.new_tokens))
        first_ns = time.perf_counter_ns() - started
        watched = self._way().watch(self.prompt)
        samples, is_stable = self._warm_up()
        self.facts_before = self.backend.facts() | watched
        return {"first_call_ns": first_ns, "warmup_ns": samples, "is_stable": is_stable, "facts": self.facts_before}

    def _warm_up(self) -> tuple[list[int], bool]:
        """Short generations until the last ones are alike, within the plan's floor and ceiling of seconds."""
        samples: list[int] = []
        tokens = min(WARM_UP_TOKENS, self.generation.new_tokens)
        while True:
            samples.append(self._generate(self._chooser(), tokens).total_ns)
            seconds = sum(samples) / 1e9
            window = samples[-WARM_UP_WINDOW:]
            is_stable = len(window) == WARM_UP_WINDOW and statistics.is_stable(window)
            if (is_stable and seconds >= self.timing.warmup_seconds) or seconds >= self.timing.warmup_most_seconds:
                return samples, is_stable

    def do_generate(self) -> dict[str, Any]:
        """One turn: one whole generation."""
        self.choice = self._chooser()
        cpu_started = time.process_time()
        found = self._generate(self.choice, self.generation.new_tokens)
        spent = time.process_time() - cpu_started
        steps = self.generation.new_tokens - 1
        return {
            "wall_ns": [found.total_ns],
            "first_token_ns": [found.first_token_ns],
            "decode_ns": [round((found.total_ns - found.first_token_ns) / steps)] if steps else [],
            "cpu_seconds": spent,
        }

    def do_judge_tokens(
        self, reference: str | None, yardstick: str | None, case: str, atol: float, rtol: float
    ) -> dict[str, Any]:
        """The first prompt's tokens as the timed call chose them, and one more generation, of which the peak of memory
        and the cache's size are taken.

        With a reference its tokens are forced on that one, and the figures are of each step's logits.
        """
        facts = self.backend.facts()
        if "graphs" in facts:
            facts["recompiles_while_timing"] = facts["graphs"] - self.facts_before["graphs"]
        tokens = self.choice.tokens()[0].cpu()
        found: dict[str, Any] = {"facts": facts, "tokens": tokens.tolist(), "cases": {}}
        if reference is None or yardstick is None:
            return found | self._held(self._chooser(), None)
        stored = generation.read(Path(reference), Path(yardstick), case)
        forced = Forced(self._chooser(), stored.follows, self.generation.decoding.beams)
        with tempfile.TemporaryFile() as file:  # in memory, the logits would count towards the peak
            found |= self._held(forced, file)
            logits = _read_logits(file, len(stored.follows))
        precision = self.args.precision
        entry: dict[str, Any] = {"figures": generation.figures_of_steps(logits, stored, precision, atol, rtol)}
        if self.generation.decoding.kind == "greedy":
            entry |= generation.divergence(tokens.numpy(), stored)
        return found | {"cases": {"forced": entry}}

    def _held(self, choose: Chooser, file: IO[bytes] | None) -> dict[str, Any]:
        """Memory at the peak of one generation and bytes of its cache; the first row's logits go to `file`."""
        import numpy as np

        self.backend.trim()
        self.backend.synchronize()
        self.backend.reset_memory_peak()
        is_of_this_call = memory.set_peak_back()
        see = None if file is None else lambda logits: np.save(file, generation.first_row(logits))
        done = self._generate(choose, self.generation.new_tokens, see)
        held = memory.resident_bytes() | self.backend.memory()
        if not is_of_this_call:
            held.pop("peak_process_bytes", None)
        return {"memory": held, "cache_bytes": done.cache_bytes}

    def _way(self) -> loop.Way:
        sizes = (len(self.prompt), self.generation.room, self.args.device)
        if self.args.generation == CACHE:
            return loop.ByCache(self.backend, *sizes)
        return loop.ByFullPasses(self.backend, *sizes, self.input_names)

    def _chooser(self) -> Chooser:
        return chooser(self.generation.decoding, self.seed, self.args.device)

    def _generate(
        self, choose: Chooser, new_tokens: int, see: Callable[[torch.Tensor], None] | None = None
    ) -> loop.Generated:
        import torch

        with torch.inference_mode():
            return loop.generate(
                self._way,
                choose,
                self.prompt,
                new_tokens,
                self.backend.synchronize,
                time.perf_counter_ns,
                see,
            )


def _read_logits(file: IO[bytes], steps: int) -> Any:
    """What was written, [steps, vocabulary]."""
    import numpy as np

    file.seek(0)
    return np.stack([np.load(file) for _ in range(steps)])
