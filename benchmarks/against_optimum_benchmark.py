"""How long does one grid take: `bench compare`, or optimum-benchmark 0.6.0 on the same cells?

    python -m benchmarks.against_optimum_benchmark --python OTHER/bin/python [--model bert] [--batches 1,8]
        [--lengths 16,128,512] [--backends eager,onnx] [--output result.json]

OTHER is an environment made from benchmarks/optimum_benchmark.txt. Both get the same weights, fp32, CPU,
threads, batches, lengths and masks without padding. bench runs as it is. optimum-benchmark runs as it is:
its inference scenario (11 warm-ups, then 10 s and 10 calls at least), its process launcher (one process
a cell, while the parent polls without a pause), one `--multirun` a backend, which starts the parent once
for all cells. Its thread options do nothing to ONNX Runtime and are swapped for torch, so the one that
works is given to each. Its inputs hold token types and positions too. Its ONNX Runtime backend wants
one name that optimum 2 dropped; that name is given back to it, and nothing else of it is changed.

What is counted where is printed with the result. Goal: a quarter of its wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import Run, read_run, statistics
from bench.spec import Shape
from benchmarks.optimum_runs import BACKENDS, Measured, installed_versions, last_lines, offline, run_optimum, say, timed

GOAL = 0.25
#: Grows the prefix of samples that `seconds_to_precision` looks at.
GROWTH = 1.1
#: optimum-benchmark takes at least this many timed calls a cell.
LEAST_CALLS = 10

LEGEND = (
    "ratio: optimum-benchmark's median over bench's; a | b: bench's and optimum-benchmark's figure; precision:",
    "half-width of the 95 % interval of the median, over bench's rounds and as many blocks of the other's samples;",
    "optimum s: its sampling; s to ±bench: how much of that until its precision first was bench's",
)


def ratios(walls: Mapping[str, Any]) -> dict[str, float]:
    """bench's wall time over optimum-benchmark's, by what is inside both; `walls` are those of `wall_lines`."""
    empty, filled, loads = walls["bench_empty"], walls["bench_filled"], walls["bench_loads"]
    exports, grid = walls["optimum_exports"], walls["optimum_grid"]
    found = {"exports beforehand": filled / grid}
    if empty is not None and exports is not None:
        found["exports inside"] = empty / (exports + grid)
    found["exports and loads left out"] = (filled - loads) / (grid - walls["optimum_loads"])
    found["exports beforehand, at bench's precision"] = filled / (grid - walls["optimum_unneeded"])
    return found


def main() -> int:
    """Run both, print the comparison; 1 where a cell lacks a figure of either."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="interpreter of optimum-benchmark's environment")
    parser.add_argument("--model", default="bert")
    parser.add_argument("--backends", default="eager,onnx", help=f"of {', '.join(BACKENDS)}")
    parser.add_argument("--batches", help="as in bench compare")
    parser.add_argument("--lengths", help="as in bench compare")
    parser.add_argument("--threads", type=int, help="as in bench compare")
    parser.add_argument("--bench-options", default="", help="further options of bench compare, in one string")
    parser.add_argument("--iterations", type=int, help="calls a cell of optimum-benchmark, in place of its 10 s")
    parser.add_argument("--launcher", choices=("process", "inline"), default="process", help="optimum-benchmark's")
    parser.add_argument("--warm", action="store_true", help="leave out the run of bench with an empty store")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="the filled store, for --warm")
    parser.add_argument("--output", type=Path, help="file for the result as JSON")
    parser.add_argument("--keep", type=Path, help="new folder for logs and reports; removed at the end without it")
    args = parser.parse_args()
    backends = list(dict.fromkeys(args.backends.split(",")))
    for backend in backends:
        if backend not in BACKENDS:
            parser.error(f"--backends {backend!r} has no counterpart there; use any of {','.join(BACKENDS)}")
    if args.output is not None and not args.output.resolve().parent.is_dir():
        parser.error(f"the folder of --output {args.output} does not exist; make it first")
    if args.keep is not None:
        if args.keep.exists():
            parser.error(f"--keep {args.keep} exists; name a new folder")
        args.keep.mkdir(parents=True)
    versions = installed_versions(args.python)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        return compare(args, backends, versions, folder)


