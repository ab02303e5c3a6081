"""Runs of `bench generate` in memory and on disk: figures, floors, agreement with eager, damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.generation.plan import Decoding, GenerationPlan
from bench.generation.records import GenerationRecord, GenerationRun, read_generation, record_line
from bench.linesfile import LinesFile
from bench.machine.roofline import Peaks
from bench.report import generation
from bench.spec import Candidate, Grid, Shape, TimingPlan

EAGER, ONNX = Candidate("eager", "default", "fp32"), Candidate("onnx", "default", "fp32")
FULL = Candidate("eager", "no-cache", "fp32")
MS = 1_000_000


def record(who: Candidate, total_ms: float, tokens: list[int], **more: Any) -> GenerationRecord:
    """Five rounds of 5 tokens: 100 ms to the first, the rest spread over the other four."""
    rest = [round((total_ms - 100) * MS / 4)]
    values: dict[str, Any] = {
        "tokens": [tokens, [7] * 5],
        "status": "ok",
        "way": "cache",
        "rounds": [[round(total_ms * MS)]] * 5,
        "first_token_rounds": [[100 * MS]] * 5,
        "decode_rounds": [rest] * 5,
        "parity": {"verdict": "equivalent", "max_abs_error": 1e-6},
        "memory": {"loaded": {}, "peak": {"peak_process_bytes": 2**30}, "cache": 2**20, "key_value_bytes_per_token": 1000},
        "operations": {"flops": 10, "weight_bytes": 1_000_000},
    }  # fmt: skip
    return GenerationRecord(who.backend, who.variant, who.precision, 1, **{"batch": 2, **values, **more})


def made(*records: GenerationRecord, decoding: Decoding = Decoding(), **more: Any) -> GenerationRun:  # noqa: B008
    grid = Grid("gpt2", (EAGER, ONNX, FULL), (Shape(1, 1),), "cpu", 2, "random", "lm")
    run = GenerationRun(
        grid, (2,), GenerationPlan(10, 5, decoding), TimingPlan(rounds=5), {"cpu": "a CPU", "versions": {}},
        "seeded random (seed 0)", "abc", "bench generate", "2026-01-01T00:00:00+00:00", list(records), **more,
    )  # fmt: skip
    run.is_complete = True
    return run


def test_prefill_decode_and_rate_are_the_medians_of_what_was_timed() -> None:
    run = made(record(EAGER, 500, [1] * 5), record(ONNX, 300, [1] * 5))
    eager, onnx = run.rows()
    assert (eager["first_token_ms"], eager["ms_per_token"], eager["total_s"]) == (100, 100, 0.5)
    assert eager["tokens_per_second"] == pytest.approx(2 * 5 / 0.5)
    assert onnx["ms_per_token"] == 50
    assert onnx["speedup"] == pytest.approx(5 / 3)
    assert onnx["verdict"] == "faster"


def test_tf32_has_no_floor_and_stands_in_heading_and_command() -> None:
    run = made(record(EAGER, 500, [1] * 5), peaks=Peaks("cpu", 2, {"fp32": 1e12}, ((1000, 1e9),)))
    assert run.floor(run.records[0]) is not None
    assert "TF32" not in generation.render(run) and "--tf32" not in run.command_of([EAGER], [2])
    run.grid = replace(run.grid, tf32=True)
    assert run.floor(run.records[0]) is None
    assert "2 threads, TF32" in generation.render(run)
    assert run.command_of([EAGER], [2]).endswith(" --tf32")


def test_the_floor_of_a_token_is_weights_and_keys_and_values_over_the_bandwidth() -> None:
    peaks = Peaks("cpu", 2, {"fp32": 1e12}, ((1000, 1e9),))
    run = made(record(EAGER, 500, [1] * 5), record(FULL, 900, [1] * 5, way="no-cache"), peaks=peaks)
    with_cache, without = run.records
    # Two sequences of 10 + 5 / 2 tokens on average, 1,000 bytes each.
    assert run.token_bytes(with_cache) == 1_000_000 + 2 * 12.5 * 1000
    assert run.token_bytes(without) == 1_000_000
    floor = run.floor(with_cache)
    assert floor is not None
    assert floor.ns == pytest.approx(1_025_000)
    assert run.floor_share(with_cache) == pytest.approx(1.025 / 100)
    beams = made(record(EAGER, 500, [1] * 5), decoding=Decoding("beam", 4), peaks=peaks)
    assert beams.token_bytes(beams.records[0]) == 1_000_000 + 4 * 2 * 12.5 * 1000


def test_a_token_below_the_floor_is_implausible_and_wins_nothing() -> None:
    peaks = Peaks("cpu", 2, {"fp32": 1e12}, ((1000, 1e9),))
    run = made(record(EAGER, 500, [1] * 5), record(ONNX, 101, [1] * 5), peaks=peaks)
    assert [run.is_implausible(one) for one in run.records] == [False, True]
    assert run.ratio(run.records[1]) is None
    text = generation.render(run)
    assert "implausible" in text
    assert "fastest" not in text


def test_tokens_are_held_against_eagers_one_by_one() -> None:
    run = made(
        record(EAGER, 500, [1, 2, 3, 4, 5]), record(ONNX, 300, [1, 2, 9, 4, 5]), record(FULL, 900, [1, 2, 3, 4, 5])
    )
    assert [run.tokens_as_eager(one) for one in run.records] == [5, 2, 5]
    text = generation.render(run)
    assert "2 of 5" in text
    assert "behind some prompt it writes other tokens than eager" in text
    assert "each token is a pass over all tokens before it" not in text  # FULL's record says "cache" here
    second = made(record(EAGER, 500, [1] * 5), replace(record(ONNX, 300, [1] * 5), tokens=[[1] * 5, [7, 7, 7, 7, 8]]))
    assert second.tokens_as_eager(second.records[1]) == 4
    alone = made(record(ONNX, 300, [1, 2, 9, 4, 5]))
    assert alone.tokens_as_eager(alone.records[0]) is None


@pytest.mark.parametrize(
    ("verdict", "status", "code"),
    [("equivalent", "ok", 0), ("broken", "ok", 3), ("lossy", "ok", 1), ("", "failed", 1), ("", "oom", 0)],
)
def test_exit_codes(verdict: str, status: str, code: int) -> None:
    parity = {"verdict": verdict} if verdict else {}
    run = made(record(EAGER, 500, [1] * 5), record(ONNX, 300, [1] * 5, status=status, parity=parity))
    assert run.exit_code == code


def test_a_broken_model_gets_no_speed_up() -> None:
    run = made(record(EAGER, 500, [1] * 5), record(ONNX, 300, [2] * 5, parity={"verdict": "broken", "reason": "why"}))
    assert run.ratio(run.records[1]) is None
    assert run.rows()[1]["speedup"] is None


def written(run: GenerationRun, path: Path) -> Path:
    file = LinesFile(path)
    file.create(run.header())
    for one in run.records:
        file.append(record_line(one))
    file.append({"kind": "end", "seconds": 1.0, "parent_cpu_share": 0.01})
    return path


def test_a_run_on_disk_is_the_run_in_memory(tmp_path: Path) -> None:
    run = made(record(EAGER, 500, [1] * 5), record(ONNX, 300, [1] * 5), decoding=Decoding("sample", 1, 5, 0.9))
    again = read_generation(written(run, tmp_path / "run.jsonl"))
    assert (again.records, again.generation, again.plan, again.grid) == (
        run.records,
        run.generation,
        run.plan,
        run.grid,
    )
    assert again.is_complete
    assert again.rows() == run.rows()
    table = generation.render(again)
    assert max(map(len, table.splitlines()[:-1])) <= 80
    assert json.loads(generation.render(again, "json"))["rows"][1]["backend"] == "onnx"
    assert generation.render(again, "csv").splitlines()[0].startswith("model,device,backend")


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "null"}, {"batch": 3}, {"status": "fine"}, {"rounds": []}, {"rounds": [[-1]] * 5},
        {"tokens": [[1.5]]}, {"unmet": ["patience"]}, {"memory": None}, {"operations": {"flops": 1}}, {"sauce": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    path = written(made(record(EAGER, 500, [1] * 5), peaks=None), tmp_path / "run.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1] |= change
    peaks = {"kind": "peaks", "peaks": Peaks("cpu", 2, {"fp32": 1e12}, ((1000, 1e9),)).to_json()}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, peaks]))
    with pytest.raises(UserError, match=r"is damaged \(.*measure again"):
        read_generation(path)


def test_two_records_of_a_cell_are_damage(tmp_path: Path) -> None:
    one = record(EAGER, 500, [1] * 5)
    path = written(made(one, replace(one, tokens=[2] * 5)), tmp_path / "run.jsonl")
    with pytest.raises(UserError, match="two records of eager at batch 2"):
        read_generation(path)
