"""The latency envelope: the bundled runtime's records, a run file, and whether a later measurement keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import statistics
from bench.diff import change_of
from bench.run import pairs
from bench.run.file import RunFile
from bench.run.record import Record, Run
from bench.spec import DEFAULT_ARTIFACTS, Shape
from bench.workloads.forward import Forward

FILE = "envelope.jsonl"
#: Share by which a median may exceed the envelope's: two runs of one program apart differ by more than two in turns.
THRESHOLD = 0.2


def envelope_of(run: Run, records: Sequence[Record]) -> Run:
    """The part of `run` that `records` are, all of one candidate, as a run of their own."""
    candidate, points = records[0].candidate, [record.point for record in records]
    options = replace(
        run.workload.options,
        preset=None,
        grad=False,
        backends=(candidate.label,),
        precisions=(candidate.precision,),
        baseline=None,
        budget=None,
        output=None,
        artifacts=DEFAULT_ARTIFACTS,
        python=(),
        batches=tuple(sorted({point.batch for point in points})),
        lengths=tuple(sorted({point.length for point in points})),
        shapes=tuple((point.batch, point.length) for point in points),
    )
    return replace(
        run,
        workload=Forward(options),
        candidates=(candidate,),
        records=list(records),
        turns={},
        notes={name: value for name, value in run.notes.items() if name == "peaks"},
        path=None,
        is_complete=True,
        integrity="cut",
    )


def write(envelope: Run, path: Path) -> None:
    """Write the file of an envelope."""
    envelope.path = path
    file = RunFile(envelope)
    file.go_on()
    file.seal()


@dataclass(frozen=True)
class Kept:
    """Whether one shape's promise was kept."""

    batch: int
    length: int
    promised_ns: float
    measured_ns: float | None
    """None if it was not measured."""
    ratio: float | None
    """Measured over promised; above 1 is slower."""
    low: float | None
    high: float | None
    """Ends of the ratio's interval, at least 99 %."""
    verdict: str
    """"within", "slower", "undecided" or "unmeasured"."""
    reason: str = ""


def held(promised: Record, record: Record | None, threshold: float) -> Kept:
    """One promised cell against what was measured again; a share of `threshold` more is still within.

    Slower only if the whole interval lies above, within only if all of it lies below: what noise leaves open is
    undecided.
    """
    point: Shape = promised.point
    start = (point.batch, point.length, statistics.median(promised.samples))
    if record is None or not record.samples:
        reason = "it has no record" if record is None else f"{record.status}: {record.reason}"
        return Kept(*start, None, None, None, None, "unmeasured", reason)
    now = statistics.median(record.samples)
    for cell, when in ((promised, "when it was promised"), (record, "now")):
        if not pairs.has_quiet_rounds(cell):
            few = f"only {len(pairs.quiet_rounds(cell))} of {len(cell.rounds)} rounds were quiet {when}"
            return Kept(*start, now, now / statistics.median(promised.samples), None, None, "undecided", few)
    before = [[statistics.median(round_)] for round_ in pairs.quiet_rounds(promised)]
    change = change_of(before, pairs.quiet_rounds(record))
    if change.interval is None:
        return Kept(*start, now, change.value, None, None, "undecided", "a single round has no interval")
    low, high = change.interval.low, change.interval.high
    verdict = "slower" if low > 1 + threshold else "within" if high <= 1 + threshold else "undecided"
    return Kept(*start, now, change.value, low, high, verdict)
