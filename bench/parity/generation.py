"""Greedy generation, token by token and teacher-forced. Runs in a worker, on NumPy arrays.

Without a cache every step is a pass over prompt and all tokens so far, at one shape: what is not there yet is right
padding, which a causal model does not see. With one, a step is a pass over the new token alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backends.base import BackendError
from bench.parity import inputs, judging, metrics
from bench.parity.inputs import InputPlan
from bench.process import abilities

if TYPE_CHECKING:
    import numpy as np
    import torch

    from backends.base import Backend

    Array = np.ndarray[Any, Any]
    #: Logits [vocabulary] behind the ids [1, length] that it is given.
    Next = Callable[[Array], Array]


#: Difference of two ways to compute the same in float64, over the largest logit, that rounding explains.
SAME_IN_FLOAT64 = 1e-8


class Continuation(NamedTuple):
    """Tokens int64 [steps] behind a prompt, and the logits [steps, vocabulary] that they were taken from."""

    tokens: Array
    logits: Array


def continue_greedily(next_logits: Next, prompt: Array, steps: int, forced: Array | None = None) -> Continuation:
    """`steps` tokens behind `prompt` [1, length], each the most likely one, or those of `forced` [steps]."""
    import numpy as np

    ids, tokens, logits = prompt, [], []
    for step in range(steps):
        logits.append(next_logits(ids))
        tokens.append(int(logits[-1].argmax()))
        follows = tokens[-1] if forced is None else int(forced[step])
        ids = np.concatenate([ids, np.array([[follows]], dtype=np.int64)], axis=1)
    return Continuation(np.array(tokens, dtype=np.int64), np.stack(logits))


def by_full_passes(backend: Backend, length: int, pad_token_id: int, names: Collection[str] = inputs.INPUTS) -> Next:
    """Passes over everything so far, padded to `length`; `names` are the inputs that the model takes."""
    import numpy as np

    def next_logits(ids: Array) -> Array:
        padding = length - ids.shape[1]
        batch = {
            "input_ids": np.pad(ids, ((0, 0), (0, padding)), constant_values=pad_token_id),
            "attention_mask": np.pad(np.ones_like(ids), ((0, 0), (0, padding))),
        }
        taken = {name: array for name, array in batch.items() if name in names}
        return judging.run(backend, taken)[metrics.LOGITS][0, ids.shape[1] - 1]  # type: ignore[no-any-return]

    return next_logits


def by_cache(backend: Backend, room: int, device: str = "cpu") -> Next:
    """Passes over the tokens that are new since the last call, with keys and values of at most `room` tokens kept."""
    import numpy as np
    import torch

    generator = abilities.generator(backend)  # not by the class that is timed: references are made by other code
    seen, cache = 0, generator.new_cache(1, room)

    def next_logits(ids: Array) -> Array:
        nonlocal seen, cache
        mask = np.ones((1, room if generator.cache_is_static else ids.shape[1]), dtype=np.int64)
        new = torch.from_numpy(ids[:, seen:].copy()).to(device)
        logits, cache = generator.step(new, torch.from_numpy(mask).to(device), cache)
        backend.synchronize()
        seen = ids.shape[1]
        return host_row(logits, 0)

    return next_logits


def host_row(logits: torch.Tensor, row: int) -> Array:
    """One row of logits [rows, vocabulary] as a host array; bf16, which NumPy does not have, as float32."""
    import torch

    taken = logits[row].float() if logits.dtype == torch.bfloat16 else logits[row]
    found: Array = taken.to("cpu", copy=True).numpy()
    return found


@dataclass(frozen=True)
class Stored:
    """A case of the reference: the `prompt` [1, length], the `tokens` [steps] that followed it, and each step's logits
    [steps, vocabulary] by the float64 reference and by eager at the precision at hand."""

    prompt: Array
    tokens: Array
    logits: Array
    eager: Array

    def eager_error(self, step: int | None = None) -> float:
        """Eager's largest error at a step, or at any; 0 if it is no number."""
        import numpy as np

        error = np.abs(self.eager.astype(np.float64) - self.logits)
        largest = float(error.max() if step is None else error[step].max())
        return largest if np.isfinite(largest) else 0.0


