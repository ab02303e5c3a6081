"""What is known is printed and what is not is undecided: exit codes, digits, and committed runs with less data."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import choose
from bench.bundle.selection import UndecidedError, select
from bench.choose.api import choice_of, exit_code
from bench.choose.lines import settling_command
from bench.columns import factor, milliseconds, plus_minus, size
from bench.errors import PRECEDENCE, foremost
from bench.run.file import read_run
from bench.run.record import Run
from bench.run.state import going_on
from bench.traffic import read_traffic
from bench.workloads.forward import Forward
from tests import made

BUSY = {"wall_seconds": 1.0, "cpu_seconds": 2.0, "other_cpu_seconds": 1.0, "queue_delay_seconds": 0.4}


@pytest.fixture(params=["bert-intervals", "seed-bert-1"])
def decided(root: Path, request: pytest.FixtureRequest) -> Run:
    """A committed run that says "take onnx"."""
    return read_run(root / f"artifacts/reference/epyc2-20261123-{request.param}.jsonl")


def with_turns(run: Run, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Run:
    """The run with other turns in every record."""
    records = [replace(one, turns=change(one.turns)) for one in run.records]
    return replace(run, records=records)


def is_refused(run: Run) -> bool:
    """True if `bench deploy` refuses as undecided what `bench choose` does not decide."""
    with pytest.raises(UndecidedError) as refused:
        select(run, None, "equivalent", {})
    return refused.value.exit_code == 6 == choose(run).exit_code == exit_code(run)


def test_a_disturbed_run_is_undecided(decided: Run) -> None:
    assert (choose(decided).exit_code, exit_code(decided)) == (0, decided.exit_code)
    found = with_turns(decided, lambda turns: tuple(replace(one, conditions=made.QUIET | BUSY) for one in turns))
    assert is_refused(found)
    assert choose(found).too_few_share == 1.0


@pytest.mark.parametrize("rounds", [1, 2])
def test_less_data_gives_no_firmer_choice(decided: Run, rounds: int) -> None:
    cut = with_turns(decided, lambda turns: turns[:rounds])
    assert is_refused(cut)
    whole = choose(decided)
    assert all(one.bound >= whole.regrets[label].bound for label, one in choose(cut).regrets.items())


def test_a_committed_run_that_other_work_disturbed_is_undecided(root: Path) -> None:
    """Its samples stay, and it says nothing of whom to take."""
    assert is_refused(read_run(root / "tests/golden/runs/compare-interrupted.jsonl"))


def test_the_command_that_settles_a_choice_settles_that_choice(decided: Run, tmp_path: Path) -> None:
    """It names the traffic that was asked for; a run races for no other goal than latency, so there is none for that."""
    point, file = decided.records[0].point, tmp_path / "my traffic.csv"
    file.write_text(f"batch,length\n{point.batch},{point.length}\n")
    open_ = with_turns(decided, lambda turns: tuple(replace(one, conditions=made.QUIET | BUSY) for one in turns))
    without, with_file = settling_command(choose(open_)), settling_command(choose(open_, traffic=file))
    assert without.startswith("bench compare --resume ") and "--until-decided" in without
    assert "--traffic" not in without and with_file.endswith(f" --traffic '{file}'")
    assert settling_command(choose(open_, traffic=file, objective="throughput")) == ""
    kept = replace(decided.options, served=read_traffic(file).kept)
    its_own = replace(open_, workload=Forward(kept))
    assert "--traffic" not in settling_command(choose(its_own, traffic=Forward(kept).traffic))


def test_bf16_is_not_taken_unasked(root: Path) -> None:
    run = read_run(root / "artifacts/reference/h100-20261128-bert.jsonl")
    taken = choice_of(run)
    assert taken is not None and taken.chosen is not None
    assert taken.chosen.candidate.precision == "fp32"
    assert {one.candidate.precision for one in taken.order} == {"fp32"}
    fastest = min((one for one in taken.candidates if one.mean_ns), key=lambda one: one.mean_ns or math.inf)
    assert fastest.candidate.precision != "fp32"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((), 0),
        ((0, 6), 6),
        ((6, 1), 1),
        ((1, 5), 5),
        ((5, 4), 4),
        ((4, 3), 3),
        ((3, 143), 143),
        ((130, 2), 2),
        ((0,), 0),
    ],
)
def test_of_several_exit_codes_the_first_counts(codes: tuple[int, ...], expected: int) -> None:
    assert foremost(codes) == foremost(reversed(codes)) == expected
    assert foremost(PRECEDENCE) == 2


def test_a_failed_cell_outweighs_an_open_question() -> None:
    ms = [[9.0], [11.0], [9.0]]
    run = made.run_of([made.record("eager", ms=ms), made.record("onnx", ms=[[11.0], [9.0], [10.0]])])
    assert (run.exit_code, exit_code(run)) == (0, 6)
    lost = made.record("openvino", status="failed", reason="killed")
    assert exit_code(made.run_of([*run.records, lost])) == 1
    assert exit_code(made.run_of(run.records[:1])) == 0


@pytest.mark.parametrize(
    ("ms", "half", "text"),
    [
        (191.1, None, "191.1"), (191.1, 6.9, "191"), (191.1, 0.04, "191.1"), (51.33, 3.2, "51"), (22.09, 0.73, "22.1"),
        (5636.2, 535, "5600"), (3.524, 6.3, "4"), (0.0123, 0.0004, "0.0123"), (12345.678, 0.0, "12346"), (0.0, 1.0, "0.0000"),
    ],
)  # fmt: skip
def test_digits_follow_the_interval(ms: float, half: float | None, text: str) -> None:
    assert milliseconds(ms * 1e6, None if half is None else half * 1e6) == text


def test_ratios_and_intervals_say_no_more_than_is_known() -> None:
    assert [factor(2.4412, half) for half in (None, 0.19, 0.02, 3.0)] == ["2.44", "2.4", "2.44", "2"]
    assert plus_minus(10.0, 9.0, 11.0) == "10.0%"
    assert plus_minus(10.0, 5.0, 15.0) == "50.0%"
    assert plus_minus(10.0, 2.0, 42.0, lambda ms: f"{ms:.0f}") == "2–42"
    assert [size(count) for count in (0, 2**19, 572 * 2**20, 5 * 2**29)] == [
        "0.0 MiB",
        "0.5 MiB",
        "572 MiB",
        "2.50 GiB",
    ]


def test_the_command_that_goes_on_names_again_what_no_file_may_start(decided: Run) -> None:
    asked = replace(decided.options, module="mine.py:make", python=("onnx@old=/old/bin/python",), artifacts="my store")
    words = shlex.split(going_on(replace(decided, workload=Forward(asked))))
    assert words[:4] == ["bench", "compare", "--resume", str(decided.path)]
    assert words[4:] == ["--artifacts", "my store", "--module", "mine.py:make", "--python", "onnx@old=/old/bin/python"]
