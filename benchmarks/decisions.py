"""Are decisions right? Synthetic runs through `bench.regret` and verdicts, and rounds of stored runs drawn anew.

    python benchmarks/decisions.py                       # every part, about 6 minutes on one core
    python benchmarks/decisions.py --only page --runs 2000

Times of rounds are drawn with a known truth: normal noise, two speeds, bursts, drift, correlated rounds; 2 to 12
candidates, 1 to 6 cells, 3 to 40 rounds, none to all of which do not count. The rule is that of the commands: the first
candidate whose bound is at most 3 % is taken, in an order that has nothing to do with speed. Parts:

- `least`: wrong takes if all but one candidate have a true regret just above 3 %. Goal: at most 5 %.
- `grid`: wrong takes over cases whose true regrets are drawn from 0 to 30 %. Goal: at most 1 %.
- `data`: the same runs cut to fewer rounds: right, wrong and no decision. Goal: no step makes wrong decisions of right
  ones more often than the level allows.
- `abstain`: takes where nothing can be known. Goal: none.
- `page`: pages with any false verdict. Goal: at most 1 %.
- `cover`: intervals that hold the truth. Goal: at their level or above, or less than one point below it.
- `replay`: rounds of the runs in artifacts/reference drawn anew; the truth is the figure of all of its rounds.

A goal counts as missed if the share is beyond it by more than two standard errors.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench import regret, statistics
from bench.errors import UserError
from bench.moderated import NONE, Prior, prior_of
from bench.regret import Stakes
from bench.run.file import read_run
from bench.run.record import Record, Run

ROUNDS = (3, 5, 10, 20, 40)
#: Candidates and cells of a run.
SIZES = ((2, 1), (2, 4), (4, 1), (4, 6), (12, 2))
JUST_ABOVE = 1 + regret.MOST_REGRET + 1e-4
REFERENCE = Path(__file__).parents[1] / "artifacts" / "reference"
Generator = np.random.Generator
Noise = Callable[[Generator, int, int], Any]


# Noise: factors of mean 1, [rounds, candidates].


def normal(g: Generator, rounds: int, candidates: int, width: float = 0.02, rho: float = 0.0) -> Any:
    """Log-normal, of a first-order autoregression."""
    found = g.standard_normal((rounds, candidates))
    for place in range(1, rounds):
        found[place] = rho * found[place - 1] + math.sqrt(1 - rho**2) * found[place]
    return np.exp(width * found - width**2 / 2)


def bimodal(g: Generator, rounds: int, candidates: int) -> Any:
    """Every candidate has two speeds, 4 % apart."""
    return 1 + 0.02 * g.choice((-1, 1), (rounds, candidates)) + 0.002 * g.standard_normal((rounds, candidates))


def one_bimodal(g: Generator, rounds: int, candidates: int) -> Any:
    """All candidates but the last have two speeds, the last has one."""
    found = bimodal(g, rounds, candidates)
    found[:, -1] = normal(g, rounds, 1, 0.002)[:, 0]
    return found


def unlike(g: Generator, rounds: int, candidates: int) -> Any:
    """Each cell has a width of its own, from 0.3 to 10 %."""
    return normal(g, rounds, candidates, width=float(np.exp(g.uniform(np.log(0.003), np.log(0.1)))))


def one_noisy(g: Generator, rounds: int, candidates: int) -> Any:
    """One cell of six is forty times as noisy as the others."""
    return normal(g, rounds, candidates, width=0.2 if g.random() < 1 / 6 else 0.005)


def noisy_candidate(g: Generator, rounds: int, candidates: int) -> Any:
    """One candidate is ten times as noisy as the others."""
    found = normal(g, rounds, candidates, width=0.005)
    found[:, -1] = normal(g, rounds, 1, 0.05)[:, 0]
    return found


def bursts(g: Generator, rounds: int, candidates: int) -> Any:
    """A tenth of all turns takes half as long again, whoever's they are."""
    return normal(g, rounds, candidates, 0.01) * np.where(g.random((rounds, candidates)) < 0.1, 1.5, 1.0) / 1.05


def drift(g: Generator, rounds: int, candidates: int) -> Any:
    """The machine slows down by up to 30 % during the run, and all with it."""
    return normal(g, rounds, candidates) * np.linspace(1, 1 + 0.3 * g.random(), rounds)[:, None]


NOISES: Mapping[str, Noise] = {
    "normal, 2 %": normal,
    "normal, 10 %": partial(normal, width=0.1),
    "rho 0.2": partial(normal, rho=0.2),
    "rho 0.3": partial(normal, rho=0.3),
    "rho 0.4": partial(normal, rho=0.4),
    "two speeds": bimodal,
    "two speeds of one": one_bimodal,
    "bursts": bursts,
    "drift": drift,
    "unlike cells": unlike,
    "a noisy cell": one_noisy,
    "a noisy candidate": noisy_candidate,
}

