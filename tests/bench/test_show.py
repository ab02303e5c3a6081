"""What stands at the beginning and the end: a bare `bench`, `bench show`, and the last lines of `bench compare`."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.report import ending
from bench.run.file import read_run
from bench.saved import look, saved

OLDEST_FIRST = ("gpt2-memory", "bert-corpus", "gpt2-generate-512", "bert-default-grid")


@pytest.fixture
def runs(root: Path, tmp_path: Path) -> Path:
    """A store with a run of every kind, the one of `bench compare` the newest."""
    folder = tmp_path / "artifacts" / "runs"
    folder.mkdir(parents=True)
    for seconds, name in enumerate(OLDEST_FIRST):
        copy = folder / f"{name}.jsonl"
        shutil.copy(next((root / "artifacts" / "reference").glob(f"*{name}.jsonl")), copy)
        os.utime(copy, (1e9 + seconds, 1e9 + seconds))
    return folder


def test_show_prints_the_newest_results_of_any_kind(cli_here, runs: Path) -> None:
    for number, name in enumerate(reversed(OLDEST_FIRST), start=1):
        done = cli_here("show", str(number))
        path = f"artifacts/runs/{name}.jsonl"
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{path}\n\n")
        assert cli_here("report", path).stdout in done.stdout
    assert cli_here("show").stdout == cli_here("show", "1").stdout
    assert cli_here("show").stdout.endswith(
        ending.render(
            replace(read_run(runs / "bert-default-grid.jsonl"), path=Path("artifacts/runs/bert-default-grid.jsonl"))
        )
    )


def test_show_lists_what_there_is(cli_here, runs: Path) -> None:
    whole = (runs / "bert-default-grid.jsonl").read_text().splitlines(keepends=True)
    (runs / "bert-default-grid.jsonl").write_text("".join(whole[:3]) + whole[3][:40])
    (runs / "stray.jsonl").write_text("not json\n")
    os.utime(runs / "stray.jsonl", (1, 1))
    (runs / "gone.jsonl").symlink_to("nothing")
    done = cli_here("show", "--list")
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines()[1::2]] == [
        f"artifacts/runs/{name}.jsonl"
        for name in ("bert-default-grid", "gpt2-generate-512", "bert-corpus", "gpt2-memory", "stray")
    ]
    first = done.stdout.splitlines()[0]
    assert "bench compare" in first
    assert first.endswith("bert  (interrupted, or going on)")
    assert "bench memory   gpt2\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert cli_here("show", "5").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "--artifacts", "none"], "there are no results under none/runs; make some"),
        (["show", "5"], "there is no result 5 among 4 results"),
        (["show", "0"], "there is no result 0 among 4 results"),
        (["show", "first"], "Invalid value for '[N]'"),
    ],
)
def test_mistakes_are_one_line(cli_here, runs: Path, arguments: list[str], message: str) -> None:
    done = cli_here(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bare_bench_says_where_to_begin(cli_here) -> None:
    done = cli_here()
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("bench doctor", "bench compare --model bert", "bench choose", "bench --help"):
        assert command in done.stdout
    assert "newest" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_bare_bench_names_the_newest_results_and_what_to_do_with_them(cli_here, root: Path, runs: Path) -> None:
    newest = runs / "bert-default-grid.jsonl"
    assert "bench choose artifacts/runs/bert-default-grid.jsonl" in cli_here().stdout
    lines = newest.read_text().splitlines(keepends=True)
    newest.write_text("".join(lines[:4]))
    assert "bench compare --resume artifacts/runs/bert-default-grid.jsonl" in cli_here().stdout
    shutil.copy(root / "tests" / "golden" / "runs" / "load.jsonl", newest)
    assert "choose artifacts" not in cli_here().stdout
    newest.unlink()
    text = cli_here().stdout
    assert "bench generate (gpt2)" in text
    assert "--resume" not in text


def test_a_file_is_known_by_its_ends(runs: Path) -> None:
    found = [look(path) for path in saved(runs.parent)]
    assert [(one.kind, one.model, one.has_ended) for one in found] == [
        ("run", "bert", True),
        ("run", "gpt2", True),
        ("run", "bert", True),
        ("run", "gpt2", True),
    ]
    assert all(one.started.startswith("2026-11-23T") for one in found)
    (runs / "empty.jsonl").write_text("")
    assert look(runs / "empty.jsonl").kind == ""


def test_compare_ends_with_the_map_and_the_choice(root: Path) -> None:
    run = read_run(next((root / "artifacts" / "reference").glob("*bert-default-grid.jsonl")))
    run.path = Path("my runs/one.jsonl")
    lines = ending.render(run).splitlines()
    assert lines[0].startswith("Fastest at each batch × length")
    assert [line.split()[0] for line in lines[-3:]] == ["take", "by", "bench"]
    assert lines[-1] == "  bench choose 'my runs/one.jsonl' --traffic FILE"
    assert max(map(len, lines)) <= 80
    run.records = [record for record in run.records if record.point == run.workload.points()[0]]
    assert ending.render(run).startswith("take ")  # one shape is no map


def test_nothing_stands_at_the_end_of_a_run_that_measured_no_model(root: Path) -> None:
    run = read_run(next((root / "artifacts" / "reference").glob("*bert-default-grid.jsonl")))
    run.records = [replace(record, is_judged=False) for record in run.records]
    assert ending.render(run) == ""
    run.records = [replace(record, status="failed", turns=()) for record in run.records]
    assert ending.render(run) == ""


def test_where_all_are_broken_it_says_to_take_none(root: Path) -> None:
    run = read_run(next((root / "artifacts" / "reference").glob("*bert-default-grid.jsonl")))
    run.records = [replace(record, parity={"verdict": "broken"}) for record in run.records]
    assert ending.render(run).startswith("take none")
