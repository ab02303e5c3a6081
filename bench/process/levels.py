"""Is a service level kept? An exact test of the requests above its limit, of as many as a queue leaves independent.

A level "p95 within L" says that at most 5 % of all requests take longer than L (overruns). The question is the server's
own share of overruns, of which a run sees a sample. `kept` and `missed` are each wrong for at most `RISK` of the runs
of a server whose share is exactly the level's (C. J. Clopper and E. S. Pearson, Biometrika 26, 1934; MLPerf LoadGen's
early stopping asks the same of a percentile). Pure functions.
"""

from __future__ import annotations

import math

#: Share of runs in which a server exactly at its limit may be called kept, and share in which it may be called missed.
RISK = 0.01
#: What became of a service level.
KEPT, MISSED, UNJUDGED = "kept", "missed", "unjudged"
#: Requests that no run has: more are needed if the share of overruns is the level's own.
ENDLESS = 10**9


def binomial_cdf(most: int, count: int, share: float) -> float:
    """P(X <= most) of X overruns among `count` independent requests, each with probability `share` within 0 and 1.

    The terms are summed from the largest on, each from the one before: within 1e-7 of itself for millions of requests.
    """
    if most < 0:
        return 0.0
    if most >= count:
        return 1.0
    if most > count * share:
        return 1.0 - binomial_cdf(count - most - 1, count, 1 - share)
    ways = math.lgamma(count + 1) - math.lgamma(most + 1) - math.lgamma(count - most + 1)
    term = math.exp(ways + most * math.log(share) + (count - most) * math.log1p(-share))
    total, odds = 0.0, (1 - share) / share
    while most >= 0 and term > total * 1e-17:
        total += term
        term *= most / (count - most + 1) * odds
        most -= 1
    return total


def judged(overruns: int, requests: int, share: float, inflation: float = 1.0) -> str:
    """`KEPT` if so few overruns are improbable for a server whose share of them is `share`, `MISSED` if so many are.

    `inflation` is how many requests tell as much as one independent one; counts are divided by it, each rounded
    towards what proves less. At 1 this is the exact binomial test.
    """
    inflation = max(1.0, inflation)
    if inflation == math.inf:
        return UNJUDGED
    if binomial_cdf(math.ceil(overruns / inflation), math.floor(requests / inflation), share) <= RISK:
        return KEPT
    least, of = math.floor(overruns / inflation), math.ceil(requests / inflation)
    return MISSED if binomial_cdf(of - least, of, 1 - share) <= RISK else UNJUDGED


def requests_needed(found: float, share: float, inflation: float = 1.0) -> int | None:
    """Fewest requests that would be judged if the share `found` of them were overruns; None if no run has as many."""
    if inflation == math.inf:
        return None

    def is_judged(requests: int) -> bool:
        overruns = math.ceil(found * requests) if found < share else math.floor(found * requests)
        return judged(overruns, requests, share, inflation) != UNJUDGED

    most = 1
    while not is_judged(most):
        most *= 2
        if most > ENDLESS:
            return None
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if is_judged(middle) else (middle, most)
    return most


def inflation_of(load: float, variation: float = 0.0, joined: float = 1.0) -> float:
    """Requests of a queue that tell as much as one independent one about a high percentile; infinite from load 1 on.

    Overruns come together, for as long as the backlog is above the limit. In M/M/1 at a high limit an overrun's excess
    is exponential, and the random walk of the waits that follow (ladder heights: W. Feller, An Introduction to
    Probability Theory, volume 2, chapter XII) is above the limit (1 + load²)/(1 - load)² times, itself included. Twice
    that less one, the sum of the autocorrelation over all lags, is ((1 + load)/(1 - load))² = 1 + 4 load/(1 - load)².
    Other calls scale what is added by (1 + `variation`)/2, as in heavy traffic (W. Whitt, Planning Queueing
    Simulations, Management Science 35, 1989); `variation` is the squared coefficient of variation of a call's time. The
    `joined` requests of a full call count as one.
    """
    return joined + 2 * (1 + variation) * load / (1 - load) ** 2 if load < 1 else math.inf
