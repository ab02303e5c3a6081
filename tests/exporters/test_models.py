"""Models: names, folders and refusals, without building anything large."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from exporters import checkpoint, folders, models, sources
from exporters.errors import ModelError
from exporters.sources import ARCHITECTURES, resolve


@pytest.fixture(autouse=True)
def empty_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "_cached_snapshot", lambda hub_ids: None)


def folder_with(tmp_path: Path, config: object, *files: str) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (folder / name).write_bytes(b"weights")
    return str(folder)


BERT_CONFIG = {
    "model_type": "bert", "vocab_size": 100, "max_position_embeddings": 64, "hidden_size": 32, "num_hidden_layers": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_named_model_resolves_to_random_weights_offline(name: str) -> None:
    source = resolve(name)
    assert (source.weights, source.folder) == ("random", None)
    assert "seeded random (seed 0" in source.origin


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("brt", {}, "unknown model 'brt'; did you mean 'bert'"),
        ("distilbert/distilbert-base-uncased", {}, "--weights pretrained may download"),
        ("bert-tiny", {"weights": "pretrained"}, "has no pretrained weights; use --weights random"),
        ("/no/such/folder", {}, "does not exist"),
        ("./nothing", {}, "does not exist"),
        ("a/b/c", {}, "does not exist"),
        ("x" * 5000, {}, "neither a built-in name"),
        ("bert", {"weights": "some"}, "unknown weights 'some'"),
        ("bert", {"task": "chat"}, "unknown task 'chat'"),
    ],
)
def test_a_name_that_is_no_model_is_told_what_helps(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(name, **options)


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match=r"could not be downloaded \(OSError: no network\)"):
        resolve("bert", weights="pretrained")


def test_a_folder_is_pretrained_if_it_has_weights(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, BERT_CONFIG)
    with pytest.raises(ModelError, match="no weight file"):
        resolve(folder)
    assert resolve(folder, weights="random").weights == "random"
    (Path(folder) / "model.safetensors").write_bytes(b"weights")
    source = resolve(folder)
    assert (source.weights, source.vocab_size, source.positions, source.width) == ("pretrained", 100, 64, 32)
    before = source.recipe()
    (Path(folder) / "model.safetensors").write_bytes(b"others!")
    assert resolve(folder).recipe() != before
    assert resolve("bert", seed=1).recipe() != resolve("bert", seed=2).recipe()


@pytest.mark.parametrize(
    ("config", "file", "message"),
    [
        (BERT_CONFIG, "pytorch_model.bin", r"only pytorch_model\.bin, and pickles are never loaded"),
        (BERT_CONFIG | {"auto_map": {"AutoModel": "evil.Model"}}, "model.safetensors", "code of its own"),
        *((text, "model.safetensors", r"config\.json") for text in ("{broken", "[]", '{"vocab_size": 3}')),
    ],
)
def test_a_folder_that_is_not_loaded_says_why(tmp_path: Path, config: object, file: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(folder_with(tmp_path, config, file))


@pytest.mark.parametrize(
    "change",
    [
        *({"vocab_size": value} for value in (0, 1, -1, 10**12, 1.5, "100", True, float("nan"), {"a": 1})),
        *({"hidden_size": value} for value in (0, -8, 10**30, 32.0, "wide", float("inf"))),
        *({"num_hidden_layers": value} for value in (0, -1, 10**6, "2", False)),
        *({"num_attention_heads": value} for value in (0, -2, 10**9, 2.0)),
        *({"max_position_embeddings": value} for value in (0, -1, 10**12, "64", float("nan"))),
        *({"intermediate_size": value} for value in (0, -1, "a")), {"type_vocab_size": -1},
        *({"layer_norm_eps": value} for value in (-1e-12, float("nan"), float("inf"), "1e-12", {})),
        *({"hidden_dropout_prob": value} for value in (-0.1, 1.5, float("nan"), "0.1")),
        *({"hidden_act": value} for value in (3, {}, True)), {"position_embedding_type": 3}, {"dtype": 32},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_no_model_has_is_refused_at_once(tmp_path: Path, change: dict[str, object]) -> None:
    """Nothing heavy is imported for it, whatever the backend; the line names the key and its value."""
    folder = folder_with(tmp_path, BERT_CONFIG | change, "model.safetensors")
    with pytest.raises(ModelError, match=rf"config\.json .*has (no )?{next(iter(change))}.*; (save|give)"):
        resolve(folder, weights="random")


def test_incomplete_shards_are_no_weights(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, BERT_CONFIG, "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (Path(folder) / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="no weight file"):
        resolve(folder)
    (Path(folder) / "model-2.safetensors").write_bytes(b"weights")
    assert len(folders.weight_files(Path(folder))) == 2


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index_of_shards_is_one_line(tmp_path: Path, index: str) -> None:
    folder = folder_with(tmp_path, BERT_CONFIG)
    (Path(folder) / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json of .* cannot be read"):
        resolve(folder)


@pytest.mark.parametrize("shard", ["../secret", "/etc/hostname", "deeper/../../secret"])
def test_shards_outside_a_model_folder_are_not_read(tmp_path: Path, shard: str) -> None:
    (tmp_path / "secret").write_bytes(b"weights")
    name = folder_with(tmp_path, BERT_CONFIG)
    (Path(name) / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match=r"outside .*save the model again"):
        resolve(name)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "vocab.txt"])
def test_links_out_of_a_model_folder_are_not_followed(tmp_path: Path, file: str) -> None:
    """What is read of it may be written into a bundle. The Hub's cache links to its own blobs."""
    (tmp_path / "secret").write_text("mine")
    name = folder_with(tmp_path, BERT_CONFIG, "model.safetensors")
    (Path(name) / file).unlink(missing_ok=True)
    (Path(name) / file).symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=f"{file} of .* is a link out of that folder"):
        resolve(name)
    (Path(name) / file).unlink()
    cache = tmp_path / "models--org--name"
    shutil.move(name, cache / "snapshots" / "abc")
    (cache / "blobs").mkdir()
    (cache / "blobs" / "0123").write_bytes(b"weights")
    (cache / "snapshots" / "abc" / file).symlink_to(Path("..", "..", "blobs", "0123"))
    assert resolve(str(cache / "snapshots" / "abc")).config == BERT_CONFIG


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_no_kernels_that_a_configuration_names_are_fetched(tmp_path: Path, key: str) -> None:
    name = folder_with(tmp_path, {**BERT_CONFIG, key: "someone/kernels"}, "model.safetensors")
    for read in (lambda: resolve(name), lambda: models.load_checkpoint(Path(name), "base", "cpu", None)):
        with pytest.raises(ModelError, match="names attention kernels of the Hub, which are code and never fetched"):
            read()


