"""What a worker answers about generation: warmed up, timed, judged against the reference's tokens."""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench import statistics
from bench.generation.plan import CACHE, GenerationPlan
from bench.machine import memory
from bench.parity import generation
from bench.parity.inputs import InputPlan, make_batch
from bench.process import abilities
from bench.process import generating as loop
from bench.process.decoding import Beam, Chooser, Forced, chooser
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
    judged_prompts: dict[int, str]
    """Prompts that the reference went on with, by their place in the batch, and their cases."""
    way: Callable[..., loop.Way]
    """How logits are made, from numbers of rows and tokens and the device; what the backend can do is asked before."""
    choice: Chooser
    """Of the last timed generation."""

    def let_go(self) -> None:
        """Forget prompts and tokens."""
        self.prompt = self.choice = None  # type: ignore[assignment]

    def do_begin_generation(
        self, plan: dict[str, Any], inputs_plans: list[dict[str, Any]], timing: dict[str, Any], seed: int
    ) -> dict[str, Any]:
        """Put the prompts on the device, make the first steps and warm up.

        The first of `inputs_plans` is of the reference's prompts, one a case; they stand in the first and the last row.
        """
        import torch

        self.generation, self.timing, self.seed = GenerationPlan.from_json(plan), TimingPlan(**timing), seed
        self.input_names = InputPlan.from_json(inputs_plans[0]).inputs
        known, plan_of_rows = (InputPlan.from_json(one) for one in inputs_plans)
        prompts = torch.from_numpy(make_batch(plan_of_rows, plan_of_rows.cases[0])["input_ids"].copy())
        self.judged_prompts = (
            dict(zip((0, len(prompts) - 1), known.cases, strict=False)) if len(prompts) > 1 else {0: known.cases[0]}
        )
        for place, case in self.judged_prompts.items():
            prompts[place] = torch.from_numpy(make_batch(known, case)["input_ids"][0])
        sequences = prompts.repeat_interleave(self.generation.decoding.beams, dim=0)
        self.prompt = sequences.to(self.args.device)
        self.way = self._way()
        gc.collect()
        gc.disable()
        started = time.perf_counter_ns()
        self._generate(self._chooser(), min(2, self.generation.new_tokens))
        first_ns = time.perf_counter_ns() - started
        watched = self._begun().watch(self.prompt)
        self.backend.synchronize()
        samples, is_stable = self._warm_up()
        self.facts_before = self.backend.facts() | watched
        return {"first_call_ns": first_ns, "warmup_ns": samples, "is_stable": is_stable, "facts": self.facts_before}

    def _warm_up(self) -> tuple[list[int], bool]:
        """Short generations until the last ones are alike, within the plan's floor and ceiling of seconds; then a whole
        one, in which every length is met that is timed."""
        samples: list[int] = []
        tokens = min(WARM_UP_TOKENS, self.generation.new_tokens)
        while True:
            samples.append(self._generate(self._chooser(), tokens).total_ns)
            seconds = sum(samples) / 1e9
            window = samples[-WARM_UP_WINDOW:]
            is_stable = len(window) == WARM_UP_WINDOW and statistics.is_stable(window)
            if (is_stable and seconds >= self.timing.warmup_seconds) or seconds >= self.timing.warmup_most_seconds:
                break
        if tokens < self.generation.new_tokens:
            self._generate(self._chooser(), self.generation.new_tokens)
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

    def do_judge_tokens(self, reference: str | None, yardstick: str | None, atol: float, rtol: float) -> dict[str, Any]:
        """Every prompt's tokens as the timed call chose them, the first beam's of each; and one more generation, for
        the peak of memory and the cache's size.

        With a reference, its tokens are forced on its prompts there, and the figures are of each step's logits. The
        tokens that were timed are then held against the reference's, or forced in their turn.
        """
        facts = self.backend.facts()
        if "graphs" in facts:
            facts["recompiles_while_timing"] = facts["graphs"] - self.facts_before["graphs"]
        timed = self.choice.tokens()[:: self.generation.decoding.beams].cpu()
        found: dict[str, Any] = {"facts": facts, "tokens": timed.tolist(), "cases": {}}
        if reference is None or yardstick is None:
            return found | self._held(self._chooser(), {})
        places = self.judged_prompts
        stored = {place: generation.read(Path(reference), Path(yardstick), case) for place, case in places.items()}
        held, logits = self._forced({place: one.follows for place, one in stored.items()})
        again = {} if self.generation.decoding.kind == "greedy" else self._rescored(timed)
        precision = self.args.precision
        for place, one in stored.items():
            figures = generation.figures_of_steps(logits[place], one, precision, atol, rtol)
            if self.generation.decoding.kind == "greedy":
                more = generation.divergence(timed[place].numpy(), one)
            else:
                more = again[place] | {"steps": len(one.follows), "eager_error": generation.largest_error(one)}
            found["cases"][f"prompt {place + 1}"] = {"figures": figures, **more}
        return found | held

    def _forced(self, tokens: Mapping[int, Any]) -> tuple[dict[str, Any], dict[int, Any]]:
        """A generation with `tokens` [steps] forced on prompts, by their place; its memory, and their logits."""
        beams = self.generation.decoding.beams
        given = {place * beams + beam: one for place, one in tokens.items() for beam in range(beams)}
        with ExitStack() as files:  # in memory, the logits would count towards the peak
            sinks = {place: files.enter_context(tempfile.TemporaryFile()) for place in tokens}
            held = self._held(Forced(self._chooser(), given), {place * beams: file for place, file in sinks.items()})
            steps = self.generation.new_tokens
            return held, {place: _read_logits(file, steps) for place, file in sinks.items()}

    def _rescored(self, timed: torch.Tensor) -> dict[int, dict[str, Any]]:
        """What becomes of the timed tokens when they are forced: a sample must be drawn again by the same seed, and a
        beam's score must be the sum of its tokens' log probabilities."""
        import numpy as np

        beams = self.generation.decoding.beams
        if isinstance(self.choice, Beam):
            _, logits = self._forced({place: timed[place].numpy() for place in self.judged_prompts})
            scores = {place: float(self.choice.best_scores()[place]) for place in self.judged_prompts}
            sums = {place: _log_probability(logits[place], timed[place].numpy()) for place in self.judged_prompts}
            return {place: {"score": scores[place], "rescored": sums[place]} for place in self.judged_prompts}
        forced = Forced(self._chooser(), {place * beams: np.asarray(timed[place]) for place in self.judged_prompts})
        self._generate(forced, self.generation.new_tokens)
        return {place: {"drawn_again": forced.repeats(place * beams)} for place in self.judged_prompts}

    def _held(self, choose: Chooser, files: Mapping[int, IO[bytes]]) -> dict[str, Any]:
        """Memory at the peak of one generation and bytes of its cache; each step's logits go to `files`, by row."""
        import numpy as np

        abilities.trim(self.backend)
        self.backend.synchronize()
        abilities.reset_peak(self.backend)
        is_of_this_call = memory.set_peak_back()

        def see(logits: torch.Tensor) -> None:
            for row, file in files.items():
                np.save(file, generation.host_row(logits, row))

        done = self._generate(choose, self.generation.new_tokens, see if files else None)
        held = memory.resident_bytes() | abilities.held(self.backend)
        if not is_of_this_call:
            held.pop("peak_process_bytes", None)
        return {"memory": held, "cache_bytes": done.cache_bytes}

    def _way(self) -> Callable[..., loop.Way]:
        if self.args.generation == CACHE:
            return partial(loop.ByCache, abilities.generator(self.backend))
        tensors = abilities.device_tensors(self.backend).tensors
        is_padded = abilities.has_static_shapes(self.backend)
        return partial(loop.ByFullPasses, self.backend, tensors, is_padded, names=self.input_names)

    def _begun(self) -> loop.Way:
        return self.way(len(self.prompt), self.generation.room, self.args.device)

    def _chooser(self) -> Chooser:
        return chooser(self.generation.decoding, self.seed, self.args.device)

    def _generate(
        self, choose: Chooser, new_tokens: int, see: Callable[[torch.Tensor], None] | None = None
    ) -> loop.Generated:
        import torch

        with torch.inference_mode():
            return loop.generate(
                self._begun,
                choose,
                self.prompt,
                new_tokens,
                self.backend.synchronize,
                time.perf_counter_ns,
                see,
            )


def _log_probability(logits: Any, tokens: Any) -> float:
    """Sum of the log probabilities of `tokens` [steps] under `logits` [steps, vocabulary], in float64."""
    import numpy as np

    wide = logits.astype(np.float64)
    highest = wide.max(axis=1)
    normaliser = highest + np.log(np.exp(wide - highest[:, None]).sum(axis=1))
    return float((wide[np.arange(len(tokens)), tokens] - normaliser).sum())


def _read_logits(file: IO[bytes], steps: int) -> Any:
    """What was written, [steps, vocabulary]."""
    import numpy as np

    file.seek(0)
    return np.stack([np.load(file) for _ in range(steps)])
