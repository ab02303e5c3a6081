"""The comparisons that a run's report makes, held together: at which level each one's interval is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.moderated import Prior, prior_of
from bench.run import pairs

if TYPE_CHECKING:
    from bench.run.record import Record, Run

#: Point and candidate of both.
Pair = frozenset[tuple[Any, Any]]


@dataclass(frozen=True)
class Joint:
    """What all records of a run say together of each comparison of two."""

    run: Run
    count: int
    """Records that the run had then."""

    @cached_property
    def rho(self) -> float:
        """Correlation between neighbouring rounds: of every comparable cell's ratio to the baseline."""
        return statistics.correlation(self._log_ratios)

    @cached_property
    def _log_ratios(self) -> list[list[float | None]]:
        """Of each comparable cell to the baseline, by round."""
        return [pairs.log_ratios(*both) for both in _with_baseline(self.run) if pairs.are_paired(*both)]

    @cached_property
    def _prior(self) -> Prior:
        """What the variances of these ratios have in common."""
        return prior_of(self._log_ratios, self.rho)

    @cached_property
    def levels(self) -> dict[Pair, float]:
        """Confidence of each comparison that a report of the run makes, by Holm's rule.

        A report holds every cell against the baseline, and the fastest of each point against the others there.
        """
        shown = {_key(*both): both for both in (*_with_baseline(self.run), *_with_fastest(self.run))}
        verdicts = {
            key: partial(_verdict, *both, statistics.widening(self.rho), self._prior)
            for key, both in shown.items()
            if pairs.ratio_between(*both) is not None
        }
        found = statistics.holm([lambda level, of=of: of(level) != "undecided" for of in verdicts.values()])  # type: ignore[misc]
        return dict(zip(verdicts, found, strict=True))

    def ratio(self, one: Record, other: Record) -> statistics.Ratio | None:
        """How many times faster `other` is than `one`; a comparison that no report makes is one more among them."""
        alone = 1 - statistics.PAGE_ERROR / (len(self.levels) + 1)
        confidence = self.levels.get(_key(one, other), alone)
        return pairs.ratio_between(one, other, confidence, statistics.widening(self.rho), self._prior)


def of(run: Run) -> Joint:
    """What the records that a run has now say together."""
    found: Joint | None = run.__dict__.get("_joint")
    if found is None or found.count != len(run.records):
        found = run.__dict__["_joint"] = Joint(run, len(run.records))
    return found


def _key(one: Record, other: Record) -> Pair:
    return frozenset((one.cell, other.cell))


def _verdict(one: Record, other: Record, widening: float, prior: Prior, confidence: float) -> str:
    found = pairs.ratio_between(one, other, confidence, widening, prior)
    return "undecided" if found is None else found.verdict


def _with_baseline(run: Run) -> Iterator[tuple[Record, Record]]:
    for record in run.records:
        baseline = run.baseline(record)
        is_shown = baseline is not None and baseline is not record and run.workload.is_in_tables(record)
        if baseline is not None and is_shown and run.may_compare(baseline, record):
            yield baseline, record


def _with_fastest(run: Run) -> Iterator[tuple[Record, Record]]:
    for _, records in run.by_point():
        rivals = [one for one in records if one.candidate.copy == 1 and one.is_judged and run.are_sound(one)]
        values = {
            (at, by): math.log(ratio.value)
            for at, one in enumerate(rivals)
            for by, other in enumerate(rivals)
            if at < by and (ratio := pairs.ratio_between(one, other)) is not None
        }
        if values:
            ahead = [
                sum(value * ((at == by) - (at == of)) for (of, by), value in values.items())
                for at in range(len(rivals))
            ]
            fastest = rivals[ahead.index(max(ahead))]
            yield from ((one, fastest) for one in rivals if one is not fastest)
