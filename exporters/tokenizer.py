"""Text as token ids, by the tokenizer file that lies beside a model. Imports the library only to encode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exporters.sources import ModelError

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
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions
        raise ModelError(
            f"tokenizer {path.name!r} cannot be read ({error}); give one that save_pretrained wrote"
        ) from None
    tokenizer.no_padding()
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
        if (largest := max(*words, *rows[-1])) >= vocab_size:
            raise ModelError(
                f"tokenizer {str(path)!r} gives id {largest}, beyond the model's vocabulary of {vocab_size}; "
                "give the model's own"
            )
    return rows
