"""Text as token ids, by the tokenizer file that lies beside a model. Imports the library only to encode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"


def find(folder: str | Path) -> Path | None:
    """The tokenizer file of a model folder, or `folder` itself where it is one; None when there is none."""
    path = Path(folder)
    path = path if path.name == FILE else path / FILE
    return path if path.is_file() else None


def encode(path: Path, texts: Sequence[str], length: int, vocab_size: int) -> list[list[int]]:
    """Ids of each text, exactly `length` of them, special tokens included where they leave room for others.

    A text that is too short is repeated. Raises ModelError for a file that is no tokenizer's, or another model's.
    """
    tokenizer = _open(path)
    with_special = length > tokenizer.num_special_tokens_to_add(False)
    if with_special:
        tokenizer.enable_truncation(max_length=length)
    else:
        tokenizer.no_truncation()
    rows = []
    for text in texts:
        words = tokenizer.encode(text, add_special_tokens=False).ids
        if not words:
            raise ModelError(f"tokenizer {str(path)!r} makes no token of a text; give the model's own")
        times = 1
        while len(row := tokenizer.encode(" ".join([text] * times), add_special_tokens=with_special).ids) < length:
            times *= 2
        rows.append(row[:length])
        _check_ids([*words, *rows[-1]], path, vocab_size)
    return rows


def encode_each(path: Path, texts: Sequence[str], most: int | None, vocab_size: int) -> tuple[list[list[int]], int]:
    """Ids of each text with special tokens, cut at `most`, and how many texts were cut; raises ModelError."""
    tokenizer = _open(path)
    tokenizer.no_truncation()
    whole = [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
    if most is not None:
        if most <= tokenizer.num_special_tokens_to_add(False):
            raise ModelError(f"tokenizer {path.name!r} adds as many special tokens as the {most} that a text may have")
        tokenizer.enable_truncation(max_length=most)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    for number, row in enumerate(rows, start=1):
        if not row:
            raise ModelError(f"tokenizer {str(path)!r} makes no token of text {number}; give the model's own")
        _check_ids(row, path, vocab_size)
    return rows, sum(length > len(row) for length, row in zip(whole, rows, strict=True))


def _open(path: Path) -> Tokenizer:
    """The tokenizer of a file, without padding."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions
        raise ModelError(
            f"tokenizer {path.name!r} cannot be read ({error}); give one that save_pretrained wrote"
        ) from None
    tokenizer.no_padding()
    return tokenizer


def _check_ids(ids: Sequence[int], path: Path, vocab_size: int) -> None:
    if (largest := max(ids)) >= vocab_size:
        raise ModelError(
            f"tokenizer {str(path)!r} gives id {largest}, beyond the model's vocabulary of {vocab_size}; "
            "give the model's own"
        )
