"""Commands made from the options of a workload, as a user meets them: help, mistakes, reports, Ctrl-C and resume."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

import bench
from bench import measuring
from bench.cli import measure, spellings
from bench.errors import UserError
from bench.options import option, text
from bench.process import channel
from bench.run import registry
from bench.run.file import read_run
from tests import toy
from tests.in_process import InThisProcess

QUICK = ["--model", "bert-tiny", "--lengths", "8", "--device", "cpu", "--threads", "1", "--rounds", "2"]
QUICK += ["--max-seconds-per-cell", "50ms", "--warmup", "1ms", "--max-warmup", "2ms"]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload of `tests.toy` is installed."""
    monkeypatch.setitem(registry.BUILT_IN, "toy", toy.HOME)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> bench.run.record.Run:
    """A run of two candidates at one point, made by the API."""
    path = tmp_path_factory.mktemp("finished") / "run.jsonl"
    with mock.patch.object(channel, "Worker", InThisProcess):
        return measuring.function_for(toy.Toy)(
            "bert-tiny", backends=["null", "null:50us"], batches=[1], lengths=[8], device="cpu", threads=1, rounds=2,
            max_seconds_per_cell=0.05, warmup=0.001, max_warmup="2ms", output=path, artifacts=path.parent / "store",
        )  # fmt: skip


# Help.


