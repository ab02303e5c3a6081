"""The fastest candidate at each point, and how far ahead of the next it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from bench import statistics
from bench.columns import count, factor
from bench.run import pairs
from bench.run.record import Record, Run, is_unsteady, ratio_between


@dataclass(frozen=True)
class Lead:
    """Who is fastest at one point among those that are still the same model."""

    point: Any
    rivals: tuple[Record, ...]
    """Those whose times can be compared, in the order of the candidates."""

    @cached_property
    def winner(self) -> Record | None:
        """The fastest by its median; None if no time means something there."""
        return min(self.rivals, key=lambda record: statistics.median(record.samples), default=None)

    @property
    def record(self) -> Record:
        """The winner, where two or more compare."""
        assert self.winner is not None
        return self.winner

    @cached_property
    def runner_up(self) -> Record | None:
        """The next fastest; None if there is no other."""
        return Lead(self.point, tuple(one for one in self.rivals if one is not self.winner)).winner

    @cached_property
    def ratio(self) -> statistics.Ratio | None:
        """How many times faster the winner is than the runner-up, with its interval."""
        if self.winner is None or self.runner_up is None:
            return None
        return ratio_between(self.runner_up, self.winner)

    @cached_property
    def ties(self) -> tuple[Record, ...]:
        """Those that cannot be told from the winner."""
        if (fastest := self.winner) is None:
            return ()
        others = ((one, ratio_between(one, fastest)) for one in self.rivals if one is not fastest)
        return tuple(one for one, ratio in others if ratio is None or ratio.verdict != "faster")

    @cached_property
    def why_undecided(self) -> str:
        """Why the winner is not known: too few rounds of it and of another were quiet, or taken; "" if it is."""
        if (fastest := self.winner) is None:
            return ""
        whys = (pairs.why_undecided(one, fastest) for one in self.rivals if one is not fastest)
        return next(filter(None, whys), "")

    @property
    def is_tie(self) -> bool:
        """True if another cannot be told from the winner."""
        return bool(self.ties)

    @property
    def text(self) -> str:
        """`1.42×`, `tie`, `disturbed`, `too few rounds`, `faster` if the rounds disagree on a middle, or `alone`; ""
        without a winner.
        """
        if self.winner is None:
            return ""
        if self.runner_up is None:
            return "alone"
        if self.why_undecided:
            return self.why_undecided.partition(":")[0]
        if self.is_tie or self.ratio is None:
            return "tie"
        return "faster" if is_unsteady(self.ratio) else f"{factor(self.ratio.value)}×"


def is_grid(run: Run) -> bool:
    """True for points of a batch size and a sequence length."""
    return {"batch", "length"} <= {one.name for one in fields(run.workload.point_type)}


def iter_points(run: Run) -> Iterator[tuple[Any, list[Record]]]:
    """Each point that has a table, with its records; none that was left out or skipped whole."""
    workload = run.workload
    for point, records in run.by_point():
        shown = [record for record in records if workload.is_in_tables(record)]
        if not all(record.status == "skipped" or workload.is_left_out(record) for record in shown):
            yield point, shown


def lead(run: Run, point: Any, records: Sequence[Record]) -> Lead:
    """The fastest of `records`."""
    sound = (one for one in records if one.is_comparable and one.is_judged and not run.is_implausible(one))
    return Lead(point, tuple(one for one in sound if one.samples))


def winner(run: Run, records: Sequence[Record]) -> Lead | None:
    """The fastest of `records` and who ties with it; None if fewer than two can be compared."""
    found = lead(run, None, records)
    return None if found.runner_up is None else found


def leads(run: Run) -> list[Lead]:
    """One for each point that has records; second copies of a candidate take no part."""
    return [lead(run, point, [one for one in found if one.candidate.copy == 1]) for point, found in iter_points(run)]


def headline(run: Run) -> str:
    """The fastest in one sentence; how much was measured if no two candidates compare."""
    found = [one for one in leads(run) if one.runner_up is not None]
    won = [run.name(one.winner.candidate) for one in found if one.winner is not None and not one.is_tie]
    if not found:
        cells = [record for _, records in iter_points(run) for record in records]
        return f"{sum(record.status == 'ok' for record in cells)} of {count(len(cells), 'cell')} measured"
    if not won:
        return "No candidate is faster than all others" + (" anywhere" if len(found) > 1 else "")
    best = max(won, key=won.count)
    if len(found) > 1:
        return f"{best} is fastest at {won.count(best)} of {count(len(found), run.workload.point_noun)}"
    (only,) = found
    times = f", {only.text.removesuffix('×')} times as fast as " if only.text.endswith("×") else ", ahead of "
    return f"{best} is fastest{times}{run.name(only.runner_up.candidate) if only.runner_up else ''}"
