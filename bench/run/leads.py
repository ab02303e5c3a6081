"""The fastest candidate at each point, and how far ahead of the next it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from bench import statistics
from bench.columns import count
from bench.run import pairs
from bench.run.columns import ratio_text
from bench.run.record import Record, Run, is_unsteady

#: Names that a line has; more are counted.
MOST_NAMED = 3


@dataclass(frozen=True)
class Lead:
    """Who is fastest at one point among those that are still the same model, as far as that is decided."""

    run: Run
    point: Any
    rivals: tuple[Record, ...]
    """Those whose times can be compared, in the order of the candidates."""

    @cached_property
    def order(self) -> tuple[Record, ...]:
        """The rivals, fastest first, by their ratios within rounds, so that no verdict contradicts it: first by how
        many each is faster than, less those that are faster than it; then by the sum of its log ratios.
        """
        ratios = {
            (at, other): self.run.between(self.rivals[other], self.rivals[at])
            for at in range(len(self.rivals))
            for other in range(len(self.rivals))
            if other != at
        }

        def rank(at: int) -> tuple[int, float, float]:
            found = [ratio for (one, _), ratio in ratios.items() if one == at and ratio is not None]
            won = sum({"faster": 1, "slower": -1}.get(ratio.verdict, 0) for ratio in found)
            middle = statistics.median(self.rivals[at].samples)
            return -won, -math.fsum(math.log(ratio.value) for ratio in found), middle

        return tuple(self.rivals[at] for at in sorted(range(len(self.rivals)), key=rank))

    @property
    def winner(self) -> Record | None:
        """Who leads; None if no time means something there."""
        return self.order[0] if self.rivals else None

    @property
    def record(self) -> Record:
        """The winner, if two or more compare."""
        return self.order[0]

    @property
    def runner_up(self) -> Record | None:
        """The next; None if there is no other."""
        return self.order[1] if len(self.rivals) > 1 else None

    @property
    def ratio(self) -> statistics.Ratio | None:
        """How many times faster the winner is than the runner-up, with its interval."""
        return None if self.runner_up is None else self._ratios[0]

    @cached_property
    def _ratios(self) -> list[statistics.Ratio | None]:
        """How many times faster the winner is than each other one."""
        return [self.run.between(one, self.record) for one in self.order[1:]]

    def _by(self, verdicts: Collection[str]) -> tuple[Record, ...]:
        pairs = zip(self.order[1:], self._ratios, strict=True) if self.rivals else ()
        return tuple(one for one, ratio in pairs if ("undecided" if ratio is None else ratio.verdict) in verdicts)

    @property
    def same(self) -> tuple[Record, ...]:
        """Those that are known to be as fast as the winner."""
        return self._by(("same",))

    @property
    def doubtful(self) -> tuple[Record, ...]:
        """Those that may be faster than the winner for all that is known."""
        return self._by(("undecided", "slower"))

    @property
    def why_undecided(self) -> str:
        """If rounds are lacking that could decide: "disturbed: …" or "too few rounds: …"; else ""."""
        return next(filter(None, (pairs.why_undecided(one, self.record) for one in self.doubtful)), "")

    @property
    def is_decided(self) -> bool:
        """True if no other may be faster than the winner, beyond those that are the same."""
        return not self.doubtful

    @property
    def text(self) -> str:
        """`1.42×`, `same`, `undecided`, `faster` if the rounds agree on no middle, or `alone`; "" without a winner."""
        if self.winner is None:
            return ""
        if self.runner_up is None:
            return "alone"
        if self.doubtful or self.ratio is None:
            return "undecided"
        if self.same:
            return "same"
        return "faster" if is_unsteady(self.ratio) else ratio_text(self.ratio)


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
    return Lead(run, point, tuple(one for one in sound if one.samples))


def winner(run: Run, records: Sequence[Record]) -> Lead | None:
    """Who leads among `records`; None if fewer than two can be compared."""
    found = lead(run, None, records)
    return None if found.runner_up is None else found


def leads(run: Run) -> list[Lead]:
    """One for each point that has records; second copies of a candidate take no part."""
    return [lead(run, point, [one for one in found if one.candidate.copy == 1]) for point, found in iter_points(run)]


def said(found: Lead, name: Callable[[Record], str], behind: str = "") -> str:
    """`onnx`, `eager (same as onnx)`, or `undecided: onnx leads, eager may be faster`; `behind` a winner's name."""
    same = f" (same as {_some(list(map(name, found.same)))})" if found.same else ""
    if found.is_decided:
        return f"{name(found.record)}{behind}{same}"
    why = f" ({found.why_undecided})" if found.why_undecided else ""
    return f"undecided: {name(found.record)} leads{same}, {_some(list(map(name, found.doubtful)))} may be faster{why}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def headline(run: Run) -> str:
    """The fastest in one sentence; how much was measured if no two candidates compare."""
    found = [one for one in leads(run) if one.runner_up is not None]
    won = [run.name(one.record.candidate) for one in found if one.is_decided and not one.same]
    doubtful = sum(not one.is_decided for one in found)
    places = count(len(found), run.workload.point_noun)
    if not found:
        cells = [record for _, records in iter_points(run) for record in records]
        return f"{sum(record.status == 'ok' for record in cells)} of {count(len(cells), 'cell')} measured"
    if not won:
        if doubtful:
            where = f" at {doubtful} of {places}" if len(found) > 1 else ""
            return f"Undecided: which candidate is fastest is not known{where}"
        return "No candidate is faster than all others" + (" anywhere" if len(found) > 1 else "")
    best = max(won, key=won.count)
    if len(found) > 1:
        rest = f"; undecided at {doubtful}" if doubtful else ""
        return f"{best} is fastest at {won.count(best)} of {places}{rest}"
    (only,) = found
    times = f", {only.text.removesuffix('×')} times as fast as " if only.text.endswith("×") else ", ahead of "
    return f"{best} is fastest{times}{run.name(only.runner_up.candidate) if only.runner_up else ''}"
