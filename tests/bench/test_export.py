"""The process that exports: one for all artifacts of a run, and after a failure another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.process import export
from bench.process.channel import WorkerError


class Process:
    """A process that fails where the script says so."""

    def __init__(self, failing: set[str]) -> None:
        self.failing, self.is_alive = failing, True
        self.exported: list[str] = []

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        assert self.is_alive
        args = export.parser().parse_args(message["options"])
        if args.format in self.failing:
            raise WorkerError("failed", f"{args.format} fails", is_gone=args.format == "crash")
        self.exported.append(f"{args.format} {args.precision} in {args.artifacts}")
        return {}

    def kill(self) -> None:
        self.is_alive = False


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The processes that were started, in order."""
    found: list[Process] = []

    def start(root: Path, threads: int, python: Path | None = None) -> Process:
        found.append(Process({"crash", "raise"}))
        return found[-1]

    monkeypatch.setattr(export, "start", start)
    return found


def test_one_process_exports_all(started: list[Process]) -> None:
    exporting = export.Exporting(Path("store"), 2)
    assert started == []
    exporting.close()  # nothing was needed
    for name in ("checkpoint", "onnx", "torchscript"):
        exporting.request(name, ["--precision", "bf16"], 1.0)
    (process,) = started
    assert process.exported == [f"{name} bf16 in store" for name in ("checkpoint", "onnx", "torchscript")]
    assert process.is_alive
    exporting.close()
    assert not process.is_alive


@pytest.mark.parametrize("failure", ["crash", "raise"])
def test_a_failure_costs_its_own_artifact_alone(started: list[Process], failure: str) -> None:
    """The next one is another process's: what a failed exporter left behind must not reach it."""
    exporting = export.Exporting(Path("store"), 2)
    exporting.request("onnx", [], 1.0)
    with pytest.raises(WorkerError, match=f"{failure} fails"):
        exporting.request(failure, [], 1.0)
    exporting.request("torchscript", [], 1.0)
    assert [process.exported for process in started] == [["onnx fp32 in store"], ["torchscript fp32 in store"]]
    assert [process.is_alive for process in started] == [False, True]
    exporting.close()
    assert not any(process.is_alive for process in started)
