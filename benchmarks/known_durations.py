"""Does `bench compare` report a duration that is known?

    python benchmarks/known_durations.py

The backend `null` spins for a scripted time. Everything else is a real run: driver, worker, channel, turns, rounds.
Goal: the median within 0.5 % of the scripted time, plus the clock's resolution.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from backends.null import Null
from bench import machine
from bench.run.experiment import measure
from bench.workloads.forward import Forward, ForwardOptions

VARIANTS = ("50us", "500us", "default", "5ms", "slow", "50ms")


def main() -> None:
    """Print scripted and measured time of each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-seconds-per-cell", type=float, default=5.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "model": "bert-tiny", "backends": [f"null:{variant}" for variant in VARIANTS], "batches": 1, "lengths": 8,
            "device": "cpu", "threads": 1, "max_seconds_per_cell": args.max_seconds_per_cell, "artifacts": Path(folder),
        }  # fmt: skip
        run = measure(Forward, ForwardOptions.parsed(given))
    print(f"{machine.cpu_name()}; {run.command}")
    print(f"the driver used {run.notes['parent_cpu_share']:.3%} of a CPU while the worker was timing")
    print(f"{'scripted':>12} {'median':>12} {'error':>8}  interval of the median, samples, calls a sample")
    for record, row in zip(run.records, run.rows(), strict=True):
        scripted_ms = float(Null.spec.variants[record.candidate.variant]["seconds"]) * 1e3
        print(
            f"{scripted_ms:>9.3f} ms {row['median_ms']:>9.4f} ms {row['median_ms'] / scripted_ms - 1:>8.2%}"
            f"  {row['median_low_ms']:.4f} to {row['median_high_ms']:.4f} ms, "
            f"{row['samples']}, {row['calls_per_sample']}"
        )


if __name__ == "__main__":
    main()
