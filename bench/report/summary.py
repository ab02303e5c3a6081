"""What the printed reports share: rows of one shape, the winner of a cell, warnings grouped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import statistics
from bench.records import Record, Run
from bench.spec import Shape

#: Share of all CPU time, used by others before a run began, above which they will have disturbed it.
BUSY_SHARE = 0.1


@dataclass(frozen=True)
class Winner:
    """Who is fastest at one shape among those that are still the same model."""

    record: Record
    ties: tuple[Record, ...]
    """Contestants that are not slower in every round."""
    speedup: float | None
    """Against the first contestant."""


def shapes(run: Run) -> Iterator[tuple[Shape, list[Record]]]:
    """Each planned shape that has records, with them in the order of the contestants."""
    order = {contestant: index for index, contestant in enumerate(run.grid.contestants)}
    for shape in run.grid.shapes:
        records = [record for record in run.records if record.shape == shape]
        if records:
            yield shape, sorted(records, key=lambda record: order.get(record.contestant, len(order)))


def winner(run: Run, records: list[Record]) -> Winner | None:
    """The fastest of one shape's `records`; None where fewer than two can be compared."""
    comparable = [record for record in records if record.is_comparable and record.judged]
    if len(comparable) < 2:
        return None
    fastest = min(comparable, key=lambda record: statistics.median(record.samples))
    others = (record for record in comparable if record is not fastest)
    ties = tuple(record for record in others if statistics.is_tie(fastest.rounds, record.rounds))
    return Winner(fastest, ties, run.speedup(fastest))


def name(run: Run, record: Record) -> str:
    """`backend:variant`, with the precision where the run has several."""
    has_many = len({contestant.precision for contestant in run.grid.contestants}) > 1
    return f"{record.contestant.label} {record.precision}" if has_many else record.contestant.label


def winner_line(run: Run, won: Winner) -> str:
    """One line: who is fastest, by how much, or with whom it ties."""
    first = run.grid.contestants[0]
    line = f"fastest: {name(run, won.record)}"
    is_tied_with_first = any(record.contestant == first for record in won.ties)
    if won.speedup is not None and won.record.contestant != first and not is_tied_with_first:
        line += f", {won.speedup:.2f}× {first.label}"
    if won.ties:
        line += f" (tie with {', '.join(name(run, record) for record in won.ties)})"
    return line


def grouped(run: Run, messages: list[tuple[Record, str]]) -> list[str]:
    """Messages with the contestants and shapes they concern, each message once per set of shapes."""
    shapes_of: dict[tuple[str, str], list[str]] = {}
    for record, message in messages:
        shapes_of.setdefault((message, name(run, record)), []).append(str(record.shape))
    names_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (message, who), where in shapes_of.items():
        names_of.setdefault((message, tuple(where)), []).append(who)
    everywhere = len(run.grid.shapes)
    return [
        f"{', '.join(who)} at {'every shape' if len(where) == everywhere > 1 else ', '.join(where)}: {message}"
        for (message, where), who in names_of.items()
    ]


def findings(run: Run) -> tuple[list[str], list[str]]:
    """Reasons of the cells that were not measured, and warnings on those that were."""
    reasons = [(record, f"{record.status}: {record.reason}") for record in run.records if record.status != "ok"]
    warnings = [(record, warning) for record in run.records for warning in record.warnings]
    for record in run.records:
        if disagreement := run.unsteadiness(record):
            message = f"no speed-up, as the rounds disagree on it ({bucket(disagreement)}); measure again undisturbed"
            warnings.append((record, message))
    return grouped(run, reasons), [*_of_the_machine(run), *grouped(run, warnings)]


def bucket(disagreement: float) -> str:
    """How far rounds disagree, in words that are alike for similar cells."""
    return next(f"over {limit}-fold" for limit in (100, 10, 2, 0) if disagreement > limit)


def _of_the_machine(run: Run) -> list[str]:
    busy = run.fingerprint.get("busy_share", 0.0)
    if busy <= BUSY_SHARE:
        return []
    return [f"other work took {busy:.0%} of the CPUs when the run began; stop it and measure again"]
