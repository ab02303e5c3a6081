"""The decision between weighed candidates: the best, who ties with it, and which of those is the simplest.

Rules, in this order:

1. Who fails a constraint is out.
2. The best of the rest has the lowest `Weighed.score` (its mean time; for cost, dollars for a sequence).
3. Whoever it does not beat ties with it: the interval of their ratio (`CONFIDENCE`, within rounds where they took
   turns) does not lie wholly beyond `statistics.TIE_MARGIN`. A single round gives no interval: then nothing ties.
4. Of those that tie, and whose own figure is at most `WORTH_OF_SIMPLICITY` behind the best, the simplest is taken, by
   `SIMPLICITY`: an interval that is wide for want of rounds is no reason to give up much.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench import statistics
from bench.choose.candidates import Weighed
from bench.choose.constraints import Constraints
from bench.spec import PRECISIONS, Shape
from bench.statistics import Ratio
from bench.traffic import Traffic

NOTHING_QUALIFIES_EXIT_CODE = 5
#: Of the interval that says who ties. A report that calls something faster may wait for 99 %; a choice must be made,
#: and to keep the slower of two for its simplicity is a mistake too.
CONFIDENCE = statistics.MEDIAN_CONFIDENCE
#: Backends by what they ask of whoever deploys them, the least first: the model's own code as it is; one file and one
#: library; a compiler and its waits at every start; a format that is deprecated upstream. Third parties' come last.
SIMPLICITY = ("eager", "onnx", "openvino", "compile", "aoti", "torchscript")
#: Most that is given up for simplicity, as a share of the best one's time: what docs/choosing.md lets a choice miss.
WORTH_OF_SIMPLICITY = 0.03


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which of several candidates to take; without any that qualifies all fields are None."""

    chosen: Weighed | None = None
    best: Weighed | None = None
    """Who is fastest (cheapest) by the figures alone, ties aside."""
    runner_up: Weighed | None = None
    """The fastest candidate if it was not chosen, else the second; None if no other one qualifies."""
    tied: tuple[Weighed, ...] = ()
    """Who ties with the best, itself left out; best first."""

    @property
    def exit_code(self) -> int:
        """0, or 5 if nothing qualifies."""
        return 0 if self.chosen is not None else NOTHING_QUALIFIES_EXIT_CODE

    @property
    def is_tie(self) -> bool:
        """True if the measurement does not tell the best from another, and simplicity decided."""
        return bool(self.tied)

    @property
    def tied_with_chosen(self) -> list[Weighed]:
        """The other candidates of the tie; empty without a tie."""
        return (
            [one for one in (self.best, *self.tied) if one is not None and one is not self.chosen] if self.tied else []
        )

    @property
    def is_simplest(self) -> bool:
        """True if the chosen candidate is the simplest of its tie."""
        chosen = self.chosen
        return chosen is not None and all(_simplicity(chosen) < _simplicity(other) for other in self.tied_with_chosen)

    @property
    def ratio(self) -> Ratio | None:
        """How many times better the chosen one is than the runner-up; below 1 where a tie went to the simpler one."""
        if self.chosen is None or self.runner_up is None:
            return None
        return ratio_between(self.runner_up, self.chosen)

    def pays_back_after(self, other: Weighed) -> float | None:
        """Units of work (requests, sequences) after which the chosen one's costlier start has paid for itself.

        0 if it starts no later than `other`; None if it never does, and where a start was not timed. A start's
        share is no part of this, whatever `--requests-per-restart` says.
        """
        chosen = self.chosen
        if chosen is None or chosen.one_time_seconds is None or other.one_time_seconds is None:
            return None
        later = chosen.one_time_seconds - other.one_time_seconds
        saved_ns = other.demand.time_ns - chosen.demand.time_ns
        return 0.0 if later <= 0 else later * 1e9 / saved_ns if saved_ns > 0 else None


def decide(candidates: Iterable[Weighed]) -> Decision:
    """The decision among `candidates`, by the rules above and their figures alone."""
    order = ranked(candidates)
    if not order:
        return Decision()
    best = order[0]
    tied = [other for other in order[1:] if not _beats(best, other)]
    near = [other for other in tied if other.score <= best.score * (1 + WORTH_OF_SIMPLICITY)]
    chosen = min([best, *near], key=_simplicity)
    runner_up = next((candidate for candidate in order if candidate is not chosen), None)
    return Decision(chosen=chosen, best=best, runner_up=runner_up, tied=tuple(tied))


def ranked(candidates: Iterable[Weighed]) -> list[Weighed]:
    """Those that qualify, best first."""
    return sorted((one for one in candidates if one.is_qualified), key=lambda one: one.score)


def ratio_between(one: Weighed, other: Weighed) -> Ratio | None:
    """How many times better `other` is than `one`, by their scores; None if either is not measured.

    Within rounds where both took turns in one run, else of intervals apart.
    """
    if not one.records or not other.records or not other.score:
        return None
    value, weight = one.score / other.score, one.price / other.price
    count = min(one.demand.least_rounds, other.demand.least_rounds)
    is_paired = one.run is other.run and all(
        record.is_interleaved for each in (one, other) for record in each.records.values()
    )
    if is_paired:
        pairs = zip(one.rounds_ns(count), other.rounds_ns(count), strict=True)
        interval = statistics.ratio_interval([weight * mine / its for mine, its in pairs], CONFIDENCE)
    else:
        mine, its = ([[ns * each.price] for ns in each.rounds_ns(each.demand.least_rounds)] for each in (one, other))
        apart = statistics.ratio_of_runs(mine, its, CONFIDENCE)
        interval = apart.interval if apart else None
    if interval is not None:
        interval = statistics.Interval(min(interval.low, value), max(interval.high, value))
    return Ratio(value, interval, count)


def _beats(best: Weighed, other: Weighed) -> bool:
    """True if the interval says so; a single round has none, and then the figure alone decides."""
    ratio = ratio_between(other, best)
    return ratio is not None and (ratio.interval is None or ratio.verdict == "faster")


def _simplicity(weighed: Weighed) -> tuple[int, int, bool, str]:
    """Lower is simpler: the backend's place, fp32 before the others, no variant before one."""
    runtime = weighed.candidate
    backend, precision = (
        order.index(name) if name in order else len(order)
        for order, name in ((SIMPLICITY, runtime.backend), (PRECISIONS, runtime.precision))
    )
    return backend, precision, runtime.variant != "default", runtime.label


@dataclass(frozen=True, kw_only=True)
class Choice(Decision):
    """Which runtime to take, and everything that this rests on."""

    constraints: Constraints
    traffic: Traffic
    candidates: tuple[Weighed, ...]
    """In the order of the runs and their candidates."""
    outside: tuple[tuple[Shape, float], ...]
    """Shapes of the traffic beyond what was measured, with their shares of the requests."""

    @property
    def objective(self) -> str:
        """What was asked for: latency, throughput or cost."""
        return self.constraints.objective
