"""The process that exports: one for all artifacts of a run, and after a failure another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.process import export
from bench.process.channel import WorkerError


class Process:
    """A process that fails at the formats `crash` and `raise`."""

    def __init__(self) -> None:
        self.is_alive = True
        self.exported: list[str] = []

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        assert self.is_alive
        args = export.parser().parse_args(message["options"])
        if args.format in ("crash", "raise"):
            raise WorkerError("failed", f"{args.format} fails", is_gone=args.format == "crash")
        self.exported.append(f"{args.format} {args.precision} in {args.artifacts}")
        return {}

    def kill(self) -> None:
        self.is_alive = False


@pytest.mark.parametrize("failure", ["crash", "raise"])
def test_one_process_exports_all_until_one_fails(monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    """The next artifact is another process's: what a failed exporter left behind must not reach it."""
    started: list[Process] = []
    monkeypatch.setattr(export, "start", lambda root, threads, python: started.append(Process()) or started[-1])
    exporting = export.Exporting(Path("store"), 2)
    exporting.close()  # nothing was needed
    assert started == []
    for name in ("checkpoint", "onnx"):
        exporting.request(name, ["--precision", "bf16"], 1.0)
    with pytest.raises(WorkerError, match=f"{failure} fails"):
        exporting.request(failure, [], 1.0)
    exporting.request("torchscript", [], 1.0)
    assert [process.is_alive for process in started] == [False, True]
    exported = [["checkpoint bf16 in store", "onnx bf16 in store"], ["torchscript fp32 in store"]]
    assert [process.exported for process in started] == exported
    exporting.close()
    assert not any(process.is_alive for process in started)
