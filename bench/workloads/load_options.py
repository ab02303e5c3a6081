"""What can be asked of `bench load`, and what its candidates are measured at: a rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import options
from bench.options import CommonOptions, option
from bench.process.queue import parse_batching
from bench.spec import Shape
from bench.traffic import Slo, Traffic, parse_slo

#: Requests of one rate above which a run and its file are no use to anybody.
MOST_REQUESTS = 200_000


@dataclass(frozen=True, kw_only=True)
class LoadOptions(CommonOptions):
    """Options of `bench load`."""

    command: ClassVar[str] = "load"
    summary: ClassVar[str] = (
        "Serve requests that arrive at a rate: latency with queueing, and the largest rate that keeps --slo."
    )

    rate: float = option("Requests a second.", options.number(0, 1_000_000, "20"), default=10.0)
    duration: float = option(
        "How long requests arrive, about.", options.seconds(3600.0), default=30.0, show=options.shown_seconds
    )
    traffic: str | None = option(
        "CSV or JSON Lines with batch, length and maybe count.",
        lambda value, name: value if isinstance(value, Traffic) else options.text(value, name),
        default=None,
        default_shown="single sequences of the usual lengths",
    )
    batching: str = option(
        "none, or dynamic:MAX_BATCH:MAX_DELAY: join queued requests.", options.checked(parse_batching), default="none"
    )
    slo: str | None = option(
        "Service levels to keep, e.g. p95=20ms,p99=50ms.", options.checked(parse_slo), default=None
    )
    search: bool = option("Look for the largest rate that keeps --slo.", options.flag, default=True)
    search_requests: int | None = option(
        "Requests of each rate of the search.",
        options.whole(1, MOST_REQUESTS, 400),
        default=None,
        default_shown="twice what the percentile needs",
    )
    rounds: int = option("Slices that the requests are served in.", options.whole(1, 100, 5), default=5)
    bucket: int | None = option("Round lengths up to a multiple of this.", options.whole(1, 100_000, 16), default=None)
    max_shapes: int = option(
        "Shapes that a backend may have to compile.",
        options.whole(1, 100_000, 16),
        default=16,
        aliases=("--most-shapes",),
    )
    served: tuple[tuple[int, int, float], ...] = options.settled(())
    """Batch, length and count of every shape of the traffic."""
    served_from: str = options.settled("")

    @property
    def slos(self) -> tuple[Slo, ...]:
        """Service levels."""
        return () if self.slo is None else parse_slo(self.slo)

    @property
    def shapes(self) -> Traffic:
        """The traffic, as it was settled."""
        return Traffic({Shape(batch, length): count for batch, length, count in self.served}, self.served_from)


@dataclass(frozen=True, order=True)
class Rate:
    """Requests a second: those that were asked for (step 0), or of a step of a candidate's search."""

    step: int
    rate: float

    def __str__(self) -> str:
        return f"{self.rate:.4g}/s"
