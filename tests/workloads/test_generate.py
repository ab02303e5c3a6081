"""`bench generate`: every way of every backend on a tiny model, planted faults, resumed runs, and the command."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.machine.roofline import Peaks
from bench.process import channel, generating
from bench.process.generating import ByCache, Prompts
from bench.report import console
from bench.run import driver, preparation
from bench.run.experiment import measure, resume
from bench.run.file import read_run
from bench.run.record import Run
from bench.workloads.generate import Batch, Generate, GenerateOptions
from tests import made
from tests.in_process import InThisProcess

WAYS = "eager,eager:static,onnx,eager:no-cache"
QUICK: dict[str, Any] = {
    "rounds": 2, "max_seconds_per_cell": "200ms", "warmup": "1ms", "max_warmup": "10ms", "timeout": 120,
    "new_tokens": 12, "prompt_length": 8, "device": "cpu", "threads": 1, "model": "gpt2-tiny",
}  # fmt: skip
#: A machine beside which nothing is implausible, so that no run measures this one, which other tests keep busy.
KNOWN = Peaks("cpu", 1, {"fp32": 1e15}, ((1000, 1e12),))


@pytest.fixture(scope="module", autouse=True)
def _known_peaks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation.peaks, "measure", lambda *args, **options: KNOWN)
        patch.setattr(driver, "REST_SECONDS", 0.0)
        yield


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "Worker", InThisProcess)


def generated(folder: Path, backends: str, **options: Any) -> Run:
    given = {**QUICK, "backends": backends, "artifacts": str(folder / "artifacts"), **options}
    path = folder / "-".join([*map(str, options.values()), "run.jsonl"]).replace("/", "")[-100:]
    path.unlink(missing_ok=True)
    return measure(Generate, GenerateOptions.parsed({**given, "output": str(path)}))


def flat(text: str) -> str:
    return " ".join(text.split())


# Whole runs.


@pytest.fixture(scope="module")
def run(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns about itself
        patch.setattr(channel, "Worker", InThisProcess)
        return generated(tmp_path_factory.mktemp("generate"), WAYS, artifacts=str(artifacts), batches="2")


def test_every_way_writes_eagers_tokens_and_is_the_same_model(run: Run) -> None:
    assert [record.candidate.label for record in run.records] == WAYS.split(",")
    assert [record.figures["way"] for record in run.records] == ["cache"] * 3 + ["no-cache"]
    for record, row in zip(run.records, run.rows(), strict=True):
        assert record.status == "ok", record.reason
        assert record.verdict in ("original", "exact", "equivalent"), record.parity
        assert sorted(record.parity["cases"]) == ["prompt 1", "prompt 2"]
        assert record.parity["steps"] == len(record.figures["tokens"][0]) == 12
        assert (row["tokens_as_eager"], row["diverges_at"]) == (12, None)
        assert {len(record.rounds_ns(kind)) for kind in ("wall", "first_token", "decode")} == {len(record.turns)}
        assert len({turn.outputs for turn in record.turns}) == 1
        assert record.rounds[0][0] > record.rounds_ns("first_token")[0][0] > 0
    assert run.exit_code == 0


def test_the_cache_holds_what_the_formula_says(run: Run) -> None:
    """2 · layers · width · bytes an element and token, of two sequences; the last token is never passed over."""
    token = 2 * 2 * 64 * 4
    grown, static, onnx, without = [record.figures["cache_bytes"] for record in run.records]
    assert grown == onnx == 2 * token * (8 + 12 - 1)
    assert static == 2 * token * (8 + 12)
    assert without == 0
    assert run.records[0].memory["key_value_bytes_per_token"] == token


def test_the_roofline_rests_on_the_models_weights(run: Run) -> None:
    """Layers, last normalisation and the tied head, in float32; the table of positions is only gathered from."""
    layers = 2 * (12 * 64**2 + 13 * 64) + 2 * 64
    assert run.records[0].operations["weight_bytes"] == 4 * (layers + 1024 * 64)
    share = run.roofline_share(run.records[0])
    assert share is not None
    assert 0 < share < 1


def test_what_ran_is_in_the_record(run: Run) -> None:
    onnx = next(record for record in run.records if record.candidate.backend == "onnx")
    assert onnx.facts["nodes_per_provider"]["CPUExecutionProvider"] > 10
    assert onnx.facts["copies_inserted"] == 0


def test_the_file_is_the_run_and_its_report_fits_the_terminal(run: Run) -> None:
    assert run.path is not None
    again = read_run(run.path)
    assert (again.records, again.options, again.is_complete) == (run.records, run.options, True)
    report = console.render(again)
    assert max(len(line) for line in report.splitlines() if not line.startswith("records:")) <= 80
    for words in ("batch 2", "first ms", "12 of 12", "full passes", "each token is a pass over all tokens before it"):
        assert words in flat(report)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("in_this_process")
def test_a_beam_and_a_sample_are_judged_by_their_logits(artifacts: Path, tmp_path: Path) -> None:
    for decoding, backends in (("beam:3", "eager,onnx"), ("sample", "eager")):
        run = generated(tmp_path, backends, artifacts=str(artifacts), decoding=decoding, new_tokens=6)
        for record, row in zip(run.records, run.rows(), strict=True):
            assert record.verdict in ("original", "exact", "equivalent"), record.parity
            assert ("score" if decoding == "beam:3" else "drawn_again") in record.parity
            assert (row["diverges_at"], row["tokens_as_eager"]) == (None, 6)
        # A sample's batch is the reference's own; a beam's is as wide as the beam.
        assert run.records[0].verdict == ("original" if decoding == "sample" else "equivalent")
        assert f"--decoding {decoding}" in run.command
        assert f"--decoding {decoding}" in run.repeat(run.records[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("in_this_process")
def test_a_model_without_a_cache_is_run_by_full_passes_and_says_so(artifacts: Path, tmp_path: Path) -> None:
    run = generated(tmp_path, "eager,eager:static", artifacts=str(artifacts), model="gpt-tiny", new_tokens=4)
    eager, static = (run.record(Batch(1), candidate) for candidate in run.candidates)
    assert eager is not None
    assert static is not None
    assert (eager.status, eager.figures["way"]) == ("ok", "no-cache")
    assert eager.verdict in ("original", "exact", "equivalent")
    assert static.status == "unsupported"
    assert "this model keeps no keys and values, so eager:static has none to keep" in static.reason
    assert "each token is a pass over all tokens before it" in flat(console.render(run))


@pytest.mark.slow
def test_exports_without_a_cache_generate_the_same(artifacts: Path, tmp_path: Path) -> None:
    for model, backends in (("gpt2-tiny", "eager,torchscript,onnx:no-cache"), ("gpt-tiny", "eager,torchscript")):
        run = generated(tmp_path, backends, artifacts=str(artifacts), model=model, new_tokens=4, batches="2")
        for record, row in zip(run.records, run.rows(), strict=True):
            assert record.verdict in ("original", "exact", "equivalent"), (record.reason, record.parity)
            assert row["tokens_as_eager"] == 4


@pytest.mark.usefixtures("in_this_process")
def test_scripted_backends_are_timed_and_not_judged(tmp_path: Path) -> None:
    run = generated(tmp_path, "null:slow,null", new_tokens=3, batches="1,4")
    assert [(record.status, record.verdict) for record in run.records] == [("ok", "")] * 4
    slow, quick = run.rows()[:2]
    assert slow["ms_per_token"] > 20 > 1
    assert slow["tokens_per_second"] == pytest.approx(3 / slow["total_s"])
    assert slow["speedup"] == 1
    assert quick["verdict"] in ("faster", "tie")
    assert run.command.startswith("bench generate --model gpt2-tiny --backends null:slow,null ")


@pytest.mark.usefixtures("in_this_process")
def test_one_token_has_no_step_behind_it(tmp_path: Path) -> None:
    run = generated(tmp_path, "null", new_tokens=1)
    (row,) = run.rows()
    assert (row["ms_per_token"], row["status"]) == (None, "ok")
    for whole, first in zip(run.records[0].rounds, run.records[0].rounds_ns("first_token"), strict=True):
        assert first[0] <= whole[0] < first[0] + 50 * made.MS


def test_a_backend_that_fails_costs_its_batch(tmp_path: Path) -> None:
    run = generated(tmp_path, "null,null:crash,null:oom", new_tokens=3, batches="1,4,8")
    found = {(record.candidate.label, record.point.batch): record.status for record in run.records}
    assert [found["null", batch] for batch in (1, 4, 8)] == ["ok"] * 3
    assert [found["null:crash", batch] for batch in (1, 4, 8)] == ["ok", "failed", "failed"]
    assert [found["null:oom", batch] for batch in (1, 4, 8)] == ["ok", "oom", "skipped"]
    assert run.exit_code == 1
    assert "a smaller cell, batch 4, ran out of memory" in flat(console.render(run))


def test_a_killed_run_goes_on_from_the_turns_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    given = {
        **QUICK, "backends": "null,null:slow", "batches": "1,2", "new_tokens": 4, "rounds": 6,
        "max_seconds_per_cell": "60s", "target_precision": "90%", "artifacts": str(tmp_path), "output": str(path),
    }  # fmt: skip
    code = (
        "from bench.run.experiment import measure\nfrom bench.workloads.generate import Generate\n"
        f"measure(Generate, Generate.Options.parsed({given!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2])
    end = time.monotonic() + 120
    while time.monotonic() < end and (not path.exists() or path.read_text().count('"kind":"turn"') < 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cut = read_run(path)
    assert (cut.integrity, cut.is_complete) == ("cut", False)
    before = {cell: list(turns) for cell, turns in cut.turns.items()}
    assert before
    found = resume(path, artifacts=tmp_path)
    assert (found.is_complete, len(found.records)) == (True, 4)
    for record in found.records:
        kept = before.get(record.cell, [])
        assert list(record.turns)[: len(kept)] == kept
        assert (record.status, len(record.turns) >= 6, len(record.figures["tokens"][0])) == ("ok", True, 4)


# Planted faults.


def _beams_that_do_not_move(self: ByCache, rows: torch.Tensor) -> None:
    """The cache keeps the order of a step before."""


def _mixed_up_rows(self: ByCache, ids: torch.Tensor) -> torch.Tensor:
    found, self.cache = self.generator.step(ids, self._mask(ids), self.cache)
    return found.flip(0)


def _forgotten_prompt(self: ByCache, ids: torch.Tensor) -> torch.Tensor:
    """Every step is told that nothing stands before it but the last three tokens."""
    mask = self._mask(ids).clone()
    mask[:, : max(0, self.seen - 3)] = 0
    found, self.cache = self.generator.step(ids, mask, self.cache)
    return found


def _another_seed(self: Prompts, seeds: Any = itertools.count(1)) -> Any:  # noqa: B008 - goes on from call to call
    return generating.chooser(self.decoding, next(seeds), self.device)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("home", "name", "wrong", "options", "words"),
    [
        (ByCache, "logits", _mixed_up_rows, {"batches": "2"}, "RMSE"),
        (ByCache, "logits", _forgotten_prompt, {}, "RMSE"),
        (ByCache, "reorder", _beams_that_do_not_move, {"decoding": "beam:3"}, "not kept in the beams' order"),
        (Prompts, "chooser", _another_seed, {"decoding": "sample"}, "the same seed drew only"),
    ],
    ids=["rows", "prompt", "beams", "seed"],
)
def test_a_planted_fault_is_broken(
    home: type, name: str, wrong: Any, options: dict[str, Any], words: str, artifacts: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """References are made by other code, so that they are right."""
    monkeypatch.setattr(home, name, wrong)
    run = generated(tmp_path, "eager", artifacts=str(artifacts), **options)
    (record,) = run.records
    assert record.verdict == "broken", record.parity
    assert words in record.parity["reason"]
    assert run.exit_code == 3


# Mistakes.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "bert-tiny"}, "bert-tiny is no decoder, so it generates nothing; use e.g. --model gpt2"),
        ({"backends": "eager:statik"}, "eager has no variant 'statik'; did you mean 'static'"),
        ({"backends": "eager:sdpa"}, "eager:sdpa is not made for this command; of eager it takes default, "),
        ({"new_tokens": 200}, "exceed the 128 positions of gpt2-tiny; use --new-tokens ≤ 112"),
        ({"new_tokens": 0}, "--new-tokens 0 is not within 1 and"),
        ({"prompt_length": 0}, "--prompt-length 0 is not within 1 and"),
        ({"decoding": "beam:0"}, "0 is not within 2 and 64 beams"),
        ({"decoding": "greddy"}, "unknown decoding 'greddy'; use greedy, sample or beam:4"),
        ({"top_k": 0}, "--top-k 0 is not within 1 and"),
        ({"temperature": 0}, "--temperature 0 is not above 0"),
        ({"temperature": float("nan")}, "--temperature 'nan' is not a number"),
        ({"batches": "0"}, "--batches 0 is below 1"),
        ({"task": "lm"}, "unknown option 'task'"),
    ],
)
def test_mistakes_end_before_anything_starts(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = {"model": "gpt2-tiny", "artifacts": str(tmp_path / "artifacts"), "device": "cpu", **options}
    with pytest.raises(UserError) as refused:
        measure(Generate, GenerateOptions.parsed(given))
    assert words in str(refused.value)
    assert not (tmp_path / "artifacts").exists()


# The command.


def test_the_command_prints_writes_and_reports(cli_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "Worker", InThisProcess)
    monkeypatch.chdir(tmp_path)
    words = ["--model", "gpt2-tiny", "--backends", "null,null:slow", "--new-tokens", "2", "--rounds", "1", "--device",
             "cpu", "--max-seconds-per-cell", "100ms", "--warmup", "1ms", "--max-warmup", "2ms", "--output", "run.jsonl"]  # fmt: skip
    done = cli_here("generate", *words, "--batch", "1,2")
    assert done.returncode == 0, done.stderr
    assert "first ms" in done.stdout
    assert "bench: --batch is now --batches" in done.stderr
    again = cli_here("report", "run.jsonl", "--format", "json")
    rows = json.loads(again.stdout)["rows"]
    assert [(row["variant"], row["batch"]) for row in rows] == [
        ("default", 1), ("slow", 1), ("default", 2), ("slow", 2),
    ]  # fmt: skip
    taken = cli_here("generate", *words)
    assert taken.returncode == 2
    assert taken.stderr.splitlines()[-1].startswith("bench: output file 'run.jsonl' exists; go on with --resume")
    resumed = cli_here("generate", "--resume", "run.jsonl", "--json")
    assert (resumed.returncode, len(json.loads(resumed.stdout)["rows"])) == (0, 4)
