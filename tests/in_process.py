"""Workers and exports in the test's own process, where what they make is needed and not how processes behave.

Each process of a worker spends five seconds on importing torch and transformers.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from bench import machine
from bench.process import channel, export
from bench.process.channel import WorkerError
from bench.process.loop import Loop, parser
from bench.run import driver, experiment
from bench.run.preparation import Preparation
from bench.run.record import Run
from bench.workloads.forward import Forward
from exporters.store import ArtifactStore
from tests.machines import Scripted

PROCESS = channel.Worker
#: How many modules there were when `freeze_imports` last had something to do.
frozen_modules = 0


def freeze_imports() -> None:
    """Take what was imported out of garbage collection, which cells do before they time: seconds, beside torch."""
    global frozen_modules
    if len(sys.modules) > frozen_modules + 50:
        gc.collect()
        gc.freeze()
        frozen_modules = len(sys.modules)


class InThisProcess:
    """Stands in for `channel.Worker`: the same requests and replies, without the seconds that a process needs.

    What runs in another environment's interpreter still has a process.
    """

    def __new__(cls, command: Sequence[str], *rest: Any) -> Any:
        return super().__new__(cls) if command[0] == sys.executable else PROCESS(command, *rest)

    def __init__(self, command: Sequence[str], threads: int, environment: Mapping[str, str] | None = None) -> None:
        freeze_imports()
        start = len(channel.python_module(""))
        module, arguments = command[start - 1], command[start:]
        self.pid, self.session = os.getpid(), None
        self.replies: list[dict[str, Any]] = []
        if module == "bench.worker":
            self.session = Loop(parser().parse_args(arguments))
            self.answer = self.session.answer
        else:
            assert module == "bench.process.export", module
            self.answer = export.answer

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

    def work(self, message: dict[str, Any], timeout_seconds: float, most_seconds: float = 0.0) -> dict[str, Any]:
        return self.request(message, timeout_seconds)

    def kill(self) -> None:
        if hasattr(self.session, "backend"):
            self.session.backend.close()


@contextmanager
def here() -> Iterator[None]:
    """Workers and exports in this process on a quiet machine: no rooflines, no pauses, no other work."""
    with (
        mock.patch.object(channel, "Worker", InThisProcess),
        mock.patch.object(Preparation, "conditions", Scripted()),
        mock.patch.object(Preparation, "peaks", lambda self, again=False: None),
        mock.patch.object(driver, "REST_SECONDS", 0.0),
        mock.patch.object(machine, "busy_share", lambda: 0.0),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # torch.jit and torch.export warn about themselves
        yield


def preparation(artifacts: Path, **options: Any) -> Preparation:
    """What `bench compare` with `options` on the CPU needs of the store `artifacts`; nothing of it is made."""
    store = ArtifactStore(artifacts)
    given = {"device": "cpu", "artifacts": str(artifacts), **options}
    candidates, settled = experiment.settle(Forward, Forward.Options.parsed(given))
    source = experiment.source_of(settled, store, lambda line: None)
    workload = Forward(Forward.settle(settled, source))
    run = Run(workload, experiment.model_of(source), candidates, fingerprint={}, started="")
    return Preparation(run, source, store, lambda line: None)


def prepare(
    artifacts: Path, model: str, backends: str, batches: tuple[int, ...], lengths: tuple[int, ...], task: str = "base"
) -> None:
    """Have `bench compare` with these options find its exports and references in the store `artifacts`."""
    with here():
        prepared = preparation(artifacts, model=model, backends=backends, batches=batches, lengths=lengths, task=task)
        prepared.store.prepare()
        with prepared.store.in_use(print):
            prepared.make(prepared.workload.points())
    assert not prepared.refused, prepared.refused


@contextmanager
def workers_here() -> Iterator[None]:
    """Workers in this process, no pause before turns, and no other work."""
    with (
        mock.patch.object(channel, "Worker", InThisProcess),
        mock.patch.object(Preparation, "conditions", Scripted()),
        mock.patch.object(driver, "REST_SECONDS", 0.0),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # torch.jit and torch.export warn about themselves
        yield
