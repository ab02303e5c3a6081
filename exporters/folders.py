"""A saved model's folder: its configuration and its weight files, read with care. Imports nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporters.errors import ModelError

#: Model types of transformers whose first position stands behind the padding index (1 unless configured).
POSITIONS_BEHIND_PADDING = (
    "camembert", "data2vec-text", "ibert", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
    "xmod",
)  # fmt: skip
#: Endings of what is read of a model's folder.
READ = (".json", ".safetensors", ".txt", ".model", ".jinja")

#: Keys that hold a count, and those of them for which 0 is none.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
COUNTS = (
    *LAYERS, "vocab_size", "hidden_size", "n_embd", "dim", "d_model", "embedding_size", "num_attention_heads", "n_head",
    "n_heads", "num_key_value_heads", "head_dim", "intermediate_size", "n_inner", "hidden_dim", "ffn_dim",
    "max_position_embeddings", "n_positions", "n_ctx", "type_vocab_size",
)  # fmt: skip
OR_NONE = ("type_vocab_size", "n_ctx", "n_inner")
MOST_COUNT, MOST_LAYERS = 2**24, 4096
#: Ends of keys that hold a number from 0 to 1, and keys that hold a word.
SMALL = ("_eps", "_epsilon", "_pdrop", "dropout", "dropout_prob", "initializer_range")
NAMES = ("hidden_act", "activation_function", "dtype", "torch_dtype", "position_embedding_type")
LONGEST_VALUE = 40
#: The padding's id, and another one.
LEAST_VOCABULARY = 2


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards that an index names; empty when incomplete."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(folder / shard for shard in set(json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{index.name} of {str(folder)!r} cannot be read ({error!r}); save the model again"
            ) from None
        if elsewhere := [shard for shard in shards if shard.parent != folder]:
            raise ModelError(f"{index.name} names {str(elsewhere[0])!r}, outside {str(folder)!r}; save the model again")
        return shards if all(shard.is_file() for shard in shards) else []
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def check_links(name: str, folder: Path) -> None:
    """Raise ModelError for a file of a model's folder that is a link out of it; the Hub's cache links to its blobs."""
    folder = folder.resolve()
    roots = [folder, *([folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [])]
    for file in folder.iterdir():
        target = file.resolve() if file.is_symlink() and file.suffix in READ else folder
        if not any(target.is_relative_to(root.resolve()) for root in roots):
            raise ModelError(f"{file.name} of {name!r} is a link out of that folder; put the file itself there")


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """The config.json of model `name`; raises ModelError where there is none that can be used."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise ModelError(
            f"model folder {name!r} has no config.json; give a folder that save_pretrained wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"config.json of {name!r} cannot be read ({error}); save the model again") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"config.json of {name!r} names no model_type; save the model again with save_pretrained")
    if "auto_map" in config:
        raise ModelError(
            f"model {name!r} wants to run code of its own (auto_map), which is never done; "
            "use a model whose code transformers has"
        )
    if any("/" in str(config.get(key)) for key in ("attn_implementation", "_attn_implementation")):
        raise ModelError(
            f"config.json of {name!r} names attention kernels of the Hub, which are code and never fetched; "
            "take attn_implementation out of it"
        )
    for key, value in config.items():
        if cause := _wrong(key, value):
            shown = json.dumps(value)
            shown = shown if len(shown) <= LONGEST_VALUE else f"{shown[:LONGEST_VALUE]}…"
            raise ModelError(f"config.json of {name!r} has {key} {shown}, which is {cause}; save the model again")
    return config


def _wrong(key: str, value: Any) -> str:
    """What no model has as a configuration's `key`; "" if one can. Lists and null are left to transformers."""
    if value is None or isinstance(value, list):
        return ""
    if key in COUNTS:
        most = MOST_LAYERS if key in LAYERS else MOST_COUNT
        is_count = type(value) is int and (key not in OR_NONE) <= value <= most
        return "" if is_count else f"no whole number from {int(key not in OR_NONE)} to {most:,}"
    if key.endswith(SMALL):
        is_small = isinstance(value, int | float) and 0 <= value <= 1
        return "" if is_small else "no number from 0 to 1"
    if key in NAMES:
        return "" if isinstance(value, str) else "no text"
    return ""


def vocab_size(name: str, config: dict[str, Any]) -> int:
    """Number of ids that a configuration has; raises ModelError for a model that takes none."""
    size = config.get("vocab_size")
    if not isinstance(size, int):
        raise ModelError(f"config.json of {name!r} has no vocab_size, so no input ids can be drawn; give a text model")
    if size < LEAST_VOCABULARY:
        raise ModelError(
            f"config.json of {name!r} has vocab_size {size}, so no input ids beside the padding can be drawn; "
            f"give a model with at least {LEAST_VOCABULARY}"
        )
    return size


def pad_token_id(config: dict[str, Any]) -> int:
    """The padding id where it is one of the vocabulary's; some configurations say -1 or null for none."""
    found = config.get("pad_token_id")
    return found if isinstance(found, int) and 0 <= found < config["vocab_size"] else 0


def positions(config: dict[str, Any]) -> int | None:
    """Longest sequence in tokens that a configuration has positions for; None where it names no end."""
    found = first_int(config, ("max_position_embeddings", "n_positions", "n_ctx"))
    if found is None or config["model_type"] not in POSITIONS_BEHIND_PADDING:
        return found
    padding = config.get("pad_token_id")
    return found - (padding if isinstance(padding, int) else 1) - 1


def first_int(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    """The first of a configuration's `keys` that holds a count; None without one."""
    return next((config[key] for key in keys if isinstance(config.get(key), int) and config[key] > 0), None)
