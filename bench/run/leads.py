"""The fastest candidate at each point, and how far ahead of the next it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from bench import statistics
from bench.columns import count, factor
from bench.run import sections
from bench.run.record import Record, Run, is_unsteady, ratio_between


@dataclass(frozen=True)
class Lead:
    """The fastest at one point among those that are still the same model."""

    point: Any
    winner: Record | None
    """None if no time means something there."""
    runner_up: Record | None = None
    """The next fastest by its median; None if there is no other."""
    ratio: statistics.Ratio | None = None
    """How many times faster the winner is than the runner-up, with its interval."""
    is_tie: bool = False
    """True if another cannot be told from the winner."""

    @property
    def text(self) -> str:
        """`1.42×`, `tie`, `faster` if the rounds disagree on a middle, or `alone`; "" without a winner."""
        if self.winner is None:
            return ""
        if self.runner_up is None:
            return "alone"
        if self.is_tie or self.ratio is None:
            return "tie"
        return "faster" if is_unsteady(self.ratio) else f"{factor(self.ratio.value)}×"


def is_grid(run: Run) -> bool:
    """True for points of a batch size and a sequence length."""
    return {"batch", "length"} <= {one.name for one in fields(run.workload.point_type)}


def leads(run: Run) -> list[Lead]:
    """One for each point that has records; second copies of a candidate take no part."""
    return [
        _lead(run, point, [record for record in records if record.candidate.copy == 1])
        for point, records in sections.iter_points(run)
    ]


def _lead(run: Run, point: Any, records: Sequence[Record]) -> Lead:
    won = sections.winner(run, records)
    if won is None:
        rivals = sections.rivals(run, records)
        return Lead(point, rivals[0] if rivals else None)
    others = [record for record in sections.rivals(run, records) if record is not won.record]
    following = min(others, key=lambda record: statistics.median(record.samples))
    return Lead(point, won.record, following, ratio_between(following, won.record), bool(won.ties))


def headline(run: Run) -> str:
    """The fastest in one sentence; how much was measured if no two candidates compare."""
    found = [lead for lead in leads(run) if lead.runner_up is not None]
    won: dict[str, int] = {}
    for lead in found:
        if lead.winner is not None and not lead.is_tie:
            name = run.name(lead.winner.candidate)
            won[name] = won.get(name, 0) + 1
    if not found:
        cells = [record for _, records in sections.iter_points(run) for record in records]
        return f"{sum(record.status == 'ok' for record in cells)} of {count(len(cells), 'cell')} measured"
    if not won:
        return "No candidate is faster than all others" + (" anywhere" if len(found) > 1 else "")
    best = max(won, key=lambda name: won[name])
    if len(found) > 1:
        return f"{best} is fastest at {won[best]} of {count(len(found), run.workload.point_noun)}"
    (lead,) = found
    times = f", {lead.text.removesuffix('×')} times as fast as " if lead.text.endswith("×") else ", ahead of "
    return f"{best} is fastest{times}{run.name(lead.runner_up.candidate) if lead.runner_up else ''}"
