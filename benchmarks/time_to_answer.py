"""How long does `bench compare` take to answer, and is the answer the one that ten times as many rounds give?

    python benchmarks/time_to_answer.py [--baseline-tree ../bench-ea20cdc] [--model bert]
    python benchmarks/time_to_answer.py --replay artifacts/reference/*-seed-*.jsonl

The grid of the goals: BERT, three backends, six shapes. Each tree runs it in a store of its own, cold, and this one
again with everything made, in the same hour and one after another; a tree is any checkout of this repository. What
it takes is stacked by phase: processes by the lines that it says, and what workers did by the run file. The machine
must be quiet.

A replay draws rounds of committed runs, all candidates of a point together, as often as racing asks for them within
the five minutes of `make compare`, and compares what is taken with what ten times as many rounds take.

Goals: 0.35 of the baseline's cold wall time cold and 0.16 with exports made; a first figure after 15 s and a first
ratio after 40; 97 of 100 replays.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import regret
from bench.run.file import read_run
from bench.run.racing import Race, Racing
from bench.run.record import Record, Run, Turn
from bench.run.schedule import Enough, OpenCell, State
from bench.spec import DEPRECATED, Candidate

GOALS = {"cold": 0.35, "again": 0.16}
REPLAYS, TIMES_AS_MANY = 100, 10
#: Seconds of turns for which a replay may go on until it is decided, as `make compare` does.
UNTIL_SECONDS = 300.0
#: Phase that a line on standard error begins.
PHASES = (
    ("checkpoint", r"exporting checkpoint"),
    ("exports", r"exporting "),
    ("references", r"computing the float64 reference"),
    ("eager's error", r"computing eager's own error"),
    ("peaks", r"measuring this machine's limits"),
    ("measuring", r"references took|measuring; |\[ *\d+/\d+\]|provisional: "),
)
#: Phases of what workers did, within "measuring".
FIGURE, RATIO = re.compile(r"provisional: |\[ *1/\d+\]"), re.compile(r"as fast as|\[ *2/\d+\]")


def main() -> int:
    """Measure both trees and replay; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline-tree", type=Path, help="a checkout of this repository to compare with")
    parser.add_argument("--model", default="bert")
    parser.add_argument("--backends", default="eager,onnx,torchscript")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--lengths", default="16,128,512")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--replay", type=Path, nargs="*", help="runs to replay, in place of measuring")
    args = parser.parse_args()
    if args.replay is not None:
        return replays(args.replay or sorted(Path("artifacts/reference").glob("*-seed-*.jsonl")))
    names = ("model", "backends", "batches", "lengths", "threads")
    words = [word for name in names for word in (f"--{name}", getattr(args, name))]
    here = Path(__file__).resolve().parent.parent
    trees = {"here": here} | ({"baseline": args.baseline_tree.resolve()} if args.baseline_tree else {})
    walls: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for when in ("cold", "again"):
            for name, tree in trees.items() if when == "cold" else [("here", here)]:
                walls[name, when] = measured(tree, Path(folder) / name, [*words], f"{name}, {when}")
    missed = 0
    for when, goal in GOALS.items():
        if "baseline" in trees:
            share = walls["here", when] / walls["baseline", "cold"]
            missed += share > goal
            print(f"{when}: {share:.2f} of the baseline's cold wall time (goal {goal})")
    return int(missed > 0)


