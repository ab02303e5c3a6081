"""A claim: what somebody found elsewhere, and how it is held against runs of this machine; claims.toml has them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.study.cells import Cell, hardware
from bench.study.findings import ABOUT, NOT_TESTED, Finding, shown
from bench.study.rules import RULES
from bench.workloads import published

#: Parts of the page.
STUDY, BY_HAND = "The study", "The hand-made measurements"
#: Longest title that a table of the page has room for in 80 columns.
LONGEST_TITLE = 42
#: What the hand-made measurements were made on and of.
CARD = "RTX 3090"
NAMES = {"bert": "BERT", "gpt": "GPT", "gpt2": "GPT-2 small", "gpt2-medium": "GPT-2 medium"}
#: Names of models with the architecture of the study's; figures of others judge none of its claims.
MODELS = ("bert", "bert-base-uncased", "bert-base-cased", "camembert-base", "almanach/camembert-base")
FILE = Path(__file__).parent / "claims.toml"


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
    kind: str
    """Of `RULES`."""
    given: Mapping[str, Any]
    """What that rule is given."""
    card: str = ""
    """What it was said of; "" for no card in particular."""

    def judge(self, cells: Sequence[Cell]) -> Finding:
        """What `cells` make of it, with a note if they come from another card than it speaks of."""
        of_model = [cell for cell in cells if self.source != STUDY or cell.model in MODELS]
        found = RULES[self.kind](of_model, None if self.device == "any" else self.device, **self.given)
        cards = sorted({hardware(cell.run) for cell in cells if cell.device == "cuda"})
        others = [card for card in cards if self.card not in card]
        if not self.card or self.device != "cuda" or found.outcome == NOT_TESTED or not others:
            return found
        return replace(found, note=f"it was said of an NVIDIA {self.card}; here {', '.join(others)}")


@cache
def claims() -> tuple[Claim, ...]:
    """All claims, those of the study first."""
    data = tomllib.loads(FILE.read_text(encoding="utf-8"))
    found = [_claim(entry, STUDY, data) for entry in data["study"]]
    for entry in data["by_hand"]:
        found += _of_each(entry["each"], data) if "each" in entry else [_claim(entry, BY_HAND, data)]
    return tuple(found)


def _claim(entry: Mapping[str, Any], source: str, data: Mapping[str, Any]) -> Claim:
    """The claim of an entry; a rule that is given names of figures gets what claims.toml says of them."""
    given = dict(entry["with"])
    for name in {"of", "beside"} & given.keys():
        given[name] = [data["figures"][one] for one in given[name]]
    said = {name: entry[name].format(**data["words"]) for name in ("title", "text", "rule", "needs")}
    kind, card = entry.get("kind", "figure"), entry.get("card", "")
    return Claim(source=source, device=entry["device"], kind=kind, given=given, card=card, **said)


def _of_each(what: str, data: Mapping[str, Any]) -> Iterator[Claim]:
    """A claim for each of the published "rows" (its time or that it has none; its step), or "loaded" models."""
    for name, values, is_impossible in _steps_and_times() if what == "rows" else _loaded():
        each = data["each"][name]
        given = each["with"] | {"at": values}
        given["holds"] = {how: values[of] for how, of in given["holds"].items()}
        if is_impossible:
            given["refuted"] = each["impossible"].format(**values)
        said = {part: each[part].format(**values) for part in ("title", "text", "rule", "needs")}
        yield _claim({**said, "device": "cuda", "card": CARD, "with": given}, BY_HAND, data)


def _steps_and_times() -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """The kind of claim, its figures, and whether it can not be, of every published row."""
    data = json.loads((published.FIGURES / "rtx3090.json").read_text())
    rows, gib = published.judge(data), data["card"]["memory_bytes"] / published.GIB
    singles = {(row.model, row.batch): row.median_ms for row in rows if row.length == 1}
    for row in rows:
        values: dict[str, Any] = {
            "name": NAMES[row.model], "model": row.model, "shape": str(row.shape), "batch": row.batch,
            "length": row.length, "verdict": row.verdict, "gib": gib,
            "ending": "fails" if row.verdict == "failed" else row.verdict,
        }  # fmt: skip
        if row.median_ms is None or row.flops_per_second is None:
            yield "lost", values, False
            continue
        values |= {"ms": row.median_ms, "gflop": row.flops / 1e9, "tflops": row.flops_per_second / 1e12}
        yield "time", values | {"share": row.peak_share}, row.verdict == "implausible"
        if row.us_per_step is not None:
            single_us = 1e3 * (singles.get((row.model, row.batch)) or 0)
            step = {"us": row.us_per_step, "single_us": shown(single_us)}
            yield "step", values | step, single_us > row.us_per_step * ABOUT


def _loaded() -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """The same of every model whose loaded process was published."""
    for one in published.memory():
        for model, holds in one["loaded"].items():
            yield "loaded", {"name": NAMES[model], "model": model, "mib": holds["process_mib"]}, False
