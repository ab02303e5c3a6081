"""Greedy generation: by full passes and with a cache, free and forced, and what makes a flip an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backends.base import Backend, BackendError, Batch, Options, Spec, UnsupportedError
from backends.compile import Compile
from bench.parity.generation import by_cache, by_full_passes, check, continue_greedily, evaluate
from bench.parity.inputs import InputPlan
from bench.parity.matrix import PROMPT_LENGTH
from bench.parity.verdict import TOLERANCES, judge, judge_generation
from bench.process import abilities

VOCABULARY, PADDING, STEPS = 50, 0, 8
PLAN = InputPlan(1, PROMPT_LENGTH, VOCABULARY, PADDING, seed=0, output_width=VOCABULARY, cases=("random-full",))
TABLE = np.random.default_rng(7).normal(size=(VOCABULARY, VOCABULARY))
FP32 = {"precision": "fp32", "atol": 0.0, "rtol": 0.0}


class Summing(Backend):
    """A causal model that can be computed by hand: logits behind a token are a row of a table, by the sum of all ids."""

    spec = Spec(name="summing", format=None)

    def __init__(self, dtype: type = np.float32, table: np.ndarray = TABLE) -> None:
        self.dtype, self.table = dtype, table
        self.lengths: list[int] = []
        """Positions of each call."""

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        raise AssertionError("nothing to load")

    def prepare(self, batch: Batch) -> Any:
        return batch["input_ids"], batch["attention_mask"]

    def run(self, prepared: Any) -> Any:
        ids, mask = prepared
        self.lengths.append(ids.shape[1])
        return self.table[np.cumsum(ids * mask, axis=1) % VOCABULARY].astype(self.dtype)

    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"logits": outputs}


class Caching(Summing):
    """The same, with the sum so far for a cache."""

    cache_is_static = False

    def unasked(self, *arguments: Any) -> Any:
        raise AssertionError("nothing here is watched, reordered or weighed")

    step_watched = reorder = cache_bytes = unasked

    def has_cache(self) -> bool:
        return True

    def new_cache(self, rows: int, room: int) -> Any:
        return {"sum": 0, "length": 0, "room": room}

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        self.lengths.append(ids.shape[1])
        length = cache["length"] + ids.shape[1]
        assert tuple(mask.shape) == (1, cache["room"] if self.cache_is_static else length)
        assert length <= cache["room"]
        total = cache["sum"] + int(ids.sum())
        logits = torch.from_numpy(self.table[[total % VOCABULARY]].astype(self.dtype))
        return logits, cache | {"sum": total, "length": length}


class Roomy(Caching):
    """The same, with all the room of its cache from the start."""

    cache_is_static = True


class Forgetful(Caching):
    """Drops what it was given to keep, from the second step on."""

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        logits, longer = super().step(ids, mask, cache)
        return logits, longer | {"sum": 0}


class Swayed(Summing):
    """Sees its padding."""

    def run(self, prepared: Any) -> Any:
        ids, _ = prepared
        sums = np.cumsum(ids, axis=1) + (ids == PADDING).sum(axis=1, keepdims=True)
        return self.table[sums % VOCABULARY].astype(self.dtype)


def greedily_by_hand(prompt: np.ndarray, steps: int) -> list[int]:
    total, tokens = int(prompt.sum()), []
    for _ in range(steps):
        tokens.append(int(TABLE[total % VOCABULARY].argmax()))
        total += tokens[-1]
    return tokens


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, str]:
    """The float64 reference's folder, and that of eager in float32, forced by it."""
    reference, eager_error = tmp_path / "reference", tmp_path / "eager_error"
    for folder in (reference, eager_error):
        folder.mkdir()
    evaluate(Summing(np.float64), PLAN, STEPS, reference, None, None)
    evaluate(Summing(), PLAN, STEPS, eager_error, None, reference)
    return reference, str(eager_error)


PROMPT = np.arange(1, 1 + PROMPT_LENGTH)[None]


def test_greedy_tokens_are_those_computed_by_hand() -> None:
    found = continue_greedily(by_full_passes(Summing(), PROMPT_LENGTH + STEPS, PADDING), PROMPT, STEPS)
    assert found.tokens.tolist() == greedily_by_hand(PROMPT, STEPS)
    assert found.logits.shape == (STEPS, VOCABULARY)
    assert found.logits[0].tolist() == TABLE[PROMPT.sum() % VOCABULARY].astype(np.float32).tolist()


@pytest.mark.parametrize("kind", [Caching, Roomy])
def test_full_passes_have_one_shape_and_a_cache_one_new_token_a_step(kind: type[Caching]) -> None:
    """A shape for every step would have a compiler compile every step."""
    full, cached = Summing(), kind()
    one = continue_greedily(by_full_passes(full, PROMPT_LENGTH + STEPS, PADDING), PROMPT, STEPS)
    two = continue_greedily(by_cache(cached, PROMPT_LENGTH + STEPS), PROMPT, STEPS)
    assert full.lengths == [PROMPT_LENGTH + STEPS] * STEPS
    assert cached.lengths == [PROMPT_LENGTH, *[1] * (STEPS - 1)]
    assert one.tokens.tolist() == two.tokens.tolist()
    assert np.array_equal(one.logits, two.logits)


