"""How often is a server that is exactly at a service level called `kept`, or `missed`? And is a search's range right?

    python benchmarks/levels_of_a_queue.py [--runs 500] [--searches 100] [--requests 300,1000,3000] [--seed 1]

No server is measured. Requests arrive by a Poisson process, wait before one server and are judged by `Slices.level`, as
`bench load` does it. M/M/1's percentiles are known, those of other calls come from 20 million requests. Each line
compares three rules on the same runs: the percentile within the limit (as it was once), the exact binomial test of
requests that are taken for independent, and today's. Goal: at most 1 % kept and 1 % missed. A clear server has a third
or three times as many overruns as the level allows. docs/load.md has the results.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import numpy as np

from bench.process import levels
from bench.process.levels import KEPT, MISSED
from bench.process.queue import Batching, Slice, serve
from bench.process.served import Slices
from bench.run.search import MOST_STEPS, Tried, evidence_of, next_rate, requests_to_test
from bench.traffic import Slo

MS = 1_000_000
LOADS, RANKS = (0.3, 0.5, 0.7, 0.9), (50, 95, 99)
#: How long the requests of a test arrive, as `--duration` has it.
SECONDS = 30.0
Times = Callable[[random.Random, int], list[int]]


def equal(draw: random.Random, count: int) -> list[int]:
    """Calls of one millisecond: M/D/1."""
    return [MS] * count


def exponential(draw: random.Random, count: int) -> list[int]:
    """Calls of one millisecond on average: M/M/1."""
    return [round(draw.expovariate(1) * MS) for _ in range(count)]


def two_lengths(draw: random.Random, count: int) -> list[int]:
    """One call in five takes 3 ms, the others half a millisecond."""
    return draw.choices([MS // 2, 3 * MS], [4, 1], k=count)


def due(draw: random.Random, rate: float, count: int) -> list[int]:
    """Poisson arrivals at `rate` a millisecond, ns."""
    return [round(at * MS) for at in accumulate(draw.expovariate(rate) for _ in range(count))]


def queued(draw: random.Random, times: Times, rate: float, count: int) -> Slices:
    """What becomes of requests that are served one by one (Lindley's recursion)."""
    found, free = Slice(due(draw, rate, count)), 0
    for at, service in zip(found.due_ns, times(draw, count), strict=True):
        start = max(at, free)
        free = start + service
        found.waits_ns.append(start - at)
        found.latency_ns.append(free - at)
    return Slices([found], count, rate * 1e3)


def joined(draw: random.Random, batching: Batching, rate: float, count: int) -> Slices:
    """What becomes of requests that are joined; a call takes 1 ms and a quarter more for each."""
    now = [0]

    def call(first: int, count: int) -> None:
        now[0] += MS + MS * count // 4

    def wait(moment: int) -> None:
        now[0] = moment

    return Slices(
        [serve(due(draw, rate, count), [1] * count, batching, call, lambda: now[0], wait, 10**18)], count, rate * 1e3
    )


def limits_of(times: Times, load: float) -> list[Slo]:
    """The levels that an endless queue is exactly at; none whose limit is the call itself, as at low loads."""
    if times is exponential:
        return [Slo(rank, -math.log(1 - rank / 100) / (1 - load) * MS) for rank in RANKS]
    draw, many, found = np.random.default_rng(0), 1_000_000, []
    for _ in range(20):
        services = np.ones(many) if times is equal else draw.choice([0.5, 3.0], p=[0.8, 0.2], size=many)
        steps = np.concatenate([[0.0], np.cumsum(services[:-1] - draw.exponential(1 / load, many - 1))])
        found.append((steps - np.minimum.accumulate(steps) + services)[20_000:])
    endless = np.concatenate(found)
    limits = {rank: float(np.quantile(endless, rank / 100)) for rank in RANKS}
    return [Slo(rank, ms * MS) for rank, ms in limits.items() if np.isclose(endless, ms, rtol=1e-6).mean() < 1e-3]


def shares(runs: Sequence[Slices], slo: Slo) -> str:
    """Percent of the runs that are kept and missed: by the percentile, as independent requests, and by today's rule."""
    rules: tuple[Callable[[Slices], str], ...] = (
        lambda one: KEPT if one.seems_kept([slo]) else MISSED,
        lambda one: levels.judged(one.overruns(slo), one.requests, slo.share),
        lambda one: one.level(slo),
    )
    counts = [Counter(rule(one) for one in runs) for rule in rules]
    return " | ".join(f"{one[KEPT] / len(runs):6.1%} {one[MISSED] / len(runs):6.1%}" for one in counts)


def found_of(
    name: str, serve_some: Callable[[int], Slices], limits: Sequence[Slo], sizes: Sequence[int], runs: int
) -> None:
    """Print a line for each number of requests and level that a server is exactly at."""
    endless = sorted(serve_some(100_000).latencies_ns)
    for count in sizes:
        found = [serve_some(count) for _ in range(max(1, min(runs, 300_000 // count)))]
        for slo in limits:
            clear = []
            for share, outcome in ((slo.share / 3, KEPT), (min(3 * slo.share, (1 + slo.share) / 2), MISSED)):
                there = Slo(slo.rank, endless[math.floor((1 - share) * len(endless))])
                clear.append(sum(one.level(there) == outcome for one in found[:100]) / len(found[:100]))
            print(f"{name} p{slo.rank} {count}: {shares(found, slo)} | {clear[0]:.0%} {clear[1]:.0%}", flush=True)


def of_levels(runs: int, sizes: Sequence[int], seed: int) -> None:
    """Print how often each rule calls a server at its level kept and missed, and today's a clear one."""
    draw = random.Random(seed)
    print("calls, load, level, requests: percentile | binomial | today's rule, each kept and missed; today's if clear")
    for times in (equal, exponential, two_lengths):
        for load in LOADS:
            found_of(
                f"{times.__name__} {load}", partial(queued, draw, times, load), limits_of(times, load), sizes, runs
            )
    for text, batching in (("0 ms", Batching(8)), ("2 ms", Batching(8, 2 * MS))):
        for load in (0.3, 0.6, 0.85):
            serve_some = partial(joined, draw, batching, load * 8 / 3)
            limit = sorted(serve_some(300_000).latencies_ns)[285_000]
            found_of(f"joined up to 8 within {text} {load}", serve_some, [Slo(95, limit)], sizes, runs)


def searched(draw: random.Random, times: Times, slo: Slo, least: int) -> tuple[float | None, float | None, int]:
    """Ends of the range that a search and its tests come to, requests a second, and the requests that it took."""
    common, tried = draw.random(), list[Tried]()
    needed = partial(requests_to_test, tried, [slo], least=least, seconds=SECONDS)
    while len(tried) <= MOST_STEPS:
        evidence = evidence_of(tried, [slo])
        if (rate := next_rate(evidence.trials, 200.0, least)) is not None:
            tried.append(Tried(queued(random.Random(common), times, rate / 1e3, least), is_evidence=not tried))
        elif (test := evidence.next_test(needed)) is not None:
            tried.append(Tried(queued(draw, times, test[0] / 1e3, test[1]), is_trial=False))
        else:
            break
    evidence = evidence_of(tried, [slo])
    return evidence.kept, evidence.missed, sum(one.slices.requests for one in tried)


def of_searches(searches: int, seed: int) -> None:
    """Print how often a range is wrong, how wide it is and what it took."""
    draw = random.Random(seed)
    print("calls, level, largest rate: ranges too high, too low, open; median width; median requests")
    for times in (equal, exponential):
        for load in (0.3, 0.6, 0.85):
            for slo in (one for one in limits_of(times, load) if one.rank != 99):
                least, rank = 200 if slo.rank == 50 else 260, slo.rank
                found = [searched(draw, times, slo, least) for _ in range(searches)]
                high = sum(kept is not None and kept > 1000 * load for kept, _, _ in found) / searches
                low = sum(missed is not None and missed < 1000 * load for _, missed, _ in found) / searches
                widths = sorted(missed / kept if kept and missed else math.inf for kept, missed, _ in found)
                requests = sorted(one for _, _, one in found)
                is_open = sum(width == math.inf for width in widths) / searches
                print(
                    f"{times.__name__} p{rank} {1000 * load:.0f}/s: {high:.1%} {low:.1%} {is_open:.1%}; "
                    f"{widths[searches // 2]:.2f}; {requests[searches // 2]:,}", flush=True,
                )  # fmt: skip


def main() -> None:
    """Simulate, and print a line for each kind of server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--requests", default="300,1000,3000")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.runs:
        of_levels(args.runs, [int(one) for one in args.requests.split(",")], args.seed)
    if args.searches:
        of_searches(args.searches, args.seed)


if __name__ == "__main__":
    main()
