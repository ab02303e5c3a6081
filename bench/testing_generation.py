"""The contract of a backend that generates with a cache; a third party runs it on its own with `check_generation`.

from bench.testing_generation import check_generation
check_generation("mybackend")
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backends
from bench.process import abilities
from bench.testing import ContractError, _made, _require, _Workbench

if TYPE_CHECKING:
    import torch

    from backends.base import Backend, Options

#: Sequences and prompt lengths that generation is checked at; no export ran on either.
SIZES = ((1, 1), (3, 7))
#: Tokens behind the prompt.
STEPS = 4


def check_generation(
    name: str,
    *,
    variant: str = "default",
    model: str = "gpt2-tiny",
    device: str = "cpu",
    precision: str = "fp32",
    artifacts: Path | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[str]:
    """Run every check of generation on variant `variant` of `name`'s `generation`; returns the checks that were made.

    `artifacts` is as for `bench.testing.check_backend`; `sizes` are sequences and prompt lengths, the last of three
    sequences or more. Raises ContractError for the first rule that is broken.
    """
    backend_class = backends.load_class(name)
    _require(variant in backend_class.spec.generation, f"{name} has no variant {variant!r} to generate with")
    if reason := backend_class.supports("default", device, precision):
        raise ContractError(f"{name} cannot be checked here: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        bench = _GenerationBench(
            backend_class, variant, model, device, precision, artifacts or Path(folder), sizes, task="lm"
        )
        made = _made((bench.check_logits, bench.check_repeats, bench.check_reorder, bench.check_bytes))
        bench.backend.close()
    return made


class _GenerationBench(_Workbench):
    """A backend that was loaded for generation, and what it is asked to continue."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backend: Backend = self._loaded()
        _require(abilities.has_cache(self.backend), f"{self.name} has no cache after a load for generation")
        self.generator = abilities.generator(self.backend)

    def _variants(self) -> Mapping[str, Options]:
        return self.backend_class.spec.generation

    def _format(self) -> str | None:
        return self.backend_class.spec.generation_format or self.backend_class.spec.format

    def _ids(self, rows: int, prompt: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of prompt and what follows, and their mask, both int64 [rows, prompt + STEPS]: every row but the first is
        padded on the left, by its number.
        """
        import torch

        generator = torch.Generator().manual_seed(rows)
        ids = torch.randint(1, self.source.vocab_size, (rows, prompt + STEPS), generator=generator)
        mask = torch.ones_like(ids)
        for row in range(min(rows, prompt)):
            mask[row, :row] = 0
        return ids.to(self.device), mask.to(self.device)

    def _mask(self, mask: torch.Tensor, length: int) -> torch.Tensor:
        return mask if self.generator.cache_is_static else mask[:, :length]

    def _steps(self, rows: int, prompt: int) -> torch.Tensor:
        """Logits [rows, 1 + STEPS, vocabulary] behind the prompt and each token that follows, on the CPU."""
        import torch

        ids, mask = self._ids(rows, prompt)
        before = ids.clone(), mask.clone()
        cache, taken, seen = self.generator.new_cache(rows, prompt + STEPS), [], 0
        for length in range(prompt, prompt + STEPS + 1):
            logits, cache = self.generator.step(ids[:, seen:length], self._mask(mask, length), cache)
            _require(
                logits.is_floating_point() and logits.ndim == 2 and len(logits) == rows,
                f"{self.name}'s step returns {logits.dtype} {tuple(logits.shape)} for {rows} sequences",
            )
            self.backend.synchronize()
            taken.append(logits.to("cpu", copy=True))
            seen = length
        same = all(torch.equal(one, other) for one, other in zip(before, (ids, mask), strict=True))
        _require(same, f"{self.name}'s step changes its inputs")
        return torch.stack(taken, dim=1)

    def check_logits(self) -> None:
        """Step by step, with padding on the left, its logits are those of whole passes of the model."""
        import numpy as np

        from bench.parity import metrics

        if not self.backend_class.spec.computes_the_model or self.weights is None:
            return
        references = self._references(self.precision)
        for rows, prompt in self.shapes:
            ids, mask = self._ids(rows, prompt)
            batch = {"input_ids": ids.cpu().numpy(), "attention_mask": mask.cpu().numpy()}
            judged = [
                {key: array[:, prompt - 1 :] for key, array in self._outputs(eager, batch).items()}
                for eager in references
            ]
            found = {metrics.LOGITS: self._to_host(self._steps(rows, prompt))}
            ones = np.ones((rows, STEPS + 1), dtype=np.int64)
            told = f"{self.name}'s steps are {{}} for {rows} prompts of {prompt}"
            self._check_verdict(("exact", "equivalent"), told, found, judged, ones)
        for eager in references:
            eager.close()

    def _to_host(self, logits: torch.Tensor) -> Any:
        import torch

        return logits.to(torch.float32 if logits.dtype == torch.bfloat16 else logits.dtype).numpy()

    def check_repeats(self) -> None:
        """A new cache knows nothing of the last one: the same prompt is continued bit for bit alike."""
        import torch

        for rows, prompt in self.shapes:
            same = torch.equal(self._steps(rows, prompt), self._steps(rows, prompt))
            _require(same, f"{self.name} continues {rows} prompts of {prompt} otherwise the second time")

    def check_reorder(self) -> None:
        """Sequences that are put in another order, or twice, go on as they would have."""
        import torch

        from backends.base import UnsupportedError

        rows, prompt = self.shapes[-1]
        plain = self._steps(rows, prompt)[:, 1]
        ids, mask = self._ids(rows, prompt)
        for order in ([*range(1, rows), 0], [rows - 1] * rows, [0, *range(rows)]):
            chosen = torch.tensor(order, device=self.device)
            _, cache = self.generator.step(
                ids[:, :prompt], self._mask(mask, prompt), self.generator.new_cache(rows, prompt + STEPS)
            )
            try:
                cache = self.generator.reorder(cache, chosen)
            except UnsupportedError:
                _require(
                    self.generator.cache_is_static and len(order) != rows,
                    f"{self.name} does not put {rows} in order {order}",
                )
                continue
            logits, _ = self.generator.step(
                ids[chosen, prompt : prompt + 1], self._mask(mask[chosen], prompt + 1), cache
            )
            self.backend.synchronize()
            wanted = plain[chosen.cpu()]
            close = torch.allclose(self._scaled(logits.cpu()), self._scaled(wanted), atol=1e-3, rtol=0)
            _require(close, f"{self.name} mixes up its sequences in order {order}")

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits in units of their spread over the vocabulary."""
        wide = logits.float()
        return wide / wide.std()

    def check_bytes(self) -> None:
        """It tells what its cache holds in bytes, which grow with it unless it is static."""
        rows, prompt = self.shapes[-1]
        ids, mask = self._ids(rows, prompt)
        cache, held = self.generator.new_cache(rows, prompt + STEPS), []
        for begin, end in ((0, prompt), (prompt, prompt + 1)):
            _, cache = self.generator.step(ids[:, begin:end], self._mask(mask, end), cache)
            held.append(self.generator.cache_bytes(cache))
        _require(all(isinstance(size, int) and size > 0 for size in held), f"{self.name}'s cache holds {held} bytes")
        _require(
            held[0] == held[1] if self.generator.cache_is_static else held[0] < held[1],
            f"{self.name}'s cache holds {held[0]} bytes and a token later {held[1]}",
        )
