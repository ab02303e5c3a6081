"""`bench diff` as a user and a CI job meet it: exit codes, refusals in one line, 80 columns, counts at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.comparison import THRESHOLD, VERDICTS
from bench.records import Record, Run
from bench.runfile import RunFile, record_line
from bench.spec import Candidate, Grid, Shape, TimingPlan
from bench.testing import HEAVY

MS = 1_000_000


def record(backend: str = "eager", ms: float = 10.0, status: str = "ok", **values) -> Record:
    rounds = [[round(ms * MS * (1 + 0.001 * (i % 3)))] * 3 for i in range(10)] if status == "ok" else []
    fields = {
        "model": "bert", "backend": backend, "variant": "default", "precision": "fp32", "device": "cpu", "batch": 1, "length": 16,
        "status": status, "rounds": rounds, "parity": {"verdict": "equivalent"} if status == "ok" else {},
    }  # fmt: skip
    return Record(**(fields | values))


def write(path: Path, *records: Record, day: int = 1, is_complete: bool = True, threads: int = 2, **values) -> str:
    """A run file as `bench compare` writes it; returns its name."""
    contestants = tuple(dict.fromkeys(r.contestant for r in records)) or (Candidate("eager", "default", "fp32"),)
    grid = Grid("bert", contestants, tuple(dict.fromkeys(r.shape for r in records)) or (Shape(1, 16),), "cpu", threads)
    fingerprint = {"cpu": "A CPU", "cpus": 2, "versions": {"torch": "2.12.0"}}
    started = f"2026-01-{day:02}T00:00:00+00:00"
    run = Run(grid, TimingPlan(), fingerprint, "seeded random (seed 0)", "c0ffee", "bench compare", started)
    file = RunFile(path)
    file.create(replace(run, **values))
    for entry in records:
        file.append(record_line(entry))
    if is_complete:
        file.append({"kind": "end"})
    return path.name


@pytest.fixture
def old(tmp_path: Path) -> str:
    return write(tmp_path / "old.jsonl", record(), record("onnx", ms=5), record("compile", ms=4, length=128))


def new_run(tmp_path: Path, *records: Record, **values) -> str:
    return write(tmp_path / "new.jsonl", *records, **({"day": 2} | values))


def test_nothing_slower_is_exit_code_0(cli, tmp_path: Path, old: str) -> None:
    new = new_run(tmp_path, record(), record("onnx", ms=3), record("compile", ms=4, length=128))
    done = cli("diff", old, new)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "1 faster, 2 same"


def test_a_regression_is_exit_code_4_unless_the_threshold_allows_it(cli_here, tmp_path: Path, old: str) -> None:
    new = new_run(tmp_path, record(ms=11), record("onnx", ms=5), record("compile", ms=4, length=128))
    done = cli_here("diff", old, new)
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.splitlines()[-1] == "1 slower, 2 same (1 regression)"
    row = next(line for line in done.stdout.splitlines() if line.startswith("eager"))
    assert row.split()[:5] == ["eager", "1×16", "10.01", "11.01", "+10.0%"]
    for allowed, code in (("8%", 4), ("0.12", 0), ("12%", 0)):
        assert cli_here("diff", old, new, "--threshold", allowed).returncode == code


def test_regressions_come_first_and_say_why(cli_here, tmp_path: Path, old: str) -> None:
    failed = record("compile", status="failed", reason="the worker was killed by SIGKILL", length=128)
    new = new_run(tmp_path, record(ms=8), record("onnx", ms=10), failed)
    done = cli_here("diff", old, new)
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    rows = [line.split()[0] for line in lines if line.split() and line.split()[-1] in VERDICTS]
    assert rows == ["onnx", "compile", "eager"]
    assert "- compile at 1×128: failed: the worker was killed by SIGKILL" in lines
    assert lines[lines.index("Gone, though planned") + 1].startswith("- compile")
    assert lines[-1] == "1 slower, 1 faster, 1 gone (2 regressions)"


def test_a_cell_that_is_no_longer_planned_is_no_regression(cli_here, tmp_path: Path, old: str) -> None:
    done = cli_here("diff", old, new_run(tmp_path, record(), record("torchscript")))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "1 same, 1 new, 2 gone"
    assert "onnx at 1×16; compile at 1×128: not planned" in done.stdout


def test_an_incomplete_run_says_so_and_does_not_pass(cli_here, tmp_path: Path, old: str) -> None:
    full = new_run(tmp_path, record(), record("onnx", ms=5), record("compile", ms=4, length=128))
    lines = (tmp_path / full).read_text().splitlines(keepends=True)
    (tmp_path / "torn.jsonl").write_text("".join(lines[:2]) + lines[2][:50])
    done = cli_here("diff", old, "torn.jsonl")
    assert done.returncode == 4
    text = " ".join(done.stdout.split())
    assert "NEW is incomplete: 1 of 6 cells have a record" in text
    assert "no record, as the run is incomplete; bench compare --resume goes on with it" in text


def test_a_disturbed_cell_is_marked(cli_here, tmp_path: Path, old: str) -> None:
    new = new_run(tmp_path, record(conditions={"steal_share": 0.4, "steal_seconds": 4.0}))
    done = cli_here("diff", old, new)
    assert "!10.01" in done.stdout
    assert "tainted in NEW: over 20% of all CPU time" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"threads": 1}, "threads (2 and 1)"),
        ({"origin": "pretrained, from the folder's safetensors"}, "weights (seeded random (seed 0) and pretrained,"),
        ({"fingerprint": {"cpu": "Another CPU"}}, "machine (cpu: A CPU and Another CPU)"),
    ],
)
def test_runs_that_differ_are_refused_unless_told_otherwise(
    cli_here, tmp_path: Path, old: str, values: dict, named: str
) -> None:
    new = new_run(tmp_path, record(ms=20), **values)
    done = cli_here("diff", old, new)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"'old.jsonl' and 'new.jsonl' differ in {named}" in done.stderr
    assert "use --anyway" in done.stderr
    forced = cli_here("diff", old, new, "--anyway")
    assert forced.returncode == 4
    assert f"compared anyway: 'old.jsonl' and 'new.jsonl' differ in {named}" in " ".join(forced.stdout.split())


def test_an_upgrade_is_information_and_no_obstacle(cli_here, tmp_path: Path, old: str) -> None:
    fingerprint = {"cpu": "A CPU", "cpus": 2, "versions": {"torch": "2.13.0"}}
    done = cli_here("diff", old, new_run(tmp_path, record(), fingerprint=fingerprint, plan=TimingPlan(rounds=20)))
    assert done.returncode == 0
    text = done.stdout[done.stdout.index("What else differs") :]
    assert "- torch 2.12.0 → 2.13.0" in text
    assert "- rounds 10 → 20" in text


def test_the_same_file_twice_is_refused(cli_here, tmp_path: Path, old: str) -> None:
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / old).read_bytes())
    for again in (old, "./old.jsonl", "copy.jsonl"):
        done = cli_here("diff", old, again)
        assert (done.returncode, done.stdout) == (2, "")
        assert "are the same run; compare runs that agree, or use --anyway" in done.stderr
    assert "are the same run (and 2 more such pairs)" in cli_here("diff", old, old, old).stderr
    done = cli_here("diff", old, old, "--anyway")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "3 same")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["old.jsonl"], "Missing argument 'NEW'"),
        (["old.jsonl", "missing.jsonl"], "'missing.jsonl' cannot be read (No such file or directory)"),
        (["old.jsonl", "notes.txt"], "line 1 of 'notes.txt' is not JSON"),
        (["old.jsonl", "old.jsonl", "--format", "tabel"], "unknown format 'tabel'; did you mean 'table'?"),
        (
            ["old.jsonl", "new.jsonl", "--threshold", "much"],
            "--threshold 'much' is no share; write e.g. --threshold 2%",
        ),
        (["old.jsonl", "new.jsonl", "--threshold", "5"], "--threshold 5 is not below 100%; use e.g. 5%"),
        (["old.jsonl", "new.jsonl"], "'new.jsonl' has no cell in common with 'old.jsonl'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    cli_here, tmp_path: Path, old: str, arguments: list[str], message: str
) -> None:
    new_run(tmp_path, record("torchscript", batch=8))
    (tmp_path / "notes.txt").write_text("figures of last week\nfast\n")
    done = cli_here("diff", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_nothing_measured_anywhere_says_so(cli_here, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", record(status="failed", reason="it died"))
    done = cli_here("diff", one, new_run(tmp_path, record(status="oom", reason="full")))
    assert done.returncode == 0
    assert "eager at 1×16: not measured by any run" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing to compare: no run measured any cell"


def test_a_history_is_in_the_order_of_time(cli_here, tmp_path: Path) -> None:
    names = [write(tmp_path / f"{day}.jsonl", record(ms=10 + 0.1 * day), day=day) for day in range(1, 8)]
    done = cli_here("diff", *reversed(names))
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines if line.startswith("run ")] == [f"{name}," for name in names]
    medians = " ".join(done.stdout.split())
    assert "10.11 10.21 10.31" in medians
    assert "+5.9%" in medians
    assert "NEW" not in done.stdout
    assert lines[-1] == "1 slower (1 regression)"
    assert cli_here("diff", *names, "--threshold", "7%").returncode == 0


@pytest.mark.parametrize("runs", [2, 3, 12])
def test_the_table_fits_80_columns(cli_here, tmp_path: Path, runs: int) -> None:
    names = []
    for day in range(1, runs + 1):
        records = [
            record(backend, 12000 + 1000 * day, variant=variant, precision=precision, batch=128, length=1024)
            for backend, variant in (("eager", "default"), ("compile", "max-autotune-no-cudagraphs"))
            for precision in ("fp32", "bf16")
        ]
        wild = record("torchscript", rounds=[[day * MS], [day * 900 * MS]], batch=128, length=1024)
        lost = record("onnx", 1.0 if day == 1 else 0, "ok" if day == 1 else "failed", reason="it died " * 20)
        names.append(write(tmp_path / f"{day}.jsonl", *records, wild, lost, day=day))
    done = cli_here("diff", *names)
    assert done.returncode == 4
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    for part in ("128×1024", "13013", "slower", "gone", "ambiguous", "fp32", "bf16", "it died it died"):
        assert part in done.stdout, part


def test_the_json_says_the_same(cli_here, tmp_path: Path, old: str) -> None:
    one_round = record("compile", length=128, rounds=[[4 * MS]])
    new = new_run(tmp_path, record(ms=20), record("onnx", status="oom", reason="full"), one_round)
    done = cli_here("diff", old, new, "--format", "json")
    assert (done.returncode, done.stderr) == (4, "")
    document = json.loads(done.stdout)
    assert (document["exit_code"], document["regressions"], document["threshold"]) == (4, 2, THRESHOLD)
    assert document["counts"] == dict.fromkeys(VERDICTS, 0) | {"slower": 1, "gone": 1, "ambiguous": 1}
    assert [run["path"] for run in document["runs"]] == [old, new]
    cells = {cell["backend"]: cell for cell in document["cells"]}
    assert cells["eager"]["verdict"] == "slower"
    assert cells["eager"]["time_ratio"] == pytest.approx(2, rel=0.01)
    assert cells["eager"]["time_ratio_low"] <= cells["eager"]["time_ratio"] <= cells["eager"]["time_ratio_high"]
    assert (cells["onnx"]["reason"], cells["onnx"]["is_regression"], cells["onnx"]["time_ratio"]) == (
        "oom: full", True, None,
    )  # fmt: skip
    assert cells["onnx"]["median_ms"] == [pytest.approx(5, rel=0.01), None]
    assert (cells["compile"]["time_ratio_low"], cells["compile"]["rounds"]) == (None, [10, 1])


def test_a_change_of_any_width_is_json(cli_here, tmp_path: Path) -> None:
    names = [write(tmp_path / f"{day}.jsonl", record(rounds=[[1], [10**12 * day]]), day=day) for day in (1, 2)]
    done = cli_here("diff", *names, "--format", "json")
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["cells"][0]["verdict"] == "ambiguous"
    assert document["cells"][0]["time_ratio_high"] is None
    assert ">+999%" in cli_here("diff", *names).stdout


def test_committed_runs_can_be_compared(cli, root: Path) -> None:
    """Schema 1, three and five rounds, and neither conditions nor peaks."""
    folder = root / "artifacts" / "reference"
    one, other = (str(folder / f"epyc2-20261123-{name}.jsonl") for name in ("bert-default-grid", "seed-bert-1"))
    done = cli("diff", one, other, "--format", "json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert (counts["slower"], counts["ambiguous"], counts["new"], counts["gone"]) == (0, 3, 5, 15)
    done = cli("diff", one, str(folder / "epyc2-20261123-seed-gpt.jsonl"))
    assert done.returncode == 2
    assert "differ in model (bert and gpt)" in done.stderr


def test_a_comparison_loads_no_heavy_package(root: Path, tmp_path: Path, old: str) -> None:
    new = new_run(tmp_path, record())
    arguments = ["bench", "diff", str(tmp_path / old), str(tmp_path / new)]
    code = f"import sys; sys.argv = {arguments!r}\nfrom bench.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "1 same" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED []"
