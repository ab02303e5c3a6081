"""benchmarks/against_optimum_benchmark.py: its configuration, its reports, the comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.spec import Shape
from benchmarks import against_optimum_benchmark as script
from benchmarks import optimum_runs as runs
from tests import made


def report_of(values: list[float], unit: str = "s") -> dict[str, Any]:
    """The part of a benchmark_report.json of optimum-benchmark 0.6.0 that matters here."""
    latency = {"unit": unit, "values": values}
    return {"load_model": {"latency": {"unit": "s", "values": [0.25], "total": 0.25}}, "forward": {"latency": latency}}


def test_a_report_becomes_samples_in_nanoseconds() -> None:
    measured = runs.parse_report(json.dumps(report_of([0.003, 0.001, 0.002])))
    assert measured.samples_ns == [3_000_000, 1_000_000, 2_000_000]
    assert (measured.median_ms, measured.seconds, measured.load_seconds) == (2.0, pytest.approx(0.006), 0.25)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (report_of([1.0], unit="ms"), "1 latencies in ms"),
        (report_of([]), "0 latencies in s"),
        ({"load_model": {"latency": None}, "forward": {"latency": None}}, "no latencies of forward"),
    ],
)
def test_a_report_of_something_else_is_refused(report: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs.parse_report(json.dumps(report))


def test_its_own_durations_warm_ups_and_launcher_stand_unless_asked() -> None:
    config = runs.config_of("eager", Path("model"), {"use_cache": True}, threads=3)
    assert config["scenario"] == {"input_shapes": {"batch_size": 1, "sequence_length": 1}}
    assert {"launcher": "process"} in config["defaults"]
    eager = {"torch_dtype": "float32", "inter_op_num_threads": 3, "model_kwargs": {"use_cache": False}}
    assert eager.items() <= config["backend"].items()
    asked = runs.config_of("onnx", Path("exported"), {}, threads=3, launcher="inline", iterations=7)
    assert asked["scenario"] | {"iterations": 7, "duration": 0} == asked["scenario"]
    assert {"launcher": "inline"} in asked["defaults"]
    onnx = {"export": False, "session_options": {"intra_op_num_threads": 3}, "device": "cpu"}
    assert onnx.items() <= asked["backend"].items()
    assert "model_kwargs" not in asked["backend"]
    shapes = [Shape(batch, length) for batch in (1, 8) for length in (16, 128)]
    assert runs.overrides_of(shapes)[1] == "scenario.input_shapes.sequence_length=16,128"


@given(samples=st.lists(st.integers(1, 10**9), min_size=1, max_size=50), count=st.integers(1, 12))
def test_blocks_keep_every_sample_in_order(samples: list[int], count: int) -> None:
    found = script.blocks(samples, count)
    assert [sample for block in found for sample in block] == samples
    sizes = [len(block) for block in found]
    assert (len(found), max(sizes) - min(sizes) <= 1) == (min(count, len(samples)), True)


def test_the_shortest_precise_prefix_is_found() -> None:
    steady, drifting = [1_000_000] * 1000, [1_000_000 + 10_000 * index for index in range(1000)]
    assert script.seconds_to_precision(steady, 0.02, 5) == pytest.approx(script.LEAST_CALLS * 1e-3)
    assert script.seconds_to_precision(steady, 0.02, 20) == pytest.approx(20e-3)
    assert script.seconds_to_precision(drifting, 0.02, 5) is None
    first = [*[2_000_000] * 5, *[1_000_000] * 5]
    late, early = (script.seconds_to_precision([*first, *steady], wanted, 5) for wanted in (0.001, 10.0))
    assert early == pytest.approx(sum(first) / 1e9)
    assert early < late


def cell_of(rounds: list[list[float]], theirs: runs.Measured | None, status: str = "ok") -> dict[str, Any]:
    run = made.run_of([made.record("eager", Shape(1, 16), ms=rounds, status=status)])
    return script.compared(run, "eager", Shape(1, 16), theirs)


def test_a_cell_has_both_tools_figures_or_no_ratio() -> None:
    theirs = runs.Measured([4_000_000] * 100, load_seconds=0.5)
    cell = cell_of([[1.0] * 3, [2.0] * 3, [3.0] * 3], theirs)
    assert [cell[f"{tool}_median_ms"] for tool in ("bench", "optimum")] == [2.0, 4.0]
    assert (cell["ratio"], cell["bench_samples"], cell["optimum_samples"]) == (2.0, 9, 100)
    assert cell["bench_precision"] > 0.01 > cell["optimum_precision"]
    assert cell["optimum_seconds_to_precision"] < cell["optimum_seconds"]
    lacking = [cell_of([[1.0], [2.0]], None), cell_of([], theirs, "failed")]
    assert [(one["ratio"], one["optimum_seconds"]) for one in lacking] == [(None, 0), (None, pytest.approx(0.4))]
    assert "eager 1×16 (failed)" in "\n".join(script.table(lacking))
    told = "\n".join(script.wall_lines(WALLS, lacking, ["onnx-0123"], "process", None))
    for words in ("2 of 2 cells lack a figure", "onnx-0123 made then", "beforehand: met", "inside: missed"):
        assert words in told


WALLS = {
    "bench_empty": 60.0, "bench_filled": 20.0, "bench_loads": 4.0, "optimum_exports": 20.0, "optimum_grid": 100.0,
    "optimum_loads": 20.0, "optimum_unneeded": 60.0,
}  # fmt: skip


def test_ratios_say_what_is_inside_both() -> None:
    assert script.ratios(WALLS) == {
        "exports beforehand": pytest.approx(20 / 100),
        "exports inside": pytest.approx(60 / 120),
        "exports and loads left out": pytest.approx(16 / 80),
        "exports beforehand, at bench's precision": pytest.approx(20 / 40),
    }
    assert "exports inside" not in script.ratios(WALLS | {"bench_empty": None})


def test_the_other_environment_is_pinned(root: Path) -> None:
    lines = [(root / name).read_text().splitlines() for name in ("benchmarks/optimum_benchmark.txt", "constraints.txt")]
    theirs, ours = (dict(one.split("==") for one in part if "==" in one and not one.startswith("#")) for part in lines)
    assert set(runs.PACKAGES) <= set(theirs)
    assert theirs["optimum-benchmark"] == runs.VERSION
    assert (theirs["torch"], theirs["onnxruntime"]) == (ours["torch"], ours["onnxruntime"])