def test_help_names_every_option_within_80_columns(cli_here) -> None:
    done = cli_here("toy", "--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    words = " ".join(done.stdout.split())
    for one in toy.ToyOptions.declared():
        assert f"--{one.name.replace('_', '-')} " in words, one.name
    for said in ("Play with every candidate", "--loud / --no-loud Play loudly. [default: loud]", "--resume FILE"):
        assert said in words, said
    assert "--max-toys N Toys at once. [default: 4]" in words
    for old in ("--most-toys", "--noisy", "--batch "):
        assert old not in words, old


def test_a_workload_that_cannot_be_loaded_costs_no_other_command(cli_here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "lost", "tests.nowhere:Lost")
    listed = cli_here("--help")
    assert listed.returncode == 0
    assert "toy        Play with every candidate" in listed.stdout
    assert listed.stderr.startswith("bench: workload 'lost' cannot be loaded from tests.nowhere:Lost")
    assert cli_here("toy", "--help").stderr == ""
    asked = cli_here("lost")
    assert asked.returncode == 2
    assert len(asked.stderr.splitlines()) == 1
    assert "reinstall it" in asked.stderr


def test_a_workload_does_not_take_the_command_of_another(cli_here, monkeypatch: pytest.MonkeyPatch) -> None:
    other = type(
        "Other", (toy.Toy,), {"Options": type("O", (toy.ToyOptions,), {"command": "diff", "summary": "Mine."})}
    )
    monkeypatch.setattr(toy, "Other", other, raising=False)
    monkeypatch.setattr(registry, "names", lambda: registry.BUILT_IN | {"mine": "tests.toy:Other"})
    listed = cli_here("--help")
    assert listed.stderr == "bench: workload 'mine' has no command, as bench diff is another's; rename it\n"
    assert "Mine." not in cli_here("diff", "--help").stdout


def test_a_workload_has_no_option_that_every_command_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.ToyOptions, "__dataclass_fields__", dict(toy.ToyOptions.__dataclass_fields__))
    field = option("Taken.", text, default=None)
    field.name, field._field_type = "columns", toy.ToyOptions.__dataclass_fields__["model"]._field_type
    toy.ToyOptions.__dataclass_fields__["columns"] = field
    with pytest.raises(UserError, match="declares --columns, which every command has"):
        measure.command_for(toy.Toy)


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lenghts", "8"], "No such option: --lenghts"),
        (["--rounds"], "requires an argument"),
        (["--max-toys", "10"], "--max-toys 10 is not within 1 and 9"),
        (["--model", "bert-tiny", "--module", "a.py:make"], "--model cannot be given with --module"),
        (["--columns", "median-mss"], "unknown column 'median-mss'; did you mean 'median-ms'"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(cli_here, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = cli_here("toy", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("bench: ")
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "now", "notice"),
    [
        (["--format", "json", "--quiet"], ["--json", "--quiet"], "--format json is now --json"),
        (["--format=json"], ["--json"], "--format json is now --json"),
        (["--format", "table"], [], "--format table is now the default"),
        (["--format", "csv"], ["--format", "csv"], ""),
        (["--png", "my plots", "a"], ["--output", "my plots/.png", "a"], "--png is now --output"),
        (["--png=plots"], ["--output", "plots/.png"], "--png is now --output"),
        (["--anyway", "a"], ["--force", "a"], "--anyway is now --force"),
        (["a", "--anyway"], ["a", "--force"], "--anyway is now --force"),
        (["--", "--format", "json"], ["--", "--format", "json"], ""),
    ],
)
def test_older_words_become_new_ones(
    words: list[str], now: list[str], notice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        spellings._respelled(words, spellings.OF_FORMATS | {"--anyway": "--force", "--png": "--output {}/.png"}) == now
    )
    assert capsys.readouterr().err == (f"bench: {notice}; it ends with 0.3.0\n" if notice else "")


def test_older_spellings_end_with_their_version() -> None:
    from bench.cli import choose, deploy, diff, doctor, report, study, tune, verify

    kept = [spellings.of_options(registry.load_class(workload).Options) for workload in registry.BUILT_IN]
    kept += [command.OLD_SPELLINGS for command in (choose, deploy, diff, doctor, report, study, tune, verify)] + [
        spellings.OF_FORMATS
    ]
    is_over = tuple(map(int, bench.__version__.split(".")[:2])) >= (0, 3)
    assert any(kept) is not is_over, "these end with 0.3.0: remove them"


# Reports.


def test_older_spellings_are_understood_and_the_plan_and_each_record_are_told(
    cli_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "Worker", InThisProcess)
    arguments = ["--backends", "null,null:50us", "--batch", "1,2", "--most-toys=3", "--no-noisy", "--columns", "p90"]
    done = cli_here("toy", *QUICK, *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[:4] == [
        "bench: --batch is now --batches; it ends with 0.3.0",
        "bench: --most-toys is now --max-toys; it ends with 0.3.0",
        "bench: --no-noisy is now --no-loud; it ends with 0.3.0",
        "bert-tiny: seeded random (seed 0)",
    ]
    assert lines[4].startswith("plan: 4 cells (2 candidates × 2 shapes) on cpu with 1 thread, about ")
    assert lines[5] == "to export: nothing, all in the store"
    assert lines[6].startswith("records: artifacts/runs/bert-tiny-toy-")
    records = [line for line in lines if line.startswith("[")]
    assert [line.split()[0] for line in records] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert "1×8 null:50us fp32" in records[1]
    assert all(line.endswith(" left)") for line in records[:3])
    assert records[3].endswith("(done)")
    assert "batch 2 × length 8" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert lines[6].removeprefix("records: ") in done.stdout
    options = read_run(tmp_path / lines[6].removeprefix("records: ")).options
    assert (options.batches, options.max_toys, options.loud) == ((1, 2), 3, False)
    assert "--max-toys 3 --no-loud" in options.command_line()


def test_the_report_is_json_or_stands_alone_if_that_is_asked_for(cli_here, finished) -> None:
    done = cli_here("toy", "--resume", str(finished.path), "--json")
    assert (done.returncode, done.stderr) == (0, f"nothing is left to measure in {finished.path}\n")
    report = json.loads(done.stdout)
    assert report["workload"] == "toy"
    assert [row["variant"] for row in report["rows"]] == ["default", "50us"]
    done = cli_here("toy", "--resume", str(finished.path), "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "null:50us" in done.stdout


# Going on.


@pytest.mark.parametrize("arguments", [["--batches", "2"], ["--loud"], ["--no-loud"]])
def test_a_resume_refuses_options_that_are_the_runs_own(cli_here, finished, arguments: list[str]) -> None:
    before = finished.path.read_bytes()
    done = cli_here("toy", "--resume", str(finished.path), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    name = arguments[0].replace("--no-", "--")
    assert done.stderr == (
        f"bench: {name} cannot be given with --resume, which goes on under the run's own options; leave it out\n"
    )
    assert finished.path.read_bytes() == before


def test_a_resume_takes_no_interpreter_that_the_run_did_not_have(cli_here, finished) -> None:
    done = cli_here("toy", "--resume", str(finished.path), "--python", "onnx=python")
    said = f"bench: --python onnx: the run in {str(finished.path)!r} names no interpreter for it; leave it out\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_run_of_another_command_is_not_gone_on_with(cli_here, finished, monkeypatch: pytest.MonkeyPatch) -> None:
    other = type("Other", (toy.Toy,), {"name": "other", "Options": type("O", (toy.ToyOptions,), {"command": "other"})})
    monkeypatch.setattr(toy, "Other", other, raising=False)
    monkeypatch.setitem(registry.BUILT_IN, "other", "tests.toy:Other")
    done = cli_here("other", "--resume", str(finished.path))
    assert done.returncode == 2
    assert f"is a run of bench toy; run: bench toy --resume {finished.path}" in done.stderr
