"""How long does one grid take: `bench compare`, or optimum-benchmark 0.6.0 on the same cells?

    python benchmarks/against_optimum_benchmark.py --python OTHER/bin/python [--model bert] [--batches 1,8]
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
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import Run, read_run, statistics
from bench.spec import Shape

GOAL = 0.25
VERSION = "0.6.0"
PACKAGES = ("optimum-benchmark", "optimum", "optimum-onnx", "torch", "transformers", "onnxruntime")
#: bench's backend -> optimum-benchmark's.
BACKENDS = {"eager": "pytorch", "onnx": "onnxruntime"}
#: Grows the prefix of samples that `seconds_to_precision` looks at.
GROWTH = 1.1
#: optimum-benchmark takes at least this many timed calls a cell.
LEAST_CALLS = 10

LEGEND = (
    "ratio: optimum-benchmark's median over bench's; a | b: bench's and optimum-benchmark's figure; precision:",
    "half-width of the 95 % interval of the median, over bench's rounds and as many blocks of the other's samples;",
    "optimum s: its sampling; s to ±bench: how much of that until its precision first was bench's",
)

LAUNCH = """
from optimum_benchmark.cli import main
if __name__ == "__main__":
    main()
"""
#: optimum-benchmark 0.6.0 reads the names of ONNX Runtime's model classes from a table that optimum 2 no longer has.
MISSING_TABLE = """
import optimum.pipelines
optimum.pipelines.ORT_SUPPORTED_TASKS = {
    "feature-extraction": {"class": (type("ORTModelForFeatureExtraction", (), {}),)}
}
"""

Cell = tuple[str, Shape]
"""bench's name of the backend, and the shape."""


@dataclass(frozen=True)
class Measured:
    """One cell as one of the tools measured it; `samples_ns` in the order taken."""

    samples_ns: list[int]
    load_seconds: float

    @property
    def median_ms(self) -> float:
        """Middle of the samples."""
        return statistics.median(self.samples_ns) / 1e6

    @property
    def seconds(self) -> float:
        """Time of all samples together."""
        return sum(self.samples_ns) / 1e9


@dataclass(frozen=True)
class Compared:
    """One cell of the result; None where optimum-benchmark left no figure or where there is no such thing."""

    backend: str
    batch: int
    length: int
    status: str
    bench_median_ms: float | None
    optimum_median_ms: float | None
    bench_samples: int
    optimum_samples: int
    bench_precision: float | None
    """Half-width of the 95 % interval of the median as a share of it, over bench's rounds."""
    optimum_precision: float | None
    """The same over as many consecutive blocks of equal size as bench took rounds."""
    optimum_seconds: float
    """Time of its samples."""
    optimum_seconds_to_precision: float | None
    """Time of its samples until its precision first was bench's; None where it never was."""

    @property
    def ratio(self) -> float | None:
        """Its median over bench's."""
        if self.bench_median_ms is None or self.optimum_median_ms is None:
            return None
        return self.optimum_median_ms / self.bench_median_ms


