"""Statistics over samples: pure functions, no state, no numpy (the parent process stays light).

Samples come in rounds, and the samples of one round share what the machine was doing then. So
the unit of every interval is the round: its median, or its ratio of two medians.
"""

from __future__ import annotations

import math
import statistics as _stdlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from bench.moderated import NONE, Prior
from bench.student import freedom as freedom
from bench.student import student as student

#: Confidence of the interval of a median, by which sampling stops.
MEDIAN_CONFIDENCE = 0.95
#: Confidence of the interval of a ratio, from which its verdict is drawn: in a hundred comparisons of
#: a thing with itself one may be called faster or slower.
RATIO_CONFIDENCE = 0.99
#: Two processes of one program differ by up to this for good (where their memory came to lie, and on
#: which core they began); a ratio is a verdict only beyond it. See docs/accuracy.md.
TIE_MARGIN = 0.01
#: A ratio is `same` if its whole interval lies within this share of 1.
SAME_MARGIN = 0.03
#: Largest share that comparisons of one page that were decided wrongly may have, all of them together.
PAGE_ERROR = 0.01
#: What a second speed that few rounds did not show may add to a candidate's time.
UNSEEN = 0.05
#: Correlation between neighbouring rounds that is assumed before any was seen, and the number of pairs of rounds that
#: this counts for. It is above all that committed runs have (0.0 to 0.26): few rounds cannot show one, and intervals
#: that overlook it are too narrow. See docs/choosing.md.
ASSUMED_CORRELATION, ASSUMED_PAIRS = 0.4, 10
#: Largest correlation that intervals are widened for: beyond it rounds say nothing of each other's mean.
MOST_CORRELATION = 0.9
#: Samples that a percentile needs (MLPerf LoadGen, early stopping).
PERCENTILE_SAMPLES = {50: 1, 90: 64, 95: 130, 99: 662}


@dataclass(frozen=True)
class Interval:
    """A closed interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Ratio:
    """How many times faster one candidate is than another, within rounds."""

    value: float
    interval: Interval | None
    """None with a single round."""
    rounds: int
    confidence: float = RATIO_CONFIDENCE
    """Of the interval."""

    @property
    def verdict(self) -> str:
        """`same`, `faster`, `slower` or `undecided`, by the interval (`verdict`)."""
        return verdict(self.interval)


@dataclass(frozen=True)
class Outlier:
    """A sample beyond Tukey's fences: 1.5 interquartile ranges off the quartiles ("mild"), 3 ("severe")."""

    index: int
    value: float
    kind: str
    """"low severe", "low mild", "high mild" or "high severe"."""