def test_forced_tokens_follow_whatever_the_model_would_say() -> None:
    forced = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    found = continue_greedily(by_full_passes(Summing(), PROMPT_LENGTH + STEPS, PADDING), PROMPT, STEPS, forced)
    sums = PROMPT.sum() + np.concatenate([[0], np.cumsum(forced)[:-1]])
    assert found.tokens.tolist() == TABLE[sums % VOCABULARY].argmax(axis=1).tolist()


def test_eagers_own_tokens_are_forced_by_the_reference(folders: tuple[Path, str], tmp_path: Path) -> None:
    """Otherwise one flip of eager's own would have the two compare steps behind different texts."""
    other = np.roll(TABLE, 1, axis=1)
    (tmp_path / "other").mkdir()
    evaluate(Summing(table=other), PLAN, STEPS, tmp_path / "other", None, folders[0])
    with np.load(folders[0] / "random-full.npz") as expected, np.load(tmp_path / "other" / "random-full.npz") as found:
        assert np.array_equal(found["prompt"], expected["prompt"])
        assert np.allclose(found["logits"], np.roll(expected["logits"], 1, axis=1))
        assert found["tokens"].tolist() == ((expected["tokens"] + 1) % VOCABULARY).tolist()


def test_the_same_model_generates_the_same_in_both_ways(folders: tuple[Path, str]) -> None:
    found = check(Caching(), PLAN, folders[0], eager_error=folders[1], **FP32)
    assert list(found) == ["random, full passes", "random, cache"]
    assert list(check(Summing(), PLAN, folders[0], eager_error=folders[1], **FP32)) == ["random, full passes"]
    with np.load(folders[0] / "random-full.npz") as stored:
        expected = greedily_by_hand(stored["prompt"], STEPS)
    for entry in found.values():
        assert (entry["steps"], entry["generated"], entry["diverges_at"]) == (STEPS, expected, None)
        assert judge(entry["figures"], TOLERANCES["fp32"])["verdict"] == "exact"


def test_a_cache_that_forgets_and_a_model_that_sees_its_padding_are_broken(folders: tuple[Path, str]) -> None:
    full, cached = check(Forgetful(), PLAN, folders[0], eager_error=folders[1], **FP32).values()
    (swayed,) = check(Swayed(), PLAN, folders[0], eager_error=folders[1], **FP32).values()
    judged = [judge(one["figures"], TOLERANCES["fp32"]) for one in (full, cached, swayed)]
    assert [one["verdict"] for one in judged] == ["exact", "broken", "broken"]
    assert judged[1]["worst_token"][1] >= 1  # the prompt's own step has nothing to forget
    assert cached["diverges_at"] >= 1
    assert cached["margin"] > 2 * cached["eager_error"]
    assert swayed["diverges_at"] == 0


def nearly_tied(margin: float, error: float) -> tuple[np.ndarray, np.ndarray]:
    """The reference's table with `margin` between first and second everywhere, and one that takes the second."""
    reference = np.full((VOCABULARY, VOCABULARY), -3.0)
    rows = np.arange(VOCABULARY)
    reference[rows, rows] = 2.0
    reference[rows, (rows + 1) % VOCABULARY] = 2.0 - margin
    flipped = reference.copy()
    flipped[rows, (rows + 1) % VOCABULARY] += error
    return reference, flipped


@pytest.mark.parametrize("margin", [1.9e-3, 2.1e-3])
def test_a_divergence_is_told_with_its_margin_and_eagers_error(tmp_path: Path, margin: float) -> None:
    reference_table, flipped = nearly_tied(margin, 2 * margin)
    eager_table = reference_table.copy()
    eager_table[:, 0] += 1e-3
    reference, eager_error = tmp_path / "reference", tmp_path / "eager_error"
    reference.mkdir()
    eager_error.mkdir()
    evaluate(Summing(np.float64, reference_table), PLAN, STEPS, reference, None, None)
    evaluate(Summing(table=eager_table), PLAN, STEPS, eager_error, None, reference)
    (entry,) = check(Summing(table=flipped), PLAN, reference, eager_error=str(eager_error), **FP32).values()
    assert entry["diverges_at"] == 0
    assert entry["margin"] == pytest.approx(margin, rel=1e-3)
    assert entry["eager_error"] == pytest.approx(1e-3, rel=1e-2)
    # Forced, one flip spoils no later step: every step's divergence is that of two nearly tied tokens.
    (figures,) = entry["figures"]
    assert figures["top1_n"] == STEPS
    assert figures["kl_max"] < 1e-4


