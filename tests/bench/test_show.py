"""What stands at the beginning and the end: a bare `bench`, `bench show`, and the last lines of `bench compare`."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.report import ending
from bench.run.file import read_run
from bench.run.record import Run
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


def test_show_prints_what_the_command_printed(cli_here, runs: Path) -> None:
    for number, name in enumerate(reversed(OLDEST_FIRST), start=1):
        done = cli_here("show", str(number))
        path = f"artifacts/runs/{name}.jsonl"
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{path}\n\n{cli_here('report', path).stdout}")
        assert ("bench choose" in done.stdout) is (name == "bert-default-grid")
    assert cli_here("show").stdout == cli_here("show", "1").stdout


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


def test_a_bare_bench_names_the_newest_results_and_what_to_do_with_them(cli_here, root: Path, runs: Path) -> None:
    newest = runs / "bert-default-grid.jsonl"
    done = cli_here()
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("bench doctor", "bench --help", "bench choose artifacts/runs/bert-default-grid.jsonl"):
        assert words in done.stdout
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
    assert [(one.kind, one.model) for one in found] == [("run", model) for model in ("bert", "gpt2", "bert", "gpt2")]
    assert all(one.has_ended and one.started.startswith("2026-11-23T") for one in found)
    (runs / "empty.jsonl").write_text("")
    assert look(runs / "empty.jsonl").kind == ""


@pytest.fixture
def run(root: Path) -> Run:
    """A committed run of several shapes."""
    return read_run(next((root / "artifacts" / "reference").glob("*bert-default-grid.jsonl")))


def test_compare_ends_with_the_map_and_the_choice(run: Run) -> None:
    run.path = Path("my runs/one.jsonl")
    lines = ending.render(run).splitlines()
    assert lines[0].startswith("Fastest at each batch × length")
    assert [line.split()[0] for line in lines[-2:]] == ["every", "bench"]
    assert any(line.startswith("take onnx: ") for line in lines)
    assert lines[-1] == "  bench choose 'my runs/one.jsonl' --traffic FILE"
    assert max(map(len, lines)) <= 80
    run.records = [record for record in run.records if record.point == run.workload.points()[0]]
    assert ending.render(run).startswith("take ")  # one shape is no map


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"is_judged": False}, ""),
        ({"status": "failed", "turns": ()}, ""),
        ({"parity": {"verdict": "broken"}}, "take none"),
    ],
)
def test_a_run_that_nothing_can_be_chosen_from_ends_with_that(run: Run, values: dict[str, Any], said: str) -> None:
    run.records = [replace(record, **values) for record in run.records]
    assert ending.render(run)[:9] == said
