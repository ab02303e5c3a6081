"""Models as modules: a source to a `torch.nn.Module` in eval mode. The only place that imports transformers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.errors import ModelError
from exporters.folders import read_config
from exporters.sources import DECODERS, ModelSource

if TYPE_CHECKING:
    import torch

#: Model types that count positions by the mask or the number of keys, and so would count empty room.
OWN_POSITIONS = ("gpt_neo", "opt")


def import_libraries() -> None:
    """Import what every export and every model needs, so that whichever comes first is not charged with it."""
    import torch  # noqa: F401
    from transformers import AutoModel, PreTrainedModel  # noqa: F401 - what they stand on is imported with them

    _quiet()


def build(source: ModelSource) -> Any:
    """The transformers model of `source`, float32, in eval mode, on the CPU.

    Raises ModelError when its weights leave parameters of the model unset.
    """
    import torch
    from transformers import AutoConfig

    _quiet()
    torch.manual_seed(source.seed)
    if source.folder is None:
        settings = {key: value for key, value in source.config.items() if key != "model_type"}
        config = AutoConfig.for_model(source.config["model_type"], **settings)
        return _auto_class(config, source.task).from_config(config).to(torch.float32).eval()
    config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    model, report = _auto_class(config, source.task).from_pretrained(
        source.folder,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    if mismatched := sorted(str(entry) for entry in report["mismatched_keys"]):
        raise ModelError(
            f"{len(mismatched)} weights of {source.name!r} have another shape than its config.json says "
            f"({mismatched[0]}); save both again"
        )
    # Heads of other tasks are left out by intent; layers that the configuration does not have are not.
    prefix = f"{model.base_model_prefix}."
    known = {_without_numbers(key.removeprefix(prefix)) for key in model.state_dict()}
    unexpected = sorted(report["unexpected_keys"])
    if beyond := [key for key in unexpected if _without_numbers(key.removeprefix(prefix)) in known]:
        raise ModelError(
            f"the weights of {source.name!r} hold {len(beyond)} parameters of layers that its config.json "
            f"does not have ({beyond[0]}, …); save both again"
        )
    # A pooler is no part of last_hidden_state, and many checkpoints of masked language models lack it.
    unset = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if unset:
        raise ModelError(
            f"the weights of {source.name!r} leave {len(unset)} parameters of {type(model).__name__} unset "
            f"({', '.join(unset[:3])}); use --task base, or a folder saved from that class"
        )
    return model.eval()


def _without_numbers(key: str) -> str:
    """A parameter's name with its layer numbers left out."""
    return re.sub(r"\d+", "#", key)


