"""The command line as a user meets it: exit codes, one-line errors, what is kept when it is stopped."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.run.file import read_run
from tests.in_process import prepare

QUICK = ["--rounds", "3", "--max-seconds-per-cell", "0.1", "--device", "cpu"]


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
    assert done.returncode == 0, done.stderr
    assert [r.candidate.backend for r in run.records] == ["eager", "onnx", "torchscript", "compile"]
    assert {r.status for r in run.records} == {"ok"}
    assert {r.verdict for r in run.records} <= {"original", "exact", "equivalent"}
    for record, row in zip(run.records, run.rows(), strict=True):
        assert row["speedup"] or run.unsteadiness(record)  # a busy machine may withhold it


def test_every_record_says_what_really_ran(compared) -> None:
    _, run = compared
    for record in run.records:
        assert set(record.parity["cases"]) == {"timed", "padded"}
        assert record.parity["cases"]["padded"]["compared"] > 0
        assert min(record.once.export_seconds, record.once.load_seconds, record.once.first_call_ns) > 0
        assert record.facts["threads"] == run.options.threads
        assert run.model.weights == "random"
    facts = {record.candidate.backend: record.facts for record in run.records}
    assert facts["onnx"]["providers"] == ["CPUExecutionProvider"]
    assert facts["onnx"]["nodes_per_provider"]["CPUExecutionProvider"] > 20
    assert facts["compile"]["graphs"] == 1
    assert facts["compile"]["recompiles_while_timing"] == 0
    assert facts["compile"]["graph_breaks"] == 0
    assert facts["eager"]["attention"] == "sdpa"
    for backend in ("eager", "torchscript", "compile"):
        assert facts[backend]["attention_kernels"] == {"_scaled_dot_product_flash_attention_for_cpu": 2}
    assert facts["onnx"]["attention_kernels"] == {"unfused": 2}
    assert facts["onnx"]["copies_inserted"] == 0


def test_every_figure_has_an_interval_a_floor_and_its_memory(compared) -> None:
    _, run = compared
    assert run.peaks is not None
    for row in run.rows():
        assert row["median_low_ms"] <= row["median_ms"] <= row["median_high_ms"]
        assert row["verdict"] in ("faster", "slower", "tie")
        assert row["speedup_low"] <= row["speedup_high"]
        assert row["gflop"] == pytest.approx(2 * (2 * (12 * 64**2) * 2 * 16 + 4 * 16**2 * 64 * 2) / 1e9, rel=0.05)
        if run.peaks.is_disturbed("fp32"):  # other work ran while the peaks were measured
            assert row["roofline_share"] is None
        else:
            assert 0 < row["roofline_share"] < 1
            assert row["implausible"] is False
        assert row["peak_process_bytes"] > row["parameters_bytes"] > 500_000
        assert row["key_value_bytes_per_sequence"] is None
        assert row["rounds"] >= 3
        assert row["p99_ms"] is None
    assert all(record.conditions["turns"] == len(record.turns) for record in run.records)


def test_the_other_boundary_the_naive_timer_a_copy_and_autograd(cli, artifacts: Path, tmp_path: Path) -> None:
    prepare(artifacts, "gpt2-tiny", "eager,onnx", (4,), (64,))
    options = ["--model", "gpt2-tiny", "--backends", "eager,eager@2,onnx", "--batches", "4", "--lengths", "64"]
    options += ["--boundary", "host", "--naive-timer", "--grad", "--artifacts", str(artifacts), "--output", "run.jsonl"]
    done = cli("compare", *options, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "to export: nothing, all in the store" in done.stderr
    assert "computing" not in done.stderr
    run = read_run(tmp_path / "run.jsonl")
    assert [record.candidate.label for record in run.records] == ["eager", "eager:grad", "eager@2", "onnx"]
    assert {record.verdict for record in run.records} <= {"original", "exact", "equivalent"}
    plain, grad, *_ = run.records
    # A cache of keys and values: 2 · 2 layers · 64 wide · 64 tokens · 4 bytes.
    assert plain.memory["key_value_bytes_per_sequence"] == 65536
    assert grad.memory["peak"]["peak_process_bytes"] > plain.memory["peak"]["peak_process_bytes"]
    assert grad.facts["grad"] is True
    assert all(record.rounds_ns("naive") and not record.rounds_ns("device") for record in run.records)
    for words in ("host arrays in and out, copies timed", "naive (wrong)", "65,536 bytes"):
        assert words in " ".join(done.stdout.split()), words
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "--boundary host" in run.repeat(run.records[0])
    assert "--naive-timer" in run.repeat(run.records[0])


def test_the_plan_and_the_progress_are_told(compared) -> None:
    done, run = compared
    for words in ("seeded random (seed 0)", "plan: 4 cells (4 candidates × 1 shape)", "records: run.jsonl"):
        assert words in done.stderr, words
    assert sum(line.startswith("[") and "2×16" in line for line in done.stderr.splitlines()) == len(run.records)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "fastest: " in done.stdout


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


@pytest.mark.parametrize("format", ["table", "csv", "json", "markdown"])
def test_a_saved_run_is_printed_again(cli_here, compared, format: str) -> None:
    _, run = compared
    done = cli_here("report", str(run.path), "--format", format)
    assert done.returncode == 0
    assert "torchscript" in done.stdout
    if format == "csv":
        assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == 4
    if format == "json":
        assert json.loads(done.stdout)["exit_code"] == 0


@pytest.mark.slow
def test_logits_of_a_decoder(cli, artifacts: Path) -> None:
    prepare(artifacts, "gpt2-tiny", "eager,onnx", (1,), (16,), task="lm")
    options = [
        "--model",
        "gpt2-tiny",
        "--task",
        "lm",
        "--backends",
        "eager,onnx",
        "--batches",
        "1",
        "--lengths",
        "16",
        *QUICK,
    ]
    done = cli("compare", *options, "--artifacts", str(artifacts), "--output", "lm.jsonl")
    assert done.returncode == 0, done.stderr
    assert "computing" not in done.stderr
    assert "gpt2-tiny (logits)" in done.stdout
    assert done.stdout.count("equivalent") + done.stdout.count("original") >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "brt"], "unknown model 'brt'; did you mean 'bert'"),
        (["--model", "/no/such"], "does not exist"),
        (["--backends", "onx"], "unknown backend 'onx'; did you mean 'onnx'"),
        (["--lengths", "513"], "length 513 exceeds the 512 positions of bert; use --lengths ≤ 512"),
        (["--batches", "0"], "--batches 0 is below 1"),
        (["--precisions", "fp4"], "unknown precision 'fp4'"),
        (["--device", "cuda"], "--device cuda:"),
        (["--weights", "stolen"], "unknown weights 'stolen'"),
        (["--artifacts", "/dev/null/x"], "artifact folder '/dev/null/x' cannot be written"),
        (["--output", "/dev/null/x"], "output file '/dev/null/x' cannot be made"),
        (["--resume", "nothing.jsonl"], "cannot be read"),
        (["--resume", "nothing.jsonl", "--batches", "2"], "--batches cannot be given with --resume"),
        (["--rounds", "0"], "--rounds 0 is not within 1 and 10000"),
        (["--threads", "-1"], "--threads -1"),
        (["--rounds", "many"], "--rounds"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(cli_here, tmp_path: Path, arguments: list[str], message: str) -> None:
    if arguments == ["--device", "cuda"]:
        from bench.machine import gpus

        if gpus():
            pytest.skip("this machine has a GPU")
    done = cli_here("compare", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_an_unknown_report_format_is_a_mistake(cli_here, compared) -> None:
    done = cli_here("report", str(compared[1].path), "--format", "pdf")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown format 'pdf'" in done.stderr


@pytest.mark.parametrize("arguments", [["--frobnicate"], ["--rounds", "abc"], ["bert"]])
def test_wrong_usage_is_one_line(cli, arguments: list[str]) -> None:
    done = cli("compare", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bench: ")
    assert done.stderr.count("\n") == 1


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


def test_prune_leaves_a_store_that_is_in_use_alone(cli, tmp_path: Path) -> None:
    from exporters.store import ArtifactStore

    store = ArtifactStore(tmp_path / "artifacts")
    store.prepare()
    with store.in_use():
        done = cli("artifacts", "prune")
    assert done.returncode == 2
    assert "a run is using" in done.stderr
    assert cli("artifacts", "prune").returncode == 0


def start_slow_run(root: Path, folder: Path) -> subprocess.Popen[str]:
    arguments = ["--model", "bert-tiny", "--backends", "null,null:slow", "--batches", "1,2,3,4", "--lengths", "8"]
    arguments += ["--rounds", "3", "--max-seconds-per-cell", "0.3", "--device", "cpu", "--output", "run.jsonl"]
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "compare", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=folder, env=os.environ | {"PYTHONPATH": str(root)}, start_new_session=True,
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
    wait_for_records(tmp_path / "run.jsonl", 2)
    workers = children_of(process.pid)
    assert len(workers) == 2
    process.send_signal(ending)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    if ending == signal.SIGINT:
        assert "Go on with: bench compare --resume run.jsonl" in said
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    kept = read_run(tmp_path / "run.jsonl").records
    assert 2 <= len(kept) < 8
    done = cli("compare", "--resume", "run.jsonl")
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run.jsonl")
    assert run.is_complete
    assert len(run.records) == 8
    assert run.records[:2] == kept[:2]


def test_quiet_prints_the_result_alone(cli) -> None:
    done = cli(
        "compare", "--model", "bert-tiny", "--backends", "null", "--batches", "1", "--lengths", "8", "--quiet", *QUICK
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "null" in done.stdout


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
    done = cli_here("artifacts", "prune", "--keep", "1KB")
    assert "removed " + made[2].path.name + ": model has 7 bytes instead of 1000" in done.stdout
    assert "removed " + made[0].path.name + ": least recently used" in done.stdout
    assert store.paths() == [made[1].path]
    wrong = cli_here("artifacts", "prune", "--keep", "much")
    assert (wrong.returncode, store.paths()) == (2, [made[1].path])
