"""What `bench verify DIR` found of a bundle, as lines of at most 80 columns, or JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable

from bench.bundle.envelope import Kept
from bench.bundle.verify import BundleVerification

FORMATS = ("table", "json")
ENDINGS = {
    0: "the bundle holds",
    1: "the bundle is not proven: something could not be decided",
    3: "the bundle does not hold",
    4: "the bundle is slower than its envelope",
}
WIDTH = 80


def render(found: BundleVerification, format: str) -> str:
    """The verification in one of `FORMATS`."""
    if format == "json":
        return json.dumps(found.to_json(), indent=2) + "\n"
    lines = [f"{found.folder}", *found.faults]
    if found.faults:
        lines.append("nothing of it was run")
    if found.judgement is not None:
        judgement = found.judgement
        now = f"parity: {judgement.verdict} now, certified as {found.stated} ({len(judgement.cases)} cases)"
        lines += [now, f"worst: {judgement.reason}"]
    if found.kept:
        held = "held" if found.counts_time else "told, not held"
        lines.append(f"times, {held}: at most {found.threshold:.0%} over the envelope's median")
        lines += [_line(kept) for kept in found.kept]
        if any(kept.verdict == "undecided" for kept in found.kept):
            lines.append(
                "undecided: the interval lies across the limit; quieten the machine (bench doctor) or allow more by "
                "--threshold"
            )
    lines += [f"note: {note}" for note in found.notes]
    lines.append(ENDINGS[found.exit_code])
    return told(lines)


def told(lines: Iterable[str]) -> str:
    """Lines as text of at most 80 columns, as far as no single word is longer."""
    wrapped = (
        textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > WIDTH
        else [line]
        for line in lines
    )
    return "\n".join(piece for pieces in wrapped for piece in pieces) + "\n"


def _line(kept: Kept) -> str:
    where = f"  {kept.batch}×{kept.length}"
    if kept.measured_ns is None:
        return f"{where:<12} {kept.verdict}: {kept.reason}"
    interval = f" ({kept.low:.2f}–{kept.high:.2f})" if kept.low is not None and kept.high is not None else ""
    times = f"{kept.measured_ns / 1e6:.4g} ms, promised {kept.promised_ns / 1e6:.4g}"
    return f"{where:<12} {times}: {kept.ratio:.2f}×{interval} {kept.verdict}"
