"""Fixtures of tests of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.process import channel
from bench.run import driver
from bench.run.experiment import measure
from bench.run.listener import Listener
from bench.run.preparation import Preparation
from bench.run.record import Run
from bench.run.workload import Workload
from bench.workloads.forward import Forward
from tests.in_process import InThisProcess
from tests.machines import Scripted

#: A tiny model, one thread, and cells that are over at once.
FAST = {
    "model": "bert-tiny", "device": "cpu", "threads": 1, "rounds": 3, "max_seconds_per_cell": "30ms", "warmup": "1ms",
    "max_warmup": "20ms", "timeout": 60, "batches": "1", "lengths": "8",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses for the machine's sake, and no other work: scripted backends heat nothing."""
    monkeypatch.setattr(driver, "REST_SECONDS", 0.0)
    monkeypatch.setattr(Preparation, "conditions", Scripted())
    monkeypatch.setattr("bench.machine.busy_share", lambda: 0.0)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "Worker", InThisProcess)


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., Run]:
    """Measures a workload on scripted backends into run.jsonl of the test's folder."""

    def run(backends: str, listener: Listener | None = None, workload: type[Workload] = Forward, **options: Any) -> Run:
        places = {"artifacts": str(tmp_path / "artifacts"), "output": str(tmp_path / "run.jsonl")}
        known = {one.name for one in workload.Options.declared()}
        fast = {name: value for name, value in FAST.items() if name in known}
        return measure(workload, workload.Options.parsed({**fast, **places, "backends": backends, **options}), listener)

    return run
