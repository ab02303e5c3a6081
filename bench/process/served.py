"""What became of the requests of one cell: figures of all its slices, and which service levels are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist, fmean

from bench import statistics
from bench.process import levels
from bench.process.levels import MISSED, RISK
from bench.process.queue import Slice
from bench.traffic import Slo

#: Below this share of the time in calls hardly any request waits for a call before, so a lower rate is no remedy.
IDLE_SHARE = 0.05


@dataclass(frozen=True)
class Slices:
    """All slices of one cell together."""

    slices: Sequence[Slice]
    requests: int
    """That were to be served."""
    rate: float
    """At which they arrived, requests a second."""

    @cached_property
    def latencies_ns(self) -> list[int]:
        """Of all requests that were served."""
        return [ns for one in self.slices for ns in one.latency_ns]

    @property
    def unserved(self) -> int:
        """Requests that were still queued when the last slice was ended."""
        return self.requests - len(self.latencies_ns)

    @cached_property
    def _calls(self) -> list[tuple[int, int, int]]:
        return [call for one in self.slices for call in one.calls()]

    @cached_property
    def calls_ns(self) -> list[int]:
        """Duration of each call."""
        return [end - start for start, end, _ in self._calls]

    @cached_property
    def elapsed_ns(self) -> int:
        """From each slice's start to its end, all together."""
        return sum(one.ended_ns() for one in self.slices)

    @property
    def busy_share(self) -> float:
        """Time in calls over all time."""
        return sum(self.calls_ns) / self.elapsed_ns

    @property
    def served_rate(self) -> float:
        """Requests a second that were served."""
        return len(self.latencies_ns) / self.elapsed_ns * 1e9

    @property
    def requests_per_call(self) -> float:
        """How many were joined into one call, on average."""
        return len(self.latencies_ns) / len(self.calls_ns)

    @cached_property
    def largest_queue(self) -> int:
        """Requests that had arrived and were in no call yet, at most."""
        return max(one.largest_queue() for one in self.slices)

    def percentile(self, rank: int) -> float | None:
        """Nanoseconds of the `rank`-th percentile of latencies; None if there are too few for it (rule 8), or if the
        requests that were not served would have been the slowest."""
        return None if self.unserved else statistics.percentile(self.latencies_ns, rank)

    # The server's load.

    @cached_property
    def _full(self) -> tuple[float, float, float, int]:
        """Seconds a request in calls that were as full as can be, their squared coefficient of variation, requests of
        one such call, and their number. Where requests are joined, those calls are the ones that left some waiting, or
        if none did, the ones of most requests.
        """
        most, found = max(count for _, _, count in self._calls), list[tuple[int, int]]()
        for one in self.slices:
            served = 0
            for start, end, count in one.calls():
                served += count
                if most == 1 or (served < len(one.due_ns) and one.due_ns[served] <= start):
                    found.append((end - start, count))
        found = found or [(end - start, count) for start, end, count in self._calls if count == most]
        times, joined = [ns for ns, _ in found], fmean(count for _, count in found)
        mean_ns = fmean(times)
        variation = fmean((ns / mean_ns - 1) ** 2 for ns in times)
        return mean_ns / joined / 1e9, variation, joined, len(found)

    @property
    def load(self) -> float:
        """Requests that arrive over those that can be served in the same time (the utilisation of a queue)."""
        return self.rate * self._full[0]

    @property
    def keeps_up(self) -> bool:
        """False if requests were left over, or if more arrive than can be served."""
        return self.unserved == 0 and self.load <= 1

    @property
    def is_overloaded(self) -> bool:
        """True if it does not keep up for certain: the load, less what its sample may err, is above 1."""
        _, variation, _, calls = self._full
        error = NormalDist().inv_cdf(1 - RISK) * math.sqrt(variation / calls)
        return self.unserved > 0 or self.load * (1 - error) > 1

    # Service levels.

    def inflation(self, rate: float | None = None) -> float:
        """Requests that tell as much as one independent one, if they arrive at `rate`, or as they did."""
        seconds, variation, joined, _ = self._full
        return levels.inflation_of((rate or self.rate) * seconds, variation, joined)

    def _busy_periods(self) -> Iterator[list[int]]:
        """Latencies by busy period, which begins with a request that finds the server free; a slice goes on with what
        the one before has left.
        """
        period, free_ns = list[int](), 0
        for one in self.slices:
            for due, latency in zip(one.due_ns, one.latency_ns, strict=False):
                if period and due >= free_ns:
                    yield period
                    period = []
                period.append(latency)
                free_ns = due + latency
            free_ns -= one.ended_ns()
        yield period

    def _inflation_for(self, slo: Slo) -> float:
        """The larger of `inflation` and of what the busy periods show, which are independent of each other: the
        variance of their overruns over that of independent requests, both as of a server exactly at the level.
        """
        share = slo.share
        excess = (sum(ns > slo.limit_ns for ns in one) - share * len(one) for one in self._busy_periods())
        return max(self.inflation(), sum(one**2 for one in excess) / (self.requests * share * (1 - share)))

    def overruns(self, slo: Slo) -> int:
        """Requests that took longer than the limit."""
        return sum(ns > slo.limit_ns for ns in self.latencies_ns)

    def level(self, slo: Slo) -> str:
        """`KEPT` or `MISSED` if a server exactly at the level would hardly show as few overruns, or as many, else
        `UNJUDGED`. What does not keep up for certain misses every level.
        """
        if self.is_overloaded:
            return MISSED
        return levels.judged(self.overruns(slo), self.requests, slo.share, self._inflation_for(slo))

    def needed(self, slo: Slo) -> int | None:
        """Requests that would judge a level if the share of overruns stayed as it is; None if no run has as many."""
        return levels.requests_needed(self.overruns(slo) / self.requests, slo.share, self._inflation_for(slo))

    # What a search for a rate goes by.

    def seems_kept(self, slos: Sequence[Slo]) -> bool | None:
        """True if every percentile is within its limit, whatever that proves; None if there are too few requests."""
        if not self.keeps_up:
            return False
        values = [(self.percentile(slo.rank), slo.limit_ns) for slo in slos]
        if any(value is not None and value > limit for value, limit in values):
            return False
        return None if any(value is None for value, _ in values) else True

    def is_hopeless(self, slos: Sequence[Slo]) -> bool:
        """True for a miss that is not the queue's: hardly any request waited, or single calls alone are too long."""
        if self.busy_share < IDLE_SHARE:
            return True
        alone = ((slo, statistics.percentile(self.calls_ns, slo.rank)) for slo in slos)
        return self.requests_per_call == 1 and any(value is not None and value > slo.limit_ns for slo, value in alone)
