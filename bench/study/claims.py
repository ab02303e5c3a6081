"""A claim: what somebody found elsewhere, and how it is held against figures of this machine; claims.toml has them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.study import by_hand, rules
from bench.study.figures import CUDA, Figures
from bench.study.findings import NOT_TESTED, Finding
from bench.workloads import published

#: Parts of the page.
STUDY, BY_HAND = "The study", "The hand-made measurements"
#: Longest title that a table of the page has room for in 80 columns.
LONGEST_TITLE = 42
#: What the hand-made measurements were made on and of.
CARD = "RTX 3090"
NAMES = {"bert": "BERT", "gpt": "GPT", "gpt2": "GPT-2 small", "gpt2-medium": "GPT-2 medium"}
FILE = Path(__file__).parent / "claims.toml"
#: Rules by the `kind` of claims.toml: each makes the function that judges from what is under `with`.
RULES: Mapping[str, Callable[..., Callable[[Figures], Finding]]] = {**rules.RULES, **by_hand.RULES}


@dataclass(frozen=True)
class Claim:
    """One sentence of a source, and the rule that judges it."""

    title: str
    """In at most `LONGEST_TITLE` characters."""
    text: str
    source: str
    """`STUDY` or `BY_HAND`."""
    device: str
    """Kind of device that alone can judge it: "cpu", "cuda" or "any"."""
    rule: str
    needs: str
    """Commands whose files judge it."""
    weigh: Callable[[Figures], Finding]
    card: str = ""
    """What it was said of; "" for no card in particular."""

    def judge(self, figures: Figures) -> Finding:
        """What `figures` make of it, with a note if they come from another card than it speaks of."""
        found = self.weigh(figures)
        cards = sorted({source.hardware for source in figures.sources if source.device == CUDA})
        others = [card for card in cards if self.card not in card]
        if not self.card or self.device != CUDA or found.outcome == NOT_TESTED or not others:
            return found
        note = f"it was said of an NVIDIA {self.card}; here {', '.join(others)}"
        return replace(found, note="; ".join(filter(None, [found.note, note])))


@cache
def claims() -> tuple[Claim, ...]:
    """All claims, those of the study first."""
    data = tomllib.loads(FILE.read_text(encoding="utf-8"))
    words = data["words"]
    each = data["each"]
    return (
        *(_claim(entry, STUDY, words) for entry in data["study"]),
        *_of_rows(each),
        *(_claim(entry, BY_HAND, words) for entry in data["by_hand"][:1]),
        *_of_loaded(each["loaded"]),
        *(_claim(entry, BY_HAND, words) for entry in data["by_hand"][1:]),
    )


def _claim(entry: Mapping[str, Any], source: str, words: Mapping[str, str]) -> Claim:
    return Claim(
        title=entry["title"],
        text=entry["text"],
        source=source,
        device=entry["device"],
        rule=entry["rule"].format(**words),
        needs=entry["needs"].format(**words),
        weigh=RULES[entry["kind"]](**entry["with"]),
        card=entry.get("card", ""),
    )


def _of_rows(each: Mapping[str, Mapping[str, str]]) -> Iterator[Claim]:
    """Claims for every published row: its time, its steps, or that it ended without one."""
    data = json.loads((published.FIGURES / "rtx3090.json").read_text())
    rows, card_bytes = published.judge(data), data["card"]["memory_bytes"]
    singles = {(row.model, row.batch): row.median_ms for row in rows if row.length == 1}
    for row in rows:
        values = {
            "name": NAMES[row.model], "model": row.model, "shape": str(row.shape), "batch": row.batch,
            "length": row.length, "ms": row.median_ms, "us": row.us_per_step, "verdict": row.verdict,
            "ending": "fails" if row.verdict == "failed" else row.verdict, "gib": card_bytes / published.GIB,
        }  # fmt: skip
        if row.median_ms is None:
            yield _filled(each["lost"], values, by_hand.out_of_memory(row, card_bytes))
            continue
        yield _filled(each["time"], values, by_hand.time(row))
        if row.us_per_step is not None:
            yield _filled(each["step"], values, by_hand.step(row, singles.get((row.model, row.batch))))


def _of_loaded(template: Mapping[str, str]) -> Iterator[Claim]:
    """Claims for every model whose loaded process was published."""
    for one in published.memory():
        for model, held in one["loaded"].items():
            values = {"name": NAMES[model], "model": model, "mib": held["process_mib"]}
            yield _filled(template, values, by_hand.process(model, held["process_mib"]))


def _filled(template: Mapping[str, str], values: Mapping[str, Any], weigh: Callable[[Figures], Finding]) -> Claim:
    said = {name: text.format(**values) for name, text in template.items()}
    return Claim(source=BY_HAND, device=CUDA, weigh=weigh, card=CARD, **said)
