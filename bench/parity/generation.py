"""Greedy generation, token by token and teacher-forced. Runs in a worker, on NumPy arrays.

Without a cache every step is a pass over prompt and all tokens so far, at one shape: what is not there yet is right
padding, which a causal model does not see. With one, a step is a pass over the new token alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Continuation:
    """What a model made of a prompt: `tokens` int64 [steps] and the `logits` [steps, vocabulary] that they were
    taken from."""

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
        found: Array = _logits(judging.run(backend, taken))[0, ids.shape[1] - 1]
        return found

    return next_logits


def by_cache(backend: Backend, room: int, device: str = "cpu") -> Next:
    """Passes over the tokens that are new since the last call, with keys and values of at most `room` tokens kept."""
    import numpy as np
    import torch

    generator = abilities.generator(backend)
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


def _logits(outputs: dict[str, Array]) -> Array:
    return outputs[metrics.LOGITS]


@dataclass(frozen=True)
class Stored:
    """A case of the reference: the `prompt` [1, length], the tokens [steps] that followed it, and each step's logits
    by the float64 reference and by eager at the precision at hand."""

    prompt: Array
    follows: Array
    expected: Continuation
    eager: Continuation


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

    `device` is where the backend's tensors are.

    With `forced_by`, the folder of the float64 reference, the tokens that follow are the ones that stand there.
    """
    import numpy as np

    for case in plan.cases:
        prompt = inputs.make_batch(plan, case, texts)["input_ids"]
        forced = None if forced_by is None else _read(forced_by, case)[2].tokens
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
    whole = _logits(judging.run(backend, taken))[0, prompt.shape[1] - 1 :]
    error = np.abs(whole - found.logits).max(axis=1)
    limit = SAME_IN_FLOAT64 * max(1.0, float(np.abs(whole).max()))
    if not (error <= limit).all():
        step = int(np.argmax(~(error <= limit)))
        raise BackendError(
            f"the model's step and its forward disagree from token {step + 1} on (by {error[step]:.1e} in float64); "
            "its keys, values or positions are wrong"
        )


def largest_error(stored: Stored) -> float:
    """Eager's largest error at any step; 0 where it is no number."""
    import numpy as np

    error = np.abs(stored.eager.logits.astype(np.float64) - stored.expected.logits).max()
    return float(error) if np.isfinite(error) else 0.0


def read(reference: Path, eager_error: Path, case: str) -> Stored:
    """What `evaluate` wrote of a case into both folders; raises BackendError where they are of different tokens."""
    import numpy as np

    prompt, follows, expected = _read(reference, case)
    prompt_of_eager, follows_of_eager, eager = _read(eager_error, case)
    if not (np.array_equal(prompt, prompt_of_eager) and np.array_equal(follows, follows_of_eager)):
        raise BackendError("reference and eager's own steps are of different tokens; `bench artifacts prune` both")
    return Stored(prompt, follows, expected, eager)


def _read(folder: Path, case: str) -> tuple[Array, Array, Continuation]:
    """A case's prompt [1, length], the tokens [steps] that followed it, and what `evaluate` made of each step."""
    import numpy as np

    with np.load(folder / f"{case}.npz") as stored:
        return stored["prompt"], stored["follows"], Continuation(stored["tokens"], stored["logits"])


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
        steps = len(stored.follows)
        ways: dict[str, Callable[[], Next]] = {
            "full passes": partial(by_full_passes, backend, plan.length + steps, plan.pad_token_id, plan.inputs)
        }
        if abilities.has_cache(backend):
            ways["cache"] = partial(by_cache, backend, plan.length + steps, device)
        for way, begin in ways.items():
            free = continue_greedily(begin(), stored.prompt, steps)
            forced = continue_greedily(begin(), stored.prompt, steps, stored.expected.tokens)
            figures = figures_of_steps(forced.logits, stored, precision, atol, rtol)
            found[f"{inputs.kinds_of(case)[0]}, {way}"] = {"figures": figures, **divergence(free.tokens, stored)}
    return found


def figures_of_steps(logits: Array, stored: Stored, precision: str, atol: float, rtol: float) -> list[dict[str, Any]]:
    """What `metrics.compare` says of `logits` [steps, vocabulary], with the reference's tokens forced."""
    import numpy as np

    return metrics.compare(
        {metrics.LOGITS: logits[None]},
        {metrics.LOGITS: stored.expected.logits[None]},
        {metrics.LOGITS: stored.eager.logits[None]},
        np.ones((1, len(logits)), dtype=np.int64),
        precision,
        atol,
        rtol,
    )


def divergence(tokens: Array, stored: Stored) -> dict[str, Any]:
    """Where greedy `tokens` [steps] leave the reference's, by what margin, and eager's largest error at that step."""
    import numpy as np

    expected = stored.expected
    differing = np.flatnonzero(tokens != expected.tokens)
    found: dict[str, Any] = {"steps": len(expected.tokens), "generated": tokens.tolist(), "diverges_at": None}
    if not len(differing):
        return found
    step = int(differing[0])
    error = np.abs(stored.eager.logits[step].astype(np.float64) - expected.logits[step]).max()
    margin = float(expected.logits[step].max() - expected.logits[step][tokens[step]])
    return found | {"diverges_at": step, "margin": margin, "eager_error": float(error) if np.isfinite(error) else 0.0}
