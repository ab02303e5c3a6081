"""English text of this project's own: seeded sentences of any length, put together from parts."""

from __future__ import annotations

import math
import random

#: Words of a sentence are drawn from a log-normal distribution, as Williams (1940, Biometrika 31) and Wake (1957, JRSS
#: A 120) took for that of prose; Sichel (1974, JRSS A 137) discusses both. Median and multiplicative standard deviation
#: are this project's choice: two of three sentences have 11 to 31 words.
MEDIAN_WORDS, SPREAD_OF_WORDS = 18.0, 1.7
FEWEST_WORDS, MOST_WORDS = 2, 400
#: Sentences of a text that judged inputs are drawn from.
SENTENCES_OF_A_TEXT = 40

_SHORT = (
    "Nobody answered.", "It rained again.", "Take the stairs.", "We were late.", "Close the window, please.",
    "The shop is shut.", "Why did she leave?", "That is not mine.", "He never said so.", "Start with the index.",
)  # fmt: skip
_OWNERS = ("the", "one", "every", "our", "her", "the second", "that")
_KINDS = (
    "old", "quiet", "careful", "northern", "half-empty", "cheap", "reliable", "young", "stubborn", "well-known",
    "unfinished", "grey", "impatient", "temporary", "foreign",
)  # fmt: skip
_NOUNS = (
    "baker", "engineer", "letter carrier", "museum", "council", "engine", "library", "river", "translator", "station",
    "newspaper", "gardener", "archive", "factory", "teacher", "harbour", "surgeon", "witness", "orchestra", "ministry",
    "telescope", "tenant", "programme", "glacier", "cooperative", "bridge", "laboratory", "choir", "landlord", "ferry",
)  # fmt: skip
_VERBS = (
    "repaired", "sold", "measured", "ignored", "photographed", "counted", "replaced", "described", "borrowed", "hid",
    "paid for", "waited for", "argued about", "remembered", "refused", "painted", "listed", "returned", "praised",
)  # fmt: skip
_WHERE = (
    "behind the town hall", "on the third floor", "near the frontier", "in a rented cellar", "under the motorway",
    "along the canal", "at the edge of the village", "between two fields", "in front of everybody", "by the lighthouse",
)  # fmt: skip
_WHEN = (
    "on Tuesday", "before sunrise", "in the winter of 1962", "for almost nine years", "after the last train",
    "during the interval", "at half past four", "within 48 hours", "since the flood", "every other week",
)  # fmt: skip
_HOW = (
    "without a word", "with great patience", "by mistake", "for 12.50 a piece", "as if nothing had happened",
    "against all advice", "with borrowed tools", "in a hurry", "out of pure curiosity", "at its own expense",
)  # fmt: skip
_LINKS = (", and", ", but", "; meanwhile", ", because", ", although", ", so", ", while", "; later", ", which is why")


def texts(count: int, seed: int) -> list[str]:
    """`count` seeded texts, the first ones the same however many there are."""
    found = sentences(SENTENCES_OF_A_TEXT * count, seed)
    starts = range(0, len(found), SENTENCES_OF_A_TEXT)
    return [" ".join(found[start : start + SENTENCES_OF_A_TEXT]) for start in starts]


def sentences(count: int, seed: int) -> list[str]:
    """`count` sentences put together from parts, seeded; their numbers of words are `words_of_sentences`."""
    generator = random.Random(f"sentences {seed}")
    return [_sentence(words, generator) for words in words_of_sentences(count, seed)]


def words_of_sentences(count: int, seed: int) -> list[int]:
    """Numbers of words of `count` sentences, seeded, log-normal."""
    generator = random.Random(f"words {seed}")
    drawn = (generator.lognormvariate(math.log(MEDIAN_WORDS), math.log(SPREAD_OF_WORDS)) for _ in range(count))
    return [min(max(round(words), FEWEST_WORDS), MOST_WORDS) for words in drawn]


def _sentence(words: int, generator: random.Random) -> str:
    """A sentence of about `words` words, seldom more than two off."""
    if words <= 5:
        return generator.choice(_SHORT)
    text = _clause(generator)
    while (left := words - len(text.split())) > 1:
        if left >= 8 and generator.random() < 0.6:
            text += f"{generator.choice(_LINKS)} {_clause(generator)}"
        elif left >= 6 and generator.random() < 0.5:
            text += f", which {generator.choice(_VERBS)} {_thing(generator)}"
        else:
            text += f" {generator.choice(generator.choice((_WHERE, _WHEN, _HOW)))}"
    return f"{text[0].upper()}{text[1:]}{generator.choice(('.', '.', '.', '.', '?', '!'))}"


def _clause(generator: random.Random) -> str:
    return f"{_thing(generator)} {generator.choice(_VERBS)} {_thing(generator)}"


def _thing(generator: random.Random) -> str:
    parts = [generator.choice(_OWNERS), generator.choice(_KINDS) if generator.random() < 0.4 else ""]
    return " ".join(filter(None, [*parts, generator.choice(_NOUNS)]))
