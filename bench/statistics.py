"""Statistics over samples: pure functions, no state, no numpy (the parent process stays light).

Samples come in rounds, and the samples of one round share what the machine was doing then. So
the unit of every interval is the round: its median, or its ratio of two medians.
"""

from __future__ import annotations

import math
import statistics as _stdlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

#: Confidence of the interval of a median, by which sampling stops.
MEDIAN_CONFIDENCE = 0.95
#: Confidence of the interval of a ratio, from which its verdict is drawn: in a hundred comparisons of
#: a thing with itself one may be called faster or slower.
RATIO_CONFIDENCE = 0.99
#: Two processes of one program differ by up to this for good (where their memory came to lie, and on
#: which core they began); a ratio is a verdict only beyond it. See docs/accuracy.md.
TIE_MARGIN = 0.01
#: Rounds from which ranks give an interval at `RATIO_CONFIDENCE`: all of 7 fall on one side
#: of the truth with probability 2/2**7 = 1.6 %, all of 8 with 0.8 %.
RANKS_FROM = 8
#: Samples that a percentile needs (MLPerf LoadGen, early stopping).
PERCENTILE_SAMPLES = {50: 1, 90: 64, 95: 130, 99: 662}
#: Confidence of each median where two that were measured apart make a ratio.
EACH_CONFIDENCE = 1 - (1 - RATIO_CONFIDENCE) / 2
#: The same for a ratio at `MEDIAN_CONFIDENCE`.
EACH_OF_TWO_CONFIDENCE = 1 - (1 - MEDIAN_CONFIDENCE) / 2
#: Student's t, two-sided, for 1 to 6 degrees of freedom.
_STUDENT = {
    EACH_OF_TWO_CONFIDENCE: (25.452, 6.205, 4.177, 3.495, 3.163, 2.969),
    MEDIAN_CONFIDENCE: (12.706, 4.303, 3.182, 2.776, 2.571, 2.447),
    RATIO_CONFIDENCE: (63.657, 9.925, 5.841, 4.604, 4.032, 3.707),
    EACH_CONFIDENCE: (127.321, 14.089, 7.453, 5.598, 4.773, 4.317),
}


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
    """At `RATIO_CONFIDENCE`; None with a single round."""
    rounds: int

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" where the whole interval lies beyond `TIE_MARGIN`, else "tie"."""
        if self.interval is None:
            return "tie"
        if self.interval.low > 1 + TIE_MARGIN:
            return "faster"
        return "slower" if self.interval.high < 1 / (1 + TIE_MARGIN) else "tie"


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
    medians = [median(round_) for round_ in rounds if round_]
    return _interval(medians, confidence, median(pooled(rounds)), 2) if medians else None


def _interval(values: Sequence[float], confidence: float, middle: float, ranks_from: int) -> Interval | None:
    """Interval of the median of `values`, widened to hold `middle`: by ranks with `ranks_from` values or more."""
    if len(values) < 2:
        return None
    ordered = sorted(values)
    rank = _order_statistic(len(ordered), confidence) if len(ordered) >= ranks_from else None
    found = student_interval(values, confidence) if rank is None else Interval(ordered[rank], ordered[-1 - rank])
    return Interval(min(found.low, middle), max(found.high, middle))


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


def student_interval(values: Sequence[float], confidence: float) -> Interval:
    """Interval of the centre of 2 or more positive `values` by Student's t over their logarithms."""
    logs = [math.log(value) for value in values]
    half = _student(confidence, len(logs) - 1) * _stdlib.stdev(logs) / math.sqrt(len(logs))
    centre = _stdlib.fmean(logs)
    return Interval(math.exp(max(centre - half, -700)), math.exp(min(centre + half, 700)))


def _student(confidence: float, freedom: int) -> float:
    """Student's t, two-sided: a table up to 6 degrees of freedom, then Cornish and Fisher's series (within 2 %)."""
    if freedom <= len(_STUDENT[confidence]):
        return _STUDENT[confidence][freedom - 1]
    z = _stdlib.NormalDist().inv_cdf((1 + confidence) / 2)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def ratio_interval(ratios: Sequence[float], confidence: float = RATIO_CONFIDENCE) -> Interval | None:
    """Interval of the ratio from the rounds' ratios: by ranks, or Student's t over logarithms below 8 rounds."""
    return _interval(ratios, confidence, median(ratios), RANKS_FROM) if ratios else None


# Ratios.


def round_ratios(baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """Median of `baseline` over median of `other`, round by round; rounds that either lacks are left out."""
    return [median(b) / median(o) for b, o in zip(baseline, other, strict=False) if b and o and median(o) > 0]


def ratio_within_rounds(baseline: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Ratio | None:
    """How many times faster `other` is than `baseline`: median of the rounds' ratios with its interval; None without
    rounds.

    A drift that is slow against a round hits both alike and cancels; a stall of one turn widens the interval.
    """
    ratios = round_ratios(baseline, other)
    return Ratio(median(ratios), ratio_interval(ratios), len(ratios)) if ratios else None


def ratio_of_runs(
    old: Sequence[Sequence[float]], new: Sequence[Sequence[float]], confidence: float = RATIO_CONFIDENCE
) -> Ratio | None:
    """How many times faster `new` is than `old` where the two were measured apart, so that nothing pairs them.

    The interval divides the intervals of the two medians at the confidence that makes the
    quotient's at least `confidence` (Bonferroni), that of a ratio or of a median; None without an interval of either.
    """
    each = EACH_CONFIDENCE if confidence == RATIO_CONFIDENCE else EACH_OF_TWO_CONFIDENCE
    before, after = median_interval(old, each), median_interval(new, each)
    if before is None or after is None:
        return None
    value = median(pooled(old)) / median(pooled(new))
    return Ratio(value, Interval(before.low / after.high, before.high / after.low), min(len(old), len(new)))


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