# Runs.


def times_of(
    g: Generator, noise: Noise, rounds: int, cells: int, ratios: Sequence[float], counting: float = 1.0
) -> dict[int, dict[int, list[float | None]]]:
    """Nanoseconds by cell and candidate; each turn counts with a probability of `counting`."""
    found = {}
    for cell in range(cells):
        times = noise(g, rounds, len(ratios)) * np.asarray(ratios) * 10.0 ** (6 + cell % 3)
        is_lost = g.random(times.shape) >= counting
        found[cell] = {
            one: [None if lost else time for time, lost in zip(*both, strict=True)]
            for one, both in enumerate(zip(times.T.tolist(), is_lost.T.tolist(), strict=True))
        }
    return found


def log_ratios(
    times: Mapping[int, Mapping[int, Sequence[float | None]]],
) -> Iterator[list[float | None]]:
    """Of every candidate's rounds to the first one's, cell by cell."""
    for cell in times.values():
        for other in list(cell)[1:]:
            pair = zip(cell[0], cell[other], strict=True)
            yield [None if a is None or b is None else math.log(a / b) for a, b in pair]


def stakes_of(times: Mapping[int, Mapping[int, Sequence[float | None]]], is_geometric: bool) -> Stakes:
    """Every cell for the same share of the time, or the geometric mean."""
    candidates = list(next(iter(times.values())))
    weights = {cell: 1 / len(times) if is_geometric else 10.0 ** -(cell % 3) for cell in times}
    rho = statistics.correlation(log_ratios(times))
    return Stakes(dict.fromkeys(candidates, weights), times, is_geometric=is_geometric, rho=rho)


def taken(stakes: Stakes) -> Any:
    """The candidate that is taken; None if that is undecided."""
    found = regret.regrets(stakes)
    return next((one for one in stakes.weights if found[one].bound <= regret.MOST_REGRET), None)


def outcome(stakes: Stakes, ratios: Sequence[float]) -> str:
    """ "right", "wrong" or "none", by the true ratios."""
    found = taken(stakes)
    if found is None:
        return "none"
    return "wrong" if ratios[found] / min(ratios) - 1 > regret.MOST_REGRET else "right"


def cut(times: Mapping[int, Mapping[int, Sequence[float | None]]], rounds: int) -> Any:
    """The first rounds of a run."""
    return {cell: {one: series[:rounds] for one, series in of.items()} for cell, of in times.items()}


def drawn(*name: object) -> Generator:
    """Numbers of one case, the same in every order of the parts."""
    return np.random.default_rng(zlib.crc32(repr((SEED, *name)).encode()))


SEED = 21


def judged(share: float, count: int, most: float) -> str:
    """A share with how it stands to its goal."""
    error = math.sqrt(max(share * (1 - share), most * (1 - most)) / count)
    return f"{share:6.2%} of {count:,}" + ("  MISSED" if share > most + 2 * error else "")


# Parts.


def least(runs: int) -> Iterator[str]:
    """Wrong takes at the least favourable truth."""
    yield "noise               " + "".join(f"{rounds:>10}" for rounds in ROUNDS) + "   rounds: wrong / taken"
    for name, noise in NOISES.items():
        row, missed = [], []
        for rounds in ROUNDS:
            found: Counter[str] = Counter()
            for candidates, cells in SIZES:
                g, count = drawn("least", name, rounds, candidates, cells), runs // (1 + (candidates > 4) * 9)
                ratios = [JUST_ABOVE] * (candidates - 1) + [1.0]
                for run in range(count):
                    times = times_of(g, noise, rounds, cells, ratios)
                    found[outcome(stakes_of(times, run % 2 == 1), ratios)] += 1
            total = found.total()
            row.append(f"{found['wrong'] / total:6.1%}/{1 - found['none'] / total:3.0%}")
            missed += [rounds] if "MISSED" in judged(found["wrong"] / total, total, 0.05) else []
        yield f"{name:<20}{''.join(row)}" + (f"  MISSED at {missed}" if missed else "")