def measured(tree: Path, store: Path, words: Sequence[str], title: str) -> float:
    """Wall seconds of one run of a tree, whose phases are printed."""
    output = store.parent / f"{store.name}-{time.monotonic_ns()}.jsonl"
    command = [sys.executable, "-m", "bench", "compare", *words, "--artifacts", str(store), "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    started = time.monotonic()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        command, cwd=tree, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        lines += [(time.monotonic() - started, line.rstrip()) for line in process.stderr]
    wall = time.monotonic() - started
    if not output.exists():
        raise SystemExit(f"{title}: no run was written; the last line was: {lines[-1][1] if lines else ''}")
    print(f"{title}: {wall:.1f} s, exit code {process.returncode}", flush=True)
    for what, pattern in (("first figure", FIGURE), ("first ratio", RATIO)):
        at = next((when for when, line in lines if pattern.search(line)), None)
        print(f"  {what:<16} {'-' if at is None else f'after {at:.1f} s'}")
    for phase, seconds in {**said(lines, wall), **worked(output)}.items():
        print(f"  {phase:<16} {seconds:7.1f} s {100 * seconds / wall:5.1f} %")
    return wall


def said(lines: Iterable[tuple[float, str]], wall: float) -> dict[str, float]:
    """Seconds of each phase, from the times of the lines that begin them."""
    found: dict[str, float] = defaultdict(float)
    phase, since = "start", 0.0
    for at, line in [*lines, (wall, "measuring; ")]:
        begun = next((name for name, pattern in PHASES if re.match(pattern, line)), None)
        if begun is not None:
            found[phase] += at - since
            phase, since = begun, at
    return dict(found)


def worked(path: Path) -> dict[str, float]:
    """Seconds of workers, of which "measuring" consists, by what they did; read without this tree's types."""
    import json

    found: dict[str, float] = defaultdict(float)
    for line in map(json.loads, path.read_text().splitlines()):
        if line["kind"] == "turn":
            found["· timed turns"] += line["turn"]["seconds"]
        elif line["kind"] == "record":
            once: Mapping[str, Any] = line.get("once", {})
            found["· warm-ups"] += sum(once.get("warmup_ns") or ()) / 1e9
            found["· first calls"] += (once.get("first_call_ns") or 0) / 1e9
    return dict(found)


# Replays.


def replays(paths: Sequence[Path]) -> int:
    """Replay each run, and print how often what racing takes is what ten times as many rounds take."""
    outcomes, number = Counter[str](), 0
    runs = [run for run in map(read_run, paths) if len(takers(run)) > 1]
    if not runs:
        raise SystemExit("no run has two candidates that could be taken; give others")
    while number < REPLAYS:
        outcomes[replay(runs[number % len(runs)], number)] += 1
        number += 1
    print(f"{len(runs)} runs, {REPLAYS} replays of up to {UNTIL_SECONDS:g} s: {dict(outcomes)}")
    print(f"the same as {TIMES_AS_MANY} times as many rounds: {outcomes['same']} of {REPLAYS}")
    return int(outcomes["same"] < 0.97 * REPLAYS)


def takers(run: Run) -> list[Candidate]:
    """Candidates that were measured at every point and could be taken."""
    return [
        one
        for one in run.candidates
        if one.copy == 1 and one.precision == "fp32" and one.backend not in DEPRECATED
        if all(
            (record := run.record(point, one)) is not None and record.is_comparable and len(record.turns) >= 3
            for point, _ in run.by_point()
        )
    ]


def replay(run: Run, seed: int) -> str:
    """ "same", "other" or "undecided" of one replay."""
    draw, candidates = random.Random(seed), takers(run)
    points, spent = [point for point, _ in run.by_point()], [0.0]
    state = State(candidates, candidates, points, baseline=candidates[0], session_seconds=lambda: spent[0])
    schedule = Racing(Enough(10, 5.0), until_seconds=UNTIL_SECONDS)
    while turns := schedule.next_turns(state):
        for cell, turn in zip(turns, drawn(run, turns, draw, state.next_round(turns)), strict=True):
            if (closed := state.records.pop(cell, None)) is not None:
                state.open[cell] = OpenCell(list(closed.turns), verdict="equivalent")
            state.open.setdefault(cell, OpenCell(verdict="equivalent")).turns.append(turn)
            spent[0] += turn.seconds
        for cell in [one for one in turns if not schedule.is_open(state, *one)]:
            state.records[cell] = Record(*cell, "ok", turns=tuple(state.open.pop(cell).turns), parity=EQUIVALENT)
    race = Race(schedule, state)
    if race.stakes is None or race.leader is None or not race.is_decided:
        return "undecided"
    many = State(candidates, candidates, points, baseline=candidates[0])
    for point in points:
        cells = [(point, one) for one in candidates]
        for number in range(10 * TIMES_AS_MANY):
            for cell, turn in zip(cells, drawn(run, cells, draw, number), strict=True):
                many.open.setdefault(cell, OpenCell(verdict="equivalent")).turns.append(turn)
    stakes = Race(schedule, many).stakes
    assert stakes is not None
    return "same" if regret.regrets(stakes)[race.leader].expected <= regret.MOST_REGRET else "other"


EQUIVALENT = {"verdict": "equivalent"}


def drawn(run: Run, cells: Sequence[tuple[Any, Candidate]], draw: random.Random, number: int) -> list[Turn]:
    """Turns of one round of a run, drawn for all cells of a point together."""
    records = [record for cell in cells if (record := run.record(*cell)) is not None]
    place = draw.randrange(min(len(record.turns) for record in records))
    # A replay asks what racing does with times as they are, so conditions are left out.
    turns = [record.turns[place] for record in records]
    seconds = (turn.seconds or sum(turn.times_ns["wall"]) / 1e9 for turn in turns)
    return [replace(one, round=number, conditions={}, seconds=of) for one, of in zip(turns, seconds, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
