"""What a run does with the machine's limits: floors, the implausible, limits that could not be had."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench import report
from bench.errors import BenchError
from bench.machine.roofline import Peaks
from bench.runfile import read_run
from bench.spec import TimingPlan
from tests.in_process import InThisProcess

pytestmark = pytest.mark.filterwarnings("ignore")  # in-process torch and transformers warn about themselves

QUICK = TimingPlan(rounds=2, seconds_per_cell=0.1, warmup_seconds=0.0, warmup_most_seconds=0.02)


def peaks_of(flops: float, **values) -> Peaks:
    return Peaks("cpu", 1, {"fp32": flops}, ((2**20, 1e15),), "2026-01-01", **values)


@pytest.fixture
def run(artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run of eager, in this process, on a tiny model whose machine has the peaks that are given, one after another."""
    monkeypatch.setattr("bench.process.channel.Worker", InThisProcess)

    def measured(*found: Peaks | BenchError) -> tuple[bench.Run, list[bool], list[str]]:
        left, again_asked, said = list(found), [], []

        def measure(*arguments, again: bool = False) -> Peaks:
            again_asked.append(again)
            now = left.pop(0)
            if isinstance(now, BenchError):
                raise now
            return now

        monkeypatch.setattr("bench.api.peaks.measure", measure)
        bench.compare(
            "bert-tiny", backends="eager", batches=[2], lengths=[16], device="cpu", threads=1, plan=QUICK,
            artifacts=artifacts, output=tmp_path / "run.jsonl", listener=bench.api.Listener(say=said.append),
        )  # fmt: skip
        return read_run(tmp_path / "run.jsonl"), again_asked, said

    return measured


def test_a_cell_below_its_floor_has_the_peaks_measured_again_and_is_then_marked(run) -> None:
    done, again, said = run(peaks_of(1e6), peaks_of(2e6))
    assert again == [False, True]
    assert any("below their floor" in line for line in said)
    assert done.peaks == peaks_of(2e6)
    (row,) = done.rows()
    assert row["implausible"] is True
    assert row["speedup"] is None
    text = " ".join(report.render(done, "table").split())
    assert "implausible: the median lies below the time that this machine's peak allows" in text


def test_a_peak_that_was_missed_the_first_time_accuses_nobody(run) -> None:
    done, again, _ = run(peaks_of(1e6), peaks_of(1e12))
    assert again == [False, True]
    (row,) = done.rows()
    assert row["implausible"] is False
    assert row["floor_ms"] == pytest.approx(row["gflop"])  # GFLOP at 1000 GFLOP/s are milliseconds
    assert row["floor_share"] == pytest.approx(row["floor_ms"] / row["median_ms"])


def test_disturbed_peaks_give_no_floor_and_say_so(run) -> None:
    done, again, _ = run(peaks_of(1e6, disturbed={"fp32": 0.4}))
    assert again == [False]
    assert done.rows()[0]["floor_ms"] is None
    assert "no floors, as other work ran" in " ".join(report.render(done, "table").split())


def test_peaks_that_cannot_be_measured_do_not_stop_a_run(run) -> None:
    done, _, said = run(BenchError("the measuring process was killed"))
    assert done.rows()[0]["floor_ms"] is None
    assert done.is_complete
    assert any("no floors in this run" in line and "was killed" in line for line in said)
