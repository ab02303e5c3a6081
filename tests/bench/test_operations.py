"""Operations and weights of a pass, against the formula and against modules whose counts are known by hand."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.machine import operations
from bench.machine.roofline import transformer_flops
from exporters import models, sources


def count(module: Any, inputs: Any, batch: int) -> dict[str, int]:
    flops, elements = operations.of_batch(operations.count(module, inputs, batch), batch)
    return {"flops": flops, "weight_elements": elements}


def ids_and_mask(batch: int, length: int, rows: int = 3) -> tuple[Any, Any]:
    ids = torch.arange(min(batch, rows) * length).reshape(-1, length) % 1000 + 1
    return ids, torch.ones_like(ids)


def tiny(name: str, task: str = "base") -> tuple[Any, sources.ModelSource]:
    source = sources.resolve(name, weights="random", task=task)
    return models.wrap(models.build(source)).double(), source


@pytest.mark.parametrize("name", ["bert-tiny", "gpt-tiny", "gpt2-tiny"])
def test_tiny_models_count_as_the_formula_says_and_a_tied_head_as_a_matrix(name: str) -> None:
    """Weights are attention's four matrices and the feed-forward part's two, and vectors; tables do not count."""
    (module, source), (headed, _) = tiny(name), tiny(name, "lm")
    matrices = 12 * source.width**2 * source.layers
    vectors = 13 * source.width * source.layers + (0 if name == "gpt-tiny" else 2 * source.width)
    for batch, length in [(1, 1), (1, 32), (2, 32), (7, 64)]:
        counted = count(module, ids_and_mask(batch, length), batch)
        flops = transformer_flops(matrices, source.layers, source.width, batch, length)
        assert counted == {"flops": flops, "weight_elements": matrices + vectors}
    table = source.vocab_size * source.width
    # BERT's head has a matrix, a norm and a bias of its own.
    more, vectors = (source.width**2, source.vocab_size + 3 * source.width) if name == "bert-tiny" else (0, 0)
    with_head = count(headed, ids_and_mask(batch, length), batch)
    assert with_head["flops"] - counted["flops"] == 2 * batch * length * (table + more)
    assert with_head["weight_elements"] - counted["weight_elements"] == table + more + vectors


def test_the_mode_of_the_caller_and_a_padded_mask_change_nothing() -> None:
    module, _ = tiny("bert-tiny")
    ids, mask = ids_and_mask(3, 24)
    expected = count(module, (ids, mask), 3)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, contextlib.nullcontext):
        with mode():
            assert count(module, (ids.clone(), mask.clone()), 3) == expected
    mask[:, 20:] = 0
    assert count(module, (ids, mask), 3) == expected
    assert not any(parameter.requires_grad for parameter in module.parameters())


SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
FAMILIES = {
    "bert": SIZES, "roberta": SIZES, "electra": SIZES | {"embedding_size": 16}, "llama": SIZES, "gpt_neox": SIZES, "phi": SIZES,
    "mistral": SIZES | {"num_key_value_heads": 1}, "qwen2": SIZES | {"num_key_value_heads": 1},
    "gemma": SIZES | {"num_key_value_heads": 1, "head_dim": 16}, "modernbert": SIZES | {"pad_token_id": 0},
    "distilbert": {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "gpt2": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "openai-gpt": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "gptj": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8},
    "opt": {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64},
    "gpt_neo": {"vocab_size": 99, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
                "attention_types": [[["global", "local"], 1]]},
    "bloom": {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "falcon": SIZES, "albert": SIZES | {"embedding_size": 16}, "mpnet": SIZES,
}  # fmt: skip


#: One of each way to attend and to place tokens; every family's modules take a second to import.
QUICK = ("bert", "distilbert", "openai-gpt", "gpt2", "gpt_neo", "mistral")


@pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_families_count_without_values_what_they_count_with_them_and_linearly_in_the_batch(family: str) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    module = models.wrap(AutoModel.from_config(config).double().eval())
    ids, mask = (tensor % 98 + 1 for tensor in ids_and_mask(5, 6, rows=5))
    for whole in (torch.ones_like(mask), (torch.arange(6) < 4).long().expand_as(mask)):
        with torch.no_grad():
            of_five, one = ([operations._trace(module, (ids[:rows], whole[:rows]))] for rows in (5, 1))
            hollow = operations._without_values(module, [(ids[:rows], whole[:rows]) for rows in (1, 5)])
        assert [flops for flops, _ in hollow] == [one[0][0], of_five[0][0]]
        assert [set(reads) for _, reads in hollow] == [set(one[0][1]), set(of_five[0][1])]
        assert count(module, (ids, whole), 5)["flops"] == of_five[0][0] > 0


def test_a_module_that_asks_for_a_value_is_run_as_it_is() -> None:
    passes = []

    def call(m: Any, x: Any) -> Any:
        passes.append(len(x))
        return m.layer(x) if float(x.sum()) > 0 else x  # raises without a value

    assert count(Module(call, layer=square()), (ROW,), 3) == {"flops": 3 * 2 * 64, "weight_elements": 64}
    assert passes == [1, 1, 2]
    layer, unregistered = square(), [square()]
    assert count(Module(lambda m, x: unregistered[0](m.layer(x)), layer=layer), (ROW,), 1)["flops"] == 2 * 2 * 64


class Module(torch.nn.Module):
    """Parts by name, and a pass over them."""

    def __init__(self, call: Callable[[Any, Any], Any], **parts: Any) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, torch.nn.Parameter):
                self.register_buffer(name, part, persistent=name != "mask")
            else:
                setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.call(self, x)


def weights(*shape: int) -> Any:
    return torch.nn.Parameter(torch.ones(*shape))


def square() -> Any:
    return torch.nn.Linear(8, 8, bias=False)


def pooled(m: Any, x: Any) -> Any:
    hidden = m.used(x)
    m.pooler(hidden)
    return hidden.relu_().add_(1)


def stretches(m: Any, x: Any) -> Any:
    query, key, _ = m.weight.chunk(3)
    return x @ query.t() + x @ key.t()


ROW, HEADS = torch.ones(1, 8), torch.ones(1, 2, 16, 8, dtype=torch.float64)
RELATIVE = Module(lambda m, x: m.layer(x) + m.layer(m.positions).sum(), positions=weights(10, 8), layer=square())


@pytest.mark.parametrize(
    ("module", "inputs", "batch", "flops", "elements"),
    [
        (
            Module(lambda m, x: torch.nn.functional.scaled_dot_product_attention(x, x, x)),
            HEADS, 5, 5 * 2 * (2 * 2 * 16 * 16 * 8), 0,
        ),
        (Module(lambda m, x: torch.softmax(x @ x.transpose(-1, -2), -1) @ x), HEADS, 5, 5 * 2 * (2 * 2 * 16 * 16 * 8), 0),
        (
            Module(pooled, used=torch.nn.Linear(8, 4), pooler=torch.nn.Linear(4, 100)),
            ROW, 3, 3 * 2 * 8 * 4, 8 * 4 + 4,
        ),
        (
            Module(
                lambda m, ids: (m.table(ids) + m.places[torch.arange(ids.shape[1])] - m.mean) * m.mask[: ids.shape[1]],
                table=torch.nn.Embedding(50, 6), places=weights(20, 6), mean=torch.ones(6), mask=torch.ones(20, 6),
                unused=weights(1000),
            ),
            torch.ones(2, 5, dtype=torch.int64), 2, 0, 6,
        ),
        (Module(lambda m, x: m.layer(m.layer(m.layer(x))), layer=square()), ROW, 1, 3 * 2 * 8 * 8, 64),
        (Module(stretches, weight=weights(12, 8)), ROW, 1, 2 * 2 * 4 * 8, 2 * 4 * 8),
        *((RELATIVE, ROW, batch, 2 * 64 * batch + 2 * 64 * 10, 80 + 64) for batch in (1, 2, 100)),
    ],
    ids=["fused attention", "plain attention", "what the output does not need", "gathered tables and masks",
         "a shared layer", "stretches of one weight", "positions, batch 1", "batch 2", "batch 100"],
)  # fmt: skip
def test_modules_count_as_they_do_by_hand(module: Any, inputs: Any, batch: int, flops: int, elements: int) -> None:
    assert count(module, (inputs,), batch) == {"flops": flops, "weight_elements": elements}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(1, 1000), st.integers(1, 4))
def test_a_stack_of_linear_layers_is_counted_exactly(widths: list[int], batch: int, rows: int) -> None:
    pairs = list(itertools.pairwise(widths))
    module = torch.nn.Sequential(*(torch.nn.Linear(left, right) for left, right in pairs))
    assert count(module, (torch.ones(rows, widths[0]),), batch) == {
        "flops": sum(2 * batch * left * right for left, right in pairs),
        "weight_elements": sum(left * right + right for left, right in pairs),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt", "gpt2-medium"])
def test_real_models_agree_with_the_figures_of_the_seed(root: Path, name: str) -> None:
    source = sources.resolve(name, weights="random")
    module = models.wrap(models.build(source))
    figures = root / "bench" / "workloads" / "presets" / "figures" / "rtx3090.json"
    data = json.loads(figures.read_text())["models"][name]
    assert (source.layers, source.width) == (data["layers"], data["width"])
    for batch, length in ((1, 1), (1, 64), (8, 128)):
        counted = count(module, ids_and_mask(batch, length), batch)
        assert counted["weight_elements"] == data["non_embedding_parameters"]
        formula = transformer_flops(data["non_embedding_parameters"], source.layers, source.width, batch, length)
        assert counted["flops"] == pytest.approx(formula, rel=0.01)
