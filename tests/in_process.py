"""Workers and exports in the test's own process, where what they make is needed and not how processes behave.

Each process of a worker spends five seconds on importing torch and transformers.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from bench import machine
from bench.preparation import Preparation
from bench.process import channel, export
from bench.process.channel import WorkerError
from bench.process.loop import parser
from bench.process.session import Session
from bench.spec import Grid, Shape, parse_candidates
from exporters import sources
from exporters.store import ArtifactStore


class InThisProcess:
    """Stands in for `channel.Worker`: the same requests and replies, without the seconds that a process needs."""

    def __init__(self, command: Sequence[str], threads: int, environment: Mapping[str, str] | None = None) -> None:
        start = len(channel.python_module(""))
        module, arguments = command[start - 1], command[start:]
        self.pid, self.session = os.getpid(), None
        self.replies: list[dict[str, Any]] = []
        if module == "bench.worker":
            self.session = Session(parser().parse_args(arguments))
            self.answer = self.session.answer
        else:
            assert module == "bench.process.export", module
            args = export.parser().parse_args(arguments)
            self.answer = lambda request: export.answer(args, request.get("options"))

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
        if hasattr(self.session, "backend"):
            self.session.backend.close()


def prepare(
    artifacts: Path, model: str, backends: str, batches: tuple[int, ...], lengths: tuple[int, ...], task: str = "base"
) -> None:
    """Have `bench compare` with these options find its exports and references in the store `artifacts`."""
    shapes = tuple(Shape(batch, length) for batch in batches for length in lengths)
    contestants = parse_candidates(backends, ("fp32",))
    grid = Grid(model, contestants, shapes, "cpu", machine.thread_budget(None), "auto", task, 0)
    store = ArtifactStore(artifacts)
    store.prepare()
    source = sources.resolve(model, weights="auto", task=task, seed=0)
    prepared = Preparation(grid, source, store, 600.0, lambda line: None)
    with (
        store.in_use(),
        mock.patch.object(channel, "Worker", InThisProcess),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # torch.jit and torch.export warn about themselves
        prepared.make()
    assert not prepared.refused, prepared.refused