@dataclass(frozen=True)
class Walls:
    """Wall times of whole processes, in seconds; None for what was not run."""

    bench_empty: float | None
    """`bench compare` with an empty store: checkpoint, exports and references are inside."""
    bench_filled: float
    """The same command again: all of those are in the store."""
    bench_loads: float
    """Loads inside `bench_filled`: one a backend."""
    optimum_exports: float | None
    """Its ONNX export of the same checkpoint; 0 where no backend needs one."""
    optimum_grid: float
    """optimum-benchmark on all cells, exports made beforehand."""
    optimum_loads: float
    """Loads inside `optimum_grid`: one a cell."""
    optimum_unneeded: float
    """Sampling inside `optimum_grid` after a cell was as precise as bench's."""

    def ratios(self) -> dict[str, float]:
        """bench's wall time over optimum-benchmark's, by what is inside both."""
        found = {"exports beforehand": self.bench_filled / self.optimum_grid}
        if self.bench_empty is not None and self.optimum_exports is not None:
            found["exports inside"] = self.bench_empty / (self.optimum_exports + self.optimum_grid)
        found["exports and loads left out"] = (self.bench_filled - self.bench_loads) / (
            self.optimum_grid - self.optimum_loads
        )
        found["exports beforehand, at bench's precision"] = self.bench_filled / (
            self.optimum_grid - self.optimum_unneeded
        )
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
        try:
            args.keep.mkdir(parents=True)
        except FileExistsError:
            parser.error(f"--keep {args.keep} exists; name a new folder")
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
    bench_empty = None
    if not args.warm:
        say("bench compare with an empty store")
        bench_empty, _ = run_bench(bench_command, folder / "bench-empty")
    before = artifacts_in(store)
    say("bench compare with the store filled")
    bench_filled, run = run_bench(bench_command, folder / "bench-filled")
    made = sorted(artifacts_in(store) - before)

    checkpoint = (store / "store" / f"checkpoint-{run.model.checkpoint}").resolve()
    loads_before["optimum-benchmark"] = os.getloadavg()[0]
    exports, grid_wall, theirs = run_optimum(args, run, backends, checkpoint, folder)
    ours = {
        (record.candidate.backend, record.point): Measured(record.samples, record.once.load_seconds or 0.0)
        for record in run.records
        if record.status == "ok"
    }
    cells = [
        compared(run, backend, shape, theirs.get((backend, shape)))
        for shape in run.workload.points()
        for backend in backends
    ]
    walls = Walls(
        bench_empty=bench_empty,
        bench_filled=bench_filled,
        bench_loads=sum({backend: measured.load_seconds for (backend, _), measured in ours.items()}.values()),
        optimum_exports=exports,
        optimum_grid=grid_wall,
        optimum_loads=sum(measured.load_seconds for measured in theirs.values()),
        optimum_unneeded=sum(
            cell.optimum_seconds - cell.optimum_seconds_to_precision
            for cell in cells
            if cell.optimum_seconds_to_precision is not None
        ),
    )
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
            "command": shlex.join(["python", "benchmarks/against_optimum_benchmark.py", *options_of(args)]),
            "cells": [asdict(cell) | {"ratio": cell.ratio} for cell in cells],
            "wall_seconds": asdict(walls),
            "wall_ratios": walls.ratios(),
            "goal": GOAL,
            "made_in_the_filled_store": made,
            "load_average_before": loads_before,
            "fingerprint": run.fingerprint,
            "bench_command": run.command,
            "optimum_benchmark": {"versions": dict(versions), "launcher": args.launcher, "iterations": args.iterations},
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(cell.ratio is not None for cell in cells) else 1


def options_of(args: argparse.Namespace) -> list[str]:
    """What repeats this comparison, without what names a folder of this machine."""
    names = ("model", "backends", "batches", "lengths", "threads", "bench_options", "iterations", "launcher")
    options = ["--python", "OTHER/bin/python"]
    for name in names:
        if value := getattr(args, name):
            options += [f"--{name.replace('_', '-')}", str(value)]
    return options + (["--warm"] if args.warm else [])


