"""When the cells of a point have samples enough: what workloads share whose turns go on until medians are precise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from bench import options
from bench.options import CommonOptions, option
from bench.process.timing import SLOW_CALL_NS
from bench.run.record import Record, Run
from bench.run.schedule import LEAST_ROUNDS, Enough, Grid, Schedule
from bench.run.workload import Workload


@dataclass(frozen=True, kw_only=True)
class TimedOptions(CommonOptions):
    """Options of such a workload."""

    rounds: int = option(
        "Turns per backend and cell; --max-seconds-per-cell may end them after 3.",
        options.whole(1, 10_000, 10),
        default=10,
    )
    max_seconds_per_cell: float = option(
        "Turns per cell, of the slowest backend, at most; slow calls get 3 rounds of one.",
        options.seconds(example="5s"),
        default=5.0,
        show=options.shown_seconds,
    )
    target_precision: float | None = option(
        "Go on with a cell until the interval of its median is this narrow.",
        options.share,
        default=None,
        show=options.shown_share,
    )
    warmup: float = option(
        "Warm-up of a cell, at least.", options.seconds(example="300ms"), default=0.3, show=options.shown_seconds
    )
    max_warmup: float = option(
        "Warm-up of a cell that does not become stable, at most.",
        options.seconds(example="3s"),
        default=3.0,
        show=options.shown_seconds,
    )

    @property
    def enough(self) -> Enough:
        """When a cell has turns enough."""
        return Enough(self.rounds, self.max_seconds_per_cell, self.target_precision)


class TimedWorkload(Workload):
    """A workload whose turns at a point go on until the medians there are precise."""

    options: TimedOptions

    races: ClassVar[bool] = False
    """True if a cell ends before it has its `rounds` once its verdict is settled."""

    def schedule(self) -> Schedule:
        enough = self.options.enough
        return Grid(lambda point: enough)

    def unmet(self, record: Record) -> list[str]:
        """Of "warm-up", "rounds" and "precision"."""
        is_slow = min(record.once.warmup_ns, default=0) > SLOW_CALL_NS
        found = [] if record.once.is_stable or is_slow else ["warm-up"]
        wanted = min(self.options.rounds, LEAST_ROUNDS) if self.races else self.options.rounds
        found += [] if len(record.rounds) >= wanted else ["rounds"]
        return found if self.options.enough.is_precise(record.rounds) else [*found, "precision"]

    def warnings(self, run: Run, record: Record) -> Iterable[str]:
        """One line a stopping criterion that was not met."""
        unmet, asked = self.unmet(record), self.options
        if "warm-up" in unmet:
            yield f"warm-up ended at its ceiling of {asked.max_warmup:g} s before it was seen to be stable"
        if "rounds" in unmet:
            yield f"fewer than {asked.rounds} rounds, as its ceiling of seconds was reached"
        if "precision" in unmet and asked.target_precision is not None:
            yield (
                "its ceiling of seconds was reached with the median's interval wider than "
                f"±{100 * asked.target_precision:.3g}%; raise --max-seconds-per-cell, or quieten the machine"
            )
