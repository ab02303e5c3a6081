"""The decision between weighed candidates: which one to take, or `undecided` and the rounds that would settle it.

1. Who fails a constraint is out. One candidate alone is decided.
2. Quiet rounds decide. Shapes at which too few rounds were quiet count for nothing, as long as they have at most
   `MOST_DISTURBED` of the weight; else it is undecided.
3. Of those whose regret (their time over the best one's, less one) is known to be at most `MOST_REGRET`, by its 95 %
   bound for all candidates together, the simplest is taken, by `SIMPLICITY`.
4. Without any it is undecided. `Constraints.max_regret` lets the one with the least bound be taken all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench import regret
from bench.choose import stakes as weighing
from bench.choose.candidates import Weighed
from bench.choose.constraints import Constraints
from bench.choose.failures import DEPRECATED
from bench.errors import NOTHING_QUALIFIES, UNDECIDED
from bench.regret import MOST_REGRET, Regret, Stakes
from bench.run.record import Run
from bench.spec import PRECISIONS, Shape
from bench.statistics import Interval, Ratio
from bench.traffic import Traffic

#: Backends by what they ask of whoever deploys them, the least first: the model's own code as it is; one file and one
#: library; a compiler and its waits at every start; a format that is deprecated upstream. Third parties' come last.
SIMPLICITY = ("eager", "onnx", "openvino", "compile", "aoti", "torchscript")
#: Most of the weight that may lie at shapes at which the machine was disturbed.
MOST_DISTURBED = 0.2


@dataclass(frozen=True)
class Settling:
    """What would settle a decision."""

    rounds: tuple[tuple[Run, Shape, int], ...]
    """Further rounds of all candidates, by run and shape."""
    seconds: float
    """That these take."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which of several candidates to take, and how sure that is."""

    chosen: Weighed | None = None
    """None if nothing qualifies, and if it is undecided."""
    order: tuple[Weighed, ...] = ()
    """Those that qualify, by their expected regret."""
    regrets: Mapping[str, Regret] = field(default_factory=dict)
    """By label."""
    stakes: Stakes = field(default_factory=lambda: Stakes({}, {}))
    """The quiet rounds that decide."""
    too_few: tuple[Shape, ...] = ()
    """Shapes with too few quiet rounds, whatever disturbed them."""
    too_few_share: float = 0.0
    """Their share of the weight."""
    settling: Settling | None = None
    """If it is undecided, and more rounds would settle it."""
    left_out: tuple[tuple[Weighed, Ratio], ...] = ()
    """Deprecated candidates that keep all else, with how many times faster each is than the leader."""

    @property
    def leader(self) -> Weighed | None:
        """The candidate with the least expected regret; None if nothing qualifies."""
        return self.order[0] if self.order else None

    @property
    def is_decided(self) -> bool:
        """True if one is taken."""
        return self.chosen is not None

    @property
    def runner_up(self) -> Weighed | None:
        """The best one beside the chosen one, or beside the leader if it is undecided."""
        first = self.chosen or self.leader
        return next((one for one in self.order if one is not first), None)

    @property
    def exit_code(self) -> int:
        """0, 6 if it is undecided, or 5 if nothing qualifies."""
        return 0 if self.chosen is not None else UNDECIDED if self.order else NOTHING_QUALIFIES

    @property
    def near(self) -> list[Weighed]:
        """Those that are known to be within `MOST_REGRET` of the best, best first."""
        return [one for one in self.order if self.regrets[one.label].bound <= MOST_REGRET]

    @property
    def ratio(self) -> Ratio | None:
        """How many times better the chosen one, or the leader, is than the runner-up; None if that is not known."""
        first = self.chosen or self.leader
        if first is None or self.runner_up is None:
            return None
        return regret.ratio(self.stakes, self.runner_up.label, first.label)

    def interval_ns(self, one: Weighed) -> Interval | None:
        """95 % interval of the time of a unit of work of a candidate; None if it is not known."""
        mine = weighing.stakes_of([one], is_geometric=False)
        stakes = replace(mine, weights={**mine.weights, "": {}}, constants={**mine.constants, "": one.price})
        found = regret.ratio(stakes, one.label, "") if one.records else None
        return None if found is None else found.interval

    def pays_back_after(self, other: Weighed) -> float | None:
        """Units of work (requests, sequences) after which the costlier start of the chosen one, or the leader, has
        paid for itself.

        0 if it starts no later than `other`; None if it never does, and where a start was not timed. A start's
        share is no part of this, whatever `--requests-per-restart` says.
        """
        first = self.chosen or self.leader
        if first is None or first.one_time_seconds is None or other.one_time_seconds is None:
            return None
        later = first.one_time_seconds - other.one_time_seconds
        saved_ns = other.demand.time_ns - first.demand.time_ns
        return 0.0 if later <= 0 else later * 1e9 / saved_ns if saved_ns > 0 else None


