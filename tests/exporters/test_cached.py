"""Exports of a step with its cache: what the cache is made of, for any module that has one, and who has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import exporters
from exporters import cached, checkpoint, models, sources
from exporters.errors import ModelError
from exporters.store import ArtifactStore

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and transformers warn about themselves


class Layout(torch.nn.Module):
    """A module whose cache has the ids for keys, laid out as `arrange` does."""

    keeps_keys_and_values = True

    def __init__(self, arrange: Any) -> None:
        super().__init__()
        self.arrange = arrange

    def step(self, ids: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        return ids[:, -1:].float(), self.arrange(ids.float())

    def flatten(self, cache: Any) -> tuple[Any, ...]:
        return cache

    def unflatten(self, tensors: Any) -> Any:
        return tensors


def test_the_cache_of_a_decoder_is_described_tensor_by_tensor() -> None:
    module = models.wrap(models.build(sources.resolve("gpt2-tiny", weights="random", task="lm")))
    assert cached.cache_tensors(module, "cpu") == 4 * [{"shape": [0, 2, 0, 32], "dtype": "float32", "grows": 2}]


def test_the_dimension_that_grows_is_found_wherever_it_is() -> None:
    module = Layout(lambda ids: (ids[:, :, None].half().expand(-1, -1, 4), ids[:, None, None]))
    assert cached.cache_tensors(module, "cpu") == [
        {"shape": [0, 0, 4], "dtype": "float16", "grows": 1},
        {"shape": [0, 1, 1, 0], "dtype": "float32", "grows": 3},
    ]


@pytest.mark.parametrize(
    "arrange",
    [
        lambda ids: (ids.T,),  # the sequences are not the first dimension
        lambda ids: (ids[:, :2],),  # nothing grows
        lambda ids: (ids[:, :, None] * ids[:, None, :],),  # two dimensions grow
        lambda ids: (ids[:, 1:],),  # not by the tokens
    ],
)
def test_other_layouts_are_refused(arrange: Any) -> None:
    with pytest.raises(ModelError, match=r"tensor 0 of the model's cache is \(.* lay it out as \[sequences"):
        cached.cache_tensors(Layout(arrange), "cpu")


@pytest.mark.parametrize("format", ["onnx-with-past", "torchscript-with-past"])
def test_a_model_without_keys_and_values_has_no_such_export(format: str, artifacts: Path, tmp_path: Path) -> None:
    """The first GPT: the reason is the user's to read, and names what to do."""
    source = sources.resolve("gpt-tiny", weights="random", task="lm")
    weights = ArtifactStore(artifacts).make(checkpoint.recipe(source), lambda folder: checkpoint.export(source, folder))
    recipe = exporters.recipe(format, weights.key, precision="fp32", device="cpu")
    with pytest.raises(ModelError, match=r"keeps no keys and values, .* generate by full passes"):
        exporters.load_module(format).export(weights.path, tmp_path, recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model_type", "settings", "has_static"),
    [
        ("gpt2", {}, True),
        ("mistral", {"sliding_window": 4}, False),  # a window's keys alone
        ("opt", {}, False),  # counts positions by the mask
        ("bloom", {}, False),  # tells positions by the mask
    ],
)
def test_a_static_cache_is_had_where_positions_can_be_told(model_type: str, settings: Any, has_static: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    extra = {
        "mistral": {"intermediate_size": 32, "num_key_value_heads": 2},
        "opt": {"ffn_dim": 32, "word_embed_proj_dim": 32},
    }
    config = AutoConfig.for_model(model_type, **small, **extra.get(model_type, {}), **settings)
    module = models.wrap(AutoModelForCausalLM.from_config(config).eval())
    assert module.keeps_keys_and_values
    assert module.has_static_cache is has_static


def test_the_keys_of_a_window_are_not_handed_out() -> None:
    from types import SimpleNamespace

    module = models.wrap(models.build(sources.resolve("gpt2-tiny", weights="random", task="lm")))
    sliding = SimpleNamespace(layers=[SimpleNamespace(is_sliding=True, keys=None, values=None)])
    with pytest.raises(ModelError, match="gpt2 keeps the keys of a window alone"):
        module.flatten(sliding)
