"""How long the threads of this process waited for a CPU, by counters of the scheduler."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.machine import threads
from bench.process.loop import Loop, parser
from tests.bench.test_host import root_with

TASK = "proc/self/task"


def with_threads(folder: Path, **counts: str) -> Path:
    return root_with(folder, {f"{TASK}/{number[1:]}/schedstat": text for number, text in counts.items()})


def test_delays_of_all_threads_are_summed_and_none_is_negative(tmp_path: Path) -> None:
    """Of two threads one ended, and its number was given to another; a third began."""
    before = threads.queue_delays_ns(with_threads(tmp_path / "a", t1="500 1000000 3", t2="7 9000000 1", t3="1 5000 1"))
    assert before == {"1": 1_000_000, "2": 9_000_000, "3": 5000}
    after = with_threads(tmp_path / "b", t1="900 3000000 9", t2="1 2000000 1", t4="5 500000 1")
    assert threads.queue_delay_seconds(before, after) == pytest.approx(2.5e-3)


@pytest.mark.parametrize("counts", [{}, {"t1": "0 0 0", "t2": "0 0 0"}, {"t1": "what is this"}, {"t1": ""}])
def test_a_kernel_that_counts_nothing_is_not_taken_for_a_quiet_machine(tmp_path: Path, counts: dict[str, str]) -> None:
    root = with_threads(tmp_path, **counts)
    assert threads.queue_delay_seconds(threads.queue_delays_ns(root), root) is None


def test_a_worker_says_how_long_it_waited_and_computed_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters are read before the cell's turn and after it; a cell that knows better is believed."""
    read: list[str] = []

    class Cell:
        def turn(self, **told: float) -> dict[str, object]:
            read.append("turn")
            return {"times_ns": {"wall": [1]}, **told}

    monkeypatch.setattr(threads, "queue_delays_ns", lambda: read.append("before") or {"1": 10})
    monkeypatch.setattr(threads, "queue_delay_seconds", lambda before: read.append("after") or before["1"] / 2)
    loop = Loop(parser().parse_args(["--backend", "null"]))
    loop.cells["0"] = Cell()
    reply = loop.do_turn("0", {})
    assert read == ["before", "turn", "after"]
    assert (reply["queue_delay_seconds"], reply["times_ns"]) == (5.0, {"wall": [1]})
    assert reply["cpu_seconds"] >= 0
    assert loop.do_turn("0", {"queue_delay_seconds": 0.25})["queue_delay_seconds"] == 0.25