@pytest.mark.parametrize("padding", [-1, None, "0", 10**6])
def test_a_padding_id_outside_the_vocabulary_is_not_used(tmp_path: Path, padding: object) -> None:
    folder = folder_with(tmp_path, BERT_CONFIG | {"pad_token_id": padding}, "model.safetensors")
    assert resolve(folder).pad_token_id == 0


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    models.build(sources.resolve("bert-tiny")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 1}, "parameters of layers that its config.json does not have"),
        ({"num_hidden_layers": 3}, "parameters of BertModel unset"),
        ({"vocab_size": 1000}, "weights .* have another shape than its config.json says"),
        ({"num_attention_heads": 3}, "cannot be built"),
        ({"hidden_act": "nothing"}, "cannot be built"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_and_configuration_must_agree(
    saved: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    shutil.copytree(saved, tmp_path / "model")
    config = json.loads((saved / "config.json").read_text()) | change
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        checkpoint.export(resolve(str(tmp_path / "model")), tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100])
@pytest.mark.filterwarnings("ignore")
def test_broken_weights_are_one_line(saved: Path, tmp_path: Path, content: bytes) -> None:
    folder = folder_with(tmp_path, (saved / "config.json").read_text())
    (Path(folder) / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be built .* check its config\.json and weights"):
        checkpoint.export(resolve(folder), tmp_path)


def test_flops_are_near_the_published_counts() -> None:
    """BERT base at 1×512 takes 96.8 GFLOP (2·85.05 M·512 + 4·512²·768·12)."""
    assert resolve("bert").flops(1, 512) == pytest.approx(96.8e9, rel=0.01)
    assert resolve("gpt2-medium").flops(1, 512) == pytest.approx(335e9, rel=0.01)


@pytest.mark.parametrize("name", ["bert-tiny", "gpt-tiny", "gpt2-tiny"])
@pytest.mark.filterwarnings("ignore")
def test_tiny_models_are_what_the_table_says(name: str) -> None:
    model = models.build(resolve(name))
    assert not model.training
    assert model.config.vocab_size == ARCHITECTURES[name].vocab_size
    assert models.usable_positions(model) == ARCHITECTURES[name].positions == 128


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bert", 109_482_240), ("gpt", 116_534_784), ("gpt2", 124_439_808), ("gpt2-medium", 354_823_168)],
)
@pytest.mark.filterwarnings("ignore")
def test_named_architectures_are_exact(name: str, parameters: int) -> None:
    import torch

    with torch.device("meta"):
        from transformers import AutoConfig, AutoModel

        source = resolve(name)
        settings = {key: value for key, value in source.config.items() if key != "model_type"}
        model = AutoModel.from_config(AutoConfig.for_model(source.config["model_type"], **settings))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.config.vocab_size == source.vocab_size
    assert models.usable_positions(model) == source.positions


@pytest.mark.filterwarnings("ignore")
def test_a_padding_index_takes_positions_away() -> None:
    from transformers import RobertaConfig, RobertaModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = RobertaConfig(**sizes, vocab_size=50, max_position_embeddings=66)
    assert models.usable_positions(RobertaModel(config)) == 64


def test_keys_and_values_of_the_study() -> None:
    """seed.md's arithmetic for GPT: 4 bytes · 2 · 768 · 512 · 12 layers a sequence."""
    assert resolve("gpt").key_value_bytes(512, "fp32") == 37_748_736
    assert resolve("gpt").key_value_bytes(512, "bf16") == 37_748_736 // 2
    assert resolve("gpt2-medium").key_value_bytes(1024, "fp32") == 2 * 24 * 1024 * 1024 * 4
    assert resolve("bert").key_value_bytes(512, "fp32") is None


def test_grouped_queries_keep_fewer_keys(tmp_path: Path) -> None:
    config = {"model_type": "llama", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 3}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = resolve(str(tmp_path), weights="random").key_value_bytes(10, "fp16")
    assert found == 2 * 3 * 2 * 16 * 10 * 2
