"""An environment per backend: named and asked; its interpreter starts worker and export, and is recorded."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.bundle import runtimes
from bench.errors import UserError
from bench.process import channel, export
from bench.process.environments import asking, stored
from bench.process.environments.asking import Interpreter
from bench.run.file import read_run
from bench.run.preparation import Preparation
from bench.spec import Candidate, parse_candidates
from exporters.store import Artifact
from tests.bench.environment_cases import NULL, python_at, script_at
from tests.in_process import preparation
from tests.made import record, run_of

Cli = Callable[..., Any]
PYTHON = ".".join(map(str, sys.version_info[:3]))


@pytest.fixture(autouse=True)
def ask_anew() -> None:
    asking.forget_answers()


# Names.


@pytest.mark.parametrize(
    ("asked", "places", "candidate", "label"),
    [
        ("onnx@old@2", {"onnx@old"}, Candidate("onnx", "default", "fp32", 2, "old"), "onnx@old@2"),
        (
            "compile:freezing@old",
            {"compile@old"},
            Candidate("compile", "freezing", "fp32", 1, "old"),
            "compile:freezing@old",
        ),
    ],
)
def test_an_environment_stands_behind_the_backend_and_before_the_copy(
    asked: str, places: set[str], candidate: Candidate, label: str
) -> None:
    (found,) = parse_candidates(asked, "fp32", places=places)
    assert (found, found.label, {found.place}) == (candidate, label, places)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["onnx@old"], "is not BACKEND=PATH"),
        (["onnx@old="], "is not BACKEND=PATH"),
        (["onxx=python"], "unknown backend 'onxx'; did you mean 'onnx'"),
        (["onnx@2=python"], "'2' is no name of an environment"),
        (["onnx@../up=python"], "'../up' is no name of an environment"),
        (["onnx@old=a", "onnx@old=b"], "--python onnx@old is given twice"),
    ],
)
def test_what_is_no_interpreter_of_a_backend_is_said_so(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stored.parse_pythons(given)
    with pytest.raises(UserError, match=r"'old' in 'onnx@old' is no number of a copy; .*--python onnx@old=PATH"):
        parse_candidates("onnx@old", "fp32", places={"eager@old"})


# Runs.


def write(file: Path, lines: list[Any]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def workers_in(log: Path) -> int:
    """Workers that an interpreter with this log was started as."""
    return sum("bench.worker --backend null" in line for line in log.read_text().splitlines())


def test_a_run_in_two_environments_is_recorded_repeated_and_resumed(cli_here: Cli, tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "run.jsonl"
    old = python_at(tmp_path / "old" / "python", log)
    backends = ["--backends", "null,null@old", "--python", f"null@old={old}", "--batches", "1,2"]
    done = cli_here("compare", *NULL, *backends, "--output", "run.jsonl")
    assert done.returncode == 0, done.stderr
    assert "null@old" in done.stdout
    assert workers_in(log) == 1
    run = read_run(file)
    here, there = run.records[:2]
    assert (here.candidate.environment, there.candidate.environment) == ("", "old")
    assert "python" not in here.facts["versions"]
    assert there.facts["versions"]["python"] == PYTHON
    assert f"--python null@old={old}" in run.command
    assert f"--python null@old={old}" in run.repeat(there)
    assert "--python" not in run.repeat(here)
    assert [row["environment"] for row in run.rows()] == ["", "old"] * 2
    for one in (here, there):
        assert cli_here(*shlex.split(run.repeat(one))[1:]).returncode == 0

    lines = [line for line in map(json.loads, file.read_text().splitlines()) if line["kind"] != "seal"]
    lines = [line for line in lines if (line.get("candidate"), line.get("point")) != (1, {"batch": 2, "length": 8})]
    told = next(line for line in lines if line["kind"] == "record" and line["candidate"] == 1)["facts"]["versions"]
    told["python"] = "3.11.0a1"
    write(file, lines)
    before = file.read_bytes()
    log.unlink()
    asking.forget_answers()
    for python, message in (
        ([], f"'run.jsonl' names an interpreter, and none is started that .* add --python 'null@old={old}'"),
        (["--python", "null@old=other"], "add --python"),
        (["--python", f"null@old={old}", "--python", "onnx=other"], "--python onnx: the run in 'run.jsonl' names no"),
    ):
        done = cli_here("compare", "--resume", "run.jsonl", *python)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert re.search(message, done.stderr), done.stderr
    assert not log.exists()  # it was not even asked what it is
    python = ["--python", f"null@old={old}"]
    done = cli_here("compare", "--resume", "run.jsonl", *python)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "was begun with other versions (null@old ran with python 3.11.0a1 and would run with 3." in done.stderr
    assert file.read_bytes() == before

    told["python"] = PYTHON
    write(file, lines)
    log.unlink()
    assert f"--resume run.jsonl --python null@old={old} goes on" in " ".join(
        cli_here("report", "run.jsonl").stdout.split()
    )
    done = cli_here("compare", "--resume", "run.jsonl", *python)
    assert done.returncode == 0, done.stderr
    assert [one.candidate.label for one in read_run(file).records] == ["null", "null@old"] * 2
    assert workers_in(log) == 1

    done = cli_here("compare", *NULL, *python, "--backends", "null", "--output", "other.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--python null@old: no null@old is among --backends" in done.stderr
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("load", ["--model", "bert-tiny", "--rate", "50", "--duration", "0.2s", "--rounds", "2"]),
        ("memory", ["--model", "bert-tiny", "--largest-batch", "--max-batch", "2", "--lengths", "8"]),
    ],
)
def test_the_other_measurements_take_another_environment_too(
    command: str, options: list[str], cli_here: Cli, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    python = ["--python", f"null@old={python_at(tmp_path / 'old' / 'python', log)}", "--threads", "1"]
    done = cli_here(command, *options, *python, "--backends", "null,null@old", "--output", "run.jsonl")
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert re.search(rf"- null@old at [^:]*: in an environment with python {re.escape(PYTHON)}", words)
    run = read_run(tmp_path / "run.jsonl")
    assert shlex.join(python[:2]) in run.command
    assert [one.candidate.label for one in run.records[:2]] == ["null", "null@old"]
    here, there = (one.facts["versions"] for one in run.records[:2])
    assert ("python" in here, there["python"]) == (False, PYTHON)
    # One that is loaded, and in a search one a try.
    tries = run.records[-1].turns if command == "memory" else ()
    assert workers_in(log) == 1 + len(tries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be started"),
        (None, "that is a folder"),
        ("exit 1", "that is no Python"),
        ("echo hello", "that is no Python"),
        ("echo python 3 8", r"that is Python 3.8; use 3.11 or later"),
        (
            """echo python 3 12; echo '{"missing": ["numpy"]}'""",
            "no numpy there, which null needs; run: .* -m pip install numpy",
        ),
        ("echo python 3 12; echo 'ImportError: no' >&2", "does not work .ImportError"),
    ],
)
def test_an_interpreter_that_cannot_serve_ends_it_in_one_line(
    text: str | None, message: str, cli_here: Cli, tmp_path: Path
) -> None:
    if text is None:
        (tmp_path / "python").mkdir()
    elif text:
        script_at(tmp_path / "python", text)
    done = cli_here("compare", *NULL, "--backends", "null@old", "--python", "null@old=python", "--output", "run.jsonl")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"--python null@old={tmp_path / 'python'}" in line
    assert re.search(message, line)
    assert not (tmp_path / "run.jsonl").exists()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path | None]]:
    """Formats that were asked for and the interpreter that each was asked of; nothing is exported."""
    asked: list[tuple[str, Path | None]] = []

    def exported(
        store: Any, recipe: dict[str, Any], which: Any, exporting: export.Exporting, say: Any, *rest: Any
    ) -> Artifact:
        asked.append((recipe["format"], exporting.python))
        return Artifact(recipe["format"], "0" * 16, Path(), recipe, {"positions": 512}, {}, 0.0)

    monkeypatch.setattr("bench.run.preparation.exported", exported)
    return asked


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **answered: Any) -> Preparation:
    """`onnx` here and `onnx@old` there, with what its environment is said to have answered."""
    there = Interpreter(tmp_path / "old" / "python", {"python": "3.12.1"}, answered["reasons"], answered["libraries"])
    old = Candidate("onnx", "default", "fp32", environment="old")
    monkeypatch.setattr("bench.run.preparation.environments_of", lambda *rest: {old: there})
    python = [f"onnx@old={there.python}"]
    found = preparation(tmp_path, model="bert-tiny", backends="onnx,onnx@old", python=python)
    found.make([])
    return found


def test_an_environment_exports_itself_if_it_has_the_libraries_and_says_what_cannot_run_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[tuple[str, Path | None]]
) -> None:
    older = {"torch": "2.9", "transformers": "4.57.6", "onnx": "1.18", "onnxscript": "0.5"}
    here, there = prepared(tmp_path, monkeypatch, reasons={}, libraries={"onnx": older}).artifacts.values()
    assert there.recipe["libraries"] == older != here.recipe["libraries"]
    python = tmp_path / "old" / "python"
    assert written == [("checkpoint", None), ("onnx", None), ("onnx", python)]
    written.clear()
    here, there = prepared(tmp_path, monkeypatch, reasons={}, libraries={}).artifacts.values()
    assert here.recipe == there.recipe
    assert {python for _, python in written} == {None}  # which loads what this one exports
    found = prepared(tmp_path, monkeypatch, reasons={("default", "fp32"): "too old"}, libraries={})
    assert {who.label: str(why) for who, why in found.refused.items()} == {"onnx@old": "too old"}
    assert [one.label for one in found.artifacts] == ["onnx"]

    commands: list[list[str]] = []
    monkeypatch.setattr(channel, "Worker", lambda command, *rest: commands.append(command))
    export.start(tmp_path, 1, python)
    assert commands[0][:4] == [str(python), "-P", "-m", "bench.process.export"]


def test_another_interpreter_sees_of_an_installed_copy_our_packages_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert channel.project_for_others(tmp_path) == {}
    installed = tmp_path / "lib" / "site-packages"
    monkeypatch.setattr(channel, "__file__", str(installed / "bench" / "process" / "channel.py"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    links = Path(channel.project_for_others(tmp_path)["PYTHONPATH"])
    assert {link.name: link.readlink() for link in links.iterdir()} == {
        name: installed / name for name in ("bench", "backends", "exporters")
    }
    assert channel.project_for_others(tmp_path)["PYTHONPATH"] == str(links)
    assert stored.places(tmp_path) == []
    (links / "numpy.py").touch()  # as a store from elsewhere may have it
    with pytest.raises(UserError, match=r"numpy.py' would be imported, and bench did not put it there; remove it"):
        channel.project_for_others(tmp_path)


@pytest.mark.parametrize(("place", "environment"), [("onnx@old", "old"), ("onnx", "")])
def test_a_bundle_is_not_made_of_another_environment(place: str, environment: str) -> None:
    of_it = Candidate("onnx", "default", "fp32", environment=environment)
    run = run_of([replace(record("onnx"), candidate=of_it)], python=[f"{place}=/p"])
    with pytest.raises(UserError, match=f"{place} ran in an environment of its own"):
        runtimes.check(of_it, run)