def compare(args: argparse.Namespace, backends: Sequence[str], versions: Mapping[str, str], folder: Path) -> int:
    """Run bench once or twice, then optimum-benchmark, and print and store the result; returns the exit code."""
    store = args.artifacts if args.warm else folder / "artifacts"
    bench_command = [
        *(sys.executable, "-m", "bench", "compare", "--model", args.model, "--backends", ",".join(backends)),
        *(("--batches", args.batches) if args.batches else ()),
        *(("--lengths", args.lengths) if args.lengths else ()),
        *(("--threads", str(args.threads)) if args.threads else ()),
        *("--device", "cpu", "--precisions", "fp32", "--artifacts", str(store), *shlex.split(args.bench_options)),
    ]
    loads_before = {"bench": os.getloadavg()[0]}
    bench_empty = None if args.warm else run_bench(bench_command, folder / "bench-empty")[0]
    before = artifacts_in(store)
    bench_filled, run = run_bench(bench_command, folder / "bench-filled")
    made = sorted(artifacts_in(store) - before)

    checkpoint = (store / "store" / f"checkpoint-{run.model.checkpoint}").resolve()
    loads_before["optimum-benchmark"] = os.getloadavg()[0]
    exports, grid_wall, theirs = run_optimum(
        args, run.workload.points(), run.options.settled_threads, backends, checkpoint, folder
    )
    cells = [compared(run, one, shape, theirs.get((one, shape))) for shape in run.workload.points() for one in backends]
    loads = {record.candidate.backend: record.once.load_seconds or 0.0 for record in run.records}
    walls = {
        "bench_empty": bench_empty,
        "bench_filled": bench_filled,
        "bench_loads": sum(loads.values()),
        "optimum_exports": exports,
        "optimum_grid": grid_wall,
        "optimum_loads": sum(measured.load_seconds for measured in theirs.values()),
        "optimum_unneeded": sum(
            cell["optimum_seconds"] - cell["optimum_seconds_to_precision"]
            for cell in cells
            if cell["optimum_seconds_to_precision"] is not None
        ),
    }
    title = (
        f"{args.model}, {run.options.threads} threads, fp32, {run.model.origin}; "
        f"{run.fingerprint.get('cpu', 'unknown CPU')}; load average {loads_before['bench']:.2f} before "
        f"bench, {loads_before['optimum-benchmark']:.2f} before optimum-benchmark"
    )
    walls_shown = wall_lines(walls, cells, made, args.launcher, args.iterations)
    print("\n".join([title, "", *table(cells), *LEGEND, "", *walls_shown]))
    if args.output is not None:
        result = {
            "title": title,
            "command": shlex.join(["python", "-m", "benchmarks.against_optimum_benchmark", *options_of(args)]),
            "cells": cells,
            "wall_seconds": walls,
            "wall_ratios": ratios(walls),
            "goal": GOAL,
            "made_in_the_filled_store": made,
            "load_average_before": loads_before,
            "fingerprint": run.fingerprint,
            "bench_command": run.command,
            "optimum_benchmark": {"versions": dict(versions), "launcher": args.launcher, "iterations": args.iterations},
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(cell["ratio"] is not None for cell in cells) else 1


def options_of(args: argparse.Namespace) -> list[str]:
    """What repeats this comparison, without what names a folder of this machine."""
    names = ("model", "backends", "batches", "lengths", "threads", "bench_options", "iterations", "launcher")
    options = ["--python", "OTHER/bin/python"]
    for name in names:
        if value := getattr(args, name):
            options += [f"--{name.replace('_', '-')}", str(value)]
    return options + (["--warm"] if args.warm else [])


def run_bench(command: Sequence[str], stem: Path) -> tuple[float, Run]:
    """Wall seconds of one `bench compare`, and its run."""
    say(stem.name)
    output = stem.with_suffix(".jsonl")
    seconds = timed([*command, "--output", str(output)], stem.with_suffix(".log"), offline(), allowed=(0, 1, 3))
    run = read_run(output)
    if not run.is_complete:
        raise SystemExit(f"bench compare did not finish:\n{last_lines(stem.with_suffix('.log'))}")
    return seconds, run


def artifacts_in(store: Path) -> set[str]:
    """Names of what the store holds."""
    folder = store / "store"
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()


def compared(run: Run, backend: str, shape: Shape, theirs: Measured | None) -> dict[str, Any]:
    """One cell of the result; None where optimum-benchmark left no figure or where there is no such thing.

    A precision is the half-width of the 95 % interval of the median as a share of it, over bench's rounds and over as
    many blocks of optimum-benchmark's samples. Seconds are those of its samples: all, and until it was as precise.
    """
    record = next(one for one in run.records if (one.candidate.backend, one.point) == (backend, shape))
    rounds = record.rounds if record.status == "ok" else []
    precision = statistics.precision(rounds) if rounds else None
    median_ms = statistics.median(record.samples) / 1e6 if rounds else None
    samples = theirs.samples_ns if theirs else []
    return {
        "backend": backend,
        "batch": shape.batch,
        "length": shape.length,
        "status": record.status,
        "bench_median_ms": median_ms,
        "optimum_median_ms": theirs.median_ms if theirs else None,
        "ratio": theirs.median_ms / median_ms if theirs and median_ms else None,
        "bench_samples": len(record.samples) if rounds else 0,
        "optimum_samples": len(samples),
        "bench_precision": precision,
        "optimum_precision": statistics.precision(blocks(samples, len(rounds))) if samples and rounds else None,
        "optimum_seconds": theirs.seconds if theirs else 0.0,
        "optimum_seconds_to_precision": seconds_to_precision(samples, precision, len(rounds))
        if precision is not None and samples
        else None,
    }


def blocks(samples: Sequence[int], count: int) -> list[Sequence[int]]:
    """`samples` cut into up to `count` consecutive blocks whose sizes differ by one at most, none of them empty."""
    edges = [round(len(samples) * index / count) for index in range(count + 1)]
    return [samples[start:end] for start, end in pairwise(edges) if end > start]


def seconds_to_precision(samples_ns: Sequence[int], wanted: float, count: int) -> float | None:
    """Seconds of the shortest prefix whose precision over `count` blocks is `wanted` or better; None where none is.

    Prefixes begin at optimum-benchmark's floor of calls and at one sample a block, and grow by `GROWTH`.
    To stop at the first that is narrow enough favours it a little.
    """
    size = min(len(samples_ns), max(count, LEAST_CALLS))
    while True:
        found = statistics.precision(blocks(samples_ns[:size], count))
        if found is not None and found <= wanted:
            return sum(samples_ns[:size]) / 1e9
        if size == len(samples_ns):
            return None
        size = min(len(samples_ns), max(size + 1, round(size * GROWTH)))


def table(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells as lines of text; two figures in a column are bench's and optimum-benchmark's."""
    head = ("cell", "bench ms", "optimum ms", "ratio", "samples", "precision ±%", "optimum s", "s to ±bench")
    rows = [head]
    for cell in cells:
        precisions = [shown(cell[f"{tool}_precision"], ".1f", 100) for tool in ("bench", "optimum")]
        status = "" if cell["status"] == "ok" else f" ({cell['status']})"
        rows.append(
            (
                f"{cell['backend']} {cell['batch']}×{cell['length']}{status}",
                shown(cell["bench_median_ms"], ".3f"),
                shown(cell["optimum_median_ms"], ".3f"),
                shown(cell["ratio"], ".2f"),
                f"{cell['bench_samples']} | {cell['optimum_samples']}",
                " | ".join(precisions),
                shown(cell["optimum_seconds"], ".1f"),
                shown(cell["optimum_seconds_to_precision"], ".1f", absent="never"),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]


def wall_lines(
    walls: Mapping[str, Any],
    cells: Sequence[Mapping[str, Any]],
    made: Sequence[str],
    launcher: str,
    iterations: int | None,
) -> list[str]:
    """The wall times in seconds with what is inside each, and their ratios against the goal."""
    plan = "10 s and 10 calls at least" if iterations is None else f"{iterations} calls"
    processes = "a process, its imports, a load" if launcher == "process" else "a load"
    sampled = sum(cell["optimum_seconds"] for cell in cells)
    never = sum(cell["optimum_seconds_to_precision"] is None for cell in cells)
    lacking = sum(cell["ratio"] is None for cell in cells)
    inside = f"""\
{shown(walls["bench_empty"], ".1f"):>10}  bench compare, store empty
              as the next, and checkpoint, exports and references
{walls["bench_filled"]:10.1f}  bench compare, store filled
              start, imports, one load a backend ({walls["bench_loads"]:.1f} s in all), warm-ups, samples, parity
{shown(walls["optimum_exports"], ".1f"):>10}  optimum's ONNX export of the same checkpoint
              start, imports, export, its check of the outputs
{walls["optimum_grid"]:10.1f}  optimum-benchmark, exports beforehand
              a backend: start, imports; a cell: {processes} ({walls["optimum_loads"]:.1f} s in all),
              11 warm-ups and {plan} ({sampled:.1f} s in all); no parity
{walls["optimum_grid"] - walls["optimum_unneeded"]:10.1f}  the same, cells stopped once as precise as bench's
              reckoned from their samples; {never} of {len(cells)} cells never were, and count in full"""
    lines = ["wall seconds, and what is inside", *inside.splitlines()]
    if made:
        lines.append(f"not all was in the filled store ({', '.join(made)} made then); measure again")
    if lacking:
        lines.append(f"{lacking} of {len(cells)} cells lack a figure, so the wall times are not of the same work")
    lines.append(f"bench over optimum-benchmark, goal {GOAL:g} or less")
    return lines + [f"{one:10.3f}  {name}: {'met' if one <= GOAL else 'missed'}" for name, one in ratios(walls).items()]


def shown(value: float | None, format: str, factor: float = 1, absent: str = "–") -> str:
    """A figure, or a dash."""
    return absent if value is None else f"{value * factor:{format}}"


if __name__ == "__main__":
    sys.exit(main())
