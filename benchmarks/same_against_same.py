"""Does `bench` call a thing faster than itself?

    python benchmarks/same_against_same.py [--pairs 200] [--model bert-tiny]

A/A: each backend is a candidate twice, in two processes, and every pair of the two at every shape is compared, which
differ in nothing. Each run starts all processes anew with another seed, since two processes of one program
may differ for good. Goal: at most 2 % of the pairs called faster or slower.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import machine, statistics
from bench.run.experiment import measure
from bench.run.pairs import ratio_between
from bench.run.record import Run
from bench.workloads.forward import Forward, ForwardOptions


def main() -> None:
    """Print every run's verdicts, their sum, and how wide the ratios spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--model", default="bert-tiny")
    parser.add_argument("--backends", default="eager,onnx,torchscript")
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--lengths", default="16,64,128")
    parser.add_argument("--max-seconds-per-cell", type=float, default=2.0)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    args = parser.parse_args()
    twice = ",".join(f"{name},{name}@2" for name in args.backends.split(","))
    ratios: list[statistics.Ratio] = []
    disturbed, parent_shares, seed = 0, [], 0
    while len(ratios) < args.pairs:
        with tempfile.TemporaryDirectory() as folder:
            given = {
                "model": args.model, "backends": twice, "batches": args.batches, "lengths": args.lengths, "seed": seed,
                "max_seconds_per_cell": args.max_seconds_per_cell, "artifacts": args.artifacts,
                "output": Path(folder) / "run.jsonl",
            }  # fmt: skip
            run = measure(Forward, ForwardOptions.parsed(given))
        found = list(pairs(run))
        ratios += [ratio for ratio, _ in found]
        disturbed += sum(is_disturbed for _, is_disturbed in found)
        parent_shares.append(run.notes.get("parent_cpu_share") or 0.0)
        print(f"run {seed}: {' '.join(ratio.verdict for ratio, _ in found)}", flush=True)
        seed += 1
    wrong = [ratio for ratio in ratios if ratio.verdict in ("faster", "slower")]
    off = sorted(abs(ratio.value - 1) for ratio in ratios)
    covered = sum(ratio.interval is not None and 1.0 in ratio.interval for ratio in ratios)
    print(f"{machine.cpu_name()}; {run.command}")
    print(f"{len(ratios)} pairs in {seed} runs: {len(wrong)} called faster or slower ({len(wrong) / len(ratios):.1%})")
    print(f"the interval held 1 in {covered / len(ratios):.1%} of them; {disturbed} pairs were disturbed")
    print(f"ratio off 1 by: median {statistics.median(off):.2%}, largest {off[-1]:.2%}")
    print(f"the driver used {max(parent_shares):.3%} of a CPU at most while workers were timing")
    for ratio in wrong:
        print(f"wrong: {ratio.value:.4f} {ratio.interval} over {ratio.rounds} rounds")


def pairs(run: Run) -> Iterator[tuple[statistics.Ratio, bool]]:
    """The ratio of each backend's two copies at each shape, and whether either cell was disturbed."""
    for record in run.records:
        other = run.record(record.point, replace(record.candidate, copy=2))
        if record.candidate.copy != 1 or other is None:
            continue
        ratio = ratio_between(record, other)
        if ratio is not None:
            yield ratio, bool(run.disturbances(record) or run.disturbances(other))


if __name__ == "__main__":
    main()
