"""Models by name: what the user wrote to an architecture and where its weights come from. Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporters import folders
from exporters.errors import ModelError
from exporters.store import file_checksum, recipe_key

WEIGHTS = ("auto", "random", "pretrained")
#: In place of one of these where the user's own code makes the weights.
MODULE = "module"
TASKS = ("base", "lm")
INPUTS = ("input_ids", "attention_mask")
#: Model types of transformers that generate with a cache of keys and values.
DECODERS = (
    "bloom", "codegen", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama",
    "mistral", "mixtral", "mpt", "olmo", "olmo2", "openai-gpt", "opt", "phi", "phi3", "qwen2", "qwen3", "stablelm",
    "starcoder2",
)  # fmt: skip
#: Decoders whose code in transformers takes no keys and values of earlier tokens.
WITHOUT_CACHE = ("openai-gpt",)
#: Of activations; quantised models here keep theirs in float32.
BYTES_PER_ELEMENT = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "int8": 4}
OUTPUT_OF_TASK = {"base": "last_hidden_state", "lm": "logits"}


@dataclass(frozen=True)
class Architecture:
    """An exact architecture: transformers' model type, the configuration that differs from its default, the Hub id."""

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    hub_ids: tuple[str, ...] = ()
    vocab_size: int = 0
    positions: int = 0
    description: str = ""


_TINY = {"vocab_size": 1024}
_TINY_GPT = _TINY | {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 128, "bos_token_id": 0, "eos_token_id": 0}

#: The architectures that can be asked for by name; sizes as published with each model's configuration.
ARCHITECTURES = {
    "bert": Architecture(
        "bert",
        hub_ids=("google-bert/bert-base-uncased", "bert-base-uncased"),
        vocab_size=30522,
        positions=512,
        description="BERT base uncased, 12 layers, width 768, 109.5 M parameters",
    ),
    "gpt": Architecture(
        "openai-gpt",
        hub_ids=("openai-community/openai-gpt", "openai-gpt"),
        vocab_size=40478,
        positions=512,
        description="GPT, 12 layers, width 768, 116.5 M parameters",
    ),
    "gpt2": Architecture(
        "gpt2",
        hub_ids=("openai-community/gpt2", "gpt2"),
        vocab_size=50257,
        positions=1024,
        description="GPT-2 small, 12 layers, width 768, 124.4 M parameters",
    ),
    "gpt2-medium": Architecture(
        "gpt2",
        {"n_layer": 24, "n_embd": 1024, "n_head": 16},
        hub_ids=("openai-community/gpt2-medium", "gpt2-medium"),
        vocab_size=50257,
        positions=1024,
        description="GPT-2 medium, 24 layers, width 1024, 354.8 M parameters",
    ),
    "bert-tiny": Architecture(
        "bert",
        _TINY
        | {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 2,
            "intermediate_size": 256,
            "max_position_embeddings": 128,
        },
        vocab_size=1024,
        positions=128,
        description="2-layer BERT for tests, random weights only",
    ),
    "gpt-tiny": Architecture(
        "openai-gpt",
        _TINY_GPT,
        vocab_size=1024,
        positions=128,
        description="2-layer GPT for tests, random weights only",
    ),
    "gpt2-tiny": Architecture(
        "gpt2", _TINY_GPT, vocab_size=1024, positions=128, description="2-layer GPT-2 for tests, random weights only"
    ),
}


@dataclass(frozen=True)
class KeysAndValues:
    """What decides how many keys and values a decoder caches."""

    layers: int
    heads: int
    """Those that keep keys and values of their own, which can be fewer than attend."""
    head_width: int

    def bytes(self, length: int, precision: str) -> int:
        """Bytes of one sequence of `length` tokens: 2 (k and v) · layers · heads · head width · length · bytes."""
        return 2 * self.layers * self.heads * self.head_width * length * BYTES_PER_ELEMENT[precision]


