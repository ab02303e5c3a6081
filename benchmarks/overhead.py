"""What does the harness add to a call?

    python benchmarks/overhead.py [--rounds 40]

In one process, the worker's own step (bench.process.timing.Step on the `null` backend, as a worker builds it, with as
many calls a sample) and a bare `for` loop over the same call take turns in random order. The overhead is the
difference of their medians within rounds. Goal: under 2 microseconds, and under 0.5 % of a call of a millisecond.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import time
from functools import partial
from itertools import pairwise

import numpy as np

from backends.null import Null
from bench import machine, statistics
from bench.process.timing import LEAST_SAMPLE_NS, Step

#: The fastest is too fast for its script to say how many calls a sample of bench would hold.
CALLS_OF_NOTHING = 5000
VARIANTS = ("instant", "50us", "500us", "default", "5ms")


def main() -> None:
    """Print the overhead a call of each scripted duration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    print(f"{args.rounds} rounds; {machine.cpu_name()}; bench's clock ticks every {resolution_ns()} ns")
    print(f"{'call':>8} {'bare loop':>12} {'bench':>12} {'overhead':>12}  95 % interval")
    for variant in VARIANTS:
        seconds = float(Null.spec.variants[variant]["seconds"])
        calls = math.ceil(LEAST_SAMPLE_NS / (seconds * 1e9)) if seconds else CALLS_OF_NOTHING
        backend = Null()
        backend.load(None, device="cpu", precision="fp32", threads=1, options=Null.spec.variants[variant])
        report(variant, backend, calls, args.rounds)


def report(variant: str, backend: Null, calls: int, rounds: int) -> None:
    """One line: microseconds a call of both, and their difference within rounds."""
    prepared = backend.prepare({"input_ids": np.ones((1, 8), dtype=np.int64)})
    step, order = Step(partial(backend.run, prepared), backend.synchronize), random.Random(0)
    harness: list[float] = []
    bare: list[float] = []
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for who in order.sample(("harness", "bare"), 2):
            if who == "harness":
                harness.append(step.wall_ns(time.perf_counter_ns, calls))
            else:
                bare.append(bare_ns(backend, prepared, calls))
    gc.enable()
    differences = [ours - theirs for ours, theirs in zip(harness, bare, strict=True)]
    middle = statistics.median(bare)
    # Differences may be negative, which the interval of a positive figure is not for; so they are shifted.
    interval = statistics.median_interval([[difference + middle] for difference in differences])
    assert interval is not None
    overhead = statistics.median(differences)
    print(
        f"{variant:>8} {middle / 1e3:>9.3f} µs {statistics.median(harness) / 1e3:>9.3f} µs {overhead / 1e3:>9.3f} µs"
        f"  {(interval.low - middle) / 1e3:.3f} to {(interval.high - middle) / 1e3:.3f} µs, {overhead / middle:.2%}"
    )


def bare_ns(backend: Null, prepared: object, calls: int) -> float:
    """Nanoseconds a call of a bare loop."""
    started = time.perf_counter_ns()
    for _ in range(calls):
        backend.run(prepared)
    return (time.perf_counter_ns() - started) / calls


def resolution_ns() -> int:
    """Smallest step that the clock was seen to make."""
    readings = [time.perf_counter_ns() for _ in range(10000)]
    return min(later - earlier for earlier, later in pairwise(readings) if later > earlier)


if __name__ == "__main__":
    main()
