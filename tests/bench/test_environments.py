"""An environment per backend: named, asked, made, removed; its interpreter starts worker and export, and is recorded."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import backends
from bench import testing
from bench.bundle import runtimes
from bench.errors import BenchError, UserError
from bench.process import channel, export
from bench.process.environments import asking, making, stored
from bench.process.environments.asking import Interpreter
from bench.run.file import read_run
from bench.run.preparation import Preparation
from bench.spec import Candidate, parse_candidates
from bench.tune.space import asked_space, whole_space
from exporters.errors import UnsupportedModelError
from exporters.store import Artifact
from tests.in_process import preparation
from tests.made import record, run_of

Cli = Callable[..., Any]
NULL = ("--model", "bert-tiny", "--batches", "1", "--lengths", "8", "--rounds", "2")
NULL += ("--max-seconds-per-cell", "0.1s", "--warmup", "1ms", "--max-warmup", "20ms")
PYTHON = ".".join(map(str, sys.version_info[:3]))


def python_at(path: Path, log: Path | None = None) -> Path:
    """A script that is this interpreter under another path, and writes down what it is started with."""
    noted = f'echo "$@" >> {shlex.quote(str(log))}\n' if log else ""
    return script_at(path, f'{noted}exec {shlex.quote(sys.executable)} "$@"')


def script_at(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def ask_anew() -> None:
    asking.forget_answers()


# Names.


def test_an_environment_stands_behind_the_backend_and_before_the_copy() -> None:
    (found,) = parse_candidates("onnx@old@2", "fp32", places={"onnx@old"})
    assert found == Candidate("onnx", "default", "fp32", 2, "old")
    assert (found.label, found.place) == ("onnx@old@2", "onnx@old")
    (found,) = parse_candidates("compile:freezing@old", "fp32", places={"compile@old"})
    assert (found.label, found.copy, found.environment) == ("compile:freezing@old", 1, "old")


def test_a_name_that_is_no_environment_says_how_to_give_one() -> None:
    with pytest.raises(UserError, match=r"'old' in 'onnx@old' is no number of a copy; .*--python onnx@old=PATH"):
        parse_candidates("onnx@old", "fp32", places={"eager@old"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("onnx@old", "is not BACKEND=PATH"),
        ("onnx@old=", "is not BACKEND=PATH"),
        ("onxx=python", "unknown backend 'onxx'; did you mean 'onnx'"),
        ("onnx@2=python", "'2' is no name of an environment"),
        ("onnx@../up=python", "'../up' is no name of an environment"),
    ],
)
def test_what_is_no_interpreter_of_a_backend_is_said_so(given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stored.parse_pythons([given])


def test_an_interpreter_stands_once_and_for_someone() -> None:
    with pytest.raises(UserError, match="--python onnx@old is given twice"):
        stored.parse_pythons(["onnx@old=a", "onnx@old=b"])
    with pytest.raises(UserError, match="no onnx@old is among --backends"):
        stored.check_all_used((("onnx@old", "/a"),), ["onnx"])


# Runs.


def cut(file: Path, is_kept: Callable[[Any], bool]) -> list[Any]:
    """A run's lines without its seal, as JSON: those that are kept, also written in place of the file."""
    lines = [
        line for line in map(json.loads, file.read_text().splitlines()) if line["kind"] != "seal" and is_kept(line)
    ]
    write(file, lines)
    return lines


