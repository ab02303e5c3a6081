"""A third party's backend and workload, installed as its author would, found, checked and compared without a line of ours."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import bench

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(root / "tests" / "plugin", source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture
def installed(site: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin can be imported here and in processes that are started here."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(site)]))


@pytest.mark.usefixtures("installed", "in_this_process")
def test_a_plugin_is_listed_checked_and_compared(cli_here: Cli, artifacts: Path) -> None:
    from bench.testing import check_backend

    assert "numpy" in cli_here("list", "backends").stdout
    assert len(check_backend("numpy", artifacts=artifacts)) == 8
    options = (
        "--model bert-tiny --backends numpy,null --batches 2 --lengths 16 --device cpu --output run.jsonl --rounds 3"
    )
    options += f" --max-seconds-per-cell 0.1 --warmup 1ms --max-warmup 10ms --artifacts {artifacts}"
    done = cli_here("compare", *options.split())
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(cli_here("report", "run.jsonl", "--format", "csv").stdout)))
    assert (rows[0]["backend"], rows[0]["status"], rows[0]["parity"]) == ("numpy", "ok", "equivalent")


@pytest.mark.usefixtures("installed", "in_this_process")
def test_a_workload_of_a_plugin_has_what_every_workload_has(
    cli: Cli, cli_here: Cli, root: Path, site: Path, artifacts: Path, tmp_path: Path
) -> None:
    from bench.testing_workload import check_workload

    paths = {"PYTHONPATH": os.pathsep.join([str(root), str(site)])}
    assert "prepare" in cli("--help", **paths).stdout
    assert "Tokens of each sequence." in cli_here("prepare", "--help").stdout
    options = ["--model", "bert-tiny", "--device", "cpu", "--artifacts", str(artifacts), "--batches", "2"]
    alone = cli("prepare", *options, "--backends", "null", "--rounds", "3", "--output", "alone.jsonl", **paths)
    assert alone.returncode == 0, alone.stderr
    done = cli_here("prepare", *options, "--backends", "eager,null", "--rounds", "3", "--output", "run.jsonl")
    assert done.returncode == 0, done.stderr
    assert len(check_workload("prepare", artifacts=artifacts, rounds=2)) == 5

    def report(*more: str) -> str:
        shown = cli_here("report", "run.jsonl", *more)
        assert shown.returncode == 0, shown.stderr
        return str(shown.stdout)

    assert "median time to hand a batch over" in " ".join(report().split())
    assert "median time to hand a batch over" in report("--markdown")
    (eager, null) = csv.DictReader(io.StringIO(report("--csv")))
    assert (eager["backend"], eager["batch"], eager["rounds"]) == ("eager", "2", "3")
    assert (eager["status"], eager["parity"], null["parity"]) == ("ok", "original", "")
    assert json.loads(report("--json"))["workload"] == "prepare"
    report("--output", "page.html")
    assert "prepare" in (tmp_path / "page.html").read_text()
    run = bench.measure_prepare("bert-tiny", backends="null", batches="1,2", rounds=3)
    assert [run.repeat(record).count(f"--batches {record.point.batch}") for record in run.records] == [1, 1]
    own = bench.measure_prepare(
        module=f"{root}/tests/exporters/own_cases.py:two", backends="eager", rounds=1, batches="1"
    )
    assert [(one.status, one.verdict) for one in own.records] == [("ok", "original")]


def test_the_plugins_file_is_as_short_as_it_is_promised(root: Path) -> None:
    lines = (root / "tests" / "plugin" / "src" / "bench_numpy_bert.py").read_text().splitlines()
    assert len(lines) < 90


def printed(root: Path, language: str) -> str:
    """The first block of a language in CONTRIBUTING.md's list, as a reader copies it."""
    text = (root / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(rf"^   ```{language}\n(.*?)^   ```", text, re.MULTILINE | re.DOTALL)
    return textwrap.dedent(block)


@pytest.mark.filterwarnings("ignore")  # in-process torch and its exporters warn about themselves
def test_the_example_of_contributing_runs_as_printed(
    root: Path, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.testing import check_backend

    project = tomllib.loads(printed(root, "toml"))
    entries = project["project"]["entry-points"]["bench.backends"]
    (module,) = project["tool"]["setuptools"]["py-modules"]
    (tmp_path / f"{module}.py").write_text(printed(root, "python"))
    info = tmp_path / "my_backend-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-backend\nVersion: 0.1.0\n")
    listed = "".join(f"{name} = {home}\n" for name, home in entries.items())
    (info / "entry_points.txt").write_text(f"[bench.backends]\n{listed}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(tmp_path)]))
    (name,) = entries
    for variant in ("default", "unfused"):
        assert len(check_backend(name, variant=variant, artifacts=artifacts, shapes=((1, 1), (2, 16), (3, 37)))) == 8
    commands = printed(root, "bash")
    assert f'check_backend("{name}")' in commands
    assert f"--backends eager,{name},{name}:unfused" in commands


def test_a_plugin_that_leads_nowhere_is_named(cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "lost-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lost\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench.backends]\nlost = no_such_module:Lost\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert "lost" in cli_here("list", "backends").stdout
    done = cli_here("compare", "--model", "bert-tiny", "--backends", "lost")
    assert done.returncode == 2
    assert "backend 'lost' cannot be loaded from no_such_module:Lost" in done.stderr
