"""The contract that every workload keeps; a third party runs it on its own with `check_workload`.

from bench.testing_workload import check_workload
check_workload("prepare", rounds=2)
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.options import CommonOptions
from bench.parity.cell import Cell
from bench.process.loop import _named
from bench.report import console, documents
from bench.run import registry
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.record import Run
from bench.run.workload import Workload
from bench.spec import DEFAULT_ARTIFACTS
from bench.testing import _check_imports, _made, _require

GIVEN = {"model": "bert-tiny", "backends": "null:50us,null", "device": "cpu", "threads": 1}


def check_workload(name: str, *, artifacts: str | Path = DEFAULT_ARTIFACTS, **options: Any) -> list[str]:
    """Run every check of the contract on workload `name`; returns the checks that were made.

    `options` are of a small run, as `bench.measure_NAME` takes them; by default it is one of two scripted backends.
    Raises ContractError for the first rule that is broken.
    """
    kind = registry.load_class(name)
    made = _made((_check_declaration,), name, kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        run = measure(kind, kind.Options.parsed({**GIVEN, **options, "artifacts": artifacts, "output": path}))
        return made + _made((_check_records, _check_file, _check_repeats, _check_resume), run, path)


def _check_declaration(name: str, kind: type[Workload]) -> None:
    """It is a Workload under its own name, with options, a cell and columns of its points, and imports no framework."""
    _require(kind.name == name, f"{name} calls itself {kind.name!r}")
    _require(issubclass(kind, Workload), f"{name} does not stand on Workload")
    _require(issubclass(kind.Options, CommonOptions), f"{name}'s options do not stand on CommonOptions")
    _require("__str__" in vars(kind.point_type), f"{name}'s point has no __str__")
    names = [column.name for column in kind.columns]
    twice = sorted({one for one in names if names.count(one) > 1})
    _require(not twice, f"{name} has columns of one name: {', '.join(twice)}")
    missing = [one.name for one in fields(kind.point_type) if one.name not in names]
    _require(not missing, f"{name} has no column for its point's {', '.join(missing)}; columns.point_columns makes it")
    _require(issubclass(_named(kind.cell), Cell), f"{name}'s cell {kind.cell} is no Cell")
    _check_imports("from bench.run import registry; registry.load_class(sys.argv[1])", name)


def _check_records(run: Run, path: Path) -> None:
    """Every candidate has a record at every point, and where all are sound, the run ends with 0."""
    cells = [(point, candidate) for point in run.workload.points() for candidate in run.candidates]
    missing = [f"{candidate} at {point}" for point, candidate in cells if run.record(point, candidate) is None]
    _require(run.is_complete and not missing, f"there is no record of {', '.join(missing) or 'some cell'}")
    failed = [
        f"{one.candidate} at {one.point}: {one.status}: {one.reason}" for one in run.records if one.status != "ok"
    ]
    _require(not failed, "; ".join(failed))
    is_well = run.exit_code in (0, 6)  # 6: which one is faster stays undecided
    _require(is_well, f"a run in which all went well ends with exit code {run.exit_code}")


def _check_file(run: Run, path: Path) -> None:
    """Its file holds the run; both print the same 80 columns, and every format has all records."""
    again, text = read_run(path), console.render(run)
    is_same = (again.records, again.options, again.integrity) == (run.records, run.options, "sealed")
    _require(is_same, "the records and options that its file holds are not the run's")
    _require(text == console.render(again), "the report of the file is not the report of the run")
    wide = [line for line in text.splitlines() if len(line) > 80 and not line.startswith("records: ")]
    _require(not wide, f"lines of the report are wider than 80 columns: {wide[:1]}")
    rows = json.loads(documents.as_json(run))["rows"], documents.as_csv(run).splitlines()[1:]
    _require(all(len(found) >= len(run.records) for found in rows), "JSON or CSV lacks a row of some record")
    _require(run.records[0].candidate.label in documents.as_markdown(run), "Markdown does not name a candidate")


def _check_repeats(run: Run, path: Path) -> None:
    """The options that repeat a cell measure that cell."""
    for record in run.records:
        points = type(run.workload)(run.workload.repeated(record.point, record.candidate)).points()
        _require(record.point in points, f"repeating {record.point} measures {[str(one) for one in points]}")


def _check_resume(run: Run, path: Path) -> None:
    """A file that ends after its first turn goes on to the same cells, and keeps that turn."""
    lines = path.read_text().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if json.loads(line)["kind"] == "turn")
    path.write_text("".join(lines[: first + 1]))
    ((cell, kept),) = read_run(path).turns.items()
    found = {one.cell: one for one in resume(path, artifacts=run.options.artifacts, python=run.options.python).records}
    _require(set(found) == {one.cell for one in run.records}, "a stopped run does not go on to the same cells")
    _require(list(found[cell].turns[:1]) == list(kept), f"the first turn of {found[cell].point} was lost")
