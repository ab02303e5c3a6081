"""The faults that planted_faults.py plants: each takes a sound module and makes it another model at a random place."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

#: A fault's hand on a module: changes it or wraps it, and says what it did; None where the fault cannot exist there.
Plant = Callable[[nn.Module, random.Random, float], "tuple[nn.Module, str] | None"]


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    plant: Plant
    size: float | None = None
    """Relative size of the change, where it has one; a missed fault is planted larger until it is caught."""
    precision: str | None = None
    """The only one that it can exist at; None for any."""


def layers_of(module: nn.Module) -> nn.ModuleList:
    """The transformer's layers: the longest list of modules."""
    return max((part for part in module.modules() if isinstance(part, nn.ModuleList)), key=len)


def _weights(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Weights of the layers that are not all 0: random models have biases of 0, and 1 % of that is nothing."""
    found = [(name, parameter) for name, parameter in layers_of(module).named_parameters() if parameter.abs().max() > 0]
    return sorted(found, key=lambda entry: entry[0])


def weight_matrix(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """One weight tensor of one layer times 1 + size."""
    name, parameter = rng.choice(_weights(module))
    parameter.data *= 1 + size
    return module, f"layers.{name}"


def weight_element(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """One single number that is not 0, among all of the layers' weights, times 1 + size."""
    weights = _weights(module)
    name, parameter = rng.choices(weights, [parameter.numel() for _, parameter in weights])[0]
    flat = parameter.data.view(-1)
    index = rng.randrange(flat.numel())
    while flat[index] == 0:
        index = rng.randrange(flat.numel())
    was = float(flat[index])
    flat[index] = was * (1 + size)
    return module, f"layers.{name}[{index}], which was {was:.2g}"


def layers_swapped(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """Two layers in each other's place."""
    layers = layers_of(module)
    one, other = sorted(rng.sample(range(len(layers)), 2))
    mine, theirs = (
        {name: tensor.clone() for name, tensor in layers[number].state_dict().items()} for number in (one, other)
    )
    layers[one].load_state_dict(theirs)
    layers[other].load_state_dict(mine)
    return module, f"layers {one} and {other}"


def other_gelu(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str] | None:
    """GELU by tanh in place of erf in one layer, or the other way round."""
    layers = layers_of(module)
    number = rng.randrange(len(layers))
    for part in layers[number].modules():
        for attribute in ("intermediate_act_fn", "act"):
            if hasattr(part, attribute):
                values = torch.linspace(-4, 4, 101)
                is_tanh = torch.allclose(getattr(part, attribute)(values), functional.gelu(values, approximate="tanh"))
                delattr(part, attribute)
                setattr(part, attribute, nn.GELU(approximate="none" if is_tanh else "tanh"))
                return module, f"layer {number}, {'erf for tanh' if is_tanh else 'tanh for erf'}"
    return None


class _Changed(nn.Module):
    """The sound module on other inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class _MaskIgnored(_Changed):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.inner(input_ids, torch.ones_like(attention_mask))


class _MaskInverted(_Changed):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.inner(input_ids, 1 - attention_mask)


class _PositionsShifted(_Changed):
    """Positions one further on in rows whose first token is padding, as far as there are positions."""

    def __init__(self, inner: nn.Module, positions: int) -> None:
        super().__init__(inner)
        self.last = positions - 1

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        positions = attention_mask.cumsum(dim=-1) * 0 + torch.ones_like(attention_mask).cumsum(dim=-1) - 1
        positions = (positions + (1 - attention_mask[:, :1])).clamp(max=self.last)
        return self.inner.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions)[0]


def mask_ignored(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """Every position is attended to."""
    return _MaskIgnored(module), "the whole model"


def mask_inverted(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """Padding is attended to, and nothing else."""
    return _MaskInverted(module), "the whole model"


def positions_shifted(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """Position ids off by one in rows that are padded on the left."""
    config = module.model.config
    positions = getattr(config, "max_position_embeddings", None) or config.n_positions
    return _PositionsShifted(module, positions), "rows padded on the left"


def other_epsilon(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """Every LayerNorm's epsilon 1e-5 in place of 1e-12, or 1e-12 in place of 1e-5, as a wrong configuration has it."""
    norms = [part for part in module.modules() if isinstance(part, nn.LayerNorm)]
    was, now = norms[0].eps, 1e-12 if norms[0].eps > 1e-6 else 1e-5
    for part in norms:
        part.eps = now
    return module, f"{now:g} for {was:g} in all {len(norms)}"


def one_epsilon(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """The same in a single LayerNorm of one layer; a `size` above 1e-5 is the epsilon in place of either."""
    norms = [(name, part) for name, part in layers_of(module).named_modules() if isinstance(part, nn.LayerNorm)]
    name, part = rng.choice(norms)
    was, part.eps = part.eps, 1e-12 if part.eps > 1e-6 and size <= 1e-5 else size
    return module, f"{part.eps:g} for {was:g} in layers.{name}"


class _DropoutLeftOn(nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        # By hand, as the ONNX exporter writes a training dropout that ONNX Runtime then leaves out.
        return values * (torch.rand_like(values) >= self.share) / (1 - self.share)


def dropout_left_on(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """One dropout of one layer that goes on dropping a tenth."""
    parents = [
        (f"{name}.{child_name}", part, child_name)
        for name, part in layers_of(module).named_modules()
        for child_name, child in part.named_children()
        if isinstance(child, nn.Dropout) and "attn_dropout" not in child_name and "self" not in name.split(".")
    ]
    name, parent, child_name = rng.choice(parents)
    setattr(parent, child_name, _DropoutLeftOn(0.1))
    return module, f"layers.{name}"


class TwoOutputs(nn.Module):
    """The last hidden state and the one before it, for faults that need two outputs of one shape."""

    def __init__(self, inner: nn.Module, is_swapped: bool = False) -> None:
        super().__init__()
        self.inner, self.is_swapped = inner, is_swapped

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.inner.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        last, before = found.hidden_states[-1], found.hidden_states[-2]
        return (before, last) if self.is_swapped else (last, before)


def outputs_swapped(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """Two outputs under each other's names."""
    return TwoOutputs(module, is_swapped=True), "last and second last hidden state"


def stale_by_a_step(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """Weights of a step earlier in training: every one changed by a normal number of relative width `size`."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    for parameter in module.parameters():
        parameter.data *= 1 + size * torch.randn(parameter.shape, generator=generator)
    return module, f"all weights, {size:g} relative"


def stale_by_far(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """Weights of another model: every tensor of more than one dimension shuffled."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    for parameter in module.parameters():
        if parameter.ndim > 1:
            flat = parameter.data.view(-1)
            parameter.data = flat.roll(int(torch.randint(1, flat.numel(), (), generator=generator))).view_as(parameter)
    return module, "all weights"


def overflow(module: nn.Module, rng: random.Random, size: float) -> tuple[nn.Module, str]:
    """One layer's activations beyond what fp16 holds; in float64 and fp32 they are finite."""
    layers = layers_of(module)
    number = rng.randrange(len(layers))
    matrices = [part for part in layers[number].modules() if getattr(part, "weight", None) is not None]
    wide = max(matrices, key=lambda part: part.weight.numel())
    wide.weight.data *= 1e6
    return module, f"layer {number}"


FAULTS = (
    Fault("one weight matrix changed by 1 %", weight_matrix, 0.01),
    Fault("one single weight changed by 1 %", weight_element, 0.01),
    Fault("two layers swapped", layers_swapped),
    Fault("tanh GELU for erf GELU", other_gelu),
    Fault("mask ignored", mask_ignored),
    Fault("mask inverted", mask_inverted),
    Fault("positions off by one under left padding", positions_shifted),
    Fault("LayerNorm epsilon", other_epsilon),
    Fault("LayerNorm epsilon, one of them", one_epsilon, 1e-5),
    Fault("dropout left on", dropout_left_on),
    Fault("outputs swapped", outputs_swapped),
    Fault("stale artifact, another model", stale_by_far),
    Fault("stale artifact, one step", stale_by_a_step, 1e-4),
    Fault("fp16 overflow", overflow, precision="fp16"),
)