def test_prompts_of_text_are_the_texts_beginning(tmp_path: Path) -> None:
    plan = InputPlan(1, PROMPT_LENGTH, VOCABULARY, PADDING, 0, VOCABULARY, ("text-full",))
    text = [[7, 8, 9] * 10]
    evaluate(Summing(), plan, 2, tmp_path, text, None)
    with np.load(tmp_path / "text-full.npz") as stored:
        assert stored["prompt"].tolist() == [text[0][:PROMPT_LENGTH]]
        assert stored["tokens"].shape == (2,)


# A real decoder's cache.


@pytest.fixture(scope="module")
def decoder() -> Any:
    """Eager on a tiny GPT-2 with its head, without any file."""
    from backends.eager import Eager
    from exporters import models, sources

    module = models.wrap(models.build(sources.resolve("gpt2-tiny", weights="random", task="lm")))
    backend = Eager(open_checkpoint=lambda path, device, precision: module)
    backend.module = module.to(torch.float64)
    return backend


@pytest.mark.filterwarnings("ignore")  # transformers warns about itself
def test_a_cached_step_continues_where_a_whole_pass_would(decoder: Any) -> None:
    """In float64 the two ways differ by rounding alone; a wrong position or mask is a thousand times that."""
    module = decoder.module
    ids = torch.arange(5, 17)[None]
    with torch.inference_mode():
        whole = module(ids, torch.ones_like(ids))
        first, cache = module.step(ids[:, :7], torch.ones(1, 7, dtype=torch.int64), None)
        second, cache = module.step(ids[:, 7:11], torch.ones(1, 11, dtype=torch.int64), cache)
        third, _ = module.step(ids[:, 11:], torch.ones(1, 12, dtype=torch.int64), cache)
    assert torch.allclose(torch.cat([first, second, third]), whole[0, [6, 10, 11]], rtol=0, atol=1e-12)
    assert decoder.has_cache()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "task", "keeps"), [("gpt2-tiny", "base", True), ("bert-tiny", "lm", False), ("gpt-tiny", "lm", False)]
)
def test_only_decoders_whose_forward_takes_past_keys_keep_them(model: str, task: str, keeps: bool) -> None:
    """The first GPT has no cache in transformers, and an encoder must not be cut into steps."""
    from exporters import models, sources

    module = models.wrap(models.build(sources.resolve(model, weights="random", task=task)))
    assert module.keeps_keys_and_values is keeps


def test_a_backend_has_no_cache_unless_it_says_so() -> None:
    assert abilities.has_cache(Summing()) is False
    assert abilities.has_cache(Caching()) is True
    with pytest.raises(UnsupportedError, match="summing keeps no keys and values"):
        by_cache(Summing(), PROMPT_LENGTH)
    # Eager's step would run the module that is not compiled.
    assert Compile.has_cache(object.__new__(Compile)) is False


def test_a_step_that_is_not_the_models_forward_is_no_reference(decoder: Any, tmp_path: Path) -> None:
    """Eager's own cache is what everybody is held against, so it must be right first."""

    class Restarting(type(decoder)):  # type: ignore[misc]
        def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
            logits, cache = super().step(ids, mask, cache)
            return logits * (1 if ids.shape[1] > 1 else 1 + 1e-3), cache

    decoder.has_grad, decoder.output_names = False, ["logits"]
    plan = InputPlan(1, 4, 1024, 0, 0, 1024, ("random-full",))
    evaluate(decoder, plan, 3, tmp_path, None, None, with_cache=True)
    wrong = Restarting()
    wrong.__dict__ |= decoder.__dict__
    with pytest.raises(BackendError, match="step and its forward disagree from token 2 on"):
        evaluate(wrong, plan, 3, tmp_path, None, None, with_cache=True)


@pytest.mark.parametrize(
    ("entry", "verdict"),
    [
        ({"score": -40.0, "rescored": -40.00001, "steps": 6, "eager_error": 1e-7}, "equivalent"),
        ({"score": -40.0, "rescored": -40.1, "steps": 6, "eager_error": 1e-7}, "broken"),
        ({"score": float("nan"), "rescored": -40.0, "steps": 6, "eager_error": 1e-7}, "broken"),
        ({"drawn_again": 511, "steps": 512, "eager_error": 1e-7}, "equivalent"),
        ({"drawn_again": 300, "steps": 512, "eager_error": 1e-7}, "broken"),
        ({"drawn_again": 4, "steps": 6, "eager_error": 1e-7}, "broken"),
    ],
)
def test_tokens_that_were_timed_must_follow_from_the_logits(
    entry: dict[str, Any], verdict: str, folders: tuple[Path, str]
) -> None:
    (found,) = check(Summing(), PLAN, folders[0], eager_error=folders[1], **FP32 | {"atol": 1e-6}).values()
    figures = found["figures"]
    judged = judge_generation({"figures": figures, **entry}, TOLERANCES["fp32"])
    assert (judged["verdict"] == "broken") == (verdict == "broken"), judged
