"""A claim: what somebody found elsewhere, and how it is held against figures of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.statistics import Interval, Ratio
from bench.study.figures import CUDA, Figures
from bench.study.findings import NOT_TESTED, Finding

#: Parts of the page.
STUDY, BY_HAND = "The study", "The hand-made measurements"
#: Longest title that a table of the page has room for in 80 columns.
LONGEST_TITLE = 42
#: What the hand-made measurements were made on and of.
CARD = "RTX 3090"
NAMES = {"bert": "BERT", "gpt": "GPT", "gpt2": "GPT-2 small", "gpt2-medium": "GPT-2 medium"}


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
        """What `figures` make of it, with a note where they come from another card than it speaks of."""
        found = self.weigh(figures)
        cards = sorted({source.hardware for source in figures.sources if source.device == CUDA})
        others = [card for card in cards if self.card not in card]
        if not self.card or self.device != CUDA or found.outcome == NOT_TESTED or not others:
            return found
        note = f"it was said of an NVIDIA {self.card}; here {', '.join(others)}"
        return replace(found, note="; ".join(filter(None, [found.note, note])))


def factor(ratio: Ratio | None) -> str:
    """`1.23× (1.10–1.40)`."""
    return "no interval" if ratio is None else f"{shown(ratio.value)}×{span(ratio.interval)}"


def span(interval: Interval | None, scale: float = 1.0) -> str:
    """` (1.10–1.40)`, or a word that there is none."""
    if interval is None:
        return " (no interval)"
    return f" ({shown(interval.low * scale)}–{shown(interval.high * scale)})"


def shown(value: float) -> str:
    """Three significant digits, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"