def evaluate(
    backend: Backend,
    plan: InputPlan,
    steps: int,
    folder: Path,
    texts: Sequence[Sequence[int]] | None,
    forced_by: Path | None,
    with_cache: bool = False,
    device: str = "cpu",
) -> None:
    """Write each case's prompt, greedy tokens and their logits into `folder`; by full passes, or `with_cache`.

    `device` is where the backend's tensors are. With `forced_by`, the folder of the float64 reference, the tokens that
    follow are the ones that stand there.
    """
    import numpy as np

    for case in plan.cases:
        prompt = inputs.make_batch(plan, case, texts)["input_ids"]
        forced = None if forced_by is None else _read(forced_by, case)["follows"]
        room = plan.length + steps
        passes = partial(by_full_passes, backend, room, plan.pad_token_id, plan.inputs)
        found = continue_greedily(by_cache(backend, room, device) if with_cache else passes(), prompt, steps, forced)
        if with_cache and forced is None:
            _check_step(backend, plan, prompt, found)
        follows = found.tokens if forced is None else forced
        np.savez(folder / f"{case}.npz", prompt=prompt, follows=follows, tokens=found.tokens, logits=found.logits)


def _check_step(backend: Backend, plan: InputPlan, prompt: Array, found: Continuation) -> None:
    """Raise BackendError where what was `found` step by step, in float64, is not what one pass over all gives."""
    import numpy as np

    ids = np.concatenate([prompt, found.tokens[None, :-1]], axis=1)
    batch = dict(zip(inputs.INPUTS, (ids, np.ones_like(ids)), strict=True))
    taken = {name: batch[name] for name in plan.inputs}
    whole = judging.run(backend, taken)[metrics.LOGITS][0, prompt.shape[1] - 1 :]
    error = np.abs(whole - found.logits).max(axis=1)
    limit = SAME_IN_FLOAT64 * max(1.0, float(np.abs(whole).max()))
    if not (error <= limit).all():
        step = int(np.argmax(~(error <= limit)))
        raise BackendError(
            f"the model's step and its forward disagree from token {step + 1} on (by {error[step]:.1e} in float64); "
            "its keys, values or positions are wrong"
        )


def read(reference: Path, eager_error: Path, case: str) -> Stored:
    """What `evaluate` wrote of a case into both folders; raises BackendError where they are of different tokens."""
    import numpy as np

    expected, eager = _read(reference, case), _read(eager_error, case)
    if not all(np.array_equal(expected[name], eager[name]) for name in ("prompt", "follows")):
        raise BackendError("reference and eager's own steps are of different tokens; `bench artifacts prune` both")
    return Stored(expected["prompt"], expected["follows"], expected["logits"], eager["logits"])


def _read(folder: Path, case: str) -> dict[str, Array]:
    """A case's prompt [1, length], the tokens [steps] that followed it, and the tokens and logits of each step."""
    import numpy as np

    with np.load(folder / f"{case}.npz", allow_pickle=False) as stored:
        return dict(stored)


def check(
    backend: Backend,
    plan: InputPlan,
    reference: Path,
    *,
    eager_error: str,
    precision: str,
    atol: float,
    rtol: float,
    device: str = "cpu",
) -> dict[str, Any]:
    """For each case, by full passes and by the cache where there is one: what was generated, and figures of the
    steps when the reference's tokens are forced on it. `device` is where the backend's tensors are.
    """
    found = {}
    for case in plan.cases:
        stored = read(reference, Path(eager_error), case)
        steps = len(stored.tokens)
        ways: dict[str, Callable[[], Next]] = {
            "full passes": partial(by_full_passes, backend, plan.length + steps, plan.pad_token_id, plan.inputs)
        }
        if abilities.has_cache(backend):
            ways["cache"] = partial(by_cache, backend, plan.length + steps, device)
        for way, begin in ways.items():
            free = continue_greedily(begin(), stored.prompt, steps)
            forced = continue_greedily(begin(), stored.prompt, steps, stored.tokens)
            figures = figures_of_steps(forced.logits, stored, precision, atol, rtol)
            found[f"{inputs.kinds_of(case)[0]}, {way}"] = {"figures": figures, **divergence(free.tokens, stored)}
    return found


def figures_of_steps(logits: Array, stored: Stored, precision: str, atol: float, rtol: float) -> list[dict[str, Any]]:
    """What `metrics.compare` says of `logits` [steps, vocabulary], with the reference's tokens forced."""
    import numpy as np

    ours, expected, eager = ({metrics.LOGITS: array[None]} for array in (logits, stored.logits, stored.eager))
    return metrics.compare(ours, expected, eager, np.ones((1, len(logits)), dtype=np.int64), precision, atol, rtol)


def divergence(tokens: Array, stored: Stored) -> dict[str, Any]:
    """Where greedy `tokens` [steps] leave the reference's, by what margin, and eager's largest error at that step."""
    import numpy as np

    differing = np.flatnonzero(tokens != stored.tokens)
    found: dict[str, Any] = {"steps": len(stored.tokens), "generated": tokens.tolist(), "diverges_at": None}
    if not len(differing):
        return found
    step = int(differing[0])
    margin = float(stored.logits[step].max() - stored.logits[step][tokens[step]])
    return found | {"diverges_at": step, "margin": margin, "eager_error": stored.eager_error(step)}
