"""Runs that no machine measured, for tests of what is computed from runs and printed of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench import machine
from bench.columns import Column, Section, Table
from bench.machine.roofline import Peaks
from bench.process import peaks
from bench.run.file import RunFile
from bench.run.record import Model, Once, Record, Run, Turn
from bench.run.schedule import Enough, Grid, Schedule
from bench.run.workload import Workload
from bench.spec import Candidate, Shape
from bench.workloads.forward import Forward

MS = 1_000_000
#: Conditions of a turn beside which nothing else ran.
QUIET = {
    "wall_seconds": 1.0, "cpu_seconds": 2.0, "other_cpu_seconds": 0.0, "steal_seconds": 0.0, "thermal_events": None,
    "quota_periods": None, "throttled_periods": None,
}  # fmt: skip


def candidate(label: str, precision: str = "fp32") -> Candidate:
    """`backend[:variant][@copy]`."""
    name, _, copy = label.partition("@")
    backend, _, variant = name.partition(":")
    return Candidate(backend, variant or "default", precision, int(copy or 1))


def record(
    label: str,
    point: Any = Shape(1, 128),  # noqa: B008
    *,
    ms: float | Sequence[Sequence[float]] = 10.0,
    verdict: str = "equivalent",
    precision: str = "fp32",
    times: dict[str, float] | None = None,
    conditions: dict[str, Any] | None = None,
    **values: Any,
) -> Record:
    """A record of three rounds of three samples of `ms`, or of these rounds; `times` are further kinds of time, ms."""
    rounds = [[ms] * 3] * 3 if isinstance(ms, int | float) else ms
    status = values.get("status", "ok")
    turns = tuple(
        Turn(
            number,
            {"wall": [round(one * MS) for one in samples]}
            | {kind: [round(value * MS)] * len(samples) for kind, value in (times or {}).items()},
            conditions={} if conditions is None else QUIET | conditions,
            seconds=sum(samples) / 1e3,
        )
        for number, samples in enumerate(rounds)
    )
    parity = {"verdict": verdict, "max_abs_error": 2.1e-6, "reason": f"a reason for {verdict}"} if verdict else {}
    fields: dict[str, Any] = {
        "status": status,
        "turns": turns if status == "ok" else (),
        "parity": parity if status == "ok" else {},
        "once": Once(load_seconds=0.5, first_call_ns=20 * MS, is_stable=True),
        "is_judged": not label.startswith("null"),
    }
    return Record(point, candidate(label, precision), **fields | values)


def run_of(
    records: Sequence[Record],
    workload: type[Workload] = Forward,
    *,
    fingerprint: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
    model: Model | None = None,
    is_complete: bool = True,
    **options: Any,
) -> Run:
    """A whole run of `records`, in memory, under options as an API's caller gives them."""
    candidates = tuple(dict.fromkeys(one.candidate for one in records))
    given: dict[str, Any] = {
        "model": "bert" if model is None else model.name,
        "backends": tuple(dict.fromkeys(one.label for one in candidates)),
        "precisions": tuple(dict.fromkeys(one.precision for one in candidates)),
        "device": "cpu",
        "threads": 2,
    }
    if workload is Forward:
        points = sorted({one.point for one in records})
        given |= {"shapes": [(point.batch, point.length) for point in points], "target_precision": 0.02, "rounds": 3}
    settled = workload.Options.parsed(given | options)
    return Run(
        workload(settled),
        model or Model("bert", "seeded random (seed 0)", "random", "c0ffee", "base", 512),
        candidates,
        {"cpu": "A CPU"} | (fingerprint or {}),
        "2026-01-01T00:00:00+00:00",
        list(records),
        notes=dict(notes or {}),
        is_complete=is_complete,
        integrity="sealed",
    )


def of_every_outcome() -> Run:
    """Four candidates at one point: two are sound, one is broken, one was lost."""
    return run_of(
        [
            record("eager", ms=12345.678),
            record("compile:reduce-overhead", ms=123.45),
            record("onnx", ms=45.6, verdict="broken"),
            record("torchscript", status="failed", reason="the worker was killed by SIGKILL after 3.1 s"),
        ],
        notes={"parent_cpu_share": 0.01},
    )


def write(run: Run, path: Path, *, is_sealed: bool = True) -> Path:
    """The file that the pipeline would have written of a run."""
    run.path = path
    file = RunFile(run)
    file.create()
    for one in run.records:
        for turn in one.turns:
            file.turn(one.point, one.candidate, turn)
        file.record(one)
    if is_sealed:
        file.seal()
    return path


@dataclass(frozen=True, order=True)
class Step:
    name: str

    def __str__(self) -> str:
        return f"step {self.name}"


class Steps(Workload):
    """A workload with figures that are no times, one table for all, and a section of its own."""

    name = "steps"
    point_type = Step
    point_noun = "step"
    cell = "tests:None"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("score", lambda run, one: one.figures.get("score"), title="score"),
        Column("note", lambda run, one: one.figures.get("note"), title="note", is_left=True),
        Column("joined", lambda run, one: one.figures.get("joined"), title="joined", is_optional=True),
    )

    def points(self) -> Sequence[Step]:
        return [Step("1"), Step("2")]

    def schedule(self) -> Schedule:
        return Grid(lambda point: Enough(1))

    def begin(self, point: Any, source: Any) -> dict[str, Any]:
        return {}

    def turn(self, point: Any, candidate: Any, taken: Any) -> dict[str, Any]:
        return {}

    def table_title(self, one: Record) -> str | None:
        return None if one.figures.get("is_trial") else ""

    def sections(self, run: Run) -> Iterable[Section]:
        rows = (("eager with a very long explanation that goes on", "1", "2"), ("onnx", "3", "4"))
        titles = ("who", "a title of many words in one cell", "another title that is about as long")
        yield Section("Of its own", ("A sentence.",), Table(titles, rows), ["an entry"])
        yield Section("Empty")


def of_steps() -> Run:
    figures = [{"score": 1234.5}, {"score": 3, "note": "three"}, {}, {"score": 0.25}]
    names = [("eager", "1"), ("onnx", "1"), ("eager", "2"), ("onnx", "2")]
    records = [
        record(name, Step(step), ms=[], verdict="", figures=one)
        for (name, step), one in zip(names, figures, strict=True)
    ]
    return run_of(records, Steps)


def keep_peaks(root: Path) -> None:
    """Have runs with the store `root` find the CPU's limits measured, higher than any; measuring takes ten seconds."""
    rates = dict.fromkeys(("fp32", "fp16", "bf16", "int8"), 1e13)
    for threads in {1, 2, machine.usable_cpus()}:
        found = Peaks("cpu", threads, rates, ((2**20, 1e12),), "2026-01-01T00:00:00+00:00")
        peaks._keep(peaks._path(root, "cpu", threads), found)
