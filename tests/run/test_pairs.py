"""Which rounds decide: those in which neither candidate was disturbed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.run import pairs
from bench.run.pairs import ratio_between
from bench.run.record import Record
from bench.statistics import Ratio
from tests.made import QUIET, record, run_of

BUSY = QUIET | {"other_cpu_seconds": 1.5}
WAITED = QUIET | {"queue_delay_seconds": 0.06}


def cell(label: str, ms: list[float], disturbed: dict[int, dict[str, Any]] | None = None, **values: Any) -> Record:
    """A record of one sample a round, with the conditions of `disturbed` rounds; the others were quiet."""
    found = record(label, ms=[[one] for one in ms], conditions={}, **values)
    turns = [replace(turn, conditions=(disturbed or {}).get(turn.round, QUIET)) for turn in found.turns]
    return replace(found, turns=tuple(turns))


def test_a_round_decides_if_both_turns_were_quiet() -> None:
    """The disturbed rounds say that onnx is slower; the others that it is twice as fast."""
    eager = cell("eager", [10, 10, 1, 10, 10], {2: BUSY})
    onnx = cell("onnx", [5, 5, 5, 5, 50], {4: WAITED})
    assert (eager.quiet, onnx.quiet) == ((True, True, False, True, True), (True, True, True, True, False))
    assert pairs.paired(eager, onnx) == [([10_000_000], [5_000_000])] * 3
    ratio = ratio_between(eager, onnx)
    assert isinstance(ratio, Ratio)
    assert (ratio.value, ratio.rounds, ratio.verdict) == (2.0, 3, "faster")
    assert len(onnx.samples) == 5  # none is dropped


def test_rounds_are_paired_by_their_number_and_not_by_their_place() -> None:
    """One candidate lacks its first round, as its worker was lost."""
    eager, onnx = cell("eager", [1, 10, 20, 30]), cell("onnx", [1, 10, 20, 30])
    onnx = replace(onnx, turns=onnx.turns[1:])
    assert [mine == its for mine, its in pairs.paired(eager, onnx)] == [True] * 3


@pytest.mark.parametrize(
    ("disturbed", "said"),
    [
        ({}, ""),
        ({0: BUSY}, "disturbed: only 2 of 3 rounds were quiet, and 3 are needed"),
        (dict.fromkeys(range(3), BUSY), "disturbed: only 0 of 3 rounds were quiet, and 3 are needed"),
    ],
)
def test_fewer_than_three_quiet_rounds_decide_nothing(disturbed: dict[int, Any], said: str) -> None:
    run = run_of([cell("eager", [10, 10, 10]), cell("onnx", [5, 5, 5], disturbed)])
    eager, onnx = run.records
    assert pairs.why_undecided(eager, onnx) == run.why_undecided(onnx) == said
    assert run.may_compare(eager, onnx) == (ratio_between(eager, onnx) is not None) == (not said)
    assert (run.rows()[1]["speedup"], run.rows()[1]["disturbed"]) == (None if said else 2.0, bool(said))


def test_too_few_rounds_decide_nothing_however_quiet() -> None:
    eager, onnx = cell("eager", [10, 10]), cell("onnx", [5, 5])
    assert pairs.why_undecided(eager, onnx) == "too few rounds: 2, and 3 are needed"
    assert ratio_between(eager, onnx) is None


def test_cells_that_were_timed_apart_need_three_quiet_rounds_each() -> None:
    """Nothing pairs their rounds, so which of them were disturbed does not matter."""
    eager = cell("eager", [10, 11, 12, 10], {0: BUSY}, is_interleaved=False)
    onnx = cell("onnx", [5, 5.5, 6, 5], {3: BUSY}, is_interleaved=False)
    ratio = ratio_between(eager, onnx)
    assert ratio is not None and ratio.rounds == 3
    onnx = cell("onnx", [5, 5.5, 6, 5], {2: BUSY, 3: BUSY}, is_interleaved=False)
    assert ratio_between(eager, onnx) is None


def test_a_cell_is_marked_if_its_median_may_rest_on_disturbed_turns() -> None:
    """A turn of ten is left out of comparisons, and moves no median."""
    run = run_of([cell("eager", [10] * 10, {3: BUSY}), cell("onnx", [5] * 10, dict.fromkeys(range(5), BUSY))])
    eager, onnx = run.records
    assert run.disturbances(eager) == []
    assert run.disturbances(onnx)[0].startswith("over 50% of all CPU time was taken by other work")
