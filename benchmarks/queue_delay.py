"""How long the threads of a worker wait for a CPU, in a second of its turns: alone, and beside busy processes.

    python -m benchmarks.queue_delay --model minilm --backends eager,onnx --busy 0,2

A machine that is to decide anything shows far less than the limit (`bench.machine.conditions.MOST_OTHERS`) without busy
processes. What ticks say of the same turns stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.machine.conditions import MOST_OTHERS
from bench.run.experiment import measure
from bench.run.record import Run
from bench.workloads.forward import Forward


@contextmanager
def beside(processes: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def lines(run: Run, busy: int) -> Iterator[str]:
    """One line a candidate: delay a second of wall time, the share that ticks tell of, and the quiet turns."""
    for record in run.records:
        turns = [turn.conditions for turn in record.turns]
        if not turns or turns[0]["queue_delay_seconds"] is None:
            yield f"{busy} busy, {record.candidate.label}: nothing is counted"
            continue
        delays = [one["queue_delay_seconds"] / one["wall_seconds"] for one in turns]
        ticks = sum(one["other_cpu_seconds"] for one in turns) / sum(one["cpu_seconds"] for one in turns)
        yield (
            f"{busy} busy, {record.candidate.label}: median {statistics.median(delays):.5f} s a second, "
            f"{min(delays):.5f} to {max(delays):.5f}; ticks: {ticks:.1%}; "
            f"{sum(record.quiet)} of {len(turns)} turns were quiet"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bert-tiny")
    parser.add_argument("--backends", default="eager,onnx")
    parser.add_argument("--busy", default="0,2", help="numbers of busy processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--artifacts", default="artifacts")
    args = parser.parse_args()
    print(f"limit: {MOST_OTHERS} s a second")
    for busy in map(int, args.busy.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            options = Forward.Options.parsed(
                {
                    "model": args.model, "backends": args.backends, "device": "cpu", "batches": "1", "lengths": "64",
                    "rounds": args.rounds, "target_precision": "90%", "artifacts": args.artifacts,
                    "output": str(Path(folder) / "run.jsonl"),
                }
            )  # fmt: skip
            with beside(busy):
                run = measure(Forward, options)
        print(*lines(run, busy), sep="\n")


if __name__ == "__main__":
    main()
