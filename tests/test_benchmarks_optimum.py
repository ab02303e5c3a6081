"""The pure parts of benchmarks/against_optimum_benchmark.py: its configuration, its reports, the comparison."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.spec import Shape
from tests import made

SCRIPT = "against_optimum_benchmark"


def report_of(values: list[float], unit: str = "s") -> dict[str, Any]:
    """The part of a benchmark_report.json of optimum-benchmark 0.6.0 that matters here."""
    latency = {"unit": unit, "values": values, "count": len(values), "total": sum(values)}
    load = {"unit": unit, "values": [0.25], "count": 1, "total": 0.25}
    empty = {"memory": None, "latency": load, "throughput": None, "energy": None, "efficiency": None}
    return {"load_model": empty, "first_forward": empty, "forward": empty | {"latency": latency}}


def test_a_report_becomes_samples_in_nanoseconds(script: ModuleType) -> None:
    measured = script.parse_report(json.dumps(report_of([0.003, 0.001, 0.002])))
    assert measured.samples_ns == [3_000_000, 1_000_000, 2_000_000]
    assert measured.median_ms == 2.0
    assert measured.seconds == pytest.approx(0.006)
    assert measured.load_seconds == 0.25


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (report_of([1.0], unit="ms"), "1 latencies in ms"),
        (report_of([]), "0 latencies in s"),
        ({"load_model": {"latency": None}, "forward": {"latency": None}}, "no latencies of forward"),
        ({"prefill": {}}, "no latencies of forward"),
    ],
    ids=["other unit", "no calls", "not tracked", "another task"],
)
def test_a_report_of_something_else_is_refused(script: ModuleType, report: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        script.parse_report(json.dumps(report))


def test_its_own_durations_warm_ups_and_launcher_stand_unless_asked(script: ModuleType) -> None:
    config = script.config_of("eager", Path("model"), {}, threads=2)
    assert config["scenario"] == {"input_shapes": {"batch_size": 1, "sequence_length": 1}}
    assert {"launcher": "process"} in config["defaults"]
    asked = script.config_of("eager", Path("model"), {}, threads=2, launcher="inline", iterations=7)
    assert asked["scenario"] | {"iterations": 7, "duration": 0} == asked["scenario"]
    assert {"launcher": "inline"} in asked["defaults"]


def test_each_backend_gets_the_threads_where_it_heeds_them(script: ModuleType) -> None:
    eager = script.config_of("eager", Path("model"), {}, threads=3)
    onnx = script.config_of("onnx", Path("exported"), {}, threads=3)
    assert {"backend": "pytorch"} in eager["defaults"]
    assert {"backend": "onnxruntime"} in onnx["defaults"]
    assert eager["backend"]["inter_op_num_threads"] == 3
    assert onnx["backend"]["session_options"] == {"intra_op_num_threads": 3}
    assert eager["backend"]["torch_dtype"] == "float32"
    assert onnx["backend"]["export"] is False  # exported beforehand, and timed on its own
    for config in (eager, onnx):
        assert config["backend"]["task"] == "feature-extraction"
        assert config["backend"]["device"] == "cpu"


def test_a_cache_is_turned_off_where_the_model_has_one(script: ModuleType) -> None:
    has_one = script.config_of("eager", Path("model"), {"use_cache": True}, threads=1)
    has_none = script.config_of("eager", Path("model"), {}, threads=1)
    assert has_one["backend"]["model_kwargs"] == {"use_cache": False}
    assert "model_kwargs" not in has_none["backend"]


def test_the_sweep_holds_every_shape_once(script: ModuleType) -> None:
    shapes = [Shape(batch, length) for batch in (1, 8) for length in (16, 128)]
    assert script.overrides_of(shapes) == [
        "scenario.input_shapes.batch_size=1,8",
        "scenario.input_shapes.sequence_length=16,128",
    ]


@given(samples=st.lists(st.integers(1, 10**9), min_size=1, max_size=50), count=st.integers(1, 12))
def test_blocks_keep_every_sample_in_order(script: ModuleType, samples: list[int], count: int) -> None:
    found = script.blocks(samples, count)
    assert [sample for block in found for sample in block] == samples
    sizes = [len(block) for block in found]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == min(count, len(samples))


def test_steady_samples_are_precise_at_the_floor_of_calls(script: ModuleType) -> None:
    samples = [1_000_000] * 1000
    assert script.seconds_to_precision(samples, 0.02, 5) == pytest.approx(script.LEAST_CALLS * 1e-3)
    assert script.seconds_to_precision(samples, 0.02, 20) == pytest.approx(20e-3)


def test_samples_that_drift_are_never_precise(script: ModuleType) -> None:
    samples = [1_000_000 + 10_000 * index for index in range(1000)]
    assert script.seconds_to_precision(samples, 0.02, 5) is None


def test_a_wider_interval_is_reached_earlier(script: ModuleType) -> None:
    first = [*[2_000_000] * 5, *[1_000_000] * 5]
    samples = [*first, *[1_000_000] * 990]
    late, early = (script.seconds_to_precision(samples, wanted, 5) for wanted in (0.001, 10.0))
    assert early == pytest.approx(sum(first) / 1e9)
    assert early < late < sum(samples) / 1e9


def run_of(rounds: list[list[int]], status: str = "ok") -> Any:
    """As much of a run as the comparison reads: one cell, eager at 1×16."""
    milliseconds = [[sample / 1e6 for sample in round_] for round_ in rounds]
    return made.run_of([made.record("eager", Shape(1, 16), ms=milliseconds, status=status)])


def test_a_cell_says_how_many_samples_each_took_and_the_ratio_of_the_medians(script: ModuleType) -> None:
    theirs = script.Measured([4_000_000] * 100, load_seconds=0.5)
    cell = script.compared(run_of([[1_000_000] * 3, [2_000_000] * 3, [3_000_000] * 3]), "eager", Shape(1, 16), theirs)
    assert (cell.bench_median_ms, cell.optimum_median_ms, cell.ratio) == (2.0, 4.0, 2.0)
    assert (cell.bench_samples, cell.optimum_samples) == (9, 100)
    assert cell.optimum_precision == pytest.approx(0)
    assert cell.bench_precision > 0
    assert cell.optimum_seconds_to_precision < cell.optimum_seconds == pytest.approx(0.4)


def test_a_cell_that_either_lacks_has_no_ratio(script: ModuleType) -> None:
    measured = script.Measured([4_000_000] * 100, load_seconds=0.5)
    without_theirs = script.compared(run_of([[1_000_000], [2_000_000]]), "eager", Shape(1, 16), None)
    without_ours = script.compared(run_of([], status="failed"), "eager", Shape(1, 16), measured)
    assert without_theirs.ratio is None
    assert without_theirs.optimum_seconds == 0
    assert without_ours.ratio is None
    assert without_ours.optimum_median_ms == 4.0
    text = "\n".join(script.table([without_theirs, without_ours]))
    assert "eager 1×16 (failed)" in text
    told = "\n".join(script.wall_lines(walls_of(script), [without_theirs, without_ours], [], "process", None))
    assert "2 of 2 cells lack a figure" in told


def walls_of(script: ModuleType, **changes: Any) -> Any:
    """Wall times with round ratios."""
    values = {"bench_empty": 60.0, "bench_filled": 20.0, "bench_loads": 4.0, "optimum_exports": 20.0}
    values |= {"optimum_grid": 100.0, "optimum_loads": 20.0, "optimum_unneeded": 60.0}
    return script.Walls(**(values | changes))


def test_ratios_say_what_is_inside_both(script: ModuleType) -> None:
    assert walls_of(script).ratios() == {
        "exports beforehand": pytest.approx(20 / 100),
        "exports inside": pytest.approx(60 / 120),
        "exports and loads left out": pytest.approx(16 / 80),
        "exports beforehand, at bench's precision": pytest.approx(20 / 40),
    }
    assert "exports inside" not in walls_of(script, bench_empty=None).ratios()


def test_a_missed_goal_and_an_unfilled_store_are_told(script: ModuleType) -> None:
    text = "\n".join(script.wall_lines(walls_of(script), [], ["onnx-0123"], "process", None))
    assert "exports beforehand: met" in text
    assert "exports inside: missed" in text
    assert "onnx-0123 made then" in text


def test_the_other_environment_is_pinned(script: ModuleType, root: Path) -> None:
    pins = {}
    for name in ("benchmarks/optimum_benchmark.txt", "constraints.txt"):
        lines = (root / name).read_text().splitlines()
        pins[name] = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    theirs, ours = pins.values()
    assert set(script.PACKAGES) <= set(theirs)
    assert theirs["optimum-benchmark"] == script.VERSION
    assert theirs["torch"] == ours["torch"]
    assert theirs["onnxruntime"] == ours["onnxruntime"]
