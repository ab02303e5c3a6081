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

from bench import machine
from bench.process import channel
from bench.records import Record, Run
from bench.runfile import RunFile, record_line
from bench.spec import Candidate, Grid, Shape, TimingPlan
from exporters import checkpoint, sources
from exporters.store import recipe_key
from tests.in_process import InThisProcess

MS = 1_000_000
SHAPES = (Shape(1, 16), Shape(4, 8))
PLAN = TimingPlan(rounds=2, seconds_per_cell=0.02, warmup_seconds=0.001, warmup_most_seconds=0.01)


@cache
def fingerprint() -> dict[str, Any]:
    """This machine's, looked at once: that takes a fifth of a second."""
    return machine.fingerprint()


def record(contestant: Candidate, shape: Shape, ms: float = 5.0, **values: Any) -> Record:
    """A measured cell: ten rounds of 20 calls, all alike."""
    fields: dict[str, Any] = {
        "rounds": [[round(ms * MS)] * 20] * 10, "parity": {"verdict": "equivalent", "reason": "like eager"},
        "facts": {"versions": {}},
    }  # fmt: skip
    return Record(
        "bert-tiny", contestant.backend, contestant.variant, contestant.precision, "cpu", shape.batch, shape.length,
        values.pop("status", "ok"), copy=contestant.copy, **(fields | values),
    )  # fmt: skip


def run_of(
    model: str = "bert-tiny",
    contestants: Sequence[Candidate] = (Candidate("onnx", "default", "fp32"),),
    shapes: Sequence[Shape] = SHAPES,
    task: str = "base",
    **values: Any,
) -> Run:
    """A run of `model` on this machine as `bench compare` would leave it, but for its figures."""
    source = sources.resolve(model, task=task)
    grid = Grid(model, tuple(contestants), tuple(shapes), "cpu", 1, source.weights, task, 0)
    records = [record(contestant, shape) for shape in shapes for contestant in contestants]
    run = Run(
        grid, PLAN, fingerprint(), source.origin, recipe_key(checkpoint.recipe(source)), "bench compare",
        "2026-01-01T00:00:00+00:00", records,
    )  # fmt: skip
    run.is_complete = True
    return replace(run, **values)


def write(run: Run, path: Path) -> Path:
    """The run's file."""
    file = RunFile(path)
    file.create(run)
    for entry in run.records:
        file.append(record_line(entry))
    file.append({"kind": "end", "seconds": 1.0, "parent_cpu_share": 0.0})
    return path


@contextmanager
def in_this_process() -> Iterator[None]:
    """Workers and exports without processes of their own."""
    with mock.patch.object(channel, "Worker", InThisProcess), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit and torch.export warn about themselves
        yield
