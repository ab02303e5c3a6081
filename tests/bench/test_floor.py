"""The floor, and the seed's hand-made rows judged by it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine.roofline import (
    TOLERANCE,
    Floor,
    floor_ns,
    is_implausible,
    share,
    transformer_flops,
)

counts = st.floats(min_value=0, max_value=1e18)
rates = st.floats(min_value=1e3, max_value=1e16)
times = st.floats(min_value=1, max_value=1e15)


@pytest.fixture(scope="module")
def published_rows(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_rows", root / "benchmarks" / "published_rows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(published_rows: ModuleType) -> dict:
    judged = published_rows.judge(json.loads(published_rows.DATA.read_text()))
    return {(row.model, row.batch, row.length): row for row in judged}


def test_the_longer_of_the_two_times_is_the_floor() -> None:
    assert floor_ns(2e9, 1e6, 1e12, 1e9) == Floor(2e6, "compute")
    assert floor_ns(2e9, 8e6, 1e12, 1e9) == Floor(8e6, "memory")
    assert floor_ns(0, 0, 1, 1).ns == 0


def test_the_share_is_one_at_the_floor_and_above_it_below_the_floor() -> None:
    floor = floor_ns(2e9, 1e6, 1e12, 1e9)
    assert share(floor, 2e6) == 1
    assert share(floor, 4e6) == 0.5
    assert not is_implausible(floor, 2e6)
    assert not is_implausible(floor, 2e6 / (1 + TOLERANCE["compute"]) * 1.001)
    assert is_implausible(floor, 2e6 / (1 + TOLERANCE["compute"]) * 0.999)


def test_a_floor_that_memory_sets_is_less_certain() -> None:
    floor = floor_ns(0, 1e6, 1e12, 1e9)
    assert TOLERANCE["memory"] > TOLERANCE["compute"]
    assert not is_implausible(floor, floor.ns / (1 + TOLERANCE["memory"]) * 1.001)
    assert is_implausible(floor, floor.ns / (1 + TOLERANCE["memory"]) * 0.999)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_raises(rate: float) -> None:
    with pytest.raises(ValueError, match=r"peak_flops_per_second .* is not a positive number"):
        floor_ns(1, 1, rate, 1)
    with pytest.raises(ValueError, match=r"bytes_per_second .* is not a positive number"):
        floor_ns(1, 1, 1, rate)


def test_counts_and_times_that_are_none_raise() -> None:
    for flops, weight_bytes in ((-1, 0), (0, -1), (float("nan"), 0)):
        with pytest.raises(ValueError, match="is not a count"):
            floor_ns(flops, weight_bytes, 1, 1)
    for median_ns in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="is not a positive time"):
            share(Floor(1, "compute"), median_ns)


@given(counts, counts, rates, rates)
def test_the_floor_is_never_below_either_limit_and_is_one_of_them(
    flops: float, weight_bytes: float, peak: float, bandwidth: float
) -> None:
    floor = floor_ns(flops, weight_bytes, peak, bandwidth)
    limits = {"compute": flops / peak * 1e9, "memory": weight_bytes / bandwidth * 1e9}
    assert floor.ns == max(limits.values()) == limits[floor.bound]


@given(counts, counts, rates, rates, times, st.floats(min_value=1, max_value=1e3))
def test_faster_machines_and_longer_times_never_make_a_cell_implausible(
    flops: float, weight_bytes: float, peak: float, bandwidth: float, median_ns: float, factor: float
) -> None:
    floor = floor_ns(flops, weight_bytes, peak, bandwidth)
    if not is_implausible(floor, median_ns):
        assert not is_implausible(floor, median_ns * factor)
        faster = floor_ns(flops, weight_bytes, peak * factor, bandwidth * factor)
        assert faster.ns <= floor.ns
        assert faster.bound != floor.bound or not is_implausible(faster, median_ns)


@given(st.integers(1, 10**9), st.integers(1, 100), st.integers(1, 10**4), st.integers(1, 1000), st.integers(1, 4096))
def test_operations_grow_with_the_batch_and_more_than_with_the_length(
    weights: int, layers: int, width: int, batch: int, length: int
) -> None:
    one = transformer_flops(weights, layers, width, 1, length)
    assert transformer_flops(weights, layers, width, batch, length) == batch * one
    assert transformer_flops(weights, layers, width, 1, 2 * length) > 2 * one


def test_the_impossible_rows_of_the_seed_are_implausible_and_no_others(rows: dict) -> None:
    implausible = {key: round(100 * row.peak_share) for key, row in rows.items() if row.verdict == "implausible"}
    assert implausible == {("bert", 16, 512): 173, ("bert", 32, 512): 299, ("gpt", 32, 512): 294}
    assert sum(row.verdict == "possible" for row in rows.values()) == 12


@pytest.mark.parametrize(
    ("key", "gflop", "tflops_per_second"),
    [
        (("bert", 1, 512), "96.8", "9.1"),
        (("bert", 16, 512), "1548", "61"),
        (("bert", 32, 512), "3096", "107"),
        (("gpt", 32, 512), "3096", "105"),
    ],
)
def test_operations_and_rates_of_the_seed(rows: dict, key: tuple, gflop: str, tflops_per_second: str) -> None:
    decimals, decimals_of_rate = gflop.count("."), tflops_per_second.count(".")
    assert f"{rows[key].flops / 1e9:.{decimals}f}" == gflop
    assert f"{rows[key].flops_per_second / 1e12:.{decimals_of_rate}f}" == tflops_per_second


def test_the_rows_of_gpt2_medium(rows: dict) -> None:
    timed = [row for key, row in rows.items() if key[0] == "gpt2-medium" and row.median_ms]
    gflop = [row.flops / 1e9 for row in timed]
    rates = [row.flops_per_second / 1e12 for row in timed]
    assert len(timed) == 7
    assert (round(min(gflop)), round(max(gflop))) == (335, 2889)
    assert (round(min(rates), 1), round(max(rates), 1)) == (9.6, 13.5)


def test_honest_bert_at_32_times_512_is_possible(rows: dict) -> None:
    """The seed puts it near 230 ms on that card; the floor is 87 ms."""
    floor = rows["bert", 32, 512].floor
    assert floor.bound == "compute"
    assert floor.ns / 1e6 == pytest.approx(87, abs=0.5)
    assert not is_implausible(floor, 230e6)


def test_a_single_token_is_bound_by_the_weights(rows: dict) -> None:
    for model in ("bert", "gpt"):
        assert rows[model, 1, 1].floor.bound == "memory"
        assert rows[model, 1, 1].floor.ns / 1e6 == pytest.approx(4 * 85.05e6 / 936e6, rel=1e-3)


def test_rows_without_times_stay_as_they_are(rows: dict) -> None:
    without = {key: row.verdict for key, row in rows.items() if row.median_ms is None}
    assert without == {
        ("bert", 64, 512): "out of memory", ("gpt", 64, 512): "out of memory", ("gpt", 128, 512): "out of memory",
        ("gpt2-medium", 16, 512): "failed", ("gpt2-medium", 8, 1024): "failed",
    }  # fmt: skip


def script(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "benchmarks" / "published_rows.py"), *arguments]
    environment = {"PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, encoding="utf-8")


def test_the_script_prints_every_row(root: Path, rows: dict) -> None:
    done = script(root)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(rows) + 3
    assert "35.6 TFLOP/s, 936 GB/s" in lines[0]
    impossible = [line.split() for line in lines if line.endswith("implausible")]
    assert [words[:6] for words in impossible] == [
        ["bert", "16×512", "1548.2", "25.20", "61.4", "173%"],
        ["bert", "32×512", "3096.4", "29.05", "106.6", "299%"],
        ["gpt", "32×512", "3096.3", "29.54", "104.8", "294%"],
    ]
    assert lines[-1] == "3 of 15 timed rows lie below their roofline"


def test_the_script_takes_a_file_and_says_in_one_line_that_one_is_none(root: Path, tmp_path: Path) -> None:
    data = json.loads((root / "bench" / "workloads" / "presets" / "figures" / "rtx3090.json").read_text())
    data["rows"] = [{"model": "gpt", "batch": 1, "length": 8, "status": "ok", "ms": [1e-3]}]
    own = tmp_path / "own.json"
    own.write_text(json.dumps(data))
    assert script(root, str(own)).stdout.splitlines()[-1] == "1 of 1 timed rows lie below their roofline"
    del data["card"]
    own.write_text(json.dumps(data))
    done = script(root, str(own))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "write it as rtx3090.json is written" in done.stderr
