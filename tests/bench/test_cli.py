"""The command line as a user meets it: exit codes, one-line errors, what is kept when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import UNDECIDED
from bench.run import pairs
from bench.run.file import read_run
from tests.in_process import prepare

QUICK = ["--rounds", "3", "--max-seconds-per-cell", "0.1", "--device", "cpu", "--warmup", "1ms", "--max-warmup", "10ms"]


@pytest.fixture(scope="module")
def compared(root: Path, artifacts: Path, tmp_path_factory: pytest.TempPathFactory):
    """The main job on a tiny model and all four runtimes, once for this module."""
    folder = tmp_path_factory.mktemp("compared")
    arguments = ["--model", "bert-tiny", "--backends", "eager,onnx,torchscript,compile"]
    arguments += ["--batches", "2", "--lengths", "16", "--artifacts", str(artifacts), "--output", "run.jsonl", *QUICK]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "compare", *arguments], capture_output=True, text=True, cwd=folder, timeout=500,
        env=os.environ | {"PYTHONPATH": str(root), "COLUMNS": "80"}, check=False,
    )  # fmt: skip
    return done, read_run(folder / "run.jsonl")


def test_the_main_job_on_all_four_runtimes(compared) -> None:
    done, run = compared
    assert done.returncode in (0, UNDECIDED), done.stderr
    assert [r.candidate.backend for r in run.records] == ["eager", "onnx", "torchscript", "compile"]
    assert {r.status for r in run.records} == {"ok"}
    assert {r.verdict for r in run.records} <= {"original", "exact", "equivalent"}
    for words in ("seeded random (seed 0)", "plan: 4 cells (4 candidates × 1 shape)", "records: run.jsonl"):
        assert words in done.stderr, words
    assert sum(line.startswith("[") and "2×16" in line for line in done.stderr.splitlines()) == len(run.records)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "fastest: " in done.stdout or "undecided: " in done.stdout  # beside other tests


def test_every_record_says_what_really_ran(compared) -> None:
    _, run = compared
    for record in run.records:
        assert set(record.parity["cases"]) == {"timed", "padded"}
        assert record.parity["cases"]["padded"]["compared"] > 0
        assert min(record.once.export_seconds, record.once.load_seconds, record.once.first_call_ns) > 0
        assert record.facts["threads"] == run.options.threads
        assert record.conditions["turns"] == len(record.turns)
    facts = {record.candidate.backend: record.facts for record in run.records}
    assert facts["onnx"]["nodes_per_provider"]["CPUExecutionProvider"] > 20
    for backend, expected in {
        "onnx": {
            "providers": ["CPUExecutionProvider"], "attention_kernels": {"unfused": 2}, "copies_inserted": 0,
        },
        "compile": {"graphs": 1, "recompiles_while_timing": 0, "graph_breaks": 0},
        "eager": {"attention": "sdpa"},
    }.items():  # fmt: skip
        assert {name: facts[backend][name] for name in expected} == expected
    for backend in ("eager", "torchscript", "compile"):
        assert facts[backend]["attention_kernels"] == {"_scaled_dot_product_flash_attention_for_cpu": 2}


def test_every_figure_has_an_interval_a_floor_and_its_memory(compared) -> None:
    _, run = compared
    assert run.peaks is not None
    for record, row in zip(run.records, run.rows(), strict=True):
        assert row["median_low_ms"] <= row["median_ms"] <= row["median_high_ms"]
        if pairs.may_decide(run.baseline(record), record):
            assert row["speedup"] or run.unsteadiness(record)  # a busy machine may withhold it
            assert row["verdict"] in ("faster", "slower", "tie")
            assert row["speedup_low"] <= row["speedup_high"]
        else:
            assert (row["speedup"], row["verdict"]) == (None, None)
        assert row["gflop"] == pytest.approx(2 * (2 * (12 * 64**2) * 2 * 16 + 4 * 16**2 * 64 * 2) / 1e9, rel=0.05)
        if run.peaks.is_disturbed("fp32"):  # other work ran while the peaks were measured
            assert row["roofline_share"] is None
        else:
            assert 0 < row["roofline_share"] < 1
            assert row["implausible"] is False
        assert row["peak_process_bytes"] > row["parameters_bytes"] > 500_000
        assert (row["key_value_bytes_per_sequence"], row["p99_ms"], row["weights"]) == (None, None, "random")
        assert row["rounds"] >= 3


@pytest.mark.usefixtures("in_this_process")
def test_logits_at_the_other_boundary_with_the_naive_timer_a_copy_and_autograd(
    cli_here, artifacts: Path, tmp_path: Path
) -> None:
    prepare(artifacts, "gpt2-tiny", "eager,onnx", (4,), (64,), task="lm")
    options = ["--model", "gpt2-tiny", "--backends", "eager,eager@2,onnx", "--batches", "4", "--lengths", "64"]
    options += ["--task", "lm", "--boundary", "host", "--naive-timer", "--grad", "--output", "run.jsonl"]
    options += ["--artifacts", str(artifacts)]
    done = cli_here("compare", *options, *QUICK)
    assert done.returncode in (0, UNDECIDED), done.stderr
    assert "to export: nothing, all in the store" in done.stderr
    assert "computing" not in done.stderr
    run = read_run(tmp_path / "run.jsonl")
    assert [record.candidate.label for record in run.records] == ["eager", "eager:grad", "eager@2", "onnx"]
    assert {record.verdict for record in run.records} <= {"original", "exact", "equivalent"}
    plain, grad, *_ = run.records
    # A cache of keys and values: 2 · 2 layers · 64 wide · 64 tokens · 4 bytes.
    assert plain.memory["key_value_bytes_per_sequence"] == 65536
    assert min(one.memory["peak"]["peak_process_bytes"] for one in (plain, grad)) > 0
    assert grad.facts["grad"] is True
    assert all(record.rounds_ns("naive") and not record.rounds_ns("device") for record in run.records)
    for words in ("gpt2-tiny (logits)", "host arrays in and out, copies timed", "naive (wrong)", "65,536 bytes"):
        assert words in " ".join(done.stdout.split()), words
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "--boundary host" in run.repeat(run.records[0])
    assert "--naive-timer" in run.repeat(run.records[0])


def test_a_second_run_exports_nothing_and_a_damaged_artifact_is_made_again(cli, artifacts: Path, compared) -> None:
    options = ["--model", "bert-tiny", "--backends", "onnx", "--batches", "2", "--lengths", "16", *QUICK]
    options += ["--artifacts", str(artifacts)]
    again = cli("compare", *options)
    assert "to export: nothing, all in the store" in again.stderr
    assert "exporting" not in again.stderr
    onnx = artifact_of(artifacts, "onnx", "bert-tiny", "fp32")
    weights = onnx / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    verified = cli("artifacts", "verify", "--artifacts", str(artifacts))
    assert verified.returncode == 3
    assert f"{onnx.name}" in verified.stdout
    assert "model.onnx.data fails its checksum" in verified.stdout
    mended = cli("compare", *options)
    assert f"artifact {onnx.name} is damaged (model.onnx.data fails its checksum); it is made again" in mended.stderr
    assert mended.returncode == 0
    listed = cli("artifacts", "verify", "--artifacts", str(artifacts)).stdout.splitlines()  # of other tests too
    assert [line.split()[-1] for line in listed if line.startswith(onnx.name)] == ["sound"]


def artifact_of(artifacts: Path, format: str, model: str, precision: str) -> Path:
    """The stored artifact of the base model `model` in one format and precision."""
    for path in (artifacts / "store").glob(f"{format}-*"):
        recipe = json.loads((path / "artifact.json").read_text())["recipe"]
        if recipe["format"] != format:  # e.g. onnx-attention23
            continue
        weights = artifacts / "store" / f"checkpoint-{recipe['checkpoint']}" / "artifact.json"
        metadata = json.loads(weights.read_text())["metadata"]
        if (metadata["model"], metadata["task"], recipe["precision"]) == (model, "base", precision):
            return path
    raise AssertionError(f"no {format} of {model} in the store")


def test_a_cell_that_cannot_run_says_why_and_its_repeat_command_repeats_it(cli, tmp_path: Path) -> None:
    first = cli(
        "compare", "--model", "bert-tiny", "--backends", "onnx", "--precisions", "bf16", "--output", "a.jsonl", *QUICK
    )
    before = read_run(tmp_path / "a.jsonl")
    record = before.records[0]
    again = cli(*before.repeat(record).split()[1:], "--output", "b.jsonl")
    for done in (first, again):
        assert done.returncode == 1
        assert "cannot run: onnx bf16: onnx has no bf16 on cpu; use --precisions fp32,fp16" in done.stderr
    repeated = read_run(tmp_path / "b.jsonl").records
    assert [(*r.cell, r.status) for r in repeated] == [(*record.cell, "unsupported")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--device", "cuda"], "--device cuda:"), (["--threads", "-1"], "--threads -1"), (["--model", "brt"], "bert")],
)
def test_mistakes_are_one_line_and_leave_nothing(cli_here, tmp_path: Path, arguments: list[str], message: str) -> None:
    if "cuda" in arguments:
        from bench.machine import gpus

        if gpus():
            pytest.skip("this machine has a GPU")
    done = cli_here("compare", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    assert list(tmp_path.rglob("*.jsonl")) == []


@pytest.mark.parametrize("redirection", ["2>/dev/full", ">&-", "2>&-"])
def test_a_stream_that_cannot_be_written_stops_no_measurement(root: Path, tmp_path: Path, redirection: str) -> None:
    options = " ".join(["--model bert-tiny --backends null --batches 1 --lengths 8 --output run.jsonl", *QUICK])
    command = f"{sys.executable} -m bench compare {options} {redirection}"
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "run.jsonl").is_complete
    assert "plan:" not in done.stdout


def test_a_full_standard_output_is_one_line(root: Path, compared) -> None:
    command = f"{sys.executable} -m bench report {compared[1].path} > /dev/full"
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (1, "bench: No space left on device\n")


def start_slow_run(root: Path, folder: Path) -> subprocess.Popen[str]:
    arguments = ["--model", "bert-tiny", "--backends", "null,null:slow", "--batches", "1,2,3,4", "--lengths", "8"]
    arguments += ["--rounds", "3", "--max-seconds-per-cell", "0.3", "--device", "cpu", "--output", "my run.jsonl"]
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "compare", *arguments, "--artifacts", "store"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(root)}, start_new_session=True,
    )  # fmt: skip


def wait_for_records(path: Path, count: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and path.read_text().count('"kind":"record"') >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never had {count} records")


def children_of(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.add(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("ending", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGKILL, -9)],
)
def test_a_stopped_run_keeps_its_records_and_can_go_on(
    cli, root: Path, tmp_path: Path, ending: signal.Signals, code: int
) -> None:
    process = start_slow_run(root, tmp_path)
    path = tmp_path / "my run.jsonl"
    wait_for_records(path, 2)
    workers = children_of(process.pid)
    assert len(workers) == 2
    process.send_signal(ending)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (code, "")
    assert "Traceback" not in said
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    kept = read_run(path).records
    assert 2 <= len(kept) < 8
    if ending != signal.SIGKILL:
        again = f"bench: stopped; {len(kept)} records are kept. Go on with: bench compare --resume 'my run.jsonl'"
        assert said.splitlines()[-1] == f"{again} --artifacts store"
    done = cli("compare", "--resume", "my run.jsonl", "--artifacts", "store")
    assert done.returncode == 0, done.stderr
    assert f"[{len(kept) + 1}/8]" in done.stderr
    run = read_run(path)
    assert run.is_complete
    assert len(run.records) == 8
    assert run.records[: len(kept)] == kept


def test_what_is_there_is_listed(cli_here) -> None:
    assert "bert-tiny" in cli_here("list", "models").stdout
    backends = cli_here("list", "backends").stdout
    assert "compile:max-autotune" in backends
    assert "onnxruntime" in backends
    assert cli_here("list", "devices").stdout.startswith("cpu")


def test_prune_removes_the_least_recently_used_first(cli_here, tmp_path: Path) -> None:
    from exporters.store import ArtifactStore

    store = ArtifactStore(tmp_path / "artifacts")

    def write(folder: Path) -> dict[str, object]:
        (folder / "model").write_bytes(bytes(1000))
        return {}

    made = [store.make({"format": "onnx", "checkpoint": str(number)}, write) for number in range(3)]
    for age, artifact in enumerate(reversed(made)):
        os.utime(artifact.path, (time.time() - age * 100,) * 2)
    (made[2].path / "model").write_bytes(bytes(7))
    with store.in_use(print):
        refused = cli_here("artifacts", "prune")
    assert refused.returncode == 2
    assert "a run is using" in refused.stderr
    done = cli_here("artifacts", "prune", "--keep", "1KB")
    assert "removed " + made[2].path.name + ": model has 7 bytes instead of 1000" in done.stdout
    assert "removed " + made[0].path.name + ": least recently used" in done.stdout
    assert store.paths() == [made[1].path]
    wrong = cli_here("artifacts", "prune", "--keep", "much")
    assert (wrong.returncode, store.paths()) == (2, [made[1].path])
