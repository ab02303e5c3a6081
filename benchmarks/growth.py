"""How does what bench itself costs grow with the work?

    python benchmarks/growth.py [--backends eager,onnx,torchscript] [--cells 1,4,16,64]

Each grid is one `bench compare` process on `bert-tiny`, first with `null:50us`, which computes nothing, then with
`--backends`. It prints the wall time, the straight line through the grids after the first and how far the worst lies
off it; what was exported; the store's size; and the largest resident memory of the parent process, which Linux keeps.
The grids share one store, so an export that is made again would be seen in its count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine, pruning
from bench.run.file import read_run
from exporters.store import ArtifactStore

ROOT = Path(__file__).resolve().parent.parent
MODEL = "bert-tiny"
#: Formats of what a run makes to judge by; there is one for each shape and precision.
REFERENCES = ("reference",)
#: Two rounds, and little in each: the work of a cell is beside the point.
PLAN = ["--rounds", "2", "--max-seconds-per-cell", "0.1", "--device", "cpu", "--quiet"]
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Grown:
    """What one grid cost."""

    cells: int
    seconds: float
    parent_bytes: int
    """Largest resident memory of the parent process."""
    store_bytes: int
    run_bytes: int
    artifacts: Counter[str]
    """Artifacts in the store, by format."""

    @property
    def exports(self) -> int:
        """Artifacts that were exported: the checkpoint, and one for each format."""
        return sum(count for name, count in self.artifacts.items() if name not in REFERENCES)


def main() -> None:
    """Print a table for each kind of grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="eager,onnx,torchscript")
    parser.add_argument("--cells", default="1,4,16,64", help="shapes of the grids; cells are these times the backends")
    args = parser.parse_args()
    shapes = [int(part) for part in args.cells.split(",")]
    print(f"{MODEL}, {machine.cpu_name()}, {machine.usable_cpus()} CPUs; load before: {os.getloadavg()[0]:.1f}")
    for backends in ("null:50us", args.backends):
        with tempfile.TemporaryDirectory(prefix="growth-") as folder:
            print_table(backends, (measure(backends, count, Path(folder)) for count in shapes))


def measure(backends: str, shapes: int, artifacts: Path) -> Grown:
    """Run one grid of `shapes` shapes in a process of its own; raises CalledProcessError where it fails."""
    path = artifacts / "runs" / f"{shapes}.jsonl"
    command = [
        sys.executable, "-m", "bench", "compare", "--model", MODEL, "--backends", backends, *axes(shapes), *PLAN,
        "--artifacts", str(artifacts), "--output", str(path),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak_bytes = 0
    while process.poll() is None:
        peak_bytes = max(peak_bytes, resident_peak_bytes(process.pid))
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    if process.returncode:
        words = process.stderr.read() if process.stderr else b""
        raise subprocess.CalledProcessError(process.returncode, command, stderr=words)
    store = ArtifactStore(artifacts)
    found = [artifact for folder in store.paths() if (artifact := store.read(folder)) is not None]
    return Grown(
        cells=len(read_run(path).records),
        seconds=seconds,
        parent_bytes=peak_bytes,
        store_bytes=pruning.measured(store.folder)[0],
        run_bytes=path.stat().st_size,
        artifacts=Counter(artifact.format for artifact in found),
    )


def axes(shapes: int) -> list[str]:
    """Options for a grid of `shapes` shapes, as near to a square as its factors let it be."""
    batches = max(count for count in range(1, int(shapes**0.5) + 1) if shapes % count == 0)
    numbers = [",".join(str(number + 1) for number in range(count)) for count in (batches, shapes // batches)]
    return ["--batches", numbers[0], "--lengths", numbers[1]]


def resident_peak_bytes(pid: int) -> int:
    """Largest resident memory of process `pid` so far (VmHWM); 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def line_through(cells: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Least-squares start and seconds a cell, and the largest distance from that line as a share of its value."""
    mean_cells, mean_seconds = sum(cells) / len(cells), sum(seconds) / len(seconds)
    spread = sum((count - mean_cells) ** 2 for count in cells)
    each = sum((c - mean_cells) * (s - mean_seconds) for c, s in zip(cells, seconds, strict=True)) / spread
    start = mean_seconds - each * mean_cells
    off = max(abs(s - start - each * c) / (start + each * c) for c, s in zip(cells, seconds, strict=True))
    return start, each, off


def print_table(backends: str, grids: Iterable[Grown]) -> None:
    """The grids of `backends`, each as it comes, and what they say of its growth."""
    print(f"\n{backends}")
    print(" cells  seconds  parent MiB  store MB  run kB  exports  references")
    rows = []
    for row in grids:
        rows.append(row)
        print(
            f"{row.cells:>6} {row.seconds:>8.1f} {row.parent_bytes / 2**20:>11.0f} {row.store_bytes / 1e6:>9.2f} "
            f"{row.run_bytes / 1e3:>7.0f} {row.exports:>8} {row.artifacts.total() - row.exports:>11}",
            flush=True,
        )
    later = rows[1:]
    if len(later) > 2:
        start, each, off = line_through([row.cells for row in later], [row.seconds for row in later])
        print(f"wall time: {start:.1f} s + {each:.2f} s a cell; the worst grid is {off:.0%} off that line")
    exports = [row.exports for row in rows]
    again = "the same whatever the grid" if len(set(exports)) == 1 else f"{exports[0]} to {exports[-1]}"
    print(f"exports: {exports[0]}, {again}")


if __name__ == "__main__":
    main()
