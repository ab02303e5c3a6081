"""Workers and exports in the test's own process, where what they make is needed and not how processes behave.

Each process of a worker spends five seconds on importing torch and transformers.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from bench import export, machine, worker
from bench.channel import WorkerError
from bench.preparation import Preparation
from bench.spec import Grid, Shape, parse_contestants
from exporters import sources
from exporters.store import ArtifactStore

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class InThisProcess:
    """Stands in for `channel.Worker`: the same requests and replies, without the seconds that a process needs."""

    def __init__(self, answer: Answer, end: Callable[[], None] = lambda: None) -> None:
        self.answer, self.end = answer, end
        self.replies: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.replies.append(json.loads(json.dumps(self.answer(json.loads(json.dumps(message))))))

    def receive(self, timeout_seconds: float) -> dict[str, Any]:
        reply = self.replies.pop(0)
        if "error" in reply:
            raise WorkerError(**reply["error"])
        return reply["ok"]

    def request(self, message: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        self.send(message)
        return self.receive(timeout_seconds)

    def kill(self) -> None:
        self.end()

    close = kill


def start_worker(
    backend: str, variant: str, precision: str, device: str, artifact: Path | None, threads: int, root: Path
) -> InThisProcess:
    """What `bench.worker.start` is."""
    command = ["--backend", backend, "--variant", variant, "--precision", precision, "--device", device]
    command += ["--threads", str(threads), *([f"--artifact={artifact}"] if artifact else [])]
    session = worker.Session(worker.parser().parse_args(command))

    def end() -> None:
        if hasattr(session, "backend"):
            session.backend.close()

    return InThisProcess(session.answer, end)


def start_export(root: Path, format: str, which: list[str], threads: int) -> InThisProcess:
    """What `bench.export.start` is."""
    args = export.parser().parse_args([f"--artifacts={root}", "--format", format, *which])
    return InThisProcess(lambda request: export.answer(args))


def prepare(
    artifacts: Path, model: str, backends: str, batches: tuple[int, ...], lengths: tuple[int, ...], task: str = "base"
) -> None:
    """Have `bench compare` with these options find its exports and references in the store `artifacts`."""
    shapes = tuple(Shape(batch, length) for batch in batches for length in lengths)
    contestants = parse_contestants(backends, ("fp32",))
    grid = Grid(model, contestants, shapes, "cpu", machine.thread_budget(None), "auto", task, 0)
    store = ArtifactStore(artifacts)
    store.prepare()
    source = sources.resolve(model, weights="auto", task=task, seed=0)
    prepared = Preparation(grid, source, store, 600.0, lambda line: None)
    with (
        store.in_use(),
        mock.patch.object(worker, "start", start_worker),
        mock.patch.object(export, "start", start_export),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # torch.jit and torch.export warn about themselves
        prepared.make()
    assert not prepared.refused, prepared.refused