def load_checkpoint(folder: Path, task: str, device: str, dtype: torch.dtype) -> Any:
    """The wrapped module of a checkpoint folder, in eval mode and without gradients, on `device` in `dtype`."""
    from transformers import AutoConfig

    _quiet()
    read_config(str(folder), folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = _auto_class(config, task).from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return wrap(model).to(device)


@dataclass
class StaticKeysAndValues:
    """Keys and values in room that is taken at once, and how many tokens they hold: `seen`, int64 [] on the device."""

    inner: Any
    seen: Any


def wrap(model: Any) -> Any:
    """A module that takes (input_ids, attention_mask), int64 [batch, length], and returns one tensor.

    The tensor is the last hidden state [batch, length, width] or the logits [batch, length,
    vocabulary]. The outermost module is in eval mode: tracing restores the flag it finds there.
    """
    import torch

    class Forward(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model
            self.attention_implementation = model.config._attn_implementation
            self.taken = frozenset(inspect.signature(model.forward).parameters)
            """Names of the arguments that the model takes."""
            self.keeps_keys_and_values = "past_key_values" in self.taken and model.config.model_type in DECODERS
            self.has_static_cache = self.keeps_keys_and_values and _takes_static_cache(model)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
            return output

        def step(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
            """The output [rows, …] at the last of the new tokens [rows, new], and the cache with theirs behind its own.

            The mask is [rows, earlier + new]; for a static cache [rows, room].
            """
            named: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in self.taken else {}
            past = cache
            if isinstance(cache, StaticKeysAndValues):
                past = cache.inner
                # On the device, and told to the model, which would else read them from the device or guess them.
                positions = cache.seen + torch.arange(input_ids.shape[1], device=input_ids.device)
                attention_mask = self._visible(positions, attention_mask)
                named |= {"position_ids": positions[None], "cache_position": positions}
            named = {name: value for name, value in named.items() if name in self.taken}
            output = self.model(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=past, use_cache=True, **named
            )
            if isinstance(cache, StaticKeysAndValues):
                cache.seen.add_(input_ids.shape[1])
                return output[0][:, -1], cache
            return output[0][:, -1], output.past_key_values

        def _visible(self, positions: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            """Which of the room's keys each new token sees, [rows, 1, new, room].

            Made here because transformers leaves the mask out where it is ones, and then empty room is seen.
            """
            room = torch.arange(attention_mask.shape[1], device=attention_mask.device)
            visible = (room <= positions[:, None])[None, None] & (attention_mask != 0)[:, None, None, :]
            if self.attention_implementation == "sdpa":
                return visible
            dtype = self.model.dtype
            return torch.where(visible, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)

        def static_cache(self, rows: int, room: int) -> StaticKeysAndValues:
            """An empty cache for `rows` sequences of at most `room` tokens, whose tensors never move."""
            from transformers import StaticCache

            device = self.model.device
            cache = StaticKeysAndValues(
                StaticCache(config=self.model.config, max_cache_len=room),
                torch.zeros((), dtype=torch.int64, device=device),
            )
            torch._dynamo.mark_static_address(cache.seen)
            # The layers take their room when they first see keys.
            ones = torch.ones(rows, room, dtype=torch.int64, device=device)
            self.step(ones[:, :1], ones, cache)
            self.reset_cache(cache)
            return cache

        def reset_cache(self, cache: StaticKeysAndValues) -> None:
            """Empty a static cache; its tensors stay where they are, so that graphs that hold them stay right."""
            cache.inner.reset()
            cache.seen.zero_()

        def flatten(self, cache: Any) -> tuple[torch.Tensor, ...]:
            """Keys and values of a cache of either kind, layer by layer, [rows, heads, length or room, head width]."""
            layers = (cache.inner if isinstance(cache, StaticKeysAndValues) else cache).layers
            if any(layer.is_sliding for layer in layers):
                kind = self.model.config.model_type
                raise ModelError(f"{kind} keeps the keys of a window alone, so its cache cannot be handed in and out")
            return tuple(tensor for layer in layers for tensor in (layer.keys, layer.values))

        def reorder(self, cache: Any, rows: torch.Tensor) -> Any:
            """A growing cache with the sequences `rows`, int64 [rows'], in that order; the one given is used up."""
            cache.reorder_cache(rows)
            return cache

        def unflatten(self, tensors: Sequence[torch.Tensor]) -> Any:
            """The growing cache that `flatten` took apart."""
            from transformers import DynamicCache

            cache = DynamicCache()
            for layer in range(len(tensors) // 2):
                cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
            return cache

    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return Forward(model).eval().requires_grad_(False)


def _takes_static_cache(model: Any) -> bool:
    """True for a model whose every layer sees all positions, and whose positions can be told to it."""
    from transformers import StaticCache

    from_the_mask = model.config.model_type in OWN_POSITIONS or getattr(model.config, "alibi", False)
    if from_the_mask or "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    return not any(layer.is_sliding for layer in StaticCache(config=model.config, max_cache_len=2).layers)


def usable_positions(model: Any) -> int | None:
    """Largest length that the model's learned positions allow; None when it has none.

    A padding index in the position table (RoBERTa's family) means that positions start behind it.
    """
    import torch

    limits = []
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        is_table = "position" in last or last == "wpe"
        if is_table and isinstance(module, torch.nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - offset)
    return min(limits, default=None)


def _quiet() -> None:
    """Keep progress bars of loading away from a terminal that shows our own progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _auto_class(config: Any, task: str) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    if task == "base":
        return AutoModel
    return AutoModelForMaskedLM if type(config) in MODEL_FOR_MASKED_LM_MAPPING else AutoModelForCausalLM