def write(file: Path, lines: list[Any]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_in_two_environments_is_recorded_repeated_and_resumed(cli_here: Cli, tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "run.jsonl"
    old = python_at(tmp_path / "old" / "python", log)
    backends = ["--backends", "null,null@old", "--python", f"null@old={old}", "--batches", "1,2"]
    done = cli_here("compare", *NULL, *backends, "--output", "run.jsonl")
    assert done.returncode == 0, done.stderr
    assert "null@old" in done.stdout
    assert sum("bench.worker --backend null" in line for line in log.read_text().splitlines()) == 1
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

    lines = cut(file, lambda line: (line.get("candidate"), line.get("point")) != (1, {"batch": 2, "length": 8}))
    told = next(line for line in lines if line["kind"] == "record" and line["candidate"] == 1)["facts"]["versions"]
    told["python"] = "3.11.0a1"
    write(file, lines)
    before = file.read_bytes()
    done = cli_here("compare", "--resume", "run.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "was begun with other versions (null@old ran with python 3.11.0a1 and would run with 3." in done.stderr
    assert file.read_bytes() == before

    told["python"] = PYTHON
    write(file, lines)
    log.unlink()
    done = cli_here("compare", "--resume", "run.jsonl")
    assert done.returncode == 0, done.stderr
    assert [one.candidate.label for one in read_run(file).records] == ["null", "null@old"] * 2
    assert sum("bench.worker --backend null" in line for line in log.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("generate", ["--model", "gpt2-tiny", "--prompt-length", "2", "--new-tokens", "2"]),
        ("corpus", ["--model", "bert-tiny", "--synthetic", "4", "--batches", "2", "--orders", "sorted"]),
        ("load", ["--model", "bert-tiny", "--rate", "50", "--duration", "0.2s"]),
    ],
)
def test_the_other_measurements_take_another_environment_too(
    command: str, options: list[str], cli_here: Cli, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    old = python_at(tmp_path / "old" / "python", log)
    done = cli_here(
        command, *options, "--backends", "null,null@old", "--python", f"null@old={old}", "--rounds", "2",
        "--threads", "1", "--output", "run.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "null@old" in done.stdout
    assert sum("bench.worker --backend null" in line for line in log.read_text().splitlines()) == 1
    run = read_run(tmp_path / "run.jsonl")
    assert f"--python null@old={old}" in run.command
    assert {one.candidate.environment for one in run.records} == {"", "old"}

    done = cli_here(command, *options, "--backends", "null", "--python", f"null@old={old}", "--output", "other.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--python null@old: no null@old is among --backends" in done.stderr
    assert not (tmp_path / "other.jsonl").exists()


def test_memory_is_read_in_the_other_environment(cli_here: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log"
    old = python_at(tmp_path / "old" / "python", log)
    common = ["memory", "--model", "bert-tiny", "--python", f"null@old={old}", "--threads", "1", "--device", "cpu"]
    search = ["--largest-batch", "--max-batch", "2", "--lengths", "8"]
    done = cli_here(*common, *search, "--backends", "null,null@old", "--output", "m.jsonl")
    assert done.returncode == 0, done.stderr
    assert "null@old at every point: in an environment with" in done.stdout
    assert cli_here("report", "m.jsonl").stdout == done.stdout
    run = read_run(tmp_path / "m.jsonl")
    assert f"--python null@old={old}" in run.command
    here, there, _, searched = run.records
    assert [one.candidate.label for one in run.records] == ["null", "null@old", "null", "null@old"]
    assert "python" not in here.facts["versions"]
    assert there.facts["versions"]["python"] == PYTHON
    # one that is loaded, and one a try
    started = sum("bench.worker --backend null" in line for line in log.read_text().splitlines())
    assert started == 1 + len(searched.turns)

    done = cli_here(*common, "--backends", "null", "--output", "other.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--python null@old: no null@old is among --backends" in done.stderr
    nowhere = ["memory", "--model", "bert-tiny", "--backends", "null@old", "--python", "null@old=nowhere"]
    done = cli_here(*nowhere, "--output", "other.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "cannot be started" in done.stderr
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exit 1", "that is no Python"),
        ("echo hello", "that is no Python"),
        ("echo python 3 8", r"that is Python 3.8; use 3.11 or later"),
        (
            'case "$*" in *answers*) echo "{\\"missing\\": [\\"numpy\\"]}";; *) echo python 3 12;; esac',
            "no numpy there, which null needs; run: .* -m pip install numpy",
        ),
        (
            'case "$*" in *answers*) echo "ImportError: no" >&2;; *) echo python 3 12;; esac',
            "does not work .ImportError",
        ),
    ],
)
def test_an_interpreter_that_cannot_serve_ends_it_in_one_line(
    text: str, message: str, cli_here: Cli, tmp_path: Path
) -> None:
    script_at(tmp_path / "python", text)
    done = cli_here("compare", *NULL, "--backends", "null@old", "--python", "null@old=python", "--output", "run.jsonl")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"--python null@old={tmp_path / 'python'}" in line
    assert re.search(message, line)
    assert not (tmp_path / "run.jsonl").exists()


def test_a_path_that_is_no_file_ends_it_in_one_line(cli_here: Cli, tmp_path: Path) -> None:
    for path, message in (("nowhere", "cannot be started"), (".", "that is a folder")):
        done = cli_here("parity", "--model", "bert-tiny", "--backends", "eager@old", "--python", f"eager@old={path}")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert message in done.stderr


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path | None]]:
    """Formats that were asked for and the interpreter that each was asked of; nothing is exported."""
    asked: list[tuple[str, Path | None]] = []

    def exported(store: Any, recipe: dict[str, Any], which: Any, exporting: export.Exporting, say: Any) -> Artifact:
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


def test_an_environment_that_has_the_exporters_libraries_exports_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[tuple[str, Path | None]]
) -> None:
    older = {"torch": "2.9", "transformers": "4.57.6", "onnx": "1.18", "onnxscript": "0.5"}
    here, there = prepared(tmp_path, monkeypatch, reasons={}, libraries={"onnx": older}).artifacts.values()
    assert there.recipe["libraries"] == older != here.recipe["libraries"]
    python = tmp_path / "old" / "python"
    assert written == [("checkpoint", None), ("onnx", None), ("onnx", python)]

    commands: list[list[str]] = []
    monkeypatch.setattr(channel, "Worker", lambda command, *rest: commands.append(command))
    export.start(tmp_path, [], 1, python)
    assert commands[0][:4] == [str(python), "-P", "-m", "bench.process.export"]


def test_an_environment_without_them_loads_what_this_one_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[tuple[str, Path | None]]
) -> None:
    here, there = prepared(tmp_path, monkeypatch, reasons={}, libraries={}).artifacts.values()
    assert here.recipe == there.recipe
    assert {python for _, python in written} == {None}


def test_the_environment_says_what_cannot_run_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[tuple[str, Path | None]]
) -> None:
    found = prepared(tmp_path, monkeypatch, reasons={("default", "fp32"): "too old"}, libraries={})
    assert {who.label: str(why) for who, why in found.refused.items()} == {"onnx@old": "too old"}
    assert [one.label for one in found.artifacts] == ["onnx"]


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


# Making.


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


@pytest.mark.parametrize("is_written", [True, False])
def test_bytecode_is_written_ahead_only_where_no_import_may_write_it(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", not is_written)
    making.create(tmp_path, "null", tmp_path / "needs.txt")
    (pip,) = (command for command in tools.commands if "pip" in command)
    assert ("--no-compile" in pip) == is_written
    assert pip[-2:] == ["-r", str(tmp_path / "needs.txt")]


def test_the_same_requirements_make_nothing_anew_and_others_do(tools: Tools, tmp_path: Path) -> None:
    file = tmp_path / "needs.txt"
    first = making.create(tmp_path, "null", file)
    assert making.create(tmp_path, "null", file) == first
    assert tools.made == 1
    file.write_text("torch==2.12.0\n")
    assert making.create(tmp_path, "null", file).requirements != first.requirements
    assert tools.made == 2


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
    assert any("has no int8" in reason for _, reason in found.left_out)
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


# optimum.


def test_optimum_declares_its_environment_and_keeps_the_light_part_of_the_contract() -> None:
    optimum = backends.load_class("optimum")
    assert optimum.spec.requirements is not None
    pins = [line for line in optimum.spec.requirements.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    assert {"torch==2.13.0", "transformers==4.57.6", "optimum-onnx==0.1.0"} <= set(pins)
    testing._check_declaration("optimum", optimum, "O2")
    testing._check_stays_light("optimum")


def test_optimums_levels_load_files_of_their_own_and_o4_is_a_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.base.is_installed", lambda module: True)
    monkeypatch.setattr("backends.base.distribution_version", lambda module: "1.0")
    monkeypatch.setattr("backends.optimum.has_library_of", lambda provider: True)
    monkeypatch.setattr("backends._torch.torch_cuda_version", lambda: "13.0")
    optimum = backends.load_class("optimum")
    formats = [optimum.spec.format_of(variant) for variant in optimum.spec.variants]
    assert formats == ["optimum", "optimum-o1", "optimum-o2", "optimum-o3", "optimum-o4"]
    assert [optimum.supports(variant, "cpu", "fp32") is None for variant in optimum.spec.variants] == [True] * 4 + [
        False
    ]
    assert "--device cuda" in str(optimum.supports("O4", "cpu", "fp32"))
    assert "--precisions fp16" in str(optimum.supports("O4", "cuda", "fp32"))
    assert optimum.supports("O4", "cuda", "fp16") is None
    assert "use optimum:O4" in str(optimum.supports("O2", "cuda", "fp16"))


def test_the_list_of_backends_prints_what_adds_optimum(cli_here: Cli) -> None:
    if not backends.load_class("optimum").spec.missing():
        pytest.skip("optimum is installed beside the others here")
    assert "add it with: bench env create optimum" in cli_here("list", "backends").stdout


def test_a_model_that_a_format_cannot_hold_is_unsupported_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(args: Any) -> None:
        raise UnsupportedModelError("optimum has no ONNX export of openai-gpt for this task; use onnx")

    monkeypatch.setattr(export, "export", refuse)
    monkeypatch.setattr(export.models, "import_libraries", lambda: None)
    args = export.parser().parse_args(["--artifacts", "a", "--format", "optimum"])
    assert export.answer(args)["error"]["status"] == "unsupported"


@pytest.mark.parametrize(("place", "environment"), [("onnx@old", "old"), ("onnx", "")])
def test_a_bundle_is_not_made_of_another_environment(place: str, environment: str) -> None:
    of_it = Candidate("onnx", "default", "fp32", environment=environment)
    run = run_of([replace(record("onnx"), candidate=of_it)], python=[f"{place}=/p"])
    with pytest.raises(UserError, match=f"{place} ran in an environment of its own"):
        runtimes.check(of_it, run)
