"""What becomes of runs and files when the machine, the disk or the user is unkind?

    PYTHONPATH=. python benchmarks/chaos.py [--part kills,bytes,…] [--seed 0] [--minutes 60] [--output chaos.jsonl]

Each part is a number of trials. A trial strikes one call of bench and holds it to the rules of `chaos_rules.py`: every
planned cell has exactly one record, no traceback, no process left, no damaged file accepted, nothing executed, no exit
code that bench does not have. A trial draws from the seed, its part and its number alone, so `--trial 17` repeats one.
Everything happens in a new folder, which needs about 1 GiB; nothing outside it is written. Parts that need root (a
small disk, a read-only mount, another user) say so if they are not done.

`--short` is what CI runs: a few trials of each part, none of which needs an export. The output has one line a trial.
The exit code is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import chaos_files, chaos_places, chaos_processes, chaos_words
from benchmarks.chaos_rules import World, call, world


@dataclass(frozen=True)
class Part:
    """A kind of trial, and how many of it the campaign and the short form have."""

    trials: Callable[..., chaos_processes.Trials]
    count: int
    short: int
    takes_form: bool = False
    """True if the short form strikes fewer kinds of file."""


PARTS = {
    "kills": Part(chaos_processes.kills, 200, 4),
    "bytes": Part(chaos_files.damage, 500, 20, takes_form=True),
    "types": Part(chaos_files.types, 3000, 32, takes_form=True),
    "nonsense": Part(chaos_words.nonsense, 1000, 40),
    "signals": Part(chaos_processes.signals, 100, 2),
    "stops": Part(chaos_processes.stops, 12, 2),
    "disk": Part(chaos_places.disk, 20, 1),
    "limits": Part(chaos_places.limits, 200, 4),
    "two-runs": Part(chaos_processes.two_runs, 10, 1),
    "prune": Part(chaos_processes.prune, 4, 0),
    "soak": Part(chaos_processes.soak, 5000, 0),
}


@dataclass
class Result:
    """What came out of a part."""

    name: str
    planned: int
    done: int = 0
    findings: int = 0
    seconds: float = 0.0


def play(
    name: str, given: argparse.Namespace, place: World, end: float, write: Callable[[dict[str, Any]], None]
) -> Result:  # fmt: skip
    """All trials of a part, or as many as there is time for."""
    part = PARTS[name]
    planned = given.count or (part.short if given.short else part.count)
    result, started = Result(name, 1 if name == "soak" and planned else planned), time.monotonic()
    if not planned:
        return result
    trials = partial(part.trials, is_short=given.short) if part.takes_form else part.trials
    numbers = range(planned) if given.trial is None else range(given.trial, given.trial + 1)

    def draw(number: int) -> random.Random:
        return random.Random(f"{given.seed}/{name}/{number}")

    for number, (what, found) in zip(numbers, trials(place, draw, numbers), strict=False):
        result.done += 1
        result.findings += bool(found)
        write({"part": name, "seed": given.seed, "trial": number, "what": what, "faults": found})
        for fault in found:
            print(f"{name} {number}: {what[:300]}: {fault[:600]}", file=sys.stderr, flush=True)
        if time.monotonic() > end:
            break
    result.seconds = time.monotonic() - started
    return result


def table(results: list[Result]) -> str:
    """One line a part."""
    lines = [f"{'part':<10} {'trials':>7} {'of':>6} {'findings':>9} {'seconds':>8}"]
    lines += [f"{one.name:<10} {one.done:>7} {one.planned:>6} {one.findings:>9} {one.seconds:>8.0f}" for one in results]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, play the parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default=",".join(PARTS), help=f"comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="no trial begins later than this")
    parser.add_argument("--count", type=int, help="trials of each part; for the soak, its cells")
    parser.add_argument("--trial", type=int, help="repeat this one trial of each part (not of the soak)")
    parser.add_argument("--short", action="store_true", help="a few trials of each part")
    parser.add_argument("--output", type=Path, help="file for one JSON line a trial")
    parser.add_argument("--folder", type=Path, help="where it all happens; kept, and gone on with [default: a new one]")
    given = parser.parse_args()
    names = given.part.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown --part {', '.join(unknown)}; use {', '.join(PARTS)}")
    end = time.monotonic() + given.minutes * 60
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="bench-chaos-"))).resolve()
    folder.chmod(0o755) if folder.exists() else None
    place = world(folder)
    import bench.cli  # noqa: F401 - forks of this process have it then

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))

    def write(line: dict[str, Any]) -> None:
        if given.output:
            with given.output.open("a") as file:
                file.write(json.dumps(line) + "\n")

    try:
        if not given.short and not (place.store / "machine").is_dir():  # this machine's limits, measured once
            call(chaos_processes.words_of(chaos_processes.MAKES, place.store, place.path("x.jsonl")), folder)
        results = [play(name, given, place, end, write) for name in names if time.monotonic() < end]
        print(table(results))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(1 if any(one.findings for one in results) else 0)


if __name__ == "__main__":
    main()