def median(samples: Sequence[float]) -> float:
    """Middle value; mean of the two middle ones where the count is even. Raises ValueError on no samples."""
    if not samples:
        raise ValueError("the median of no samples is undefined")
    return float(_stdlib.median(samples))


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile by linear interpolation (Hyndman and Fan's type 7)."""
    if not samples:
        raise ValueError("the quartiles of no samples are undefined")
    if len(samples) == 1:
        return float(samples[0]), float(samples[0]), float(samples[0])
    q1, q2, q3 = _stdlib.quantiles(samples, n=4, method="inclusive")
    return q1, q2, q3


def spread(samples: Sequence[float]) -> float:
    """Interquartile range as a share of the median."""
    q1, q2, q3 = quartiles(samples)
    return (q3 - q1) / q2


def percentile(samples: Sequence[float], rank: int) -> float | None:
    """The `rank`-th percentile (type 7), or None where there are fewer samples than `PERCENTILE_SAMPLES` asks."""
    if len(samples) < PERCENTILE_SAMPLES[rank]:
        return None
    ordered = sorted(samples)
    position = rank / 100 * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def outliers(samples: Sequence[float]) -> list[Outlier]:
    """Samples beyond Tukey's fences, in the order taken; fewer than 4 samples have none (Tukey 1977)."""
    if len(samples) < 4:
        return []
    q1, _, q3 = quartiles(samples)
    reach = q3 - q1
    found = []
    for index, value in enumerate(samples):
        distance = max(q1 - value, value - q3)
        if distance > 1.5 * reach and distance > 0:
            side, kind = "low" if value < q1 else "high", "severe" if distance > 3 * reach else "mild"
            found.append(Outlier(index, value, f"{side} {kind}"))
    return found


# Intervals.


def median_interval(rounds: Sequence[Sequence[float]], confidence: float = MEDIAN_CONFIDENCE) -> Interval | None:
    """Interval of a cell's median from its rounds' medians, by order statistics from 6 rounds on (David and Nagaraja,
    Order Statistics, 7.1), below by Student's t over logarithms; it holds the median of all samples. None below two
    rounds.
    """
    medians = sorted(median(round_) for round_ in rounds if round_)
    if len(medians) < 2:
        return None
    rank, middle = _order_statistic(len(medians), confidence), median(pooled(rounds))
    found = student_interval(medians, confidence) if rank is None else Interval(medians[rank], medians[-1 - rank])
    return _holding(middle, found)


def _holding(middle: float, interval: Interval) -> Interval:
    return Interval(min(interval.low, middle), max(interval.high, middle))


def precision(rounds: Sequence[Sequence[float]]) -> float | None:
    """Half-width of the interval of the median as a share of the median; None with fewer than two rounds."""
    interval = median_interval(rounds)
    if interval is None:
        return None
    return (interval.high - interval.low) / 2 / median(pooled(rounds))


@lru_cache(maxsize=1024)
def _order_statistic(count: int, confidence: float) -> int | None:
    """Largest k such that the k-th smallest and k-th largest (from 0) of `count` hold the median at `confidence`."""
    outside, best = 0.0, None
    for k in range(count // 2):
        outside += 2 * math.comb(count, k) / 2**count
        if outside > 1 - confidence:
            break
        best = k
    return best


def student_interval(values: Sequence[float], confidence: float, rho: float = 0.0, prior: Prior = NONE) -> Interval:
    """Interval of the centre of 2 or more positive `values` by Student's t over their logarithms, with the degrees of
    freedom that a correlation of `rho` leaves; not widened for it. The variance is moderated by `prior`.
    """
    logs = [math.log(value) for value in values]
    variance, free = prior.moderate(_stdlib.variance(logs), freedom(len(logs), rho))
    half = student(confidence, free) * math.sqrt(variance / len(logs))
    centre = _stdlib.fmean(logs)
    return Interval(math.exp(max(centre - half, -700)), math.exp(min(centre + half, 700)))


def ratio_interval(
    ratios: Sequence[float], confidence: float = RATIO_CONFIDENCE, widening: float = 1.0, prior: Prior = NONE
) -> Interval | None:
    """Interval of the centre of the rounds' ratios, on the scale of logarithms; None below two rounds.

    It is Wilcoxon's (1945, Biometrics Bulletin 1, 80-83): order statistics of the means of all pairs (Hollander
    and Wolfe, Nonparametric Statistical Methods, 3.3). Rounds so few that ranks give no interval at `confidence` (7 at
    99 %) may all have missed a second speed: then it is Student's, at least `UNSEEN` wide to either side, of a variance
    that is moderated by `prior`, what the run's ratios have in common (`moderated.prior_of`).
    `widening` is the factor by which both ends move away from the median, which it holds.
    """
    if len(ratios) < 2:
        return None
    middle, rank = median(ratios), _signed_rank(len(ratios), confidence)
    if rank is None:
        rho = (widening**2 - 1) / (widening**2 + 1)
        found = widened(_holding(middle, student_interval(ratios, confidence, rho, prior)), middle, widening)
        return Interval(min(found.low, middle / (1 + UNSEEN)), max(found.high, middle * (1 + UNSEEN)))
    logs = [math.log(ratio) for ratio in ratios]
    means = sorted((one + other) / 2 for place, one in enumerate(logs) for other in logs[place:])
    found = Interval(math.exp(means[rank]), math.exp(means[-1 - rank]))
    return widened(_holding(middle, found), middle, widening)


@lru_cache(maxsize=1024)
def _signed_rank(count: int, confidence: float) -> int | None:
    """Largest k such that the k-th smallest and k-th largest (from 0) mean of two of `count` hold the centre at
    `confidence`: exactly up to 50, then by the normal distribution.
    """
    pairs = count * (count + 1) // 2
    if count > 50:
        z = _stdlib.NormalDist().inv_cdf((1 + confidence) / 2)
        return math.floor(pairs / 2 - z * math.sqrt(pairs * (2 * count + 1) / 12))
    ways = [1] + [0] * pairs
    for rank in range(1, count + 1):
        for total in range(pairs, rank - 1, -1):
            ways[total] += ways[total - rank]
    outside, best = 0, None
    for k in range(pairs // 2):
        outside += 2 * ways[k]
        if outside > (1 - confidence) * 2**count:
            break
        best = k
    return best


def widened(interval: Interval, middle: float, factor: float) -> Interval:
    """`interval` with both ends `factor` times as far from `middle`, on the scale of logarithms."""
    if factor == 1:
        return interval
    far = (factor * math.log(min(max(end / middle, 1e-300), 1e300)) for end in (interval.low, interval.high))
    low, high = (middle * math.exp(min(max(log, -700), 700)) for log in far)
    return Interval(low, high)


def verdict(interval: Interval | None) -> str:
    """What an interval of a ratio says.

    `same` if all of it lies within `SAME_MARGIN` of 1, else `faster` or `slower` if all of it lies beyond
    `TIE_MARGIN`, else, and without an interval, `undecided`.
    """
    if interval is None:
        return "undecided"
    if interval.low >= 1 / (1 + SAME_MARGIN) and interval.high <= 1 + SAME_MARGIN:
        return "same"
    if interval.low > 1 + TIE_MARGIN:
        return "faster"
    return "slower" if interval.high < 1 / (1 + TIE_MARGIN) else "undecided"


def holm(decided: Sequence[Callable[[float], bool]], error: float = PAGE_ERROR) -> list[float]:
    """The confidence at which each comparison of a page is told, so that all of them together err with at most `error`.

    Each of `decided` says whether its comparison is decided at a confidence. Those that are at 1 - `error` / count
    leave with it, and the rest is asked again with the count of those that are left (Holm 1979, Scandinavian Journal
    of Statistics 6, 65-70).
    """
    levels = [1 - error / max(1, len(decided))] * len(decided)
    left = list(range(len(decided)))
    while left:
        level = 1 - error / len(left)
        staying = [index for index in left if not decided[index](level)]
        for index in left:
            levels[index] = level
        if len(staying) == len(left):
            break
        left = staying
    return levels


# Correlation between rounds.


def correlation(series: Iterable[Sequence[float | None]]) -> float:
    """Correlation between neighbouring rounds of one run, from the rounds' log ratios of its cells; 0 or more.

    Each series is one cell's, by round, None if the round does not count. Deviations from each one's mean are pooled,
    in units of its own deviation. The mean of n rounds pulls neighbours apart: what is found at a correlation of rho is
    rho (1 - 3/n + 4/n³) - 1/(n-1) (Kendall 1954, Biometrika 41, 403-404; the last term of the factor by simulation of
    3 to 40 rounds). As few rounds say little, the assumed correlation counts for `ASSUMED_PAIRS` more pairs.
    """
    found, weight = ASSUMED_CORRELATION * ASSUMED_PAIRS, float(ASSUMED_PAIRS)
    for one in series:
        known = [value for value in one if value is not None]
        count = len(known)
        centre, variance = (_stdlib.fmean(known), _stdlib.pvariance(known)) if count >= 3 else (0.0, 0.0)
        if variance > 0:
            pairs = [(a - centre) * (b - centre) for a, b in pairwise(one) if a is not None and b is not None]
            found += sum(pairs) / variance + len(pairs) / (count - 1)
            weight += len(pairs) * (1 - 3 / count + 4 / count**3)
    return max(0.0, found / weight)


def widening(rho: float) -> float:
    """Factor on an interval of a mean of rounds that are correlated by `rho`: an autoregression's, of many rounds."""
    rho = min(max(rho, 0.0), MOST_CORRELATION)
    return math.sqrt((1 + rho) / (1 - rho))


# Ratios.


def round_ratios(baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """Median of `baseline` over median of `other`, round by round; rounds that either lacks are left out."""
    return [median(b) / median(o) for b, o in zip(baseline, other, strict=False) if b and o and median(o) > 0]


def ratio_within_rounds(
    baseline: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    confidence: float = RATIO_CONFIDENCE,
    widening: float = 1.0,
    prior: Prior = NONE,
) -> Ratio | None:
    """How many times faster `other` is than `baseline`: median of the rounds' ratios with its interval (see
    `ratio_interval`); None without rounds.

    A drift that is slow against a round hits both alike and cancels; a stall of one turn widens the interval.
    """
    ratios = round_ratios(baseline, other)
    interval = ratio_interval(ratios, confidence, widening, prior)
    return Ratio(median(ratios), interval, len(ratios), confidence) if ratios else None


def ratio_of_runs(
    old: Sequence[Sequence[float]],
    new: Sequence[Sequence[float]],
    confidence: float = RATIO_CONFIDENCE,
    widening: float = 1.0,
) -> Ratio | None:
    """How many times faster `new` is than `old` where the two were measured apart, so that nothing pairs them.

    The interval divides the intervals of the two medians at the confidence that makes the quotient's at least
    `confidence` (Bonferroni), and is widened by `widening`; None without an interval of either.
    """
    each = 1 - (1 - confidence) / 2
    before, after = median_interval(old, each), median_interval(new, each)
    if before is None or after is None:
        return None
    value = median(pooled(old)) / median(pooled(new))
    ends = Interval(before.low / after.high, before.high / after.low)
    return Ratio(value, widened(ends, value, widening), min(len(old), len(new)), confidence)


def jointly(ratios: Sequence[Callable[[float], Ratio]], error: float = PAGE_ERROR) -> list[Ratio]:
    """The comparisons of one page, each as a function of its confidence, at the levels that `holm` gives them."""
    levels = holm([lambda level, one=one: one(level).verdict != "undecided" for one in ratios], error)  # type: ignore[misc]
    return [one(level) for one, level in zip(ratios, levels, strict=True)]


def pooled(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The samples of all rounds, in the order taken."""
    return [sample for round_ in rounds for sample in round_]


# Change over time.


def is_stable(durations: Sequence[float], tolerance: float = 0.05) -> bool:
    """True if the medians of both halves of a window of 4 or more calls are within `tolerance`, or their quartiles
    overlap, so that what differs is noise (the rule of pyperf's warm-up calibration).
    """
    if len(durations) < 4:
        return False
    half = len(durations) // 2
    first, second = quartiles(durations[:half]), quartiles(durations[-half:])
    if abs(first[1] - second[1]) <= tolerance * second[1]:
        return True
    return half >= 4 and first[0] <= second[2] and second[0] <= first[2]


def drift(rounds: Sequence[Sequence[float]]) -> float | None:
    """Change of the rounds' medians from first to last (slope by Theil and Sen) as a share of their median; None below
    6 rounds, and where the Mann-Kendall test shows no trend at 1 %.
    """
    medians = [median(round_) for round_ in rounds if round_]
    count = len(medians)
    if count < 6:
        return None
    pairs = [(j - i, medians[j] - medians[i]) for i in range(count) for j in range(i + 1, count)]
    score = sum((change > 0) - (change < 0) for _, change in pairs)
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    z = (abs(score) - 1) / deviation
    if z <= _stdlib.NormalDist().inv_cdf(0.995):
        return None
    return median([change / distance for distance, change in pairs]) * (count - 1) / median(medians)
