"""`bench generate`: every way of every backend on a tiny model, planted faults, the command, and what records say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from bench.machine.roofline import Peaks
from bench.process import generating
from bench.process.generating import ByCache, Prompts
from bench.report import console
from bench.run import preparation
from bench.run.experiment import measure
from bench.run.record import Model, Record, Run
from bench.workloads.generate import Batch, Generate, GenerateOptions
from tests import made
from tests.in_process import here

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers in this process warn about themselves
WAYS = "eager,eager:static,onnx,eager:no-cache"
QUICK: dict[str, Any] = {
    "rounds": 3, "max_seconds_per_cell": "200ms", "warmup": "1ms", "max_warmup": "10ms", "timeout": 120,
    "new_tokens": 12, "prompt_length": 8, "device": "cpu", "threads": 1, "model": "gpt2-tiny",
}  # fmt: skip
#: A machine beside which nothing is implausible, so that no run measures this one, which other tests keep busy.
KNOWN = Peaks("cpu", 1, {"fp32": 1e15}, ((1000, 1e12),))


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    with here(), mock.patch.object(preparation.Preparation, "peaks", lambda self, again=False: KNOWN):
        yield


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
    return generated(tmp_path_factory.mktemp("generate"), WAYS, artifacts=str(artifacts), batches="2")


def test_every_way_writes_eagers_tokens_and_is_the_same_model(run: Run) -> None:
    assert [record.candidate.label for record in run.records] == WAYS.split(",")
    assert [record.figures["way"] for record in run.records] == ["cache"] * 3 + ["no-cache"]
    for record, row in zip(run.records, run.rows(), strict=True):
        assert record.status == "ok", record.reason
        assert record.is_comparable, record.parity
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


def test_the_roofline_rests_on_the_models_weights_and_the_record_says_what_ran(run: Run) -> None:
    """Layers, last normalisation and the tied head, in float32; the table of positions is only gathered from."""
    layers = 2 * (12 * 64**2 + 13 * 64) + 2 * 64
    assert run.records[0].operations["weight_bytes"] == 4 * (layers + 1024 * 64)
    share = run.roofline_share(run.records[0])
    assert share is not None
    assert 0 < share < 1
    onnx = next(record for record in run.records if record.candidate.backend == "onnx")
    assert onnx.facts["nodes_per_provider"]["CPUExecutionProvider"] > 10
    assert onnx.facts["copies_inserted"] == 0


def test_the_report_fits_the_terminal(run: Run) -> None:
    report = console.render(run)
    assert max(len(line) for line in report.splitlines() if not line.startswith("records:")) <= 80
    for words in ("batch 2", "first ms", "12 of 12", "full passes", "each token is a pass over all tokens before it"):
        assert words in flat(report)


def test_a_beam_and_a_sample_are_judged_by_their_logits(artifacts: Path, tmp_path: Path) -> None:
    for decoding, backends in (("beam:3", "eager,onnx"), ("sample", "eager")):
        run = generated(tmp_path, backends, artifacts=str(artifacts), decoding=decoding, new_tokens=6)
        for record, row in zip(run.records, run.rows(), strict=True):
            assert record.is_comparable, record.parity
            assert ("score" if decoding == "beam:3" else "drawn_again") in record.parity
            assert (row["diverges_at"], row["tokens_as_eager"]) == (None, 6)
        # A sample's batch is the reference's own; a beam's is as wide as the beam.
        assert run.records[0].parity["identical_to_eager"] == (decoding == "sample")
        assert run.records[0].verdict == "original"
        assert f"--decoding {decoding}" in run.command
        assert f"--decoding {decoding}" in run.repeat(run.records[0])


def test_a_model_without_a_cache_is_run_by_full_passes_and_says_so(artifacts: Path, tmp_path: Path) -> None:
    run = generated(tmp_path, "eager,eager:static", artifacts=str(artifacts), model="gpt-tiny", new_tokens=4)
    eager, static = (run.record(Batch(1), candidate) for candidate in run.candidates)
    assert eager is not None
    assert static is not None
    assert (eager.status, eager.figures["way"]) == ("ok", "no-cache")
    assert eager.is_comparable
    assert static.status == "unsupported"
    assert "this model keeps no keys and values, so eager:static has none to keep" in static.reason
    assert "each token is a pass over all tokens before it" in flat(console.render(run))


@pytest.mark.slow
def test_exports_without_a_cache_generate_the_same(artifacts: Path, tmp_path: Path) -> None:
    for model, backends in (("gpt2-tiny", "eager,torchscript,onnx:no-cache"), ("gpt-tiny", "eager,torchscript")):
        run = generated(tmp_path, backends, artifacts=str(artifacts), model=model, new_tokens=4, batches="2")
        for record, row in zip(run.records, run.rows(), strict=True):
            assert record.is_comparable, (record.reason, record.parity)
            assert row["tokens_as_eager"] == 4


def test_scripted_backends_are_timed_and_not_judged(tmp_path: Path) -> None:
    run = generated(tmp_path, "null:slow,null", new_tokens=3, batches="1,4")
    assert [(record.status, record.verdict) for record in run.records] == [("ok", "")] * 4
    slow, quick = run.rows()[:2]
    assert slow["ms_per_token"] > 20 > 1
    assert slow["tokens_per_second"] == pytest.approx(3 / slow["total_s"])
    assert slow["speedup"] == 1
    assert quick["verdict"] in ("faster", "same", "undecided")
    assert run.command.startswith("bench generate --model gpt2-tiny --backends null:slow,null ")
    run = generated(tmp_path, "null", new_tokens=1)  # which has no step behind it
    (row,) = run.rows()
    assert (row["ms_per_token"], row["status"]) == (None, "ok")
    for whole, first in zip(run.records[0].rounds, run.records[0].rounds_ns("first_token"), strict=True):
        assert first[0] <= whole[0] < first[0] + 50 * made.MS


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


# What records say.


def recorded(label: str, total_ms: float, tokens: list[int], point: Batch = Batch(2), **more: Any) -> Record:  # noqa: B008
    """Five rounds of 5 tokens: 100 ms to the first, the rest spread over the other four."""
    fields: dict[str, Any] = {
        "times": {"first_token": 100, "decode": (total_ms - 100) / 4},
        "figures": {"way": "cache", "tokens": [tokens, [7] * 5], "cache_bytes": 2**20},
        "memory": {"loaded": {}, "peak": {"peak_process_bytes": 2**30}, "key_value_bytes_per_token": 1000},
        "operations": {"flops": 10, "weight_bytes": 1_000_000},
    }
    return made.record(label, point, ms=[[total_ms]] * 5, **(fields | more))


def run_with(*records: Record, peaks: Peaks | None = None, **options: Any) -> Run:
    model = Model("gpt2", "seeded random (seed 0)", "random", "c0ffee", "lm", 1024)
    given = {"batches": [2], "prompt_length": 10, "new_tokens": 5, "rounds": 5, **options}
    notes = {} if peaks is None else {"peaks": peaks.to_json()}
    return made.run_of(records, Generate, model=model, notes=notes, **given)


SLOW_MEMORY = Peaks("cpu", 2, {"fp32": 1e12}, ((1000, 1e9),))


def test_the_roofline_of_a_token_is_weights_and_keys_and_values_over_the_bandwidth() -> None:
    figures = {"way": "no-cache", "tokens": [[1] * 5] * 2, "cache_bytes": 0}
    run = run_with(
        recorded("eager", 500, [1] * 5), recorded("eager:no-cache", 900, [1] * 5, figures=figures), peaks=SLOW_MEMORY
    )
    with_cache, without = run.records
    # Two sequences of 10 + 5 / 2 tokens on average, 1,000 bytes each.
    assert run.workload.least_work(with_cache) == (2 * 10, 1_000_000 + 2 * 12.5 * 1000)
    assert run.workload.least_work(without) == (2 * 10, 1_000_000)
    floor = run.floor(with_cache)
    assert floor is not None
    assert floor.ns == pytest.approx(1_025_000)
    assert run.rows()[0]["roofline_ms"] == pytest.approx(1.025)
    assert run.roofline_share(with_cache) == pytest.approx(1.025 / 100)
    beams = run_with(recorded("eager", 500, [1] * 5), peaks=SLOW_MEMORY, decoding="beam:4")
    assert beams.workload.least_work(beams.records[0]) == (8 * 10, 1_000_000 + 4 * 2 * 12.5 * 1000)


def test_tokens_are_compared_with_eagers_one_by_one() -> None:
    run = run_with(
        recorded("eager", 500, [1, 2, 3, 4, 5]),
        recorded("onnx", 300, [1, 2, 9, 4, 5]),
        recorded("eager:no-cache", 900, [1, 2, 3, 4, 5]),
    )
    assert [row["tokens_as_eager"] for row in run.rows()] == [5, 2, 5]
    text = " ".join(console.render(run).split())
    assert "2 of 5" in text
    assert "onnx at batch 2: some tokens differ from eager's" in text
    assert "each token is a pass over all tokens before it" not in text  # these records say "cache"
    figures = {"way": "cache", "tokens": [[1] * 5, [7, 7, 7, 7, 8]], "cache_bytes": 0}
    second = run_with(recorded("eager", 500, [1] * 5), recorded("onnx", 300, [1] * 5, figures=figures))
    assert second.rows()[1]["tokens_as_eager"] == 4
    assert run_with(recorded("onnx", 300, [1, 2, 9, 4, 5])).rows()[0]["tokens_as_eager"] is None


def test_the_first_token_that_is_not_the_references_is_a_figure() -> None:
    cases = {"prompt 1": {"diverges_at": None}, "prompt 2": {"diverges_at": 3, "is_near_tie": True}}
    run = run_with(recorded("eager", 500, [1] * 5, parity={"verdict": "equivalent", "cases": cases}))
    assert run.rows()[0]["diverges_at"] == 4
    assert "diverges at" in console.render(run)
    assert "diverges at" not in console.render(run_with(recorded("eager", 500, [1] * 5)))
