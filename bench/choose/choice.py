"""The decision between weighed candidates: the best, who ties with it, and which of those is the simplest.

Rules, in this order:

1. Who fails a constraint is out.
2. The best of the rest has the lowest `Weighed.mean_ns` (for cost: dollars for a sequence).
3. Whoever it does not beat ties with it: the interval of their ratio (`CONFIDENCE`, within rounds where they took
   turns) does not lie wholly beyond `statistics.TIE_MARGIN`. A single round gives no interval: then nothing ties.
4. Of those that tie, and whose own figure is at most `WORTH_OF_SIMPLICITY` behind the best, the simplest is taken, by
   `SIMPLICITY`: an interval that is wide for want of rounds is no reason to give up much.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Choice:
    """Which runtime to take, and everything that this rests on."""

    constraints: Constraints
    traffic: Traffic
    candidates: tuple[Weighed, ...]
    """In the order of the runs and their candidates."""
    outside: tuple[tuple[Shape, float], ...]
    """Shapes of the traffic beyond what was measured, with their shares of the requests."""
    chosen: Weighed | None
    best: Weighed | None
    """Who is fastest (cheapest) by the figures alone, ties aside."""
    runner_up: Weighed | None
    """The fastest candidate if it was not chosen, else the second; None if no other one qualifies."""
    tied: tuple[Weighed, ...]
    """Who ties with the best, itself left out; best first."""
    is_device_map: bool = False

    @property
    def objective(self) -> str:
        """What was asked for: latency, throughput or cost."""
        return self.constraints.objective

    @property
    def is_tie(self) -> bool:
        """True if the measurement does not tell the best from another, and simplicity decided."""
        return bool(self.tied)

    @property
    def tied_with_chosen(self) -> list[Weighed]:
        """The other candidates of the tie; empty without a tie."""
        if not self.tied or self.best is None:
            return []
        return [candidate for candidate in (self.best, *self.tied) if candidate is not self.chosen]

    @property
    def is_simplest(self) -> bool:
        """True if the chosen candidate is the simplest of its tie."""
        others = self.tied_with_chosen
        return self.chosen is not None and all(_simplicity(self.chosen) < _simplicity(other) for other in others)

    @property
    def exit_code(self) -> int:
        """0, or 5 if nothing qualifies."""
        return 0 if self.chosen is not None else NOTHING_QUALIFIES_EXIT_CODE

    @property
    def qualified(self) -> list[Weighed]:
        """Who keeps every constraint, best first."""
        return ranked(self.candidates)

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
        mine, its = (None if c is None else c.one_time_seconds for c in (self.chosen, other))
        if self.chosen is None or mine is None or its is None:
            return None
        if mine <= its:
            return 0.0
        saved_ns = other.demand.time_ns(other.records) - self.chosen.demand.time_ns(self.chosen.records)
        return (mine - its) * 1e9 / saved_ns if saved_ns > 0 else None


def decide(
    candidates: Sequence[Weighed],
    constraints: Constraints,
    traffic: Traffic,
    outside: Sequence[tuple[Shape, float]],
    is_device_map: bool = False,
) -> Choice:
    """The choice among `candidates`, by the rules above."""
    order = ranked(candidates)
    best = order[0] if order else None
    tied: list[Weighed] = []
    chosen = runner_up = None
    if best is not None:
        tied = [other for other in order[1:] if not _beats(best, other)]
        chosen = min([best, *(other for other in tied if _is_near(best, other))], key=_simplicity)
        others = [candidate for candidate in order if candidate is not chosen]
        runner_up = others[0] if others else None
    return Choice(
        constraints, traffic, tuple(candidates), tuple(outside), chosen, best, runner_up, tuple(tied), is_device_map
    )


def ranked(candidates: Sequence[Weighed]) -> list[Weighed]:
    """Those that qualify, best first."""
    found = [(score(candidate), candidate) for candidate in candidates if candidate.is_qualified]
    return [c for _, c in sorted(((s, c) for s, c in found if s is not None), key=lambda entry: entry[0])]


def score(candidate: Weighed) -> float | None:
    """What is lower the better a candidate is: nanoseconds of a unit of work; for cost, times its price."""
    return None if candidate.mean_ns is None else candidate.mean_ns * _price(candidate)


def _price(candidate: Weighed) -> float:
    return candidate.dollars_an_hour or 1.0 if candidate.is_weighed_by_price else 1.0


def ratio_between(one: Weighed, other: Weighed) -> Ratio | None:
    """How many times better `other` is than `one`; None if either is not measured.

    Within rounds where both took turns in one run, else of intervals apart. It is of prices times seconds where
    prices are given.
    """
    mine, its = score(one), score(other)
    if mine is None or its is None or not mine or not its:
        return None
    weight = _price(one) / _price(other)
    if one.run is other.run and not _is_apart(one) and not _is_apart(other):
        count = min(one.least_rounds, other.least_rounds)
        ratios = [weight * a / b for a, b in zip(one.rounds_ns(count), other.rounds_ns(count), strict=True)]
        interval = statistics.ratio_interval(ratios, CONFIDENCE)
    else:
        rounds = [[[value] for value in each.rounds_ns(each.least_rounds)] for each in (one, other)]
        found = statistics.ratio_of_runs(rounds[0], rounds[1], CONFIDENCE)
        interval = found.interval if found else None
        if interval is not None:
            interval = statistics.Interval(weight * interval.low, weight * interval.high)
        count = min(one.least_rounds, other.least_rounds)
    value = mine / its
    if interval is not None:
        interval = statistics.Interval(min(interval.low, value), max(interval.high, value))
    return Ratio(value, interval, count)


def _is_apart(candidate: Weighed) -> bool:
    return any(not record.is_interleaved for record in candidate.records.values())


def _beats(best: Weighed, other: Weighed) -> bool:
    """True if the interval says so; a single round has none, and then the figure alone decides."""
    ratio = ratio_between(other, best)
    return ratio is not None and (ratio.interval is None or ratio.verdict == "faster")


def _is_near(best: Weighed, other: Weighed) -> bool:
    """True if taking `other` gives up no more than simplicity is worth, by the figures alone."""
    least, its = score(best), score(other)
    return least is not None and its is not None and its <= least * (1 + WORTH_OF_SIMPLICITY)


def _simplicity(weighed: Weighed) -> tuple[int, int, bool, str]:
    """Lower is simpler: the backend's place, fp32 before the others, no variant before one."""
    runtime = weighed.candidate
    is_known = runtime.backend in SIMPLICITY
    place = SIMPLICITY.index(runtime.backend) if is_known else len(SIMPLICITY)
    precisions = {name: index for index, name in enumerate(PRECISIONS)}
    precision = precisions.get(runtime.precision, len(PRECISIONS))
    return place, precision, runtime.variant != "default", runtime.label
