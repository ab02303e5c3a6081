"""Runs and bundles that the tests of bundles share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from bench import machine
from bench.bundle.manifest import FILE, Manifest, checksums
from bench.process import channel
from bench.run.experiment import model_of
from bench.run.file import RunFile
from bench.run.record import Record, Run
from bench.spec import Candidate, Shape
from exporters import sources
from tests import made
from tests.in_process import InThisProcess

MS = 1_000_000
ONNX, TORCHSCRIPT, EAGER = (made.candidate(name) for name in ("onnx", "torchscript", "eager"))
SHAPES = (Shape(1, 16), Shape(4, 8))
QUICK = {"rounds": 2, "max_seconds_per_cell": 0.02, "warmup": "1ms", "max_warmup": "10ms"}


@cache
def fingerprint() -> dict[str, Any]:
    """This machine's, without the fifth of a second for which it is watched."""
    with mock.patch.object(machine, "busy_share", lambda: 0.0):
        return machine.fingerprint()


def record(candidate: Candidate, point: Shape, ms: float = 5.0, **values: Any) -> Record:
    """A measured cell: ten rounds of 20 calls, all alike."""
    found = made.record(candidate.label, point, ms=values.pop("rounds", [[ms] * 20] * 10), **values)
    return replace(found, candidate=candidate, is_judged=candidate.backend != "null")


def run_of(
    model: str = "bert-tiny",
    candidates: Sequence[Candidate] = (ONNX,),
    shapes: Sequence[Shape] = SHAPES,
    task: str = "base",
    **options: Any,
) -> Run:
    """A run of `model` on this machine as `bench compare` would leave it, but for its figures."""
    records = [record(candidate, shape) for shape in shapes for candidate in candidates]
    described = model_of(sources.resolve(model, task=task))
    options = {"task": task, "threads": 1, **QUICK, **options}
    run = made.run_of(records, fingerprint=fingerprint(), model=described, **options)
    run.workload.options = replace(run.workload.options, model=model)
    return run


@contextmanager
def in_this_process() -> Iterator[None]:
    """Workers and exports without processes of their own."""
    with mock.patch.object(channel, "Worker", InThisProcess), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit and torch.export warn about themselves
        yield


def forged(folder: Path, **changes: Any) -> None:
    """Write a manifest that fits the files as they are now."""
    manifest = msgspec.json.decode((folder / FILE).read_bytes(), type=Manifest)
    (folder / FILE).write_text(replace(manifest, files=checksums(folder), **changes).text())


def resealed(run: Run) -> None:
    """Write the file of a run that was changed in memory, with a seal that fits."""
    file = RunFile(run)
    file.go_on()
    file.seal()