@dataclass(frozen=True)
class ModelSource:
    """Where one model's architecture and weights come from, settled before anything heavy starts."""

    name: str
    task: str
    weights: str
    """"random" or "pretrained"."""
    origin: str
    """One line for the user and for every record."""
    config: dict[str, Any]
    """Configuration to build from, `model_type` included."""
    folder: str | None
    """Folder with config.json and safetensors, for pretrained weights."""
    seed: int
    vocab_size: int
    positions: int | None
    """Largest length, as far as the configuration tells."""
    pad_token_id: int

    @property
    def width(self) -> int:
        """Width of the hidden state; BERT base's where the configuration names none."""
        return folders.first_int(self.config, ("hidden_size", "n_embd", "dim", "d_model")) or 768

    @property
    def layers(self) -> int:
        """Transformer layers; BERT base's where the configuration names none."""
        return folders.first_int(self.config, ("num_hidden_layers", "n_layer", "n_layers", "num_layers")) or 12

    def flops(self, batch: int, length: int) -> int:
        """Rough floating-point operations of one pass: 24·width² a token and layer, and attention's 4·length²·width."""
        return batch * self.layers * (24 * self.width**2 * length + 4 * length**2 * self.width)

    @property
    def keys_and_values(self) -> KeysAndValues | None:
        """What a decoder caches; None for an encoder."""
        if not self.is_decoder:
            return None
        heads = folders.first_int(self.config, ("num_attention_heads", "n_head", "n_heads")) or 12
        kept = folders.first_int(self.config, ("num_key_value_heads",)) or heads
        return KeysAndValues(self.layers, kept, folders.first_int(self.config, ("head_dim",)) or self.width // heads)

    def key_value_bytes(self, length: int, precision: str) -> int | None:
        """Bytes of keys and values that a decoder caches for one sequence of `length` tokens; None for an encoder."""
        cached = self.keys_and_values
        return None if cached is None else cached.bytes(length, precision)

    @property
    def is_decoder(self) -> bool:
        """True for a model that can generate."""
        return self.config["model_type"] in DECODERS

    @property
    def keeps_keys_and_values(self) -> bool:
        """True for a decoder that can generate with a cache."""
        return self.is_decoder and self.config["model_type"] not in WITHOUT_CACHE

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in the order of the model's arguments."""
        return INPUTS

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the model's order."""
        return (OUTPUT_OF_TASK[self.task],)

    @property
    def makes_inputs(self) -> bool:
        """True where the model comes with a function that makes its inputs."""
        return False

    @property
    def whole_outputs(self) -> tuple[str, ...]:
        """Outputs without an axis of positions, [batch, …]."""
        return ()

    @property
    def output_width(self) -> int:
        """Elements of the widest output at one position."""
        return self.vocab_size if self.task == "lm" else self.width

    @property
    def generates(self) -> bool:
        """True for a decoder with its head."""
        return self.task == "lm" and self.is_decoder

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions whose versions count among what decides the checkpoint's content."""
        return ("torch", "transformers")

    def export_options(self) -> list[str]:
        """Command line by which the exporting process finds the same model."""
        return [f"--model={self.name}", "--weights", self.weights, "--task", self.task, "--seed", str(self.seed)]

    def settled(self, metadata: Mapping[str, Any]) -> ModelSource:
        """This source with what only the built model tells, from its checkpoint's metadata."""
        return self

    def weights_checksum(self) -> str:
        """Of the architecture and its weights, whatever the libraries' versions."""
        return recipe_key(self.recipe())

    def place(self) -> dict[str, Any]:
        """What of the checkpoint's recipe is this machine's, and no part of the model."""
        return {}

    def recipe(self) -> dict[str, Any]:
        """What decides the checkpoint's content: configuration and seed, or the weight files' checksums."""
        recipe: dict[str, Any] = {"task": self.task, "weights": self.weights, "config": self.config}
        if self.weights == "random":
            recipe["seed"] = self.seed
        else:
            assert self.folder is not None
            recipe["weight_files"] = {
                path.name: file_checksum(path) for path in folders.weight_files(Path(self.folder))
            }
        return recipe


def resolve(name: str, *, weights: str = "auto", task: str = "base", seed: int = 0) -> ModelSource:
    """Find architecture and weights of model `name`: one of `ARCHITECTURES`, a local folder or a Hub id.

    "auto" takes pretrained weights that are on this machine, else seeded random ones, and never
    touches the network. `file.py:factory` is the user's own module, and so is every name with weights "module".
    Raises ModelError.
    """
    from exporters import module_source

    if weights == MODULE or module_source.is_factory(name):
        return module_source.resolve(name, weights=weights, task=task, seed=seed)
    if weights not in WEIGHTS:
        raise ModelError(f"unknown weights {weights!r}; use one of {', '.join(WEIGHTS)}")
    if task not in TASKS:
        raise ModelError(f"unknown task {task!r}; use one of {', '.join(TASKS)}")
    if name in ARCHITECTURES:
        return _named(name, weights, task, seed)
    if _is_folder(name):
        return _folder(name, Path(name), weights, task, seed)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"model folder {name!r} does not exist; give a folder with config.json and model.safetensors")
    if "/" not in name and (close := difflib.get_close_matches(name, ARCHITECTURES, n=1)):
        raise ModelError(f"unknown model {name!r}; did you mean {close[0]!r}? `bench list models` shows all")
    return _hub(name, weights, task, seed)


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _named(name: str, weights: str, task: str, seed: int) -> ModelSource:
    architecture = ARCHITECTURES[name]
    snapshot = None if weights == "random" else _cached_snapshot(architecture.hub_ids)
    if snapshot is not None:
        return _folder(
            name, snapshot, "pretrained", task, seed, origin=f"pretrained, from the Hub cache ({snapshot.name[:12]})"
        )
    if weights == "pretrained" and not architecture.hub_ids:
        raise ModelError(f"{name} has no pretrained weights; use --weights random")
    if weights == "pretrained":
        return _downloaded(name, architecture.hub_ids[0], task, seed)
    return ModelSource(
        name=name,
        task=task,
        weights="random",
        origin=_random_origin(weights, seed, architecture.hub_ids),
        config={"model_type": architecture.model_type, **architecture.config},
        folder=None,
        seed=seed,
        vocab_size=architecture.vocab_size,
        positions=architecture.positions,
        pad_token_id=0,
    )