def grid(runs: int) -> Iterator[str]:
    """Wrong takes over true regrets of 0 to 30 %, and shares of rounds that count of 40 to 100 %."""
    total: Counter[str] = Counter()
    for name, noise in NOISES.items():
        found: Counter[str] = Counter()
        for rounds in ROUNDS:
            for candidates, cells in SIZES:
                g = drawn("grid", name, rounds, candidates, cells)
                for run in range(max(1, runs // (2 + (candidates > 4) * 18))):
                    ratios = [1.0, *(1 + 0.3 * g.random(candidates - 1))]
                    g.shuffle(ratios)
                    times = times_of(g, noise, rounds, cells, ratios, (0.4, 0.7, 1.0)[run % 3])
                    found[outcome(stakes_of(times, run % 2 == 1), ratios)] += 1
        total += found
        wrong = judged(found["wrong"] / found.total(), found.total(), 0.01)
        yield f"{name:<20}right {found['right'] / found.total():.0%}, wrong {wrong}"
    yield f"{'all':<20}wrong {judged(total['wrong'] / total.total(), total.total(), 0.01)}"


def data(runs: int) -> Iterator[str]:
    """Right and wrong decisions of the same runs with more and more rounds."""
    for name, noise in NOISES.items():
        at: dict[int, Counter[str]] = {rounds: Counter() for rounds in ROUNDS}
        steps: Counter[tuple[str, str]] = Counter()
        for candidates, cells in SIZES[:4]:
            g = drawn("data", name, candidates, cells)
            for run in range(runs // 4):
                ratios = [1.0, *(1 + 0.1 * g.random(candidates - 1))]
                g.shuffle(ratios)
                times = times_of(g, noise, ROUNDS[-1], cells, ratios)
                found = [outcome(stakes_of(cut(times, rounds), run % 2 == 1), ratios) for rounds in ROUNDS]
                for rounds, one in zip(ROUNDS, found, strict=True):
                    at[rounds][one] += 1
                steps.update(pairwise(found))
        total, moves = at[ROUNDS[0]].total(), steps.total()
        shares = " ".join(f"{at[rounds]['right'] / total:4.0%}/{at[rounds]['wrong'] / total:.1%}" for rounds in ROUNDS)
        worse = judged(steps["right", "wrong"] / moves, moves, 0.01)
        yield f"{name:<20}right/wrong {shares}; from right to wrong {worse}; back {steps['wrong', 'right'] / moves:.2%}"


def abstain(runs: int) -> Iterator[str]:
    """Takes where nothing can be known."""
    cases: dict[str, Callable[[Generator], Any]] = {
        "no round counts": lambda g: times_of(g, normal, 20, 2, [1.0, 1.5, 1.2], 0.0),
        "two rounds": lambda g: times_of(g, normal, 2, 6, [1.0, 1.5, 1.2]),
        "one candidate has none": lambda g: {
            cell: {**of, 2: [None] * 10} for cell, of in times_of(g, normal, 10, 2, [1.0, 1.5, 1.2]).items()
        },
        "noise of 60 %, 3 rounds": lambda g: times_of(g, partial(normal, width=0.6), 3, 1, [1.0, 1.0, 1.0]),
    }
    for name, draw in cases.items():
        g = drawn("abstain", name)
        share = sum(taken(stakes_of(draw(g), False)) is not None for _ in range(runs)) / runs
        yield f"{name:<26}{judged(share, runs, 0.005 if 'noise' in name else 0.0)}"


def page(runs: int) -> Iterator[str]:
    """Pages with a false verdict: faster or slower of what differs by 1 % at most, same of what differs by 3 %."""
    for name, noise in NOISES.items():
        for truth, false in ((1.0, ("faster", "slower")), (1.01, ("faster", "slower")), (1.0301, ("same", "slower"))):
            row, missed = [], []
            for rounds in ROUNDS:
                bad = 0
                for candidates, cells in ((4, 6), (2, 1), (6, 2)):
                    g = drawn("page", name, truth, rounds, candidates, cells)
                    for _ in range(runs // 3):
                        times = times_of(g, noise, rounds, cells, [truth] + [1.0] * (candidates - 1))
                        bad += any(ratio.verdict in false for ratio in told(times))
                row.append(f"{bad / (runs // 3 * 3):8.2%}")
                missed += [rounds] if "MISSED" in judged(bad / (runs // 3 * 3), runs, 0.01) else []
            yield f"{name:<20}truth {truth:<7}{''.join(row)}" + (f"  MISSED at {missed}" if missed else "")


def told(times: Mapping[int, Mapping[int, Sequence[Any]]]) -> list[statistics.Ratio]:
    """The verdicts of a page: each candidate against the first, in every cell."""
    rho = statistics.correlation(log_ratios(times))
    wide, prior = statistics.widening(rho), prior_of(log_ratios(times), rho)
    pairs = [(cell[0], cell[other]) for cell in times.values() for other in list(cell)[1:]]
    rounds = [[[[one] for one in series] for series in both] for both in pairs]
    return statistics.jointly([partial(_ratio, one, other, wide, prior) for one, other in rounds])


def _ratio(one: Any, other: Any, wide: float, prior: Prior, confidence: float) -> statistics.Ratio:
    found = statistics.ratio_within_rounds(one, other, confidence, wide, prior)
    assert found is not None
    return found


def cover(runs: int) -> Iterator[str]:
    """Misses of intervals, in points of a hundred: of a ratio by rounds, of regret's quotient, and of its bound."""
    yield " " * 24 + "".join(f"{rounds:>8}" for rounds in ROUNDS) + "   rounds: misses"
    for name, noise in NOISES.items():
        for what, most in (("ratio 99 %", 0.01), ("ratio 95 %", 0.05), ("quotient 95 %", 0.05), ("bound 95 %", 0.05)):
            row, missed = [], []
            for rounds in ROUNDS:
                g, misses = drawn("cover", name, what, rounds), 0
                for run in range(runs):
                    candidates = 4 if what.startswith("bound") else 2
                    ratios = [1.0, 0.95, 0.97, 1.1][:candidates]
                    times = times_of(g, noise, rounds, 1 + 3 * (run % 2), ratios)
                    misses += is_missed(what, times, ratios)
                row.append(f"{misses / runs:8.1%}")
                missed += [rounds] if "MISSED" in judged(misses / runs, runs, most + 0.01) else []
            yield f"{name:<20}{what:<14}{''.join(row)}" + (f"  MISSED at {missed}" if missed else "")


def is_missed(what: str, times: Any, ratios: Sequence[float]) -> bool:
    """True if the interval does not hold the truth."""
    if what.startswith("ratio"):
        wide = statistics.widening(statistics.correlation(log_ratios(times)))
        one, other = ([[each] for each in times[0][place]] for place in (0, 1))
        found = _ratio(one, other, wide, NONE, 0.99 if "99" in what else 0.95)
        return found.interval is not None and ratios[0] / ratios[1] not in found.interval
    stakes = stakes_of(times, False)
    if what.startswith("bound"):
        bounds = regret.regrets(stakes)
        return any(ratio / min(ratios) - 1 > bounds[one].bound for one, ratio in enumerate(ratios))
    told = regret.ratio(stakes, 0, 1, 0.95)
    return told is not None and told.interval is not None and ratios[0] / ratios[1] not in told.interval


# Replays.


def replay(runs: int) -> Iterator[str]:
    """Takes from the stored runs' rounds drawn anew, by the number of rounds."""
    total: dict[int, Counter[str]] = {rounds: Counter() for rounds in ROUNDS}
    for path in sorted(REFERENCE.glob("*.jsonl")):
        try:
            times = long_cells(read_run(path))
        except UserError:
            continue
        if not times:
            continue
        whole = stakes_of(times, True)
        figures = {one: regret.figure(whole, one) for one in whole.weights}
        row = []
        for rounds in ROUNDS:
            g, found = drawn("replay", path.name, rounds), Counter[str]()
            for _ in range(max(1, runs // 5)):
                one = taken(stakes_of(drawn_anew(g, times, rounds), True))
                is_wrong = one is not None and figures[one] / min(figures.values()) - 1 > regret.MOST_REGRET
                found["none" if one is None else "wrong" if is_wrong else "right"] += 1
            total[rounds] += found
            row.append(f"{found['right'] / found.total():4.0%}/{found['wrong'] / found.total():.1%}")
        yield f"{path.stem:<42}{len(figures)} candidates, {len(times)} cells  {' '.join(row)}"
    for rounds, found in total.items():
        wrong = judged(found["wrong"] / found.total(), found.total(), 0.01)
        yield f"{rounds:>3} rounds: right {found['right'] / found.total():.0%}, wrong {wrong}"


def long_cells(run: Run) -> dict[int, dict[int, list[float]]]:
    """Medians of the rounds of cells that have 12 or more, of the candidates that every such cell has."""
    cells: dict[Any, dict[Any, Record]] = {}
    for record in run.records:
        if run.are_sound(record) and record.is_judged and record.is_interleaved and len(record.rounds) >= 12:
            cells.setdefault(record.point, {})[record.candidate] = record
    candidates = [one for one in run.candidates if cells and all(one in of for of in cells.values())]
    if len(candidates) < 2:
        return {}
    return {
        place: {at: [statistics.median(round_) for round_ in of[one].rounds] for at, one in enumerate(candidates)}
        for place, of in enumerate(cells.values())
    }


def drawn_anew(g: Generator, times: Mapping[int, Mapping[int, Sequence[float]]], rounds: int) -> Any:
    """As many rounds of each cell, with replacement; a round of all candidates stays together."""
    found = {}
    for cell, of in times.items():
        places = g.integers(0, min(map(len, of.values())), rounds).tolist()
        found[cell] = {one: [series[place] for place in places] for one, series in of.items()}
    return found


PARTS = {"least": least, "grid": grid, "data": data, "abstain": abstain, "page": page, "cover": cover, "replay": replay}


def main() -> None:
    """Print what the parts found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="synthetic runs of a case")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="parts, all if none is named")
    args = parser.parse_args()
    for name in args.only or PARTS:
        print(f"\n{name}: {(PARTS[name].__doc__ or '').strip()}")
        for line in PARTS[name](args.runs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
