"""Models as modules: a source to a `torch.nn.Module` in eval mode. The only place that imports transformers."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.sources import DECODERS, ModelError, ModelSource

if TYPE_CHECKING:
    import torch


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
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model = _auto_class(config, task).from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return wrap(model).to(device)


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
            keeps = "past_key_values" in inspect.signature(model.forward).parameters
            self.keeps_keys_and_values = keeps and model.config.model_type in DECODERS

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
            return output

        def step(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
            """The output for new tokens [batch, new], and their keys and values behind those in `cache`."""
            output = self.model(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True
            )
            return output[0], output.past_key_values

    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return Forward(model).eval().requires_grad_(False)


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


def import_library() -> None:
    """Import what every model of transformers needs, so that loading one is timed without it."""
    import transformers.modeling_utils
    from transformers import AutoModel

    assert transformers.modeling_utils and AutoModel
