"""Student's t at any level and any number of degrees of freedom, without numpy: the parent process stays light."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist


@lru_cache(maxsize=4096)
def student(confidence: float, freedom: float) -> float:
    """Student's t that the absolute value stays below with probability `confidence`, by Newton's method.

    `freedom` is above 0 and need not be whole (Welch 1947, Satterthwaite 1946); infinite: the normal distribution's.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if freedom > 1e7:
        return z
    # The logarithm of the tail is concave in the logarithm of t, so that every step but the first comes from above.
    t, target = max(z, 0.1), 1 - confidence
    log_constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    for _ in range(60):
        tail = _beta(freedom / 2, freedom / (freedom + t * t))
        density = math.exp(log_constant - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = math.log(tail / target) * tail / (2 * density * t)
        t *= math.exp(step)
        if abs(step) < 1e-10:
            break
    return t


def _beta(a: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, 1/2): continued fraction by Lentz (Numerical Recipes, 6.4)."""
    b = 0.5
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x > (a + 1) / (a + b + 2):
        return 1 - math.exp(front) * _fraction(b, a, 1 - x) / b
    return math.exp(front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, 300):
        up = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        down = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for part in (up, down):
            d = 1 / (1 + part * d)
            c = 1 + part / c
            found *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return found


def freedom(count: int, rho: float = 0.0) -> float:
    """Degrees of freedom of the variance of `count` rounds that are correlated by `rho`.

    Of many rounds it is (1 - rho²) / (1 + rho²) of what independent ones have (Bartlett 1946, JRSS Supplement 8,
    27-41); of three none is lost, and between the two the loss grows with 1 - 3/count (by simulation).
    """
    return (count - 1) * (1 - max(0.0, 1 - 3 / count) * 2 * rho**2 / (1 + rho**2))
