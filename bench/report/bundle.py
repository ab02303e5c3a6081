"""What `bench deploy` wrote and what `bench verify DIR` found of a bundle, for a terminal or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from bench.bundle.api import Bundle
from bench.bundle.envelope import Kept
from bench.bundle.verify import BundleVerification
from bench.columns import DASH, Section, Table, milliseconds
from bench.report import console

ENDINGS = {
    0: "the bundle holds",
    1: "the bundle is not proven: something could not be measured or judged",
    3: "the bundle does not hold",
    4: "the bundle is slower than its envelope",
    6: "the bundle is not proven: whether it is as fast as its envelope is undecided",
}


def made(bundle: Bundle) -> str:
    """What was written and why."""
    return console.render_sections(bundle.lines, ())


def render(found: BundleVerification, format: str) -> str:
    """The verification as "table" or "json"."""
    if format == "json":
        return json.dumps(found.to_json(), indent=2) + "\n"
    return console.render_sections([found.folder], sections(found))


def sections(found: BundleVerification) -> Iterator[Section]:
    """Faults of the files, parity, times, notes, and the ending."""
    if found.faults:
        yield Section("Files", ("nothing of it was run",), items=found.faults)
    if (judgement := found.judgement) is not None:
        now = f"{judgement.verdict} now, certified as {found.stated} ({len(judgement.cases)} cases)"
        yield Section("Parity", (now, f"worst: {judgement.reason}"))
    if found.kept:
        counts = "held" if found.counts_time else "told, not held"
        limit = f"{counts}: at most {found.threshold:.0%} over the envelope's median"
        yield Section("Times", (limit,), _times(found.kept), tuple(_hints(found.kept)))
    yield Section("Notes", items=found.notes)
    yield Section("Result", (ENDINGS[found.exit_code],), style="red" if found.exit_code else "green")


def _times(kept: Sequence[Kept]) -> Table:
    rows = []
    for one in kept:
        interval = f"{one.low:.2f}–{one.high:.2f}" if one.low is not None and one.high is not None else DASH
        now = DASH if one.measured_ns is None else milliseconds(one.measured_ns)
        ratio = DASH if one.ratio is None else f"{one.ratio:.2f}×"
        rows.append((f"{one.batch}×{one.length}", now, milliseconds(one.promised_ns), ratio, interval, one.verdict))
    titles = ("shape", "ms", "promised ms", "ratio", "interval", "verdict")
    return Table(titles, tuple(rows), (True, False, False, False, False, True))


def _hints(kept: Sequence[Kept]) -> Iterator[str]:
    yield from (f"{one.batch}×{one.length} {one.verdict}: {one.reason}" for one in kept if one.reason)
    if any(one.verdict == "undecided" for one in kept):
        remedy = "quieten the machine (bench doctor) or allow more by --threshold"
        yield f"undecided: the interval lies across the limit; {remedy}"