def _random_origin(weights: str, seed: int, hub_ids: tuple[str, ...] = ()) -> str:
    remedy = "; no pretrained ones are on this machine, --weights pretrained may download them"
    return f"seeded random (seed {seed})" + (remedy if weights == "auto" and hub_ids else "")


def _folder(name: str, folder: Path, weights: str, task: str, seed: int, origin: str | None = None) -> ModelSource:
    config = folders.read_config(name, folder)
    folders.check_links(name, folder)
    files = folders.weight_files(folder)
    if weights != "random" and not files:
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        held = f"only {', '.join(pickles)}, and pickles are never loaded" if pickles else "no weight file"
        raise ModelError(
            f"model folder {name!r} holds {held}; save it with save_pretrained(…, safe_serialization=True), "
            "or use --weights random for its architecture alone"
        )
    random = weights == "random"
    return ModelSource(
        name=name,
        task=task,
        weights="random" if random else "pretrained",
        origin=_random_origin(weights, seed) if random else origin or "pretrained, from the folder's safetensors",
        config=config,
        folder=None if random else str(folder.resolve()),
        seed=seed,
        vocab_size=folders.vocab_size(name, config),
        positions=folders.positions(config),
        pad_token_id=folders.pad_token_id(config),
    )


def _hub(name: str, weights: str, task: str, seed: int) -> ModelSource:
    snapshot = _cached_snapshot((name,))
    if snapshot is not None:
        origin = f"pretrained, from the Hub cache ({snapshot.name[:12]})" if weights != "random" else None
        return _folder(name, snapshot, weights, task, seed, origin=origin)
    if weights != "pretrained":
        raise ModelError(
            f"model {name!r} is neither a built-in name ({', '.join(ARCHITECTURES)}), nor a folder, nor a Hub model "
            "on this machine; --weights pretrained may download it from the Hub"
        )
    return _downloaded(name, name, task, seed)


def _downloaded(name: str, hub_id: str, task: str, seed: int) -> ModelSource:
    snapshot = _download(hub_id)
    origin = f"pretrained, downloaded from {hub_id} ({snapshot.name[:12]})"
    return _folder(name, snapshot, "pretrained", task, seed, origin=origin)


def _cached_snapshot(hub_ids: tuple[str, ...]) -> Path | None:
    """Folder of the first of `hub_ids` whose configuration and safetensors are in the Hub cache. Reads files only."""
    from huggingface_hub import try_to_load_from_cache

    for hub_id in hub_ids:
        try:
            config = try_to_load_from_cache(hub_id, "config.json")
        except ValueError:  # HFValidationError: not the shape of a Hub id
            continue
        if isinstance(config, str) and folders.weight_files(Path(config).parent):
            return Path(config).parent
    return None


def _download(hub_id: str) -> Path:
    """Fetch configuration, tokenizer and safetensors of `hub_id`; nothing that holds code or pickles."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {hub_id!r} could not be downloaded ({type(error).__name__}: {cause}); "
            "check the name and the network, or use --weights random with a built-in name"
        ) from error