def installed_versions(python: Path) -> dict[str, str]:
    """Versions of `PACKAGES` in the other environment; ends with a remedy where optimum-benchmark is not `VERSION`."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    try:
        done = subprocess.run([python, "-c", code, *PACKAGES], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"--python {str(python)!r} does not start ({error.strerror}); name an interpreter") from None
    remedy = f"; run: {python} -m pip install -r benchmarks/optimum_benchmark.txt"
    if done.returncode:
        raise SystemExit(f"packages are missing there ({done.stderr.splitlines()[-1]}){remedy}")
    versions: dict[str, str] = json.loads(done.stdout)
    if versions["optimum-benchmark"] != VERSION:
        raise SystemExit(f"optimum-benchmark {versions['optimum-benchmark']} is there, not {VERSION}{remedy}")
    return versions


# bench.


def run_bench(command: Sequence[str], stem: Path) -> tuple[float, Run]:
    """Wall seconds of one `bench compare`, and its run."""
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


# optimum-benchmark.


def run_optimum(
    args: argparse.Namespace, run: Run, backends: Sequence[str], checkpoint: Path, folder: Path
) -> tuple[float, float, dict[Cell, Measured]]:
    """Wall seconds of its exports and of its grid, and the cells that it left reports of."""
    environment = offline() | {"OMP_NUM_THREADS": str(run.options.settled_threads)}
    exports = 0.0
    models = {"eager": checkpoint, "onnx": folder / "optimum-export"}
    if "onnx" in backends:
        say("optimum's ONNX export")
        command = [str(args.python), "-m", "optimum.exporters.onnx", "--model", str(checkpoint)]
        options = ["--task", "feature-extraction", "--framework", "pt", str(models["onnx"])]
        exports = timed([*command, *options], folder / "optimum-export.log", environment, allowed=(0,))
    grid_wall, theirs = 0.0, {}
    for backend in backends:
        say(f"optimum-benchmark, {BACKENDS[backend]}")
        sweep = folder / f"optimum-{backend}"
        sweep.mkdir()
        model_config = json.loads((checkpoint / "config.json").read_text())
        config = config_of(
            backend, models[backend], model_config, run.options.settled_threads, args.launcher, args.iterations
        )
        # JSON is YAML, which hydra reads.
        (sweep / "config.yaml").write_text(json.dumps(config | {"hydra": hydra_of(sweep)}, indent=1))
        launch = sweep / "launch.py"
        launch.write_text((MISSING_TABLE if backend == "onnx" else "") + LAUNCH)
        command = [str(args.python), str(launch), "--config-dir", str(sweep), "--config-name", "config", "--multirun"]
        # Not 0 where a cell fails, which ends its sweep; the cells before it have their reports.
        log = folder / f"optimum-{backend}.log"
        grid_wall += timed([*command, *overrides_of(run.workload.points())], log, environment, allowed=(0, 1))
        for shape in run.workload.points():
            report = sweep / f"{shape.batch}x{shape.length}" / "benchmark_report.json"
            if report.is_file():
                theirs[backend, shape] = parse_report(report.read_text())
            else:
                say(f"{BACKENDS[backend]} left no report of {shape}:\n{last_lines(log)}")
    return exports, grid_wall, theirs


def config_of(
    backend: str,
    model: Path,
    model_config: Mapping[str, Any],
    threads: int,
    launcher: str = "process",
    iterations: int | None = None,
) -> dict[str, Any]:
    """optimum-benchmark's configuration for bench's `backend`; the shapes come as overrides, see `overrides_of`."""
    name = BACKENDS[backend]
    options: dict[str, Any] = {
        "model": str(model),
        "task": "feature-extraction",
        "library": "transformers",
        "device": "cpu",
    }
    if name == "pytorch":
        # This is the one that it hands to torch.set_num_threads; the other goes to set_num_interop_threads.
        options |= {"torch_dtype": "float32", "inter_op_num_threads": threads}
        if model_config.get("use_cache"):
            options["model_kwargs"] = {"use_cache": False}  # as bench loads it
    else:
        options |= {"export": False, "session_options": {"intra_op_num_threads": threads}}
    scenario = {} if iterations is None else {"iterations": iterations, "duration": 0}
    return {
        "defaults": ["benchmark", {"scenario": "inference"}, {"launcher": launcher}, {"backend": name}, "_self_"],
        "name": name,
        "backend": options,
        "scenario": scenario | {"input_shapes": {"batch_size": 1, "sequence_length": 1}},
    }


def hydra_of(sweep: Path) -> dict[str, Any]:
    """hydra's own part: each cell in a folder of its own, as optimum-benchmark's examples have it."""
    subfolder = "${scenario.input_shapes.batch_size}x${scenario.input_shapes.sequence_length}"
    return {"job": {"chdir": True}, "sweep": {"dir": str(sweep), "subdir": subfolder}}


def overrides_of(shapes: Sequence[Shape]) -> list[str]:
    """The grid as hydra's sweep over batches and lengths."""
    batches = dict.fromkeys(str(shape.batch) for shape in shapes)
    lengths = dict.fromkeys(str(shape.length) for shape in shapes)
    return [
        f"scenario.input_shapes.batch_size={','.join(batches)}",
        f"scenario.input_shapes.sequence_length={','.join(lengths)}",
    ]


