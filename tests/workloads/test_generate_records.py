"""What records of `bench generate` say: figures, rooflines, agreement with eager, reports."""

from __future__ import annotations

from typing import Any

import pytest

from bench.machine.roofline import Peaks
from bench.report import console
from bench.report.page import render
from bench.run.record import Model, Record, Run
from bench.workloads.generate import Batch, Generate
from tests import made


def record(label: str, total_ms: float, tokens: list[int], point: Batch = Batch(2), **more: Any) -> Record:  # noqa: B008
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


def test_prefill_decode_and_rate_are_the_medians_of_what_was_timed() -> None:
    eager, onnx = run_with(record("eager", 500, [1] * 5), record("onnx", 300, [1] * 5)).rows()
    assert (eager["first_token_ms"], eager["ms_per_token"], eager["total_s"]) == (100, 100, 0.5)
    assert eager["tokens_per_second"] == pytest.approx(2 * 5 / 0.5)
    assert onnx["ms_per_token"] == 50
    assert onnx["speedup"] == pytest.approx(5 / 3)
    assert onnx["verdict"] == "faster"
    assert (onnx["cache_bytes"], onnx["peak_bytes"], onnx["key_value_bytes_per_token"]) == (2**20, 2**30, 1000)


def test_tf32_has_no_roofline_and_stands_in_heading_and_command() -> None:
    run = run_with(record("eager", 500, [1] * 5), peaks=SLOW_MEMORY)
    assert run.floor(run.records[0]) is not None
    assert "TF32" not in console.render(run) and "--tf32" not in run.command
    run = run_with(record("eager", 500, [1] * 5), peaks=SLOW_MEMORY, tf32=True)
    assert run.floor(run.records[0]) is None
    assert "2 threads, TF32" in console.render(run)
    assert " --tf32" in run.command


def test_the_roofline_of_a_token_is_weights_and_keys_and_values_over_the_bandwidth() -> None:
    figures = {"way": "no-cache", "tokens": [[1] * 5] * 2, "cache_bytes": 0}
    run = run_with(
        record("eager", 500, [1] * 5), record("eager:no-cache", 900, [1] * 5, figures=figures), peaks=SLOW_MEMORY
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
    beams = run_with(record("eager", 500, [1] * 5), peaks=SLOW_MEMORY, decoding="beam:4")
    assert beams.workload.least_work(beams.records[0]) == (8 * 10, 1_000_000 + 4 * 2 * 12.5 * 1000)


def test_a_token_below_the_roofline_is_implausible_and_wins_nothing() -> None:
    run = run_with(record("eager", 500, [1] * 5), record("onnx", 101, [1] * 5), peaks=SLOW_MEMORY)
    assert [run.is_implausible(one) for one in run.records] == [False, True]
    assert run.ratio(run.records[1]) is None
    text = console.render(run)
    assert "implausible" in text
    assert "fastest" not in text


def test_tokens_are_compared_with_eagers_one_by_one() -> None:
    run = run_with(
        record("eager", 500, [1, 2, 3, 4, 5]),
        record("onnx", 300, [1, 2, 9, 4, 5]),
        record("eager:no-cache", 900, [1, 2, 3, 4, 5]),
    )
    assert [row["tokens_as_eager"] for row in run.rows()] == [5, 2, 5]
    text = " ".join(console.render(run).split())
    assert "2 of 5" in text
    assert "onnx at batch 2: some tokens differ from eager's" in text
    assert "each token is a pass over all tokens before it" not in text  # these records say "cache"
    figures = {"way": "cache", "tokens": [[1] * 5, [7, 7, 7, 7, 8]], "cache_bytes": 0}
    second = run_with(record("eager", 500, [1] * 5), record("onnx", 300, [1] * 5, figures=figures))
    assert second.rows()[1]["tokens_as_eager"] == 4
    assert run_with(record("onnx", 300, [1, 2, 9, 4, 5])).rows()[0]["tokens_as_eager"] is None


def test_the_first_token_that_is_not_the_references_is_a_figure() -> None:
    cases = {"prompt 1": {"diverges_at": None}, "prompt 2": {"diverges_at": 3, "is_near_tie": True}}
    run = run_with(record("eager", 500, [1] * 5, parity={"verdict": "equivalent", "cases": cases}))
    assert run.rows()[0]["diverges_at"] == 4
    assert "diverges at" in console.render(run)
    assert "diverges at" not in console.render(run_with(record("eager", 500, [1] * 5)))


@pytest.mark.parametrize(
    ("verdict", "status", "code"),
    [("equivalent", "ok", 0), ("broken", "ok", 3), ("lossy", "ok", 1), ("", "failed", 1), ("", "oom", 0)],
)
def test_exit_codes(verdict: str, status: str, code: int) -> None:
    other = record("onnx", 300, [1] * 5, status=status, verdict=verdict)
    assert run_with(record("eager", 500, [1] * 5), other).exit_code == code


def test_a_broken_model_gets_no_speed_up() -> None:
    run = run_with(record("eager", 500, [1] * 5), record("onnx", 300, [2] * 5, verdict="broken"))
    assert run.ratio(run.records[1]) is None
    assert run.rows()[1]["speedup"] is None


def test_batches_have_a_page_without_a_map_of_lengths() -> None:
    run = run_with(
        *(
            record(label, ms, [1] * 5, point=Batch(size))
            for size in (2, 4)
            for label, ms in (("eager", 500), ("onnx", 300))
        ),
        batches=[2, 4],
    )
    page = render.page([run])
    assert "onnx is fastest at 2 of 2 batch sizes" in page
    assert "until the first token is there" in page
