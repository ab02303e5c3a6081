"""An environment per backend: made, listed, removed, and never taken for sound before it is finished."""

from __future__ import annotations

import json
import os
import shutil
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


FORGED = {"requirements": "0" * 64, "versions": {"python": "3.11.7"}, "seal": "0" * 64}


def test_an_environment_that_came_with_a_folder_is_not_started(
    cli_here: Cli, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacked files are this user's, and the marker may be copied from a sealed environment, or that whole."""
    own, log = tmp_path / "artifacts", tmp_path / "log"

    def started(place: str = "null") -> str:
        asking.forget_answers()
        done = cli_here(
            "compare", *NULL, "--backends", place, "--quiet", "--output", f"{len(list(tmp_path.iterdir()))}"
        )
        cli_here("list", "backends")
        cli_here("env", "list")
        return "" if not log.exists() else done.stderr

    folder = own / "environments" / "null"
    python_at(folder / "bin" / "python", log)
    for forged in (FORGED, {**FORGED, "seal": None}):
        (folder / stored.MARKER).write_text(json.dumps(forged))
        assert stored.flaw(own, "null") == "was not made here by this user"
        assert not started()
    shutil.rmtree(own)
    made = making.create(own, "null", tmp_path / "needs.txt")
    assert stored.read(own, "null") == made
    python_at(made.python, log)
    assert stored.read(own, "null") == made
    shutil.copytree(made.path, made.path.with_name("null@copy"))
    made.path.rename(made.path.with_name("null@moved"))
    for place in ("null@copy", "null@moved"):
        assert stored.flaw(own, place) == "was not made here by this user"
        assert not started(place)
    made.path.with_name("null@moved").rename(made.path)
    (made.path / "bin" / "other").symlink_to("python")
    made.python.rename(made.path / "bin" / "aside")
    made.python.symlink_to("aside")
    assert stored.flaw(own, "null") == "was not made here by this user"
    made.python.unlink()
    (made.path / "bin" / "aside").rename(made.python)
    assert stored.read(own, "null") == made
    for changed in (made.path, made.path / "bin", made.path / stored.MARKER):
        mode = changed.stat().st_mode
        changed.chmod(mode | 0o002)
        assert stored.flaw(own, "null") == "belongs to another user, or others may change it"
        changed.chmod(mode)
    assert not log.exists()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert stored.flaw(own, "null") == "belongs to another user, or others may change it"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "others"))
    assert stored.flaw(own, "null") == "was not made here by this user"
    with pytest.raises(UserError, match="'null@copy' was not made here by this user; run: bench env create null@copy"):
        stored.python_of(own, "null@copy", ())


def test_an_environment_is_not_made_without_a_place_for_its_key(
    cli_here: Cli, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    done = cli_here("env", "create", "null", "--requirements", "needs.txt")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "cannot be kept (Not a directory); set XDG_STATE_HOME" in done.stderr
    assert (tools.made, stored.places(tmp_path / "artifacts")) == (0, [])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert cli_here("env", "create", "null", "--requirements", "needs.txt").returncode == 0
    key = tmp_path / "state" / "runtimebench" / "key"
    assert (len(key.read_bytes()), key.stat().st_mode & 0o777) == (32, 0o600)
    key.chmod(0o644)
    assert stored.read(tmp_path / "artifacts", "null") is None
    done = cli_here("env", "create", "null", "--requirements", "needs.txt")
    assert "is damaged or not this user's alone; remove it" in done.stderr


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
