"""An environment per backend: made, listed, removed, and never taken for sound before it is finished."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import BenchError, UserError
from bench.process.environments import asking, making, stored
from bench.run.file import read_run
from bench.tune.space import asked_space, whole_space
from tests.bench.environment_cases import NULL, python_at

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def ask_anew() -> None:
    asking.forget_answers()


class Tools:
    """Stands in for `python -m venv` and pip: an environment whose interpreter is this one under another path."""

    def __init__(self) -> None:
        self.fails_with: str | BaseException = ""
        self.made = 0
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> Any:
        self.commands.append(command)
        if "venv" in command:
            python_at(Path(command[-1]) / "bin" / "python")
            self.made += 1
        elif "pip" in command and isinstance(self.fails_with, BaseException):
            raise self.fails_with
        elif "pip" in command and self.fails_with:
            return SimpleNamespace(returncode=1, stdout="", stderr=f"WARNING: x\nERROR: {self.fails_with}\n")
        return SimpleNamespace(returncode=0, stdout='{"python": "3.11.7", "torch": "2.13.0"}', stderr="")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tools:
    found = Tools()
    monkeypatch.setattr(making, "subprocess", SimpleNamespace(run=found, DEVNULL=None))
    (tmp_path / "needs.txt").write_text("torch==2.13.0\n")
    return found


def test_a_backend_runs_in_the_environment_that_was_made_for_it(cli_here: Cli, tools: Tools, tmp_path: Path) -> None:
    done = cli_here("env", "create", "null", "--requirements", "needs.txt")
    assert (done.returncode, done.stdout) == (0, "null: python 3.11.7, torch 2.13.0 and 0 more\n")
    done = cli_here("env", "create", "null@old", "--requirements", "needs.txt")
    assert done.returncode == 0
    done = cli_here("compare", *NULL, "--backends", "null,null@old", "--output", "run.jsonl", "--quiet")
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run.jsonl")
    assert all("python" in one.facts["versions"] for one in run.records)
    assert "--python" not in run.command
    done = cli_here("env", "list")
    assert [line.split()[0] for line in done.stdout.splitlines() if "sound" in line] == ["null", "null@old"]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "null         in an environment of its own" in cli_here("list", "backends").stdout
    assert cli_here("env", "remove", "null@old").returncode == 0
    assert stored.places(tmp_path / "artifacts") == ["null"]
    done = cli_here("env", "remove", "nul")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "did you mean 'null'" in done.stderr


def test_the_same_requirements_make_nothing_anew_and_others_do(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytecode is written ahead only where no import may write it."""
    file = tmp_path / "needs.txt"
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    first = making.create(tmp_path, "null", file)
    assert making.create(tmp_path, "null", file) == first
    assert tools.made == 1
    file.write_text("torch==2.12.0\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert making.create(tmp_path, "null", file).requirements != first.requirements
    assert tools.made == 2
    with_pip = [command for command in tools.commands if "pip" in command]
    assert ["--no-compile" in command for command in with_pip] == [True, False]
    assert all(command[-2:] == ["-r", str(file)] for command in with_pip)


@pytest.mark.parametrize(
    ("failure", "raised", "message"),
    [
        ("No matching distribution found for nothing", BenchError, "its requirements cannot be installed .*nothing"),
        ("[Errno 28] No space left on device", UserError, "the disk is full .*--artifacts"),
        (OSError(28, "No space left on device"), UserError, "the disk is full"),
        (KeyboardInterrupt("by the user"), KeyboardInterrupt, "by the user"),
    ],
)
def test_a_creation_that_fails_leaves_nothing(
    failure: Any, raised: type[BaseException], message: str, tools: Tools, tmp_path: Path
) -> None:
    tools.fails_with = failure
    with pytest.raises(raised, match=message):
        making.create(tmp_path, "null", tmp_path / "needs.txt")
    assert tools.made == 1
    assert stored.places(tmp_path) == []


def test_an_environment_that_was_not_finished_is_never_taken_for_sound(
    cli_here: Cli, tools: Tools, tmp_path: Path
) -> None:
    made = making.create(tmp_path / "artifacts", "null", tmp_path / "needs.txt")
    (made.path / stored.MARKER).unlink()  # as it is when the creation was killed
    assert "not finished; run: bench env create null" in cli_here("env", "list").stdout
    listed = cli_here("list", "backends").stdout
    assert "null         its environment was not finished; run: bench env create null" in listed
    done = cli_here("compare", *NULL, "--backends", "null", "--output", "run.jsonl")
    assert done.returncode == 1
    (found,) = read_run(tmp_path / "run.jsonl").records
    reason = "the environment 'null' was not finished; run: bench env create null"
    assert (found.status, found.reason) == ("unsupported", reason)
    assert making.create(tmp_path / "artifacts", "null", tmp_path / "needs.txt").python.exists()
    assert tools.made == 2
    made.python.unlink()
    assert stored.read(tmp_path / "artifacts", "null") is None


def test_what_cannot_be_made_ends_in_one_line(cli_here: Cli, tools: Tools) -> None:
    for arguments, message in (
        (("null",), "null declares no environment of its own"),
        (("nul",), "unknown backend 'nul'; did you mean 'null'"),
        (("null@2", "--requirements", "needs.txt"), "'2' is no name of an environment"),
        (("null", "--requirements", "nowhere.txt"), "cannot be read"),
    ):
        done = cli_here("env", "create", *arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert message in done.stderr
    assert tools.made == 0


def test_tuning_asks_the_environment_and_takes_no_other(tools: Tools, tmp_path: Path) -> None:
    made = making.create(tmp_path, "eager", tmp_path / "needs.txt")
    found = asked_space(["eager"], "cpu", ("fp32", "int8"), tmp_path)
    assert {candidate.precision for candidate in found.candidates} == {"fp32"}
    assert not any("int8" in reason for _, reason in found.left_out)  # no other settings could let it in
    (made.path / stored.MARKER).unlink()
    with pytest.raises(UserError, match="its environment was not finished; run: bench env create eager"):
        asked_space(["eager"], "cpu", ("fp32",), tmp_path)


def test_tuning_takes_interpreters_of_the_users_own(tools: Tools, tmp_path: Path) -> None:
    pythons = (("onnx@old", str(python_at(tmp_path / "old" / "python"))),)
    both = asked_space(["onnx:default", "onnx@old"], "cpu", ("fp32",), tmp_path, pythons)
    labels = [candidate.label for candidate in both.candidates]
    assert {"onnx", "onnx@old", "onnx:fused@old"} <= set(labels) and "onnx:fused" not in labels
    whole = {candidate.label for candidate in whole_space("cpu", ("fp32",), tmp_path, pythons).candidates}
    assert {"onnx", "onnx:fused", "onnx@old", "onnx:fused@old"} <= whole
    with pytest.raises(UserError, match="--python onnx@old: no onnx@old is among --backends"):
        asked_space(["onnx"], "cpu", ("fp32",), tmp_path, pythons)
    with pytest.raises(UserError, match="--python onnx@old=PATH"):
        asked_space(["onnx@old"], "cpu", ("fp32",), tmp_path)
