"""What a run does with the machine's limits: rooflines, the implausible, limits that could not be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.machine.roofline import Peaks
from bench.report import console
from bench.run.file import read_run
from bench.run.listener import Listener
from bench.run.record import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and transformers warn about themselves


def peaks_of(flops: float, **values: Any) -> Peaks:
    return Peaks("cpu", 1, {"fp32": flops}, ((2**20, 1e15),), "2026-01-01", **values)


@pytest.fixture
def run(
    artifacts: Path,
    tmp_path: Path,
    measured: Callable[..., Run],
    in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[Run, list[bool], list[str]]]:
    """A run of eager, in this process, on a tiny model whose machine has the peaks that are given, one after another."""

    def measured_with(*found: Peaks | BenchError) -> tuple[Run, list[bool], list[str]]:
        left, again_asked, said = list(found), list[bool](), list[str]()

        def measure(*arguments: Any, again: bool = False) -> Peaks:
            again_asked.append(again)
            now = left.pop(0)
            if isinstance(now, BenchError):
                raise now
            return now

        monkeypatch.setattr("bench.run.preparation.peaks.measure", measure)
        measured(
            "eager", Listener(say=said.append), batches="2", lengths="16", rounds=2, max_seconds_per_cell="100ms",
            artifacts=str(artifacts),
        )  # fmt: skip
        return read_run(tmp_path / "run.jsonl"), again_asked, said

    return measured_with


def test_a_cell_below_its_roofline_has_the_peaks_measured_again_and_is_then_marked(run) -> None:
    done, again, said = run(peaks_of(1e6), peaks_of(2e6))
    assert again == [False, True]
    assert any("below their roofline" in line for line in said)
    assert done.peaks == peaks_of(2e6)
    (row,) = done.rows()
    assert row["implausible"] is True
    assert row["speedup"] is None
    text = " ".join(console.render(done).split())
    assert "implausible: the median lies below the roofline, the time that this machine's peak allows" in text


def test_a_peak_that_was_missed_the_first_time_accuses_nobody(run) -> None:
    done, again, _ = run(peaks_of(1e6), peaks_of(1e12))
    assert again == [False, True]
    (row,) = done.rows()
    assert row["implausible"] is False
    assert row["roofline_ms"] == pytest.approx(row["gflop"])  # GFLOP at 1000 GFLOP/s are milliseconds
    assert row["roofline_share"] == pytest.approx(row["roofline_ms"] / row["median_ms"])


def test_disturbed_peaks_give_no_roofline_and_say_so(run) -> None:
    done, again, _ = run(peaks_of(1e6, disturbed={"fp32": 0.4}))
    assert again == [False]
    assert done.rows()[0]["roofline_ms"] is None
    assert "no rooflines, as other work ran" in " ".join(console.render(done).split())


def test_peaks_that_cannot_be_measured_do_not_stop_a_run(run) -> None:
    done, _, said = run(BenchError("the measuring process was killed"))
    assert done.rows()[0]["roofline_ms"] is None
    assert done.is_complete
    assert any("no rooflines in this run" in line and "was killed" in line for line in said)
