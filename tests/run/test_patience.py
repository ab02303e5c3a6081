"""What a run does on a disturbed machine: it waits, repeats disturbed rounds as far as it may, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.report import console
from bench.run import registry
from bench.run.experiment import resume
from bench.run.file import read_run
from bench.run.pairs import paired
from bench.run.preparation import Preparation
from bench.run.record import Run
from tests.machines import Scripted
from tests.run.toys import InRounds

Measured = Callable[..., Run]
pytestmark = pytest.mark.usefixtures("in_this_process")
#: Three rounds at one point.
ASKED = {"workload": InRounds, "points": 1, "turns": 3}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", registry.BUILT_IN | {"in-rounds": "tests.run.toys:InRounds"})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scripted]:
    """Has turns take part on a machine as a test scripts it."""

    def put(is_busy: Callable[[int], bool], **more: bool) -> Scripted:
        monkeypatch.setattr(Preparation, "conditions", found := Scripted(is_busy, **more))
        return found

    return put


def rounds_of(run: Run) -> list[list[int]]:
    """The numbers of the rounds that each record has."""
    return [[turn.round for turn in record.turns] for record in run.records]


def said(run: Run) -> str:
    return " ".join(console.render(run).split())


def test_a_quiet_machine_has_no_rounds_repeated_and_nothing_said(measured: Measured, machine: Callable) -> None:
    scripted = machine(lambda turn: False)
    run = measured("null,null:50us", **ASKED)
    assert rounds_of(run) == [[0, 1, 2]] * 2
    assert (scripted.waited_seconds, "disturbed" in said(run)) == (0.0, False)


def test_rounds_that_were_disturbed_at_first_are_repeated_by_all(measured: Measured, machine: Callable) -> None:
    """Three turns are two rounds: both candidates take two more, though one of them was quiet in the second."""
    scripted = machine(lambda turn: turn < 3)
    run = measured("null,null:50us", **ASKED)
    assert rounds_of(run) == [[0, 1, 2, 3, 4]] * 2
    assert len(paired(*run.records)) == 3
    assert run.ratio(run.records[1]) is not None
    assert scripted.waited_seconds > 0
    assert "3 of 10 turns were disturbed and decide nothing; the run waited" in said(run)
    assert "fewer than 3 quiet rounds" not in said(run)


def test_a_machine_that_is_never_quiet_ends_the_run_all_the_same(measured: Measured, machine: Callable) -> None:
    """Twice the rounds, waits within a quarter of the time of the turns, and no ratio."""
    scripted = machine(lambda turn: True, is_busy_when_idle=True)
    run = measured("null,null:50us", **ASKED)
    assert rounds_of(run) == [[0, 1, 2, 3, 4, 5]] * 2
    assert run.ratio(run.records[1]) is None
    taken = sum(turn.seconds for record in run.records for turn in record.turns)
    assert 0 < scripted.waited_seconds <= 0.25 * taken
    assert "12 of 12 turns were disturbed" in said(run)
    assert "2 cells still have fewer than 3 quiet rounds; stop it and measure again" in said(run)


def test_the_ceiling_of_seconds_holds_on_a_disturbed_machine(measured: Measured, machine: Callable) -> None:
    machine(lambda turn: True, is_busy_when_idle=True)
    run = measured("null,null:50us", rounds=100, max_seconds_per_cell="1ms")
    assert rounds_of(run) == [[0, 1, 2]] * 2  # the least that every cell gets


def test_turns_that_are_disturbed_by_turns_leave_too_few_rounds_in_common(
    measured: Measured, machine: Callable
) -> None:
    """Every other turn is disturbed, so that in no round both are quiet; each alone has quiet ones enough."""
    machine(lambda turn: turn % 2 == 0)
    run = measured("null,null:50us", **ASKED)
    assert rounds_of(run) == [[0, 1, 2, 3, 4, 5]] * 2
    assert len(paired(*run.records)) < 3 <= max(sum(record.quiet) for record in run.records)
    assert run.ratio(run.records[1]) is None


def test_a_resumed_run_repeats_what_was_disturbed_before_it_was_stopped(
    tmp_path: Path, measured: Measured, machine: Callable
) -> None:
    """Killed after two disturbed rounds on a machine that is quiet now: waits of both sessions are told together."""
    machine(lambda turn: turn < 4, is_busy_when_idle=True)
    whole = measured("null,null:50us", **ASKED)
    assert rounds_of(whole) == [[0, 1, 2, 3, 4]] * 2
    path = tmp_path / "run.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    third = [number for number, line in enumerate(lines) if '"kind":"turn"' in line][4]
    path.write_text("".join(lines[:third]))
    waited = read_run(path).notes["waited_seconds"]
    machine(lambda turn: False, is_busy_when_idle=True)
    again = resume(path, artifacts=tmp_path / "artifacts")
    assert rounds_of(again) == [[0, 1, 2, 3, 4]] * 2
    assert [record.quiet for record in again.records] == [(False, False, True, True, True)] * 2
    assert again.notes["waited_seconds"] >= waited > 0
    assert "4 of 10 turns were disturbed" in said(again)


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_command_in_this_process_takes_part_on_the_machine_of_a_test(
    tmp_path: Path, machine: Callable, cli_here: Callable, is_busy: bool
) -> None:
    machine(lambda turn: is_busy)
    words = "--model bert-tiny --backends null,null:50us --batches 1 --lengths 8 --rounds 3 --max-seconds-per-cell 0.2"
    done = cli_here("compare", *words.split(), "--warmup", "1ms", "--artifacts", str(tmp_path / "a"), "--quiet")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("null:50us"))
    assert ("disturbed" in row) is is_busy
