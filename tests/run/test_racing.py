"""Where rounds go, and when cells end: a race of synthetic candidates, whose clock is injected."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from bench import statistics
from bench.run.racing import SHARE_OF_A_LOOK, Race, Racing
from bench.run.record import Record, Turn
from bench.run.schedule import LEAST_ROUNDS, Enough, OpenCell, State
from bench.spec import Candidate, Shape

MS = 1_000_000
EAGER, FAST, SLOW, OTHER = (Candidate(name, "default", "fp32") for name in ("eager", "fast", "slow", "other"))
SMALL, LARGE = Shape(1, 8), Shape(8, 512)


class Track:
    """Takes turns as the driver does, of candidates whose calls take so many ms at each point."""

    def __init__(
        self,
        schedule: Racing,
        ms: Mapping[Candidate, Mapping[Shape, float]],
        noise: float = 0.005,
        seed: int = 0,
        disturbed: Callable[[int], bool] = lambda round_: False,
        verdicts: Mapping[Candidate, str] | None = None,
    ) -> None:
        self.schedule, self.ms, self.noise, self.disturbed = schedule, ms, noise, disturbed
        self.random, self.now, self.verdicts = random.Random(seed), 0.0, verdicts or {}
        points = list(next(iter(ms.values())))
        self.state = State(tuple(ms), tuple(ms), points, baseline=EAGER, session_seconds=lambda: self.now)
        self.order: list[tuple[Shape, tuple[Candidate, ...]]] = []

    def run(self) -> Track:
        while turns := self.schedule.next_turns(self.state):
            self.step(turns)
            assert len(self.order) < 5000
        return self

    def step(self, turns: list[tuple[Shape, Candidate]]) -> None:
        state = self.state
        (point,) = {point for point, _ in turns}
        self.order.append((point, tuple(one for _, one in turns)))
        for cell in turns:
            if record := state.records.pop(cell, None):
                assert self.schedule.is_open(state, *cell)
                state.open[cell] = OpenCell(list(record.turns))
        cells = [state.open.setdefault(cell, OpenCell()) for cell in turns]
        number = max((cell.turns[-1].round + 1 for cell in cells if cell.turns), default=0)
        weather = self.random.gauss(0, self.noise)
        for (_, candidate), cell in zip(turns, cells, strict=True):
            ms = self.ms[candidate][point] * (1 + weather + self.random.gauss(0, self.noise))
            delay = 0.5 if self.disturbed(number) else 0.0
            told = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "queue_delay_seconds": delay}
            cell.turns.append(Turn(number, {"wall": [round(ms * MS)]}, conditions=told, seconds=ms / 1e3))
            self.now += ms / 1e3
            if self.schedule.judges(state, point, candidate):
                cell.verdict = self.verdicts.get(candidate, "equivalent")
        for cell, open_ in zip(turns, cells, strict=True):
            if not self.schedule.is_open(state, *cell):
                turns_of = state.open.pop(cell).turns
                state.records[cell] = Record(*cell, "ok", turns=tuple(turns_of), parity={"verdict": open_.verdict})

    def rounds(self, candidate: Candidate, point: Shape) -> int:
        return len(self.state.turns(point, candidate))


def at(small: float, large: float) -> dict[Shape, float]:
    return {SMALL: small, LARGE: large}


def racing(rounds: int = 10, seconds: float = 5.0, until: float = 0.0, precision: float | None = None) -> Racing:
    return Racing(Enough(rounds, seconds, precision), until_seconds=until)


def test_every_cell_has_three_rounds_before_any_has_four_and_points_go_in_order() -> None:
    track = Track(racing(), {EAGER: at(10, 100), FAST: at(5, 50)}, noise=0.05).run()
    assert track.order[:6] == [(SMALL, (EAGER, FAST))] * 3 + [(LARGE, (EAGER, FAST))] * 3


def test_a_clear_loser_leaves_and_those_that_are_near_go_on_in_pairs() -> None:
    track = Track(racing(), {EAGER: at(10, 100), FAST: at(9.9, 99), SLOW: at(30, 300)}, noise=0.004).run()
    assert track.rounds(SLOW, SMALL) < 6
    assert track.rounds(EAGER, SMALL) == track.rounds(FAST, SMALL) > track.rounds(SLOW, SMALL)
    numbers = [[turn.round for turn in track.state.turns(SMALL, one)] for one in (EAGER, FAST)]
    assert numbers[0] == numbers[1]


def test_a_cell_ends_once_it_is_the_same_or_settled_and_at_its_ceilings() -> None:
    same = Track(racing(30), {EAGER: at(10, 10), FAST: at(10, 10)}, noise=0.001).run()
    assert same.rounds(EAGER, SMALL) == 12  # the first at which a second speed would have shown, at a look's confidence
    noisy = Track(racing(8), {EAGER: at(10, 10), FAST: at(10, 10)}, noise=0.2).run()
    assert {noisy.rounds(one, point) for one in (EAGER, FAST) for point in (SMALL, LARGE)} == {8}
    brief = Track(racing(8, seconds=0.045), {EAGER: at(10, 10), FAST: at(10, 10)}, noise=0.2).run()
    assert brief.rounds(EAGER, SMALL) == 5


def test_slow_calls_get_three_rounds_and_more_for_the_decision_alone() -> None:
    clear = Track(racing(seconds=60), {EAGER: at(10, 2000), FAST: at(4, 1990)}, noise=0.004).run()
    assert clear.rounds(EAGER, LARGE) == 3  # 1.6 times as fast over both, whatever the slow shape says
    near = Track(racing(seconds=60), {EAGER: {LARGE: 2000}, FAST: {LARGE: 1950}}, noise=0.03).run()
    assert near.rounds(EAGER, LARGE) > 3


def test_rounds_go_where_they_gain_most_a_second() -> None:
    """Both shapes are as noisy and weigh the same; one costs a hundredth."""
    track = Track(racing(rounds=60, seconds=1e6), {EAGER: at(5, 500), FAST: at(4.9, 490)}, noise=0.02).run()
    further = [point for point, _ in track.order[6:]]
    assert further[0] == SMALL


def test_by_traffic_the_decision_rests_on_the_shapes_that_come() -> None:
    """FAST is the faster at the small shape alone, which is all that comes; over both it is the slower."""
    ms = {EAGER: at(10, 100), FAST: at(9.6, 130)}
    alike = Track(racing(until=600), ms, noise=0.05).run()
    assert Race(alike.schedule, alike.state).leader == EAGER
    weighed = Track(replace(racing(until=600), weights={SMALL: 1.0}), ms, noise=0.05).run()
    race = Race(weighed.schedule, weighed.state)
    assert (race.leader, race.is_decided) == (FAST, True)
    assert race.stakes is not None and set(race.stakes.rounds) == {SMALL}
    assert weighed.rounds(FAST, SMALL) > 10 >= weighed.rounds(FAST, LARGE)


@pytest.mark.parametrize("seed", range(2))
def test_until_decided_goes_beyond_the_ceilings_until_it_is_known_or_the_time_is_over(seed: int) -> None:
    ms = {EAGER: at(10, 100), FAST: at(9.9, 99)}
    stopped = Track(racing(), ms, noise=0.1, seed=seed).run()
    assert not Race(stopped.schedule, stopped.state).is_decided
    decided = Track(racing(until=600), ms, noise=0.1, seed=seed).run()
    assert Race(decided.schedule, decided.state).is_decided
    assert decided.rounds(EAGER, SMALL) > 10
    assert decided.now < 600
    over = Track(racing(until=5), ms, noise=0.2, seed=seed).run()
    assert 5 <= over.now < 8


def test_disturbed_rounds_decide_nothing() -> None:
    ms = {EAGER: at(10, 100), FAST: at(5, 50)}
    track = Track(racing(), ms, disturbed=lambda round_: round_ % 2 == 0).run()
    assert track.rounds(FAST, SMALL) >= 6  # three quiet rounds of six
    always = Track(racing(), ms, disturbed=lambda round_: True).run()
    assert not Race(always.schedule, always.state).is_decided
    assert always.rounds(FAST, SMALL) == 20  # twice what was asked for, as none of them is quiet


def test_rounds_for_the_decision_are_shared_by_who_needs_them_for_a_verdict() -> None:
    schedule = Racing(Enough(10, 5.0), may_be_taken=lambda one: one != OTHER)
    track = Track(schedule, {EAGER: at(10, 100), FAST: at(9.9, 99), OTHER: at(9.9, 99)}, noise=0.1).run()
    assert {track.rounds(one, point) for one in (EAGER, FAST, OTHER) for point in (SMALL, LARGE)} == {10}


def test_what_is_broken_or_may_not_be_taken_takes_no_part_in_the_decision() -> None:
    ms = {EAGER: at(10, 100), FAST: at(2, 20), OTHER: at(5, 50)}
    broken = Track(racing(), ms, verdicts={FAST: "broken"}).run()
    assert Race(broken.schedule, broken.state).leader == OTHER
    assert broken.rounds(FAST, SMALL) == 3
    schedule = Racing(Enough(10, 5.0), may_be_taken=lambda one: one != OTHER)
    assert Race(schedule, Track(schedule, ms).run().state).leader == FAST


def test_a_width_that_is_asked_for_is_reached_by_all_at_a_point() -> None:
    track = Track(racing(rounds=4, precision=0.01), {EAGER: at(10, 100), SLOW: at(30, 300)}, noise=0.01).run()
    assert track.rounds(EAGER, SMALL) == track.rounds(SLOW, SMALL) > 4


def test_one_candidate_alone_has_all_its_rounds() -> None:
    assert Track(racing(7), {EAGER: at(10, 100)}).run().rounds(EAGER, SMALL) == 7


def test_looks_after_every_round_err_less_than_one_look_at_the_end() -> None:
    """At the least favourable true ratio: 1 % apart, which is not faster."""
    draw, wrong = random.Random(0), 0
    confidence = 1 - SHARE_OF_A_LOOK * statistics.PAGE_ERROR
    for _ in range(1000):
        ratios = [1.01 * math.exp(draw.gauss(0, 0.002)) for _ in range(10)]
        looks = (statistics.ratio_interval(ratios[:count], confidence) for count in range(LEAST_ROUNDS, 11))
        wrong += any(statistics.verdict(interval) == "faster" for interval in looks)
    assert wrong <= 5  # of 1000; 19 with looks at the level of the page