def parse_report(text: str) -> Measured:
    """A cell from its benchmark_report.json; raises ValueError where it holds no latencies in seconds."""
    try:
        report = json.loads(text)
        latencies = {name: report[name]["latency"] for name in ("forward", "load_model")}
        units = {latency["unit"] for latency in latencies.values()}
        values = [round(seconds * 1e9) for seconds in latencies["forward"]["values"]]
        load_seconds = float(latencies["load_model"]["total"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the report has no latencies of forward and load_model ({error!r})") from None
    if units != {"s"} or not values:
        raise ValueError(f"the report has {len(values)} latencies in {', '.join(sorted(units))}, not some in s")
    return Measured(values, load_seconds)


# The comparison.


def compared(run: Run, backend: str, shape: Shape, theirs: Measured | None) -> Compared:
    """One cell of the result, from bench's run and optimum-benchmark's report."""
    record = next(one for one in run.records if (one.candidate.backend, one.point) == (backend, shape))
    rounds = record.rounds if record.status == "ok" else []
    precision = statistics.precision(rounds) if rounds else None
    samples = theirs.samples_ns if theirs else []
    to_precision = None
    if precision is not None and samples:
        to_precision = seconds_to_precision(samples, precision, len(rounds))
    return Compared(
        backend=backend,
        batch=shape.batch,
        length=shape.length,
        status=record.status,
        bench_median_ms=statistics.median(record.samples) / 1e6 if rounds else None,
        optimum_median_ms=theirs.median_ms if theirs else None,
        bench_samples=len(record.samples) if rounds else 0,
        optimum_samples=len(samples),
        bench_precision=precision,
        optimum_precision=statistics.precision(blocks(samples, len(rounds))) if samples and rounds else None,
        optimum_seconds=theirs.seconds if theirs else 0.0,
        optimum_seconds_to_precision=to_precision,
    )


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


def table(cells: Sequence[Compared]) -> list[str]:
    """The cells as lines of text."""
    head = ("cell", "bench ms", "optimum ms", "ratio", "samples", "precision ±%", "optimum s", "s to ±bench")
    rows = [head, *(row_of(cell) for cell in cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]


def row_of(cell: Compared) -> tuple[str, ...]:
    """One line of `table`; two figures in a column are bench's and optimum-benchmark's."""
    return (
        f"{cell.backend} {cell.batch}×{cell.length}" + ("" if cell.status == "ok" else f" ({cell.status})"),
        shown(cell.bench_median_ms, ".3f"),
        shown(cell.optimum_median_ms, ".3f"),
        shown(cell.ratio, ".2f"),
        f"{cell.bench_samples} | {cell.optimum_samples}",
        f"{shown(cell.bench_precision, '.1f', 100)} | {shown(cell.optimum_precision, '.1f', 100)}",
        shown(cell.optimum_seconds, ".1f"),
        shown(cell.optimum_seconds_to_precision, ".1f", absent="never"),
    )


def wall_lines(
    walls: Walls, cells: Sequence[Compared], made: Sequence[str], launcher: str, iterations: int | None
) -> list[str]:
    """The wall times with what is inside each, and their ratios against the goal."""
    plan = "10 s and 10 calls at least" if iterations is None else f"{iterations} calls"
    processes = "a process, its imports, a load" if launcher == "process" else "a load"
    sampled = sum(cell.optimum_seconds for cell in cells)
    never = sum(1 for cell in cells if cell.optimum_seconds_to_precision is None)
    figures: list[tuple[float | None, str, list[str]]] = [
        (walls.bench_empty, "bench compare, store empty", ["as the next, and checkpoint, exports and references"]),
        (
            walls.bench_filled,
            "bench compare, store filled",
            [f"start, imports, one load a backend ({walls.bench_loads:.1f} s in all), warm-ups, samples, parity"],
        ),
        (
            walls.optimum_exports,
            "optimum's ONNX export of the same checkpoint",
            ["start, imports, export, its check of the outputs"],
        ),
        (
            walls.optimum_grid,
            "optimum-benchmark, exports beforehand",
            [
                f"a backend: start, imports; a cell: {processes} ({walls.optimum_loads:.1f} s in all),",
                f"11 warm-ups and {plan} ({sampled:.1f} s in all); no parity",
            ],
        ),
        (
            walls.optimum_grid - walls.optimum_unneeded,
            "the same, cells stopped once as precise as bench's",
            [f"reckoned from their samples; {never} of {len(cells)} cells never were, and count in full"],
        ),
    ]
    lines = ["wall seconds, and what is inside"]
    for seconds, name, inside in figures:
        lines += [f"{shown(seconds, '.1f'):>10}  {name}", *(f"{'':14}{text}" for text in inside)]
    if made:
        lines.append(f"not all was in the filled store ({', '.join(made)} made then); measure again")
    if lacking := sum(1 for cell in cells if cell.ratio is None):
        lines.append(f"{lacking} of {len(cells)} cells lack a figure, so the wall times are not of the same work")
    lines.append(f"bench over optimum-benchmark, goal {GOAL:g} or less")
    lines += [
        f"{ratio:10.3f}  {name}: {'met' if ratio <= GOAL else 'missed'}" for name, ratio in walls.ratios().items()
    ]
    return lines


def shown(value: float | None, format: str, factor: float = 1, absent: str = "–") -> str:
    """A figure, or a dash."""
    return absent if value is None else f"{value * factor:{format}}"


# Processes.


def timed(command: Sequence[str], log: Path, environment: Mapping[str, str], allowed: Sequence[int]) -> float:
    """Wall seconds of a process whose output goes to `log`; ends with its last words unless its code is `allowed`."""
    with log.open("w") as output:
        started = time.monotonic()
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), check=False)
        seconds = time.monotonic() - started
    if done.returncode not in allowed:
        raise SystemExit(f"{shlex.join(command)}\nexited {done.returncode}:\n{last_lines(log)}")
    return seconds


def offline() -> dict[str, str]:
    """This environment, and no look-ups on the Hub: all models are folders."""
    return os.environ | {"HF_HUB_OFFLINE": "1"}


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for an error."""
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-count:])


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
