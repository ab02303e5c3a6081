"""Operations and weights of a pass, against the formula and against modules whose counts are known by hand."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.machine.operations import count
from bench.machine.roofline import transformer_flops
from exporters import models, sources

SHAPES = [(1, 1), (1, 32), (2, 32), (7, 64)]


def ids_and_mask(batch: int, length: int, rows: int = 3) -> tuple[Any, Any]:
    import torch

    ids = torch.arange(min(batch, rows) * length).reshape(-1, length) % 1000 + 1
    return ids, torch.ones_like(ids)


def tiny(name: str, task: str = "base") -> tuple[Any, sources.ModelSource]:
    source = sources.resolve(name, weights="random", task=task)
    return models.wrap(models.build(source)).double(), source


def matrices(source: sources.ModelSource) -> int:
    """Elements of the layers' matrices: attention's four and the two of the feed-forward part."""
    return 12 * source.width**2 * source.layers


@pytest.mark.parametrize("name", ["bert-tiny", "gpt-tiny", "gpt2-tiny"])
def test_tiny_models_count_as_the_formula_says(name: str) -> None:
    module, source = tiny(name)
    for batch, length in SHAPES:
        counted = count(module, ids_and_mask(batch, length), batch)
        assert counted["flops"] == transformer_flops(matrices(source), source.layers, source.width, batch, length)
        vectors = 13 * source.width * source.layers + (0 if name == "gpt-tiny" else 2 * source.width)
        assert counted["weight_elements"] == matrices(source) + vectors


@pytest.mark.parametrize("name", ["gpt-tiny", "gpt2-tiny", "bert-tiny"])
def test_a_tied_head_counts_as_a_matrix_and_its_table_does_not(name: str) -> None:
    (base, _), (module, source) = tiny(name), tiny(name, "lm")
    table = source.vocab_size * source.width
    batch, length = 2, 16
    without = count(base, ids_and_mask(batch, length), batch)
    counted = count(module, ids_and_mask(batch, length), batch)
    # BERT's head has a matrix, a norm and a bias of its own.
    more = source.width**2 if name == "bert-tiny" else 0
    vectors = source.vocab_size + 3 * source.width if name == "bert-tiny" else 0
    assert counted["flops"] - without["flops"] == 2 * batch * length * (table + more)
    assert counted["weight_elements"] - without["weight_elements"] == table + more + vectors


def test_the_mode_of_the_caller_and_a_padded_mask_change_nothing() -> None:
    import torch

    module, _ = tiny("bert-tiny")
    ids, mask = ids_and_mask(3, 24)
    expected = count(module, (ids, mask), 3)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, contextlib.nullcontext):
        with mode():
            made_inside = ids.clone(), mask.clone()
            assert count(module, made_inside, 3) == expected
    mask[:, 20:] = 0
    assert count(module, (ids, mask), 3) == expected
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_attention_counts_whichever_way_the_model_computes_it() -> None:
    import torch

    class Attention(torch.nn.Module):
        def __init__(self, is_fused: bool) -> None:
            super().__init__()
            self.is_fused = is_fused

        def forward(self, x: Any) -> Any:
            if self.is_fused:
                return torch.nn.functional.scaled_dot_product_attention(x, x, x)
            return torch.softmax(x @ x.transpose(-1, -2), -1) @ x

    x = torch.ones(1, 2, 16, 8, dtype=torch.float64)
    fused, plain = (count(Attention(is_fused), (x,), 5) for is_fused in (True, False))
    assert fused == plain == {"flops": 5 * 2 * (2 * 2 * 16 * 16 * 8), "weight_elements": 0}


def test_what_the_output_does_not_depend_on_is_not_counted() -> None:
    import torch

    class WithPooler(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.pooler = torch.nn.Linear(8, 4), torch.nn.Linear(4, 100)

        def forward(self, x: Any) -> Any:
            hidden = self.used(x)
            self.pooler(hidden)
            return hidden.relu_().add_(1)

    assert count(WithPooler(), (torch.ones(1, 8),), 3) == {"flops": 3 * 2 * 8 * 4, "weight_elements": 8 * 4 + 4}


def test_saved_buffers_count_and_masks_and_gathered_tables_do_not() -> None:
    import torch

    class Parts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 6)
            self.positions = torch.nn.Parameter(torch.ones(20, 6))
            self.register_buffer("mean", torch.ones(6))
            self.register_buffer("mask", torch.ones(20, 6), persistent=False)
            self.unused = torch.nn.Parameter(torch.ones(1000))

        def forward(self, ids: Any) -> Any:
            length = ids.shape[1]
            rows = self.table(ids) + self.positions[torch.arange(length)]
            return (rows - self.mean) * self.mask[:length]

    ids = torch.ones(2, 5, dtype=torch.int64)
    assert count(Parts(), (ids,), 2) == {"flops": 0, "weight_elements": 6}


def test_a_shared_layer_is_read_once_and_computed_each_time() -> None:
    import torch

    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 8, bias=False)

        def forward(self, x: Any) -> Any:
            return self.layer(self.layer(self.layer(x)))

    assert count(Shared(), (torch.ones(1, 8),), 1) == {"flops": 3 * 2 * 8 * 8, "weight_elements": 64}


def test_stretches_of_one_weight_add_up_to_what_was_read() -> None:
    import torch

    class Stretches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(12, 8))

        def forward(self, x: Any) -> Any:
            query, key, _ = self.weight.chunk(3)
            return x @ query.t() + x @ key.t()

    assert count(Stretches(), (torch.ones(1, 8),), 1)["weight_elements"] == 2 * 4 * 8


def test_what_does_not_depend_on_the_batch_counts_once() -> None:
    import torch

    class RelativePositions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = torch.nn.Parameter(torch.ones(10, 8))
            self.layer = torch.nn.Linear(8, 8, bias=False)

        def forward(self, x: Any) -> Any:
            return self.layer(x) + self.layer(self.positions).sum()

    flops = {batch: count(RelativePositions(), (torch.ones(1, 8),), batch)["flops"] for batch in (1, 2, 100)}
    assert flops == {batch: 2 * 64 * batch + 2 * 64 * 10 for batch in (1, 2, 100)}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(1, 1000), st.integers(1, 4))
def test_a_stack_of_linear_layers_is_counted_exactly(widths: list[int], batch: int, rows: int) -> None:
    import torch

    pairs = list(itertools.pairwise(widths))
    module = torch.nn.Sequential(*(torch.nn.Linear(left, right) for left, right in pairs))
    assert count(module, (torch.ones(rows, widths[0]),), batch) == {
        "flops": sum(2 * batch * left * right for left, right in pairs),
        "weight_elements": sum(left * right + right for left, right in pairs),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [("bert", "float64"), ("gpt", "float64"), ("gpt2-medium", "float32")])
def test_real_models_agree_with_the_figures_of_the_seed(root: Path, name: str, dtype: str) -> None:
    import torch

    source = sources.resolve(name, weights="random")
    module = models.wrap(models.build(source)).to(getattr(torch, dtype))
    data = json.loads((root / "bench" / "workloads" / "presets" / "figures" / "rtx3090.json").read_text())["models"][
        name
    ]
    assert (source.layers, source.width) == (data["layers"], data["width"])
    for batch, length in ((1, 1), (1, 64), (8, 128)):
        counted = count(module, ids_and_mask(batch, length), batch)
        assert counted["weight_elements"] == data["non_embedding_parameters"]
        formula = transformer_flops(data["non_embedding_parameters"], source.layers, source.width, batch, length)
        assert counted["flops"] == pytest.approx(formula, rel=0.01)
