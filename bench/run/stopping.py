"""When the cells of a point have samples enough: what workloads share whose turns go on until medians are precise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from bench import options
from bench.options import CommonOptions, option
from bench.run.record import Record, Run
from bench.run.schedule import Enough, Grid, Schedule
from bench.run.workload import Workload

if TYPE_CHECKING:
    from exporters.sources import ModelSource

TARGET_PRECISION = {"cpu": 0.02, "cuda": 0.01}
Timed = TypeVar("Timed", bound="TimedOptions")


@dataclass(frozen=True, kw_only=True)
class TimedOptions(CommonOptions):
    """Options of such a workload."""

    rounds: int = option(
        "Turns per backend and cell, at least, as far as --max-seconds-per-cell lets them.",
        options.whole(1, 10_000, 10),
        default=10,
    )
    max_seconds_per_cell: float = option(
        "Turns per cell, of the slowest backend, at most; slow calls get 5 rounds of one.",
        options.seconds(example="5s"),
        default=5.0,
        show=options.shown_seconds,
    )
    target_precision: float | None = option(
        "Stop a cell when the interval of its median is this narrow.",
        options.share,
        default=None,
        show=options.shown_share,
        default_shown="2% on cpu, 1% on cuda",
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

    def with_precision(self: Timed) -> Timed:
        """The same with the device's usual `target_precision` if none was asked for."""
        if self.target_precision is not None:
            return self
        return replace(self, target_precision=TARGET_PRECISION[self.kind])


class TimedWorkload(Workload):
    """A workload whose turns at a point go on until the medians there are precise."""

    options: TimedOptions

    @classmethod
    def settle(cls, options: Any, source: ModelSource) -> Any:
        return options.with_precision()

    def schedule(self) -> Schedule:
        enough = self.options.enough
        return Grid(lambda point: enough)

    def unmet(self, record: Record) -> list[str]:
        """Of "warm-up", "rounds" and "precision"."""
        found = [] if record.once.is_stable else ["warm-up"]
        found += [] if len(record.rounds) >= self.options.rounds else ["rounds"]
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