def decide(candidates: Iterable[Weighed], is_geometric: bool = False, max_regret: float = MOST_REGRET) -> Decision:
    """The decision among `candidates`, by the rules above; `is_geometric` without traffic."""
    candidates = list(candidates)
    qualified = [one for one in candidates if one.is_qualified]
    if not qualified:
        return Decision()
    told = weighing.stakes_of(qualified, is_geometric, is_quiet=False)
    expected = {str(label): found.expected for label, found in regret.regrets(told).items()}
    order = sorted(qualified, key=lambda one: (expected[one.label], regret.figure(told, one.label)))
    too_few = weighing.too_few(order)
    share = weighing.share_of(too_few, order, told)
    # Left out are shapes that weigh little, and the same for all.
    is_alike = all(one.run is order[0].run and one.demand.cells == order[0].demand.cells for one in order)
    without = too_few if share <= MOST_DISTURBED and is_alike else []
    stakes = weighing.stakes_of(order, is_geometric, without=without)
    bounds = regret.regrets(stakes)
    # Disturbed rounds are no evidence for a candidate, but they can keep one from being taken.
    regrets = {label: Regret(mean, max(mean, bounds[label].bound)) for label, mean in expected.items()}
    chosen = _chosen(order, regrets, max_regret)
    settling = None if chosen is not None else _settling(order, stakes)
    return Decision(
        chosen=chosen, order=tuple(order), regrets=regrets, stakes=stakes, too_few=tuple(too_few), too_few_share=share,
        settling=settling, left_out=_left_out(candidates, chosen or order[0], is_geometric, without),
    )  # fmt: skip


def _chosen(order: Sequence[Weighed], regrets: Mapping[str, Regret], max_regret: float) -> Weighed | None:
    if len(order) == 1:
        return order[0]
    bounds = {one.label: regrets[one.label].bound for one in order}
    if near := [one for one in order if bounds[one.label] <= min(max_regret, MOST_REGRET)]:
        return min(near, key=_simplicity)
    surest = min(order, key=lambda one: bounds[one.label])
    return surest if bounds[surest.label] <= max_regret else None


def _settling(order: Sequence[Weighed], stakes: Stakes) -> Settling | None:
    """The rounds after which the leader's regret is expected to be known well enough."""
    seconds = {cell: spent for cell, spent in weighing.round_seconds(order).items() if cell in stakes.rounds}
    found = regret.rounds_to_settle(stakes, order[0].label, seconds)
    if not found:
        return None
    places = {weighing.cell_of(one, record): (one.run, shape) for one in order for shape, record in one.records.items()}
    total = math.fsum(count * seconds[cell] for cell, count in found.items())
    return Settling(tuple((*places[cell], count) for cell, count in found.items()), total)


def _left_out(
    candidates: Sequence[Weighed], first: Weighed, is_geometric: bool, without: Sequence[Shape]
) -> tuple[tuple[Weighed, Ratio], ...]:
    """What `first` would be held against if deprecated candidates were taken."""
    found = []
    for one in candidates:
        if [failure.constraint for failure in one.failures] == [DEPRECATED]:
            stakes = weighing.stakes_of([first, one], is_geometric, without=without)
            if (ratio := regret.ratio(stakes, first.label, one.label)) is not None:
                found.append((one, ratio))
    return tuple(found)


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
